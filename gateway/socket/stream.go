package socket

import (
	"net"
	"slices"
	"sync/atomic"
	"time"
)

const (
	streamReadSize  = 4 << 10
	streamWriteSize = 16 << 10 // one write, one TLS record; each has Config.WriteTimeout
)

// stream is the rest of a connection that has no descriptor for the loop: TLS,
// or a system without epoll, or a mailbox, which has neither nc nor goroutines. The goroutine in Adopt reads and waits until the
// loop has consumed what it read; a goroutine that lives as long as there is
// something to write writes. Each ends by posting to the loop, so the loop
// knows when both have let go of nc.
type stream struct {
	nc       net.Conn
	stopped  atomic.Bool
	consumed chan struct{} // the loop is done with the reader's buffer
	finished chan struct{} // closed after Handler.Closed
	box      *Mailbox      // nil mostly

	// Owned by the loop.
	reading  bool
	writing  bool
	inFlight int    // bytes the writer has
	sending  []byte // what the writer has; not to be written to
}

func newStream(nc net.Conn) *stream {
	return &stream{nc: nc, consumed: make(chan struct{}, 1), finished: make(chan struct{})}
}

// kick makes both goroutines let go of nc. Close would not do: on a
// connection taken from an HTTP server it may do nothing.
//
// The writer sets a deadline of its own before each write. Either it sets it
// before the one here, which then holds, or it sees stopped afterwards.
func (s *stream) kick() {
	if s.box != nil {
		return
	}
	s.stopped.Store(true)
	_ = s.nc.SetDeadline(time.Unix(1, 0))
}

// read hands what it reads to the loop until the connection ends.
func (s *stream) read(c *Conn) {
	buf := make([]byte, streamReadSize)
	var n int
	hand := func() {
		if c.state != stateDead && n > 0 {
			c.loop.count.Reads++
			c.received(buf[:n])
		}
		s.consumed <- struct{}{}
	}
	var err error
	for err == nil && !s.stopped.Load() {
		if n, err = s.nc.Read(buf); n > 0 {
			c.loop.Post(hand)
			<-s.consumed
		}
	}
	c.loop.Post(func() {
		s.reading = false
		if err != nil {
			c.inputEnded(err)
		}
		s.letGo(c)
	})
}

// letGo tries to finish a dead connection, on the loop.
func (s *stream) letGo(c *Conn) {
	if c.state == stateDead {
		c.loop.dying = append(c.loop.dying, c)
	}
}

// flushStream gives the queue to a writer if none is running.
func (c *Conn) flushStream() {
	s := c.stream
	if c.state == stateDead || c.blocked {
		return
	}
	if s.box != nil {
		c.flushBox()
		return
	}
	if !c.fill() {
		c.drained()
		return
	}
	buf := c.out
	if c.held == heldShared {
		buf = slices.Clone(buf)
	}
	c.out, c.held = nil, heldNone
	c.blocked = true
	s.writing, s.inFlight, s.sending = true, len(buf), buf
	last := c.state == stateFailed
	timeout := c.loop.cfg.WriteTimeout
	go func() {
		n, err := s.write(buf, timeout)
		if err == nil && last {
			s.closeWrite()
		}
		c.loop.Post(func() { c.streamWritten(buf, n, err) })
	}()
}

// write writes buf in pieces. It runs off the loop.
func (s *stream) write(buf []byte, timeout time.Duration) (int, error) {
	done := 0
	for done < len(buf) {
		if err := s.nc.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
			return done, err
		}
		if s.stopped.Load() {
			return done, ErrClosed
		}
		n, err := s.nc.Write(buf[done:min(len(buf), done+streamWriteSize)])
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// closeWrite ends our side of the connection, where that can be done.
func (s *stream) closeWrite() {
	if nc, ok := unwrap(s.nc).(interface{ CloseWrite() error }); ok {
		_ = nc.CloseWrite()
	}
}

// streamWritten takes the writer's result, on the loop.
func (c *Conn) streamWritten(buf []byte, n int, err error) {
	l, s := c.loop, c.stream
	s.writing, s.inFlight, s.sending = false, 0, nil
	if len(c.out) <= l.cfg.SoftQueueBytes {
		c.over = 0
	}
	if err != nil {
		s.sending = slices.Clone(buf[n+frameTail(buf, 0, n):]) // for those who ask what became of it
	}
	c.blocked = false
	if c.extraTaken(n); len(c.out) == 0 {
		c.extra = 0
	}
	l.count.QueueBytes -= uint64(len(buf))
	l.count.BytesOut += uint64(n)
	l.count.Writes++
	l.giveBuffer(buf)
	if isTimeout(err) {
		c.die(ErrWriteTimeout, EndWriteTimeout)
	} else if err != nil {
		c.die(err, EndError)
	}
	l.touch(c)
	s.letGo(c)
}
