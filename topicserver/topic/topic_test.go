package topic

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// Row D12: a publish costs one send for each gateway that subscribes, however many subscribers there are.
func TestOneSendPerSubscribedGateway(t *testing.T) {
	r := newRegistry(t)
	gws := gateways(t, 3, false)
	a, b, c := gws[0], gws[1], gws[2]
	for _, g := range gws[:2] {
		g.subscribe(t, r, "topics:matrix")
		for id := range uint64(500) {
			r.Join(g.Lane, &linkpb.Join{Topic: "topics:matrix", Subscriber: id})
		}
	}
	for i := range 10 {
		c.publish(r, "topics:matrix", fmt.Sprint(i))
	}
	got, want := r.Stats(), Stats{Topics: 1, Subscribers: 1000, Publishes: 10, FanoutSends: 20}
	if want.History = got.History; got != want || got.History.Messages != 10 {
		t.Errorf("stats %+v, want %+v", got, want)
	}
	for i := range 10 {
		for _, g := range gws[:2] {
			m := next[*linkpb.Message](t, g)
			if m.Topic != "topics:matrix" || m.Event != "e" || string(m.Payload) != fmt.Sprint(i) || m.Position.Offset != uint64(i+1) {
				t.Errorf("gateway %s got %v as message %d", g.Gateway, m, i)
			}
		}
		if rep := next[*linkpb.Reply](t, c); rep.Code != linkpb.Code_OK || rep.Position.Offset != uint64(i+1) {
			t.Errorf("reply %v to publish %d", rep, i)
		}
	}
	for _, g := range []*gateway{a, b, c} {
		g.nothingElse(t, r)
	}
}

func TestReplyStandsBeforeThePublishersCopy(t *testing.T) {
	r := newRegistry(t)
	g := gateways(t, 1, false)[0]
	g.subscribe(t, r, "t:a")
	for range 3 {
		g.publish(r, "t:a", "x")
	}
	for i := range uint64(3) {
		rep := next[*linkpb.Reply](t, g)
		m := next[*linkpb.Message](t, g)
		if rep.Ref != 2 || rep.Position.Offset != i+1 || m.Position.Offset != i+1 || m.Position.Epoch != rep.Position.Epoch {
			t.Errorf("reply %v, then message %v", rep, m)
		}
	}
}

// Two gateways publish at once: both, and a third that only listens, see one order without holes.
func TestOneOrderForAll(t *testing.T) {
	const each = 1000
	r := newRegistry(t)
	gws := gateways(t, 3, false)
	for _, g := range gws {
		g.subscribe(t, r, "t:a")
	}
	for _, g := range gws[:2] {
		go func() {
			for i := range each {
				r.Publish(&g.Turn, g.Lane, &linkpb.Publish{Ref: uint64(i), Topic: "t:a", Payload: []byte(fmt.Sprint(g.Gateway, i))})
				if i%7 == 0 || i == each-1 {
					g.Flush()
				}
			}
		}()
	}
	var orders [3]string
	for i, g := range gws {
		var order strings.Builder
		replies, messages := uint64(0), uint64(0)
		for messages < 2*each || i < 2 && replies < each {
			select {
			case it := <-g.items:
				switch m := it.(type) {
				case *linkpb.Reply:
					if m.Ref != replies || m.Position.Offset <= messages {
						t.Fatalf("gateway %s got reply %v after %d replies and %d messages", g.Gateway, m, replies, messages)
					}
					replies++
				case *linkpb.Message:
					messages++
					if m.Position.Offset != messages {
						t.Fatalf("gateway %s got offset %d, want %d", g.Gateway, m.Position.Offset, messages)
					}
					order.Write(m.Payload)
				}
			case <-time.After(patience):
				t.Fatalf("gateway %s has %d messages and %d replies", g.Gateway, messages, replies)
			}
		}
		orders[i] = order.String()
	}
	if orders[0] != orders[1] || orders[1] != orders[2] {
		t.Error("the gateways saw different orders")
	}
}

