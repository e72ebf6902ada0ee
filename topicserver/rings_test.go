package topicserver

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/daemon"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/ring"
	"github.com/ringcast/ringcast/topicserver/history"
	"github.com/ringcast/ringcast/topicserver/topic"
)

// A bug that is met while a peer's ring is put to use ends nothing, and nobody waits for that ring any more.
func TestARingOfAPeerPanics(t *testing.T) {
	rg := testRing(t, "ts-a")
	s := &Server{log: zap.NewNop(), topics: topic.NewRegistry(topic.Config{Store: history.NewMemory(history.Config{})})}
	s.rings = ring.NewKeeper(rg, ring.Hooks{Changing: func([]*ring.Ring) { panic("a bug") }})
	s.take = newTake(s)
	next := link.EncodeRing(rg)
	next.Version++
	(&laneServer{s: s}).learnLater(next)
	s.learning.Wait()
	if n := s.panics.Load(); n != 1 || s.building.Load() != 0 || s.rings.Current() != rg {
		t.Errorf("%d panics, %d rings being built, version %d", n, s.building.Load(), s.rings.Current().Version())
	}
}

// A gateway that sends rings without an end has one of them built at a time, and the newest when that is done; the log is
// not filled with them.
func TestAFloodOfRings(t *testing.T) {
	s := start(t, Config{})
	g := s.connect(t, "gw-a")
	newest, err := ring.New(400, []ring.Server{{ID: "ts-a", Addr: "127.0.0.1:1"}, {ID: "ts-z", Addr: "127.0.0.1:2"}})
	if err != nil {
		t.Fatal(err)
	}
	s.learnMu.Lock()
	running := runtime.NumGoroutine()
	for i := range uint64(300) {
		g.Append(linkpb.KindUpRing, &linkpb.Ring{Version: 8 + i}) // of no use
	}
	g.Append(linkpb.KindUpRing, link.EncodeRing(newest))
	for i := range uint64(300) {
		g.Append(linkpb.KindUpRing, &linkpb.Ring{Version: 7}) // in conflict
		g.Append(linkpb.KindUpRing, &linkpb.Ring{Version: 8 + i})
	}
	g.send(linkpb.KindPublish, &linkpb.Publish{Ref: 1, Topic: "t:a", IdLow: 1})
	g.reply(t, 1)
	if n := runtime.NumGoroutine(); n > running+20 || s.building.Load() != 1 {
		t.Errorf("%d goroutines, %d before; %d lanes have rings built", n, running, s.building.Load())
	}
	s.learnMu.Unlock()
	waitFor(t, "the newest ring", func() bool { return s.RingVersion() == 400 })
	waitFor(t, "all to be built", func() bool { return s.building.Load() == 0 })
	if n := s.logs.FilterLevelExact(zap.ErrorLevel).Len(); n == 0 || n > 100 {
		t.Errorf("%d lines", n)
	}
}

// A gateway that has a newer ring brings it along; the others are told.
func TestARingComesFromAGateway(t *testing.T) {
	s := start(t, Config{})
	a, b := s.connect(t, "gw-a"), s.connect(t, "gw-b")
	next8, err := ring.New(8, []ring.Server{{ID: "ts-a", Addr: "127.0.0.1:1"}, {ID: "ts-z", Addr: "127.0.0.1:2"}})
	if err != nil {
		t.Fatal(err)
	}
	a.send(linkpb.KindUpRing, link.EncodeRing(next8))
	for _, g := range []*gateway{a, b} {
		if m := next[*linkpb.Ring](t, g); m.Version != 8 || len(m.Servers) != 2 {
			t.Errorf("ring %v", m)
		}
	}
	if s.RingVersion() != 8 || s.rings.Current().Hash() != next8.Hash() {
		t.Errorf("the ring in use is v%d", s.RingVersion())
	}
	// Whoever greets with an older one is told at once.
	h := s.hello()
	h.Gateway, h.RingVersion, h.RingHash = "gw-c", 7, 1
	c := s.dial(t, h)
	if w := next[*linkpb.Welcome](t, c); w.RingVersion != 8 {
		t.Errorf("welcome %v", w)
	}
	if m := next[*linkpb.Ring](t, c); m.Version != 8 {
		t.Errorf("ring %v", m)
	}
}

