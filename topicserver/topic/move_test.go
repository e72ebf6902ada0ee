package topic

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/topicserver/history"
)

// registryOf returns a registry that asks claim whose a topic is.
func registryOf(t testing.TB, claim func(string) Claim) *Registry {
	store := history.NewMemory(history.Config{})
	t.Cleanup(func() { _ = store.Close() })
	return NewRegistry(Config{Store: store, IDs: 1000, IDTTL: time.Minute, Claim: claim})
}

func always(c Claim) func(string) Claim { return func(string) Claim { return c } }

// seal seals a topic that is here.
func seal(t testing.TB, r *Registry, name string, version uint64) *linkpb.TopicState {
	t.Helper()
	state, pending := r.Seal(name, version)
	if state == nil || pending {
		t.Fatalf("seal %s: state %v, pending %v", name, state, pending)
	}
	return state
}

func TestNotOurs(t *testing.T) {
	r := registryOf(t, always(NotOurs))
	g := gateways(t, 1, false)[0]
	if rep := g.subscribe(t, r, "t:a"); rep.Code != linkpb.Code_NOT_OWNER || rep.Position != nil {
		t.Errorf("subscribe: %v", rep)
	}
	g.publish(r, "t:a", "x")
	if rep := next[*linkpb.Reply](t, g); rep.Code != linkpb.Code_NOT_OWNER || rep.Position != nil {
		t.Errorf("publish: %v", rep)
	}
	if r.Expect("t:a") || r.Install("t:a", &linkpb.TopicState{Position: &linkpb.Position{Epoch: 1}}) || r.Stats().Topics != 0 {
		t.Error("a topic of another server was made here")
	}
}

// Position, past and ids move; subscribers come back by themselves.
func TestATopicMovesWithAllItHas(t *testing.T) {
	old, renewed := newRegistry(t), registryOf(t, always(OursLater))
	gws := gateways(t, 2, false)
	a, b := gws[0], gws[1]
	b.subscribe(t, old, "t:a")
	old.Join(b.Lane, &linkpb.Join{Topic: "t:a", Subscriber: 1})
	var last *linkpb.Position
	for i := range uint64(5) {
		old.Publish(&a.Turn, a.Lane, &linkpb.Publish{Topic: "t:a", Event: "e", Payload: fmt.Append(nil, i), IdHigh: 1, IdLow: i + 1})
		a.Flush()
		last = next[*linkpb.Reply](t, a).Position
	}
	state := seal(t, old, "t:a", 8)
	for range 5 {
		next[*linkpb.Message](t, b)
	}
	if s := next[*linkpb.Sealed](t, b); s.Topic != "t:a" || s.Position.Epoch != last.Epoch || s.Position.Offset != 5 || s.RingVersion != 8 {
		t.Errorf("sealed %v", s)
	}
	if s := old.Stats(); s.Topics != 0 || s.Subscribers != 0 || s.History.Messages != 0 {
		t.Errorf("left behind: %+v", s)
	}
	if again, pending := old.Seal("t:a", 8); again != nil || pending {
		t.Errorf("sealed twice: %v, %v", again, pending)
	}

	if !renewed.Expect("t:a") || !renewed.Install("t:a", state) {
		t.Fatal("not installed")
	}
	since := &linkpb.Position{Epoch: last.Epoch, Offset: 2}
	renewed.Subscribe(&b.Turn, b.Lane, &linkpb.Subscribe{Ref: 7, Topic: "t:a", Since: []*linkpb.Position{since}})
	b.Flush()
	if rep := next[*linkpb.Reply](t, b); rep.Position.Offset != 5 || rep.Position.Epoch != last.Epoch || rep.From.GetOffset() != 2 || rep.Replayed != 3 {
		t.Errorf("reply %v", rep)
	}
	for i := range uint64(3) {
		if m := next[*linkpb.Message](t, b); m.Position.Offset != i+3 || string(m.Payload) != fmt.Sprint(i+2) {
			t.Errorf("message %v", m)
		}
	}
	// The retry of a publish whose reply got lost in the move.
	renewed.Publish(&a.Turn, a.Lane, &linkpb.Publish{Topic: "t:a", Event: "e", Payload: []byte("3"), IdHigh: 1, IdLow: 4})
	a.Flush()
	if rep := next[*linkpb.Reply](t, a); rep.Code != linkpb.Code_OK || rep.Position.Offset != 4 || rep.Position.Epoch != last.Epoch {
		t.Errorf("retry: %v", rep)
	}
	a.publish(renewed, "t:a", "new")
	if rep := next[*linkpb.Reply](t, a); rep.Position.Offset != 6 || rep.Position.Epoch != last.Epoch {
		t.Errorf("reply %v", rep)
	}
	if m := next[*linkpb.Message](t, b); m.Position.Offset != 6 {
		t.Errorf("message %v", m)
	}
}

