package link

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ringcast/ringcast/shared/certs"
	"github.com/ringcast/ringcast/shared/nonblock"
)

// ErrSlowPeer ends a lane whose peer leaves more bytes unread than the lane may queue, or takes none for WriteTimeout.
var ErrSlowPeer = errors.New("link: peer does not read fast enough")

// ErrSilentPeer ends a lane whose peer sends nothing, not even pings.
var ErrSilentPeer = errors.New("link: peer is silent")

// ErrNotGreeted ends a lane whose peer did not introduce itself within the time and the bytes allowed for that.
var ErrNotGreeted = errors.New("link: peer did not introduce itself")

const (
	// helloBytes bounds what is read before a Hello, or before the first message of a handover, which holds the largest
	// ring there can be: a stranger's bytes never grow a buffer of ours beyond that.
	helloBytes = 32 << 10
	// drainChunk is the most that one write of drain gives to the kernel.
	drainChunk = 64 << 10
)

// conn is a lane's transport: a net.Conn whose Write never waits for the peer.
//
// dRPC v1.0.0 sends from the caller's goroutine, knows no write deadline, and after a failed write leaves the
// connection open and reports later sends as done. So conn writes what the kernel takes at once, keeps the rest
// (bounded) for a goroutine that lives only while the socket is full, and closes itself on the first failure, which
// ends the receive loop and with it the lane.
type conn struct {
	net.Conn

	// Static.
	raw          syscall.RawConn // nil where there is no file descriptor, e.g. net.Pipe
	writeTimeout time.Duration
	silence      time.Duration
	maxQueued    int
	closed       func()      // called once, when the connection is closed; must not wait
	hello        *time.Timer // closes the connection unless stopped

	unproven atomic.Int64 // bytes that may still be read before prove; negative from then on

	reading attempt // owned by the caller of Read
	intake  intake

	// Set before anything is received.
	tls     *tls.Conn   // over wire, nil in plain text
	peer    *certs.Peer // what the peer has proved; nil in plain text
	dialing bool        // this is the end that has dialed
	spoken  bool        // the peer has sent something; owned by the caller of Read

	// Owned by the caller of Receive.
	served  bool // the accepting end has had its one stream
	refused bool // the peer was answered with a Refusal

	drains sync.WaitGroup // drain; nothing is added once err is set

	// Invariant: len(queued)+writing <= maxQueued.
	mu       sync.Mutex
	queued   []byte // what neither the kernel nor drain has taken, in order
	writing  int    // bytes that drain has taken out of queued and the kernel has not taken
	draining bool   // drain runs; only it writes to the socket
	attempt  attempt
	err      error // why the connection was closed
}

// newConn makes a conn of nc. What its peer may send and how long it may take are bounded until prove is called.
func newConn(nc net.Conn, cfg Config, closed func()) *conn {
	c := &conn{
		Conn: nc, writeTimeout: cfg.WriteTimeout, silence: cfg.Silence, maxQueued: cfg.MaxQueued,
		closed: closed,
	}
	c.unproven.Store(helloBytes)
	if tcp, ok := nc.(*net.TCPConn); ok {
		// A peer whose host is gone is found dead after 20 s of silence; when there is something to write, WriteTimeout
		// finds it.
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 3})
	}
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			c.raw, c.attempt.do, c.reading.do = raw, c.attempt.write, c.reading.read
		}
	}
	// Not a read deadline: dRPC stops reading when a stranger sends it a message that belongs to no stream.
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hello = time.AfterFunc(cfg.HelloTimeout, func() { c.fail(fmt.Errorf("%w in time", ErrNotGreeted)) })
	return c
}

// Write takes all of p or fails. It never waits: bytes that the kernel does not take now are queued.
func (c *conn) Write(p []byte) (int, error) {
	if c.tls != nil {
		return c.tls.Write(p)
	}
	return c.write(p)
}

// write is Write of what goes over the wire as it is.
func (c *conn) write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	rest := p
	if !c.draining {
		n, err := c.tryWrite(p)
		if err != nil {
			return n, c.failLocked(err)
		}
		rest = p[n:]
	}
	if len(rest) == 0 {
		return len(p), nil
	}
	if waiting := len(c.queued) + c.writing; waiting+len(rest) > c.maxQueued {
		return 0, c.failLocked(fmt.Errorf("%w: %d bytes queued", ErrSlowPeer, waiting))
	}
	c.queued = append(c.queued, rest...)
	if !c.draining {
		c.draining = true
		c.drains.Go(c.drain)
	}
	return len(p), nil
}

