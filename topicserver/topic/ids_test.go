package topic

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/topicserver/history"
)

// naiveWindow is an idWindow as one would write it without thinking of cost.
type naiveWindow []struct {
	id publishID
	e  idEntry
}

func (w *naiveWindow) find(id publishID, now time.Time, ttl time.Duration) (idEntry, bool) {
	for len(*w) > 0 && now.Sub((*w)[0].e.at) >= ttl {
		*w = (*w)[1:]
	}
	for _, one := range *w {
		if one.id == id {
			return one.e, true
		}
	}
	return idEntry{}, false
}

func (w *naiveWindow) add(id publishID, e idEntry, max int) {
	*w = append(*w, struct {
		id publishID
		e  idEntry
	}{id, e})
	*w = (*w)[len(*w)-min(len(*w), max):]
}

// Any sequence of publishes finds in the window what it finds in the naive one.
func TestWindowAgainstModel(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var w idWindow
		var model naiveWindow
		limit, ttl := rnd.IntN(20), time.Duration(1+rnd.IntN(30))
		now := time.Unix(0, 0)
		for step := range uint64(400) {
			// The clock of a turn may stand behind that of another lane's.
			now = now.Add(time.Duration(rnd.IntN(4) - 1))
			id := publishID{1, rnd.Uint64N(30)}
			got, ok := w.find(id, now, ttl)
			want, wantOK := model.find(id, now, ttl)
			if got != want || ok != wantOK {
				t.Fatalf("seed %d, step %d: found %v %v, want %v %v", seed, step, got, ok, want, wantOK)
			}
			if !ok {
				e := idEntry{content: rnd.Uint64(), offset: step, at: now}
				w.add(id, e, limit)
				model.add(id, e, limit)
			}
			if len(w.byID) != len(model) || len(w.byID) > limit {
				t.Fatalf("seed %d, step %d: %d ids, want %d", seed, step, len(w.byID), len(model))
			}
			if step%50 == 0 { // the window moves
				moved := idWindow{}
				moved.restore(w.export(), now, limit)
				w = moved
				for i := range model {
					model[i].e.at = now
				}
			}
		}
		list := w.export()
		for i, one := range model {
			if p := list[i]; p.High != one.id.high || p.Low != one.id.low || p.Content != one.e.content || p.Offset != one.e.offset {
				t.Fatalf("seed %d: entry %d is %v, want %v", seed, i, p, one)
			}
		}
	}
}

func TestRestoreTakesEachIDOnce(t *testing.T) {
	var w idWindow
	w.restore([]*linkpb.PublishID{{High: 1, Offset: 1}, {High: 1, Offset: 2}, {High: 2, Offset: 3}}, time.Now(), 10)
	if list := w.export(); len(list) != 2 || list[0].Offset != 1 || list[1].Offset != 3 {
		t.Errorf("window %v", list)
	}
	w.restore([]*linkpb.PublishID{{High: 3}}, time.Now(), 0)
	if len(w.byID) != 2 {
		t.Errorf("%d ids", len(w.byID))
	}
}

// Ids of very many topics together are bounded: those that are published to forget theirs sooner, but each knows its last
// ones. Those that nobody publishes to any more forget them all.
func TestIDsOfAllTopicsAreBounded(t *testing.T) {
	r := newRegistry(t)
	const most = 1000
	r.ids.max, r.cfg.IDs = most, 10*most
	var tn Turn
	lane := gateways(t, 1, true)[0].Lane
	publish := func(topic string, id uint64) {
		r.Publish(&tn, lane, &linkpb.Publish{Topic: topic, Event: "e", Payload: []byte("x"), IdLow: id})
		tn.Flush()
	}
	for id := range uint64(2 * most) {
		publish("t:loud", id+1)
	}
	if s := r.Stats(); s.IDs != most || s.IDsEvicted == 0 {
		t.Errorf("%d ids are remembered, %d evicted", s.IDs, s.IDsEvicted)
	}
	const quiet = 20
	for i := range quiet {
		for id := range uint64(fewIDs) {
			publish(fmt.Sprint("t:", i), id+1)
		}
	}
	before := r.Stats()
	for i := range quiet {
		for id := range uint64(fewIDs) {
			publish(fmt.Sprint("t:", i), id+1)
		}
	}
	if s := r.Stats(); s.Repeats-before.Repeats != quiet*fewIDs {
		t.Errorf("%d of %d publishes were known", s.Repeats-before.Repeats, quiet*fewIDs)
	}
	for id := range uint64(most) { // the loud one makes room
		publish("t:loud", id+1+2*most)
	}
	if s := r.Stats(); s.IDs > most {
		t.Errorf("%d ids are remembered", s.IDs)
	}
	r.Publish(&tn, lane, &linkpb.Publish{Topic: "t:loud", Event: "e", Payload: []byte("x"), IdLow: 3 * most})
	if s := r.Stats(); s.Repeats-before.Repeats != quiet*fewIDs+1 {
		t.Error("the last id is not known any more")
	}

	state, _ := r.Seal("t:1", 8)
	if n := r.Stats().IDs; n > most-fewIDs || len(state.Ids) != fewIDs {
		t.Errorf("%d ids are remembered after a move of %d", n, len(state.Ids))
	}
	r.cfg.IDTTL = time.Nanosecond
	r.Sweep(time.Hour)
	if n := r.Stats().IDs; n != 0 {
		t.Errorf("%d ids outlive their time", n)
	}
}

