package cluster_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ringcast/ringcast/cluster"
	"github.com/ringcast/ringcast/gateway"
)

// socket is a WebSocket client that says and expects literal frames.
type socket struct {
	t    *testing.T
	name string
	ws   *websocket.Conn
}

// patience bounds every wait of these tests. Nothing is expected to take that long, on however busy a machine.
const patience = time.Minute

func dial(t *testing.T, name, url string) *socket {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, url, nil)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	ws.SetReadLimit(4 << 20)
	t.Cleanup(func() { _ = ws.CloseNow() })
	return &socket{t, name, ws}
}

func (s *socket) say(frame string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	if err := s.ws.Write(ctx, websocket.MessageText, []byte(frame)); err != nil {
		s.t.Fatalf("%s: say %s: %v", s.name, frame, err)
	}
}

func (s *socket) hear() string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	_, data, err := s.ws.Read(ctx)
	if err != nil {
		s.t.Fatalf("%s: hear: %v", s.name, err)
	}
	return string(data)
}

func (s *socket) expect(frames ...string) {
	s.t.Helper()
	for _, want := range frames {
		if got := s.hear(); got != want {
			s.t.Fatalf("%s heard  %s\n\twant  %s", s.name, got, want)
		}
	}
}

// expectClose reads on to the close frame, past other frames if need be.
func (s *socket) expectClose(code websocket.StatusCode, reason string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	for {
		_, data, err := s.ws.Read(ctx)
		if err == nil {
			s.t.Logf("%s heard %s", s.name, data)
			continue
		}
		var ce websocket.CloseError
		if !errorsAs(err, &ce) {
			s.t.Fatalf("%s: %v, want close %d", s.name, err, code)
		}
		if ce.Code != code || !strings.HasPrefix(ce.Reason, reason) {
			s.t.Fatalf("%s: closed with %d %q, want %d %q…", s.name, ce.Code, ce.Reason, code, reason)
		}
		return
	}
}

// silence shows that nothing is on its way: a heartbeat's reply is the next thing heard.
func (s *socket) silence() {
	s.t.Helper()
	s.say(`[null,"hb","phoenix","heartbeat",{}]`)
	s.expect(`[null,"hb","phoenix","phx_reply",{"response":{},"status":"ok"}]`)
}

func (s *socket) join(topic string) {
	s.t.Helper()
	s.say(fmt.Sprintf(`["1","1",%q,"phx_join",{}]`, topic))
	s.expect(fmt.Sprintf(`["1","1",%q,"phx_reply",{"response":{},"status":"ok"}]`, topic))
}

// start starts a cluster of two topic servers and two gateways.
func start(t *testing.T, adjust ...func(*cluster.Config)) *cluster.Cluster {
	t.Helper()
	cfg := cluster.Config{TopicServers: 2, Gateways: 2, Gateway: quick}
	for _, f := range adjust {
		f(&cfg)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := cluster.Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return c
}

// quick shortens the waits that tests wait out, and makes those long that are not to end while a test is at work.
func quick(cfg *gateway.Config) {
	cfg.Linger = 50 * time.Millisecond
	cfg.StopTimeout = 2 * time.Second
	cfg.JoinTimeout, cfg.PublishTimeout, cfg.IdleTimeout = patience/2, patience/2, 10*patience
	cfg.Limits.AdmissionLag = 0 // the machine of the tests may be late for other reasons
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func onlyTopics(cfg *gateway.Config) {
	quick(cfg)
	cfg.Topics = "topics:*"
}
