package topic

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/topicserver/history"
)

func (g *gateway) subscribeSince(t testing.TB, r *Registry, topic string, since ...*linkpb.Position) *linkpb.Reply {
	t.Helper()
	r.Subscribe(&g.Turn, g.Lane, &linkpb.Subscribe{Ref: 1, Topic: topic, Since: since})
	g.Flush()
	return next[*linkpb.Reply](t, g)
}

func TestSubscribeSince(t *testing.T) {
	store := history.NewMemory(history.Config{Messages: 5})
	defer store.Close()
	r := NewRegistry(Config{Store: store})
	gws := gateways(t, 2, false)
	a, b := gws[0], gws[1]
	var epoch uint64
	for i := range 8 {
		a.publish(r, "t:a", fmt.Sprint(i+1))
		epoch = next[*linkpb.Reply](t, a).Position.Epoch
	}
	at := func(epoch, offset uint64) *linkpb.Position { return &linkpb.Position{Epoch: epoch, Offset: offset} }
	const none = 99
	for _, test := range []struct {
		name  string
		since []*linkpb.Position
		from  uint64 // none if not all is remembered
	}{
		{"from now on", nil, none},
		{"at the top", []*linkpb.Position{at(epoch, 8)}, 8},
		{"one missed", []*linkpb.Position{at(epoch, 7)}, 7},
		{"the oldest remembered is next", []*linkpb.Position{at(epoch, 3)}, 3},
		{"one is forgotten", []*linkpb.Position{at(epoch, 2)}, none},
		{"from the beginning", []*linkpb.Position{at(epoch, 0)}, none},
		{"beyond the top", []*linkpb.Position{at(epoch, 9)}, none},
		{"another epoch", []*linkpb.Position{at(epoch+2, 5)}, none},
		{"several: the lowest", []*linkpb.Position{at(epoch, 6), at(epoch, 4), at(epoch, 8)}, 4},
		{"several: this epoch's", []*linkpb.Position{at(epoch+2, 1), at(epoch, 6), at(1, 8)}, 6},
		{"several: the lowest is forgotten", []*linkpb.Position{at(epoch, 7), at(epoch, 1)}, none},
	} {
		t.Run(test.name, func(t *testing.T) {
			rep := b.subscribeSince(t, r, "t:a", test.since...)
			if rep.Code != linkpb.Code_OK || rep.Position.Epoch != epoch || rep.Position.Offset != 8 {
				t.Errorf("reply %v", rep)
			}
			if test.from == none {
				if rep.From != nil || rep.Replayed != 0 {
					t.Errorf("reply %v, want no from", rep)
				}
			} else {
				if rep.From.GetEpoch() != epoch || rep.From.GetOffset() != test.from || uint64(rep.Replayed) != 8-test.from {
					t.Errorf("reply %v, want from %d", rep, test.from)
				}
				for offset := test.from + 1; offset <= 8; offset++ {
					if m := next[*linkpb.Message](t, b); m.Position.Offset != offset || m.Position.Epoch != epoch || string(m.Payload) != fmt.Sprint(offset) {
						t.Errorf("message %v, want %d", m, offset)
					}
				}
			}
			b.nothingElse(t, r)
		})
	}
}

// Whoever comes back while others publish misses nothing and gets nothing twice: the replay stands between the reply
// and what comes later.
func TestReplayUnderLoad(t *testing.T) {
	store := history.NewMemory(history.Config{Messages: 1 << 20, Bytes: 1 << 26})
	defer store.Close()
	r := NewRegistry(Config{Store: store})
	gws := gateways(t, 4, false)
	b := gws[3]
	last := b.subscribe(t, r, "t:a").Position
	var all sync.WaitGroup
	stop := make(chan struct{})
	for _, g := range gws[:3] {
		all.Go(func() {
			for {
				g.publish(r, "t:a", "x")
				next[*linkpb.Reply](t, g)
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for range 50 {
		for range 10 {
			m := next[*linkpb.Message](t, b)
			if m.Position.Offset != last.Offset+1 {
				t.Fatalf("message at %d after %d", m.Position.Offset, last.Offset)
			}
			last = m.Position
		}
		// The lane is cut here: what is on its way now is lost.
		r.Unsubscribe(&b.Turn, b.Lane, "t:a")
		r.Subscribe(&b.Turn, b.Lane, &linkpb.Subscribe{Ref: 5, Topic: "t:a", Since: []*linkpb.Position{last}})
		b.Flush()
		for found := false; !found; {
			rep, ok := next[any](t, b).(*linkpb.Reply)
			if !ok {
				continue
			}
			found = true
			if rep.From.GetOffset() != last.Offset || rep.Position.Offset != last.Offset+uint64(rep.Replayed) {
				t.Fatalf("reply %v after %d", rep, last.Offset)
			}
		}
	}
	close(stop)
	all.Wait()
}

// A digest tells the position of those topics that have sent something since the last one, behind their messages.
func TestDigest(t *testing.T) {
	r := newRegistry(t)
	gws := gateways(t, 2, false)
	a, b := gws[0], gws[1]
	for _, topic := range []string{"t:a", "t:b", "t:c"} {
		b.subscribe(t, r, topic)
	}
	b.Digest()
	b.nothingElse(t, r)
	a.publish(r, "t:a", "x")
	a.publish(r, "t:a", "y")
	a.publish(r, "t:c", "z")
	a.publish(r, "t:elsewhere", "z")
	b.Digest()
	var top *linkpb.Position
	for i := range uint64(2) {
		m := next[*linkpb.Message](t, b)
		if top = m.Position; top.Offset != i+1 {
			t.Errorf("message %v", m)
		}
	}
	next[*linkpb.Message](t, b)
	want := map[string]uint64{"t:a": 2, "t:c": 1}
	for range 2 {
		d := next[*linkpb.Digest](t, b)
		if d.Position.Offset != want[d.Topic] || d.Topic == "t:a" && d.Position.Epoch != top.Epoch {
			t.Errorf("digest %v", d)
		}
		delete(want, d.Topic)
	}
	b.Digest()
	b.nothingElse(t, r)

	a.publish(r, "t:a", "x")
	next[*linkpb.Message](t, b)
	r.Unsubscribe(&b.Turn, b.Lane, "t:a")
	b.Digest() // nothing about a topic that is not subscribed any more
	b.nothingElse(t, r)
	a.publish(r, "t:c", "x")
	next[*linkpb.Message](t, b)
	r.Drop(b.Lane, 0)
	b.Digest()
	b.nothingElse(t, r)
}

// What is not appended is not acknowledged, has no position and reaches nobody.
func TestAppendFails(t *testing.T) {
	store := history.NewMemory(history.Config{})
	r := NewRegistry(Config{Store: store, IDs: 10, IDTTL: time.Minute})
	g := gateways(t, 1, false)[0]
	g.subscribe(t, r, "t:a")
	_ = store.Close()
	if rep := g.publishWithID(t, r, "t:a", "x", 1); rep.Code != linkpb.Code_INTERNAL || rep.Position != nil {
		t.Errorf("reply %v", rep)
	}
	if rep := g.publishWithID(t, r, "t:a", "x", 1); rep.Code != linkpb.Code_INTERNAL {
		t.Errorf("again: %v", rep)
	}
	if rep := g.subscribe(t, r, "t:a"); rep.Position.Offset != 0 {
		t.Errorf("reply %v", rep)
	}
	if len(g.items) != 0 || r.Stats().Publishes != 0 {
		t.Errorf("stats %+v", r.Stats())
	}
}