// Whoever has a part in a topic is told once that it is sealed, since it may come back to a server that has forgotten them:
// subscribers, those who watch or are to, whose members are present, and the gateway of a name's holder.
func TestSealIsToldToAllWhoHaveAPart(t *testing.T) {
	for name, takePart := range map[string]func(r *Registry, g *gateway){
		"subscribes": func(r *Registry, g *gateway) {
			r.Subscribe(&g.Turn, g.Lane, &linkpb.Subscribe{Topic: "t:a"})
		},
		"watches": func(r *Registry, g *gateway) {
			r.Watch(&g.Turn, g.Lane, &linkpb.Watch{Topic: "t:a"})
		},
		"is to watch": func(r *Registry, g *gateway) {
			t := r.lock("t:a")
			r.presenceLocked(t, time.Now()).paid = time.Now().Add(time.Hour)
			t.mu.Unlock()
			r.Watch(&g.Turn, g.Lane, &linkpb.Watch{Topic: "t:a"})
		},
		"has a member": func(r *Registry, g *gateway) {
			r.Track(&g.Turn, g.Lane, &linkpb.Track{Topic: "t:a", Member: 1, Presence: &linkpb.Presence{Key: "k"}})
		},
		"all of it": func(r *Registry, g *gateway) {
			r.Subscribe(&g.Turn, g.Lane, &linkpb.Subscribe{Topic: "t:a"})
			r.Watch(&g.Turn, g.Lane, &linkpb.Watch{Topic: "t:a"})
			r.Track(&g.Turn, g.Lane, &linkpb.Track{Topic: "t:a", Member: 1, Presence: &linkpb.Presence{Key: "k"}})
		},
		"holds its name": func(r *Registry, g *gateway) {
			r.Name(&g.Turn, g.Lane, &linkpb.Publish{Topic: "t:a", Name: &linkpb.NameCall{Op: register, Claim: 1}})
		},
		"has no part": func(*Registry, *gateway) {},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t)
			gws := gateways(t, 2, false)
			g, other := gws[0], gws[1]
			other.publish(r, "t:a", "x")
			takePart(r, g)
			g.Flush()
			state := seal(t, r, "t:a", 8)
			g.publish(r, "t:b", "marks the end")
			sealed := 0
			for end := false; !end; {
				switch it := (<-g.items).(type) {
				case *linkpb.Sealed:
					sealed++
					if it.Topic != "t:a" || it.Position.GetOffset() != 1 || it.RingVersion != 8 {
						t.Errorf("sealed %v", it)
					}
				case *linkpb.Reply:
					end = it.Ref == 2
				}
			}
			want := 1
			if name == "has no part" {
				want = 0
			}
			if sealed != want {
				t.Errorf("told %d times, want %d", sealed, want)
			}
			if held := state.Name.GetClaim() == 1; held != (name == "holds its name") {
				t.Errorf("name %v", state.Name)
			}
			if len(g.attached)+len(g.topics)+len(g.names) > 0 {
				t.Error("the lane has a part in it still")
			}
		})
	}
}

