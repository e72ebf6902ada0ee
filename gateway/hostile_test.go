package gateway

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/ringcast/ringcast/shared/certs"
	"github.com/ringcast/ringcast/shared/daemon"
)

// A panic in a handler fails its request, without its text, and nothing else.
func TestRow22_APanicInAnHTTPHandlerIs500(t *testing.T) {
	g := idle(t)
	g.app.Get("/panic", func(*fiber.Ctx) error { panic("secret") })
	g.app.Get("/api/panic", func(*fiber.Ctx) error { panic(io.ErrUnexpectedEOF) })
	for path, want := range map[string]string{
		"/panic":     "internal error\n",
		"/api/panic": `{"error":"internal","detail":"a bug; the gateway's log has the rest"}` + "\n",
	} {
		answer := g.exchange("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n" + "GET /api/cluster HTTP/1.1\r\nHost: x\r\n\r\n")
		if !strings.HasPrefix(answer, "HTTP/1.1 500 ") || !strings.Contains(answer, want) || strings.Contains(answer, "secret") {
			t.Errorf("%s: %s", path, answer)
		}
		if !strings.Contains(answer, "HTTP/1.1 200 ") {
			t.Errorf("%s: the next request gets nothing: %s", path, answer)
		}
	}
	if n := g.panics.Load(); n != 2 {
		t.Errorf("%d panics counted", n)
	}
}

// What the HTTP server calls beside the handlers may meet a bug, too: before the body of a request is read, and when that is refused.
func TestRow22_APanicBesideTheHandlersIs500(t *testing.T) {
	g := idle(t)
	keys := g.api
	g.api = nil
	answer := g.exchange(post(publishPath, goodPublish+strings.Repeat(" ", maxHeaderBytes)))
	if !strings.HasPrefix(answer, "HTTP/1.1 500 ") || !strings.HasSuffix(answer, "internal error\n") {
		t.Errorf("answered with %s", answer)
	}
	if n := g.panics.Load(); n != 2 {
		t.Errorf("%d panics counted", n)
	}
	g.api = keys
	if answer := g.exchange("GET /api/cluster HTTP/1.1\r\nHost: x\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 200 ") {
		t.Errorf("the next request: %s", answer)
	}
}

// withCertificate has clients come by TLS.
func withCertificate(t *testing.T) func(*Config) {
	dir := t.TempDir()
	authority, err := certs.OpenAuthority(dir)
	if err == nil {
		err = authority.Issue("wss", certs.Request{Hosts: []string{"localhost"}})
	}
	if err != nil {
		t.Fatal(err)
	}
	return func(c *Config) { c.TLSCert, c.TLSKey = dir+"/wss.pem", dir+"/wss-key.pem" }
}

