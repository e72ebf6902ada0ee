package topic

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/topicserver/history"
)

func (g *gateway) past(t testing.TB, r *Registry, req *linkpb.History) *linkpb.Past {
	t.Helper()
	r.Past(&g.Turn, g.Lane, req)
	g.Flush()
	return next[*linkpb.Past](t, g)
}

// offsets returns the offsets of a Past's messages.
func offsets(t testing.TB, p *linkpb.Past) (list []uint64) {
	t.Helper()
	for _, item := range p.Items {
		err := linkpb.EachItem(item, func(kind linkpb.Kind, body []byte) error {
			var m linkpb.Message
			list = append(list, 0)
			if err := m.UnmarshalVT(body); err != nil || kind != linkpb.KindMessage {
				return fmt.Errorf("item of kind %d: %w", kind, err)
			}
			list[len(list)-1] = m.Position.Offset
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	return list
}

func TestPast(t *testing.T) {
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
	for _, test := range []struct {
		name      string
		since     *linkpb.Position
		limit     uint32
		want      []uint64
		next      uint64
		recovered bool
	}{
		{"the newest", nil, 2, []uint64{7, 8}, 8, false},
		{"all", nil, 100, []uint64{4, 5, 6, 7, 8}, 8, false},
		{"nothing new", at(epoch, 8), 10, nil, 8, true},
		{"what came since", at(epoch, 6), 10, []uint64{7, 8}, 8, true},
		{"the first of what came since", at(epoch, 4), 2, []uint64{5, 6}, 6, true},
		{"everything remembered", at(epoch, 3), 5, []uint64{4, 5, 6, 7, 8}, 8, true},
		{"some is forgotten", at(epoch, 2), 2, []uint64{4, 5}, 5, false},
		{"beyond the top", at(epoch, 9), 2, []uint64{4, 5}, 5, false},
		{"another epoch", at(epoch+2, 6), 10, []uint64{4, 5, 6, 7, 8}, 8, false},
		{"no limit is one", at(epoch, 6), 0, []uint64{7}, 7, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := b.past(t, r, &linkpb.History{Ref: 7, Topic: "t:a", Since: test.since, Limit: test.limit})
			if got := offsets(t, p); fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("messages %v, want %v", got, test.want)
			}
			if p.Ref != 7 || p.Code != linkpb.Code_OK || p.Next.GetEpoch() != epoch || p.Next.GetOffset() != test.next ||
				p.Recovered != test.recovered || p.More != (test.next < 8) {
				t.Errorf("ref %d, code %v, next %v, recovered %t, more %t", p.Ref, p.Code, p.Next, p.Recovered, p.More)
			}
		})
	}
	b.nothingElse(t, r)
}

// Whoever pages on gets every message once, and no answer is larger than a batch may be.
func TestPastPages(t *testing.T) {
	store := history.NewMemory(history.Config{Bytes: 8 << 20})
	defer store.Close()
	r := NewRegistry(Config{Store: store})
	g := gateways(t, 1, false)[0]
	sizes := []int{10, maxPast / 2, maxPast / 3, maxPast / 3, 1 << 20, 100, maxPast, 1, 1}
	for _, n := range sizes {
		g.publish(r, "t:a", strings.Repeat("x", n))
		next[*linkpb.Reply](t, g)
	}
	p := g.past(t, r, &linkpb.History{Topic: "t:a", Limit: 1})
	since := &linkpb.Position{Epoch: p.Next.Epoch}
	var all []uint64
	for p.More = true; p.More; since = p.Next {
		p = g.past(t, r, &linkpb.History{Topic: "t:a", Since: since, Limit: 100})
		if len(p.Items) > 1 && p.SizeVT() > maxPast+1024 {
			t.Errorf("%d messages of %d bytes at once", len(p.Items), p.SizeVT())
		}
		if !p.Recovered || len(p.Items) == 0 {
			t.Fatalf("recovered %t, %d messages", p.Recovered, len(p.Items))
		}
		all = append(all, offsets(t, p)...)
	}
	if fmt.Sprint(all) != "[1 2 3 4 5 6 7 8 9]" {
		t.Errorf("messages %v", all)
	}
	if p := g.past(t, r, &linkpb.History{Topic: "t:a", Limit: 100}); fmt.Sprint(offsets(t, p)) != "[8 9]" {
		t.Errorf("newest %v", offsets(t, p))
	}
}

// A read of a topic that is on its way here waits for it; one of a topic that goes elsewhere is told so.
func TestPastOfATopicOnItsWay(t *testing.T) {
	claim := OursLater
	store := history.NewMemory(history.Config{})
	defer store.Close()
	r := NewRegistry(Config{Store: store, Claim: func(string) Claim { return claim }})
	g := gateways(t, 1, false)[0]
	ask := func(ref uint64, topic string) {
		r.Past(&g.Turn, g.Lane, &linkpb.History{Ref: ref, Topic: topic, Limit: 10, Since: &linkpb.Position{Epoch: 5, Offset: 40}})
		g.Flush()
	}
	ask(1, "t:comes")
	ask(2, "t:stays")
	m := &linkpb.Message{Topic: "t:comes", Position: &linkpb.Position{Epoch: 5, Offset: 41}, Event: "e"}
	r.Install("t:comes", &linkpb.TopicState{
		Topic: "t:comes", Position: m.Position, History: [][]byte{linkpb.AppendItem(nil, linkpb.KindMessage, m)},
	})
	if p := next[*linkpb.Past](t, g); p.Ref != 1 || !p.Recovered || fmt.Sprint(offsets(t, p)) != "[41]" {
		t.Errorf("got %v", p)
	}
	r.Abandon("t:stays")
	if p := next[*linkpb.Past](t, g); p.Ref != 2 || p.Code != linkpb.Code_NOT_OWNER {
		t.Errorf("got %v", p)
	}
	claim = NotOurs
	ask(3, "t:others")
	if p := next[*linkpb.Past](t, g); p.Ref != 3 || p.Code != linkpb.Code_NOT_OWNER {
		t.Errorf("got %v", p)
	}
}
