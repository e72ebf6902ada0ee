package longpoll

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"go.uber.org/goleak"

	"github.com/ringcast/ringcast/gateway/socket"
)

func TestMain(m *testing.M) {
	// fasthttp keeps its clock for the life of the process, and its worker pools end some seconds after their servers.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
}

// patience bounds every wait for something that must happen.
const patience = time.Minute

// echo sends every message back. "close" closes, "flood" fills the queue.
type echo struct{ closed chan error }

func (e echo) Message(c *socket.Conn, op socket.Opcode, data []byte) {
	switch string(data) {
	case `["close"]`:
		c.Close(4400, "bad frame")
	case `["flood"]`:
		for range 100 {
			c.Send(op, make([]byte, 1000))
		}
	default:
		c.Send(op, data)
	}
}

func (e echo) Closed(_ *socket.Conn, err error) { e.closed <- err }

// home is one gateway as far as long polls go.
type home struct {
	*Server
	t      *testing.T
	loops  *socket.Loops
	addr   string
	closed chan error // how its sessions have ended
	stop   func()
	client *http.Client
}

func newHome(t *testing.T, adjust ...func(*Config)) *home {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, lis, adjust...)
}

// newLoops gives one whose sessions wait so long for the poll that takes their close away.
func newLoops(t *testing.T, closeTimeout time.Duration) *socket.Loops {
	t.Helper()
	loops, err := socket.New(socket.Config{Loops: 1, MaxQueueBytes: 50_000, CloseTimeout: closeTimeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(loops.Close)
	return loops
}

func serveOn(t *testing.T, lis net.Listener, adjust ...func(*Config)) *home {
	t.Helper()
	h := &home{t: t, addr: lis.Addr().String(), closed: make(chan error, 100)}
	cfg := Config{
		Loops: newLoops(t, patience), Window: patience, Home: h.addr,
		Allow: func(*fiber.Ctx) error { return nil },
		Open: func(*fiber.Ctx) (func(*socket.Conn) socket.Handler, error) {
			return func(*socket.Conn) socket.Handler { return echo{h.closed} }, nil
		},
	}
	for _, f := range adjust {
		f(&cfg)
	}
	h.Server, h.loops = New(cfg), cfg.Loops
	app := fiber.New(fiber.Config{DisableStartupMessage: true, ReadTimeout: patience, BodyLimit: 60 << 10})
	app.All("/socket/longpoll", h.Serve)
	served := make(chan error, 1)
	go func() { served <- app.Listener(lis) }()
	h.client = &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	stopped := false
	h.stop = func() {
		if stopped {
			return
		}
		stopped = true
		h.loops.Close()
		_ = app.ShutdownWithTimeout(patience)
		_ = lis.Close()
		<-served
		h.Close()
	}
	t.Cleanup(h.stop)
	return h
}

// got is an answer's body.
type got struct {
	Status   int
	Token    string
	Messages []string
	Code     int
	Reason   string
}

// ask sends a request; header lines are "Name: value".
func (h *home) ask(method, query, body string, lines ...string) (*http.Response, string) {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, "http://"+h.addr+"/socket/longpoll"+query, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	resp, err := h.client.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp, string(text)
}

func (h *home) json(method, query, body string, lines ...string) got {
	h.t.Helper()
	resp, text := h.ask(method, query, body, lines...)
	var g got
	if err := json.Unmarshal([]byte(text), &g); err != nil || resp.StatusCode != http.StatusOK {
		h.t.Fatalf("%s %s: %s %q", method, query, resp.Status, text)
	}
	if cc := resp.Header.Get("Cache-Control"); cc != "no-store" {
		h.t.Errorf("Cache-Control: %q", cc)
	}
	return g
}

// session opens one and returns its token.
func (h *home) session() string {
	h.t.Helper()
	g := h.json("GET", "?vsn=2.0.0", "")
	if g.Status != 410 || g.Token == "" || g.Messages == nil || len(g.Messages) != 0 {
		h.t.Fatalf("opening: %+v", g)
	}
	return g.Token
}

func (h *home) post(token, body string, lines ...string) got {
	h.t.Helper()
	return h.json("POST", "?vsn=2.0.0&token="+token, body, lines...)
}

func (h *home) poll(token string) got {
	h.t.Helper()
	return h.json("GET", "?vsn=2.0.0&token="+token, "")
}

func (h *home) wantPoll(token string, messages ...string) {
	h.t.Helper()
	g := h.poll(token)
	if g.Status != 200 || !strings.HasSuffix(token, g.Token) || !slices.Equal(g.Messages, messages) {
		h.t.Fatalf("polled %+v, want %q", g, messages)
	}
}

func (h *home) wantPost(token, body string, lines ...string) {
	h.t.Helper()
	if g := h.post(token, body, lines...); g.Status != 200 {
		h.t.Fatalf("posted: %+v", g)
	}
}

func (h *home) eventually(what string, cond func() bool) {
	h.t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("never: %s", what)
		}
	}
}

const ndjson = "Content-Type: application/x-ndjson"

func lines(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format+"\n", i)
	}
	return strings.TrimSuffix(b.String(), "\n")
}
