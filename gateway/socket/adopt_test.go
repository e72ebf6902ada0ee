package socket

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	fiberws "github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"
)

// hijacked is a connection as fasthttp hands it over: what its reader has
// buffered comes first, Close does nothing.
type hijacked struct {
	net.Conn
	r io.Reader
}

func (h *hijacked) UnsafeConn() net.Conn       { return h.Conn }
func (h *hijacked) Read(p []byte) (int, error) { return h.r.Read(p) }
func (h *hijacked) Close() error               { return nil }

// Bytes that the HTTP server has read too far are the first that are parsed,
// and those in the socket follow.
func TestAdoptBuffered(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		ls := start(t, Config{Loops: 1})
		client, accepted := tcpPair(t)
		long := strings.Repeat("long", 500)
		p := newPeer(t, client)
		p.write(raw("handshake\n", text("one"), text(long), clientFrame(0x01, "torn")[:8]))
		nc := server(accepted)
		br := bufio.NewReaderSize(nc, 4096)
		if _, err := br.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		if br.Buffered() == 0 {
			t.Fatal("nothing buffered; the test tests nothing")
		}
		nc.SetReadDeadline(time.Now().Add(time.Hour)) // as the server may leave it
		h := newProbe(echo)
		adopt(t, ls, &hijacked{nc, br}, h)
		p.write(raw(clientFrame(0x01, "torn")[8:], clientFrame(0x80, " end")))
		p.want(OpText, "one")
		p.want(OpText, long)
		p.want(OpText, "torn end")
		accepted.Close() // as fasthttp would, when the handshake handler returns
	})
}

// The socket outlives the HTTP server's descriptor, and leaves the poller even
// if that one stays open.
func TestAdoptDuplicates(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	client, accepted := tcpPair(t)
	p := newPeer(t, client)
	h := newProbe(echo)
	if err := ls.Adopt(accepted, func(*Conn) Handler { return h }); err != nil {
		t.Skip("plain sockets are not adopted here:", err)
	}
	p.write(closeFrame(1000, ""))
	p.wantClosed(1000, "")
	p.wantEOF() // although accepted is open
	h.end(t)
	p.write([]byte("more")) // no event may come of it
	onLoop(t, ls.Loop(0), func() {})
	accepted.Close()
}

func TestAdoptErrors(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		ls := start(t, Config{Loops: 1})
		opens := []struct {
			name string
			open func(c *Conn) Handler
			want string
		}{
			{"no handler", func(c *Conn) Handler { c.Send(OpText, []byte("lost")); return nil }, "no handler"},
			{"panic", func(c *Conn) Handler { c.Send(OpText, []byte("lost")); panic("open") }, "panicked"},
		}
		for _, test := range opens {
			client, accepted := tcpPair(t)
			err := ls.Adopt(server(accepted), test.open)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: Adopt: %v", test.name, err)
			}
			accepted.Close() // still the caller's
			newPeer(t, client).wantEOF()
		}
		_, accepted := tcpPair(t)
		accepted.Close()
		if err := ls.Adopt(server(accepted), func(*Conn) Handler { t.Error("opened"); return nil }); err == nil {
			t.Error("closed connection adopted")
		}
		if ls.Conns() != 0 {
			t.Errorf("%d connections", ls.Conns())
		}
		onLoop(t, ls.Loop(0), func() {
			if l := ls.Loop(0); len(l.freeSlots) != len(l.slots) || l.count.QueueBytes != 0 {
				t.Errorf("%d of %d slots free, %d bytes queued", len(l.freeSlots), len(l.slots), l.count.QueueBytes)
			}
		})
	})
}

// open may use the connection: greet, or turn the peer away.
func TestSendFromOpen(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		ls := start(t, Config{Loops: 1})
		client, accepted := tcpPair(t)
		h := newProbe(nil)
		go func() {
			ls.Adopt(server(accepted), func(c *Conn) Handler {
				c.SendFramed(AppendFrame(nil, OpText, nil, []byte("full")))
				c.Close(1013, "retry_after_ms=5")
				return h
			})
			accepted.Close()
		}()
		p := newPeer(t, client)
		p.want(OpText, "full")
		p.wantClosed(1013, "retry_after_ms=5")
		p.write(closeFrame(1013, ""))
		h.wantClose(t, CloseError{Code: 1013, Reason: "retry_after_ms=5"})
	})
}

