package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/shared/daemon"
	"github.com/ringcast/ringcast/shared/ring"
)

// Stopping closes clients with 1012, turns new ones away, and ends Serve.
func TestStop(t *testing.T) {
	s := serve(t)
	var clients []*wire
	for range 3 {
		w := s.dial()
		w.write(handshake(target) + text(heartbeat))
		w.answer()
		w.frame()
		clients = append(clients, w)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.stop() }()
	for _, w := range clients {
		w.wantClose(1012, "gateway restarts")
	}
	if err := <-ended; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if nc, err := net.Dial("tcp", s.addr); err == nil {
		nc.Close()
		t.Error("it still listens")
	}
	if sockets, _ := s.Stats(); sockets.Open != 0 {
		t.Errorf("%d sockets are open", sockets.Open)
	}
}

// A client that does not answer its close frame is cut.
func TestStopIsBounded(t *testing.T) {
	s := serve(t, func(c *Config) { c.StopTimeout = 50 * time.Millisecond })
	w := s.dial()
	w.write(handshake(target) + text(heartbeat))
	w.answer()
	w.frame()
	if err := s.stop(); err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// A connection whose handshake was under way when the gateway began to stop is closed like the others.
func TestAdoptedWhileStopping(t *testing.T) {
	s := serve(t)
	s.stopping.Store(true)
	w := s.dial()
	w.write(handshake(target))
	if resp, body := w.answer(); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	s.stopping.Store(false)
	s.eventually("the HTTP server has nobody", func() bool { return s.app.Server().GetOpenConnectionsCount() == 0 })

	w = s.dial()
	w.write(handshake(target)[:10]) // a handshake in pieces is the HTTP server's, which needs no loop for it
	s.eventually("the HTTP server has it", func() bool { return s.app.Server().GetOpenConnectionsCount() == 1 })
	hold := make(chan struct{})
	for i := range s.loops.Len() {
		s.loops.Loop(i).Post(func() { <-hold })
	}
	s.loops.CloseAll(1012, "gateway restarts") // as stop does
	w.write(handshake(target)[10:] + text(heartbeat))
	w.answer()
	s.eventually("it is at the loop's door", func() bool { return s.loops.Conns() == 1 })
	s.stopping.Store(true)
	close(hold)
	w.wantClose(1012, "gateway restarts")
}

// A stop that comes before the gateway serves is a stop.
func TestStopAtOnce(t *testing.T) {
	for range 20 {
		g, err := New(defaults(), nobody(t), daemon.New(nil))
		if err != nil {
			t.Fatal(err)
		}
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := g.Serve(ctx, lis); err != nil {
			t.Error(err)
		}
	}
}

func TestServeFails(t *testing.T) {
	g, err := New(defaults(), nobody(t), daemon.New(nil))
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lis.Close()
	if err := g.Serve(context.Background(), lis); err == nil {
		t.Error("no error from a listener that is closed")
	}
}

func TestReadiness(t *testing.T) {
	s := serve(t)
	if err := s.daemon.Ready(); err == nil || !strings.Contains(err.Error(), `links: no link to topic server "ts"`) {
		t.Errorf("ready: %v", err)
	}
	if err := s.Ready(); err == nil {
		t.Error("ready")
	}
}

func TestNewRefusesBadConfig(t *testing.T) {
	for _, tt := range []struct {
		name   string
		adjust func(*Config)
		want   string
	}{
		{"topics", func(c *Config) { c.Topics = "*" }, `TOPICS: pattern "*": want *:*, prefix:* or a topic`},
		{"origins", func(c *Config) { c.AllowedOrigins = []string{"app.example"} }, `ALLOWED_ORIGINS: "app.example": want scheme://host[:port], //host[:port], //*.host, :conn, true or *`},
	} {
		cfg := defaults()
		tt.adjust(&cfg)
		_, err := New(cfg, nobody(t), daemon.New(nil))
		if !errors.Is(err, daemon.ErrConfig) || err.Error() != tt.want {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	cfg := defaults()
	cfg.Loops = 65
	if _, err := New(cfg, nobody(t), daemon.New(nil)); err == nil || !strings.Contains(err.Error(), "65 event loops") {
		t.Errorf("65 loops: %v", err)
	}
	cfg = defaults()
	cfg.ID, cfg.Addr = "", ":4000"
	g, err := New(cfg, nobody(t), daemon.New(nil))
	if err != nil {
		t.Fatal(err)
	}
	g.loops.Close()
	if host, _ := os.Hostname(); g.cfg.ID != host+":4000" {
		t.Errorf("id %q", g.cfg.ID)
	}
}

func TestRun(t *testing.T) {
	run := func(adjust func(*Config)) error {
		cfg := defaults()
		cfg.Addr, cfg.RingFile = "127.0.0.1:0", filepath.Join(t.TempDir(), "ring.yaml")
		ringText := "version: 1\nservers:\n  - {id: ts, addr: \"127.0.0.1:1\"}\n"
		if err := os.WriteFile(cfg.RingFile, []byte(ringText), 0o644); err != nil {
			t.Fatal(err)
		}
		adjust(&cfg)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		return Run(ctx, daemon.New(nil), &cfg)
	}
	if err := run(func(*Config) {}); err != nil {
		t.Errorf("run and stop: %v", err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tt := range []struct {
		name   string
		adjust func(*Config)
		want   string
	}{
		{"no ring file", func(c *Config) { c.RingFile = "/nowhere/ring.yaml" }, "/nowhere/ring.yaml"},
		{"port in use", func(c *Config) { c.Addr = taken.Addr().String() }, "GATEWAY_ADDR: "},
		{"topics", func(c *Config) { c.Topics = "*" }, "TOPICS: "},
	} {
		if err := run(tt.adjust); !errors.Is(err, daemon.ErrConfig) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// Every count is on /metrics, once, with a help text.
func TestMetrics(t *testing.T) {
	s := serve(t)
	w := s.dial()
	w.write(handshake(target) + text(heartbeat))
	w.answer()
	w.frame()
	value := func(name string) float64 {
		families, err := s.daemon.Metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetHelp() == "" {
				t.Errorf("%s has no help", f.GetName())
			}
			if f.GetName() == "ringcast_gateway_"+name {
				return f.Metric[0].GetGauge().GetValue() + f.Metric[0].GetCounter().GetValue()
			}
		}
		t.Errorf("no metric %s", name)
		return 0
	}
	for name, want := range map[string]float64{
		"sessions": 1, "accepted_total": 1, "frames_in_total": 1, "frames_out_total": 1, "ring_version": 1, "lanes": 0,
		"queue_bytes": 0, "stray_total": 0, "gaps_total": 0, "overruns_total": 0, "unfit_total": 0, "closed_total": 0,
		"messages_total": 0, "deliveries_total": 0, "publishes_total": 0, "panics_total": 0,
	} {
		s.eventually(name, func() bool { return value(name) == want })
	}
	if value("bytes_in_total") == 0 || value("bytes_out_total") == 0 || value("writes_total") == 0 {
		t.Error("bytes are not counted")
	}
}

// A ring file that is older than the ring in use is stale, not wrong, and one that the system does not watch is neither.
func TestWhatIsWrongWithTheRingFile(t *testing.T) {
	g := idle(t)
	for _, tt := range []struct {
		err           error
		failed, stale bool
	}{
		{fmt.Errorf("ring file x: %w", ring.ErrUnwatched), false, false},
		{errors.New("not YAML"), true, false},
		{fmt.Errorf("ring file x: %w", ring.ErrOlder), false, true},
		{fmt.Errorf("ring file x: %w", ring.ErrUnwatched), false, true},
	} {
		if g.ringFileFailed(tt.err); g.ringFailed.Load() != tt.failed || g.staleFile.Load() != tt.stale {
			t.Errorf("%v: failed %v, stale %v", tt.err, g.ringFailed.Load(), g.staleFile.Load())
		}
	}
}
