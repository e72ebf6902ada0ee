package topicserver

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/ring"
)

var handoverTest = Config{HistorySize: 100_000, HistoryIDs: 30_000, HistoryBytes: 1 << 21, HandoverTimeout: patience}

func names(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprint("topics:", i)
	}
	return list
}

// Gateways publish all the time while a third server comes and goes.
func TestRingChangesUnderLoad(t *testing.T) {
	f := startFleet(t, handoverTest, []string{"ts-a", "ts-b", "ts-c"}, "ts-a", "ts-b", "ts-c")
	topics := names(50)
	stop := f.roam(3, topics)
	version := uint64(1)
	for _, ids := range [][]string{{"ts-a", "ts-b"}, {"ts-a", "ts-b", "ts-c"}, {"ts-a", "ts-b"}} {
		version++
		if err := f.servers["ts-a"].rings.Replace(f.ring(version, ids...)); err != nil {
			t.Fatal(err)
		}
		f.settled(version)
	}
	roamers := stop()
	for _, topic := range topics {
		f.check(version, topic, roamers)
	}
}

// The ring changes again while topics are on their way.
func TestManyQuickRingChanges(t *testing.T) {
	ids := []string{"ts-a", "ts-b", "ts-c"}
	f := startFleet(t, handoverTest, ids, ids...)
	topics := names(50)
	stop := f.roam(3, topics)
	version := uint64(1)
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	absent := make(map[string]int) // since how many rings: a Keeper does not know a server that is in none it remembers
	for range 8 {
		version++
		var some []string
		for _, id := range ids {
			if absent[id]++; absent[id] == 4 || rnd.IntN(2) == 0 {
				some, absent[id] = append(some, id), 0
			}
		}
		if some == nil {
			some, absent[ids[0]] = ids[:1], 0
		}
		if err := f.servers[ids[rnd.IntN(3)]].rings.Adopt(f.ring(version, some...)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rnd.IntN(20)) * time.Millisecond) // any moment of the handover will do
	}
	f.settled(version)
	roamers := stop()
	for _, topic := range topics {
		f.check(version, topic, roamers)
	}
}

// ownedBy returns n topics that a ring gives to a server, and another ring to another.
func ownedBy(t testing.TB, n int, was *ring.Ring, from string, is *ring.Ring, to string) []string {
	t.Helper()
	var list []string
	for i := 0; len(list) < n; i++ {
		name := fmt.Sprint("topics:", i)
		if was.Owner(name).ID == from && is.Owner(name).ID == to {
			list = append(list, name)
		}
		if i > 1_000_000 {
			t.Fatalf("no topics go from %s to %s", from, to)
		}
	}
	return list
}

// publishAt publishes and returns the position.
func (g *gateway) publishAt(t testing.TB, topic, payload string) *linkpb.Position {
	t.Helper()
	rep := g.publish(t, topic, payload)
	if rep.Code != linkpb.Code_OK {
		t.Fatalf("publish to %s: %v", topic, rep)
	}
	return rep.Position
}

// The gateway of the old owner is told where the topic ended, and resumes at the new one.
func TestAServerJoins(t *testing.T) {
	f := startFleet(t, Config{}, []string{"ts-a", "ts-b"}, "ts-a")
	r2 := f.ring(2, "ts-a", "ts-b")
	topic := ownedBy(t, 1, f.ring(1, "ts-a"), "ts-a", r2, "ts-b")[0]
	a := f.servers["ts-a"]
	g := a.connect(t, "gw-a")
	start := g.subscribe(t, topic).Position
	for i := range uint64(3) {
		if p := g.publishAt(t, topic, "x"); p.Offset != i+1 {
			t.Fatalf("position %v", p)
		}
		next[*linkpb.Message](t, g)
	}
	b := f.join(Config{}, "ts-b", r2) // only its file has the new ring
	f.settled(2)
	if r := next[*linkpb.Ring](t, g); r.Version != 2 {
		t.Errorf("ring %v", r)
	}
	if s := next[*linkpb.Sealed](t, g); s.Topic != topic || s.Position.Offset != 3 || s.Position.Epoch != start.Epoch || s.RingVersion != 2 {
		t.Errorf("sealed %v", s)
	}
	if rep := g.publish(t, topic, "y"); rep.Code != linkpb.Code_NOT_OWNER {
		t.Errorf("the old owner says %v", rep)
	}
	g = b.connect(t, "gw-a")
	g.send(linkpb.KindSubscribe, &linkpb.Subscribe{Ref: 1, Topic: topic, Since: []*linkpb.Position{{Epoch: start.Epoch, Offset: 1}}})
	if rep := next[*linkpb.Reply](t, g); rep.Replayed != 2 || rep.From.GetOffset() != 1 || rep.Position.Offset != 3 {
		t.Errorf("reply %v", rep)
	}
	if n := b.moves.taken.Load(); n != 1 {
		t.Errorf("%v handovers counted", n)
	}
}

