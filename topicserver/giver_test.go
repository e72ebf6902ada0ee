package topicserver

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/ring"
)

// giveByHand is another server whose handovers do what a test wants once they are greeted.
func giveByHand(t *testing.T, lis net.Listener, give func(*link.Handover) error) {
	t.Helper()
	served := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	handover := func(h *link.Handover) error {
		if _, err := h.Receive(); err != nil {
			return err
		}
		h.Greeted()
		return give(h)
	}
	go func() {
		served <- link.Serve(ctx, lis, link.ServeConfig{Config: unhurried, Handover: handover, Handle: func(l *link.Lane) { l.Close() }})
	}()
	t.Cleanup(func() {
		cancel()
		if err := await(t, "the giver to return", served); err != nil {
			t.Error(err)
		}
	})
}

// takeFrom starts ts-a under a ring that has it alone, where ts-b was in the one before and gives as told. It returns a topic that
// may be at ts-b.
func takeFrom(t *testing.T, give func(*link.Handover) error, tweak func(*take)) (s *server, name string) {
	t.Helper()
	a, b := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
	both := []ring.Server{{ID: "ts-a", Addr: a.Addr().String()}, {ID: "ts-b", Addr: b.Addr().String()}}
	r1, err := ring.New(1, both)
	if err != nil {
		t.Fatal(err)
	}
	r2, err := ring.New(2, both[:1])
	if err != nil {
		t.Fatal(err)
	}
	giveByHand(t, b, give)
	s = startOn(t, Config{ID: "ts-a", HandoverTimeout: 2 * time.Second}, r1, a, func(s *Server) { tweak(s.take) })
	if err := s.rings.Replace(r2); err != nil {
		t.Fatal(err)
	}
	return s, ownedBy(t, 1, r1, "ts-b", r2, "ts-a")[0]
}

// A server that can be reached and gives nothing, in whatever way, keeps topics waiting for no longer than the bound.
func TestAGiverThatGivesNothing(t *testing.T) {
	type giving func(h *link.Handover, name func() string) error
	answer := func(h *link.Handover, name string, state func(name string) *linkpb.TopicState) error {
		if err := h.Send(&linkpb.Gives{Offers: []string{name}, Offered: true}); err != nil {
			return err
		}
		for {
			m, err := h.Receive()
			if err != nil {
				return err
			}
			for _, name := range m.Pull {
				if s := state(name); s != nil {
					_ = h.Send(&linkpb.Gives{State: s})
				}
			}
		}
	}
	for _, test := range []struct {
		name string
		give giving
	}{
		{"offers that trickle", func(h *link.Handover, _ func() string) error {
			for h.Send(&linkpb.Gives{}) == nil {
				time.Sleep(time.Millisecond)
			}
			return nil
		}},
		{"not yet, for ever", func(h *link.Handover, name func() string) error {
			return answer(h, name(), func(name string) *linkpb.TopicState {
				return &linkpb.TopicState{Topic: name, Absent: true, MovedTo: "ts-b"}
			})
		}},
		{"no answer", func(h *link.Handover, name func() string) error {
			return answer(h, name(), func(string) *linkpb.TopicState { return nil })
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var topic string
			known := make(chan struct{})
			give := func(h *link.Handover) error {
				return test.give(h, func() string { <-known; return topic })
			}
			s, name := takeFrom(t, give, func(tk *take) { tk.stall = 300 * time.Millisecond })
			topic = name
			close(known)
			if p := s.connect(t, "gw-a").publishAt(t, topic, "x"); p.Offset != 1 {
				t.Errorf("published at %v", p)
			}
			const gaveUp = "cannot get the topics of this server that another may have; those that are used begin anew here"
			lines := s.logs.FilterMessage(gaveUp).All()
			if len(lines) == 0 || lines[0].ContextMap()["error"] != errStalled.Error() {
				t.Errorf("log %v", lines)
			}
		})
	}
}