// While a newer ring is being built, what it may have sent here waits; what it has not is answered as before then.
func TestRequestsWaitForARingThatIsBuilt(t *testing.T) {
	s := start(t, Config{}, "ts-a", "ts-b")
	r8, err := ring.New(8, []ring.Server{{ID: "ts-a", Addr: "127.0.0.1:1"}, {ID: "ts-b", Addr: "127.0.0.1:2", Weight: 3}, {ID: "ts-c", Addr: "127.0.0.1:3"}})
	if err != nil {
		t.Fatal(err)
	}
	var others string
	for i := 0; others == ""; i++ {
		if name := fmt.Sprint("t:", i); s.rings.Current().Owner(name).ID == "ts-b" && r8.Owner(name).ID == "ts-c" {
			others = name
		}
	}
	g := s.connect(t, "gw-a")
	s.learnMu.Lock()
	g.send(linkpb.KindUpRing, link.EncodeRing(r8))
	g.send(linkpb.KindPublish, &linkpb.Publish{Ref: 1, Topic: others, IdLow: 1})
	waitFor(t, "the publish to wait", func() bool { return len(s.topics.Waiting()) == 1 })
	s.learnMu.Unlock()
	if rep := g.reply(t, 1); rep.Code != linkpb.Code_NOT_OWNER || s.RingVersion() != 8 {
		t.Errorf("reply %v under ring v%d", rep, s.RingVersion())
	}
	s.learnMu.Lock()
	g.send(linkpb.KindUpRing, &linkpb.Ring{Version: 9}) // of no use
	g.send(linkpb.KindPublish, &linkpb.Publish{Ref: 2, Topic: others, IdLow: 2})
	waitFor(t, "the publish to wait", func() bool { return len(s.topics.Waiting()) == 1 })
	s.learnMu.Unlock()
	if rep := g.reply(t, 2); rep.Code != linkpb.Code_NOT_OWNER || s.RingVersion() != 8 {
		t.Errorf("reply %v under ring v%d", rep, s.RingVersion())
	}
}

func TestRingsThatAreOfNoUse(t *testing.T) {
	for _, test := range []struct {
		name string
		ring *linkpb.Ring
		log  string
	}{
		{"a version after which nothing comes", &linkpb.Ring{Version: 1<<64 - 1, Servers: []*linkpb.RingServer{{Id: "ts-a", Addr: "127.0.0.1:1"}}},
			"the version of a peer's ring is too far above the one in use: it is not taken"},
		{"same version, other content", &linkpb.Ring{Version: 7, Servers: []*linkpb.RingServer{{Id: "ts-a", Addr: "127.0.0.1:9"}}},
			"RING_CONFLICT: a peer's ring of the same version differs in content"},
		{"the same", &linkpb.Ring{Version: 7, Servers: []*linkpb.RingServer{{Id: "ts-a", Addr: "127.0.0.1:1"}}}, ""},
		{"no servers", &linkpb.Ring{Version: 8}, "a peer sent a bad ring"},
		{"bad server", &linkpb.Ring{Version: 8, Servers: []*linkpb.RingServer{{Id: "a b", Addr: "x"}}}, "a peer sent a bad ring"},
		{"version 0", &linkpb.Ring{}, "a peer sent a bad ring"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := start(t, Config{})
			g := s.connect(t, "gw-a")
			g.send(linkpb.KindUpRing, test.ring)
			g.publish(t, "t:a", "x") // the lane lives
			if test.log != "" {
				waitFor(t, "the log line", func() bool { return s.logs.FilterLevelExact(zapcore.ErrorLevel).Len() > 0 })
			}
			s.learnMu.Lock() // whoever judges it has done so
			defer s.learnMu.Unlock()
			var got string
			for _, e := range s.logs.FilterLevelExact(zapcore.ErrorLevel).All() {
				got += e.Message
			}
			if got != test.log || s.RingVersion() != 7 {
				t.Errorf("logged %q, ring v%d; want %q, v7", got, s.RingVersion(), test.log)
			}
			if n := s.conflicts.Load(); (n == 1) != (test.log != "" && test.log != "a peer sent a bad ring") {
				t.Errorf("%d conflicts counted", n)
			}
		})
	}
}

// An older ring that a gateway knows tells of servers that may have topics: it is remembered.
func TestAnOlderRingIsLearned(t *testing.T) {
	s := start(t, Config{})
	g := s.connect(t, "gw-a")
	g.send(linkpb.KindUpRing, &linkpb.Ring{Version: 5, Servers: []*linkpb.RingServer{{Id: "ts-y", Addr: "127.0.0.1:1"}}})
	waitFor(t, "it to be known", func() bool { return s.knows("ts-y") })
	if s.RingVersion() != 7 || s.knows("ts-x") {
		t.Errorf("ring v%d", s.RingVersion())
	}
}