// A server that the ring has no more is asked for its topics before it stops.
func TestRow34_ARemovedServerStopsWhenItHasHandedOver(t *testing.T) {
	f := startFleet(t, handoverTest, []string{"ts-a", "ts-b"}, "ts-a", "ts-b")
	a, b := f.servers["ts-a"], f.servers["ts-b"]
	f.settled(1)
	topics := ownedBy(t, 40, f.ring(1, "ts-a", "ts-b"), "ts-b", f.ring(3, "ts-a"), "ts-a")
	g := b.connect(t, "gw-a")
	epochs := make(map[string]uint64)
	for _, topic := range topics {
		epochs[topic] = g.publishAt(t, topic, "x").Epoch
	}
	way := f.relay("ts-b")
	way.cut.Store(true) // nobody can ask for them yet
	f.adopt("ts-b", f.ring(2, "ts-a", "ts-b"), f.ring(3, "ts-a"))
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		b.stop()
	}()
	waitFor(t, "it to be not ready", func() bool { return b.Ready() != nil })
	if n := b.give.pending(); n != len(topics) {
		t.Errorf("%d topics to hand over, want %d", n, len(topics))
	}
	select {
	case <-stopped:
		t.Fatal("stopped with topics of others")
	default:
	}
	way.cut.Store(false)
	await(t, "the removed server to stop", stopped)
	g = a.connect(t, "gw-a")
	for _, topic := range topics {
		if p := g.publishAt(t, topic, "y"); p.Epoch != epochs[topic] || p.Offset != 2 {
			t.Errorf("topic %s goes on at %v, epoch was %x", topic, p, epochs[topic])
		}
	}
	if n := b.logs.FilterMessage("stopping with topics that nobody took over").Len(); n != 0 {
		t.Error("it says that it left topics")
	}
}

func TestARemovedServerWaitsForNobodyForEver(t *testing.T) {
	f := startFleet(t, Config{HandoverTimeout: 50 * time.Millisecond}, []string{"ts-a", "ts-b"}, "ts-b")
	b := f.servers["ts-b"]
	g := b.connect(t, "gw-a")
	g.publishAt(t, "t:a", "x")
	if err := b.rings.Adopt(f.ring(2, "ts-a")); err != nil {
		t.Fatal(err)
	}
	b.stop()
	if n := b.logs.FilterMessage("stopping with topics that nobody took over").Len(); n != 1 {
		t.Errorf("log %v", b.logs.All())
	}
}

// When the old owner is gone for good the topic begins anew, after the bound and not before.
func TestTheOldOwnerIsGone(t *testing.T) {
	cfg := Config{HandoverTimeout: 300 * time.Millisecond}
	f := startFleet(t, cfg, []string{"ts-a", "ts-b"}, "ts-a", "ts-b")
	r2 := f.ring(2, "ts-a")
	topic := ownedBy(t, 1, f.ring(1, "ts-a", "ts-b"), "ts-b", r2, "ts-a")[0]
	a, b := f.servers["ts-a"], f.servers["ts-b"]
	was := b.connect(t, "gw-a").publishAt(t, topic, "x")
	f.settled(1)
	warnings := func() int {
		return a.logs.FilterLevelExact(zap.WarnLevel).FilterField(zap.String("old_owner", "ts-b")).Len()
	}
	before := warnings()
	b.stop()
	delete(f.servers, "ts-b")
	begin := time.Now()
	if err := a.rings.Replace(r2); err != nil {
		t.Fatal(err)
	}
	g := a.connect(t, "gw-a")
	if p := g.publishAt(t, topic, "y"); p.Epoch == was.Epoch || p.Offset != 1 {
		t.Errorf("position %v, was %v", p, was)
	}
	if took := time.Since(begin); took < cfg.HandoverTimeout {
		t.Errorf("it began anew after %v", took)
	}
	if n := warnings() - before; n != 1 {
		t.Errorf("log %v", a.logs.All())
	}
}

// An old owner that has restarted has nothing: topics begin anew at once.
func TestTheOldOwnerHasRestarted(t *testing.T) {
	f := startFleet(t, handoverTest, []string{"ts-a", "ts-b"}, "ts-a", "ts-b")
	r2 := f.ring(2, "ts-a")
	topic := ownedBy(t, 1, f.ring(1, "ts-a", "ts-b"), "ts-b", r2, "ts-a")[0]
	was := f.servers["ts-b"].connect(t, "gw-a").publishAt(t, topic, "x")
	f.servers["ts-b"].stop()
	f.join(handoverTest, "ts-b", f.ring(1, "ts-a", "ts-b"))
	f.settled(1)
	if err := f.servers["ts-a"].rings.Replace(r2); err != nil {
		t.Fatal(err)
	}
	if p := f.servers["ts-a"].connect(t, "gw-a").publishAt(t, topic, "y"); p.Epoch == was.Epoch || p.Offset != 1 {
		t.Errorf("position %v, was %v", p, was)
	}
	f.settled(2)
}

