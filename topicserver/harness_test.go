package topicserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/daemon"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/ring"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for something that must happen.
const patience = time.Minute

func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting for: %s", what)
		}
	}
}

func await[T any](t testing.TB, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("still waiting for: %s", what)
		panic("unreachable")
	}
}

// unhurried is for links in tests: a peer on a loaded machine is neither silent nor slow.
var unhurried = link.Config{WriteTimeout: time.Hour, Silence: time.Hour, HelloTimeout: time.Hour}

// testRing is ring v7 of the servers named.
func testRing(t testing.TB, ids ...string) *ring.Ring {
	t.Helper()
	var servers []ring.Server
	for i, id := range ids {
		servers = append(servers, ring.Server{ID: id, Addr: net.JoinHostPort("127.0.0.1", string(rune('1'+i)))})
	}
	rg, err := ring.New(7, servers)
	if err != nil {
		t.Fatal(err)
	}
	return rg
}

// server is a topic server at work.
type server struct {
	*Server
	daemon *daemon.Daemon
	logs   *observer.ObservedLogs
	addr   string
	stop   func() // cancels Serve and waits for it
}

// start starts the topic server ts-a, on a ring of the servers named; of itself if none is.
func start(t testing.TB, cfg Config, ids ...string) *server {
	t.Helper()
	if ids == nil {
		ids = []string{"ts-a"}
	}
	cfg.ID = "ts-a"
	return startOn(t, cfg, testRing(t, ids...), listen(t, "127.0.0.1:0"))
}

func listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return lis
}

// listenAlone listens where no other process of the machine connects or listens: the address can be used again, and nobody is
// there meanwhile.
func listenAlone(t testing.TB) net.Listener {
	t.Helper()
	pid := os.Getpid()
	lis, err := net.Listen("tcp", fmt.Sprintf("127.7.%d.%d:0", pid/250%250, pid%250+1))
	if err != nil { // a system with one address for itself
		return listen(t, "127.0.0.1:0")
	}
	return lis
}

// startOn starts the topic server cfg.ID, with what tweaks change before it serves.
func startOn(t testing.TB, cfg Config, rg *ring.Ring, lis net.Listener, tweaks ...func(*Server)) *server {
	t.Helper()
	if cfg.HistorySize == 0 {
		cfg.HistorySize, cfg.HistoryIDs = 256, 1000
	}
	for _, forgotten := range []*time.Duration{&cfg.TopicIdle, &cfg.HistoryTTL} {
		if *forgotten == 0 {
			*forgotten = time.Hour
		}
	}
	core, logs := observer.New(zapcore.InfoLevel)
	d := daemon.New(zap.New(core))
	s, err := New(cfg, rg, d)
	if err != nil {
		t.Fatal(err)
	}
	s.links = unhurried
	for _, tweak := range tweaks {
		tweak(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, lis) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := await(t, "Serve to return", served); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return &server{Server: s, daemon: d, logs: logs, addr: lis.Addr().String(), stop: stop}
}

// hello is a good Hello of gateway gw-a.
func (s *server) hello() *linkpb.Hello {
	return &linkpb.Hello{
		Protocol: link.Protocol, Gateway: "gw-a", Instance: 1, Lane: 0, Lanes: 2,
		RingVersion: s.rings.Current().Version(), RingHash: s.rings.Current().Hash(),
	}
}

// gateway is a scripted gateway with one lane.
type gateway struct {
	*link.Lane
	items chan any   // what comes down, decoded, in order; pings and digests are left out
	ended chan error // why the lane ended
	ref   uint64
}

// dial opens a lane, whatever the answer.
func (s *server) dial(t testing.TB, hello *linkpb.Hello) *gateway {
	t.Helper()
	lane, err := link.Dial(t.Context(), s.addr, unhurried, hello)
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{Lane: lane, items: make(chan any, 10_000), ended: make(chan error, 1)}
	stop := ping(lane)
	go func() {
		defer close(g.ended)
		g.ended <- lane.Receive(g.item, func() {})
	}()
	t.Cleanup(func() {
		stop()
		lane.Close()
		for range g.ended { // until Receive has returned
		}
	})
	return g
}

// ping keeps a lane proven until stop is called.
func ping(lane *link.Lane) (stop func()) {
	done := make(chan struct{})
	var pinging sync.WaitGroup
	pinging.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				lane.Append(linkpb.KindUpPing, &linkpb.Ping{})
				lane.Flush()
			}
		}
	})
	return func() {
		close(done)
		pinging.Wait()
	}
}

// connect opens the lane of a gateway that has the given name and waits for the Welcome.
func (s *server) connect(t testing.TB, name string) *gateway {
	t.Helper()
	h := s.hello()
	h.Gateway = name
	g := s.dial(t, h)
	next[*linkpb.Welcome](t, g)
	return g
}

func (g *gateway) item(kind linkpb.Kind, body []byte) error {
	var m interface{ UnmarshalVT([]byte) error }
	switch kind {
	case linkpb.KindWelcome:
		g.Greeted()
		m = new(linkpb.Welcome)
	case linkpb.KindRefusal:
		m = new(linkpb.Refusal)
	case linkpb.KindReply:
		m = new(linkpb.Reply)
	case linkpb.KindMessage:
		m = new(linkpb.Message)
	case linkpb.KindSealed:
		m = new(linkpb.Sealed)
	case linkpb.KindDownRing:
		m = new(linkpb.Ring)
	case linkpb.KindDownRevoke:
		m = new(linkpb.Revoke)
	case linkpb.KindDownPing, linkpb.KindDigest:
		return nil
	default:
		return errors.New("unknown item")
	}
	err := m.UnmarshalVT(body)
	g.items <- m
	return err
}

// next returns the gateway's next item, which must be a T.
func next[T any](t testing.TB, g *gateway) T {
	t.Helper()
	select {
	case it := <-g.items:
		m, ok := it.(T)
		if !ok {
			t.Fatalf("got %T %v, want %T", it, it, *new(T))
		}
		return m
	case err := <-g.ended:
		t.Fatalf("the lane ended while waiting for %T: %v", *new(T), err)
	case <-time.After(patience):
		t.Fatalf("still waiting for %T", *new(T))
	}
	panic("unreachable")
}

func (g *gateway) send(kind linkpb.Kind, m linkpb.Item) {
	g.Append(kind, m)
	g.Flush()
}

func (g *gateway) subscribe(t testing.TB, topic string) *linkpb.Reply {
	t.Helper()
	g.ref++
	g.send(linkpb.KindSubscribe, &linkpb.Subscribe{Ref: g.ref, Topic: topic})
	rep := next[*linkpb.Reply](t, g)
	if rep.Ref != g.ref {
		t.Fatalf("reply %v to request %d", rep, g.ref)
	}
	return rep
}

// publish publishes and returns the reply, which must be the next item.
func (g *gateway) publish(t testing.TB, topic, payload string) *linkpb.Reply {
	t.Helper()
	g.ref++
	g.send(linkpb.KindPublish, &linkpb.Publish{Ref: g.ref, Topic: topic, Event: "e", Payload: []byte(payload)})
	rep := next[*linkpb.Reply](t, g)
	if rep.Ref != g.ref {
		t.Fatalf("reply %v to request %d", rep, g.ref)
	}
	return rep
}

func (g *gateway) join(topic string, id uint64) {
	g.send(linkpb.KindJoin, &linkpb.Join{Topic: topic, Subscriber: id})
}
