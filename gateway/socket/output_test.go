package socket

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSendOrder(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		ls := start(t, Config{Loops: 1})
		p, c := connect(t, ls, server, newProbe(nil))
		shared := AppendFrame(nil, OpText, []byte("sha"), []byte("red"))
		before := string(shared)
		long := strings.Repeat("l", 100<<10)
		var want []string
		for turn := range 20 {
			own := fmt.Sprint("own ", turn)
			onLoop(t, c.Loop(), func() {
				c.SendFramed(shared)
				c.Send(OpText, []byte(own[:2]), nil, []byte(own[2:]))
				if turn%5 == 0 {
					c.Send(OpText, []byte(long))
				}
				c.SendFramed(shared)
			})
			want = append(want, "shared", own)
			if turn%5 == 0 {
				want = append(want, long)
			}
			want = append(want, "shared")
		}
		for _, w := range want {
			p.want(OpText, w)
		}
		if string(shared) != before {
			t.Fatal("shared frame was written to")
		}
	})
}

// Frames staged in one turn are one write; a lone shared frame is not copied.
func TestOneWritePerTurn(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	p, c := connect(t, ls, transports[0].server, newProbe(echo))
	writes := func() (n uint64) {
		onLoop(t, c.Loop(), func() { n = c.loop.count.Writes })
		return n
	}
	n := writes()
	shared := AppendFrame(nil, OpText, nil, []byte("shared"))
	onLoop(t, c.Loop(), func() {
		c.SendFramed(shared)
		if &c.out[0] != &shared[0] || c.held != heldShared {
			t.Error("frame was copied")
		}
		c.Send(OpText, []byte("2"))
		c.SendFramed(shared)
		c.loop.runTask(func() { c.Send(OpText, []byte("4")) })
	})
	for _, w := range []string{"shared", "2", "shared", "4"} {
		p.want(OpText, w)
	}
	if got := writes() - n; got != 1 {
		t.Errorf("%d writes for one turn", got)
	}
	n = writes()
	p.write(repeat(text("burst"), 50))
	for range 50 {
		p.want(OpText, "burst")
	}
	if got := writes() - n; got != 1 {
		t.Errorf("%d writes for the answers to one burst", got)
	}
}

// A turn that stages more than the queue may hold is no sign of a slow peer.
func TestLongTurn(t *testing.T) {
	ls := start(t, Config{Loops: 1, MaxQueueBytes: 10 << 10})
	p, c := connect(t, ls, transports[0].server, newProbe(nil))
	message := strings.Repeat("x", 1000)
	onLoop(t, c.Loop(), func() {
		for range 60 {
			c.Send(OpText, []byte(message))
			if c.queued() > 10<<10 {
				t.Errorf("%d bytes queued", c.queued())
			}
		}
	})
	for range 60 {
		p.want(OpText, message)
	}
}

// A turn that touches very many connections does not hold a buffer for each.
func TestStagedMemory(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	body := []byte(strings.Repeat("x", 60<<10))
	var peers []*peer
	var conns []*Conn
	for range 40 {
		p, c := connect(t, ls, transports[0].server, newProbe(nil))
		peers, conns = append(peers, p), append(conns, c)
	}
	l := ls.Loop(0)
	onLoop(t, l, func() {
		held := 0
		for _, c := range conns {
			c.Send(OpBinary, body)
		}
		for _, c := range conns {
			if c.held == heldStaged {
				held += cap(c.out)
			}
		}
		if held > maxStaged+2*len(body)+stagingSize {
			t.Errorf("%d bytes in staging buffers", held)
		}
	})
	for _, p := range peers {
		p.want(OpBinary, string(body))
	}
	onLoop(t, l, func() {
		if l.freeBytes > maxFreeBytes || len(l.free) == 0 {
			t.Errorf("%d buffers of %d bytes are kept", len(l.free), l.freeBytes)
		}
	})
}

// slowPair gives a connection whose kernel buffers take little. It is a Unix
// socket: those have no window that opens late after a peer read nothing.
func slowPair(t testing.TB) (client, server *net.UnixConn) {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	client, server = c.(*net.UnixConn), s.(*net.UnixConn)
	client.SetReadBuffer(4 << 10)
	server.SetWriteBuffer(4 << 10)
	return client, server
}

