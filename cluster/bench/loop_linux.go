package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// loop is the client: one epoll loop for all connections of a measurement. One goroutine at a time may use it.
type loop struct {
	// Static.
	epoll, timer int
	path         string
	handshakes   map[string][]byte // by host and port
	beat         []byte

	conns   []*conn // by slot; a free slot is nil
	events  []unix.EpollEvent
	buf     []byte // what every read goes into; a read leaves nothing here that is still needed
	now     int64  // monotonic, when poll last woke up
	armed   int64  // what the timer is set to
	nextAt  int64  // when the next heartbeats are due
	nextOne int    // the slot that sends the next one

	// The running count. Whoever measures sets it anew at will.
	latency    *histogram
	deliveries int64 // first arrivals of messages
	lastAt     int64 // when the last delivery or answer to a publish came
	faults     Faults

	// What the load wants to know. joined and left get every connection that has, acked every answer to a publish,
	// ended every connection that failed or that the server closed; unset, that is an error. None of them may open
	// the connection again: the frames of the old one are still being read.
	joined func(*conn) error
	left   func(*conn) error
	acked  func(c *conn, ok bool, text []byte) error
	ended  func(c *conn, was state, why error) error
}

// conn is one client connection. It owns its descriptor and is the loop's.
//
//	connecting ──writable──► upgrading ──101──► joining ──reply──► joined ──leave──► leaving ──reply──► closing ──► gone
type conn struct {
	fd, slot int
	state    state
	addr     *net.TCPAddr
	host     string
	topic    *topic
	tracker  tracker

	rest []byte // the start of a frame whose end has not arrived
	out  []byte // what the socket would not take

	publisher   *publisher // nil for most
	unmeasured  bool       // its latency does not count
	smallBuffer bool       // of its socket
	began       int64      // when it began to connect
}

type state uint8

const (
	connecting state = iota
	upgrading
	joining
	joined
	leaving
	closing
	gone
)

var stateNames = [...]string{"connecting", "upgrading", "joining", "joined", "leaving", "closing", "gone"}

func (s state) String() string { return stateNames[s] }

// topic is one topic of a load, with its connections.
type topic struct {
	name        string
	delivery    delivery
	join, leave []byte // frames
	filler      []byte // of a Stalled load
	subscribers []*tracker
	publishers  []*publisher
	sent        []uint32 // by each publisher
}

// publisher is a connection that publishes too.
type publisher struct {
	conn  *conn
	topic *topic
	index int // in topic.publishers and topic.sent
	frame *publishFrame
}

const (
	beatPeriod = 25 * time.Second // each connection sends a heartbeat this often
	beatEvery  = time.Second      // some of them do, each time
	maxEvents  = 128
)

func newLoop(path string) (*loop, error) {
	l := &loop{
		path: path, handshakes: make(map[string][]byte), beat: beatFrame(), latency: new(histogram),
		events: make([]unix.EpollEvent, maxEvents), buf: make([]byte, 256<<10),
	}
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if l.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		_ = unix.Close(l.epoll)
		return nil, fmt.Errorf("timer: %w", err)
	}
	if err := l.watch(unix.EPOLL_CTL_ADD, l.timer, timerSlot, unix.EPOLLIN); err != nil {
		l.close()
		return nil, err
	}
	l.now = clock()
	l.nextAt = l.now + int64(beatEvery)
	return l, nil
}

// timerSlot stands for the timer where an event has a connection's slot.
const timerSlot = -1

// close closes all connections without a word.
func (l *loop) close() {
	for _, c := range l.conns {
		if c != nil && c.state != gone {
			_ = unix.Close(c.fd)
		}
	}
	l.conns = nil
	_ = unix.Close(l.timer)
	_ = unix.Close(l.epoll)
}

// clock returns the monotonic time in nanoseconds.
func clock() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // Linux has had this clock for decades
	}
	return ts.Nano()
}