// Requests for a topic that is on its way wait, in their order.
func TestParkedRequestsKeepTheirOrder(t *testing.T) {
	r := registryOf(t, always(OursLater))
	gws := gateways(t, 2, false)
	a, b := gws[0], gws[1]
	a.publish(r, "t:a", "one")
	r.Subscribe(&b.Turn, b.Lane, &linkpb.Subscribe{Ref: 1, Topic: "t:a"})
	r.Join(b.Lane, &linkpb.Join{Topic: "t:a", Subscriber: 1})
	r.Join(b.Lane, &linkpb.Join{Topic: "t:a", Subscriber: 2})
	r.Leave(b.Lane, &linkpb.Leave{Topic: "t:a", Subscriber: 1})
	a.publish(r, "t:a", "two")
	r.Unsubscribe(&b.Turn, b.Lane, "t:a")
	a.publish(r, "t:a", "three")
	r.Subscribe(&b.Turn, b.Lane, &linkpb.Subscribe{Ref: 2, Topic: "t:a"})
	r.Join(b.Lane, &linkpb.Join{Topic: "t:a", Subscriber: 3})
	if w := r.Waiting(); !slices.Equal(w, []string{"t:a"}) || r.Stats().Publishes != 0 {
		t.Fatalf("waiting: %v", w)
	}
	if state, pending := r.Seal("t:a", 8); state != nil || !pending {
		t.Errorf("sealed a topic that is not here yet: %v, %v", state, pending)
	}
	if r.Sweep(0); r.Stats().Topics != 1 {
		t.Error("a topic that waits was forgotten")
	}
	r.Install("t:a", &linkpb.TopicState{Topic: "t:a", Position: &linkpb.Position{Epoch: 9, Offset: 40}})
	for i := range uint64(3) {
		if rep := next[*linkpb.Reply](t, a); rep.Position.Epoch != 9 || rep.Position.Offset != 41+i {
			t.Errorf("reply %v", rep)
		}
	}
	if rep := next[*linkpb.Reply](t, b); rep.Ref != 1 || rep.Position.Offset != 41 {
		t.Errorf("reply %v", rep)
	}
	if m := next[*linkpb.Message](t, b); string(m.Payload) != "two" {
		t.Errorf("message %v", m)
	}
	if rep := next[*linkpb.Reply](t, b); rep.Ref != 2 || rep.Position.Offset != 43 {
		t.Errorf("reply %v", rep)
	}
	if subs := r.Subscribers("t:a"); len(subs) != 1 || subs[0].ID != 3 || len(r.Waiting()) != 0 {
		t.Errorf("subscribers %v, waiting %v", subs, r.Waiting())
	}
}

// The list of topics that wait is looked at for each attempt to reach a server: what it costs does not grow with the topics that
// are here, and it is forgotten which have waited.
func TestWaitingIsAListOfItsOwn(t *testing.T) {
	claim := Ours
	r := registryOf(t, func(string) Claim { return claim })
	g := gateways(t, 1, false)[0]
	wants := func(want ...string) {
		t.Helper()
		w := r.Waiting()
		slices.Sort(w)
		listed := 0
		for i := range r.shards {
			listed += len(r.shards[i].waiting)
		}
		if !slices.Equal(w, want) || listed != len(want) {
			t.Errorf("%v wait, %d are listed, want %v", w, listed, want)
		}
	}
	g.subscribe(t, r, "t:here")
	r.Expect("t:here") // is here already
	wants()
	claim = OursLater
	g.publish(r, "t:asked", "x")
	r.Expect("t:expected")
	r.Expect("t:given up")
	wants("t:asked", "t:expected", "t:given up")
	r.Abandon("t:given up")
	r.Install("t:expected", nil)
	wants("t:asked")
	r.Install("t:asked", nil)
	r.Seal("t:asked", 8)
	r.Expect("t:asked") // and comes again
	wants("t:asked")
	r.Install("t:asked", nil)
	wants()
	for i := range r.shards {
		if r.shards[i].waiting != nil {
			t.Error("the list keeps its memory")
		}
	}
}

func BenchmarkWaiting(b *testing.B) {
	claim := Ours
	r := registryOf(b, func(string) Claim { return claim })
	for i := range 500_000 {
		r.Expect(fmt.Sprint("t:", i))
		r.Install(fmt.Sprint("t:", i), nil)
	}
	claim = OursLater
	for i := range 10 {
		r.Expect(fmt.Sprint("waits:", i))
	}
	r.Waiting()
	for b.Loop() {
		if n := len(r.Waiting()); n != 10 {
			b.Fatal(n, " wait")
		}
	}
}