// Frozen Cathy does not delay Bob, is closed with 4008 within her bound, and
// her memory is given back; when she thaws, what she reads is whole frames in
// order, then the close frame.
func TestFrozenPeerDelaysNobody(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		const limit = 64 << 10
		ls := start(t, Config{Loops: 1, MaxQueueBytes: limit, CloseTimeout: time.Hour, WriteTimeout: time.Hour})
		client, accepted := slowPair(t)
		hCathy := newProbe(nil)
		cathy := adopt(t, ls, server(accepted), hCathy)
		bob, cBob := connect(t, ls, server, newProbe(nil))
		l := cathy.Loop()

		sent := 0
		for closing := false; !closing; sent++ {
			body := fmt.Sprintf("%6d%s", sent, strings.Repeat(".", 3000))
			frame := AppendFrame(nil, OpText, nil, []byte(body))
			onLoop(t, l, func() {
				cathy.SendFramed(frame)
				cBob.SendFramed(frame)
				if cathy.queued() > limit {
					t.Errorf("%d bytes queued", cathy.queued())
				}
				closing = cathy.Closing()
			})
			bob.want(OpText, body)
			if sent > 10000 {
				t.Fatal("never slow")
			}
		}
		onLoop(t, l, func() {
			if n := cap(cathy.out); n > 2*4096 {
				t.Errorf("closing connection still holds %d bytes", n)
			}
		})
		cathyPeer := newPeer(t, client)
		for i := 0; ; i++ {
			op, payload := cathyPeer.read()
			if op == opClose {
				if payload != "\x0f\xa8slow" || i == 0 || i >= sent {
					t.Fatalf("close %q after %d of %d messages", payload, i, sent)
				}
				break
			}
			if want := fmt.Sprintf("%6d", i); payload[:6] != want {
				t.Fatalf("message %q, want %q", payload[:6], want)
			}
		}
		cathyPeer.write(closeFrame(CloseSlow, ""))
		hCathy.wantClose(t, CloseError{Code: CloseSlow, Reason: "slow"})
		eventually(t, "counted", func() bool {
			s := ls.Stats()
			return s.Ended[EndSlow] == 1 && s.QueueBytes == 0
		})
	})
}

// Every message that was queued for a slow peer is either read by it in the end, or shown to the witness when it is
// dropped, the newest ones.
func TestWitnessSeesWhatIsDropped(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		ls := start(t, Config{Loops: 1, MaxQueueBytes: 64 << 10, CloseTimeout: time.Hour, WriteTimeout: time.Hour})
		client, accepted := slowPair(t)
		var ends []End
		var dropped []string
		ls.Loop(0).Witness(func(c *Conn, end End, unsent bool) {
			ends = append(ends, end)
			for op, payload := range c.Queued {
				if unsent && op == OpText {
					dropped = append(dropped, string(payload[:6]))
				}
			}
		})
		c := adopt(t, ls, server(accepted), newProbe(nil))
		sent := 0
		for closing := false; !closing; sent++ {
			onLoop(t, c.Loop(), func() {
				c.Send(OpText, fmt.Appendf(nil, "%6d%s", sent, strings.Repeat(".", 3000)))
				closing = c.Closing()
			})
		}
		p, read := newPeer(t, client), 0
		for op, _ := p.read(); op != opClose; op, _ = p.read() {
			read++
		}
		onLoop(t, c.Loop(), func() {
			if len(ends) != 1 || ends[0] != EndSlow || len(dropped) == 0 || read+len(dropped) != sent-1 || dropped[0] != fmt.Sprintf("%6d", read) {
				t.Errorf("ends %v; of %d messages %d were read and dropped are %q", ends, sent-1, read, dropped)
			}
		})
	})
}

// A peer that stops reading and never comes back is gone after CloseTimeout.
func TestFrozenForever(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		ls := start(t, Config{Loops: 1, MaxQueueBytes: 64 << 10, CloseTimeout: 50 * time.Millisecond})
		_, accepted := slowPair(t)
		h := newProbe(nil)
		c := adopt(t, ls, server(accepted), h)
		for closing := false; !closing; {
			onLoop(t, c.Loop(), func() {
				c.Send(OpBinary, make([]byte, 4000))
				closing = c.Closing()
			})
		}
		h.wantClose(t, CloseError{Code: CloseSlow, Reason: "slow"})
		eventually(t, "nothing left", func() bool { return ls.Stats().QueueBytes == 0 && ls.Conns() == 0 })
	})
}

// A full socket that takes nothing is dropped, also below the queue's bound.
func TestWriteTimeout(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		ls := start(t, Config{Loops: 1, MaxQueueBytes: 64 << 20, WriteTimeout: 50 * time.Millisecond})
		_, accepted := slowPair(t)
		h := newProbe(nil)
		c := adopt(t, ls, server(accepted), h)
		onLoop(t, c.Loop(), func() { c.Send(OpBinary, make([]byte, 16<<20)) })
		if err := h.end(t); err != ErrWriteTimeout {
			t.Fatalf("Closed(%v)", err)
		}
		eventually(t, "counted", func() bool {
			s := ls.Stats()
			return s.Ended[EndWriteTimeout] == 1 && s.QueueBytes == 0
		})
	})
}