// watch tells epoll what to report of a descriptor. The slot comes back with each event.
func (l *loop) watch(op, fd, slot int, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(slot)}
	if err := unix.EpollCtl(l.epoll, op, fd, &ev); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// poll waits until something arrives or until the deadline, at most a tenth of a second, and handles what has arrived.
// tick runs first thing after the wait, before the events: what it publishes is stamped with the time of waking up, and
// no event handled after it can be older.
func (l *loop) poll(ctx context.Context, deadline int64, tick func() error) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	deadline = min(deadline, l.now+int64(100*time.Millisecond))
	wait := 0
	if deadline > clock() {
		wait = -1
		if err := l.arm(deadline); err != nil {
			return err
		}
	}
	n, err := unix.EpollWait(l.epoll, l.events, wait)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("epoll: %w", err)
	}
	l.now = clock()
	if tick != nil {
		if err := tick(); err != nil {
			return err
		}
	}
	for _, ev := range l.events[:max(n, 0)] {
		if ev.Fd == timerSlot {
			l.drainTimer()
			continue
		}
		if err := l.handle(l.conns[ev.Fd], ev.Events); err != nil {
			return err
		}
	}
	return l.beats()
}

// arm sets the timer.
func (l *loop) arm(deadline int64) error {
	if l.armed == deadline {
		return nil
	}
	l.armed = deadline
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(deadline)}
	if err := unix.TimerfdSettime(l.timer, unix.TFD_TIMER_ABSTIME, &spec, nil); err != nil {
		return fmt.Errorf("timer: %w", err)
	}
	return nil
}

func (l *loop) drainTimer() {
	var ticks [8]byte
	_, _ = unix.Read(l.timer, ticks[:]) // EAGAIN: set anew since
	l.armed = 0
}

// beats sends the heartbeats that are due, so that no server takes a quiet connection for dead.
func (l *loop) beats() error {
	if l.now < l.nextAt {
		return nil
	}
	l.nextAt = l.now + int64(beatEvery)
	share := len(l.conns)*int(beatEvery)/int(beatPeriod) + 1
	for range min(share, len(l.conns)) {
		l.nextOne = (l.nextOne + 1) % len(l.conns)
		if c := l.conns[l.nextOne]; c != nil && c.state == joined {
			if err := l.send(c, l.beat); err != nil {
				return l.fail(c, err)
			}
		}
	}
	return nil
}

// handle handles one event of a connection.
func (l *loop) handle(c *conn, events uint32) error {
	if c == nil || c.state == gone {
		return nil
	}
	if c.state == connecting {
		return l.connected(c)
	}
	if events&unix.EPOLLOUT != 0 {
		if err := l.flush(c); err != nil {
			return l.fail(c, err)
		}
	}
	if events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		return l.readable(c)
	}
	return nil
}

// readable reads once and handles every frame that is there as a whole. Epoll reports what is left over again.
func (l *loop) readable(c *conn) error {
	have := copy(l.buf, c.rest)
	n, err := unix.Read(c.fd, l.buf[have:])
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return l.fail(c, err)
	case n == 0:
		return l.fail(c, errors.New("connection closed by the server"))
	}
	data := l.buf[:have+n]
	if c.state == upgrading {
		size, err := parseUpgrade(data)
		if err != nil {
			return l.fail(c, err)
		}
		if size > 0 {
			c.state = joining
			if err := l.send(c, c.topic.join); err != nil {
				return l.fail(c, err)
			}
		}
		data = data[size:]
	}
	for c.state != upgrading && c.state != gone && len(data) > 0 {
		f, size, err := parseFrame(data, false)
		if err != nil {
			return l.fail(c, err)
		}
		if size == 0 {
			break
		}
		if err := l.received(c, f); err != nil {
			return err
		}
		data = data[size:]
	}
	if c.state != gone {
		c.rest = append(c.rest[:0], data...)
	}
	return nil
}

