package socket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// maxArrivals is how many handshakes a loop serves in one turn: it has sockets to serve too.
const maxArrivals = 32

// maxPassed is how many connections may wait for the HTTP server. It takes them as they come, unless it has more to do than it can.
const maxPassed = 256

// Door says how Listen has the requests of those who connect served.
type Door struct {
	// Quick reports whether a request can be served on a loop: it is a
	// handshake, and Serve answers it without waiting for anybody. head is the
	// whole request, with nothing behind it.
	Quick func(head []byte) bool

	// Serve is the HTTP server's: it reads one request from the connection,
	// writes the answer and returns. If it makes the connection a WebSocket it
	// must call Arrival.Open; else the connection ends, and the answer should
	// say so. It may keep the connection, and close it as it likes, but must
	// not read or write it after it has returned.
	Serve func(net.Conn) error

	// Late reports whether the loops have too much to do already. Then the HTTP
	// server gets who connects, and can refuse them.
	Late func() bool

	// Most is how many connections may be before the end of their handshake,
	// and wait for the HTTP server. While there are as many, one more goes on each Pause: so those who
	// connect and say nothing do not lock others out.
	Most  int
	Pause time.Duration // see Most

	// Conns is how many connections there may be, with those that wait to go on.
	Conns int

	// Timeout is how long it may take from when a connection goes on to the end of its first request.
	Timeout time.Duration
}

// Listen takes over lis, if it is a plain TCP listener and this is Linux: it
// spreads those who connect over the loops, which serve handshakes, when it is their turn (see lobby). All other
// requests, and handshakes that come in pieces, go to the listener returned,
// which is for an HTTP server to serve. Otherwise lis is returned. It is to be
// called once.
//
// Between an HTTP server's accept and Adopt lie three goroutines, a second
// descriptor and some twenty system calls; here it is one read, one write and
// no goroutine but one that the HTTP server starts for each upgrade (churn:
// 0.30 → 0.27 CPU-s per 1000 cycles).
func (ls *Loops) Listen(lis net.Listener, door Door) (net.Listener, error) {
	tcp, ok := lis.(*net.TCPListener)
	if !ok {
		return lis, nil
	}
	file, err := listenFile(tcp)
	if errors.Is(err, errNotPollable) {
		return lis, nil
	} else if err != nil {
		return nil, fmt.Errorf("socket: listen: %w", err)
	}
	_ = lis.Close() // the socket lives on in file
	in := &Listener{file: file, addr: lis.Addr(), door: door, loops: ls, queued: make(chan struct{}, 1), closed: make(chan struct{})}
	in.lobby = newLobby(in)
	ls.listener.Store(in)
	ls.joined.Go(in.acceptAll)
	ls.joined.Go(in.lobby.empty)
	return in, nil
}

// Listener accepts connections and spreads them over the loops. It is a
// net.Listener for those that are not for them. Its methods may be called from
// any goroutine.
type Listener struct {
	file   *os.File // unlike a listener of the net package it can be waited for
	addr   net.Addr
	door   Door
	loops  *Loops
	lobby  *lobby
	queued chan struct{}
	closed chan struct{}
	close  sync.Once

	shortage Shortage // of descriptors or memory

	waiting  atomic.Int64  // len(passed)
	overflow atomic.Uint64 // connections that were closed because so many wait
	mu       sync.Mutex
	passed   []passed
}

// passed is a connection that is not for the loops, with what was read of it.
type passed struct {
	file  *os.File
	head  []byte
	until time.Time // for its first request
}

// Addr implements net.Listener.
func (in *Listener) Addr() net.Addr { return in.addr }

// Close implements net.Listener. When it returns, nobody can connect any more. Closing again does nothing.
func (in *Listener) Close() error {
	var err error
	in.close.Do(func() {
		close(in.closed)
		err = in.file.Close() // waits for accept
		in.mu.Lock()
		defer in.mu.Unlock()
		for _, p := range in.passed {
			_ = p.file.Close()
		}
		in.passed = nil
		in.waiting.Store(0)
	})
	return err
}

// isClosed reports whether the listener is closed.
func (in *Listener) isClosed() bool {
	select {
	case <-in.closed:
		return true
	default:
		return false
	}
}

