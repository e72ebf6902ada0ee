package socket

import (
	"strings"
	"testing"
	"time"
)

// When messages that are not whole take more together than they may, the largest go: their clients are told, their rest is skipped, and
// what they kept is free at once. The others are heard to their ends.
func TestInputBudgetClosesTheLargest(t *testing.T) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			const most = 4096
			// The share of the one loop is eight of the largest messages.
			ls := start(t, Config{Loops: 1, MaxMessageBytes: most, InputBudget: 1, CloseTimeout: time.Hour})
			received := make(chan int, 16)
			type sender struct {
				peer  *peer
				c     *Conn
				probe *probe
				rest  []byte
			}
			begin := func(frame []byte, n int) *sender {
				s := &sender{probe: newProbe(func(_ *Conn, _ Opcode, data []byte) { received <- len(data) }), rest: frame[n:]}
				s.peer, s.c = connect(t, ls, tr.server, s.probe)
				s.peer.write(frame[:n])
				eventually(t, "the beginning is kept, or too much", func() (there bool) {
					onLoop(t, s.c.Loop(), func() { there = s.c.torn != nil && len(s.c.torn.raw)+len(s.c.torn.message) > n-20 || s.c.Closing() })
					return there
				})
				return s
			}
			var small, large []*sender
			for range 3 {
				small = append(small, begin(binMsg(strings.Repeat("s", most)), 400))
			}
			closed := func() (n int) {
				onLoop(t, ls.Loop(0), func() {
					for _, s := range large {
						if s.c.Closing() {
							n++
						}
					}
				})
				return n
			}
			for closed() == 0 {
				if len(large) > 9 {
					t.Fatal("nobody was closed")
				}
				if len(large)%2 == 0 {
					large = append(large, begin(binMsg(strings.Repeat("x", most)), 4000))
				} else { // two fragments: what is unmasked counts as well
					frames := append(clientFrame(0x02, strings.Repeat("x", 4000)), clientFrame(0x80, strings.Repeat("x", most-4000))...)
					large = append(large, begin(frames, len(frames)-20))
				}
			}
			eventually(t, "there is room again", func() bool { return ls.Stats().InputBytes <= 8*most }) // more may have come after the last round
			gone := closed()
			for _, s := range large {
				s.peer.write(s.rest)
			}
			for _, s := range small {
				s.peer.write(s.rest)
			}
			for range len(small) + len(large) - gone {
				if n := <-received; n != most {
					t.Errorf("a message of %d bytes", n)
				}
			}
			for _, s := range append(small, large...) {
				chosen := false
				onLoop(t, ls.Loop(0), func() { chosen = s.c.end == EndInputBudget })
				if !chosen {
					continue
				}
				op, payload := s.peer.read()
				if code, reason, _, _ := parseClose([]byte(payload)); op != opClose || code != CloseTryAgain || !strings.Contains(reason, " retry_after_ms=") {
					t.Errorf("read %d %q", op, payload)
				}
				s.peer.write(clientFrame(0x88, payload))
				s.probe.end(t)
			}
			eventually(t, "all is counted", func() bool {
				stats := ls.Stats()
				return stats.InputBytes == 0 && stats.Ended[EndInputBudget] == uint64(gone) && stats.Open == uint64(len(small)+len(large)-gone)
			})
			if gone > 4 {
				t.Errorf("%d closed", gone)
			}
		})
	}
}
