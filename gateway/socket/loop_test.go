package socket

import (
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestConfig(t *testing.T) {
	cfg, err := Config{}.withDefaults()
	if err != nil || cfg.Loops < 1 || cfg.MaxMessageBytes != 64<<10 || cfg.MaxQueueBytes != 1<<20 ||
		cfg.IdleTimeout != 60*time.Second || cfg.MessageTimeout != 30*time.Second || cfg.WriteTimeout != 10*time.Second || cfg.CloseTimeout != 5*time.Second {
		t.Fatalf("defaults %+v, %v", cfg, err)
	}
	if cfg.tick() != time.Second {
		t.Fatalf("tick %v", cfg.tick())
	}
	_, err = New(Config{Loops: -1, MaxMessageBytes: -2, MaxQueueBytes: -3, WriteTimeout: -4, CloseTimeout: -5, MessageTimeout: -6})
	for _, name := range []string{"Loops = -1", "MaxMessageBytes = -2", "MaxQueueBytes = -3", "WriteTimeout = -4ns", "CloseTimeout = -5ns", "MessageTimeout = -6ns"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("New does not complain of %s: %v", name, err)
		}
	}
	if _, err := New(Config{IdleTimeout: -1, Loops: -1}); strings.Contains(err.Error(), "IdleTimeout") {
		t.Errorf("New complains of no idle timeout: %v", err)
	}
}

// Each poster's tasks run in its order, all of them, one at a time.
func TestPostOrder(t *testing.T) {
	const posters, tasks = 8, 5000
	ls := start(t, Config{Loops: 1})
	l := ls.Loop(0)
	var next [posters]int // written on the loop only; -race tells otherwise
	var wg sync.WaitGroup
	for p := range posters {
		wg.Go(func() {
			for i := range tasks {
				l.Post(func() {
					if next[p] != i {
						t.Errorf("poster %d: task %d ran when %d was due", p, i, next[p])
					}
					next[p]++
				})
			}
		})
	}
	wg.Wait()
	onLoop(t, l, func() {
		for p, n := range next {
			if n != tasks {
				t.Errorf("poster %d: %d of %d tasks ran", p, n, tasks)
			}
		}
	})
}

// Posts that come just as the loop falls asleep wake it: each poster waits for
// its task before it posts the next, so a lost wake-up would stop it.
func TestNoLostWake(t *testing.T) {
	ls := start(t, Config{Loops: 1, CloseTimeout: time.Hour, WriteTimeout: time.Hour, IdleTimeout: time.Hour})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			ran := make(chan struct{})
			for range 3000 {
				ls.Loop(0).Post(func() { ran <- struct{}{} })
				<-ran
			}
		})
	}
	wg.Wait()
}

// Post does not wait for a loop that is busy, nor for the loop that calls it.
func TestPostNeverBlocks(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	l := ls.Loop(0)
	release := make(chan struct{})
	l.Post(func() { <-release })
	ran := 0
	for range 10000 {
		l.Post(func() {
			ran++
			l.Post(func() { ran++ })
		})
	}
	close(release)
	eventually(t, "all ran", func() (all bool) {
		onLoop(t, l, func() { all = ran == 20000 })
		return all
	})
}

func TestPanicInTask(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	ls.Loop(0).Post(func() { panic("task") })
	onLoop(t, ls.Loop(0), func() {})
	eventually(t, "counted", func() bool { return ls.Stats().Panics == 1 })
}

func TestSpread(t *testing.T) {
	ls := start(t, Config{Loops: 3})
	if ls.Len() != 3 || ls.Loop(2).Index() != 2 {
		t.Fatalf("Len %d, index %d", ls.Len(), ls.Loop(2).Index())
	}
	n := map[*Loop]int{}
	for range 9 {
		_, c := connect(t, ls, transports[0].server, newProbe(nil))
		n[c.Loop()]++
	}
	for l, k := range n {
		if k != 3 {
			t.Errorf("loop %d has %d connections of 9", l.Index(), k)
		}
	}
	if ls.Conns() != 9 {
		t.Errorf("Conns = %d", ls.Conns())
	}
}