func TestInstallWithoutAState(t *testing.T) {
	for name, state := range map[string]*linkpb.TopicState{
		"nil":         nil,
		"absent":      {Topic: "t:a", Absent: true, Position: &linkpb.Position{Epoch: 9, Offset: 4}},
		"no position": {Topic: "t:a"},
	} {
		t.Run(name, func(t *testing.T) {
			r := registryOf(t, always(OursLater))
			g := gateways(t, 1, false)[0]
			g.publish(r, "t:a", "x")
			if !r.Install("t:a", state) {
				t.Error("not installed")
			}
			if rep := next[*linkpb.Reply](t, g); rep.Position.GetOffset() != 1 || rep.Position.Epoch == 9 {
				t.Errorf("reply %v", rep)
			}
		})
	}
}

// The positions go on although the past that came is of no use; who comes for it is told.
func TestInstallWithABrokenPast(t *testing.T) {
	r := registryOf(t, always(OursLater))
	g := gateways(t, 1, false)[0]
	r.Expect("t:a")
	r.Install("t:a", &linkpb.TopicState{
		Topic: "t:a", Position: &linkpb.Position{Epoch: 9, Offset: 1}, History: [][]byte{{1}, {2}, {3}},
		Ids: []*linkpb.PublishID{{High: 1}, {High: 1}, nil},
	})
	r.Subscribe(&g.Turn, g.Lane, &linkpb.Subscribe{Topic: "t:a", Since: []*linkpb.Position{{Epoch: 9}}})
	g.Flush()
	if rep := next[*linkpb.Reply](t, g); rep.Position.Offset != 1 || rep.Position.Epoch != 9 || rep.From != nil || rep.Replayed != 0 {
		t.Errorf("reply %v", rep)
	}
}

// What comes for a topic that is at work already is discarded, and said to be if it is another past than its own.
func TestInstallForATopicThatIsHere(t *testing.T) {
	r := newRegistry(t)
	core, logs := observer.New(zap.InfoLevel)
	r.cfg.Log = zap.New(core)
	g := gateways(t, 1, false)[0]
	g.publish(r, "t:a", "x")
	at := next[*linkpb.Reply](t, g).Position
	for i, epoch := range []uint64{at.Epoch, at.Epoch + 1} {
		if r.Install("t:a", &linkpb.TopicState{Topic: "t:a", Position: &linkpb.Position{Epoch: epoch, Offset: 50}}) {
			t.Error("installed over a topic that is here")
		}
		if logs.Len() != i {
			t.Errorf("log %v", logs.All())
		}
	}
	if rep := g.subscribe(t, r, "t:a"); rep.Position.Offset != 1 || rep.Position.Epoch != at.Epoch {
		t.Errorf("reply %v", rep)
	}
}

func TestAbandon(t *testing.T) {
	r := registryOf(t, always(OursLater))
	gws := gateways(t, 2, false)
	a, b := gws[0], gws[1]
	a.publish(r, "t:a", "x")
	r.Subscribe(&b.Turn, b.Lane, &linkpb.Subscribe{Ref: 5, Topic: "t:a"})
	r.Join(b.Lane, &linkpb.Join{Topic: "t:a", Subscriber: 1})
	r.Unsubscribe(&b.Turn, b.Lane, "t:a")
	r.Abandon("t:a")
	r.Abandon("t:none")
	for g, ref := range map[*gateway]uint64{a: 2, b: 5} {
		if rep := next[*linkpb.Reply](t, g); rep.Code != linkpb.Code_NOT_OWNER || rep.Ref != ref {
			t.Errorf("reply %v", rep)
		}
	}
	if s := r.Stats(); s.Topics != 0 || s.Publishes != 0 {
		t.Errorf("stats %+v", s)
	}
	// One that is at work is not touched.
	r.Expect("t:a")
	r.Install("t:a", nil)
	if r.Abandon("t:a"); r.Stats().Topics != 1 {
		t.Error("a topic that does not wait was abandoned")
	}
}

// Parked requests of a lane that has ended: publishes count, since they may be known elsewhere; subscriptions do not.
func TestLaneDiesWhileItsRequestsWait(t *testing.T) {
	r := registryOf(t, always(OursLater))
	gws := gateways(t, 2, false)
	dead, b := gws[0], gws[1]
	r.Subscribe(&dead.Turn, dead.Lane, &linkpb.Subscribe{Ref: 1, Topic: "t:a"})
	r.Join(dead.Lane, &linkpb.Join{Topic: "t:a", Subscriber: 1})
	dead.publish(r, "t:a", "last words")
	r.Drop(dead.Lane, 0)
	r.Install("t:a", nil)
	if rep := b.subscribe(t, r, "t:a"); rep.Position.Offset != 1 {
		t.Errorf("reply %v", rep)
	}
	b.publish(r, "t:a", "x")
	if s := r.Stats(); s.FanoutSends != 1 || s.Subscribers != 0 || len(dead.topics) != 0 {
		t.Errorf("stats %+v, the dead lane is in %d topics", s, len(dead.topics))
	}
}