// acceptAll accepts until the listener is closed.
func (in *Listener) acceptAll() {
	defer close(in.lobby.queue)
	raw, err := in.file.SyscallConn()
	for err == nil {
		var lack error
		err = raw.Read(func(fd uintptr) bool {
			lack = in.accept(int(fd))
			return lack != nil
		})
		if err == nil {
			in.shortage.Wait(in.loops.cfg.Log, lack)
		}
	}
}

// accept accepts all who wait. An error is a lack of something.
func (in *Listener) accept(lis int) error {
	for !in.isClosed() {
		fd, err := acceptFD(lis)
		switch {
		case err == nil:
			in.lobby.enter(fd)
		case isLack(err):
			return err
		case isNobody(err):
			return nil
		} // else that one client is gone already
	}
	return nil
}

// admit lets a connection go on. It owns the descriptor.
func (in *Listener) admit(fd int) {
	if in.door.Late() {
		in.pass(fd, nil, in.loops.now()+in.door.Timeout)
		return
	}
	l := in.loops.emptiest()
	l.arriving.Add(1) // before the loop gets to it: else a crowd would all go to one loop that is busy
	if !l.run(nil, func() { l.welcome(in, fd) }) {
		l.arriving.Add(-1)
		closeFD(fd)
	}
}

// Accept implements net.Listener. After an error that is not net.ErrClosed, a lack of descriptors most likely, it can be
// called again; one connection is lost then, and its descriptors with it.
func (in *Listener) Accept() (net.Conn, error) {
	for {
		in.mu.Lock()
		if len(in.passed) > 0 {
			p := in.passed[0]
			in.passed[0] = passed{}
			in.passed = in.passed[1:]
			in.waiting.Add(-1)
			in.mu.Unlock()
			nc, err := net.FileConn(p.file)
			_ = p.file.Close()
			if err != nil {
				return nil, err
			}
			c, err := newReadConn(nc, p)
			if err != nil {
				_ = nc.Close()
				return nil, err
			}
			return c, nil
		}
		in.mu.Unlock()
		select {
		case <-in.queued:
		case <-in.closed:
			return nil, net.ErrClosed
		}
	}
}

// pass gives a connection to Accept, or ends it if too many wait there. It owns fd. until, on the loops' clock, is when
// its first request must be whole.
func (in *Listener) pass(fd int, head []byte, until time.Duration) {
	in.mu.Lock()
	defer in.mu.Unlock()
	select {
	case <-in.closed:
		closeFD(fd)
		return
	default:
	}
	if len(in.passed) >= maxPassed {
		in.overflow.Add(1)
		closeFD(fd)
		return
	}
	in.waiting.Add(1)
	in.passed = append(in.passed, passed{os.NewFile(uintptr(fd), "client"), head, in.loops.loops[0].start.Add(until)})
	select {
	case in.queued <- struct{}{}:
	default:
	}
}

// readConn is a connection of which something was read already. The time that its first request has does not begin anew
// with its second half: until the first answer, no read deadline is later than until.
type readConn struct {
	net.Conn
	head     []byte
	until    time.Time
	asked    time.Time // the read deadline that the HTTP server wants
	answered bool
}

func newReadConn(nc net.Conn, p passed) (*readConn, error) {
	c := &readConn{Conn: nc, head: p.head, until: p.until}
	return c, c.SetReadDeadline(time.Time{})
}

func (c *readConn) Write(p []byte) (int, error) {
	if !c.answered {
		c.answered = true
		if err := c.Conn.SetReadDeadline(c.asked); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

// SetReadDeadline implements net.Conn.
func (c *readConn) SetReadDeadline(t time.Time) error {
	c.asked = t
	if !c.answered && (t.IsZero() || t.After(c.until)) {
		t = c.until
	}
	return c.Conn.SetReadDeadline(t)
}

// SetDeadline implements net.Conn.
func (c *readConn) SetDeadline(t time.Time) error {
	return errors.Join(c.Conn.SetWriteDeadline(t), c.SetReadDeadline(t))
}

func (c *readConn) Read(p []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(p, c.head)
		if c.head = c.head[n:]; len(c.head) == 0 {
			c.head = nil
		}
		return n, nil
	}
	return c.Conn.Read(p)
}

// UnsafeConn gives the connection below, for Adopt.
func (c *readConn) UnsafeConn() net.Conn { return c.Conn }
