package socket

import (
	"errors"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	readSize      = 64 << 10 // one read of one socket
	stagingSize   = 1 << 10  // a new staging buffer
	maxStaging    = 64 << 10 // a staging buffer that is worth keeping
	maxFreeBytes  = 2 << 20  // staging buffers kept per loop
	maxStaged     = 1 << 20  // staged in one turn before a flush in between
	maxFreeTorn   = 64       // torn states kept per loop
	maxTornBuffer = 4 << 10  // a torn buffer that is worth keeping
)

// Loop is one event loop. Post, Run and Index may be called from any goroutine,
// everything else belongs to the goroutine that is taking a turn: the loop's
// own, mostly, or one that borrows the loop while that sleeps (see Run).
//
// Lock order: turnMu, then tasksMu.
type Loop struct {
	// Static.
	all   *Loops
	cfg   *Config
	index int
	poll  *poller
	start time.Time
	tick  time.Duration

	// Any goroutine.
	load     atomic.Int64 // connections, those being adopted included
	arriving atomic.Int64 // connections before their handshake, but for those that are silent, and with those whose welcome is posted
	asleep   atomic.Bool  // set under tasksMu only; see post

	// Any goroutine; the loop sets them.
	delivered         atomic.Int64 // when it last delivered a message, on the loops' clock; see Delivers
	greeting, joining effort       // a handshake; a connection's first read

	// Guarded by tasksMu.
	tasksMu sync.Mutex
	tasks   []func()
	closed  bool // takes no more tasks

	// Held by whoever takes a turn; free while the loop sleeps.
	turnMu sync.Mutex

	// Guarded by statsMu.
	statsMu   sync.Mutex
	published Stats

	// Guarded by turnMu.
	//
	// Invariant: slots[c.slot] == c until c is finished. Connections finish after
	// all events of a turn, or at their own one (those that arrive), and a poll
	// gives one event for each; so an event never meets a connection that is not
	// its own.
	slots     []*Conn
	freeSlots []int
	running   []func() // the tasks of this turn; swapped with tasks
	dirty     []*Conn  // touched since the last flush
	dying     []*Conn  // to be finished in this turn
	relieved  []*Conn  // took all that was queued, and more is held back for them
	flushed   []func() // called once this turn has flushed
	witness   func(c *Conn, end End, unsent bool)
	relieve   func(c *Conn)
	turn      uint64
	arrived   int           // handshakes served in this turn
	now       time.Duration // of this turn
	nextSweep time.Duration
	stopping  bool
	onTick    []func()
	count     Stats
	reported  uint64 // of count.QueueBytes, to the budget
	shedding  bool   // shedInput is posted
	sender    *Conn  // whose SendRun is under way; nil mostly
	sending   int    // bytes of that run

	// Buffers, guarded by turnMu.
	readBuf   []byte
	free      [][]byte // staging buffers
	freeBytes int
	staged    int // bytes in staging buffers since the last flush, a buffer counting as stagingSize at least
	freeTorn  []*torn
}

func newLoop(all *Loops, index int, start time.Time) (*Loop, error) {
	poll, err := newPoller()
	if err != nil {
		return nil, err
	}
	cfg := &all.cfg
	l := &Loop{
		all: all, cfg: cfg, index: index, poll: poll, start: start, tick: cfg.tick(),
		readBuf: make([]byte, readSize),
	}
	l.greeting.ns.Store(int64(firstEffort))
	l.joining.ns.Store(int64(firstEffort))
	return l, nil
}

// Index gives the loop's index in its Loops.
func (l *Loop) Index() int { return l.index }

// Now gives the time at which the present turn began, on a clock that all loops of
// a set share. It may be called on the loop only.
func (l *Loop) Now() time.Duration { return l.now }

// MaxQueueBytes gives Config.MaxQueueBytes.
func (l *Loop) MaxQueueBytes() int { return l.cfg.MaxQueueBytes }

// Turn gives a number, never 0, that stays the same during one turn of the
// loop and is another in every later turn. It may be called on the loop only.
func (l *Loop) Turn() uint64 { return l.turn }

// Post queues a task to run on the loop. Tasks run in the order posted, each
// in the present turn or the next. Post never blocks and may be called from
// anywhere, the loop included. A panic in a task is logged and counted. After
// Loops.Close tasks are dropped.
func (l *Loop) Post(task func()) { l.post(task) }

// OnTick makes f be called on the loop about once a second, or more often if
// timeouts are short, from now on. It may be called from anywhere.
func (l *Loop) OnTick(f func()) { l.Post(func() { l.onTick = append(l.onTick, f) }) }