func TestParkedRequestsAreBounded(t *testing.T) {
	r := registryOf(t, always(OursLater))
	g := gateways(t, 1, false)[0]
	payload := strings.Repeat("x", 1<<20)
	for range 7 {
		g.publish(r, "t:a", payload)
	}
	select {
	case it := <-g.items:
		t.Fatalf("refused below the bound: %v", it)
	default:
	}
	g.publish(r, "t:a", payload)
	if rep := next[*linkpb.Reply](t, g); rep.Code != linkpb.Code_OVERLOADED {
		t.Errorf("reply %v", rep)
	}
	for range 1 << 20 / parkedCost {
		r.Subscribe(&g.Turn, g.Lane, &linkpb.Subscribe{Ref: 3, Topic: "t:a"})
	}
	g.Flush()
	if rep := next[*linkpb.Reply](t, g); rep.Code != linkpb.Code_OVERLOADED || rep.Ref != 3 {
		t.Errorf("reply %v", rep)
	}
	r.Unsubscribe(&g.Turn, g.Lane, "t:a") // has no reply to refuse it with
	r.Install("t:a", nil)
	if r.Stats().Publishes != 7 {
		t.Errorf("%d publishes", r.Stats().Publishes)
	}
	topic := r.lock("t:a")
	defer topic.mu.Unlock()
	if topic.parkedBytes != 0 || topic.parked != nil || len(topic.subs) != 0 {
		t.Errorf("left: %d bytes, %d requests, %d subscriptions", topic.parkedBytes, len(topic.parked), len(topic.subs))
	}
}

// What has no reply, and so cannot be refused, waits only for what is waiting already, and once for each of that. All
// topics together have a bound, too.
func TestWhatHasNoReplyIsParkedOnce(t *testing.T) {
	r := registryOf(t, always(OursLater))
	g := gateways(t, 1, false)[0]
	if !r.Expect("t:a") {
		t.Fatal("not expected")
	}
	topic := r.lock("t:a")
	topic.mu.Unlock()
	flood := func() {
		for id := range uint64(1000) {
			r.Join(g.Lane, &linkpb.Join{Topic: "t:a", Subscriber: id})
			r.Leave(g.Lane, &linkpb.Leave{Topic: "t:a", Subscriber: id})
			r.Unsubscribe(&g.Turn, g.Lane, "t:a")
			r.Untrack(&g.Turn, g.Lane, &linkpb.Untrack{Topic: "t:a", Member: id})
			r.Unwatch(&g.Turn, g.Lane, "t:a")
		}
	}
	flood()
	if n := len(topic.parked); n != 0 {
		t.Fatalf("%d items wait for nothing", n)
	}
	r.Subscribe(&g.Turn, g.Lane, &linkpb.Subscribe{Ref: 1, Topic: "t:a"})
	r.Watch(&g.Turn, g.Lane, &linkpb.Watch{Ref: 2, Topic: "t:a"})
	r.Track(&g.Turn, g.Lane, &linkpb.Track{Ref: 3, Topic: "t:a", Member: 7, Presence: &linkpb.Presence{Key: "k", Meta: []byte("{}")}})
	flood()
	flood()
	if n := len(topic.parked); n != 3+2+3 { // Join and Leave of the first subscriber, and three ends
		t.Fatalf("%d items wait", n)
	}
	r.Subscribe(&g.Turn, g.Lane, &linkpb.Subscribe{Ref: 4, Topic: "t:a"})
	bytes, others := r.parked.Load(), maxChanges-10-r.changes.Load()
	r.changes.Add(others)
	for range 12 {
		r.Join(g.Lane, &linkpb.Join{Topic: "t:a", Subscriber: 1})
	}
	if n := len(topic.parked); n != 3+2+3+1+10 || r.Stats().ParkedRefused != 2 || r.parked.Load() != bytes {
		t.Errorf("%d items wait, %d were refused, %d bytes after %d", n, r.Stats().ParkedRefused, r.parked.Load(), bytes)
	}
	r.Install("t:a", nil)
	if topic.stakes != nil || r.parked.Load() != 0 || r.changes.Load() != others || len(topic.subs) != 1 || r.Stats().Presences != 0 {
		t.Errorf("left: stakes %v, %d bytes, %d subscriptions", topic.stakes, r.parked.Load(), len(topic.subs))
	}
	for want := range uint64(4) {
		if rep := next[*linkpb.Reply](t, g); rep.Ref != want+1 || rep.Code != linkpb.Code_OK {
			t.Errorf("reply %v, want that to %d", rep, want+1)
		}
		if want == 1 {
			next[*linkpb.PresenceDiff](t, g)
		}
	}

	r.parked.Store(maxParkedAll)
	r.Subscribe(&g.Turn, g.Lane, &linkpb.Subscribe{Ref: 5, Topic: "t:b"})
	g.Flush()
	if rep := next[*linkpb.Reply](t, g); rep.Code != linkpb.Code_OVERLOADED {
		t.Errorf("reply %v", rep)
	}
}