// A giver is at work as long as its offers are done with, one after another, whatever becomes of the topics; not when it says
// "not yet".
func TestWhatIsProgress(t *testing.T) {
	lis := listen(t, "127.0.0.1:0")
	s := start(t, Config{}, "ts-a", "ts-b")
	ours := ownedBy(t, 1, s.rings.Current(), "ts-a", s.rings.Current(), "ts-a")[0]
	others := ownedBy(t, 1, s.rings.Current(), "ts-b", s.rings.Current(), "ts-b")[0]
	type gift struct {
		topic string
		state *linkpb.TopicState // nil: pulls get no answer
	}
	var gives atomic.Pointer[gift]
	giveByHand(t, lis, func(h *link.Handover) error {
		offered, answer := gives.Load().topic, gives.Load().state
		err := h.Send(&linkpb.Gives{Offers: []string{offered}, Offered: true})
		for pulls := 0; err == nil; {
			m, end := h.Receive()
			if pulls += len(m.GetPull()); end != nil || pulls > 2 || answer == nil && pulls > 0 {
				return nil //nolint:nilerr // the taker is done
			}
			for range m.Pull {
				err = h.Send(&linkpb.Gives{State: answer})
			}
			for range m.Taken {
				err = h.Send(&linkpb.Gives{})
			}
		}
		return err
	})
	at := &linkpb.Position{Epoch: 5, Offset: 7}
	for _, test := range []struct {
		what     string
		topic    string
		state    *linkpb.TopicState
		progress bool
	}{
		{"a state", ours, &linkpb.TopicState{Position: at}, true},
		{"one that comes again", ours, &linkpb.TopicState{Position: at}, true},
		{"one that cannot be", ours, &linkpb.TopicState{Position: at, History: [][]byte{{1}}}, true},
		{"it has it no more", ours, &linkpb.TopicState{Absent: true}, true},
		{"it is of no use here", others, nil, true},
		{"not yet", ours, &linkpb.TopicState{Absent: true, MovedTo: "ts-c"}, false},
		{"no answer", ours, nil, false},
	} {
		t.Run(test.what, func(t *testing.T) {
			if test.state != nil {
				test.state.Topic = test.topic
			}
			gives.Store(&gift{test.topic, test.state})
			began := time.Now()
			g := &giver{
				server: ring.Server{ID: "ts-c", Addr: lis.Addr().String()}, progress: began,
				offers: make(map[string]offer), pulled: make(map[string]time.Time), wake: make(chan struct{}, 1),
			}
			tk := newTake(s.Server) // the server's own has rounds
			tk.givers["ts-c"] = g
			reached, _, err := tk.session(t.Context(), g)
			if done := err == nil; !reached || done != test.progress {
				t.Errorf("reached %t, %v", reached, err)
			}
			if g.progress.After(began) != test.progress {
				t.Errorf("progress is %t", !test.progress)
			}
		})
	}
}

// A server that offers topics without an end, or some that cannot be, is not listened to: what is kept of it is bounded.
func TestOffersThatAreNotListenedTo(t *testing.T) {
	endless := func(h *link.Handover) error {
		for n, err := 0, error(nil); err == nil; n += 100 {
			m := &linkpb.Gives{}
			for i := range 100 {
				m.Offers = append(m.Offers, fmt.Sprint("t:", n+i))
			}
			err = h.Send(m)
		}
		return nil
	}
	for want, give := range map[string]func(*link.Handover) error{
		"peer offers more than 1000 topics, which is too many for MAX_TOPICS": endless,
		`peer offers "": topic must be 1 to 255 bytes of UTF-8`: func(h *link.Handover) error {
			return h.Send(&linkpb.Gives{Offers: []string{"t:a", ""}, Offered: true})
		},
	} {
		s, topic := takeFrom(t, give, func(tk *take) { tk.maxOffers = 1000 })
		if p := s.connect(t, "gw-a").publishAt(t, topic, "x"); p.Offset != 1 {
			t.Errorf("published at %v", p)
		}
		waitFor(t, want, func() bool {
			for _, e := range s.logs.FilterLevelExact(zapcore.WarnLevel).All() {
				if e.ContextMap()["error"] == want {
					return true
				}
			}
			return false
		})
	}
	if n := maxOffers(0); n < 1<<20 {
		t.Errorf("%d offers where there may be any number of topics", n)
	}
	if n := maxOffers(10_000_000); n != 20_000_000 {
		t.Errorf("%d offers where there may be 10000000 topics", n)
	}
}

// To list very many topics takes longer than a peer may be silent. Both ends know that the other one is at work.
func TestAGiverThatIsNotReadyKeepsTheHandover(t *testing.T) {
	s := startOn(t, Config{ID: "ts-a"}, testRing(t, "ts-a", "ts-b"), listen(t, "127.0.0.1:0"), func(s *Server) {
		s.give.busyPause = time.Millisecond
	})
	s.give.mu.Lock() // so it cannot list
	h, err := link.Take(t.Context(), s.addr, unhurried, &linkpb.Wants{Server: "ts-b"})
	if err != nil {
		s.give.mu.Unlock()
		t.Fatal(err)
	}
	defer h.Close()
	for i := 0; ; i++ {
		m, err := h.Receive()
		if err != nil || m.Offered {
			if i < 3 || err != nil {
				t.Errorf("message %d: %v, %v", i, m, err)
			}
			break
		}
		if h.Greeted(); i == 3 {
			s.give.mu.Unlock()
		}
	}
}