// ringFile writes a ring file of ts-a and others, as an editor does that replaces the file.
func ringFile(t testing.TB, path string, version int, others ...string) {
	t.Helper()
	text := fmt.Sprintf("version: %d\nservers:\n  - id: ts-a\n    addr: 127.0.0.1:1\n", version)
	for _, id := range others {
		text += fmt.Sprintf("  - id: %s\n    addr: 127.0.0.1:1%s\n", id, id[3:])
	}
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// The life of a ring file: applied when edited, stale when a peer has a newer ring, failed when it is bad.
func TestTheRingFileIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ring.yaml")
	ringFile(t, path, 1)
	rg, err := ring.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	s := startOn(t, Config{ID: "ts-a", RingFile: path}, rg, listen(t, "127.0.0.1:0"))
	state := func(version uint64, failed, stale float64) {
		t.Helper()
		waitFor(t, fmt.Sprintf("v%d, failed %v, stale %v", version, failed, stale), func() bool {
			return s.RingVersion() == version && gauge(t, s, "ringcast_topic_ring_file_failed") == failed &&
				gauge(t, s, "ringcast_topic_ring_file_stale") == stale
		})
	}
	state(1, 0, 0)
	ringFile(t, path, 2, "ts-2")
	state(2, 0, 0)

	g := s.connect(t, "gw-a")
	g.send(linkpb.KindUpRing, &linkpb.Ring{Version: 3, Servers: []*linkpb.RingServer{
		{Id: "ts-a", Addr: "127.0.0.1:1"}, {Id: "ts-2", Addr: "127.0.0.1:12"}, {Id: "ts-3", Addr: "127.0.0.1:13"},
	}})
	state(3, 0, 1)
	ringFile(t, path, 3, "ts-2", "ts-3") // the same
	state(3, 0, 0)
	ringFile(t, path, 3, "ts-2") // edited without a new version
	state(3, 1, 0)
	ringFile(t, path, 0)
	state(3, 1, 0)
	ringFile(t, path, 4, "ts-2")
	state(4, 0, 0)
}

func TestHangupLooksAtTheRingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ring.yaml")
	ringFile(t, path, 2)
	core, logs := observer.New(zapcore.InfoLevel)
	d := daemon.New(zap.New(core))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- Run(ctx, d, &Config{ID: "ts-a", RingFile: path, Addr: "127.0.0.1:0"}) }()
	waitFor(t, "readiness", func() bool { return d.Ready() == nil })
	ringFile(t, path, 1)
	const stale = "this server's ring file is stale"
	waitFor(t, "the file to be reported", func() bool { return logs.FilterMessage(stale).Len() == 1 })
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the file to be reported again", func() bool { return logs.FilterMessage(stale).Len() == 2 })
	cancel()
	if err := await(t, "Run to return", done); err != nil {
		t.Error(err)
	}
}

// Whoever asks for topics has to be another server of a ring.
func TestRow40_43_HandoverWithAStranger(t *testing.T) {
	s := start(t, Config{}, "ts-a", "ts-b")
	for _, id := range []string{"ts-a", "ts-x", ""} {
		h, err := link.Take(t.Context(), s.addr, unhurried, &linkpb.Wants{Server: id})
		if err != nil {
			continue // it is turned away while it still greets
		}
		if m, err := h.Receive(); err == nil {
			t.Errorf("%q is answered with %v", id, m)
		}
		h.Close()
	}
	waitFor(t, "the log lines", func() bool { return s.logs.FilterMessage("handover ended").Len() == 3 })
}

// Servers of different clusters hand each other nothing, and tell each other no ring.
func TestRow40_HandoverWithAnotherCluster(t *testing.T) {
	cfg := Config{HandoverTimeout: 2 * time.Second, Config: daemon.Config{Cluster: "green"}}
	f := startFleet(t, cfg, []string{"ts-a", "ts-b"}, "ts-a")
	a := f.servers["ts-a"]
	cfg.Cluster = "blue"
	r2 := f.ring(2, "ts-a", "ts-b")
	b := f.join(cfg, "ts-b", r2)
	const gaveUp = "cannot get the topics of this server that another may have; those that are used begin anew here"
	waitFor(t, "the log of the server that takes", func() bool { return b.logs.FilterMessage(gaveUp).Len() > 0 })
	said := b.logs.FilterMessage(gaveUp).All()[0].ContextMap()["error"]
	if said != `peer "ts-a" is of cluster "green", topic server "ts-b" of cluster "blue"` {
		t.Errorf("the one that takes says %s", said)
	}
	waitFor(t, "the log of the server that gives", func() bool { return a.logs.FilterMessage("handover ended").Len() > 0 })
	said = a.logs.FilterMessage("handover ended").All()[0].ContextMap()["error"]
	if said != `peer "ts-b" is of cluster "blue", topic server "ts-a" of cluster "green"` {
		t.Errorf("the one that gives says %s", said)
	}
	if v := a.RingVersion(); v != 1 {
		t.Errorf("it has learned ring %d", v)
	}
	cfg.Cluster = "" // fits
	f.servers["ts-b"].stop()
	f.join(cfg, "ts-b", r2)
	f.settled(2)
}

