package topic

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/topicserver/history"
)

// stage is a registry with gateways that watch the presences of a topic, and a clock that the test moves.
type stage struct {
	*testing.T
	r   *Registry
	gw  []*gateway
	now time.Time
}

func newStage(t *testing.T, n int, p Presence) *stage {
	t.Helper()
	store := history.NewMemory(history.Config{})
	t.Cleanup(func() { _ = store.Close() })
	s := &stage{T: t, r: NewRegistry(Config{Store: store, Presence: p}), gw: gateways(t, n, false), now: time.Now()}
	for i, g := range s.gw {
		g.Instance = uint64(i + 1)
	}
	return s
}

// at runs f as the turn of a gateway at the stage's time.
func (s *stage) at(g *gateway, f func()) {
	g.now = s.now
	f()
	g.Flush()
}

// watch makes a gateway watch, and returns the snapshot as text.
func (s *stage) watch(g *gateway) string {
	s.Helper()
	s.at(g, func() { s.r.Watch(&g.Turn, g.Lane, &linkpb.Watch{Ref: 5, Topic: "t:a"}) })
	if rep := next[*linkpb.Reply](s, g); rep.Ref != 5 || rep.Code != linkpb.Code_OK {
		s.Fatalf("reply to watch: %v", rep)
	}
	d := next[*linkpb.PresenceDiff](s, g)
	if !d.Snapshot || len(d.Leaves) > 0 {
		s.Fatalf("want a snapshot, got %v", d)
	}
	return show(d)
}

// track makes a member present and returns its reference. what is key=meta.
func (s *stage) track(g *gateway, id uint64, what string, known ...uint64) *linkpb.Reply {
	s.Helper()
	key, meta, _ := strings.Cut(what, "=")
	pr := &linkpb.Presence{Key: key, Meta: []byte(meta)}
	if len(known) > 0 {
		pr.Ref = known[0]
	}
	s.at(g, func() {
		s.r.Track(&g.Turn, g.Lane, &linkpb.Track{Ref: 6, Topic: "t:a", Member: id, Presence: pr, Again: len(known) > 0})
	})
	rep := next[*linkpb.Reply](s, g)
	if rep.Ref != 6 {
		s.Fatalf("reply to track: %v", rep)
	}
	return rep
}

func (s *stage) untrack(g *gateway, id uint64, grace bool) {
	s.at(g, func() { s.r.Untrack(&g.Turn, g.Lane, &linkpb.Untrack{Topic: "t:a", Member: id, Grace: grace}) })
}

// pass lets time pass, tick by tick.
func (s *stage) pass(d time.Duration) {
	for end := s.now.Add(d); s.now.Before(end); {
		s.now = s.now.Add(s.r.cfg.Presence.Interval)
		s.r.TickPresence(s.now)
	}
}

// hears wants the gateways to get this diff next.
func (s *stage) hears(want string, gw ...*gateway) {
	s.Helper()
	for _, g := range gw {
		if got := show(next[*linkpb.PresenceDiff](s, g)); got != want {
			s.Fatalf("gateway %s got %q, want %q", g.Gateway, got, want)
		}
	}
}

func (s *stage) silent(gw ...*gateway) {
	s.Helper()
	for _, g := range gw {
		g.nothingElse(s.T, s.r)
	}
}

// show writes a diff as +key=meta for joins, sorted, and -n for n leaves.
func show(d *linkpb.PresenceDiff) string {
	var parts []string
	for _, m := range d.Joins {
		parts = append(parts, fmt.Sprintf("+%s=%s", m.Key, m.Meta))
	}
	slices.Sort(parts)
	if n := len(d.Leaves); n > 0 {
		parts = append(parts, fmt.Sprintf("-%d", n))
	}
	return strings.Join(parts, " ")
}

func TestPhoenixPresence_AnIntervalOfChangesIsOneDiffPerGateway(t *testing.T) {
	s := newStage(t, 3, Presence{})
	a, b, plain := s.gw[0], s.gw[1], s.gw[2]
	plain.subscribe(t, s.r, "t:a")
	if got := s.watch(a); got != "" {
		t.Errorf("snapshot of nothing: %q", got)
	}
	s.watch(b)
	for i := range 3 {
		s.track(a, uint64(i), fmt.Sprintf("u%d={}", i))
	}
	s.track(b, 0, "u0={}") // another device, by the same number on another gateway
	s.track(b, 1, "gone={}")
	s.untrack(b, 1, false)
	s.pass(50 * time.Millisecond)
	s.hears("+u0={} +u0={} +u1={} +u2={}", a, b)
	s.pass(time.Second)
	if n := s.r.Stats(); n.PresenceSends != 2 || n.Presences != 4 {
		t.Errorf("%d sends, %d presences; want 2, 4", n.PresenceSends, n.Presences)
	}
	s.silent(a, b, plain)
	if got := s.watch(b); got != "+u0={} +u0={} +u1={} +u2={}" {
		t.Errorf("snapshot: %q", got)
	}
}

