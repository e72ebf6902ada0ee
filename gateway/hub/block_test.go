package hub

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
	"github.com/ringcast/ringcast/proto/linkpb"
)

// Messages delivered together reach every channel as they do one by one: the same bytes, the same counts.
func TestBlockIsItsMessages(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var sizes []int
	for range 60 {
		sizes = append(sizes, rng.IntN(50))
	}
	sizes = append(sizes, maxBlock-200, maxBlock, 3*maxBlock, 1, 200_000) // 16 join_refs times this is over maxArena
	messages := func() (list []*Message) {
		for i, size := range sizes {
			m := message(uint64(i)+1, `"`+strings.Repeat(string(rune('a'+i%26)), size)+`"`)
			if i%7 == 3 {
				m = NewMessage("room", &linkpb.Message{
					Event: "e", Payload: []byte(fmt.Sprint(i)), Binary: true, Position: &linkpb.Position{Epoch: 1, Offset: uint64(i) + 1},
				})
			}
			list = append(list, m)
		}
		return list
	}
	var heard [2][]string
	var counts [2][2]int
	for way := range 2 {
		r := newRig(t)
		var peers []*peer
		for i := range 24 {
			peers = append(peers, r.connect("room", fmt.Sprint(i%18), codec.Kind(i%codec.NumKinds)))
		}
		heardAll := make(chan string, len(peers))
		for _, p := range peers {
			go func() {
				var sb strings.Builder
				for {
					got := p.read()
					sb.WriteString(got)
					if strings.Contains(got, "the end") {
						break
					}
				}
				heardAll <- sb.String()
			}()
		}
		r.turn(func() {
			run := messages()
			run = append(run, message(uint64(len(run))+1, `"the end"`))
			if way == 0 {
				counts[way][0], counts[way][1] = r.hub.Deliver(r.loop, run...)
				return
			}
			for _, m := range run {
				d, u := r.hub.Deliver(r.loop, m)
				counts[way][0], counts[way][1] = counts[way][0]+d, counts[way][1]+u
			}
		})
		for range peers {
			heard[way] = append(heard[way], <-heardAll)
		}
	}
	if counts[0] != counts[1] {
		t.Errorf("together %v delivered and unfit, one by one %v", counts[0], counts[1])
	}
	together, single := make(map[string]int), make(map[string]int)
	for i := range heard[0] {
		together[heard[0][i]]++
		single[heard[1][i]]++
	}
	for text, n := range single {
		if together[text] != n {
			t.Errorf("%d peers heard %.80q… of %d bytes one by one, %d together", n, text, len(text), together[text])
		}
	}
}

// Messages that the topic has had, or of another epoch, are left out wherever they stand in a run.
func TestBlockLeavesOutWhatIsPast(t *testing.T) {
	r := newRig(t)
	p := r.connect("room", `"1"`, codec.PhoenixV2)
	r.deliver(message(1, `1`), message(2, `2`))
	other := message(9, `9`)
	other.Position.Epoch = 5
	r.turn(func() {
		if d, _ := r.hub.Deliver(r.loop, message(1, `1`), message(2, `2`), other, message(3, `3`), message(3, `3`), message(4, `4`)); d != 2 {
			t.Errorf("%d delivered, want 2", d)
		}
		if d, _ := r.hub.Deliver(r.loop, message(4, `4`)); d != 0 {
			t.Errorf("%d delivered, want none", d)
		}
	})
	for i := 1; i <= 4; i++ {
		p.want(text(fmt.Sprintf(`["1",null,"room","e",%d]`, i)))
	}
}

// A piece that finds no room in a queue is not counted as staged, and what was staged before it is.
func TestStagedWithinABlock(t *testing.T) {
	loops, err := socket.New(socket.Config{Loops: 1, MaxQueueBytes: 64 << 10, IdleTimeout: -1, WriteTimeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(loops.Close)
	r := &rig{t, loops, loops.Loop(0), New()}
	p := r.connect("room", `"1"`, codec.PhoenixV2)
	_ = p.nc.(*net.TCPConn).SetReadBuffer(4 << 10)
	var staged Position
	for offset := uint64(1); r.loops.Conns() > 0 && offset < 1_000_000; offset += 4 {
		var c *Channel
		r.turn(func() {
			for ch := range r.hub.ChannelsOf("room") {
				c = ch
			}
			before := r.hub.Staged(c)
			var run []*Message
			for i := range uint64(4) {
				run = append(run, message(offset+i, `"`+strings.Repeat("x", 3000)+`"`))
			}
			r.hub.staged = Position{}
			r.hub.Deliver(r.loop, run...)
			if c.Conn.Closing() {
				staged = r.hub.staged // as it was asked for when the queue overflowed
				if staged.Offset < before.Offset || staged.Offset >= offset+4 {
					t.Errorf("staged up to %v, after %v", staged, before)
				}
				r.hub.Remove(c)
				offset = 1_000_000
			} else if got := r.hub.Staged(c); got != (Position{1, offset + 3}) {
				t.Errorf("staged up to %v, want offset %d", got, offset+3)
				offset = 1_000_000
			}
		})
	}
	if staged == (Position{}) {
		t.Error("the queue never overflowed: the test shows nothing")
	}
}
