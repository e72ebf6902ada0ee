package socket

import (
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"testing"
)

func raw(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b = append(b, p...)
		case []byte:
			b = append(b, p...)
		}
	}
	return b
}

func repeat(b []byte, n int) []byte {
	return []byte(strings.Repeat(string(b), n))
}

const smallLimit = 1000

// Every way to break the protocol has its close code and its own counter, and
// the connection is gone afterwards.
func TestViolations(t *testing.T) {
	over := strings.Repeat("x", smallLimit+1)
	tests := []struct {
		name   string
		input  []byte
		code   int
		reason string
		end    End
	}{
		{"unmasked", raw("\x81\x05hello"), 1002, "unmasked", EndProtocol},
		{"rsv1", clientFrame(0xc1, "x"), 1002, "reserved", EndProtocol},
		{"rsv2", clientFrame(0xa1, "x"), 1002, "reserved", EndProtocol},
		{"rsv3", clientFrame(0x91, "x"), 1002, "reserved", EndProtocol},
		{"opcode 3", clientFrame(0x83, "x"), 1002, "opcode 3", EndProtocol},
		{"opcode 15", clientFrame(0x8f, "x"), 1002, "opcode 15", EndProtocol},
		{"long ping", clientFrame(0x89, strings.Repeat("p", 126)), 1002, "125", EndProtocol},
		{"fragmented ping", clientFrame(0x09, "p"), 1002, "fragmented control", EndProtocol},
		{"fragmented close", clientFrame(0x08, ""), 1002, "fragmented control", EndProtocol},
		{"length with top bit", raw("\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00mask"), 1002, "top bit", EndProtocol},
		{"length of 15-byte frame, all ones", raw("\x82\xff\xff\xff\xff\xff\xff\xff\xff\xffmask\x00"), 1002, "top bit", EndProtocol},
		{"length 5 in 16 bits", raw("\x82\xfe\x00\x05maskhello"), 1002, "shortest", EndProtocol},
		{"length 5 in 64 bits", raw("\x82\xff\x00\x00\x00\x00\x00\x00\x00\x05maskhello"), 1002, "shortest", EndProtocol},
		{"continuation first", clientFrame(0x80, "x"), 1002, "continuation", EndProtocol},
		{"continuation after the end", raw(text("ok"), clientFrame(0x80, "x")), 1002, "continuation", EndProtocol},
		{"message within a message", raw(clientFrame(0x01, "a"), text("b")), 1002, "within", EndProtocol},
		{"close of one byte", clientFrame(0x88, "\x03"), 1002, "one byte", EndProtocol},
		{"close code 1005", clientFrame(0x88, "\x03\xed"), 1002, "1005", EndProtocol},
		{"close code 1006", clientFrame(0x88, "\x03\xee"), 1002, "1006", EndProtocol},
		{"close code 999", clientFrame(0x88, "\x03\xe7"), 1002, "999", EndProtocol},
		{"close code 2999", clientFrame(0x88, "\x0b\xb7"), 1002, "2999", EndProtocol},
		{"close reason", clientFrame(0x88, "\x03\xe8\xc3\x28"), 1007, "reason", EndProtocol},
		{"text not UTF-8", text("a\xffb"), 1007, "UTF-8", EndProtocol},
		{"surrogate", text("\xed\xa0\x80"), 1007, "UTF-8", EndProtocol},
		{"text torn within a rune", text("a\xc3"), 1007, "UTF-8", EndProtocol},
		{"fragments not UTF-8 together", raw(clientFrame(0x01, "a\xc3"), clientFrame(0x80, "b")), 1007, "UTF-8", EndProtocol},
		{"too big", binMsg(over), 1009, "1000 bytes", EndTooBig},
		{"too big, header only", raw("\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xffmask"), 1009, "1000 bytes", EndTooBig},
		{"too big in one-byte fragments", raw(clientFrame(0x02, "x"), repeat(clientFrame(0x00, "x"), smallLimit)), 1009, "1000 bytes", EndTooBig},
		{"endless empty fragments", raw(clientFrame(0x02, ""), repeat(clientFrame(0x00, ""), maxFragments)), 1009, "fragments", EndTooBig},
	}
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				ls := start(t, Config{Loops: 1, MaxMessageBytes: smallLimit})
				h := newProbe(nil)
				p, _ := connect(t, ls, server, h)
				p.write(test.input)
				p.wantClosed(test.code, test.reason)
				p.write(closeFrame(test.code, "")) // ends what still parses
				p.nc.Close()
				if e, ok := h.end(t).(*CloseError); !ok || e.Code != test.code || e.Remote {
					t.Fatalf("Closed(%v), want code %d from here", e, test.code)
				}
				eventually(t, "connection gone", func() bool { return ls.Conns() == 0 && ls.Stats().Open == 0 })
				if s := ls.Stats(); s.Ended[test.end] != 1 {
					t.Fatalf("ends %v, want one %v", s.Ended, test.end)
				}
			})
		}
	})
}

// A peer that broke the framing gets the close frame, then the end of the
// stream; it need not answer.
func TestViolationEndsOurSide(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	h := newProbe(nil)
	p, _ := connect(t, ls, transports[0].server, h)
	p.write(raw("\x81\x05hello", strings.Repeat("more", 1000)))
	p.wantClosed(1002, "unmasked")
	p.wantEOF()
	select {
	case err := <-h.closed:
		t.Fatalf("Closed(%v) before the peer's end", err)
	default:
	}
	p.nc.Close()
	h.wantClose(t, CloseError{Code: 1002, Reason: "unmasked frame"})
}

