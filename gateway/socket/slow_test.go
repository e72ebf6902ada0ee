package socket

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fill sends messages of 4000 bytes until n bytes wait, or the connection closes, and returns how many those were.
func fill(t testing.TB, c *Conn, n int) (sent int) {
	t.Helper()
	body := strings.Repeat(".", 4000-6)
	for waits, closing := 0, false; waits < n && !closing; {
		onLoop(t, c.Loop(), func() { c.Send(OpText, fmt.Appendf(nil, "%6d%s", sent, body)) })
		onLoop(t, c.Loop(), func() { waits, closing = c.queued(), c.Closing() }) // what a turn before this one has left
		if sent++; sent > 10_000 {
			t.Fatal("the socket takes everything")
		}
	}
	return sent
}

// A queue that stays over the soft bound closes with 4008, though there is room under the hard one.
func TestSoftBound(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		ls := start(t, Config{Loops: 1, SoftQueueBytes: 32 << 10, SoftQueueTime: 50 * time.Millisecond, CloseTimeout: time.Hour})
		client, accepted := slowPair(t)
		h := newProbe(nil)
		c := adopt(t, ls, server(accepted), h)
		sent := fill(t, c, 64<<10)
		eventually(t, "closing", func() (closing bool) {
			onLoop(t, c.Loop(), func() { closing = c.Closing() })
			return closing
		})
		p, read := newPeer(t, client), 0
		for {
			op, payload := p.read()
			if op == opClose {
				if want := "\x0f\xa8slow: too much has waited for too long"; payload != want {
					t.Fatalf("close %q, want %q", payload, want)
				}
				break
			}
			read++
		}
		if read == 0 || read == sent && server(accepted) == net.Conn(accepted) {
			t.Errorf("read %d of %d messages", read, sent)
		}
		p.write(closeFrame(CloseSlow, ""))
		h.wantClose(t, CloseError{Code: CloseSlow, Reason: "slow: too much has waited for too long"})
		eventually(t, "counted", func() bool { return ls.Stats().Ended[EndSlowLong] == 1 })
	})
}

// The exact sweeps, and what begins the time anew.
func TestSoftBoundTime(t *testing.T) {
	c := parked(newProbe(nil))
	*c.loop.cfg, _ = Config{SoftQueueBytes: 1000, SoftQueueTime: 5 * time.Second}.withDefaults()
	c.loop.tick = time.Second
	queue := func(n int) { c.out, c.held, c.blocked = make([]byte, n), heldOwn, true }
	sweeps := func(n int) (slow bool) {
		for range n {
			slow = c.slowLong()
		}
		return slow
	}
	queue(1000)
	if sweeps(100) {
		t.Error("not over the bound, and slow")
	}
	queue(1001)
	c.HoldBack(5000)
	if sweeps(5) {
		t.Error("slow after 4 s")
	}
	if !sweeps(1) {
		t.Error("not slow after 5 s")
	}
	c.dropQueue()
	queue(1001)
	if sweeps(5) {
		t.Error("the time has not begun anew with an empty queue")
	}
	c.dropQueue()
	c.HoldBack(-4000)
	if c.Waiting() != 1000 {
		t.Errorf("%d bytes wait", c.Waiting())
	}
	if sweeps(10) {
		t.Error("slow for what is held back")
	}
	c.loop.cfg.SoftQueueBytes = 0
	queue(1 << 20)
	if sweeps(100) {
		t.Error("slow without a soft bound")
	}
}

