package socket

import (
	"bytes"
	"errors"
	"io"
	"net"
	"time"

	"go.uber.org/zap"
)

// Arrival is a connection whose handshake is served on a loop, as the HTTP
// server sees it: it can read that one request and write the answer.
type Arrival struct {
	fd     int
	head   []byte // of the request, what is still to be read; the loop's own memory
	failed error  // what writing came to
	open   func(*Conn) Handler
}

// Arrived gives the connection below nc if it is served on a loop.
func Arrived(nc net.Conn) (a *Arrival, ok bool) {
	a, ok = unwrap(nc).(*Arrival)
	return a, ok
}

// Open makes the connection a WebSocket once the answer to the handshake is
// written, as Loops.Adopt does: open is called then, on the loop. It is to be
// called by whoever serves the handshake, before Door.Serve returns.
func (a *Arrival) Open(open func(*Conn) Handler) { a.open = open }

// Read gives the request, then io.EOF.
func (a *Arrival) Read(p []byte) (int, error) {
	if len(a.head) == 0 {
		return 0, io.EOF
	}
	n := copy(p, a.head)
	a.head = a.head[n:]
	return n, nil
}

// Write writes at once. The socket is new and takes any answer to a handshake.
func (a *Arrival) Write(p []byte) (int, error) {
	n, err := writeFD(a.fd, p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		a.failed = err
	}
	return n, err
}

// Close does nothing: the loop sees to that when the handshake is served.
func (a *Arrival) Close() error { return nil }

// LocalAddr implements net.Conn.
func (a *Arrival) LocalAddr() net.Addr { return localAddr(a.fd) }

// RemoteAddr implements net.Conn. It asks the socket each time.
func (a *Arrival) RemoteAddr() net.Addr { return remoteAddr(a.fd) }

// SetDeadline and its like do nothing: neither Read nor Write waits.
func (a *Arrival) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing.
func (a *Arrival) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing.
func (a *Arrival) SetWriteDeadline(time.Time) error { return nil }

// welcome enters an accepted connection, which is counted as arriving. It owns the descriptor.
func (l *Loop) welcome(in *Listener, fd int) {
	if l.stopping {
		l.arriving.Add(-1)
		closeFD(fd)
		return
	}
	c := &Conn{loop: l, fd: int32(fd), traits: sole, state: stateArriving, deadline: l.now + in.door.Timeout}
	l.enter(c)
	if err := l.poll.add(fd, int(c.slot)); err != nil {
		l.cfg.Log.Warn("cannot watch a connection", zap.Error(err))
		l.turnAway(c)
	}
}

// silence is after what time an arrival that has said nothing does not count any more: waiting for it costs nothing, so it
// keeps nobody out.
const silence = time.Second

// sweepArrival enforces an arrival's timeouts.
func (l *Loop) sweepArrival(c *Conn) {
	came := c.deadline - l.all.listener.Load().door.Timeout
	switch {
	case l.now >= c.deadline:
		if c.traits&refused == 0 {
			l.count.Unserved++
		}
		l.turnAway(c)
	case c.traits&silent == 0 && l.now-came >= silence:
		c.traits |= silent
		l.arriving.Add(-1)
	}
}

// arriveSafely is arrive; a bug that is met there ends the connection.
func (l *Loop) arriveSafely(c *Conn) {
	defer func() {
		if r := recover(); r != nil {
			l.countPanic("arrival", r)
			if l.slots[c.slot] == c {
				l.turnAway(c)
			}
		}
	}()
	l.arrive(c)
}

// arrive reads what a connection says first, and serves it or passes it on. A
// loop that has served enough in this turn finds it again in the next.
func (l *Loop) arrive(c *Conn) {
	if l.arrived >= maxArrivals {
		return
	}
	n, err := readFD(int(c.fd), l.readBuf)
	l.count.Reads++
	switch {
	case err != nil:
		l.turnAway(c)
		return
	case n == 0:
		return
	}
	if c.traits&refused != 0 {
		return // it should go
	}
	in, head := l.all.listener.Load(), l.readBuf[:n]
	if bytes.Index(head, headEnd) != n-len(headEnd) || !in.door.Quick(head) {
		l.passOn(c, in, bytes.Clone(head))
		return
	}
	l.arrived++
	l.greet(c, in, head)
}

// greet serves the handshake of a connection that arrives.
func (l *Loop) greet(c *Conn, in *Listener, head []byte) {
	defer l.greeting.since(time.Now())
	a := &Arrival{fd: int(c.fd), head: head}
	err := l.serve(in, a)
	switch {
	case err != nil || a.failed != nil:
		l.turnAway(c)
	case a.open != nil:
		l.load.Add(1)
		l.met(c)
		c.id, c.state, c.deadline = l.all.lastID.Add(1), stateOpen, 0
		c.traits |= newcomer
		if err := l.begin(c, nil, a.open); err != nil {
			l.load.Add(-1)
			l.cfg.Log.Warn("connection not opened", zap.Error(err))
		}
	default:
		l.refuse(c)
	}
}

// refuse ends a connection whose request was answered with something else than a WebSocket. The answer would be lost if
// the client has sent more and the socket were closed at once: so our side says that this is all, and what comes is
// dropped until the client has gone, or for a second.
func (l *Loop) refuse(c *Conn) {
	l.met(c)
	c.traits |= refused | silent // it counts as arriving no more
	c.deadline = min(c.deadline, l.now+refusalTime)
	closeWriteFD(int(c.fd))
}

// refusalTime is for how long a refused client may take to go.
const refusalTime = time.Second

var headEnd = []byte("\r\n\r\n")

// serve serves a handshake.
func (l *Loop) serve(in *Listener, a *Arrival) (err error) {
	defer func() {
		if r := recover(); r != nil {
			l.countPanic("handshake", r)
			err = errors.New("handshake panicked")
		}
	}()
	return in.door.Serve(a)
}

// turnAway ends a connection that has not become a WebSocket.
func (l *Loop) turnAway(c *Conn) {
	l.poll.release(int(c.fd), true)
	l.unmeet(c)
}

// passOn gives a connection to the HTTP server, with what was read of it.
func (l *Loop) passOn(c *Conn, in *Listener, head []byte) {
	l.poll.forget(int(c.fd))
	in.pass(int(c.fd), head, c.deadline)
	l.unmeet(c)
}

// unmeet takes a connection that has not become a WebSocket out of the loop.
func (l *Loop) unmeet(c *Conn) {
	c.state, c.fd = stateDead, -1
	l.slots[c.slot] = nil
	l.freeSlots = append(l.freeSlots, int(c.slot))
	l.met(c)
}

// met counts a connection as arriving no more.
func (l *Loop) met(c *Conn) {
	if c.traits&silent == 0 {
		l.arriving.Add(-1)
	}
	c.traits &^= silent
}
