package socket

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	fiberws "github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"
)

// house is loops that listen, with fiber behind them, as a gateway has it: WebSockets on /ws, which are echoed, and
// pages. It counts on which way WebSockets came.
type house struct {
	t               *testing.T
	loops           *Loops
	addr            string
	arrived, opened atomic.Int32 // on a loop; by Adopt
	late            atomic.Bool
	closed          *probe
	stop            func()
}

func newHouse(t *testing.T, cfg Config, timeout time.Duration) *house {
	h := &house{t: t, loops: start(t, cfg), closed: newProbe(echo)}
	h.closed.closed = make(chan error, 1000)
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	upgrade := fiberws.New(func(ws *fiberws.Conn) {
		if _, ok := Arrived(ws.NetConn()); ok {
			return
		}
		h.opened.Add(1)
		if err := h.loops.Adopt(ws.NetConn(), func(*Conn) Handler { return h.closed }); err != nil {
			t.Error(err)
		}
	})
	app.Get("/ws", func(c *fiber.Ctx) error {
		if c.Query("no") != "" {
			return c.Status(403).SendString("no")
		}
		if c.Query("panic") != "" {
			panic("a bug in a handler")
		}
		if err := upgrade(c); err != nil {
			return err
		}
		if a, ok := Arrived(c.Context().Conn()); ok {
			if ip := c.IP(); ip != "127.0.0.1" {
				t.Errorf("the client's address is %q", ip)
			}
			h.arrived.Add(1)
			a.Open(func(*Conn) Handler { return h.closed })
		}
		return nil
	})
	app.Get("/page", func(c *fiber.Ctx) error { return c.SendString("page") })

	app.Handler() // has the routes ready
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = lis.Addr().String()
	in, err := h.loops.Listen(lis, Door{
		Quick: func(head []byte) bool {
			if bytes.HasPrefix(head, []byte("GET /ws?judge")) {
				panic("a bug in who judges")
			}
			return bytes.HasPrefix(head, []byte("GET /ws"))
		},
		Serve:   app.Server().ServeConn,
		Late:    h.late.Load,
		Timeout: timeout,
		Most:    100,
	})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- app.Listener(in) }()
	h.stop = func() {
		h.stop = func() {}
		// Shutdown does not close a listener that the server has not got yet.
		if err := errors.Join(app.Shutdown(), in.Close(), <-served); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() { h.stop() })
	return h
}

func (h *house) dial() *peer {
	h.t.Helper()
	nc, err := net.Dial("tcp", h.addr)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { nc.Close() })
	return newPeer(h.t, nc)
}

func request(target string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
}

