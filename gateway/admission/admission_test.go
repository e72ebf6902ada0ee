package admission

import (
	"math"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestLevelsByMemory(t *testing.T) {
	j := judge{memory: 0.8}
	for _, tt := range []struct {
		used float64
		want Level
	}{
		{0.5, Open}, {0.8, Open}, {0.81, NoConnects}, {0.87, NoJoins}, {0.94, NoPublishes}, {1.5, NoPublishes},
	} {
		if got := j.at(tt.used, time.Hour); got != tt.want {
			t.Errorf("%.2f used: %s, want %s", tt.used, got, tt.want)
		}
	}
	if got := new(judge).at(2, time.Hour); got != Open {
		t.Errorf("switched off: %s", got)
	}
}

func TestLevelsByLag(t *testing.T) {
	j := judge{lag: 250 * time.Millisecond}
	for _, tt := range []struct {
		lag  time.Duration
		want Level
	}{
		{250 * time.Millisecond, Open}, {251 * time.Millisecond, NoConnects}, {501 * time.Millisecond, NoJoins},
		{1001 * time.Millisecond, NoPublishes},
	} {
		if got := j.at(2, tt.lag); got != tt.want {
			t.Errorf("lag of %v: %s, want %s", tt.lag, got, tt.want)
		}
	}
}

func TestOneLateTurnIsNoOverload(t *testing.T) {
	j := judge{lag: 250 * time.Millisecond}
	for i, lag := range []time.Duration{0, time.Second, 0, 0, time.Second, time.Second, 0} {
		if got := j.next(0, lag); got != Open {
			t.Fatalf("look %d: %s", i, got)
		}
	}
	j.next(0, 600*time.Millisecond)
	j.next(0, 300*time.Millisecond)
	if got := j.next(0, 700*time.Millisecond); got != NoConnects {
		t.Errorf("three late looks, the best of 300 ms: %s", got)
	}
}

func TestTheLevelComesDownSlowlyAndByAMargin(t *testing.T) {
	j := judge{memory: 0.8}
	if got := j.next(0.95, 0); got != NoPublishes {
		t.Fatalf("at once: %s", got)
	}
	for range 100 { // below the threshold, but not by the margin
		if got := j.next(0.9, 0); got != NoPublishes {
			t.Fatalf("fell to %s without a margin", got)
		}
	}
	levels := map[Level]int{}
	for range 3*calm + 5 {
		levels[j.next(0.5, 0)]++
	}
	if levels[NoPublishes] != calm-1 || levels[NoJoins] != calm || levels[NoConnects] != calm || levels[Open] != 6 {
		t.Errorf("looks at each level on the way down: %v", levels)
	}
	j.next(0.81, 0)
	for i := range 10 * calm { // never calm for long enough
		used := 0.5
		if i%(calm-1) == 0 {
			used = 0.79
		}
		if got := j.next(used, 0); got != NoConnects {
			t.Fatalf("fell to %s though it was not calm", got)
		}
	}
}

func TestAGateRefusesInOrder(t *testing.T) {
	g := New(Config{})
	for level, want := range []struct{ connect, join, publish bool }{
		Open: {}, NoConnects: {connect: true}, NoJoins: {true, true, false}, NoPublishes: {true, true, true},
	} {
		g.level.Store(int32(level))
		c, j, p := g.Connect(), g.Join(0), g.Publish()
		if c.Refused() != want.connect || j.Refused() != want.join || p.Refused() != want.publish {
			t.Errorf("%s: connect %v, join %v, publish %v", Level(level), c, j, p)
		}
		for _, r := range []Refusal{c, j, p} {
			if r.Refused() && (r.Reason != Overloaded || r.Millis() < 1) {
				t.Errorf("%s: %v", Level(level), r)
			}
		}
	}
	s := g.Stats()
	if s.Refused[Connect][Overloaded] != 3 || s.Refused[Join][Overloaded] != 2 || s.Refused[Publish][Overloaded] != 1 {
		t.Errorf("counts %v", s.Refused)
	}
	var none *Gate
	if none.Connect().Refused() || none.Join(0).Refused() || none.Publish().Refused() {
		t.Error("no gate refuses")
	}
}

func TestRatesOfAllClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Config{Connects: 10, Joins: 5})
		count := func(ask func() Refusal) (admitted int) {
			for range 100 {
				switch r := ask(); {
				case !r.Refused():
					admitted++
				case r.Reason != RateLimited:
					t.Errorf("refused: %v", r)
				}
			}
			return admitted
		}
		join := func() Refusal { return g.Join(time.Since(g.start)) }
		if c, j := count(g.Connect), count(join); c != 20 || j != 10 {
			t.Errorf("at once %d connects and %d joins, want 20 and 10", c, j)
		}
		time.Sleep(time.Second)
		if c, j := count(g.Connect), count(join); c != 10 || j != 5 {
			t.Errorf("a second later %d connects and %d joins, want 10 and 5", c, j)
		}
	})
}