// A server that could not be reached in time still gives what nobody has begun anew, and ends the rest.
func TestTheOldOwnerComesBackLate(t *testing.T) {
	cfg := Config{HandoverTimeout: 50 * time.Millisecond}
	f := startFleet(t, cfg, []string{"ts-a", "ts-b"}, "ts-a", "ts-b")
	a, b := f.servers["ts-a"], f.servers["ts-b"]
	f.settled(1)
	topics := ownedBy(t, 2, f.ring(1, "ts-a", "ts-b"), "ts-b", f.ring(3, "ts-a"), "ts-a")
	used, unused := topics[0], topics[1]
	h := b.connect(t, "gw-b")
	h.subscribe(t, used)
	h.publishAt(t, used, "x")
	next[*linkpb.Message](t, h)
	was := h.publishAt(t, unused, "x")

	way := f.relay("ts-b")
	way.cut.Store(true)
	f.adopt("ts-a", f.ring(2, "ts-a", "ts-b"), f.ring(3, "ts-a"))
	g := a.connect(t, "gw-a")
	anew := g.publishAt(t, used, "y")
	way.cut.Store(false)
	f.settled(3)
	if next[*linkpb.Ring](t, h); next[*linkpb.Sealed](t, h).Position.Offset != 1 {
		t.Error("the old stream did not end where it did")
	}
	if p := g.publishAt(t, used, "y"); p.Epoch != anew.Epoch || p.Offset != 2 {
		t.Errorf("position %v, was %v", p, anew)
	}
	if p := g.publishAt(t, unused, "y"); p.Epoch != was.Epoch || p.Offset != 2 {
		t.Errorf("position %v, was %v", p, was)
	}
}

// move fills topics of ts-b and gives them to ts-a, over a relay.
func move(t *testing.T, limit int64, topics, messages, size int) (way *relay) {
	f := startFleet(t, handoverTest, []string{"ts-a", "ts-b"}, "ts-a", "ts-b")
	a, b := f.servers["ts-a"], f.servers["ts-b"]
	f.settled(1)
	g := b.connect(t, "gw-a")
	was := make(map[string]*linkpb.Position)
	for _, topic := range ownedBy(t, topics, f.ring(1, "ts-a", "ts-b"), "ts-b", f.ring(3, "ts-a"), "ts-a") {
		for range messages {
			was[topic] = g.publishAt(t, topic, strings.Repeat("x", size))
		}
	}
	way = f.relay("ts-b")
	way.limit.Store(limit)
	f.adopt("ts-a", f.ring(2, "ts-a", "ts-b"), f.ring(3, "ts-a"))
	f.settled(3)
	g = a.connect(t, "gw-a")
	for topic, pos := range was {
		since := &linkpb.Position{Epoch: pos.Epoch, Offset: pos.Offset - 1}
		g.send(linkpb.KindSubscribe, &linkpb.Subscribe{Ref: g.ref + 1, Topic: topic, Since: []*linkpb.Position{since}})
		g.ref++
		if rep := next[*linkpb.Reply](t, g); rep.Replayed != 1 || rep.Position.Offset != pos.Offset || rep.Position.Epoch != pos.Epoch {
			t.Errorf("topic %s is at %v, was at %v", topic, rep, pos)
		}
		if m := next[*linkpb.Message](t, g); len(m.Payload) != size {
			t.Errorf("a message of %d bytes, want %d", len(m.Payload), size)
		}
	}
	return way
}

// The connection is cut again and again while topics are on their way: each is offered again until it has arrived.
func TestHandoverIsCut(t *testing.T) {
	if way := move(t, 500_000, 100, 1, 20_000); way.conns.Load() < 4 {
		t.Errorf("%d connections, want at least 4", way.conns.Load())
	}
}

// More than a connection may queue goes over without being cut off.
func TestLargeTopicsMove(t *testing.T) {
	if way := move(t, 1<<30, 24, 3, 600_000); way.conns.Load() > 2 {
		t.Errorf("%d connections, want one for each ring", way.conns.Load())
	}
}