// A request takes no longer than its time, however slowly its bytes come, and a TLS handshake neither; all the while others are
// served.
func TestSlowRequests(t *testing.T) {
	t.Parallel()
	slow := func(c *Config) { c.ID = slowRequests }
	plain := serve(t, slow)
	encrypted := serve(t, slow, withCertificate(t))
	head := post(publishPath, strings.Repeat(" ", 1000))
	var all sync.WaitGroup
	for name, tt := range map[string]struct {
		s           *served
		first, drip string
	}{
		"nothing":       {plain, "", ""},
		"header":        {plain, "", handshake(target)},
		"half a header": {plain, handshake(target)[:40], ""},
		"body":          {plain, head[:len(head)-990], head[len(head)-990:]},
		"TLS":           {encrypted, "", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"},
		"silent TLS":    {encrypted, "", ""},
	} {
		w := tt.s.dial()
		all.Go(func() {
			begun := time.Now()
			_ = w.nc.SetDeadline(begun.Add(9 * requestTime))
			_, _ = io.WriteString(w.nc, tt.first)
			ended := make(chan error, 1)
			go func() {
				_, err := io.Copy(io.Discard, w.nc)
				ended <- err
			}()
			pace := time.NewTicker(requestTime / 20)
			defer pace.Stop()
			for i := 0; ; i++ {
				select {
				case err := <-ended:
					if took := time.Since(begun); took < requestTime/2 || took > 6*requestTime || errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("%s: ended after %v with %v", name, took, err)
					}
					return
				case <-pace.C:
					if i < len(tt.drip) {
						_, _ = io.WriteString(w.nc, tt.drip[i:i+1])
					}
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		all.Wait()
		close(done)
	}()
	for served, waiting := 0, true; waiting; served++ {
		if resp, body := plain.asked(t, "GET /api/cluster HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); resp.StatusCode != 200 {
			t.Fatalf("another client gets %d %s", resp.StatusCode, body)
		}
		select {
		case <-done:
			waiting = false
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// unserved is a gateway that is asked without a network: its links do not run, and nobody waits for them.
type unserved struct{ *Gateway }

func idle(t testing.TB) unserved {
	t.Helper()
	cfg := defaults()
	cfg.LongpollWindow, cfg.PublishTimeout, cfg.JoinTimeout = 10*time.Millisecond, 10*time.Millisecond, 10*time.Millisecond
	g, err := New(cfg, nobody(t), daemon.New(nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.loops.Close)
	return unserved{g}
}

// exchange returns all that the gateway says to a client that says this and goes.
func (g unserved) exchange(request string) string {
	c := &oneWay{in: strings.NewReader(request)}
	g.app.Handler() // makes it ready to serve
	_ = g.app.Server().ServeConn(c)
	c.mu.Lock() // a connection that was upgraded is served on
	defer c.mu.Unlock()
	return c.out.String()
}

// oneWay is a connection whose peer has said all it has to say, and hears everything.
type oneWay struct {
	in *strings.Reader

	mu  sync.Mutex
	out bytes.Buffer
}

func (c *oneWay) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Write(b)
}

func (c *oneWay) Read(b []byte) (int, error)       { return c.in.Read(b) }
func (c *oneWay) Close() error                     { return nil }
func (c *oneWay) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4000} }
func (c *oneWay) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5} }
func (c *oneWay) SetDeadline(time.Time) error      { return nil }
func (c *oneWay) SetReadDeadline(time.Time) error  { return nil }
func (c *oneWay) SetWriteDeadline(time.Time) error { return nil }

// FuzzRequest: whatever comes to the port for clients, as handshake, request of the API or nonsense, is answered with a
// status that the gateway means, and no handler panics.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		"timeout 0\n", handshake(target), handshake(target, "Upgrade: h2c"), handshake(target, "Upgrade: ,,"), handshake(target, "Connection: ,upgrade,,"),
		handshake(target, "Sec-WebSocket-Key: ====") + "\x81\x80", handshake(target) + text(heartbeat) + "\x88\x80\x00\x00\x00\x00",
		handshake("/websocket/json/u1?timeout=1"), handshake("/ws?channel=a&publish=1"), handshake("/realtime/v1/websocket?vsn=2.0.0"),
		handshake("/socket/websocket?vsn=%zz&token=%00"), handshake(target, "Origin: null", "Sec-WebSocket-Protocol: ,phoenix"),
		post(publishPath, goodPublish), post("/api/publish", `{"messages":[{"topic":"a:b","event":"e"}]}`, "Idempotency-Key: x"),
		post("/api/broadcast", `{"topics":["a:b"],"event":"e","payload":{}}`), post("/api/revoke", `{"sub":"neo"}`), post("/Api/BROADCAST", "{"),
		post("/socket/longpoll?vsn=2.0.0", "[]"), "GET /socket/longpoll?vsn=2.0.0 HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /socket/longpoll?vsn=2.0.0&token=a.b HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /api/topics/room:1/messages?limit=-1&since=zzz HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /api/topics/%/subscribers HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x02\x00", "\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
	} {
		f.Add(seed)
	}
	g := idle(f)
	statuses := []int{101, 200, 204, 301, 304, 400, 401, 403, 404, 405, 408, 410, 413, 415, 417, 426, 431, 501, 503, 504}
	f.Fuzz(func(t *testing.T, request string) {
		answer := g.exchange(request)
		if n := g.panics.Load() + g.loops.Stats().Panics; n > 0 {
			t.Fatalf("%d panics", n)
		}
		if answer == "" {
			return // torn
		}
		var status int
		if _, rest, ok := strings.Cut(answer, "HTTP/1.1 "); !ok || len(rest) < 3 {
			t.Fatalf("answered with %.100q", answer)
		} else {
			for _, digit := range rest[:3] {
				status = 10*status + int(digit-'0')
			}
		}
		if !slices.Contains(statuses, status) && status != http.StatusContinue {
			t.Errorf("answered with status %d: %.300q", status, answer)
		}
	})
}

// Nothing inflates what comes compressed, whatever route it is for: a few bytes would become gigabytes.
func TestRow24_NoBodyIsInflated(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(bytes.Repeat([]byte{' '}, 1<<20))
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	g := idle(t)
	opened := g.exchange("GET /socket/longpoll?vsn=2.0.0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	_, token, _ := strings.Cut(opened, `"token":"`)
	token, _, _ = strings.Cut(token, `"`)
	for _, route := range []struct{ path, want string }{
		{"/socket/longpoll?vsn=2.0.0&token=" + token, `{"status":400,"reason":"bad body: want no Content-Encoding"}`},
		{"/realtime/v1/api/broadcast/room/events/e", `{"error":"unsupported_media_type","detail":"want no Content-Encoding","definite":true}`},
	} {
		for _, encoding := range []string{"gzip", "gzip, gzip", "deflate", "br", "identity"} {
			answer := g.exchange(post(route.path, bomb.String(), "Content-Type: application/octet-stream", "Content-Encoding: "+encoding))
			if !strings.Contains(answer, route.want) {
				t.Errorf("%s, %s: %.500s", route.path, encoding, answer)
			}
		}
	}
}