// answer reads an HTTP response and wants its status.
func (p *peer) answer(status int) string {
	p.t.Helper()
	p.nc.SetReadDeadline(time.Now().Add(patience))
	resp, err := http.ReadResponse(p.br, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	if resp.StatusCode != status {
		p.t.Fatalf("status %d, want %d", resp.StatusCode, status)
	}
	if status == http.StatusSwitchingProtocols {
		return ""
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(body)
}

func (p *peer) talks() {
	p.t.Helper()
	for _, s := range []string{"a", strings.Repeat("b", 70000), "c"} {
		p.write(text(s))
		p.want(OpText, s)
	}
	p.write(closeFrame(1000, ""))
	p.wantClosed(1000, "")
	p.wantEOF()
}

func TestHandshakesOnTheLoops(t *testing.T) {
	h := newHouse(t, Config{Loops: 2, MaxMessageBytes: 1 << 20}, time.Hour)
	ways := func(arrived, opened int32) {
		t.Helper()
		if a, o := h.arrived.Swap(0), h.opened.Swap(0); a != arrived || o != opened {
			t.Errorf("%d handshakes on a loop and %d by the HTTP server, want %d and %d", a, o, arrived, opened)
		}
	}
	tests := []struct {
		name            string
		arrived, opened int32
		client          func(p *peer)
	}{
		{"whole", 1, 0, func(p *peer) {
			p.write([]byte(request("/ws")))
			p.answer(101)
			p.talks()
		}},
		{"in pieces", 0, 1, func(p *peer) {
			r := request("/ws")
			h.eventually("it is there", func() bool { return h.arriving() == 1 })
			p.write([]byte(r[:30]))
			h.eventually("the first piece is passed on", func() bool { return h.arriving() == 0 })
			p.write([]byte(r[30:]))
			p.answer(101)
			p.talks()
		}},
		{"with a frame behind it", 0, 1, func(p *peer) {
			p.write(append([]byte(request("/ws")), text("early")...))
			p.answer(101)
			p.want(OpText, "early")
			p.talks()
		}},
		{"no handshake", 0, 0, func(p *peer) {
			for range 2 {
				p.write([]byte("GET /page HTTP/1.1\r\nHost: x\r\n\r\n"))
				if got := p.answer(200); got != "page" {
					t.Errorf("got %q", got)
				}
			}
		}},
		{"refused", 0, 0, func(p *peer) {
			p.write([]byte(request("/ws?no=1")))
			if got := p.answer(403); got != "no" {
				t.Errorf("got %q", got)
			}
			p.wantEOF() // it has kept its side open
			if n := h.loops.Arriving(); n != 0 {
				t.Errorf("%d arriving, want 0", n)
			}
			h.eventually("the server waits no more", func() bool { return writeAll(p.nc, request("/ws")) != nil })
		}},
		{"when the loops are late", 0, 1, func(p *peer) {
			h.eventually("it is there", func() bool { return h.arriving() == 1 })
			p.nc.Close()
			h.eventually("it is gone", func() bool { return h.arriving() == 0 })
			h.late.Store(true)
			defer h.late.Store(false)
			late := h.dial()
			late.write([]byte(request("/ws")))
			late.answer(101)
			late.talks()
		}},
		{"a panic", 0, 0, func(p *peer) {
			p.write([]byte(request("/ws?panic=1")))
			if _, err := p.br.ReadByte(); err != io.EOF {
				t.Errorf("got %v, want EOF", err)
			}
		}},
		{"a panic before the handshake", 0, 0, func(p *peer) {
			p.write([]byte(request("/ws?judge=1")))
			if _, err := p.br.ReadByte(); err != io.EOF {
				t.Errorf("got %v, want EOF", err)
			}
		}},
		{"gone before a word", 0, 0, func(p *peer) {
			h.eventually("it is there", func() bool { return h.arriving() == 1 })
			p.nc.Close()
			h.eventually("it is gone", func() bool { return h.arriving() == 0 && h.loops.Arriving() == 0 })
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := h.dial()
			p.t = t
			test.client(p)
			ways(test.arrived, test.opened)
		})
	}
	h.eventually("none is left", func() bool { return h.loops.Conns() == 0 && h.loops.Stats().Open == 0 })
	if n := h.loops.Stats().Panics; n != 2 {
		t.Errorf("%d panics, want 2", n)
	}
}

// arriving counts those on the loops that are before the end of their handshake, those that have been silent for long too.
func (h *house) arriving() (n int) {
	for _, l := range h.loops.loops {
		onLoop(h.t, l, func() {
			for _, c := range l.slots {
				if c != nil && c.state == stateArriving {
					n++
				}
			}
		})
	}
	return n
}

func writeAll(w io.Writer, text string) error {
	_, err := io.WriteString(w, text)
	return err
}

func (h *house) eventually(what string, cond func() bool) {
	h.t.Helper()
	eventually(h.t, what, cond)
}

func TestSilentArrivalsAreTurnedAway(t *testing.T) {
	h := newHouse(t, Config{Loops: 2, WriteTimeout: 40 * time.Millisecond}, 30*time.Millisecond)
	for range 4 {
		p := h.dial()
		p.nc.SetReadDeadline(time.Now().Add(patience))
		if _, err := p.br.ReadByte(); err != io.EOF {
			t.Fatalf("got %v, want EOF", err)
		}
	}
	h.eventually("none is arriving", func() bool { return h.loops.Arriving() == 0 })
	h.eventually("they are counted", func() bool { return h.loops.Stats().Unserved == 4 })
}

// A child process has all descriptors until it has become another program. A connection that ends meanwhile is of no account to the
// loop any more, nor to the connection that takes its place.
func TestAConnectionEndsWhileSomebodyHasItsDescriptor(t *testing.T) {
	h := newHouse(t, Config{Loops: 1, MaxMessageBytes: 1 << 20}, time.Hour)
	p := h.dial()
	p.write([]byte(request("/ws")))
	p.answer(http.StatusSwitchingProtocols)
	p.write(text("a"))
	p.want(OpText, "a")
	l, copied := h.loops.Loop(0), -1
	onLoop(t, l, func() {
		for _, c := range l.slots {
			if c != nil && c.state == stateOpen {
				copied, _ = syscall.Dup(int(c.fd))
			}
		}
	})
	if copied < 0 {
		t.Fatal("no descriptor")
	}
	defer syscall.Close(copied)
	p.nc.Close()
	h.eventually("it is gone", func() bool { return h.loops.Conns() == 0 })
	q := h.dial()
	q.write([]byte(request("/ws")))
	q.answer(http.StatusSwitchingProtocols)
	q.talks()
	h.eventually("one was lost, the other said goodbye", func() bool { s := h.loops.Stats(); return s.Ended[EndError] == 1 && s.Ended[EndPeer] == 1 })
}

func TestArrivalsAreSpreadOverTheLoops(t *testing.T) {
	h := newHouse(t, Config{Loops: 4, CloseTimeout: 20 * time.Millisecond}, time.Hour)
	const each = 10
	for i := range 4 * each {
		p := h.dial()
		p.write([]byte(request("/ws")))
		p.answer(101)
		// For the next one it is to count once: not as arriving any more.
		h.eventually("it is open", func() bool { return h.loops.Conns() == i+1 && h.loops.Arriving() == 0 })
	}
	for _, l := range h.loops.loops {
		if n := l.load.Load(); n != each {
			t.Errorf("loop %d has %d connections, want %d", l.index, n, each)
		}
	}
	h.loops.CloseAll(CloseRestart, "")
	for range 4 * each {
		h.closed.end(t)
	}
}

func TestAClosedListenerTakesNobody(t *testing.T) {
	h := newHouse(t, Config{Loops: 2, MaxMessageBytes: 1 << 20}, time.Hour)
	p := h.dial()
	h.eventually("it is there", func() bool { return h.arriving() == 1 })
	h.stop()
	if nc, err := net.Dial("tcp", h.addr); err == nil {
		nc.Close()
		t.Error("somebody could connect")
	}
	p.write([]byte(request("/ws"))) // who was there before still gets an answer
	p.answer(101)
	p.talks()

	// A connection that is for the HTTP server has none any more.
	in := h.loops.listener.Load()
	client, accepted := tcpPair(t)
	fd, err := dupSocket(accepted)
	if err != nil {
		t.Fatal(err)
	}
	accepted.Close()
	in.pass(fd, nil, time.Hour)
	if _, err := bufio.NewReader(client).ReadByte(); err != io.EOF {
		t.Errorf("got %v, want EOF", err)
	}
	if _, err := in.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	if err := in.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
}

func TestClosedLoopsEndArrivals(t *testing.T) {
	h := newHouse(t, Config{Loops: 2}, time.Hour)
	peers := []*peer{h.dial(), h.dial()}
	h.eventually("they are there", func() bool { return h.arriving() == 2 })
	h.loops.Close()
	for _, p := range peers {
		p.nc.SetReadDeadline(time.Now().Add(patience))
		if _, err := p.br.ReadByte(); err != io.EOF && !strings.Contains(err.Error(), "reset") {
			t.Errorf("got %v, want the end", err)
		}
	}
}

// Out of descriptors, the loops go on accepting when there are some again.
func TestAcceptingGoesOnAfterALackOfDescriptors(t *testing.T) {
	h := newHouse(t, Config{Loops: 2, WriteTimeout: 40 * time.Millisecond}, time.Hour)
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	p := h.dial()
	h.eventually("it is there", func() bool { return h.arriving() == 1 })
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	none := before
	none.Cur = 1
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before) }()
	to := net.TCPAddr{}
	if a, err := net.ResolveTCPAddr("tcp", h.addr); err == nil {
		to = *a
	}
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}); err != nil {
		t.Fatal(err)
	}
	h.eventually("it is not accepted", func() bool { return h.loops.Stats().AcceptFailed > 0 })
	p.write([]byte(request("/ws"))) // who is there is served
	p.answer(101)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	h.eventually("it is accepted", func() bool { return h.arriving() == 1 })
	p.write(text("still there"))
	p.want(OpText, "still there")
}
