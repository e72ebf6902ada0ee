package link

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ringcast/ringcast/proto/linkpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for something that must happen.
const patience = time.Minute

// waitFor returns when the condition holds.
func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting for: %s", what)
		}
	}
}

// await receives from a channel.
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

// observe returns a log and what is written to it.
func observe() (*zap.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(zapcore.DebugLevel)
	return zap.New(core), logs
}

// unhurried sets the timeouts that the test does not: a peer on a loaded machine is neither silent nor slow.
func unhurried(cfg Config) Config {
	for _, timeout := range []*time.Duration{&cfg.WriteTimeout, &cfg.Silence, &cfg.HelloTimeout} {
		if *timeout == 0 {
			*timeout = time.Hour
		}
	}
	return cfg
}

// serve runs Serve on a free port of 127.0.0.1. stop cancels it and returns its error; the test's end does so too.
func serve(t testing.TB, cfg ServeConfig) (addr string, stop func() error) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Config = unhurried(cfg.Config)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, lis, cfg) }()
	stop = sync.OnceValue(func() error {
		cancel()
		err := await(t, "Serve to return", done)
		if lis.Close() == nil {
			t.Error("Serve left its listener open")
		}
		return err
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return lis.Addr().String(), stop
}

type itemFunc func(lane *Lane, kind linkpb.Kind, body []byte) error

var errTest = errors.New("the test ends the lane")

// handle is a Handle that greets the gateway, then passes its items to item and what ended the lane to ended; both
// may be nil.
func handle(item itemFunc, ended chan<- error) func(*Lane) {
	return func(lane *Lane) {
		err := lane.Receive(func(kind linkpb.Kind, body []byte) error {
			if kind == linkpb.KindHello {
				lane.Greeted()
				lane.Append(linkpb.KindWelcome, &linkpb.Welcome{Server: "ts-a"})
				lane.Flush()
				return nil
			}
			if item == nil {
				return nil
			}
			return item(lane, kind, body)
		}, func() {})
		if ended != nil {
			ended <- err
		}
	}
}

// gateway is the dialing end of a lane, with a goroutine that receives.
type gateway struct {
	*Lane
	live  chan struct{} // closed on the Welcome
	ended chan error    // what Receive returned
}

// dial dials addr. Items after the Welcome go to item, which may be nil.
func dial(t testing.TB, ctx context.Context, addr string, cfg Config, item itemFunc) *gateway {
	t.Helper()
	lane, err := Dial(ctx, addr, unhurried(cfg), &linkpb.Hello{Protocol: Protocol, Gateway: "gw-a", Lanes: 1})
	if err != nil {
		t.Fatal(err)
	}
	g := receive(lane, item)
	t.Cleanup(func() {
		lane.Close()
		<-g.ended
	})
	return g
}

func receive(lane *Lane, item itemFunc) *gateway {
	g := &gateway{Lane: lane, live: make(chan struct{}), ended: make(chan error, 1)}
	go func() {
		defer close(g.ended)
		g.ended <- lane.Receive(func(kind linkpb.Kind, body []byte) error {
			if kind == linkpb.KindWelcome {
				lane.Greeted()
				close(g.live)
				return nil
			}
			if item == nil {
				return nil
			}
			return item(lane, kind, body)
		}, func() {})
	}()
	return g
}

// send appends a Publish and flushes it.
func (g *gateway) send(p *linkpb.Publish) {
	g.Append(linkpb.KindPublish, p)
	g.Flush()
}

// end waits for the lane to end and returns why.
func (g *gateway) end(t testing.TB) error {
	t.Helper()
	return await(t, "the lane to end", g.ended)
}

func decodePublish(body []byte) (*linkpb.Publish, error) {
	p := new(linkpb.Publish)
	return p, p.UnmarshalVT(body)
}
