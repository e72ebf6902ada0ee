// Package socket owns WebSocket connections after their HTTP handshake. A
// few event loops hold all of them: each connection belongs to one loop for
// its life, and everything of it (parsing, its handler, its queue) is touched
// only on that loop. Nothing here takes a lock or starts a goroutine per
// connection or message.
//
// One turn of a loop, in this order:
//
//	wait     until a socket is ready, a task was posted or a sweep is due
//	read     each readable socket once; its messages go to its handler
//	tasks    everything posted up to now, in order
//	flush    each connection touched in this turn, with one write
//	finish   connections that ended: Handler.Closed, then the descriptor
//
// So a burst of requests gets all its replies in one write, and a batch of
// messages for many connections costs one write for each of them. Bytes that
// the kernel does not take wait in the connection's own queue, which is
// bounded; a full socket delays no other.
//
// On Linux the loops wait with epoll. TLS connections, and all connections on
// other systems, are stream connections: a goroutine reads and a short-lived
// one writes, and both post to the connection's loop, so handlers see no
// difference.
package socket

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/ringcast/ringcast/shared/rate"
)

// Close codes that this package sends or reports.
const (
	CloseNormal      = 1000
	CloseProtocol    = 1002
	CloseNoStatus    = 1005 // the peer's close frame carried no code; never sent
	CloseNotUTF8     = 1007
	CloseTooBig      = 1009
	CloseInternal    = 1011
	CloseRestart     = 1012
	CloseTryAgain    = 1013
	CloseSlow        = 4008
	CloseIdleTimeout = 4408
	CloseRate        = 4429
)

// ErrClosed is what connections and callers get after Loops.Close.
var ErrClosed = errors.New("socket: loops are closed")

// ErrWriteTimeout ends a connection whose full socket took no byte for
// Config.WriteTimeout.
var ErrWriteTimeout = errors.New("socket: write timeout")

// CloseError says which close frame ended a connection.
type CloseError struct {
	Code   int
	Reason string
	Remote bool // the peer sent the first close frame
}

func (e *CloseError) Error() string {
	who := "closed here"
	if e.Remote {
		who = "closed by peer"
	}
	return fmt.Sprintf("%s: %d %q", who, e.Code, e.Reason)
}

// Config bounds the connections. The zero value gives the defaults.
type Config struct {
	Loops           int           // event loops; default GOMAXPROCS
	MaxMessageBytes int           // an inbound message, reassembled; default 64 KiB; over it: close 1009
	MaxQueueBytes   int           // outbound bytes the kernel has not taken; default 1 MiB; over it: close 4008
	SoftQueueBytes  int           // the same, over it for all of SoftQueueTime: close 4008; default none
	SoftQueueTime   time.Duration // default 5 s
	QueueBudget     int           // outbound bytes of all connections together; default none; over it, the longest queues: close 4008
	InputBudget     int           // of messages that are not whole yet, of all connections together; default none; over it, the largest: close 1013
	IdleTimeout     time.Duration // since bytes were last received; default 60 s, negative = none; then close 4408
	MessageTimeout  time.Duration // from the first byte of a message, or of a control frame, to its last; default 30 s; then close 4408
	WriteTimeout    time.Duration // a full socket that takes no byte; default 10 s; then the connection is dropped
	CloseTimeout    time.Duration // from sending the close frame to the end; default 5 s
	// Frames bounds the pings, pongs and fragments of a connection, which no handler sees; default no limit. Pings over it are
	// not answered. Handlers count messages, with Conn.Take.
	Frames rate.Limit
	Log    *zap.Logger // default none
}

func (cfg Config) withDefaults() (Config, error) {
	var errs []error
	number := func(name string, v *int, def int) {
		if *v < 0 {
			errs = append(errs, fmt.Errorf("socket: %s = %d: must not be negative", name, *v))
		} else if *v == 0 {
			*v = def
		}
	}
	duration := func(name string, v *time.Duration, def time.Duration) {
		if *v < 0 {
			errs = append(errs, fmt.Errorf("socket: %s = %v: must not be negative", name, *v))
		} else if *v == 0 {
			*v = def
		}
	}
	number("Loops", &cfg.Loops, runtime.GOMAXPROCS(0))
	number("MaxMessageBytes", &cfg.MaxMessageBytes, 64<<10)
	number("MaxQueueBytes", &cfg.MaxQueueBytes, 1<<20)
	duration("MessageTimeout", &cfg.MessageTimeout, 30*time.Second)
	number("SoftQueueBytes", &cfg.SoftQueueBytes, 0)
	number("QueueBudget", &cfg.QueueBudget, 0)
	number("InputBudget", &cfg.InputBudget, 0)
	duration("SoftQueueTime", &cfg.SoftQueueTime, 5*time.Second)
	duration("WriteTimeout", &cfg.WriteTimeout, 10*time.Second)
	duration("CloseTimeout", &cfg.CloseTimeout, 5*time.Second)
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = 60 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	return cfg, errors.Join(errs...)
}