func TestPhoenixPresence_AnUpdateNamesWhatItReplaces(t *testing.T) {
	s := newStage(t, 1, Presence{})
	a := s.gw[0]
	s.watch(a)
	first := s.track(a, 1, `u={"n":1}`)
	s.pass(50 * time.Millisecond)
	s.hears(`+u={"n":1}`, a)
	second := s.track(a, 1, `u={"n":2}`)
	third := s.track(a, 1, `u={"n":3}`) // within the interval: nobody sees the second
	if second.PresencePrev != first.PresenceRef || third.PresencePrev != first.PresenceRef || third.PresenceRef == second.PresenceRef {
		t.Fatalf("replies %v, %v, %v", first, second, third)
	}
	if again := s.track(a, 1, `u={"n":3}`); again.PresenceRef != third.PresenceRef {
		t.Errorf("the same again has another reference: %v", again)
	}
	s.pass(50 * time.Millisecond)
	d := next[*linkpb.PresenceDiff](t, a)
	if show(d) != `+u={"n":3} -1` || d.Leaves[0] != first.PresenceRef || d.Joins[0].Prev != first.PresenceRef {
		t.Errorf("diff %v", d)
	}
}

func TestPhoenixPresence_AReturnWithinTheGraceIsUnseen(t *testing.T) {
	s := newStage(t, 2, Presence{})
	a, b := s.gw[0], s.gw[1]
	s.watch(a)
	s.watch(b)
	first := s.track(a, 1, "u={}")
	s.track(a, 2, "v={}")
	s.pass(50 * time.Millisecond)
	s.hears("+u={} +v={}", a, b)

	s.untrack(a, 1, true)
	s.pass(time.Second)
	if rep := s.track(b, 9, "u={}"); rep.PresenceRef != first.PresenceRef {
		t.Errorf("came back as %v, was %v", rep, first)
	}
	s.untrack(a, 1, false) // is not a's any more
	s.pass(5 * time.Second)
	s.silent(a, b)

	s.untrack(a, 2, true)
	s.track(b, 10, `v={"other":true}`) // another meta: another device
	s.pass(50 * time.Millisecond)
	s.hears(`+v={"other":true}`, a, b)
	s.pass(3 * time.Second)
	s.hears("-1", a, b)
	s.untrack(b, 9, false)
	s.pass(50 * time.Millisecond)
	s.hears("-1", a, b)
}

func TestPhoenixPresence_AGatewaysMembersLeaveInOneDiff(t *testing.T) {
	s := newStage(t, 2, Presence{})
	a, b := s.gw[0], s.gw[1]
	s.watch(a)
	s.watch(b)
	for i := range 100 {
		s.track(a, uint64(i), fmt.Sprintf("u%d={}", i))
	}
	s.track(b, 1, "stays={}")
	s.pass(50 * time.Millisecond)
	next[*linkpb.PresenceDiff](t, a)
	next[*linkpb.PresenceDiff](t, b)
	s.untrack(a, 5, true)
	s.pass(500 * time.Millisecond)
	s.r.drop(a.Lane, s.now, 3*time.Second) // silent for longer than the grace: half of it is left
	s.pass(900 * time.Millisecond)
	s.silent(b)
	s.pass(200 * time.Millisecond)
	s.hears("-99", b)
	s.pass(2 * time.Second) // the one that had gone before has its own grace
	s.hears("-1", b)
	if n := s.r.Stats().Presences; n != 1 {
		t.Errorf("%d presences left", n)
	}
	s.at(a, func() {
		s.r.Track(&a.Turn, a.Lane, &linkpb.Track{Topic: "t:a", Member: 7, Presence: &linkpb.Presence{Key: "late", Meta: []byte("{}")}})
	})
	s.pass(100 * time.Millisecond)
	s.silent(b)
}