// A taker that asks for much more than a handover may queue, and is slow to read, gets it all.
func TestSlowTakerGetsEverything(t *testing.T) {
	const topics, messages = 24, 3
	cfg := handoverTest
	cfg.HandoverTimeout = time.Second
	f := startFleet(t, cfg, []string{"ts-a", "ts-b"}, "ts-b")
	b := f.servers["ts-b"]
	g := b.connect(t, "gw-a")
	pull := names(topics)
	for _, topic := range pull {
		for range messages {
			g.publishAt(t, topic, strings.Repeat("x", 600_000))
		}
	}
	wants := &linkpb.Wants{Server: "ts-a", Rings: []*linkpb.Ring{link.EncodeRing(f.ring(2, "ts-a"))}}
	h, err := link.Take(t.Context(), b.addr, unhurried, wants)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if m, err := h.Receive(); err != nil || len(m.Offers) != topics {
		t.Fatalf("offers %v, %v", m, err)
	}
	h.Greeted()
	if err := h.Send(&linkpb.Wants{Pull: pull}); err != nil {
		t.Fatal(err)
	}
	sealed := func() int {
		b.give.mu.Lock()
		defer b.give.mu.Unlock()
		return len(b.give.given)
	}
	// It seals until there is no more room, and not one more; that takes some reading of a clock to see.
	for last, since := 0, time.Now(); time.Since(since) < 200*time.Millisecond; time.Sleep(time.Millisecond) {
		if n := sealed(); n != last {
			last, since = n, time.Now()
		}
	}
	if n := sealed(); n == topics {
		t.Error("it sealed topics long before they could be sent")
	}
	for _, topic := range pull {
		m, err := h.Receive()
		if err != nil || m.State.GetTopic() != topic || len(m.State.History) != messages {
			t.Fatalf("topic %s: state of %s, %v", topic, m.GetState().GetTopic(), err)
		}
	}
	if err := h.Send(&linkpb.Wants{Taken: pull}); err != nil {
		t.Fatal(err)
	}
	if m, err := h.Receive(); err != nil || m.State != nil || b.give.pending() != 0 {
		t.Errorf("got %v, %v; %d topics left", m, err, b.give.pending())
	}
}

// The topic goes A → B → C while A has sealed it for B and B does not have it yet: C gets it from B.
func TestATopicGoesOnFromTheMiddle(t *testing.T) {
	f := startFleet(t, handoverTest, []string{"ts-a", "ts-b", "ts-c"}, "ts-a", "ts-b", "ts-c")
	f.settled(1)
	all := []string{"ts-a", "ts-b", "ts-c"}
	r2, r3 := f.ring(4, "ts-b", "ts-c"), f.ring(5, "ts-c")
	topic := ownedBy(t, 1, f.ring(1, all...), "ts-a", r2, "ts-b")[0]
	a, b, c := f.servers["ts-a"], f.servers["ts-b"], f.servers["ts-c"]
	was := a.connect(t, "gw-a").publishAt(t, topic, "x")

	way := f.relay("ts-a")
	way.limit.Store(100) // from A to B: not even the rings
	f.adopt("ts-b", f.ring(3, all...))
	f.adopt("ts-b", r2)
	g := b.connect(t, "gw-a") // waits at B
	g.send(linkpb.KindPublish, &linkpb.Publish{Ref: 1, Topic: topic, Payload: []byte("y"), IdLow: 1})
	waitFor(t, "the topic to wait", func() bool { return len(b.topics.Waiting()) == 1 })
	waitFor(t, "A to know", func() bool { return a.RingVersion() == 4 })
	if state := a.give.seal(topic, taker{"ts-b", b.instance}, a.rings.Current()); state.Absent || state.Position.Offset != 1 {
		t.Fatalf("sealed %v", state)
	}
	f.adopt("ts-c", r3)
	waitFor(t, "B to know", func() bool { return b.RingVersion() == 5 })
	way.limit.Store(1 << 30)
	f.settled(5)
	rep := g.reply(t, 1)
	if rep.Code != linkpb.Code_OK || rep.Position.Epoch != was.Epoch || rep.Position.Offset != 2 {
		t.Errorf("the publish that waited in the middle: %v", rep)
	}
	if p := c.connect(t, "gw-a").publishAt(t, topic, "z"); p.Epoch != was.Epoch || p.Offset != 3 {
		t.Errorf("position %v, was %v", p, was)
	}
}

// A bug that what another server hands over meets is one more reason to try again, and does not end the process.
func TestABugInAHandoverFailsIt(t *testing.T) {
	s := start(t, Config{})
	reached, taken, err := s.take.trySession(t.Context(), nil) // a giver that is none
	if reached || taken != 0 || !errors.Is(err, errPanicked) {
		t.Errorf("reached %v, %d taken, error %v", reached, taken, err)
	}
	if err := s.take.receiveAnswers(nil, nil); !errors.Is(err, errPanicked) {
		t.Errorf("error %v", err)
	}
	if n := gauge(t, s, "ringcast_topic_panics_total"); n != 2 {
		t.Errorf("%v panics counted", n)
	}
	if n := s.logs.FilterMessage("lane handler panicked").Len(); n != 2 {
		t.Errorf("%d lines", n)
	}
}
