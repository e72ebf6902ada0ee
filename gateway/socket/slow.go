package socket

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// streamFull is how much must wait behind or in the writer of a stream connection for its socket to count as full: what
// the kernel takes of it, the loop does not see.
const streamFull = 64 << 10

// Behind reports whether what is sent now would have to wait because the peer has not taken what came before: its socket
// is full, or nobody polls its mailbox. What is staged in this turn does not count if the socket takes it.
func (c *Conn) Behind() bool {
	if !c.blocked && len(c.out) >= writeShared {
		c.flush()
	}
	return c.isFull()
}

func (c *Conn) isFull() bool {
	if s := c.stream; s != nil && s.box == nil {
		return c.blocked && len(c.out)+s.inFlight >= streamFull
	}
	return c.blocked
}

// Fits reports whether n more bytes may be queued as it is.
func (c *Conn) Fits(n int) bool { return c.queued()+n <= c.loop.cfg.MaxQueueBytes }

// HoldBack notes that the handler holds n bytes more for the peer, or fewer if n is negative, which it sends when the
// socket is not full any more: Loop.Relieved tells. They count as if they were queued.
func (c *Conn) HoldBack(n int) {
	c.aside += int32(n)
	c.loop.count.QueueBytes += uint64(n) // wraps around for what is negative
}

// Relieved has f called, on the loop, when a connection for which something is held back has taken what was queued. f is
// to send some of it, and is called again when that is gone too. It is set before the loop has connections.
func (l *Loop) Relieved(f func(c *Conn)) { l.relieve = f }

// relieveAll calls f of Relieved where there is room. It stages, so more flushes follow.
func (l *Loop) relieveAll() {
	for i := 0; i < len(l.relieved); i++ {
		c := l.relieved[i]
		l.relieved[i] = nil
		if c.aside > 0 && c.state == stateOpen && l.relieve != nil {
			l.runTask(func() { l.relieve(c) })
		}
	}
	l.relieved = l.relieved[:0]
}

// slowLong reports whether the queue has been over its soft bound at every sweep of Config.SoftQueueTime, and at no time
// under it in between: whatever shortens the queue to that sets over to 0. It is called once per sweep.
func (c *Conn) slowLong() bool {
	cfg := c.loop.cfg
	if c.state != stateOpen || cfg.SoftQueueBytes == 0 || c.queued()-int(c.aside) <= cfg.SoftQueueBytes {
		return false
	}
	c.over++
	return time.Duration(c.over-1)*c.loop.tick >= cfg.SoftQueueTime
}

// budget watches over what is queued on all loops together.
type budget struct {
	queued   atomic.Int64 // reported by the loops
	evicting atomic.Bool  // a round is under way
	rested   atomic.Int64 // on the loops' clock, which nobody sets: no round before

	mu      sync.Mutex
	pending int // loops that have not told of their queues in this round
	queues  []queue
	leaving int64 // bytes of connections that are closing: these go soon
}

// queue is one connection's, as a round has found it.
type queue struct {
	conn *Conn
	size int
}

// evictPause is the least time between two rounds: the first one's victims need it to go.
const evictPause = 20 * time.Millisecond

// report tells the budget how the loop's queues have changed. When all are over it, a round begins: every loop tells of
// its queues, the last one to do so chooses the longest until the rest is an eighth below the budget, and these are
// closed with 4008. It all happens in tasks of the loops, so a turn may queue more meanwhile.
func (l *Loop) report() {
	b := &l.all.budget
	total := b.queued.Add(int64(l.count.QueueBytes - l.reported))
	l.reported = l.count.QueueBytes
	if total <= int64(l.cfg.QueueBudget) || int64(l.all.now()) < b.rested.Load() || b.evicting.Swap(true) {
		return
	}
	b.pending, b.leaving = len(l.all.loops), 0
	for _, other := range l.all.loops {
		other.Post(other.tellQueues)
	}
}

func (l *Loop) tellQueues() {
	b := &l.all.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range l.slots {
		if c == nil || c.Waiting() == 0 {
			continue
		}
		if c.state == stateOpen {
			b.queues = append(b.queues, queue{c, c.Waiting()})
		} else {
			b.leaving += int64(c.Waiting())
		}
	}
	if b.pending--; b.pending == 0 {
		l.all.evict()
	}
}

// evict ends a round. Called with budget.mu held.
func (ls *Loops) evict() {
	b := &ls.budget
	excess := b.queued.Load() - b.leaving - int64(ls.cfg.QueueBudget-ls.cfg.QueueBudget/8)
	slices.SortFunc(b.queues, func(x, y queue) int { return y.size - x.size })
	for _, q := range b.queues {
		if excess <= 0 {
			break
		}
		excess -= int64(q.size)
		q.conn.loop.Post(func() {
			if c := q.conn; c.state == stateOpen && c.Waiting() >= q.size/2 {
				c.overflow(EndBudget)
			}
		})
	}
	b.queues = nil
	b.rested.Store(int64(ls.now() + evictPause))
	b.evicting.Store(false)
}
