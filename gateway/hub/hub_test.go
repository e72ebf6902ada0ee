package hub

import (
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/proto/codec"
	"github.com/ringcast/ringcast/proto/linkpb"
)

func TestFramesPerJoinRefAndCodec(t *testing.T) {
	r := newRig(t)
	peers := map[string]*peer{
		"v2 string":  r.connect("room", `"1"`, codec.PhoenixV2),
		"v2 same":    r.connect("room", `"1"`, codec.PhoenixV2),
		"v2 other":   r.connect("room", `"10"`, codec.PhoenixV2),
		"v2 number":  r.connect("room", `1`, codec.PhoenixV2),
		"v2 null":    r.connect("room", ``, codec.PhoenixV2),
		"v1":         r.connect("room", ``, codec.PhoenixV1),
		"v1 ref":     r.connect("room", `"1"`, codec.PhoenixV1),
		"other room": r.connect("room2", `"1"`, codec.PhoenixV2),
	}
	bin := &Message{Push: codec.Push{Topic: "room", Event: "b", Payload: []byte("\x00\xff"), Binary: true}, Position: Position{1, 2}}
	for _, step := range []struct {
		m                *Message
		delivered, unfit int
	}{
		{message(1, `{"a":1}`), 7, 0},
		{bin, 5, 2},
		{message(3, ``), 7, 0},
		{&Message{Push: codec.Push{Topic: "room2", Event: "last"}, Position: Position{1, 1}}, 1, 0},
		{&Message{Push: codec.Push{Topic: "nobody", Event: "e"}, Position: Position{1, 1}}, 0, 0},
	} {
		if d, u := r.deliver(step.m); d != step.delivered || u != step.unfit {
			t.Errorf("%s: delivered %d, unfit %d; want %d, %d", step.m.Event, d, u, step.delivered, step.unfit)
		}
	}
	v1 := []string{
		text(`{"ref":null,"topic":"room","event":"e","payload":{"a":1}}`),
		text(`{"ref":null,"topic":"room","event":"e","payload":{}}`),
	}
	v2 := func(joinRef, bare string) []string {
		return []string{
			text(`[` + joinRef + `,null,"room","e",{"a":1}]`),
			data("\x00" + string(rune(len(bare))) + "\x04\x01" + bare + "roomb\x00\xff"),
			text(`[` + joinRef + `,null,"room","e",{}]`),
		}
	}
	for name, want := range map[string][]string{
		"v2 string":  v2(`"1"`, "1"),
		"v2 same":    v2(`"1"`, "1"),
		"v2 other":   v2(`"10"`, "10"),
		"v2 number":  v2(`1`, "1"),
		"v2 null":    v2(`null`, ""),
		"v1":         v1,
		"v1 ref":     v1,
		"other room": {text(`["1",null,"room2","last",{}]`)},
	} {
		t.Run(name, func(t *testing.T) { peers[name].want(want...) })
	}
}

// phoenixKinds is how many codecs have join_refs: the first ones.
const phoenixKinds = 2

// Join_refs that share a slot take it from each other; each channel still gets its own frame.
func TestJoinRefsThatShareASlot(t *testing.T) {
	r := newRig(t)
	var refs []string
	var peers []*peer
	for i := range 3 * frameSlots {
		refs = append(refs, fmt.Sprint(i))
		peers = append(peers, r.connect("room", refs[i], codec.Kind(i%phoenixKinds)))
	}
	r.deliver(message(1, `1`), message(2, `2`))
	for i, p := range peers {
		for n := 1; n <= 2; n++ {
			if codec.Kind(i%phoenixKinds) == codec.PhoenixV1 {
				p.want(text(fmt.Sprintf(`{"ref":null,"topic":"room","event":"e","payload":%d}`, n)))
			} else {
				p.want(text(fmt.Sprintf(`[%s,null,"room","e",%d]`, refs[i], n)))
			}
		}
	}
}

// The number of allocations of a delivery does not depend on the number of channels.
func TestDeliverAllocatesNothingPerChannel(t *testing.T) {
	one := func(int) (string, codec.Kind) { return `"1"`, codec.PhoenixV2 }
	many := func(i int) (string, codec.Kind) { return fmt.Sprintf(`"%d"`, i), codec.Kind(i % phoenixKinds) }
	for _, tt := range []struct {
		name   string
		joinAs func(i int) (string, codec.Kind)
		want   uint64 // for each codec: the body and the pointer to it
	}{
		{"one join_ref and codec", one, 2},
		{"many join_refs and two codecs", many, 4},
	} {
		for _, n := range []int{10, 1000} {
			t.Run(fmt.Sprintf("%s, %d channels", tt.name, n), func(t *testing.T) {
				r := newRig(t)
				for i := range n {
					joinRef, k := tt.joinAs(i)
					r.connect("room", joinRef, k)
				}
				if got := r.deliverAllocs(n); got > tt.want {
					t.Errorf("%d allocations to deliver to %d channels, want %d", got, n, tt.want)
				}
			})
		}
	}
}

