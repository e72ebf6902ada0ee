package socket

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// fasthttp starts the one once and never ends it; the other ends in its sleep.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
}

// patience bounds every wait for something that must happen.
const patience = time.Minute

// start gives loops that take an hour for what the test sets no timeout for: a machine with too much to do is to end nothing.
func start(t testing.TB, cfg Config) *Loops {
	t.Helper()
	for _, timeout := range []*time.Duration{&cfg.IdleTimeout, &cfg.MessageTimeout, &cfg.WriteTimeout, &cfg.CloseTimeout} {
		if *timeout == 0 {
			*timeout = time.Hour
		}
	}
	ls, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ls.Close)
	return ls
}

// probe is a Handler that records, or does what its fields say.
type probe struct {
	message func(c *Conn, op Opcode, data []byte)
	closed  chan error
}

func (p *probe) Message(c *Conn, op Opcode, data []byte) {
	if p.message != nil {
		p.message(c, op, data)
	}
}

func (p *probe) Closed(_ *Conn, err error) { p.closed <- err }

func newProbe(message func(c *Conn, op Opcode, data []byte)) *probe {
	return &probe{message: message, closed: make(chan error, 2)} // room for a second call, to be found out
}

func echo(c *Conn, op Opcode, data []byte) { c.Send(op, data) }

// end waits for Closed and checks that it stays the only call.
func (p *probe) end(t testing.TB) error {
	t.Helper()
	select {
	case err := <-p.closed:
		return err
	case <-time.After(patience):
		t.Fatal("Closed was not called")
		return nil
	}
}

func (p *probe) wantClose(t testing.TB, want CloseError) {
	t.Helper()
	err := p.end(t)
	var got *CloseError
	if !errors.As(err, &got) || *got != want {
		t.Fatalf("Closed(%v), want %+v", err, want)
	}
}

// opaque hides what a connection is, so that it becomes a stream connection.
type opaque struct{ net.Conn }

// transports are the ways to connect a peer; every behaviour is tested on both.
var transports = []struct {
	name   string
	server func(net.Conn) net.Conn
}{
	{"socket", func(nc net.Conn) net.Conn { return nc }},
	{"stream", func(nc net.Conn) net.Conn { return opaque{nc} }},
}

func onTransports(t *testing.T, test func(t *testing.T, server func(net.Conn) net.Conn)) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) { test(t, tr.server) })
	}
}

// tcpPair gives the two ends of a loopback connection.
func tcpPair(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// adopt hands nc over as an HTTP server does, and returns when open was
// called.
func adopt(t testing.TB, ls *Loops, nc net.Conn, h Handler) *Conn {
	t.Helper()
	opened := make(chan *Conn, 1)
	failed := make(chan error, 1)
	go func() {
		err := ls.Adopt(nc, func(c *Conn) Handler {
			opened <- c
			return h
		})
		nc.Close()
		if err != nil {
			failed <- err
		}
	}()
	select {
	case c := <-opened:
		return c
	case err := <-failed:
		t.Fatal(err)
	case <-time.After(patience):
		t.Fatal("not adopted")
	}
	return nil
}

// peer is a client that sees single frames.
type peer struct {
	t  testing.TB
	nc net.Conn
	br *bufio.Reader
}

func newPeer(t testing.TB, nc net.Conn) *peer {
	return &peer{t: t, nc: nc, br: bufio.NewReader(nc)}
}

// connect gives a peer and the connection that serves it.
func connect(t testing.TB, ls *Loops, server func(net.Conn) net.Conn, h Handler) (*peer, *Conn) {
	t.Helper()
	client, accepted := tcpPair(t)
	c := adopt(t, ls, server(accepted), h)
	return newPeer(t, client), c
}

// clientFrame builds a masked frame; first is the whole first byte.
func clientFrame(first byte, payload string) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	key := [4]byte{0x11, 0xa2, 0x33, 0xf4}
	b = append(b, key[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^key[i%4])
	}
	return b
}

