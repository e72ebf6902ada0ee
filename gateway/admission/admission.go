// Package admission decides whether a gateway takes on more: connections, joins, publishes. It looks at what the memory
// limit leaves and at how late the event loops are, and refuses in this order, connections first, so that what is there
// already goes on: heartbeats are answered and messages delivered at every level.
//
// A Gate belongs to a whole gateway. Any goroutine may ask it; that costs an atomic load. One goroutine runs Run.
package admission

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/ringcast/ringcast/shared/rate"
)

// Level says what is refused. Each level refuses what those below it do.
type Level int32

// The levels.
const (
	Open        Level = iota // nothing is refused
	NoConnects               // new connections are
	NoJoins                  // and joins
	NoPublishes              // and publishes
)

var levelNames = [...]string{"open", "no connects", "no joins", "no publishes"}

func (l Level) String() string { return levelNames[l] }

// What is refused, for counting.
type What uint8

// What can be refused. Frames are those of a session that are neither joins nor publishes.
const (
	Connect What = iota
	Join
	Publish
	Frame
	numWhat = iota
)

var whatNames = [numWhat]string{"connect", "join", "publish", "frame"}

func (w What) String() string { return whatNames[w] }

// Reason is why something is refused. It is what clients are told.
type Reason uint8

// The reasons.
const (
	Overloaded  Reason = iota // the gateway is at a level that refuses it
	RateLimited               // more of it comes than is allowed
	Full                      // there are as many connections as there may be
	Stopping                  // the gateway is leaving
	Busy                      // as many publishes of the client as may be have no answer yet
	numReasons  = iota
)

var reasonNames = [numReasons]string{"overloaded", "rate_limited", "full", "stopping", "busy"}

func (r Reason) String() string { return reasonNames[r] }

// Refusal says that something was refused: nothing of it has happened or will. The zero value is none.
type Refusal struct {
	Reason Reason
	After  time.Duration // when to try again; more than 0 in every refusal
	Own    bool          // it is for the client's own rate, and nothing that others do
}

// Refused reports whether it is a refusal.
func (r Refusal) Refused() bool { return r.After > 0 }

// Millis is After in milliseconds, rounded up.
func (r Refusal) Millis() int64 { return int64((r.After + time.Millisecond - 1) / time.Millisecond) }

func (r Refusal) String() string { return fmt.Sprintf("%s retry_after_ms=%d", r.Reason, r.Millis()) }

const (
	// period is how often a gate looks at memory and loops.
	period = 100 * time.Millisecond
	// sustained is for how many looks in a row loops must be late: one long turn is not an overload.
	sustained = 3
	// calm is how many looks must be good before the level falls by one.
	calm = 10
	// maxWindow bounds how far apart clients that were refused are spread.
	maxWindow = time.Minute
	// assumedConnects a second is what a gateway without a limit of connects is taken to manage when clients that were
	// refused are spread.
	assumedConnects = 1000
)

// Config configures a Gate. The zero value refuses nothing.
type Config struct {
	Memory float64       // share of the memory limit that is used when connects are refused; 0 is never
	Lag    time.Duration // of a loop, when connects are refused; 0 is never
	// Used returns the share of the memory limit that is used. Default MemoryUsed.
	Used func() float64
	// Posts run a task on each event loop, when it gets to it.
	Posts []func(task func())

	Connects, Joins int // a second, over all clients; 0 is any number
	Log             *zap.Logger
}

// Gate is a gateway's admission. Methods of a nil Gate admit everything.
type Gate struct {
	// Static.
	cfg             Config
	connects, joins rate.Limit
	start           time.Time

	level     atomic.Int32
	lag       atomic.Int64 // nanoseconds, as last seen
	used      atomic.Uint64
	connected rate.Shared
	joined    rate.Shared
	recent    atomic.Int64 // connects refused of late: halved every second
	refused   [numWhat][numReasons]atomic.Uint64

	// Owned by Run.
	probes  []probe
	judge   judge
	looks   int
	collect collector
}