// deliverAllocs returns how many allocations one delivery to n channels makes. Each is a turn of its own, as a second
// message of a turn is copied into queues. Other goroutines may allocate meanwhile, so the least of several counts.
func (r *rig) deliverAllocs(n int) uint64 {
	r.t.Helper()
	least := ^uint64(0)
	for i := range uint64(20) {
		m := message(i+1, `{"a":1}`)
		r.turn(func() {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			delivered, _ := r.hub.Deliver(r.loop, m)
			runtime.ReadMemStats(&after)
			if delivered != n {
				r.t.Errorf("delivered %d of %d", delivered, n)
			}
			least = min(least, after.Mallocs-before.Mallocs)
		})
	}
	return least
}

func TestMessagesOfATurnArriveInOrderInOneWrite(t *testing.T) {
	r := newRig(t)
	peers := []*peer{r.connect("room", `"1"`, codec.PhoenixV2), r.connect("room", `"2"`, codec.PhoenixV2)}
	before := r.loops.Stats().Writes
	r.deliver(message(1, `1`), message(2, `2`), message(3, `3`))
	for i, p := range peers {
		for n := 1; n <= 3; n++ {
			p.want(text(fmt.Sprintf(`["%d",null,"room","e",%d]`, i+1, n)))
		}
	}
	r.turn(func() {}) // the counts of a turn are there when the next one begins
	if writes := r.loops.Stats().Writes - before; writes != uint64(len(peers)) {
		t.Errorf("%d writes for %d connections, want one each", writes, len(peers))
	}
}

// A frame that waits in a queue stays what it was, however often the hub uses its memory again.
func TestQueuedFramesSurviveLaterTurns(t *testing.T) {
	r := newRig(t)
	frozen := r.connect("room", `"1"`, codec.PhoenixV2)
	_ = frozen.nc.(*net.TCPConn).SetReadBuffer(128 << 10)
	quick := r.connect("room", `"2"`, codec.PhoenixV2)
	payload := func(i int) string { return `"` + strings.Repeat(string(rune('a'+i%26)), 20_000+i) + `"` }
	check := func(p *peer, joinRef string, i int) {
		t.Helper()
		got := p.read()
		if want := `[` + joinRef + `,null,"room","e",` + payload(i) + `]`; !strings.HasSuffix(got, want) || len(got) != len(want)+4 {
			t.Fatalf("message %d came as %.60q… of %d bytes", i, got, len(got))
		}
	}
	const turns = 100
	for i := range turns {
		r.deliver(message(uint64(i)+1, payload(i)))
		check(quick, `"2"`, i)
	}
	r.turn(func() {})
	if waiting := r.loops.Stats().QueueBytes; waiting == 0 {
		t.Fatal("nothing waits for the frozen peer: the test shows nothing")
	}
	for i := range turns {
		check(frozen, `"1"`, i)
	}
}

// A large message to many join_refs is lent to as many as the arena has room for; the others get copies.
func TestArenaIsBounded(t *testing.T) {
	r := newRig(t)
	var peers []*peer
	for i := range 8 {
		peers = append(peers, r.connect("room", fmt.Sprint(10+i), codec.PhoenixV2))
	}
	payload := `"` + strings.Repeat("x", 300_000) + `"`
	r.deliver(message(1, payload))
	if size, most := len(r.hub.arena), maxArena+len(payload)+64; size > most {
		t.Errorf("arena of %d bytes, want at most %d", size, most)
	}
	for i, p := range peers {
		if want := fmt.Sprintf(`[%d,null,"room","e",%s]`, 10+i, payload); !strings.HasSuffix(p.read(), want) {
			t.Errorf("peer %d got something else", i)
		}
	}
	r.deliver(message(2, `2`))
	if size := len(r.hub.arena); size > 1000 {
		t.Errorf("arena has %d bytes in the next turn", size)
	}
	for i, p := range peers {
		p.want(text(fmt.Sprintf(`[%d,null,"room","e",2]`, 10+i)))
	}
}

// What a channel gets begins where it joined, whatever older messages the loop finds in its queue.
func TestDeliverBeginsAfterTheJoin(t *testing.T) {
	at := func(epoch, offset uint64) *Message {
		m := message(offset, fmt.Sprint(offset))
		m.Position.Epoch = epoch
		return m
	}
	r := newRig(t)
	first := r.connect("room", `"1"`, codec.PhoenixV2) // from (1, 0)
	r.deliver(at(1, 1), at(1, 2))
	second := r.connect("room", `"2"`, codec.PhoenixV2) // says (1, 0); the others are at (1, 2)
	for _, step := range []struct {
		m    *Message
		want int
	}{{at(1, 2), 0}, {at(1, 1), 0}, {at(2, 9), 0}, {at(1, 3), 2}, {at(1, 3), 0}, {at(1, 7), 2}} {
		if got, _ := r.deliver(step.m); got != step.want {
			t.Errorf("%+v: delivered %d, want %d", step.m.Position, got, step.want)
		}
	}
	frame := func(joinRef string, n int) string { return text(fmt.Sprintf(`["%s",null,"room","e",%d]`, joinRef, n)) }
	first.want(frame("1", 1), frame("1", 2), frame("1", 3), frame("1", 7))
	second.want(frame("2", 3), frame("2", 7))
}

