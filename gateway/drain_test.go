package gateway

import (
	"testing"
	"testing/synctest"
	"time"
)

// fleeing are sockets that are sent away, and the gateways that take them: these manage so many a second, and are crowded
// while more than so many wait.
type fleeing struct {
	left, waiting, most int
	perSecond           int
	stuck               bool // they take none at all
}

func (f *fleeing) drain(over time.Duration) drain {
	last := time.Now()
	settle := func() {
		if took := time.Since(last); !f.stuck {
			f.waiting = max(0, f.waiting-int(took.Seconds()*float64(f.perSecond)))
		}
		last = time.Now()
	}
	return drain{
		over: over, loops: 2, left: func() int { return f.left },
		close: func(perLoop int) {
			settle()
			n := f.left
			if perLoop >= 0 {
				n = min(n, 2*perLoop)
			}
			f.left -= n
			f.waiting += n
			f.most = max(f.most, f.waiting)
		},
		crowded: func() bool { settle(); return f.waiting > 200 },
	}
}

// The next batch leaves only while those who take the clients have the last ones behind them.
func TestADrainWaitsForThoseWhoTakeTheClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleeing{left: 10_000, perSecond: 500}
		began := time.Now()
		held := f.drain(30 * time.Second).run()
		if took := time.Since(began); took < 15*time.Second || took > 30*time.Second || held < 5*time.Second {
			t.Errorf("took %v, held for %v; they need 20 s", took, held)
		}
		if f.left != 0 || f.most > 400 {
			t.Errorf("%d left; %d waited at once", f.left, f.most)
		}
	})
}

func TestADrainThatNobodyHoldsTakesHalfOfItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleeing{left: 30_000, perSecond: 1_000_000}
		began := time.Now()
		held := f.drain(30 * time.Second).run()
		if took := time.Since(began); held != 0 || took < 14*time.Second || took > 16*time.Second || f.left != 0 {
			t.Errorf("took %v, held for %v, %d left", took, held, f.left)
		}
		f = &fleeing{left: 80, perSecond: 1}
		began = time.Now()
		f.drain(30 * time.Second).run()
		if took := time.Since(began); took > drainStep || f.left != 0 {
			t.Errorf("few clients took %v", took)
		}
	})
}

// Whatever the others say, DRAIN is the end of it.
func TestADrainEndsInItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleeing{left: 10_000, stuck: true}
		began := time.Now()
		f.drain(10 * time.Second).run()
		if took := time.Since(began); took != 10*time.Second || f.left != 0 {
			t.Errorf("took %v, %d left", took, f.left)
		}
		if f.most < 9000 {
			t.Errorf("%d went in the end, want nearly all", f.most)
		}
		began = time.Now()
		f = &fleeing{left: 10_000}
		if f.drain(0).run(); time.Since(began) != 0 || f.left != 0 {
			t.Errorf("without a time: %v, %d left", time.Since(began), f.left)
		}
	})
}