// A topic that comes over keeps as many of its ids as the others leave room for, the newest, and a few in any case.
func TestAWindowThatMovesTakesTheRoomThereIs(t *testing.T) {
	const most, moving = 1000, 5000
	var ids []*linkpb.PublishID
	for i := range uint64(moving) {
		ids = append(ids, &linkpb.PublishID{Low: i + 1, Offset: i + 1})
	}
	for _, others := range []int{0, 300, most - fewIDs, most} {
		all := &idTotal{max: most}
		all.count.Store(int64(others))
		w := idWindow{all: all}
		w.restore(ids, time.Now(), 10_000)
		if n, want := len(w.byID), max(most-others, fewIDs); n < want-1 || n > want {
			t.Errorf("with %d of others: %d ids are kept, want %d", others, n, want)
		}
		if list := w.export(); list[len(list)-1].Low != moving || list[0].Low != uint64(moving-len(list)+1) {
			t.Errorf("with %d of others: not the newest are kept", others)
		}
	}
}

func TestContentHash(t *testing.T) {
	seen := map[uint64]string{}
	for _, c := range [][2]string{{"", ""}, {"e", "x"}, {"ex", ""}, {"", "ex"}, {"e", "x\x00"}, {"e\x00", "x"}} {
		h := contentHash(c[0], []byte(c[1]))
		if other, ok := seen[h]; ok && other != c[0]+"\x00"+c[1] {
			t.Errorf("%q has the hash of %q", c, other)
		}
		seen[h] = c[0] + "\x00" + c[1]
	}
	// Windows move between servers: the hash is part of the handover.
	if h := contentHash("e", []byte("x")); h != 0xedde2ef1368387fb {
		t.Errorf("hash %#x", h)
	}
}

// publishWithID publishes under an id and returns the reply.
func (g *gateway) publishWithID(t testing.TB, r *Registry, topic, payload string, id uint64) *linkpb.Reply {
	t.Helper()
	r.Publish(&g.Turn, g.Lane, &linkpb.Publish{Ref: 5, Topic: topic, Event: "e", Payload: []byte(payload), IdLow: id})
	g.Flush()
	return next[*linkpb.Reply](t, g)
}

func TestAPublishThatIsSentAgain(t *testing.T) {
	r := newRegistry(t)
	gws := gateways(t, 3, false)
	a, b, listener := gws[0], gws[1], gws[2]
	listener.subscribe(t, r, "t:a")
	first := a.publishWithID(t, r, "t:a", "x", 7)
	other := a.publishWithID(t, r, "t:a", "y", 8)
	for _, g := range []*gateway{a, b} { // also over another gateway
		if rep := g.publishWithID(t, r, "t:a", "x", 7); rep.Code != linkpb.Code_OK || rep.Position.Offset != first.Position.Offset || rep.Position.Epoch != first.Position.Epoch {
			t.Errorf("again: %v, first %v", rep, first)
		}
	}
	if rep := a.publishWithID(t, r, "t:a", "z", 7); rep.Code != linkpb.Code_ID_REUSED || rep.Detail != "publish_id reused with different content" || rep.Position != nil {
		t.Errorf("other content: %v", rep)
	}
	if rep := a.publishWithID(t, r, "t:b", "z", 7); rep.Code != linkpb.Code_OK || rep.Position.Offset != 1 {
		t.Errorf("another topic: %v", rep)
	}
	for i := range uint64(2) { // no id is no id
		if rep := a.publishWithID(t, r, "t:a", "x", 0); rep.Position.Offset != other.Position.Offset+1+i {
			t.Errorf("without id: %v", rep)
		}
	}
	for i := range uint64(4) {
		if m := next[*linkpb.Message](t, listener); m.Position.Offset != i+1 {
			t.Errorf("message %v", m)
		}
	}
	listener.nothingElse(t, r)
	if s := r.Stats(); s.Repeats != 2 || s.Publishes != 6 { // one is nothingElse's
		t.Errorf("stats %+v", s)
	}
}

func TestTheWindowIsBounded(t *testing.T) {
	store := history.NewMemory(history.Config{})
	defer store.Close()
	g := gateways(t, 1, false)[0]
	t.Run("by count", func(t *testing.T) {
		r := NewRegistry(Config{Store: store, IDs: 3, IDTTL: time.Hour})
		for id := range uint64(4) {
			g.publishWithID(t, r, "t:a", "x", id+1)
		}
		if rep := g.publishWithID(t, r, "t:a", "x", 2); rep.Position.Offset != 2 {
			t.Errorf("id 2 of 4 in a window of 3: %v", rep)
		}
		if rep := g.publishWithID(t, r, "t:a", "x", 1); rep.Position.Offset != 5 {
			t.Errorf("id 1 of 4 in a window of 3: %v", rep)
		}
	})
	t.Run("by time", func(t *testing.T) {
		r := NewRegistry(Config{Store: store, IDs: 3, IDTTL: time.Minute})
		publish := func(at time.Time) *linkpb.Reply {
			g.now = at
			return g.publishWithID(t, r, "t:b", "x", 1)
		}
		start := time.Now()
		publish(start)
		if rep := publish(start.Add(time.Minute - 1)); rep.Position.Offset != 1 {
			t.Errorf("within the time: %v", rep)
		}
		if rep := publish(start.Add(time.Minute)); rep.Position.Offset != 2 {
			t.Errorf("after the time: %v", rep)
		}
	})
	t.Run("none", func(t *testing.T) {
		r := NewRegistry(Config{Store: store, IDTTL: time.Minute})
		g.publishWithID(t, r, "t:c", "x", 1)
		if rep := g.publishWithID(t, r, "t:c", "y", 1); rep.Position.Offset != 2 {
			t.Errorf("without a window: %v", rep)
		}
	})
}
