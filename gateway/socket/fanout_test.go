package socket

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// discardAll reads everything from the connections until they end; on one
// goroutine if it can, so that benchmarks measure the loop more than the peers.
func discardAll(t testing.TB, conns []net.Conn) {
	poll, err := newPoller()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var fds []int
	for _, nc := range conns {
		fd, err := dupSocket(nc)
		if err != nil {
			wg.Go(func() { io.Copy(io.Discard, nc) })
			continue
		}
		fds = append(fds, fd)
		if err := poll.add(fd, fd); err != nil {
			t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	wg.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, _ := poll.wait(true)
			for i := range n {
				if slot, _, _, _ := poll.event(i); slot != wakeSlot {
					readFD(slot, buf)
				}
			}
			select {
			case <-stop:
				return
			default:
				poll.alarm(time.Now().Add(time.Second))
			}
		}
	})
	t.Cleanup(func() {
		close(stop)
		for _, nc := range conns {
			nc.Close()
		}
		poll.wake()
		wg.Wait()
		for _, fd := range fds {
			poll.remove(fd)
		}
		poll.close()
	})
}

// fanOut gives n connections on one loop whose peers read.
func fanOut(t testing.TB, n int) (*Loops, []*Conn) {
	ls := start(t, Config{Loops: 1})
	var conns []*Conn
	var clients []net.Conn
	for range n {
		client, accepted := tcpPair(t)
		conns = append(conns, adopt(t, ls, accepted, newProbe(echo)))
		clients = append(clients, client)
	}
	discardAll(t, clients)
	return ls, conns
}

// Staging, flushing and parsing allocate nothing in steady state.
func TestNoAllocs(t *testing.T) {
	ls, conns := fanOut(t, 20)
	l := ls.Loop(0)
	frame := AppendFrame(nil, OpText, []byte("prefix"), []byte(strings.Repeat("x", 200)))
	head, body := []byte(`["1",null,`), frame[20:]
	in := raw(text("hello"), clientFrame(0x01, "frag"), clientFrame(0x80, "ment"), text("torn"))
	buf := make([]byte, len(in))
	tests := []struct {
		name string
		f    func(c *Conn)
	}{
		{"SendFramed", func(c *Conn) { c.SendFramed(frame) }},
		{"Send", func(c *Conn) { c.Send(OpText, head, body) }},
		{"SendFramed twice", func(c *Conn) { c.SendFramed(frame); c.SendFramed(frame) }},
		{"receive and answer", func(c *Conn) {
			copy(buf, in)
			c.received(buf[:len(in)-3])
			c.received(buf[len(in)-3:])
		}},
	}
	for _, test := range tests {
		var allocs float64
		onLoop(t, l, func() {
			allocs = testing.AllocsPerRun(50, func() {
				for _, c := range conns {
					test.f(c)
				}
				l.flushDirty()
			})
			for _, c := range conns {
				if c.blocked {
					t.Fatalf("%s: the kernel did not take everything", test.name)
				}
			}
		})
		if allocs > 0 {
			t.Errorf("%s: %v allocations in a turn of %d connections", test.name, allocs, len(conns))
		}
	}
}

// BenchmarkFanOut is one shared frame to 1000 TCP connections: a task, and a
// flush with one write for each.
func BenchmarkFanOut(b *testing.B) {
	for _, kind := range []string{"SendFramed", "Send"} {
		b.Run(kind, func(b *testing.B) {
			const n = 1000
			ls, conns := fanOut(b, n)
			head, body := []byte(`["1",null,`), []byte(strings.Repeat("x", 200))
			frame := AppendFrame(nil, OpText, head, body)
			task := func() {
				for _, c := range conns {
					if kind == "Send" {
						c.Send(OpText, head, body)
					} else {
						c.SendFramed(frame)
					}
				}
			}
			done := make(chan struct{})
			b.ReportAllocs()
			for b.Loop() {
				ls.Loop(0).Post(task)
				ls.Loop(0).Post(func() { done <- struct{}{} })
				<-done
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/delivery")
		})
	}
}

// BenchmarkStage is the same without the writes.
func BenchmarkStage(b *testing.B) {
	c := parked(newProbe(nil))
	head, body := []byte(`["1",null,`), []byte(strings.Repeat("x", 200))
	frame := AppendFrame(nil, OpText, head, body)
	settle := func() {
		c.dropQueue()
		c.dirty, c.loop.dirty, c.loop.staged = false, c.loop.dirty[:0], 0
	}
	b.Run("SendFramed", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c.SendFramed(frame)
			settle()
		}
	})
	b.Run("Send", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c.Send(OpText, head, body)
			settle()
		}
	})
}

func BenchmarkUnmask(b *testing.B) {
	for _, n := range []int{64, 4096} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := make([]byte, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				unmask(p, 0x12345678)
			}
		})
	}
}

// BenchmarkPost wakes a sleeping loop each time.
func BenchmarkPost(b *testing.B) {
	ls := start(b, Config{Loops: 1})
	done := make(chan struct{})
	b.ReportAllocs()
	task := func() { done <- struct{}{} }
	for b.Loop() {
		ls.Loop(0).Post(task)
		<-done
	}
}

// What waits for the socket is the connection's own copy: the frame is the
// sender's again after the turn, the staging buffer the loop's.
func TestRestIsCopied(t *testing.T) {
	frame := AppendFrame(nil, OpText, nil, []byte(strings.Repeat("x", 300)))
	for _, kind := range []string{"SendFramed", "Send"} {
		c := parked(newProbe(nil))
		c.armed = true
		if kind == "Send" {
			c.Send(OpText, frame[4:])
		} else {
			c.SendFramed(frame)
		}
		was := c.out
		c.taken(10)
		if &c.out[0] == &was[10] || string(c.out) != string(frame[10:]) {
			t.Errorf("%s: rest of %d bytes is not a copy", kind, len(c.out))
		}
		if given := len(c.loop.free) == 1; given != (kind == "Send") {
			t.Errorf("%s: %d buffers given back", kind, len(c.loop.free))
		}
	}
}