// Many publish while the topic is sealed and installed elsewhere: whoever is told OK is in the state, at that position,
// and nothing comes after Sealed.
func TestSealRacesWithPublishers(t *testing.T) {
	const publishers = 4
	for range 20 {
		var moved atomic.Bool
		r := registryOf(t, func(string) Claim {
			if moved.Load() {
				return NotOurs
			}
			return Ours
		})
		gws := gateways(t, publishers+1, false)
		listener := gws[publishers]
		listener.subscribe(t, r, "t:a")
		var all sync.WaitGroup
		var acked atomic.Uint64
		for _, g := range gws[:publishers] {
			all.Go(func() {
				for {
					g.publish(r, "t:a", g.Gateway)
					if rep := next[*linkpb.Reply](t, g); rep.Code == linkpb.Code_NOT_OWNER {
						return
					}
					acked.Add(1)
				}
			})
		}
		waitFor(t, "publishes", func() bool { return acked.Load() > 20 })
		moved.Store(true)
		if names := r.Foreign(func(string) bool { return true }); !slices.Equal(names, []string{"t:a"}) {
			t.Fatalf("foreign: %v", names)
		}
		state := seal(t, r, "t:a", 8)
		all.Wait()
		if n := acked.Load(); state.Position.Offset != n || r.Stats().Topics != 0 {
			t.Fatalf("sealed at %d, %d publishes were acknowledged", state.Position.Offset, n)
		}
		for i := range acked.Load() {
			if m := next[*linkpb.Message](t, listener); m.Position.Offset != i+1 {
				t.Fatalf("message %v, want offset %d", m, i+1)
			}
		}
		if s := next[*linkpb.Sealed](t, listener); s.Position.Offset != acked.Load() {
			t.Fatalf("sealed %v", s)
		}
		if len(listener.items) != 0 {
			t.Fatalf("after the seal came %v", <-listener.items)
		}
	}
}

// A topic that is made while the ring changes is seen by Foreign, or is not made: Claim is asked under the lock that
// Foreign takes.
func TestNoTopicIsMadeBehindForeign(t *testing.T) {
	for range 100 {
		var moved atomic.Bool
		asked, goOn := make(chan struct{}), make(chan struct{})
		var once sync.Once
		r := registryOf(t, func(string) Claim {
			claim := Ours
			if moved.Load() {
				claim = NotOurs
			}
			once.Do(func() {
				close(asked)
				<-goOn // between the claim and the making of the topic
			})
			return claim
		})
		var made, listed sync.WaitGroup
		made.Go(func() {
			if tp, _ := r.need("t:a"); tp != nil {
				tp.mu.Unlock()
			}
		})
		<-asked
		moved.Store(true)
		var names []string
		listed.Go(func() { names = r.Foreign(func(string) bool { return true }) })
		close(goOn)
		made.Wait()
		listed.Wait()
		if r.Stats().Topics != int64(len(names)) {
			t.Fatalf("%d topics, listed %v", r.Stats().Topics, names)
		}
	}
}