// tryWrite writes what the socket takes without waiting.
func (c *conn) tryWrite(p []byte) (int, error) {
	if c.raw == nil {
		return 0, nil
	}
	c.attempt.p = p
	err := c.raw.Write(c.attempt.do)
	c.attempt.p = nil
	switch {
	case err != nil:
		return 0, err
	case errors.Is(c.attempt.err, syscall.EAGAIN):
		return 0, nil
	}
	return max(c.attempt.n, 0), c.attempt.err
}

// attempt is one system call of tryWrite or readSocket; it lives in the conn so that these allocate nothing.
type attempt struct {
	do  func(fd uintptr) bool
	p   []byte
	n   int
	err error
}

func (a *attempt) write(fd uintptr) bool {
	a.n, a.err = nonblock.Write(int(fd), a.p)
	return true // never wait for writability here
}

// read waits for readability.
func (a *attempt) read(fd uintptr) bool {
	a.n, a.err = nonblock.Read(int(fd), a.p)
	return !errors.Is(a.err, syscall.EAGAIN)
}

// drain writes the queue until it is empty or the connection fails. Only one runs at a time; it ends within
// writeTimeout of the last byte that the peer took.
func (c *conn) drain() {
	var spare []byte
	for {
		batch := c.take(spare)
		if batch == nil {
			return
		}
		for rest := batch; len(rest) > 0; {
			_ = c.SetWriteDeadline(time.Now().Add(c.writeTimeout))
			n, err := c.Conn.Write(rest[:min(len(rest), drainChunk)])
			if !c.wrote(n, err) {
				break
			}
			rest = rest[n:]
		}
		spare = batch[:0]
	}
}

// take gives the queue to drain and goes on queueing in spare. It returns nil when drain is done.
func (c *conn) take(spare []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queued) == 0 || c.err != nil {
		c.draining, c.queued, c.writing = false, nil, 0 // an idle lane keeps no buffer
		_ = c.SetWriteDeadline(time.Time{})             // a passed deadline would fail tryWrite too
		return nil
	}
	batch := c.queued
	c.queued, c.writing = spare, len(batch)
	return batch
}

// wrote accounts for a write of drain; it reports false when that is to stop.
func (c *conn) wrote(n int, err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing -= n
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if n > 0 {
			return true
		}
		err = fmt.Errorf("%w: it took nothing for %v", ErrSlowPeer, c.writeTimeout)
	}
	if err != nil {
		_ = c.failLocked(err)
	}
	return c.err == nil
}

// failLocked closes the connection and remembers the first reason.
func (c *conn) failLocked(err error) error {
	if c.err == nil {
		c.err = err
		c.queued = nil
		c.hello.Stop()
		_ = c.Conn.Close()
		c.closed()
	}
	return c.err
}

// fail closes the connection for a reason that reason tells. The first one counts.
func (c *conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.failLocked(err)
}

// Close closes the connection; queued bytes are lost. It is what dRPC calls when it is done, for reasons of its own.
func (c *conn) Close() error {
	c.fail(net.ErrClosed)
	return nil
}

// reason returns what closed the connection, nil if nothing did or it was Close.
func (c *conn) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == net.ErrClosed { //nolint:errorlint // only Close's own: errClosed and failed writes wrap it, and are reasons
		return nil
	}
	return c.err
}

// await lets a proven peer be silent for as long as that is allowed from now on.
func (c *conn) await() {
	if c.unproven.Load() < 0 {
		_ = c.SetReadDeadline(time.Now().Add(c.silence))
	}
}

// ended returns why the connection was closed instead of what dRPC says then, which may be no more than that a context was canceled.
func (c *conn) ended(err error) error {
	if err == nil {
		return nil
	}
	if why := c.reason(); why != nil {
		return why
	}
	return err
}

// backlog returns how many bytes wait for the peer.
func (c *conn) backlog() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queued) + c.writing
}

// prove lifts the bounds that hold at first; from now on the peer must not be silent for too long.
func (c *conn) prove() {
	c.hello.Stop()
	c.unproven.Store(-1)
	_ = c.SetReadDeadline(time.Now().Add(c.silence)) // the reader may be waiting already
}