func TestMessages(t *testing.T) {
	long, limit := strings.Repeat("ab€", 5000), strings.Repeat("m", 64<<10)
	tests := []struct {
		name  string
		input []byte
		op    Opcode
		want  string
	}{
		{"text", text("hello"), OpText, "hello"},
		{"empty text", text(""), OpText, ""},
		{"binary", binMsg("\x00\xff"), OpBinary, "\x00\xff"},
		{"16-bit length", text(long), OpText, long},
		{"at the limit", binMsg(limit), OpBinary, limit},
		{"fragments", raw(clientFrame(0x01, "a"), clientFrame(0x00, ""), clientFrame(0x00, "bc"), clientFrame(0x80, "d")), OpText, "abcd"},
		{"rune over fragments", raw(clientFrame(0x01, "\xe2"), clientFrame(0x00, "\x82"), clientFrame(0x80, "\xac")), OpText, "€"},
		{"limit in two fragments", raw(clientFrame(0x02, limit[1:]), clientFrame(0x80, "m")), OpBinary, limit},
		{"as many fragments as may be", raw(clientFrame(0x02, "x"), repeat(clientFrame(0x00, ""), maxFragments-2), clientFrame(0x80, "y")), OpBinary, "xy"},
		{"pong ignored", raw(clientFrame(0x8a, "?"), text("x")), OpText, "x"},
	}
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		ls := start(t, Config{Loops: 1})
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				h := newProbe(echo)
				p, _ := connect(t, ls, server, h)
				p.write(test.input, text("next"))
				p.want(test.op, test.want)
				p.want(OpText, "next")
				if len(test.input) < 20000 {
					for _, b := range test.input {
						p.write([]byte{b})
					}
					p.want(test.op, test.want)
				}
				p.write(closeFrame(1000, "bye"))
				p.wantClosed(1000, "")
				h.wantClose(t, CloseError{Code: 1000, Reason: "bye", Remote: true})
			})
		}
	})
}

func TestPing(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		ls := start(t, Config{Loops: 1})
		h := newProbe(echo)
		p, _ := connect(t, ls, server, h)
		p.write(raw(clientFrame(0x89, "one"), clientFrame(0x89, ""), clientFrame(0x01, "a"), clientFrame(0x89, "within"), clientFrame(0x80, "b")))
		p.want(opPong, "one")
		p.want(opPong, "")
		p.want(opPong, "within")
		p.want(OpText, "ab")
	})
}

// A writer that is under way keeps no ping from its answer.
func TestPingsWhileAStreamIsWritten(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	client, server := net.Pipe()
	t.Cleanup(func() { client.Close() })
	adopt(t, ls, server, newProbe(nil))
	p := newPeer(t, client)
	for i := range 5 {
		p.write(clientFrame(0x89, fmt.Sprint(i)))
	}
	for i := range 5 {
		p.want(opPong, fmt.Sprint(i))
	}
}

// A peer that pings and never reads fills the kernel's buffers, not ours; the
// last ping is answered when it reads again.
func TestPingFlood(t *testing.T) {
	const limit = 8 << 10
	ls := start(t, Config{Loops: 1, MaxQueueBytes: limit})
	client, accepted := slowPair(t)
	h := newProbe(nil)
	c := adopt(t, ls, accepted, h)
	p := newPeer(t, client)
	flood := repeat(clientFrame(0x89, strings.Repeat("p", 125)), 400)
	for blocked := false; !blocked; {
		p.write(flood)
		onLoop(t, c.Loop(), func() {
			blocked = c.blocked && c.pong != nil
			if c.queued() > limit {
				t.Errorf("queue of %d bytes", c.queued())
			}
		})
	}
	p.write(clientFrame(0x89, "last"))
	for {
		op, payload := p.read()
		if op != opPong {
			t.Fatalf("got frame %d %q", op, payload)
		}
		if payload == "last" {
			break
		}
	}
}

// What is partial is kept only while it is, and grows with what came, not with
// what a header says.
func TestTornMemory(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	received := make(chan int, 1)
	p, c := connect(t, ls, transports[0].server, newProbe(func(_ *Conn, _ Opcode, data []byte) { received <- len(data) }))
	frame := binMsg(strings.Repeat("x", 60000))
	p.write(frame[:20])
	eventually(t, "partial frame kept", func() (kept bool) {
		onLoop(t, c.Loop(), func() { kept = c.torn != nil && len(c.torn.raw) == 20 })
		return kept
	})
	onLoop(t, c.Loop(), func() {
		if cap(c.torn.raw) > 1000 {
			t.Errorf("20 bytes of a frame hold %d", cap(c.torn.raw))
		}
	})
	p.write(frame[20:])
	if n := <-received; n != 60000 {
		t.Fatalf("message of %d bytes", n)
	}
	onLoop(t, c.Loop(), func() {
		if c.torn != nil || c.out != nil {
			t.Errorf("idle connection holds %+v and %d bytes", c.torn, cap(c.out))
		}
	})
}

// An unread header is skipped by its length, up to the largest there is,
// without trouble from the sum.
func TestDiscardHugeFrame(t *testing.T) {
	c := parked(newProbe(nil))
	head := binary.BigEndian.AppendUint64([]byte{0x82, 0xff}, 1<<63-1)
	c.received(append(head, "maskpayload"...))
	if c.state != stateClosing || c.skip != 1<<63-1-7 {
		t.Fatalf("state %d, %d bytes to skip", c.state, c.skip)
	}
}