// Whoever subscribes while others publish gets the position first and then every message after it.
func TestSubscribeReplyPrecedesTheMessages(t *testing.T) {
	r := newRegistry(t)
	gws := gateways(t, 2, false)
	stop, stopped := make(chan struct{}), make(chan struct{})
	gws[0].publish(r, "t:a", "first")
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-gws[0].items: // one publish in flight: its reply
				gws[0].publish(r, "t:a", "x")
			}
		}
	}()
	for range 50 {
		rep := gws[1].subscribe(t, r, "t:a")
		for i := range uint64(3) {
			if m := next[*linkpb.Message](t, gws[1]); m.Position.Epoch != rep.Position.Epoch || m.Position.Offset != rep.Position.Offset+1+i {
				t.Fatalf("message at %v, subscribed at %v", m.Position, rep.Position)
			}
		}
		r.Unsubscribe(new(Turn), gws[1].Lane, "t:a")
		gws[1].Flush()
		// What was sent before the unsubscribe may still be on its way; a reply shows that it has come.
		r.Publish(&gws[1].Turn, gws[1].Lane, &linkpb.Publish{Ref: 99, Topic: "t:b"})
		gws[1].Flush()
		for {
			if rep, ok := (<-gws[1].items).(*linkpb.Reply); ok && rep.Ref == 99 {
				break
			}
		}
	}
	close(stop)
	<-stopped
}

func TestSubscribingTwiceIsSubscribingOnce(t *testing.T) {
	r := newRegistry(t)
	g := gateways(t, 1, false)[0]
	first := g.subscribe(t, r, "t:a")
	if first.Code != linkpb.Code_OK || first.Position.Offset != 0 || first.Position.Epoch == 0 {
		t.Errorf("reply %v, want the place before the first message", first)
	}
	g.publish(r, "t:a", "x")
	next[*linkpb.Reply](t, g)
	next[*linkpb.Message](t, g)
	if again := g.subscribe(t, r, "t:a"); again.Position.Offset != 1 || again.Position.Epoch != first.Position.Epoch {
		t.Errorf("reply %v, want offset 1", again)
	}
	g.publish(r, "t:a", "y")
	next[*linkpb.Reply](t, g)
	next[*linkpb.Message](t, g)
	g.nothingElse(t, r)
	r.Unsubscribe(new(Turn), g.Lane, "t:a")
	g.publish(r, "t:a", "z")
	next[*linkpb.Reply](t, g)
	g.nothingElse(t, r)
}

func TestSubscribers(t *testing.T) {
	r := newRegistry(t)
	gws := gateways(t, 2, false)
	a, b := gws[0], gws[1]
	expect := func(what, topic, want string) {
		t.Helper()
		var list []string
		for _, s := range r.Subscribers(topic) {
			list = append(list, fmt.Sprint(s.Gateway, ":", s.ID))
		}
		if got := strings.Join(list, " "); got != want {
			t.Errorf("%s: subscribers %q, want %q", what, got, want)
		}
		n := int64(len(r.Subscribers("t:a")) + len(r.Subscribers("t:b")))
		if s := r.Stats(); s.Subscribers != n {
			t.Errorf("%s: %d subscribers counted, %d listed", what, s.Subscribers, n)
		}
	}
	join := func(g *gateway, topic string, id uint64) { r.Join(g.Lane, &linkpb.Join{Topic: topic, Subscriber: id}) }
	leave := func(g *gateway, topic string, id uint64) {
		r.Leave(g.Lane, &linkpb.Leave{Topic: topic, Subscriber: id})
	}

	expect("a topic that nobody uses", "t:a", "")
	join(a, "t:a", 1)
	leave(a, "t:a", 1)
	r.Unsubscribe(new(Turn), a.Lane, "t:a")
	if n := r.Stats().Topics; n != 0 {
		t.Errorf("joining what is not subscribed made %d topics", n)
	}
	b.subscribe(t, r, "t:a")
	join(a, "t:a", 1)
	expect("a join of a gateway that has not subscribed", "t:a", "")

	a.subscribe(t, r, "t:a")
	a.subscribe(t, r, "t:b")
	join(b, "t:a", 30)
	join(a, "t:a", 2)
	join(a, "t:a", 1)
	join(b, "t:a", 4)
	join(a, "t:b", 7)
	expect("sorted by gateway and id", "t:a", "gw-a:1 gw-a:2 gw-b:4 gw-b:30")

	join(a, "t:a", 1) // row D7
	expect("joined twice", "t:a", "gw-a:1 gw-a:2 gw-b:4 gw-b:30")
	leave(a, "t:a", 1) // row D6
	expect("left", "t:a", "gw-a:2 gw-b:4 gw-b:30")
	leave(a, "t:a", 1)
	leave(a, "t:a", 4) // another gateway's
	expect("left again", "t:a", "gw-a:2 gw-b:4 gw-b:30")

	r.Unsubscribe(new(Turn), b.Lane, "t:a")
	expect("unsubscribed", "t:a", "gw-a:2")
	b.subscribe(t, r, "t:a")
	expect("subscribed again", "t:a", "gw-a:2")
	join(b, "t:a", 5)

	r.Drop(a.Lane, 0)
	expect("lane dropped", "t:a", "gw-b:5")
	expect("lane dropped", "t:b", "")
	if len(a.Lane.topics) != 0 {
		t.Errorf("a dropped lane holds %d topics", len(a.Lane.topics))
	}
	leave(b, "t:a", 5)
	expect("all left", "t:a", "")
}