// A link is cut and comes back: the gateway tells of its members anew, by their references.
func TestPhoenixPresence_ALinkThatComesBackInTimeIsUnseen(t *testing.T) {
	s := newStage(t, 2, Presence{})
	a, b := s.gw[0], s.gw[1]
	s.watch(a)
	s.watch(b)
	u, v := s.track(a, 1, "u={}"), s.track(a, 2, "v={}")
	s.pass(50 * time.Millisecond)
	s.hears("+u={} +v={}", a, b)
	s.r.drop(a.Lane, s.now, 0)
	s.pass(time.Second)
	again := gateways(t, 1, false)[0] // also named gw-a
	again.Instance = a.Instance
	s.track(again, 1, "u={}", u.PresenceRef)
	s.track(again, 2, `v={"new":1}`, 0) // changed while the link was down
	if got := s.watch(again); got != `+u={} +v={"new":1}` {
		t.Errorf("snapshot %q", got)
	}
	s.pass(5 * time.Second)
	d := next[*linkpb.PresenceDiff](t, b)
	if show(d) != `+v={"new":1} -1` || d.Joins[0].Prev != v.PresenceRef {
		t.Errorf("diff %v", d)
	}
	s.silent(b)
}

// Members that are told to a new owner keep their references, so that gateways that had them see no change.
func TestPhoenixPresence_ANewOwnerTakesReferencesAsTheyAre(t *testing.T) {
	s := newStage(t, 2, Presence{Max: 1})
	a, b := s.gw[0], s.gw[1]
	if rep := s.track(a, 1, "u={}", 77); rep.PresenceRef != 77 {
		t.Errorf("reference %d, want 77", rep.PresenceRef)
	}
	if rep := s.track(b, 1, "u={}", 77); rep.PresenceRef == 77 || rep.PresenceRef == 0 {
		t.Errorf("two members with the reference %d", rep.PresenceRef)
	}
	s.at(a, func() { s.r.Watch(&a.Turn, a.Lane, &linkpb.Watch{Ref: 5, Topic: "t:a"}) })
	next[*linkpb.Reply](t, a)
	if d := next[*linkpb.PresenceDiff](t, a); d.SettlingMs < 4000 || d.SettlingMs > 5000 || len(d.Joins) != 2 {
		t.Errorf("snapshot of a young presence: %v", d)
	}
	s.pass(6 * time.Second)
	a.nothingElse(t, s.r) // the snapshot had the joins
	s.at(a, func() { s.r.Watch(&a.Turn, a.Lane, &linkpb.Watch{Ref: 5, Topic: "t:a"}) })
	next[*linkpb.Reply](t, a)
	if d := next[*linkpb.PresenceDiff](t, a); d.SettlingMs != 0 {
		t.Errorf("snapshot of an old presence: %v", d)
	}
}

// Whatever happens in whatever order, a copy that takes snapshots and applies diffs is what the owner has.
func TestPhoenixPresence_CopiesAreWhatTheOwnerHas(t *testing.T) {
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		s := newStage(t, 3, Presence{Grace: 200 * time.Millisecond})
		copies := make([]map[uint64]string, len(s.gw)) // nil while not watching
		for range 300 {
			i := rnd.IntN(len(s.gw))
			g, id := s.gw[i], uint64(rnd.IntN(4))
			switch rnd.IntN(8) {
			case 0:
				s.at(g, func() { s.r.Watch(&g.Turn, g.Lane, &linkpb.Watch{Ref: 5, Topic: "t:a"}) })
				copies[i] = make(map[uint64]string)
			case 1:
				if rnd.IntN(4) == 0 {
					s.at(g, func() { s.r.Unwatch(&g.Turn, g.Lane, "t:a") })
					copies[i] = nil
				}
			case 2, 3, 4:
				pr := &linkpb.Presence{Key: fmt.Sprint("u", rnd.IntN(3)), Meta: fmt.Append(nil, rnd.IntN(2))}
				if rnd.IntN(3) == 0 {
					pr.Ref = 1 + rnd.Uint64N(5)
				}
				s.at(g, func() { s.r.Track(&g.Turn, g.Lane, &linkpb.Track{Topic: "t:a", Member: id, Presence: pr}) })
			case 5:
				s.untrack(g, id, rnd.IntN(2) == 0)
			default:
				s.pass(time.Duration(rnd.IntN(3)) * 50 * time.Millisecond)
			}
		}
		s.pass(time.Second)
		want := make(map[uint64]string)
		if tp := s.r.lock("t:a"); tp != nil {
			if p := tp.presence; p != nil {
				for ref, m := range p.members {
					want[ref] = fmt.Sprintf("%s=%s", m.key, m.meta)
				}
			}
			tp.mu.Unlock()
		}
		if n := s.r.Stats().Presences; n != int64(len(want)) {
			t.Errorf("seed %d: %d presences counted, there are %d", seed, n, len(want))
		}
		for i, g := range s.gw {
			if copies[i] == nil {
				continue
			}
			if got := copyOf(s, g); !maps.Equal(got, want) {
				t.Fatalf("seed %d: gateway %s has %v, the owner %v", seed, g.Gateway, got, want)
			}
		}
	}
}

