package topicserver

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/ring"
)

// byHand is a taker that does what a test wants.
type byHand struct {
	*link.Taking
	t *testing.T
}

// takeByHand opens a handover as a process of ts-b and returns what is on offer.
func takeByHand(t *testing.T, s *server, rg *ring.Ring, instance uint64, arrived ...*linkpb.Arrived) (*byHand, []string) {
	t.Helper()
	h, err := link.Take(t.Context(), s.addr, unhurried, &linkpb.Wants{
		Server: "ts-b", Instance: instance, Rings: []*linkpb.Ring{link.EncodeRing(rg)}, Arrived: arrived,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	m, err := h.Receive()
	if err != nil || !m.Offered {
		t.Fatalf("offers %v, %v", m, err)
	}
	h.Greeted()
	return &byHand{h, t}, m.Offers
}

func (h *byHand) pull(name string) *linkpb.TopicState {
	h.t.Helper()
	if err := h.Send(&linkpb.Wants{Pull: []string{name}}); err != nil {
		h.t.Fatal(err)
	}
	m, err := h.Receive()
	if err != nil {
		h.t.Fatal(err)
	}
	return m.State
}

// moving returns a server with a topic that its ring has and the ring v8 gives to ts-b.
func moving(t *testing.T) (s *server, r8 *ring.Ring, name string) {
	t.Helper()
	s = start(t, Config{}, "ts-a", "ts-b")
	r8, err := ring.New(8, []ring.Server{{ID: "ts-b", Addr: "127.0.0.1:2"}})
	if err != nil {
		t.Fatal(err)
	}
	name = ownedBy(t, 1, s.rings.Current(), "ts-a", r8, "ts-b")[0]
	s.connect(t, "gw-a").publishAt(t, name, "x")
	return s, r8, name
}

// A taker gets a state, is cut off before it can say so, and ends. Its next process must not go on from that state: the first
// one may have given positions behind it to others.
func TestAStateIsForOneProcess(t *testing.T) {
	s, r8, name := moving(t)
	h, _ := takeByHand(t, s, r8, 1)
	if state := h.pull(name); state.Absent || state.Position.Offset != 1 {
		t.Fatalf("state %v", state)
	}
	h.Close()
	h, offers := takeByHand(t, s, r8, 1)
	if len(offers) != 1 || h.pull(name).Absent {
		t.Errorf("the same process is offered %v", offers)
	}
	h.Close()
	for _, instance := range []uint64{2, 1} {
		if h, offers = takeByHand(t, s, r8, instance); len(offers) != 0 || !h.pull(name).Absent {
			t.Errorf("process %d is offered %v", instance, offers)
		}
		h.Close()
	}
	if n := s.give.pending(); n != 0 {
		t.Errorf("%d topics left", n)
	}
	if n := s.logs.FilterMessage("a server that was taking topics over has restarted; they begin anew").Len(); n != 1 {
		t.Errorf("log %v", s.logs.All())
	}
}

// What has arrived over a connection that is gone is forgotten by the next greeting, and only that.
func TestArrivedEarlier(t *testing.T) {
	s, r8, name := moving(t)
	h, _ := takeByHand(t, s, r8, 1)
	pos := h.pull(name).Position
	h.Close()
	for _, other := range []*linkpb.Position{nil, {Epoch: pos.Epoch, Offset: pos.Offset + 1}, {Epoch: pos.Epoch + 2, Offset: pos.Offset}} {
		h, offers := takeByHand(t, s, r8, 1, &linkpb.Arrived{Topic: name, Position: other}, &linkpb.Arrived{Topic: "t:none"})
		if h.Close(); len(offers) != 1 {
			t.Errorf("arrived at %v: offers %v", other, offers)
		}
	}
	h, offers := takeByHand(t, s, r8, 1, &linkpb.Arrived{Topic: name, Position: pos})
	if h.Close(); len(offers) != 0 || s.give.pending() != 0 {
		t.Errorf("offers %v, %d left", offers, s.give.pending())
	}
}

// Requests for topics on offer come in buffers of lanes, which are used again while the topics are fetched.
func TestATopicThatIsAskedForHasANameOfItsOwn(t *testing.T) {
	request := []byte("t:moves")
	tk := newTake(&Server{})
	g := &giver{
		server: ring.Server{ID: "ts-a"}, offers: map[string]offer{"t:moves": open, "t:other": open},
		pulled: make(map[string]time.Time), wake: make(chan struct{}, 1),
	}
	tk.givers["ts-a"] = g
	if !tk.request(unsafe.String(&request[0], len(request))) {
		t.Fatal("nobody has it")
	}
	names, _, err := tk.next(g, 1)
	copy(request, "t:wrong")
	if err != nil || !slices.Equal(names, []string{"t:moves"}) || g.offers["t:moves"] != asked {
		t.Errorf("pulls %q, %v; offers %v", names, err, g.offers)
	}
}

// A server that has just started knows no ring by which another one had topics of it. One that there is a connection to may have all
// the same, and be busy: it is not given up as soon as one that nothing is heard of.
func TestABusyServerIsWaitedFor(t *testing.T) {
	s := start(t, Config{}, "ts-a")
	tk := s.take
	for _, test := range []struct {
		talks  bool
		tells  bool
		was    []*ring.Ring
		dead   bool
		at     lateness
		gaveUp bool
	}{
		{talks: false, at: soon},
		{talks: false, at: late, gaveUp: true},
		{talks: true, at: late},
		{talks: true, at: tooLate, gaveUp: true},
		{talks: true, tells: true, at: tooLate},          // for as long as it may stall
		{was: []*ring.Ring{s.rings.Current()}, at: late}, // from looks after these
		{was: []*ring.Ring{s.rings.Current()}, at: tooLate},
		{dead: true, at: soon, gaveUp: true},
	} {
		g := &giver{server: ring.Server{ID: "ts-b"}, was: test.was, dead: test.dead}
		if tk.connected(g, test.talks); test.tells {
			tk.tells(g)
		}
		if got := tk.unreached(g, test.at); got != test.gaveUp || g.settled != test.gaveUp {
			t.Errorf("%+v: given up %t, settled %t", test, got, g.settled)
		}
		tk.connected(g, false)
		g.settled = true
		if tk.unreached(g, tooLate) {
			t.Errorf("%+v: given up though it has told", test)
		}
	}
}

// What the test above sets by hand: there is a connection while the old owner has not answered, and no more when it has ended.
func TestABusyServerIsConnected(t *testing.T) {
	f := startFleet(t, Config{}, []string{"ts-a", "ts-b"}, "ts-a")
	way := f.relay("ts-a")
	busy := make(chan struct{})
	free := sync.OnceFunc(func() { close(busy) })
	t.Cleanup(free)
	way.busy.Store(&busy)
	tk := f.join(Config{}, "ts-b", f.ring(2, "ts-a", "ts-b")).take
	var g *giver
	talks := func() bool {
		tk.mu.Lock()
		defer tk.mu.Unlock()
		if g == nil {
			g = tk.givers["ts-a"]
		}
		return g != nil && g.talks
	}
	waitFor(t, "a connection", talks)
	free()
	f.settled(2)
	waitFor(t, "its end", func() bool { return !talks() })
}

// A taker that is cut off before a giver has heard what arrived says it when it comes again.
func TestTheTakerSaysWhatArrived(t *testing.T) {
	f := startFleet(t, handoverTest, []string{"ts-a", "ts-b"}, "ts-a", "ts-b")
	f.settled(1)
	a, b := f.servers["ts-a"], f.servers["ts-b"]
	pos := &linkpb.Position{Epoch: 5, Offset: 7}
	b.take.mu.Lock()
	b.take.arrived["ts-a"] = map[string]*linkpb.Position{"t:x": pos}
	b.take.mu.Unlock()
	a.give.mu.Lock()
	a.give.given["t:x"] = &given{to: taker{"ts-b", b.instance}, state: &linkpb.TopicState{Topic: "t:x", Position: pos}, at: time.Now()}
	a.give.mu.Unlock()
	f.adopt("ts-b", f.ring(2, "ts-a", "ts-b"))
	f.settled(2)
	b.take.mu.Lock()
	defer b.take.mu.Unlock()
	if n := len(b.take.arrived["ts-a"]); n != 0 || b.Stats().Topics != 0 {
		t.Errorf("%d still to be said, %d topics", n, b.Stats().Topics)
	}
}

// A server that is dead at a ring edit costs its own topics a wait, once, and the others nothing.
func TestADeadServerCostsOneWait(t *testing.T) {
	cfg := Config{HandoverTimeout: 8 * time.Second}
	f := startFleet(t, cfg, []string{"ts-a", "ts-b", "ts-c"}, "ts-a", "ts-b", "ts-c")
	f.settled(1)
	a := f.servers["ts-a"]
	r1, r2 := f.ring(1, "ts-a", "ts-b", "ts-c"), f.ring(2, "ts-a", "ts-b")
	f.servers["ts-c"].stop()
	delete(f.servers, "ts-c")
	g := a.connect(t, "gw-a")
	var edited time.Time
	publish := func(topic string) (since time.Duration) {
		t.Helper()
		for ; ; g.ref++ {
			g.send(linkpb.KindPublish, &linkpb.Publish{Ref: g.ref + 1, Topic: topic, IdLow: 1})
			if rep := g.reply(t, g.ref+1); rep.Code == linkpb.Code_OK {
				g.ref++
				return time.Since(edited)
			} else if rep.Code != linkpb.Code_NOT_OWNER {
				t.Fatalf("%s: %v", topic, rep)
			}
		}
	}
	edited = time.Now()
	f.adopt("ts-a", r2)
	if at := publish(ownedBy(t, 1, r1, "ts-b", r2, "ts-a")[0]); at >= cfg.HandoverTimeout {
		t.Errorf("a topic of the server that lives waited until %v after the edit", at)
	}
	if at := publish(ownedBy(t, 1, r1, "ts-a", r2, "ts-a")[0]); at >= cfg.HandoverTimeout {
		t.Errorf("a topic that does not move waited until %v after the edit", at)
	}
	were := ownedBy(t, 2, r1, "ts-c", r2, "ts-a")
	if at := publish(were[0]); at < cfg.HandoverTimeout {
		t.Errorf("a topic of the dead server waited only until %v after the edit", at)
	}
	// It is dead at the next edits, too.
	r4 := f.ring(4, "ts-a", "ts-b")
	edited = time.Now()
	f.adopt("ts-a", f.ring(3, "ts-a"), r4)
	for i := 0; ; i++ {
		topic := fmt.Sprint("topics:later", i)
		if r1.Owner(topic).ID == "ts-c" && r4.Owner(topic).ID == "ts-a" {
			if at := publish(topic); at >= cfg.HandoverTimeout {
				t.Errorf("at the next edit it waited until %v after it", at)
			}
			return
		}
	}
}

// A topic whose state cannot be begins anew, and is forgotten by the one that gave it; the others come over.
func TestAStateThatCannotBe(t *testing.T) {
	lis, b := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
	servers := []ring.Server{{ID: "ts-a", Addr: lis.Addr().String()}, {ID: "ts-b", Addr: b.Addr().String()}}
	r2, err := ring.New(2, servers)
	if err != nil {
		t.Fatal(err)
	}
	names := ownedBy(t, 2, r2, "ts-a", r2, "ts-a")
	good, bad := names[0], names[1]
	const epoch = 77
	state := func(name, said string) *linkpb.TopicState {
		return &linkpb.TopicState{Topic: name, Position: &linkpb.Position{Epoch: epoch, Offset: 5}, History: [][]byte{
			linkpb.AppendItem(nil, linkpb.KindMessage, &linkpb.Message{Topic: said, Event: "e", Position: &linkpb.Position{Epoch: epoch, Offset: 5}}),
		}}
	}
	states := map[string]*linkpb.TopicState{good: state(good, good), bad: state(bad, good)}
	forgotten := make(chan string, 2)
	giver := func(h *link.Handover) error {
		err := h.Send(&linkpb.Gives{Rings: []*linkpb.Ring{link.EncodeRing(r2)}, Offers: names, Offered: true})
		for err == nil {
			var m *linkpb.Wants
			if m, err = h.Receive(); err != nil {
				return nil //nolint:nilerr // the taker is done
			}
			for _, name := range m.Pull {
				err = h.Send(&linkpb.Gives{State: states[name]})
			}
			for _, name := range m.Taken {
				forgotten <- name
				err = h.Send(&linkpb.Gives{})
			}
		}
		return err
	}
	giveByHand(t, b, giver)
	s := startOn(t, Config{ID: "ts-a"}, r2, lis)
	done := []string{await(t, "a topic to be forgotten", forgotten), await(t, "the other topic to be forgotten", forgotten)}
	if slices.Sort(done); !slices.Equal(done, slices.Sorted(slices.Values(names))) {
		t.Errorf("forgotten are %v", done)
	}
	g := s.connect(t, "gw-a")
	for name, kept := range map[string]bool{good: true, bad: false} {
		p := g.publishAt(t, name, "x")
		if kept && (p.Epoch != epoch || p.Offset != 6) || !kept && (p.Epoch == epoch || p.Offset != 1) {
			t.Errorf("%s: published at %v", name, p)
		}
	}
	lines := s.logs.FilterMessage("what another server has of a topic cannot be; the topic begins anew").All()
	if len(lines) != 1 || lines[0].ContextMap()["topic"] != bad || lines[0].ContextMap()["old_owner"] != "ts-b" ||
		lines[0].ContextMap()["error"] != fmt.Sprintf("message 1 of 1: it is of topic %q", good) {
		t.Errorf("log %v", lines)
	}
	if taken, refused := s.moves.taken.Load(), s.moves.refused.Load(); taken != 1 || refused != 1 {
		t.Errorf("%d taken, %d refused", taken, refused)
	}
}
