package rate

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// taken returns how many of n events at once the limit allows.
func taken(m *Meter, l Limit, now time.Duration, n int) (allowed int) {
	for range n {
		if m.Take(l, now) == 0 {
			allowed++
		}
	}
	return allowed
}

func TestABurstAtOnceThenTheRate(t *testing.T) {
	limit := PerSecond(1000, 2000)
	var m Meter
	if n := taken(&m, limit, 0, 5000); n != 2000 {
		t.Fatalf("%d at once, want the burst of 2000", n)
	}
	total := 0
	for now := time.Millisecond; now <= 3*time.Second; now += time.Millisecond {
		total += taken(&m, limit, now, 10)
	}
	if total != 3000 {
		t.Errorf("%d in the 3 s after that, want 3000", total)
	}
	if n := taken(&m, limit, time.Hour, 5000); n != 2000 {
		t.Errorf("%d after an hour of rest, want 2000 again and no more", n)
	}
}

func TestTheWaitIsEnough(t *testing.T) {
	for _, limit := range []Limit{PerSecond(1, 1), PerSecond(3, 2), PerSecond(100, 200), PerSecond(1_000_000, 1)} {
		var m Meter
		now := 7 * time.Second
		for range 1000 {
			wait := m.Take(limit, now)
			if wait == 0 {
				continue
			}
			if early := m; early.Take(limit, now+wait-1) == 0 {
				t.Fatalf("%+v: allowed before the wait of %v is over", limit, wait)
			}
			if now += wait; m.Take(limit, now) != 0 {
				t.Fatalf("%+v: not allowed after the wait of %v", limit, wait)
			}
		}
	}
}

func TestNoLimit(t *testing.T) {
	var m Meter
	limit := PerSecond(0, 5)
	if !limit.Unlimited() || PerSecond(1, 0).Unlimited() {
		t.Error("Unlimited is wrong")
	}
	if n := taken(&m, limit, 0, 100_000); n != 100_000 {
		t.Errorf("%d of 100000 without a limit", n)
	}
}

// What a source does of one kind leaves it less for another; what has no limit is always allowed.
func TestKindsShareAMeter(t *testing.T) {
	joins, publishes := PerSecond(100, 200), PerSecond(1000, 2000)
	var m Meter
	if n := taken(&m, joins, 0, 100); n != 100 {
		t.Fatalf("%d joins at once", n)
	}
	if n := taken(&m, publishes, 0, 5000); n != 1000 {
		t.Errorf("after joins of one second %d publishes at once, want those of the other", n)
	}
	if m.Take(joins, 0) == 0 || m.Take(Limit{}, 0) != 0 {
		t.Error("want a join refused and what has no limit allowed")
	}
}

func TestAClockThatStandsStillGivesNothing(t *testing.T) {
	limit := PerSecond(10, 10)
	var m Meter
	taken(&m, limit, time.Second, 10)
	if n := taken(&m, limit, time.Second/2, 10); n != 0 {
		t.Errorf("a clock that went back gave %d", n)
	}
}

func TestSharedCountsEveryEventOnce(t *testing.T) {
	limit := PerSecond(1000, 5000)
	var s Shared
	var allowed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 2000 {
				if s.Take(limit, time.Second) == 0 {
					allowed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := allowed.Load(); n != 5000 {
		t.Errorf("%d allowed, want 5000", n)
	}
}

func TestStrikesAreSecondsInARow(t *testing.T) {
	for _, tt := range []struct {
		name string
		at   []time.Duration
		want int
	}{
		{"once", []time.Duration{0}, 1},
		{"all in one second", []time.Duration{0, 1, time.Second - 1}, 1},
		{"two seconds", []time.Duration{0, time.Second}, 2},
		{"three seconds, many in each", []time.Duration{0, 1, time.Second, time.Second + 5, 2 * time.Second, 2*time.Second + 1}, 3},
		{"a second of peace ends the row", []time.Duration{0, time.Second, 3 * time.Second}, 1},
		{"much later", []time.Duration{0, time.Second, 100 * time.Hour, 100*time.Hour + time.Second}, 2},
	} {
		var s Strikes
		got := 0
		for _, at := range tt.at {
			got = s.Add(at)
		}
		if got != tt.want {
			t.Errorf("%s: %d strikes, want %d", tt.name, got, tt.want)
		}
	}
}

func TestTakeDoesNotAllocate(t *testing.T) {
	limit := PerSecond(10, 1)
	var m Meter
	if n := testing.AllocsPerRun(100, func() { m.Take(limit, 0) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