// post is Post that reports whether the task will run.
//
// No task is left lying while the loop sleeps, and while the loop is awake a
// post costs no system call. Both sides decide under tasksMu: either the task
// is there when the loop wants to sleep, and it does not; or the loop is
// asleep when the task comes, and the first poster wakes it. A poster that
// finds it asleep although it has just woken by itself only makes the next
// wait end early:
//
//	loop: asleep = true       wakes by an event        asleep = false
//	poster:            append            asleep? yes: wake
//
// The wake-up is written under tasksMu too, because exit takes it before the
// descriptor is closed.
func (l *Loop) post(task func()) bool {
	l.tasksMu.Lock()
	defer l.tasksMu.Unlock()
	if l.closed {
		return false
	}
	l.tasks = append(l.tasks, task)
	if l.asleep.Load() {
		l.asleep.Store(false)
		l.poll.wake()
	}
	return true
}

// fallAsleep notes that the loop is going to sleep, unless there are tasks.
func (l *Loop) fallAsleep() bool {
	l.tasksMu.Lock()
	defer l.tasksMu.Unlock()
	l.asleep.Store(len(l.tasks) == 0)
	return l.asleep.Load()
}

// takeTurns takes turns until the loop is stopped and empty.
func (l *Loop) takeTurns() {
	defer l.poll.close()
	l.turnMu.Lock()
	defer l.turnMu.Unlock()
	for {
		n := l.wait()
		l.turn++
		l.arrived = 0
		l.now = time.Since(l.start)
		for i := range n {
			l.handleEvent(i)
		}
		l.runTasks()
		if l.now >= l.nextSweep {
			l.sweep()
		}
		l.settle()
		l.callFlushed()
		l.publish()
		if l.stopping && l.exit() {
			return
		}
	}
}

// wait sleeps until there is something to do. An error of the poller is a
// broken process (no memory, descriptor closed by others): it is logged, and
// the loop goes on with its tasks rather than spin.
//
// While it sleeps, others may borrow the loop. If one ends a connection between
// the poll and the lock, what was found may be that one's, so the loop polls
// again: the other sockets still are what they were.
func (l *Loop) wait() int {
	if !l.fallAsleep() {
		return l.polled(l.poll.wait(false))
	}
	l.turnMu.Unlock()
	n, err := l.poll.wait(true)
	l.turnMu.Lock()
	l.asleep.Store(false)
	if err == nil && l.poll.stale() {
		n, err = l.poll.wait(false)
	}
	return l.polled(n, err)
}

func (l *Loop) polled(n int, err error) int {
	if err != nil {
		l.cfg.Log.Error("event loop cannot wait", zap.Int("loop", l.index), zap.Error(err))
		time.Sleep(10 * time.Millisecond)
	}
	return n
}

func (l *Loop) handleEvent(i int) {
	slot, readable, writable, broken := l.poll.event(i)
	if slot == wakeSlot {
		return
	}
	c := l.slots[slot]
	switch {
	case c == nil || c.state == stateDead:
		return
	case c.state == stateArriving:
		l.arriveSafely(c)
		return
	}
	defer l.recoveredOn(c)
	if writable {
		c.blocked = false
		l.touch(c)
	}
	if readable {
		l.read(c, broken)
	}
}

// read takes what one read of the socket gives.
func (l *Loop) read(c *Conn, broken bool) {
	if c.traits&newcomer != 0 {
		c.traits &^= newcomer
		defer l.joining.since(time.Now())
	}
	n, err := readFD(int(c.fd), l.readBuf)
	l.count.Reads++
	switch {
	case err != nil:
		c.inputEnded(err)
	case n > 0:
		c.received(l.readBuf[:n])
	case broken:
		c.die(pendingError(int(c.fd)), EndError)
	}
}

// runTasks runs the tasks posted so far, and reports whether there were any;
// those they post run in the next turn.
func (l *Loop) runTasks() bool {
	l.tasksMu.Lock()
	l.running, l.tasks = l.tasks, l.running[:0]
	l.tasksMu.Unlock()
	any := len(l.running) > 0
	for i, task := range l.running {
		l.running[i] = nil
		l.runTask(task)
	}
	if cap(l.running) > 4096 {
		l.running = nil // a burst's worth of memory is not kept
	}
	return any
}

func (l *Loop) runTask(task func()) {
	defer l.recovered("task")
	task()
}

// recovered, deferred, keeps a panic of the users' code from ending the
// process.
func (l *Loop) recovered(where string) {
	if r := recover(); r != nil {
		l.countPanic(where, r)
	}
}

// recoveredOn, deferred, has a bug that a connection's input meets end that connection, and nothing else.
func (l *Loop) recoveredOn(c *Conn) {
	if r := recover(); r != nil {
		l.countPanic("input", r)
		c.die(errPanicked, EndPanic)
	}
}

var errPanicked = errors.New("a bug was met; the log has it")

func (l *Loop) countPanic(where string, r any) {
	l.count.Panics++
	l.cfg.Log.Error("panic on event loop", zap.String("in", where), zap.Any("panic", r),
		zap.ByteString("stack", debug.Stack()))
}