func TestPositions(t *testing.T) {
	h := New()
	a, b := &Channel{}, &Channel{}
	if _, ok := h.Last("room"); ok {
		t.Error("a topic without channels has a position")
	}
	if got := h.Add("room", a, Position{1, 5}); got != (Position{1, 5}) {
		t.Errorf("the first channel begins after %+v", got)
	}
	if got := h.Add("room", b, Position{1, 9}); got != (Position{1, 5}) {
		t.Errorf("the second channel begins after %+v, not where the first is", got)
	}
	if got, ok := h.Last("room"); !ok || got != (Position{1, 5}) {
		t.Errorf("Last = %+v, %v", got, ok)
	}
	for _, tt := range []struct {
		p, q Position
		want bool
	}{
		{Position{1, 5}, Position{1, 4}, true},
		{Position{1, 5}, Position{1, 5}, true},
		{Position{1, 5}, Position{1, 6}, false},
		{Position{1, 5}, Position{2, 4}, false},
		{Position{2, 5}, Position{1, 4}, false},
	} {
		if got := tt.p.Reached(tt.q); got != tt.want {
			t.Errorf("%+v reached %+v: %v", tt.p, tt.q, got)
		}
	}
}

func TestNewMessage(t *testing.T) {
	m := NewMessage("room", &linkpb.Message{
		Topic: "alias", Event: "e", Payload: []byte("p"), Binary: true, Position: &linkpb.Position{Epoch: 3, Offset: 4},
	})
	if m.Topic != "room" || m.Event != "e" || string(m.Payload) != "p" || !m.Binary || m.Position != (Position{3, 4}) {
		t.Errorf("got %+v at %+v", m.Push, m.Position)
	}
	if m := NewMessage("room", &linkpb.Message{}); m.Position != (Position{}) {
		t.Errorf("without a position: %+v", m.Position)
	}
}

// Several loops that need one body at once agree on it.
func TestBodyIsEncodedOnce(t *testing.T) {
	m := message(1, `{"a":1}`)
	bodies := make(chan *byte)
	for range 4 {
		go func() { bodies <- &m.body(codec.PhoenixV2)[0] }()
	}
	first := <-bodies
	for range 3 {
		if other := <-bodies; other != first {
			t.Error("two bodies")
		}
	}
}

// Any sequence of adds, removes and clears leaves the index as a plain map of sets would be.
func TestIndexAgainstAModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	h := New()
	model := make(map[string]map[*Channel]bool)
	channels := make([]*Channel, 40)
	for i := range channels {
		channels[i] = new(Channel)
	}
	for step := range 20_000 {
		topic := fmt.Sprint("t", rnd.IntN(6))
		c := channels[rnd.IntN(len(channels))]
		switch in := c.Topic(); {
		case rnd.IntN(50) == 0:
			cleared := h.Clear(topic)
			if len(cleared) != len(model[topic]) {
				t.Fatalf("seed %d step %d: cleared %d of %d", seed, step, len(cleared), len(model[topic]))
			}
			delete(model, topic)
		case in == "" && rnd.IntN(4) == 0:
			if h.Remove(c) {
				t.Fatalf("seed %d step %d: removed what is not in", seed, step)
			}
		case in == "":
			h.Add(topic, c, Position{})
			if model[topic] == nil {
				model[topic] = make(map[*Channel]bool)
			}
			model[topic][c] = true
		default:
			delete(model[in], c)
			if last := h.Remove(c); last != (len(model[in]) == 0) {
				t.Fatalf("seed %d step %d: last = %v with %d left", seed, step, last, len(model[in]))
			}
			if len(model[in]) == 0 {
				delete(model, in)
			}
		}
		checkIndex(t, h, model, channels)
		if t.Failed() {
			t.Fatalf("seed %d step %d", seed, step)
		}
	}
}

func checkIndex(t *testing.T, h *Hub, model map[string]map[*Channel]bool, channels []*Channel) {
	t.Helper()
	if h.Topics() != len(model) {
		t.Errorf("%d topics, want %d", h.Topics(), len(model))
	}
	in := 0
	h.Each(func(topic string, list []*Channel) {
		in += len(list)
		if len(list) != len(model[topic]) || h.Channels(topic) != len(list) {
			t.Errorf("%s: %d channels, want %d", topic, len(list), len(model[topic]))
		}
		for i, c := range list {
			if !model[topic][c] || c.Topic() != topic || int(c.index) != i {
				t.Errorf("%s: a channel is at %d, its index says %d of %q", topic, i, c.index, c.Topic())
			}
		}
	})
	out := slices.DeleteFunc(slices.Clone(channels), func(c *Channel) bool { return c.Topic() != "" })
	if in+len(out) != len(channels) {
		t.Errorf("%d in and %d out of %d", in, len(out), len(channels))
	}
}