// A taker asks for what it was not offered, says that it has what it has not, and asks twice.
func TestRow43_HandoverByHand(t *testing.T) {
	s := start(t, Config{}, "ts-a", "ts-b")
	r8, err := ring.New(8, []ring.Server{{ID: "ts-b", Addr: net.JoinHostPort("127.0.0.1", "2")}})
	if err != nil {
		t.Fatal(err)
	}
	name := ownedBy(t, 1, s.rings.Current(), "ts-a", r8, "ts-b")[0]
	was := s.connect(t, "gw-a").publishAt(t, name, "x")
	open := func() *link.Taking {
		h, err := link.Take(t.Context(), s.addr, unhurried, &linkpb.Wants{Server: "ts-b", Rings: []*linkpb.Ring{link.EncodeRing(r8)}})
		if err != nil {
			t.Fatal(err)
		}
		m, err := h.Receive()
		if err != nil || !m.Offered || len(m.Offers) != 1 || m.Offers[0] != name || len(m.Rings) != 2 {
			t.Fatalf("offers %v, %v", m, err)
		}
		h.Greeted()
		return h
	}
	ask := func(h *link.Taking, w *linkpb.Wants) *linkpb.TopicState {
		t.Helper()
		if err := h.Send(w); err != nil {
			t.Fatal(err)
		}
		m, err := h.Receive()
		if err != nil {
			t.Fatal(err)
		}
		return m.State
	}
	h := open()
	if state := ask(h, &linkpb.Wants{Pull: []string{"t:none"}}); !state.Absent || state.Topic != "t:none" || state.MovedTo != "" {
		t.Errorf("a topic that is not there: %v", state)
	}
	if ask(h, &linkpb.Wants{Taken: []string{name, "t:none"}}) != nil {
		t.Error("taken is not answered with nothing")
	}
	for range 2 {
		if state := ask(h, &linkpb.Wants{Pull: []string{name}}); state.Absent || state.Position.Offset != 1 || state.Position.Epoch != was.Epoch || len(state.History) != 1 {
			t.Errorf("state %v", state)
		}
		h.Close()
		h = open() // the offer stands until it is taken
	}
	ask(h, &linkpb.Wants{Taken: []string{name}})
	if state := ask(h, &linkpb.Wants{Pull: []string{name}}); !state.Absent {
		t.Errorf("after it was taken: %v", state)
	}
	if n := s.give.pending(); n != 0 {
		t.Errorf("%d topics left", n)
	}
	// A handover is about one ring.
	r9, err := ring.New(9, []ring.Server{{ID: "ts-b", Addr: "127.0.0.1:3"}})
	if err != nil || s.rings.Adopt(r9) != nil {
		t.Fatal(err)
	}
	_ = h.Send(&linkpb.Wants{Pull: []string{name}}) // may fail: the peer ends the handover when it reads that
	if m, err := h.Receive(); err == nil {
		t.Errorf("answered under another ring: %v", m)
	}
	h.Close()
}

func TestStatesFitIntoAMessage(t *testing.T) {
	state := &linkpb.TopicState{Topic: "t:a", Position: &linkpb.Position{Epoch: 1, Offset: 10}}
	for range 10 {
		state.History = append(state.History, make([]byte, 1<<20))
	}
	state.History[9] = []byte("the last")
	trim(state)
	if n := len(state.History); state.SizeVT() > link.MaxState || n < 2 || string(state.History[n-1]) != "the last" {
		t.Errorf("%d messages, %d bytes", n, state.SizeVT())
	}
	for range 400_000 {
		state.Ids = append(state.Ids, &linkpb.PublishID{High: 1, Low: 1, Content: 1, Offset: 1})
	}
	if trim(state); state.SizeVT() > link.MaxState || len(state.Ids) == 0 {
		t.Errorf("%d ids, %d bytes", len(state.Ids), state.SizeVT())
	}
}

func TestGivenTopicsExpire(t *testing.T) {
	s := start(t, Config{})
	gv := s.give
	old := &given{to: taker{id: "ts-b"}, state: &linkpb.TopicState{}, at: time.Now().Add(-gv.s.cfg.HandoverTimeout * 100)}
	gv.given["old"], gv.given["new"] = old, &given{to: taker{id: "ts-b"}, state: &linkpb.TopicState{}, at: time.Now()}
	gv.expire()
	gv.taken([]string{"new"}, taker{id: "ts-c"}) // not its to take
	if len(gv.given) != 1 || gv.given["new"] == nil {
		t.Errorf("left: %v", gv.given)
	}
	gv.returned("new")
	if len(gv.given) != 0 {
		t.Errorf("left: %v", gv.given)
	}
}
