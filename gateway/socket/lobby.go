package socket

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// share is the part of the loops' time that those who come get while messages are delivered, one in share.
	share = 8

	// deliveryMemory is for how long after a delivery another one is expected.
	deliveryMemory = 10 * time.Second

	// firstEffort is what a handshake, and what a first message, is taken to cost before any has come.
	firstEffort = 50 * time.Microsecond

	// lobbySize is how many connections wait in the lobby at most.
	lobbySize = 16 << 10

	// atOnce is how many of a crowd are accepted without a break: so as not to keep a processor from the loops.
	atOnce = 32

	// catchUp is how far behind its time the lobby may be and still make up for it. Timers are no finer than a millisecond.
	catchUp = 2 * time.Millisecond
)

// lobby decides when accepted connections go on to the loops, in their order: a crowd that comes all at once must not take
// the loops' time away from the connections that are there. Two bounds hold:
//
//   - Only Door.Most are on their way through the handshake at a time.
//   - While messages are delivered, one goes on only when those before it have had no more than their share of the loops' time.
//     What they cost is measured, each time, by the clock: where others want the processor too it counts for more, and fewer
//     come.
//
// In both cases one goes on each Door.Pause all the same, so that nobody is locked out.
//
// They wait here and not in the system's queue, which is shorter than a crowd: whom that has no room for tries again by
// TCP a second later, all of them at once.
type lobby struct {
	// Static.
	in    *Listener
	queue chan int // descriptors

	waiting atomic.Int64 // those in the queue, and the one taken out that waits for its turn
	entered int          // those that had to wait; owned by the caller of enter

	// Guarded by mu.
	mu   sync.Mutex
	last time.Duration // when one went on; on the loops' clock, as are all
	next time.Duration // when the next one may, by the share
}

func newLobby(in *Listener) *lobby { return &lobby{in: in, queue: make(chan int, lobbySize)} }

// enter takes a connection. It owns the descriptor. It waits while the lobby is full.
func (b *lobby) enter(fd int) {
	if b.waiting.Load() == 0 && b.turn() == 0 {
		b.in.admit(fd)
		return
	}
	for len(b.queue) >= b.room() && !b.in.isClosed() {
		time.Sleep(time.Millisecond)
	}
	b.waiting.Add(1)
	b.queue <- fd
	if b.entered++; b.entered%atOnce == 0 {
		time.Sleep(time.Millisecond)
	}
}

// room is how many may wait: with those that are open, no more than there may be at all.
func (b *lobby) room() int {
	return min(max(b.in.door.Conns-b.in.loops.Conns(), b.in.door.Most), lobbySize-1)
}

// empty lets those who wait go on when it is their turn, until the listener is closed and nobody can enter any more.
func (b *lobby) empty() {
	for fd := range b.queue {
		for wait := b.turn(); wait > 0 && !b.in.isClosed(); wait = b.turn() {
			time.Sleep(wait)
		}
		if b.in.isClosed() {
			closeFD(fd)
		} else {
			b.in.admit(fd)
		}
		b.waiting.Add(-1)
	}
}

// turn returns 0 if a connection may go on now, and takes it that it does; else how long to wait before asking again.
func (b *lobby) turn() time.Duration {
	in := b.in
	b.mu.Lock()
	defer b.mu.Unlock()
	now := in.loops.now()
	if overdue := b.last + in.door.Pause; now < overdue {
		switch {
		case now < b.next:
			return min(b.next, overdue) - now
		case in.loops.Arriving()+int(in.waiting.Load()) >= in.door.Most:
			return min(time.Millisecond, overdue-now)
		}
	}
	b.last, b.next = now, max(b.next, now-catchUp)+in.loops.spacing(now)
	return 0
}

// spacing is the time from one newcomer to the next that leaves them their share; 0 while nothing is delivered.
func (ls *Loops) spacing(now time.Duration) time.Duration {
	delivers, cost := false, time.Duration(0)
	for _, l := range ls.loops {
		at := time.Duration(l.delivered.Load())
		delivers = delivers || at > 0 && now-at < deliveryMemory
		cost += l.greeting.mean() + l.joining.mean()
	}
	if !delivers {
		return 0
	}
	n := time.Duration(len(ls.loops))
	return cost / n * share / n
}

// now gives the time on the clock of the loops.
func (ls *Loops) now() time.Duration { return time.Since(ls.loops[0].start) }

// effort is what something costs a loop, as a moving mean in nanoseconds. The loop adds, any goroutine may look.
type effort struct{ ns atomic.Int64 }

func (e *effort) mean() time.Duration { return time.Duration(e.ns.Load()) }

// since adds what has been done since the given time.
func (e *effort) since(from time.Time) {
	mean := e.ns.Load()
	e.ns.Store(mean + (int64(time.Since(from))-mean)/16)
}

// Delivers notes that the loop delivers a message in this turn, to connections that were there before it. While loops do,
// those who come get a share of their time only; see lobby. It may be called on the loop only.
func (l *Loop) Delivers() { l.delivered.Store(int64(max(l.now, 1))) }