// touch notes that c is to be flushed in this turn.
func (l *Loop) touch(c *Conn) {
	if !c.dirty {
		c.dirty = true
		l.dirty = append(l.dirty, c)
	}
}

// settle flushes every touched connection and finishes those that ended.
// Finishing calls handlers, which may touch others: so until nothing is left.
func (l *Loop) settle() {
	for len(l.dirty)+len(l.dying)+len(l.relieved) > 0 {
		l.flushDirty()
		l.relieveAll()
		for i := 0; i < len(l.dying); i++ {
			l.dying[i].finish()
			l.dying[i] = nil
		}
		l.dying = l.dying[:0]
	}
}

// flushDirty calls no handlers, so it is safe at any moment of a turn.
func (l *Loop) flushDirty() {
	for i := 0; i < len(l.dirty); i++ {
		c := l.dirty[i]
		l.dirty[i] = nil
		c.dirty = false
		c.flush()
		if c.aside > 0 && c.state == stateOpen && !c.isFull() {
			l.relieved = append(l.relieved, c)
		}
	}
	l.dirty = l.dirty[:0]
	l.staged = 0
}

// sweep enforces the timeouts of all connections.
func (l *Loop) sweep() {
	for _, c := range l.slots {
		switch {
		case c == nil || c.state == stateDead:
		case c.state == stateArriving:
			l.sweepArrival(c)
		default:
			c.expire(l.now)
		}
	}
	for _, f := range l.onTick {
		l.runTask(f)
	}
	l.nextSweep = l.now + l.tick
	if err := l.poll.alarm(l.start.Add(l.nextSweep)); err != nil {
		l.cfg.Log.Error("event loop cannot set its alarm", zap.Int("loop", l.index), zap.Error(err))
	}
}

// Witness has f called, on the loop, when a connection takes no more frames, and
// with unsent when it gives up frames that are queued; Conn.Queued shows these
// still. f may look at the connection and must not stage or close anything. It
// is set before the loop has connections.
func (l *Loop) Witness(f func(c *Conn, end End, unsent bool)) { l.witness = f }

// AfterFlush calls f once the turn has written what its sockets take. It may be
// called on the loop only; f must not stage anything.
func (l *Loop) AfterFlush(f func()) { l.flushed = append(l.flushed, f) }

func (l *Loop) callFlushed() {
	for i, f := range l.flushed {
		l.flushed[i] = nil
		l.runTask(f)
	}
	l.flushed = l.flushed[:0]
}

func (l *Loop) publish() {
	l.statsMu.Lock()
	l.published = l.count
	l.statsMu.Unlock()
	// Also in turns with a sweep: the last one to queue something may have found the budget at rest.
	if l.cfg.QueueBudget > 0 && (l.count.QueueBytes != l.reported || l.nextSweep == l.now+l.tick) {
		l.report()
	}
	if l.cfg.InputBudget > 0 && !l.shedding && l.count.InputBytes > l.inputShare() {
		l.shedding = true
		l.Post(l.shedInput)
	}
}

// stop ends all connections; stream connections finish when their goroutines
// have let go.
func (l *Loop) stop() {
	l.stopping = true
	for _, c := range l.slots {
		switch {
		case c == nil:
		case c.state == stateArriving:
			l.turnAway(c)
		default:
			c.die(ErrClosed, EndStopped)
		}
	}
}

// exit closes the task queue if nothing is left to do.
func (l *Loop) exit() bool {
	if len(l.freeSlots) < len(l.slots) {
		return false
	}
	l.tasksMu.Lock()
	defer l.tasksMu.Unlock()
	l.closed = len(l.tasks) == 0
	return l.closed
}

// enter gives c its slot.
func (l *Loop) enter(c *Conn) {
	if n := len(l.freeSlots); n > 0 {
		c.slot = int32(l.freeSlots[n-1])
		l.freeSlots = l.freeSlots[:n-1]
		l.slots[c.slot] = c
		return
	}
	c.slot = int32(len(l.slots))
	l.slots = append(l.slots, c)
}

func (l *Loop) leave(c *Conn) {
	l.slots[c.slot] = nil
	l.freeSlots = append(l.freeSlots, int(c.slot))
	l.load.Add(-1)
}

// takeBuffer gives an empty staging buffer, new ones with room for n bytes.
func (l *Loop) takeBuffer(n int) []byte {
	if k := len(l.free); k > 0 {
		b := l.free[k-1]
		l.free[k-1] = nil
		l.free = l.free[:k-1]
		l.freeBytes -= cap(b)
		return b
	}
	return make([]byte, 0, max(n, stagingSize))
}

func (l *Loop) giveBuffer(b []byte) {
	if cap(b) < stagingSize || cap(b) > maxStaging || l.freeBytes+cap(b) > maxFreeBytes {
		return
	}
	l.free = append(l.free, b[:0])
	l.freeBytes += cap(b)
}