func TestSweepForgetsUnusedTopicsOnly(t *testing.T) {
	r := newRegistry(t)
	g := gateways(t, 1, false)[0]
	g.publish(r, "t:published", "x")
	old := next[*linkpb.Reply](t, g).Position
	g.subscribe(t, r, "t:subscribed")
	left := g.subscribe(t, r, "t:left").Position
	r.Unsubscribe(new(Turn), g.Lane, "t:left")

	if n := r.Sweep(time.Hour); n != 0 {
		t.Errorf("swept %d topics that were used just now", n)
	}
	swept := 0
	waitFor(t, "the clock to move", func() bool {
		swept += r.Sweep(0)
		return swept >= 2
	})
	if s := r.Stats(); swept != 2 || s.Topics != 1 {
		t.Errorf("swept %d, %d topics left; want 2 and 1", swept, s.Topics)
	}
	if rep := g.subscribe(t, r, "t:left"); rep.Position.Epoch == left.Epoch || rep.Position.Offset != 0 {
		t.Errorf("a topic that was forgotten came back at %v, it was at %v", rep.Position, left)
	}
	g.publish(r, "t:published", "x")
	if rep := next[*linkpb.Reply](t, g); rep.Position.Epoch == old.Epoch || rep.Position.Offset != 1 {
		t.Errorf("a topic that was forgotten came back at %v, it was at %v", rep.Position, old)
	}
}

// Publishes that race with Sweep are appended to the topic in the registry, never to one that is gone.
func TestSweepRacesWithPublish(t *testing.T) {
	r := newRegistry(t)
	g := gateways(t, 1, false)[0]
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				r.Sweep(0)
			}
		}
	}()
	const n = 3000
	for range n {
		r.Publish(&g.Turn, g.Lane, &linkpb.Publish{Topic: "t:a"})
	}
	g.Flush()
	var epoch, offset uint64
	for range n {
		p := next[*linkpb.Reply](t, g).Position
		if p.Epoch != epoch {
			epoch, offset = p.Epoch, 0
		}
		if offset++; p.Offset != offset {
			t.Fatalf("offset %d, want %d", p.Offset, offset)
		}
	}
	close(stop)
	<-stopped
	waitFor(t, "an empty registry", func() bool {
		r.Sweep(0)
		return r.Stats().Topics == 0
	})
}