// Who reads slowly but steadily is not taken for one that reads nothing, though the kernel tells of no room for longer than
// the timeout: it waits until a good part of its buffer is free.
func TestTricklesAreNoWriteTimeout(t *testing.T) {
	ls := start(t, Config{Loops: 1, MaxQueueBytes: 64 << 20, WriteTimeout: time.Hour, IdleTimeout: -1})
	client, accepted := slowPair(t)
	accepted.SetWriteBuffer(128 << 10)
	h := newProbe(nil)
	c := adopt(t, ls, accepted, h)
	left := 0
	onLoop(t, c.Loop(), func() { c.Send(OpBinary, make([]byte, 4<<20)) })
	onLoop(t, c.Loop(), func() { left = c.queued() })
	client.SetDeadline(time.Now().Add(patience))
	for buf := make([]byte, 64<<10); left > 3<<20 && !t.Failed(); {
		if _, err := io.ReadFull(client, buf); err != nil {
			t.Fatal(err)
		}
		onLoop(t, c.Loop(), func() {
			if c.queued() != left {
				t.Error("the kernel told of room; the test tests nothing")
			}
			now := c.loop.now
			c.full = now - time.Hour
			c.expire(now)
			if c.state != stateOpen || c.queued() >= left || c.full != now {
				t.Errorf("state %d, %d bytes queued after %d, full since %v, now %v", c.state, c.queued(), left, c.full, now)
			}
			left = c.queued()
		})
	}
	onLoop(t, c.Loop(), func() { c.expire(c.full + time.Hour) })
	if err := h.end(t); err != ErrWriteTimeout {
		t.Fatalf("Closed(%v)", err)
	}
}

// A queue that waited for the socket goes out when the peer reads, and its
// memory is given back.
func TestQueueDrains(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		ls := start(t, Config{Loops: 1})
		client, accepted := slowPair(t)
		c := adopt(t, ls, server(accepted), newProbe(echo))
		p := newPeer(t, client)
		var want []string
		for i := range 30 {
			body := fmt.Sprintf("%d %s", i, strings.Repeat("q", 25<<10))
			want = append(want, body)
			onLoop(t, c.Loop(), func() { c.Send(OpText, []byte(body)) })
		}
		onLoop(t, c.Loop(), func() {
			if c.queued() == 0 || !c.blocked {
				t.Error("the kernel took everything; the test tests nothing")
			}
		})
		for _, w := range want {
			p.want(OpText, w)
		}
		eventually(t, "empty queue", func() (empty bool) {
			onLoop(t, c.Loop(), func() { empty = c.out == nil && c.held == heldNone && !c.blocked && !c.armed })
			return empty
		})
		eventually(t, "counted", func() bool { return ls.Stats().QueueBytes == 0 })
		p.write(text("alive"))
		p.want(OpText, "alive")
	})
}

// A message that no queue can hold closes, also an empty one.
func TestOversizeSend(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		ls := start(t, Config{Loops: 1, MaxQueueBytes: 1000})
		p, c := connect(t, ls, server, newProbe(nil))
		onLoop(t, c.Loop(), func() {
			c.Send(OpBinary, make([]byte, 996)) // 1000 with its header
			if c.Closing() {
				t.Error("closing at the bound")
			}
		})
		p.want(OpBinary, string(make([]byte, 996)))
		onLoop(t, c.Loop(), func() { c.Send(OpBinary, make([]byte, 997)) })
		p.wantClosed(CloseSlow, "slow")
	})
}

// A message that no queue can hold is sent all the same where there was room made for it, and others behind it have as much
// room as ever; none is made while something waits.
func TestMakeRoom(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		const limit, long = 64 << 10, 4 << 20
		ls := start(t, Config{Loops: 1, MaxQueueBytes: limit, WriteTimeout: time.Hour})
		client, accepted := slowPair(t)
		c := adopt(t, ls, server(accepted), newProbe(nil))
		p := newPeer(t, client)
		message, rest := strings.Repeat("x", long), strings.Repeat("y", limit/2)
		for range 2 {
			onLoop(t, c.Loop(), func() {
				if !c.MakeRoom(long) {
					t.Error("no room in an empty queue")
				}
				c.Send(OpText, []byte(message))
			})
			onLoop(t, c.Loop(), func() {
				if c.MakeRoom(long) {
					t.Error("room behind a long message")
				}
				if !c.MakeRoom(len(rest)) {
					t.Error("no room for what fits")
				}
				c.Send(OpText, []byte(rest))
				if c.Closing() {
					t.Error("closed for a message that fits")
				}
			})
			p.want(OpText, message)
			p.want(OpText, rest)
			eventually(t, "the queue is empty", func() (empty bool) {
				onLoop(t, c.Loop(), func() { empty = c.extra == 0 && c.queued() == 0 })
				return empty
			})
		}
		onLoop(t, c.Loop(), func() {
			c.MakeRoom(long)
			c.Send(OpText, []byte(message))
			for range 2 {
				c.Send(OpText, []byte(rest))
				c.Send(OpText, []byte(rest))
			}
			if !c.Closing() {
				t.Error("not closed with more than the limit behind the long message")
			}
		})
	})
}