// copyOf reads all that has come to a gateway.
func copyOf(s *stage, g *gateway) map[uint64]string {
	s.r.Publish(&g.Turn, g.Lane, &linkpb.Publish{Ref: 99, Topic: "nobody:" + g.Gateway})
	g.Flush()
	present := make(map[uint64]string)
	for {
		switch m := next[any](s, g).(type) {
		case *linkpb.Reply:
			if m.Ref == 99 {
				return present
			}
		case *linkpb.PresenceDiff:
			if m.Snapshot {
				clear(present)
			}
			for _, pr := range m.Joins {
				present[pr.Ref] = fmt.Sprintf("%s=%s", pr.Key, pr.Meta)
			}
			for _, ref := range m.Leaves {
				delete(present, ref)
			}
		}
	}
}

func TestPhoenixPresence_Bounds(t *testing.T) {
	s := newStage(t, 1, Presence{Max: 2})
	a := s.gw[0]
	for i, tt := range []struct {
		what string
		want linkpb.Code
	}{
		{"={}", linkpb.Code_INVALID},
		{strings.Repeat("k", 256) + "={}", linkpb.Code_INVALID},
		{"\xff={}", linkpb.Code_INVALID},
		{"k=" + strings.Repeat("m", 4097), linkpb.Code_INVALID},
		{strings.Repeat("k", 255) + "=" + strings.Repeat("m", 4096), linkpb.Code_OK},
		{"b={}", linkpb.Code_OK},
		{"c={}", linkpb.Code_TOO_MANY},
	} {
		if rep := s.track(a, uint64(i), tt.what); rep.Code != tt.want {
			t.Errorf("%.20s: %v, want %v", tt.what, rep, tt.want)
		}
	}
	if rep := s.track(a, 99, "d={}", 5); rep.Code != linkpb.Code_OK {
		t.Errorf("one that was accepted before: %v", rep)
	}
	if rep := s.track(a, 5, `b={"changed":1}`); rep.Code != linkpb.Code_OK {
		t.Errorf("an update: %v", rep)
	}
}

func TestPhoenixPresence_BytesAreBounded(t *testing.T) {
	s := newStage(t, 1, Presence{})
	a := s.gw[0]
	meta := strings.Repeat("m", 4096)
	var n uint64
	for s.track(a, n, fmt.Sprintf("%d=%s", n, meta)).Code == linkpb.Code_OK {
		n++
	}
	if size := int(n) * len(meta); size > maxPresenceBytes || size < maxPresenceBytes*9/10 {
		t.Errorf("%d bytes accepted", size)
	}
	if rep := s.track(a, 0, "0="); rep.Code != linkpb.Code_OK {
		t.Errorf("an update to less: %v", rep)
	}
	s.track(a, n, fmt.Sprintf("%d=%s", n, meta))
	if rep := s.track(a, 0, "0="+meta); rep.Code != linkpb.Code_TOO_MANY {
		t.Errorf("an update to more than there is room for: %v", rep)
	}
	n++
	s.at(a, func() { s.r.Watch(&a.Turn, a.Lane, &linkpb.Watch{Ref: 5, Topic: "t:a"}) })
	next[*linkpb.Reply](t, a)
	joins := 0
	for more := true; more; {
		d := next[*linkpb.PresenceDiff](t, a)
		joins, more = joins+len(d.Joins), d.More
		if !d.Snapshot || d.SizeVT() > presenceChunk+5000 {
			t.Errorf("a part of %d bytes, snapshot %v", d.SizeVT(), d.Snapshot)
		}
	}
	if joins != int(n) {
		t.Errorf("%d members in the snapshot of %d", joins, n)
	}
}