// Everything at once, on few topics: the counts come out even.
func TestCountsSurviveChurn(t *testing.T) {
	r := newRegistry(t)
	var all sync.WaitGroup
	for _, g := range gateways(t, 4, true) {
		all.Go(func() {
			for i := range uint64(2000) {
				topic := fmt.Sprint("t:", i%3)
				switch i % 8 {
				case 0:
					r.Subscribe(&g.Turn, g.Lane, &linkpb.Subscribe{Topic: topic})
				case 1, 2, 3:
					r.Join(g.Lane, &linkpb.Join{Topic: topic, Subscriber: i})
				case 4:
					r.Leave(g.Lane, &linkpb.Leave{Topic: topic, Subscriber: i - 3})
				case 5:
					r.Publish(&g.Turn, g.Lane, &linkpb.Publish{Topic: topic})
				case 6:
					r.Sweep(0)
					r.Subscribers(topic)
				case 7:
					if i%5 == 0 {
						r.Unsubscribe(new(Turn), g.Lane, topic)
					}
				}
				g.Flush()
			}
			r.Drop(g.Lane, 0)
		})
	}
	all.Wait()
	waitFor(t, "an empty registry", func() bool {
		r.Sweep(0)
		return r.Stats().Topics == 0
	})
	if s := r.Stats(); s.Subscribers != 0 || s.Publishes != 4*250 {
		t.Errorf("stats %+v, want no subscribers and 1000 publishes", s)
	}
}

// Requests point into the lane's input buffer, which the next batch overwrites.
func TestNothingKeepsTheRequest(t *testing.T) {
	r := newRegistry(t)
	g := gateways(t, 1, false)[0]
	buf := []byte("t:a")
	alias := unsafe.String(&buf[0], len(buf))
	g.subscribe(t, r, alias)
	r.Join(g.Lane, &linkpb.Join{Topic: alias, Subscriber: 1})
	r.Publish(&g.Turn, g.Lane, &linkpb.Publish{Topic: alias, Event: alias, Payload: buf})
	copy(buf, "???")
	g.Flush()
	next[*linkpb.Reply](t, g)
	if m := next[*linkpb.Message](t, g); m.Topic != "t:a" || m.Event != "t:a" || string(m.Payload) != "t:a" {
		t.Errorf("message %v", m)
	}
	if n := len(r.Subscribers("t:a")); n != 1 {
		t.Errorf("%d subscribers", n)
	}
	r.Drop(g.Lane, 0)
	if n := r.Stats().Subscribers; n != 0 {
		t.Errorf("%d subscribers after the drop", n)
	}
}

// The per-publish promise: what is allocated is the message that is remembered, whatever the number of gateways.
func TestPublishAllocatesTheMessageOnly(t *testing.T) {
	r := newRegistry(t)
	gws := gateways(t, 4, true)
	for _, g := range gws {
		r.Subscribe(&g.Turn, g.Lane, &linkpb.Subscribe{Topic: "t:a"})
		g.Flush()
	}
	g, req := gws[0], &linkpb.Publish{Topic: "t:a", Event: "e", Payload: make([]byte, 200)}
	n := testing.AllocsPerRun(2000, func() {
		r.Publish(&g.Turn, g.Lane, req)
		g.Flush()
	})
	if n >= 2 { // buffers grow now and then
		t.Errorf("%v allocations per publish, want one", n)
	}
}

func BenchmarkPublish(b *testing.B) {
	for _, n := range []int{1, 2, 8} {
		b.Run(fmt.Sprint("gateways=", n), func(b *testing.B) {
			r := newRegistry(b)
			gws := gateways(b, n, true)
			for _, g := range gws {
				r.Subscribe(&g.Turn, g.Lane, &linkpb.Subscribe{Topic: "t:a"})
				g.Flush()
			}
			g, req := gws[0], &linkpb.Publish{Topic: "t:a", Event: "e", Payload: make([]byte, 200)}
			b.ReportAllocs()
			for b.Loop() {
				r.Publish(&g.Turn, g.Lane, req)
				g.Flush()
				for g.Out.Backlog() > 1<<20 { // its peer lags: an ended lane would cost nothing
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
}