func TestPipe(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	client, server := net.Pipe()
	h := newProbe(echo)
	adopt(t, ls, server, h)
	p := newPeer(t, client)
	for _, s := range []string{"one", strings.Repeat("two", 10000), "three"} {
		p.write(text(s))
		p.want(OpText, s)
	}
	p.write(closeFrame(1000, ""))
	p.wantClosed(1000, "")
	h.wantClose(t, CloseError{Code: 1000, Remote: true})
	p.wantEOF()
}

// tlsConfigs gives a server's and a client's configuration that fit.
func tlsConfigs(t *testing.T) (server, client *tls.Config) {
	srv := httptest.NewTLSServer(nil)
	defer srv.Close()
	return &tls.Config{Certificates: srv.TLS.Certificates}, &tls.Config{InsecureSkipVerify: true}
}

func TestTLS(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	serverConfig, clientConfig := tlsConfigs(t)
	client, accepted := tcpPair(t)
	h := newProbe(echo)
	c := adopt(t, ls, tls.Server(accepted, serverConfig), h)
	p := newPeer(t, tls.Client(client, clientConfig))
	for _, s := range []string{"one", strings.Repeat("two", 10000), "three"} {
		p.write(text(s))
		p.want(OpText, s)
	}
	onLoop(t, c.Loop(), func() {
		if c.stream == nil {
			t.Error("TLS on a bare descriptor")
		}
	})
	p.write(raw("\x81\x01x"))
	p.wantClosed(1002, "unmasked")
	p.wantEOF() // close_notify
	p.nc.Close()
	h.wantClose(t, CloseError{Code: 1002, Reason: "unmasked frame"})
}

// The whole way in: fiber and contrib/websocket make the handshake, Adopt
// takes over, and clients of another make talk to the loop, one of them
// sending its first frame along with the handshake.
func TestBehindFiber(t *testing.T) {
	for _, secure := range []bool{false, true} {
		name := map[bool]string{false: "plain", true: "TLS"}[secure]
		t.Run(name, func(t *testing.T) { testBehindFiber(t, secure) })
	}
}

func testBehindFiber(t *testing.T, secure bool) {
	ls := start(t, Config{Loops: 2})
	h := newProbe(echo)
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	app.Get("/", fiberws.New(func(ws *fiberws.Conn) {
		if err := ls.Adopt(ws.NetConn(), func(*Conn) Handler { return h }); err != nil {
			t.Error(err)
		}
	}))
	serverConfig, clientConfig := tlsConfigs(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dial := func() (net.Conn, error) { return net.Dial("tcp", ln.Addr().String()) }
	served := make(chan error, 1)
	if secure {
		go func() { served <- app.Listener(tls.NewListener(ln, serverConfig)) }()
		dial = func() (net.Conn, error) { return tls.Dial("tcp", ln.Addr().String(), clientConfig) }
	} else {
		go func() { served <- app.Listener(ln) }()
	}
	defer func() {
		ls.Close()
		if err := errors.Join(app.Shutdown(), <-served); err != nil {
			t.Error(err)
		}
	}()

	nc, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	p := newPeer(t, nc)
	p.write(raw("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", text("early")))
	for line := ""; line != "\r\n"; {
		if line, err = p.br.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	p.want(OpText, "early")
	p.write(text("later"))
	p.want(OpText, "later")
	p.write(closeFrame(1000, ""))
	p.wantClosed(1000, "")
	h.wantClose(t, CloseError{Code: 1000, Remote: true})
	p.wantEOF()
	if secure {
		return
	}

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "ws://"+ln.Addr().String()+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	ws.SetReadLimit(1 << 20)
	for _, s := range []string{"x", strings.Repeat("y", 60000)} {
		if err := ws.Write(ctx, websocket.MessageText, []byte(s)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := ws.Read(ctx); err != nil || string(got) != s {
			t.Fatalf("got %d bytes, %v", len(got), err)
		}
	}
	if err := ws.Close(4000, "done"); err != nil {
		t.Fatal(err)
	}
	h.wantClose(t, CloseError{Code: 4000, Reason: "done", Remote: true})
}