// A topic that moves takes nothing of its presence with it, and what comes for it before its state waits.
func TestPhoenixPresence_MovesLeaveNothingBehind(t *testing.T) {
	s := newStage(t, 2, Presence{})
	a, b := s.gw[0], s.gw[1]
	s.watch(a)
	s.track(a, 1, "u={}")
	state, _ := s.r.Seal("t:a", 2)
	next[*linkpb.Sealed](s, a)
	s.pass(5 * time.Second)
	if s.r.Stats().Presences != 0 || len(a.attached) != 0 || len(s.r.wheel.slots) != 0 {
		t.Errorf("left: %d presences, %d topics of the lane, %d slots", s.r.Stats().Presences, len(a.attached), len(s.r.wheel.slots))
	}
	s.silent(a)

	claim := OursLater
	s.r.cfg.Claim = func(string) Claim { return claim }
	s.at(b, func() {
		s.r.Track(&b.Turn, b.Lane, &linkpb.Track{Ref: 1, Topic: "t:a", Member: 1, Presence: &linkpb.Presence{Key: "x", Meta: []byte("{}")}})
		s.r.Track(&b.Turn, b.Lane, &linkpb.Track{Ref: 2, Topic: "t:a", Member: 2, Presence: &linkpb.Presence{Key: "y", Meta: []byte("{}")}})
		s.r.Untrack(&b.Turn, b.Lane, &linkpb.Untrack{Topic: "t:a", Member: 1})
		s.r.Watch(&b.Turn, b.Lane, &linkpb.Watch{Ref: 3, Topic: "t:a"})
		s.r.List(&b.Turn, b.Lane, &linkpb.List{Ref: 4, Topic: "t:a", Limit: 5})
	})
	if l := next[*linkpb.Listing](t, b); l.Code != linkpb.Code_UNAVAILABLE {
		t.Errorf("listing of a topic that is on its way: %v", l)
	}
	s.r.Install("t:a", state)
	for ref := range uint64(3) {
		if rep := next[*linkpb.Reply](t, b); rep.Ref != ref+1 || rep.Code != linkpb.Code_OK {
			t.Fatalf("reply %v", rep)
		}
	}
	s.hears("+y={}", b)

	claim = NotOurs
	s.at(a, func() {
		s.r.Watch(&a.Turn, a.Lane, &linkpb.Watch{Ref: 1, Topic: "t:b"})
		s.r.List(&a.Turn, a.Lane, &linkpb.List{Ref: 2, Topic: "t:b"})
	})
	if rep := next[*linkpb.Reply](t, a); rep.Code != linkpb.Code_NOT_OWNER {
		t.Errorf("reply %v", rep)
	}
	if l := next[*linkpb.Listing](t, a); l.Code != linkpb.Code_NOT_OWNER {
		t.Errorf("listing %v", l)
	}
}

// A topic that nobody is present on, or watches, keeps nothing.
func TestPhoenixPresence_IsForgottenWithItsLast(t *testing.T) {
	s := newStage(t, 1, Presence{})
	a := s.gw[0]
	s.watch(a)
	s.track(a, 1, "u={}")
	if n := s.r.Sweep(0); n != 0 {
		t.Errorf("%d topics swept that have presences", n)
	}
	s.untrack(a, 1, true)
	s.at(a, func() { s.r.Unwatch(&a.Turn, a.Lane, "t:a") })
	s.pass(5 * time.Second)
	if tp := s.r.lock("t:a"); tp == nil || tp.presence != nil {
		t.Error("the presence is still there")
	} else {
		tp.mu.Unlock()
	}
	time.Sleep(time.Millisecond) // Sweep looks at the real clock
	if n := s.r.Sweep(0); n != 1 {
		t.Errorf("%d topics swept, want 1", n)
	}
}