func TestRefusedConnectsAreSpreadTheWiderTheMoreTheyAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Config{})
		if w := g.window(); w != time.Second {
			t.Errorf("first window %v", w)
		}
		late := 0
		for range 5000 {
			if r := g.NoRoom(Full); r.After > 2*time.Second {
				late++
			}
		}
		if w := g.window(); w != 6*time.Second || late < 1000 {
			t.Errorf("after 5000 the window is %v; %d were told to wait for more than 2 s", w, late)
		}
		for range 10 * int(time.Second/period) {
			g.look()
		}
		if w := g.window(); w > 1010*time.Millisecond {
			t.Errorf("10 s later it is still %v", w)
		}
		for range 1_000_000 {
			g.recent.Add(1)
		}
		if w := g.window(); w != maxWindow {
			t.Errorf("no bound: %v", w)
		}
	})
}

// A loop that is late, then is not, seen through Run: refused and admitted again, with a line in the log for each change.
func TestALateLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		var late atomic.Int64
		loop := func(task func()) { time.AfterFunc(time.Duration(late.Load()), task) }
		prompt := func(task func()) { task() }
		g := New(Config{Lag: 250 * time.Millisecond, Posts: []func(func()){prompt, loop}, Log: zap.New(core)})
		go g.Run(t.Context())
		time.Sleep(5 * time.Second)
		if s := g.Stats(); s.Level != Open || s.Lag > time.Millisecond {
			t.Errorf("idle: %+v", s)
		}
		late.Store(int64(10 * time.Second))
		time.Sleep(700 * time.Millisecond)
		if s := g.Stats(); s.Level != NoConnects {
			t.Errorf("a probe is not back for more than half a second: %+v", s)
		}
		time.Sleep(800 * time.Millisecond)
		if s := g.Stats(); s.Level != NoPublishes || s.Lag < time.Second {
			t.Errorf("nor for more than a second: %+v", s)
		}
		late.Store(0)
		time.Sleep(15 * time.Second)
		if s := g.Stats(); s.Level != Open {
			t.Errorf("afterwards: %+v", s)
		}
		if n := logs.FilterMessage("admission changed").Len(); n != 6 {
			t.Errorf("%d changes logged, want 3 up and 3 down: %v", n, logs.All())
		}
	})
}

func TestMemoryUsed(t *testing.T) {
	old := debug.SetMemoryLimit(math.MaxInt64)
	defer debug.SetMemoryLimit(old)
	if used := MemoryUsed(); used != 0 {
		t.Errorf("without a limit: %v", used)
	}
	debug.SetMemoryLimit(1 << 30)
	debug.FreeOSMemory()
	before := MemoryUsed()
	live := make([]byte, 256<<20)
	_ = make([]byte, 1<<20)
	debug.FreeOSMemory()
	after := MemoryUsed()
	if live[0] = 1; after-before < 0.24 || after-before > 0.3 || before <= 0 {
		t.Errorf("%.3f of 1 GiB used, then with 256 MiB more %.3f", before, after)
	}
	garbage()
	if now := MemoryUsed(); now-after > 0.02 {
		t.Errorf("garbage counts: %.3f, then %.3f", after, now)
	}
	if live[1] != 0 {
		t.Fatal()
	}
}

//go:noinline
func garbage() {
	for range 32 {
		_ = make([]byte, 1<<20)
	}
}
