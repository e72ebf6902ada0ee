package gateway

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/ringcast/ringcast/shared/daemon"
)

// talker is a gateway with long answers, 4 of which may wait for their clients.
type talker struct {
	*Gateway
	t    *testing.T
	addr string
}

const longAnswer, longAnswers = 1 << 20, 4

// newTalker serves one. Its answers must be taken within the given time; 0 is what the gateway has by itself.
func newTalker(t *testing.T, within time.Duration) *talker {
	t.Helper()
	cfg := defaults()
	cfg.QueueBudget = 2 * longAnswers * longAnswer
	g, err := New(cfg, nobody(t), daemon.New(nil))
	if err != nil {
		t.Fatal(err)
	}
	if got := g.app.Server().WriteTimeout; got != answerTimeout {
		t.Errorf("answers may take %v, want %v", got, answerTimeout)
	}
	if within > 0 {
		g.app.Server().WriteTimeout = within
	}
	g.app.Get("/api/test/long", func(c *fiber.Ctx) error { return c.SendString(strings.Repeat("x", longAnswer)) })
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- g.Serve(ctx, lis) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return &talker{g, t, lis.Addr().String()}
}

// get asks for a page. On a machine with too much to do, a request may be late for the gateway: then it asks again.
func (g *talker) get(path string) (status int, body string) {
	g.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * patience}
	resp, err := client.Get("http://" + g.addr + path)
	for end := time.Now().Add(2 * patience); err != nil; resp, err = client.Get("http://" + g.addr + path) {
		if time.Now().After(end) {
			g.t.Fatal(err)
		}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// stall asks for more than its socket takes, and reads none of it.
func (g *talker) stall() net.Conn {
	g.t.Helper()
	nc, err := net.Dial("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { nc.Close() })
	_ = nc.(*net.TCPConn).SetReadBuffer(4096)
	if _, err := io.WriteString(nc, strings.Repeat("GET /api/test/long HTTP/1.1\r\nHost: x\r\n\r\n", 100)); err != nil {
		g.t.Fatal(err)
	}
	return nc
}

// holds waits until so many bytes are kept of answers.
func (g *talker) holds(bytes int64) {
	g.t.Helper()
	for end := time.Now().Add(2 * patience); g.answers.held.Load() != bytes; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			g.t.Fatalf("%d bytes are kept, want %d", g.answers.held.Load(), bytes)
		}
	}
}

// Clients that ask for much and read nothing keep no more of it in memory than may be; nobody's small requests are refused meanwhile.
func TestAnswersThatNobodyTakes(t *testing.T) {
	t.Parallel()
	g := newTalker(t, 0)
	if status, body := g.get("/api/test/long"); status != 200 || len(body) != longAnswer {
		t.Fatalf("an answer that is read: %d with %d bytes", status, len(body))
	}
	var stalled []net.Conn
	for range 3 * longAnswers {
		stalled = append(stalled, g.stall())
	}
	// Sockets take some of them before they are full.
	status, body := g.get("/api/test/long")
	for end := time.Now().Add(2 * patience); status == 200 && time.Now().Before(end); {
		status, body = g.get("/api/test/long")
	}
	if want := `{"error":"overloaded","detail":"too many answers wait for their clients","retry_after_ms":1000}` + "\n"; status != 503 || body != want {
		t.Errorf("one more gets %d %.200s", status, body)
	}
	if status, _ := g.get("/api/cluster?topic=room:1"); status != 200 {
		t.Errorf("a small request gets %d", status)
	}
	for _, nc := range stalled {
		nc.Close()
	}
	g.holds(0)
	if status, body := g.get("/api/test/long"); status != 200 || len(body) != longAnswer {
		t.Errorf("afterwards: %d with %d bytes", status, len(body))
	}
}

// Who does not take an answer in time loses the connection, and nothing is kept for it.
func TestAnswersHaveTheirTime(t *testing.T) {
	t.Parallel()
	g := newTalker(t, 5*time.Second) // long enough to see what is kept
	g.stall()
	g.holds(longAnswer)
	for end := time.Now().Add(2 * patience); g.app.Server().GetOpenConnectionsCount() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("its connection lives on")
		}
	}
	g.holds(0)
}
