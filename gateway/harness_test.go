package gateway

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ringcast/ringcast/shared/daemon"
	"github.com/ringcast/ringcast/shared/ring"
)

func TestMain(m *testing.M) {
	// fasthttp keeps its clock for the life of the process, and its worker pools end some seconds after their servers.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
}

// patience bounds every wait for something that must happen.
const patience = time.Minute

// served is a gateway that serves, without a topic server.
type served struct {
	*Gateway
	t      *testing.T
	addr   string
	daemon *daemon.Daemon
	stop   func() error // cancels and waits for Serve; the same answer every time
}

func defaults() Config {
	cfg := daemon.Defaults[Config]()
	cfg.Limits.AdmissionLag = 0 // the machine of the tests may be late for other reasons
	cfg.ID, cfg.Loops, cfg.StopTimeout, cfg.APIOpen = "gw", 1, patience, true
	return cfg
}

// nobody is a ring whose server is not there.
func nobody(t testing.TB) *ring.Ring {
	t.Helper()
	rg, err := ring.New(1, []ring.Server{{ID: "ts", Addr: "127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	return rg
}

// Requests to a gateway with this ID may take so long, and what is refused of them as long as ever; to others an hour.
const slowRequests, requestTime = "gw-slow-requests", 10 * time.Second

func serve(t *testing.T, adjust ...func(*Config)) *served {
	t.Helper()
	cfg := defaults()
	for _, f := range adjust {
		f(&cfg)
	}
	s := &served{t: t, daemon: daemon.New(nil)}
	var err error
	if s.Gateway, err = New(cfg, nobody(t), s.daemon); err != nil {
		t.Fatal(err)
	}
	if got := s.app.Server().ReadTimeout; got != handshakeTimeout {
		t.Errorf("requests may take %v, want %v", got, handshakeTimeout)
	}
	s.app.Server().ReadTimeout, s.accepts.linger = time.Hour, time.Hour // a loaded machine is not a slow client
	if cfg.ID == slowRequests {
		s.app.Server().ReadTimeout, s.accepts.linger = requestTime, 0
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = lis.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, lis) }()
	s.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(2 * patience):
			return fmt.Errorf("Serve does not return")
		}
	})
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *served) eventually(what string, cond func() bool) {
	s.t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("never: %s", what)
		}
	}
}

// onLoops runs f on each event loop and waits for it.
func (s *served) onLoops(f func()) {
	var wg sync.WaitGroup
	for i := range s.loops.Len() {
		wg.Add(1)
		s.loops.Loop(i).Post(func() { defer wg.Done(); f() })
	}
	wg.Wait()
}

// wire is a client's TCP connection.
type wire struct {
	t  *testing.T
	nc net.Conn
	br *bufio.Reader
}

func (s *served) dial() *wire {
	s.t.Helper()
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(5 * patience)) // for all that is said
	return &wire{s.t, nc, bufio.NewReader(nc)}
}

func (w *wire) write(bytes string) {
	w.t.Helper()
	if _, err := io.WriteString(w.nc, bytes); err != nil {
		w.t.Fatal(err)
	}
}

// answer reads the response to a request.
func (w *wire) answer() (resp *http.Response, body string) {
	w.t.Helper()
	resp, err := http.ReadResponse(w.br, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, ""
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp, string(b)
}

// frame reads a short frame: its first byte and its payload.
func (w *wire) frame() (first byte, payload string) {
	w.t.Helper()
	var head [2]byte
	_, err := io.ReadFull(w.br, head[:])
	body := make([]byte, head[1])
	if err == nil {
		_, err = io.ReadFull(w.br, body)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return head[0], string(body)
}

// wantClose reads a close frame and answers it.
func (w *wire) wantClose(code uint16, reason string) {
	w.t.Helper()
	first, payload := w.frame()
	if first != 0x88 || binary.BigEndian.Uint16([]byte(payload)) != code || payload[2:] != reason {
		w.t.Fatalf("got frame %#x %q, want close %d %q", first, payload, code, reason)
	}
	w.write("\x88\x82\x00\x00\x00\x00" + payload[:2])
	if _, err := w.br.ReadByte(); err != io.EOF {
		w.t.Fatalf("after the close: %v", err)
	}
}

// text is a client's text frame, masked with zeros.
func text(payload string) string {
	return "\x81" + string([]byte{0x80 | byte(len(payload))}) + "\x00\x00\x00\x00" + payload
}

const heartbeat, heartbeatReply = `[null,"1","phoenix","heartbeat",{}]`,
	`[null,"1","phoenix","phx_reply",{"response":{},"status":"ok"}]`

// handshake is a good WebSocket handshake for the target, with lines replaced by those of the same name, removed if
// they end with their colon, or added.
func handshake(target string, lines ...string) string {
	all := []string{
		"Host: localhost", "Connection: keep-alive, Upgrade", "Upgrade: WebSocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
	}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ":")
		kept := all[:0]
		for _, l := range all {
			if !strings.HasPrefix(l, name+":") || strings.HasPrefix(name, "Origin") {
				kept = append(kept, l)
			}
		}
		all = kept
		if value != "" {
			all = append(all, line)
		}
	}
	return "GET " + target + " HTTP/1.1\r\n" + strings.Join(all, "\r\n") + "\r\n\r\n"
}

const target = "/socket/websocket?vsn=2.0.0"