func text(s string) []byte   { return clientFrame(0x81, s) }
func binMsg(s string) []byte { return clientFrame(0x82, s) }
func closeFrame(code int, reason string) []byte {
	return clientFrame(0x88, string(closePayload(code, reason)))
}

func (p *peer) write(frames ...[]byte) {
	p.t.Helper()
	for _, f := range frames {
		if _, err := p.nc.Write(f); err != nil {
			p.t.Fatal(err)
		}
	}
}

// read gives the next frame.
func (p *peer) read() (op Opcode, payload string) {
	p.t.Helper()
	op, payload, err := p.next()
	if err != nil {
		p.t.Fatal(err)
	}
	return op, payload
}

func (p *peer) next() (op Opcode, payload string, err error) {
	p.nc.SetReadDeadline(time.Now().Add(patience))
	var head [10]byte
	if _, err := io.ReadFull(p.br, head[:2]); err != nil {
		return 0, "", err
	}
	if head[0]&0x80 == 0 || head[0]&0x70 != 0 || head[1]&0x80 != 0 {
		return 0, "", errors.New("not a plain server frame")
	}
	n, ext := uint64(head[1]), 0
	switch n {
	case 126:
		ext = 2
	case 127:
		ext = 8
	}
	if ext > 0 {
		if _, err := io.ReadFull(p.br, head[2:2+ext]); err != nil {
			return 0, "", err
		}
		n = binary.BigEndian.Uint64(append(make([]byte, 8-ext), head[2:2+ext]...))
	}
	b := make([]byte, n)
	_, err = io.ReadFull(p.br, b)
	return Opcode(head[0] & 0x0f), string(b), err
}

func (p *peer) want(op Opcode, payload string) {
	p.t.Helper()
	if gotOp, got := p.read(); gotOp != op || got != payload {
		p.t.Fatalf("got frame %d %.80q (%d bytes), want %d %.80q (%d bytes)", gotOp, got, len(got), op, payload, len(payload))
	}
}

// wantClosed wants a close frame, with this code and a reason that has the
// given part, then the end of the connection.
func (p *peer) wantClosed(code int, reasonPart string) {
	p.t.Helper()
	op, payload := p.read()
	if op != opClose || len(payload) < 2 {
		p.t.Fatalf("got frame %d %q, want close %d", op, payload, code)
	}
	got := int(binary.BigEndian.Uint16([]byte(payload)))
	if got != code || !strings.Contains(payload[2:], reasonPart) {
		p.t.Fatalf("closed with %d %q, want %d %q", got, payload[2:], code, reasonPart)
	}
}

func (p *peer) wantEOF() {
	p.t.Helper()
	if op, payload, err := p.next(); err != io.EOF {
		p.t.Fatalf("got frame %d %q, error %v; want EOF", op, payload, err)
	}
}

// onLoop runs f on the connection's loop and waits for it.
func onLoop(t testing.TB, l *Loop, f func()) {
	t.Helper()
	done := make(chan struct{})
	l.Post(func() {
		defer close(done)
		f()
	})
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("task did not run")
	}
}

// later moves the clock of a loop, and has it look at its deadlines. It is not for loops that listen: others look at their clock.
func later(t testing.TB, l *Loop, d time.Duration) {
	t.Helper()
	onLoop(t, l, func() { l.start = l.start.Add(-d) })
	onLoop(t, l, func() {}) // in a turn that begins later
	onLoop(t, l, func() {}) // when that has ended
}

// unswept has the loops look at no deadlines for an hour.
func unswept(t testing.TB, ls *Loops) {
	t.Helper()
	for _, l := range ls.loops {
		onLoop(t, l, func() { l.tick, l.nextSweep = time.Hour, l.now+time.Hour })
	}
}

// eventually waits for a condition that no channel tells.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}
