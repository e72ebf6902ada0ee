package topicserver

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/daemon"
)

// gauge returns the value of a metric.
func gauge(t testing.TB, s *server, name string) float64 {
	t.Helper()
	return labelled(t, s, name, "")
}

// labelled returns the value of a metric whose one label has this value.
func labelled(t testing.TB, s *server, name, label string) float64 {
	t.Helper()
	families, err := s.daemon.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func TestMetrics(t *testing.T) {
	s := start(t, Config{})
	a, b := s.connect(t, "gw-a"), s.connect(t, "gw-b")
	a.subscribe(t, "t:a")
	b.subscribe(t, "t:a")
	a.join("t:a", 1)
	b.publish(t, "t:a", "x")
	next[*linkpb.Message](t, b)
	b.publish(t, "t:b", "x")
	waitFor(t, "the subscriber", func() bool { return s.Stats().Subscribers == 1 })
	for name, want := range map[string]float64{
		"topics": 2, "subscribers": 1, "lanes": 2, "ring_version": 7, "publishes_total": 2, "fanout_sends_total": 2,
		"refused_lanes_total": 0, "slow_lanes_total": 0,
	} {
		if got := gauge(t, s, "ringcast_topic_"+name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	next[*linkpb.Message](t, a)
}

// Row 34.
func TestNewWithAnIDThatIsNotInTheRing(t *testing.T) {
	_, err := New(Config{ID: "ts-9"}, testRing(t, "ts-a"), daemon.New(nil))
	if !errors.Is(err, daemon.ErrConfig) || err.Error() != `id "ts-9" not in ring v7` {
		t.Errorf("error %v", err)
	}
}

func TestReady(t *testing.T) {
	d := daemon.New(nil)
	s, err := New(Config{ID: "ts-a"}, testRing(t, "ts-a"), d)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Ready(); err == nil || err.Error() != "links: not accepting links from gateways" {
		t.Errorf("before Serve: %v", err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- s.Serve(ctx, lis) }()
	waitFor(t, "readiness", func() bool { return d.Ready() == nil })
	cancel()
	if err := await(t, "Serve to return", served); err != nil {
		t.Error(err)
	}
	if d.Ready() == nil {
		t.Error("ready after Serve has returned")
	}
}

func TestServeReportsAListenerThatFails(t *testing.T) {
	s, err := New(Config{ID: "ts-a"}, testRing(t, "ts-a"), daemon.New(nil))
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = lis.Close()
	if err := s.Serve(t.Context(), lis); !errors.Is(err, net.ErrClosed) || !strings.HasPrefix(err.Error(), "topicserver: ") {
		t.Errorf("error %v", err)
	}
}

func TestStopEndsEveryLane(t *testing.T) {
	s := start(t, Config{})
	a, b := s.connect(t, "gw-a"), s.connect(t, "gw-b")
	a.subscribe(t, "t:a")
	a.join("t:a", 1)
	s.stop()
	for _, g := range []*gateway{a, b} {
		await(t, "the lane to end", g.ended)
	}
	if n := s.Stats().Subscribers; n != 0 || s.Lanes() != 0 {
		t.Errorf("%d subscribers and %d lanes are left", n, s.Lanes())
	}
}

func TestUnusedTopicsAreForgotten(t *testing.T) {
	s := start(t, Config{TopicIdle: 20 * time.Millisecond, HistoryTTL: 20 * time.Millisecond})
	g := s.connect(t, "gw-a")
	g.subscribe(t, "t:kept")
	first := g.publish(t, "t:a", "x").Position
	waitFor(t, "the topic to be forgotten", func() bool { return s.Stats().Topics == 1 })
	if p := g.publish(t, "t:a", "x").Position; p.Epoch == first.Epoch || p.Offset != 1 {
		t.Errorf("the topic came back at %v, it was at %v", p, first)
	}
	if rep := g.subscribe(t, "t:kept"); rep.Position.Offset != 0 {
		t.Errorf("reply %v", rep)
	}
}

func TestMaxLanes(t *testing.T) {
	s := start(t, Config{MaxLanes: 1})
	s.connect(t, "gw-a")
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if n, err := nc.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes on a lane too many", n)
	}
}

// Run refuses what the operator has to mend, with an error that names it.
func TestRunRefusesBadConfiguration(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	good := filepath.Join(t.TempDir(), "ring.yaml")
	if err := os.WriteFile(good, []byte("version: 7\nservers:\n  - id: ts-a\n    addr: 127.0.0.1:7101\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"no ring file", Config{ID: "ts-a", RingFile: good + "x", Addr: "127.0.0.1:0"}, "no such file or directory"},
		{"not in the ring", Config{ID: "ts-9", RingFile: good, Addr: "127.0.0.1:0"}, `id "ts-9" not in ring v7`},
		{"address taken", Config{ID: "ts-a", RingFile: good, Addr: taken.Addr().String()}, "TOPICSERVER_ADDR: listen tcp"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := Run(t.Context(), daemon.New(nil), &test.cfg)
			if !errors.Is(err, daemon.ErrConfig) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
	t.Run("good", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		d := daemon.New(nil)
		done := make(chan error)
		go func() { done <- Run(ctx, d, &Config{ID: "ts-a", RingFile: good, Addr: "127.0.0.1:0"}) }()
		waitFor(t, "readiness", func() bool { return d.Ready() == nil })
		cancel()
		if err := await(t, "Run to return", done); err != nil {
			t.Error(err)
		}
	})
}

func TestValidate(t *testing.T) {
	good := daemon.Defaults[Config]()
	good.ID, good.RingFile = "ts-a", "/etc/ringcast/ring.yaml"
	if err := good.Validate(); err != nil {
		t.Errorf("the defaults with id and ring file: %v", err)
	}
	bad := Config{
		Addr: "7101", TopicIdle: time.Millisecond, MaxLanes: -1, HandoverTimeout: time.Hour, PresenceInterval: time.Hour, PresenceGrace: time.Hour, MaxPresences: -1, HistorySize: -1, HistoryBytes: 1,
		HistoryTotal: 1, HistoryIDs: 1e6, HistoryTTL: 48 * time.Hour, DigestInterval: time.Millisecond, NameGrace: time.Hour,
	}
	bad.LogLevel = "loud"
	err := bad.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	want := []string{
		`LOG_LEVEL="loud": want one of debug, info, warn, error`,
		`TOPICSERVER_ID is required: one of the ids in the ring file`,
		`TOPICSERVER_ADDR="7101": want host:port or :port, e.g. 127.0.0.1:4000`,
		`RING_FILE is required: the path of the ring file`,
		`TOPIC_IDLE="1ms": want 1s to 24h0m0s`,
		`HANDOVER_TIMEOUT="1h0m0s": want 10ms to 10m0s`,
		`HISTORY_SIZE="-1": want 0 to 1000000`,
		`HISTORY_BYTES="1": want 1024 to 2097152`,
		`HISTORY_TOTAL_BYTES="1": want 1048576 to 1099511627776`,
		`HISTORY_TTL="48h0m0s": want 1s to 24h0m0s`,
		`HISTORY_IDS="1000000": want 0 to 30000`,
		`DIGEST_INTERVAL="1ms": want 10ms to 1h0m0s`,
		`NAME_GRACE="1h0m0s": want 100ms to 10m0s`,
		`MAX_LANES="-1": want 1 to 1048576`,
		`PRESENCE_INTERVAL="1h0m0s": want 1ms to 1m0s`,
		`PRESENCE_GRACE="1h0m0s": want 1ms to 10m0s`,
		`MAX_PRESENCES_PER_TOPIC="-1": want 1 to 100000`,
	}
	if got := strings.Split(err.Error(), "\n"); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("problems\n%s\nwant\n%s", err, strings.Join(want, "\n"))
	}
}