// tick is how often deadlines are looked at: each second, or four times in
// the shortest timeout if that is less.
func (cfg *Config) tick() time.Duration {
	shortest := min(cfg.MessageTimeout, cfg.WriteTimeout, cfg.CloseTimeout)
	if cfg.IdleTimeout > 0 {
		shortest = min(shortest, cfg.IdleTimeout)
	}
	if cfg.SoftQueueBytes > 0 {
		shortest = min(shortest, cfg.SoftQueueTime)
	}
	return max(min(shortest/4, time.Second), time.Millisecond)
}

// Handler receives what happens on one connection. All calls come on the
// connection's loop and must not block.
type Handler interface {
	// Message hands over one whole message. data is the loop's own memory,
	// valid during the call only; the handler may write to it. A panic closes
	// the connection with 1011.
	Message(c *Conn, op Opcode, data []byte)

	// Closed is called exactly once, as the last call. err is a *CloseError
	// if a close frame was sent or received, else the I/O error that ended
	// the connection, or ErrClosed.
	Closed(c *Conn, err error)
}

// Loops is a set of running event loops. All methods may be called from any
// goroutine.
type Loops struct {
	cfg    Config
	loops  []*Loop
	lastID atomic.Uint64
	joined sync.WaitGroup
	budget budget

	listener atomic.Pointer[Listener] // nil before Listen
}

// New starts the loops, a goroutine each. The caller must Close them. The error is that the configuration makes no sense, or
// that the system has no descriptors left.
func New(cfg Config) (*Loops, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	ls := &Loops{cfg: cfg, loops: make([]*Loop, cfg.Loops)}
	start := time.Now()
	for i := range ls.loops {
		if ls.loops[i], err = newLoop(ls, i, start); err != nil {
			for _, l := range ls.loops[:i] {
				l.poll.close()
			}
			return nil, err
		}
	}
	for _, l := range ls.loops {
		ls.joined.Go(l.takeTurns)
	}
	return ls, nil
}

// Len gives the number of loops.
func (ls *Loops) Len() int { return len(ls.loops) }

// Loop gives the loop of index i, 0 ≤ i < Len().
func (ls *Loops) Loop(i int) *Loop { return ls.loops[i] }

// Conns gives the number of open connections, those being adopted included.
func (ls *Loops) Conns() int {
	n := int64(0)
	for _, l := range ls.loops {
		n += l.load.Load()
	}
	return int(n)
}

// Arriving gives the number of connections before the end of their handshake,
// of those that Listen gives to the loops.
func (ls *Loops) Arriving() int {
	n := int64(0)
	for _, l := range ls.loops {
		n += l.arriving.Load()
	}
	return int(n)
}

// CloseAll starts the closing handshake on every connection there is: each
// gets a close frame behind what is queued for it. It does not wait, and
// connections adopted later are not touched.
func (ls *Loops) CloseAll(code int, reason string) { ls.CloseSome(math.MaxInt, code, reason) }

// CloseSome is CloseAll for up to n connections of each loop that are open
// still, from anywhere on: those that came together need not go together.
func (ls *Loops) CloseSome(n int, code int, reason string) {
	for _, l := range ls.loops {
		l.Post(func() {
			left, slots := n, len(l.slots)
			for first, i := rand.IntN(slots+1), 0; i < slots && left > 0; i++ {
				if c := l.slots[(first+i)%slots]; c != nil && c.state == stateOpen {
					c.closeWith(&CloseError{Code: code, Reason: reason}, EndDrain)
					left--
				}
			}
		})
	}
}

// Each calls f for every connection that is open when its loop gets to it, on
// that loop. It does not wait.
func (ls *Loops) Each(f func(*Conn)) {
	for _, l := range ls.loops {
		l.Post(func() {
			for _, c := range l.slots {
				if c != nil && c.state == stateOpen {
					f(c)
				}
			}
		})
	}
}

// Close ends every connection at once, without close frames, stops the loops
// and returns when they have stopped: every Handler has got its Closed by
// then. Tasks posted before Close still run; later ones are dropped. It must
// not be called on a loop. Calling it again waits too.
func (ls *Loops) Close() {
	if in := ls.listener.Load(); in != nil {
		_ = in.Close()
	}
	for _, l := range ls.loops {
		l.Post(l.stop)
	}
	ls.joined.Wait()
}

// pick chooses the emptiest loop and counts one more connection. Two callers
// may pick the same loop; the next ones even it out.
func (ls *Loops) pick() *Loop {
	l := ls.emptiest()
	l.load.Add(1)
	return l
}

// emptiest gives the loop with the fewest connections.
func (ls *Loops) emptiest() *Loop {
	best, least := ls.loops[0], int64(math.MaxInt64)
	for _, l := range ls.loops {
		if n := l.load.Load() + l.arriving.Load(); n < least {
			best, least = l, n
		}
	}
	return best
}
