package socket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// errNotPollable says that a connection has no descriptor for the loops.
var errNotPollable = errors.New("socket: not a plain socket")

// Adopt takes over an upgraded connection. nc is the connection as the HTTP
// server hands it over: bytes that the server has read already come out of its
// Read first, and if it has a method UnsafeConn() net.Conn that gives the
// underlying connection. open is called once, on the loop chosen, and gives
// the handler; it may already use the Conn.
//
// A plain TCP (or Unix) socket is duplicated: Adopt returns at once, and the
// caller lets the HTTP server close nc. It must do so soon, but need not
// hurry. Every other connection, and every connection on systems other than
// Linux, is served through nc itself, and Adopt blocks until the connection
// has ended: the calling goroutine is the one that reads. In both cases
// nobody else may read or write nc from the call on, and Adopt does not close
// it.
//
// After an error the connection is still the caller's to close, and no Handler
// method was or will be called: ErrClosed after Close, or a shortage of
// descriptors or memory, or a failure of open (a panic, or nil for the
// handler).
func (ls *Loops) Adopt(nc net.Conn, open func(*Conn) Handler) error {
	fd, err := dupSocket(unwrap(nc))
	if err != nil && !errors.Is(err, errNotPollable) {
		return err
	}
	var s *stream
	var early []byte
	if err != nil {
		s = newStream(nc)
		if err := nc.SetDeadline(time.Time{}); err != nil {
			return fmt.Errorf("socket: adopt: %w", err)
		}
	} else if early, err = buffered(nc); err != nil {
		closeFD(fd)
		return fmt.Errorf("socket: adopt: %w", err)
	}
	l := ls.pick()
	c := &Conn{id: ls.lastID.Add(1), loop: l, stream: s, fd: int32(fd)}
	answer := make(chan error, 1)
	if !l.run(nil, func() { answer <- l.adopt(c, early, open) }) {
		answer <- ErrClosed
		if s == nil {
			closeFD(fd)
		}
	}
	if err := <-answer; err != nil {
		l.load.Add(-1)
		return err
	}
	if s != nil {
		s.read(c)
		<-s.finished
	}
	return nil
}

// unwrap gives the connection below the wrappers of an HTTP server and its listener.
func unwrap(nc net.Conn) net.Conn {
	for {
		w, ok := nc.(interface{ UnsafeConn() net.Conn })
		if !ok {
			return nc
		}
		nc = w.UnsafeConn()
	}
}

// buffered drains what nc holds in memory. With its deadline in the past nc
// gives that, then a timeout, and does not touch the socket.
func buffered(nc net.Conn) ([]byte, error) {
	if err := nc.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return nil, err
	}
	var early []byte
	buf := make([]byte, 512)
	for {
		n, err := nc.Read(buf)
		early = append(early, buf[:n]...)
		if isTimeout(err) {
			return early, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// adopt enters the connection, on the loop. It owns the descriptor: on an
// error it closes it.
func (l *Loop) adopt(c *Conn, early []byte, open func(*Conn) Handler) error {
	if l.stopping {
		if c.stream == nil {
			closeFD(int(c.fd))
		}
		return ErrClosed
	}
	l.enter(c)
	if c.stream == nil {
		if err := l.poll.add(int(c.fd), int(c.slot)); err != nil {
			l.forget(c)
			return fmt.Errorf("socket: adopt: %w", err)
		}
	}
	return l.begin(c, early, open)
}

// begin opens a connection that was entered, and hands over what was read of
// it. On an error it gives up the connection.
func (l *Loop) begin(c *Conn, early []byte, open func(*Conn) Handler) error {
	c.last = l.now
	if err := c.open(open); err != nil {
		l.forget(c)
		return fmt.Errorf("socket: adopt: %w", err)
	}
	l.count.Open++
	l.count.Accepted++
	if c.stream != nil && c.stream.box == nil {
		c.stream.reading = true
	}
	if len(early) > 0 {
		c.received(early)
	}
	l.touch(c)
	return nil
}

// open calls open with the queue blocked: nothing is written for a connection
// that is not adopted in the end.
func (c *Conn) open(open func(*Conn) Handler) (err error) {
	c.blocked = true
	defer func() {
		c.blocked = c.box() != nil
		if r := recover(); r != nil {
			c.loop.countPanic("open", r)
			err = errors.New("handler panicked when opened")
		}
	}()
	if c.handler = open(c); c.handler == nil {
		return errors.New("no handler")
	}
	return nil
}

// forget undoes what an adoption that failed has done.
func (l *Loop) forget(c *Conn) {
	c.state = stateDead
	c.dropQueue()
	if c.stream == nil {
		l.poll.remove(int(c.fd)) // without a shutdown: if the HTTP server has a descriptor too, it may have something to say
		c.fd = -1
	}
	l.slots[c.slot] = nil
	l.freeSlots = append(l.freeSlots, int(c.slot))
}