// New returns a gate at the level Open.
func New(cfg Config) *Gate {
	if cfg.Used == nil {
		cfg.Used = MemoryUsed
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	return &Gate{
		cfg: cfg, start: time.Now(), probes: make([]probe, len(cfg.Posts)),
		connects: rate.PerSecond(cfg.Connects, 2*cfg.Connects), joins: rate.PerSecond(cfg.Joins, 2*cfg.Joins),
		judge: judge{memory: cfg.Memory, lag: cfg.Lag},
	}
}

// Level returns the present level.
func (g *Gate) Level() Level {
	if g == nil {
		return Open
	}
	return Level(g.level.Load())
}

// Connect asks for a new connection.
func (g *Gate) Connect() Refusal {
	switch {
	case g == nil:
		return Refusal{}
	case g.Level() >= NoConnects:
		return g.NoRoom(Overloaded)
	case g.connected.Take(g.connects, time.Since(g.start)) > 0:
		return g.NoRoom(RateLimited)
	}
	return Refusal{}
}

// NoRoom refuses a connection. Clients that are refused are spread over a time that grows with their number.
func (g *Gate) NoRoom(why Reason) Refusal {
	g.refused[Connect][why].Add(1)
	g.recent.Add(1)
	return Refusal{Reason: why, After: spread(g.window())}
}

// window is the time over which connects that are refused now are to come again.
func (g *Gate) window() time.Duration {
	pace := assumedConnects
	if g.cfg.Connects > 0 {
		pace = g.cfg.Connects
	}
	w := time.Second<<g.Level() + time.Duration(float64(g.recent.Load())/float64(pace)*float64(time.Second))
	return min(w, maxWindow)
}

func spread(w time.Duration) time.Duration { return time.Millisecond + rand.N(w) }

// Join asks for a join of whatever client. now is the time on a clock that all callers share.
func (g *Gate) Join(now time.Duration) Refusal {
	switch {
	case g == nil:
		return Refusal{}
	case g.Level() >= NoJoins:
		return g.overloaded(Join)
	case !g.joins.Unlimited():
		if wait := g.joined.Take(g.joins, now); wait > 0 {
			g.refused[Join][RateLimited].Add(1)
			return Refusal{Reason: RateLimited, After: wait}
		}
	}
	return Refusal{}
}

// Publish asks for a publish, or for a request that has several.
func (g *Gate) Publish() Refusal {
	if g == nil || g.Level() < NoPublishes {
		return Refusal{}
	}
	return g.overloaded(Publish)
}

func (g *Gate) overloaded(what What) Refusal {
	g.refused[what][Overloaded].Add(1)
	return Refusal{Reason: Overloaded, After: spread(time.Second << g.Level())}
}

// Count counts what a session was refused by its own bounds, which the gate does not know.
func (g *Gate) Count(what What, why Reason) {
	if g != nil {
		g.refused[what][why].Add(1)
	}
}

// Stats is what a gate has seen.
type Stats struct {
	Level   Level
	Lag     time.Duration // of the slowest loop, now
	Used    float64       // share of the memory limit, now; 0 without one
	Refused [numWhat][numReasons]uint64
}

// Stats returns the present figures and the counts since the start.
func (g *Gate) Stats() Stats {
	s := Stats{Level: g.Level(), Lag: time.Duration(g.lag.Load()), Used: float64(g.used.Load()) / 1e6}
	for what := range g.refused {
		for why := range g.refused[what] {
			s.Refused[what][why] = g.refused[what][why].Load()
		}
	}
	return s
}

// EachCount calls f for every pair that can be counted.
func EachCount(f func(What, Reason)) {
	for what := range What(numWhat) {
		for why := range Reason(numReasons) {
			if counted(what, why) {
				f(what, why)
			}
		}
	}
}

func counted(what What, why Reason) bool {
	switch why {
	case Full:
		return what == Connect
	case Busy:
		return what == Publish
	case Overloaded:
		return what != Frame
	case Stopping:
		return false
	}
	return true
}

// Run watches memory and loops until ctx is canceled.
func (g *Gate) Run(ctx context.Context) {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			g.look()
		}
	}
}

// look takes the figures and sets the level.
func (g *Gate) look() {
	lag := time.Duration(0)
	for i := range g.probes {
		lag = max(lag, g.probes[i].next(g.start, g.cfg.Posts[i]))
	}
	used := 0.0
	if g.cfg.Memory > 0 {
		used = g.cfg.Used()
	}
	g.lag.Store(int64(lag))
	g.used.Store(uint64(used * 1e6))
	if g.looks++; g.looks%int(time.Second/period) == 0 {
		g.recent.Store(g.recent.Load() / 2)
	}
	before := g.Level()
	level := g.judge.next(used, lag)
	if level > Open && g.cfg.Memory > 0 && used+memoryMargin > g.cfg.Memory {
		g.collect.look()
	}
	if level == before {
		return
	}
	g.level.Store(int32(level))
	log := g.cfg.Log.Warn
	if level < before {
		log = g.cfg.Log.Info
	}
	log("admission changed", zap.Stringer("admission", level), zap.Stringer("before", before),
		zap.Float64("memory_used", used), zap.Duration("loop_lag", lag))
}