// The room that was made for a long message goes with it, though others wait behind it all the time.
func TestRoomGoesWithItsMessage(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		const limit, long = 256 << 10, 1 << 20
		ls := start(t, Config{Loops: 1, MaxQueueBytes: limit, WriteTimeout: time.Hour})
		client, accepted := slowPair(t)
		c := adopt(t, ls, server(accepted), newProbe(nil))
		message, rest := strings.Repeat("x", long), strings.Repeat("y", limit-100)
		onLoop(t, c.Loop(), func() {
			c.MakeRoom(long)
			c.Send(OpText, []byte(message))
		})
		onLoop(t, c.Loop(), func() { c.Send(OpText, []byte(rest)) })
		newPeer(t, client).want(OpText, message)
		eventually(t, "what waits counts", func() (counts bool) {
			onLoop(t, c.Loop(), func() { counts = c.Waiting() > 0 && c.queued() == c.Waiting() })
			return counts
		})
	})
}

// The frame that is begun when the queue overflows is finished, wherever the
// kernel stopped.
func TestOverflowKeepsBegunFrame(t *testing.T) {
	frame := AppendFrame(nil, OpText, nil, []byte(strings.Repeat("x", 300)))
	for _, taken := range []int{0, 1, len(frame) - 1, len(frame), len(frame) + 3} {
		c := parked(newProbe(nil))
		c.loop.cfg.MaxQueueBytes = 3 * len(frame)
		c.blocked, c.armed = true, true
		for range 3 {
			c.SendFramed(frame)
		}
		if taken > 0 {
			c.taken(taken)
		}
		for !c.Closing() {
			c.SendFramed(frame)
		}
		begun := (len(frame) - taken%len(frame)) % len(frame)
		want := string(frame[len(frame)-begun:]) + "\x88\x06\x0f\xa8slow"
		if string(c.out) != want || c.loop.count.QueueBytes != uint64(len(want)) {
			t.Errorf("%d bytes taken: queue %q (%d counted), want %q", taken, c.out, c.loop.count.QueueBytes, want)
		}
	}
}

// A long run of messages is sent whole, though the loop flushes for others in its middle and the peer takes all that is there
// by then; what waits behind it has as much room as ever, and no more.
func TestSendRun(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		const limit, long = 64 << 10, 4 << 20
		ls := start(t, Config{Loops: 1, MaxQueueBytes: limit, WriteTimeout: time.Hour})
		client, accepted := slowPair(t)
		c := adopt(t, ls, server(accepted), newProbe(nil))
		_, other := connect(t, ls, server, newProbe(nil))
		message, rest := strings.Repeat("x", long/4), strings.Repeat("y", limit/2)
		onLoop(t, c.Loop(), func() {
			sent := c.SendRun(long, func() {
				c.Send(OpText, []byte("first"))
				c.Loop().staged = maxStaged
				other.Send(OpText, []byte("flushes"))
				if c.MakeRoom(limit / 2) {
					t.Error("room before the run")
				}
				for range 4 {
					c.Send(OpText, []byte(message))
				}
			})
			if !sent || c.Closing() {
				t.Errorf("sent: %t, closing: %t", sent, c.Closing())
			}
			if c.SendRun(long, func() {}) {
				t.Error("room behind a long run")
			}
			c.Send(OpText, []byte(rest))
			if c.Closing() {
				t.Error("closed for a message that fits")
			}
			c.Send(OpText, []byte(rest))
			if !c.Closing() {
				t.Error("not closed with more than the limit behind the run")
			}
		})
		newPeer(t, client).want(OpText, "first")
	})
}

// A run that fits leaves room beside it only for what fits too.
func TestMessagesBesideARun(t *testing.T) {
	const limit = 64 << 10
	ls := start(t, Config{Loops: 1, MaxQueueBytes: limit, WriteTimeout: time.Hour})
	client, accepted := slowPair(t)
	c := adopt(t, ls, accepted, newProbe(nil))
	defer client.Close()
	onLoop(t, c.Loop(), func() {
		c.SendRun(limit/2, func() {
			if !c.MakeRoom(limit / 4) {
				t.Error("no room for what fits beside the run")
			}
			c.Send(OpText, make([]byte, 1))
			if c.MakeRoom(limit / 2) {
				t.Error("room for what does not")
			}
		})
		if !c.MakeRoom(limit / 2) {
			t.Error("no room after the run")
		}
	})
}
