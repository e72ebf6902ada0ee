package socket

import (
	"bytes"
	"slices"
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

	// looks is among how many of those who wait, at most, somebody is looked for who has sent a request. While all of a full
	// lobby are silent it costs some 1 % of a processor, and somebody who is not is found within two seconds.
	looks = 64

	// patient is how often he who has waited longest goes on, one in patient, whatever he has said.
	patient = 8

	// catchUp is how far behind its time the lobby may be and still make up for it. Timers are no finer than a millisecond.
	catchUp = 2 * time.Millisecond
)

// lobby decides when accepted connections go on to the loops: a crowd that comes all at once must not take
// the loops' time away from the connections that are there. They go on in their order, but that those who have sent a whole request
// go before those who are silent or trickle: of these thousands may be open only to keep the others waiting. Two bounds hold:
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

	waiting atomic.Int64 // those in the queue and aside
	entered int          // those that had to wait; owned by the caller of enter

	// Owned by empty.
	aside []int // taken out of the queue, the longest there first
	at    int   // where aside is looked at next
	turns int
	peek  [4 << 10]byte

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
	for int(b.waiting.Load()) >= b.room() && !b.in.isClosed() {
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
	for {
		if len(b.aside) == 0 {
			fd, open := <-b.queue
			if !open {
				return
			}
			b.aside = append(b.aside, fd)
		}
		for wait := b.turn(); wait > 0 && !b.in.isClosed(); wait = b.turn() {
			time.Sleep(wait)
		}
		if b.in.isClosed() {
			b.sendAway(b.take(0))
			continue
		}
		if fd := b.choose(); fd >= 0 {
			b.in.admit(fd)
			b.waiting.Add(-1)
		}
	}
}

// choose takes out who goes on: somebody who has sent a request, if one is found, else who has waited longest. It is -1 if nobody is left,
// since it closes those who have gone.
func (b *lobby) choose() int {
	if b.turns++; b.turns%patient == 0 {
		return b.take(0)
	}
	if len(b.aside) <= looks {
		b.at = 0
	}
	for range min(looks, len(b.aside)) {
		if b.at >= len(b.aside) {
			b.at = 0
		}
		switch spoken, gone := b.look(b.aside[b.at]); {
		case gone:
			b.sendAway(b.take(b.at))
		case spoken:
			return b.take(b.at)
		default:
			b.at++
		}
	}
	for n := 0; n < looks && len(b.queue) > 0; n++ {
		fd := <-b.queue
		switch spoken, gone := b.look(fd); {
		case gone:
			b.sendAway(fd)
		case spoken:
			return fd
		default:
			b.aside = append(b.aside, fd)
		}
	}
	return b.take(0)
}

// take takes one out of those aside; it is -1 if there is none.
func (b *lobby) take(i int) int {
	if len(b.aside) == 0 {
		return -1
	}
	fd := b.aside[i]
	if b.aside = slices.Delete(b.aside, i, i+1); len(b.aside) == 0 {
		b.aside = nil
	}
	return fd
}

func (b *lobby) sendAway(fd int) {
	closeFD(fd)
	b.waiting.Add(-1)
}

// look reports whether the head of a request has come as a whole, and whether none will.
func (b *lobby) look(fd int) (spoken, gone bool) {
	n, err := peekFD(fd, b.peek[:])
	return n == len(b.peek) || bytes.Contains(b.peek[:n], headEnd), err != nil
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
