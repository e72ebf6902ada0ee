package topic

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/topicserver/history"
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

// gateway is a gateway and both ends of its lane. The test calls the registry in place of the lane's receiver, and
// reads what arrives at the gateway.
type gateway struct {
	*Lane // the end at the topic server
	Turn

	items chan any        // what arrives, decoded; unless discard
	ended <-chan struct{} // the test is over: nobody takes items any more
}

// gateways starts gateways named gw-a, gw-b, … With discard they read and forget.
func gateways(t testing.TB, n int, discard bool) []*gateway {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	accepted := make(chan *link.Lane)
	patient := link.Config{Silence: time.Hour} // nobody pings here, and benchmarks take long
	var all sync.WaitGroup
	all.Go(func() {
		err := link.Serve(ctx, lis, link.ServeConfig{Config: patient, Handle: func(lane *link.Lane) {
			_ = lane.Receive(func(linkpb.Kind, []byte) error {
				lane.Greeted()
				lane.Append(linkpb.KindWelcome, &linkpb.Welcome{})
				lane.Flush()
				accepted <- lane
				return nil
			}, func() {})
		}})
		if err != nil {
			t.Errorf("link.Serve: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		all.Wait()
	})
	list := make([]*gateway, n)
	for i := range list {
		name := "gw-" + string(rune('a'+i))
		far, err := link.Dial(ctx, lis.Addr().String(), patient, &linkpb.Hello{Gateway: name})
		if err != nil {
			t.Fatal(err)
		}
		g := &gateway{Lane: NewLane(name, &(<-accepted).Sender), items: make(chan any, 10_000), ended: ctx.Done()}
		all.Go(func() {
			if err := g.receive(t, far, discard); ctx.Err() == nil {
				t.Errorf("the lane of %s ended: %v", name, err)
			}
		})
		list[i] = g
	}
	return list
}

func (g *gateway) receive(t testing.TB, far *link.Lane, discard bool) error {
	return far.Receive(func(kind linkpb.Kind, body []byte) error {
		switch {
		case kind == linkpb.KindWelcome:
			far.Greeted()
		case discard:
		case kind == linkpb.KindReply:
			g.got(t, new(linkpb.Reply), body)
		case kind == linkpb.KindMessage:
			g.got(t, new(linkpb.Message), body)
		case kind == linkpb.KindDigest:
			g.got(t, new(linkpb.Digest), body)
		case kind == linkpb.KindSealed:
			g.got(t, new(linkpb.Sealed), body)
		case kind == linkpb.KindNameMessage:
			g.got(t, new(linkpb.NameMessage), body)
		case kind == linkpb.KindNameLost:
			g.got(t, new(linkpb.NameLost), body)
		case kind == linkpb.KindPast:
			g.got(t, new(linkpb.Past), body)
		case kind == linkpb.KindPresenceDiff:
			g.got(t, new(linkpb.PresenceDiff), body)
		case kind == linkpb.KindListing:
			g.got(t, new(linkpb.Listing), body)
		default:
			t.Errorf("item of kind %d", kind)
		}
		return nil
	}, func() {})
}

func (g *gateway) got(t testing.TB, m interface{ UnmarshalVT([]byte) error }, body []byte) {
	if err := m.UnmarshalVT(body); err != nil {
		t.Error(err)
	}
	select {
	case g.items <- m:
	case <-g.ended:
	}
}

// next returns the next item of the wanted type; another type is a failure.
func next[T any](t testing.TB, g *gateway) T {
	t.Helper()
	select {
	case it := <-g.items:
		m, ok := it.(T)
		if !ok {
			t.Fatalf("gateway %s got %T %v, want %T", g.Gateway, it, it, *new(T))
		}
		return m
	case <-time.After(patience):
		t.Fatalf("gateway %s waits for a %T", g.Gateway, *new(T))
		panic("unreachable")
	}
}

func (g *gateway) subscribe(t testing.TB, r *Registry, topic string) *linkpb.Reply {
	t.Helper()
	r.Subscribe(&g.Turn, g.Lane, &linkpb.Subscribe{Ref: 1, Topic: topic})
	g.Flush()
	return next[*linkpb.Reply](t, g)
}

func (g *gateway) publish(r *Registry, topic, payload string) {
	r.Publish(&g.Turn, g.Lane, &linkpb.Publish{Ref: 2, Topic: topic, Event: "e", Payload: []byte(payload)})
	g.Flush()
}

// nothingElse checks that everything that was sent to the gateway has been read: a reply to one more request is the
// next item.
func (g *gateway) nothingElse(t testing.TB, r *Registry) {
	t.Helper()
	r.Publish(&g.Turn, g.Lane, &linkpb.Publish{Ref: 99, Topic: "nobody:" + g.Gateway})
	g.Flush()
	if rep := next[*linkpb.Reply](t, g); rep.Ref != 99 {
		t.Errorf("gateway %s got another reply: %v", g.Gateway, rep)
	}
}

// newRegistry returns a registry that owns every topic, with the memory that servers have by default.
func newRegistry(t testing.TB) *Registry {
	store := history.NewMemory(history.Config{})
	t.Cleanup(func() { _ = store.Close() })
	return NewRegistry(Config{Store: store, IDs: 1000, IDTTL: time.Minute})
}