// All of one turn has one number, the next turn another.
func TestTurn(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	l := ls.Loop(0)
	seen := map[uint64]bool{0: true}
	for range 100 {
		onLoop(t, l, func() {
			if seen[l.Turn()] {
				t.Errorf("turn %d again", l.Turn())
			}
			seen[l.Turn()] = true
		})
	}
	release, done := make(chan struct{}), make(chan struct{})
	var first, second, third uint64
	l.Post(func() { <-release })
	l.Post(func() {
		first = l.Turn()
		l.Post(func() { third = l.Turn(); close(done) })
	})
	l.Post(func() { second = l.Turn() })
	close(release)
	<-done
	if third == first || second != first && second != third {
		t.Errorf("turns %d, %d, %d", first, second, third)
	}
}

// Slots are used again, and events find the right connection afterwards.
func TestSlotsReused(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	for range 50 {
		h := newProbe(echo)
		p, c := connect(t, ls, transports[0].server, h)
		q, _ := connect(t, ls, transports[0].server, newProbe(echo))
		p.write(text("p"))
		q.write(text("q"))
		p.want(OpText, "p")
		q.want(OpText, "q")
		p.nc.Close()
		h.end(t)
		onLoop(t, c.Loop(), func() {
			if n := len(c.Loop().slots); n > 60 {
				t.Errorf("%d slots", n)
			}
		})
	}
}

// Close ends everything, whatever state it is in, and leaves nothing behind.
func TestLoopsClose(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	ls, err := New(Config{Loops: 2})
	if err != nil {
		t.Fatal(err)
	}
	var peers []*peer
	var probes []*probe
	for _, tr := range transports {
		for i := range 4 {
			h := newProbe(nil)
			p, c := connect(t, ls, tr.server, h)
			if i == 0 { // full
				onLoop(t, c.Loop(), func() { c.Send(OpBinary, make([]byte, 900<<10)) })
			}
			p.write(clientFrame(0x01, "partial"))
			peers, probes = append(peers, p), append(probes, h)
		}
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(ls.Close)
	}
	wg.Wait()
	for _, h := range probes {
		select {
		case err := <-h.closed:
			if err != ErrClosed {
				t.Errorf("Closed(%v)", err)
			}
		default:
			t.Error("Close returned before Closed was called")
		}
	}
	for _, p := range peers {
		for {
			op, _, err := p.next()
			if err != nil {
				break
			}
			if op == opClose {
				t.Error("close frame")
			}
		}
	}
	if s := ls.Stats(); s.Ended[EndStopped] != 8 || s.Open != 0 || s.QueueBytes != 0 || ls.Conns() != 0 {
		t.Errorf("%+v, %d connections", s, ls.Conns())
	}
	ls.Loop(0).Post(func() { t.Error("task after Close") })
	for _, tr := range transports {
		_, accepted := tcpPair(t)
		if err := ls.Adopt(tr.server(accepted), func(*Conn) Handler { t.Error("opened"); return nil }); err != ErrClosed {
			t.Errorf("Adopt after Close: %v", err)
		}
		accepted.Close()
	}
	ls.Close()
}

// Posts, adoptions and closing meet; -race and goleak judge.
func TestCloseMeetsOthers(t *testing.T) {
	for range 20 {
		ls, err := New(Config{Loops: 2})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 4 {
			_, accepted := tcpPair(t)
			nc := transports[i%2].server(accepted)
			h := newProbe(nil)
			wg.Go(func() {
				defer nc.Close()
				opened := false
				err := ls.Adopt(nc, func(*Conn) Handler { opened = true; return h })
				if opened != (err == nil) {
					t.Errorf("opened %v, but Adopt: %v", opened, err)
				}
				if opened {
					<-h.closed
				}
			})
			wg.Go(func() {
				for range 100 {
					ls.Loop(i % 2).Post(func() {})
				}
			})
		}
		ls.Close()
		wg.Wait()
		if n := ls.Conns(); n != 0 {
			t.Fatalf("%d connections left", n)
		}
	}
}