// When all queues together are over the budget, the longest close with 4008, on whatever loop; the others live and get
// everything.
func TestBudgetEvictsTheLongestQueues(t *testing.T) {
	const budget = 1 << 20
	ls := start(t, Config{Loops: 2, MaxQueueBytes: 1 << 20, QueueBudget: budget, WriteTimeout: time.Hour, CloseTimeout: time.Hour})
	type reader struct {
		c      *Conn
		h      *probe
		client net.Conn
		sent   int
	}
	var thin, fat []*reader
	connect := func() *reader {
		client, accepted := slowPair(t)
		h := newProbe(nil)
		return &reader{c: adopt(t, ls, accepted, h), h: h, client: client}
	}
	for range 6 {
		thin, fat = append(thin, connect()), append(fat, connect())
	}
	for _, r := range thin {
		r.sent = fill(t, r.c, 40<<10)
	}
	for i, r := range fat {
		r.sent = fill(t, r.c, (150+10*i)<<10)
	}
	// In all, that is over 1.2 MiB: the last ones to be filled are the longest.
	eventually(t, "under the budget", func() bool { return ls.Stats().QueueBytes <= budget })
	for _, r := range thin {
		onLoop(t, r.c.Loop(), func() {
			if r.c.Closing() {
				t.Error("a thin one was closed")
			}
		})
		p := newPeer(t, r.client)
		for i := range r.sent {
			if op, payload := p.read(); op != OpText || payload[:6] != fmt.Sprintf("%6d", i) {
				t.Fatalf("read %d %.20q, want message %d", op, payload, i)
			}
		}
	}
	var gone atomic.Int64
	var reads sync.WaitGroup
	for _, r := range fat {
		reads.Go(func() {
			p := newPeer(t, r.client)
			for i := range r.sent {
				op, payload, err := p.next()
				if op == opClose && i > 0 && payload == "\x0f\xa8slow: too much waits for all clients together" {
					_, _ = r.client.Write(closeFrame(CloseSlow, ""))
					gone.Add(1)
					return
				}
				if err != nil || op != OpText || payload[:6] != fmt.Sprintf("%6d", i) {
					t.Errorf("read %d %.60q, %v; want message %d", op, payload, err, i)
					return
				}
			}
		})
	}
	reads.Wait()
	if n := gone.Load(); n < 1 || n > 3 {
		t.Errorf("%d closed for an excess of two", n)
	}
	eventually(t, "counted", func() bool { s := ls.Stats(); return int64(s.Ended[EndBudget]) == gone.Load() && s.QueueBytes == 0 })
}

// What is held back is asked for when the peer has taken what was queued, again and again until nothing is left; it
// counts as queued meanwhile.
func TestRelieved(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		ls := start(t, Config{Loops: 1, MaxQueueBytes: 1 << 20})
		client, accepted := slowPair(t)
		const part, parts = 20 << 10, 20
		calls, next := 0, 0
		ls.Loop(0).Relieved(func(c *Conn) {
			calls++
			for range 2 {
				c.HoldBack(-part)
				c.Send(OpText, fmt.Appendf(nil, "part %d%s", next, strings.Repeat(".", part)))
				next++
			}
		})
		c := adopt(t, ls, server(accepted), newProbe(nil))
		sent := fill(t, c, 100<<10)
		onLoop(t, c.Loop(), func() {
			if !c.Behind() {
				t.Error("not behind")
			}
			c.HoldBack(part * parts)
			if !c.Room(100<<10) || c.Waiting() < part*parts+100<<10 {
				t.Errorf("%d bytes wait", c.Waiting())
			}
		})
		p := newPeer(t, client)
		for i := range sent {
			if op, payload := p.read(); op != OpText || payload[:6] != fmt.Sprintf("%6d", i) {
				t.Fatalf("read %d %.20q, want message %d", op, payload, i)
			}
		}
		for i := range parts {
			if op, payload := p.read(); op != OpText || !strings.HasPrefix(payload, fmt.Sprintf("part %d.", i)) {
				t.Fatalf("read %d %.20q, want part %d", op, payload, i)
			}
		}
		eventually(t, "nothing waits", func() bool { return ls.Stats().QueueBytes == 0 })
		onLoop(t, c.Loop(), func() {
			if calls != parts/2 || c.Behind() {
				t.Errorf("%d calls, behind %v", calls, c.Behind())
			}
		})
	})
}

// For a long poll, being behind is to have no request there.
func TestMailboxIsRelievedByAPoll(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	ls.Loop(0).Relieved(func(c *Conn) {
		c.HoldBack(-4)
		c.Send(OpText, []byte("held"))
	})
	b := openBox(t, ls, never, newProbe(nil))
	hold := func() {
		onLoop(t, b.conn.Loop(), func() {
			if !b.conn.Behind() {
				t.Error("not behind")
			}
			b.conn.HoldBack(4)
		})
	}
	hold()
	wantPoll(t, b, "1:held")
	onLoop(t, b.conn.Loop(), func() { b.conn.Send(OpText, []byte("queued")) })
	hold()
	wantPoll(t, b, "1:queued") // what was queued first is an answer
	wantPoll(t, b, "1:held")
}

// No room for what a handler wants to hold closes with 4008, as it does for what is queued.
func TestHoldingTooMuchBack(t *testing.T) {
	ls := start(t, Config{Loops: 1, MaxQueueBytes: 10_000})
	p, c := connect(t, ls, transports[0].server, newProbe(nil))
	onLoop(t, c.Loop(), func() {
		if c.HoldBack(9_000); !c.Room(1_000) {
			t.Error("no room at the bound")
		}
		if c.Room(1_001) || !c.Closing() {
			t.Error("room over the bound")
		}
		c.HoldBack(-9_000)
	})
	p.wantClosed(CloseSlow, "slow")
}