func TestG8_ListingIsByGatewayAndBounded(t *testing.T) {
	r := newRegistry(t)
	gw := gateways(t, 3, false)
	for i, g := range gw {
		g.subscribe(t, r, "t:a")
		for id := range 10 * (i + 1) {
			r.Join(g.Lane, &linkpb.Join{Topic: "t:a", Subscriber: uint64(id)})
		}
	}
	a := gw[0]
	for _, tt := range []struct {
		limit uint32
		want  string
	}{
		{0, "60: gw-a 0/10 gw-b 0/20 gw-c 0/30"},
		{15, "60: gw-a 10/10 gw-b 5/20 gw-c 0/30"},
		{1 << 31, "60: gw-a 10/10 gw-b 20/20 gw-c 30/30"},
	} {
		r.List(&a.Turn, a.Lane, &linkpb.List{Ref: 3, Topic: "t:a", Limit: tt.limit})
		a.Flush()
		l := next[*linkpb.Listing](t, a)
		got := fmt.Sprintf("%d:", l.Count)
		for _, g := range l.Gateways {
			got += fmt.Sprintf(" %s %d/%d", g.Gateway, len(g.Subscribers), g.Count)
		}
		if got != tt.want || l.Ref != 3 || l.Code != linkpb.Code_OK {
			t.Errorf("limit %d: %s, want %s", tt.limit, got, tt.want)
		}
	}
	r.List(&a.Turn, a.Lane, &linkpb.List{Ref: 4, Topic: "t:nobody"})
	a.Flush()
	if l := next[*linkpb.Listing](t, a); l.Ref != 4 || l.Count != 0 || len(l.Gateways) != 0 || r.Stats().Topics != 1 {
		t.Errorf("listing of a topic nobody uses: %v, %d topics", l, r.Stats().Topics)
	}
}

// The listing of a topic with a million subscribers on eight gateways, whole and in part: at most 40 ms.
func BenchmarkG9_AMillionSubscribers(b *testing.B) {
	store := history.NewMemory(history.Config{})
	defer store.Close()
	r := NewRegistry(Config{Store: store})
	gw := gateways(b, 8, true)
	for i, g := range gw {
		r.Subscribe(&g.Turn, g.Lane, &linkpb.Subscribe{Topic: "t:a"})
		g.Flush()
		for id := range 125_000 {
			r.Join(g.Lane, &linkpb.Join{Topic: "t:a", Subscriber: uint64(i)<<56 | uint64(id)})
		}
	}
	for _, limit := range []int{-1, MaxListed, 1000, 0} {
		b.Run(fmt.Sprintf("limit=%d", limit), func(b *testing.B) {
			for b.Loop() {
				if l := r.Listing("t:a", limit); l.Count != 1_000_000 {
					b.Fatal(l.Count)
				}
			}
		})
	}
}

// A crowd of ten thousand joins one topic that four gateways watch: what its joins and its one diff cost the owner.
func BenchmarkPresence_CrowdJoins(b *testing.B) {
	store := history.NewMemory(history.Config{})
	defer store.Close()
	gw := gateways(b, 4, true)
	for b.Loop() {
		r := NewRegistry(Config{Store: store})
		for _, g := range gw {
			r.Watch(&g.Turn, g.Lane, &linkpb.Watch{Ref: 1, Topic: "t:a"})
		}
		for i := range uint64(10_000) {
			g := gw[i%4]
			r.Track(&g.Turn, g.Lane, &linkpb.Track{Topic: "t:a", Member: i, Presence: &linkpb.Presence{
				Key: fmt.Sprint("user", i), Meta: []byte(`{"name":"somebody","since":1700000000}`),
			}})
		}
		r.TickPresence(time.Now().Add(time.Second))
		for _, g := range gw {
			g.Flush()
		}
	}
}

// What waits for a topic runs on the goroutine that brings the topic, and leaves the turn of the lane that it came over alone.
func TestWaitingPresenceRunsInTheTurnOfItsOwnGoroutine(t *testing.T) {
	r := registryOf(t, always(OursLater))
	g := gateways(t, 1, true)[0]
	for member := range uint64(3) {
		r.Track(&g.Turn, g.Lane, &linkpb.Track{
			Ref: 1 + member, Topic: "t:a", Member: member, Presence: &linkpb.Presence{Key: "k", Meta: []byte("{}")},
		})
	}
	r.Untrack(&g.Turn, g.Lane, &linkpb.Untrack{Topic: "t:a", Member: 0})
	r.Untrack(&g.Turn, g.Lane, &linkpb.Untrack{Topic: "t:a", Member: 1, Grace: true})
	r.Unwatch(&g.Turn, g.Lane, "t:none")
	g.Flush()
	r.Install("t:a", nil)
	if n := r.Stats().Presences; n != 2 {
		t.Errorf("%d members present, want the one in its grace and the third", n)
	}
	if !g.now.IsZero() {
		t.Error("the lane's turn has been used")
	}
}