// received handles one frame.
func (l *loop) received(c *conn, f frame) error {
	if f.op == opText {
		if payload := c.topic.delivery.payload(f.payload); payload != nil {
			l.delivered(c, payload)
			return nil
		}
		if c.topic.delivery.fills(f.payload) {
			return nil
		}
		return l.answered(c, f.payload)
	}
	switch f.op {
	case opPing:
		if err := l.send(c, appendClientFrame(nil, opPong, f.payload)); err != nil {
			return l.fail(c, err)
		}
	case opClose:
		return l.fail(c, errors.New("server: "+closeText(f.payload)))
	default:
		l.faults.Malformed++
	}
	return nil
}

// delivered checks and counts a delivery. It is the path that everything here is about: it allocates nothing.
func (l *loop) delivered(c *conn, payload []byte) {
	s, ok := readStamp(payload)
	if !ok {
		l.faults.Malformed++
		return
	}
	if c.tracker.observe(&l.faults, s.publisher, s.sequence, c.topic.sent) {
		l.deliveries++
		l.lastAt = l.now
		if !c.unmeasured {
			l.latency.add(l.now - s.time)
		}
	}
}

// answered handles a text frame that is no delivery.
func (l *loop) answered(c *conn, text []byte) error {
	r, ok := parseReply(text)
	if !ok {
		switch control, failed := isControl(text); {
		case failed || control && c.state == joined:
			return l.fail(c, fmt.Errorf("channel ended by the server: %.200s", text))
		case !control:
			l.faults.Malformed++
		}
		return nil
	}
	switch ref := string(r.ref); {
	case ref == beatRef:
	case ref == joinRef && c.state == joining:
		if !r.ok {
			return l.fail(c, fmt.Errorf("join refused: %.200s", text))
		}
		c.state = joined
		if l.joined != nil {
			return l.joined(c)
		}
	case ref == leaveRef && c.state == leaving:
		if !r.ok {
			return l.fail(c, fmt.Errorf("leave refused: %.200s", text))
		}
		return l.left(c)
	case c.publisher != nil && len(ref) == sequenceDigits:
		seq, ok := digits(r.ref)
		if !ok || seq >= uint64(c.topic.sent[c.publisher.index]) {
			l.faults.Malformed++
			return nil
		}
		l.lastAt = l.now
		return l.acked(c, r.ok, text)
	default:
		l.faults.Malformed++
	}
	return nil
}

// publish sends the publisher's next message.
func (l *loop) publish(p *publisher) error {
	seq := p.topic.sent[p.index]
	p.topic.sent[p.index]++
	if err := l.send(p.conn, p.frame.stamp(seq, l.now)); err != nil {
		return l.fail(p.conn, err)
	}
	return nil
}

// send writes a frame, or keeps what the socket does not take until it does.
func (l *loop) send(c *conn, frame []byte) error {
	if len(c.out) > 0 {
		c.out = append(c.out, frame...)
		return nil
	}
	n, err := unix.Write(c.fd, frame)
	if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
		return err
	}
	if n = max(n, 0); n == len(frame) {
		return nil
	}
	c.out = append(c.out, frame[n:]...)
	return l.watch(unix.EPOLL_CTL_MOD, c.fd, c.slot, unix.EPOLLIN|unix.EPOLLOUT)
}

// flush writes what send has kept.
func (l *loop) flush(c *conn) error {
	n, err := unix.Write(c.fd, c.out)
	if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
		return err
	}
	c.out = append(c.out[:0], c.out[max(n, 0):]...)
	if len(c.out) > 0 {
		return nil
	}
	return l.watch(unix.EPOLL_CTL_MOD, c.fd, c.slot, unix.EPOLLIN)
}

// fail ends a connection that the client did not want to end. A load that has no ended takes it as its own failure.
func (l *loop) fail(c *conn, why error) error {
	was := c.state
	l.drop(c)
	why = fmt.Errorf("connection %d to %s (%s): %w", c.slot, c.host, was, why)
	if l.ended == nil {
		return why
	}
	return l.ended(c, was, why)
}

// drop closes a connection's socket. Its slot stays.
func (l *loop) drop(c *conn) {
	if c.state == gone {
		return
	}
	c.state = gone
	_ = unix.Close(c.fd)
	c.rest, c.out = c.rest[:0], c.out[:0]
}
