package topic

import (
	"testing"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/topicserver/history"
)

// A registry that has as many topics as it may have goes on with those, makes room when some are forgotten, and refuses all that
// would make another one. What other servers hand over is not refused: it would be lost.
func TestTopicsAreBounded(t *testing.T) {
	store := history.NewMemory(history.Config{TTL: time.Nanosecond})
	r := NewRegistry(Config{Store: store, Topics: 2, IDs: 10, IDTTL: time.Minute})
	g := gateways(t, 1, false)[0]
	g.subscribe(t, r, "t:held")
	g.publishWithID(t, r, "t:idle", "x", 1)
	refused := func(name string, reply func() *linkpb.Reply) {
		t.Helper()
		if rep := reply(); rep.Code != linkpb.Code_OVERLOADED || rep.Detail != tooManyTopics {
			t.Errorf("%s: %v", name, rep)
		}
	}
	refused("subscribe", func() *linkpb.Reply { return g.subscribe(t, r, "t:new") })
	refused("publish", func() *linkpb.Reply { return g.publishWithID(t, r, "t:new", "x", 2) })
	refused("name", func() *linkpb.Reply {
		r.Name(&g.Turn, g.Lane, &linkpb.Publish{Ref: 3, Topic: "reg:n", Name: &linkpb.NameCall{Op: linkpb.NameOp_NAME_SEND}})
		g.Flush()
		return next[*linkpb.Reply](t, g)
	})
	refused("presence", func() *linkpb.Reply {
		r.Track(&g.Turn, g.Lane, &linkpb.Track{Ref: 4, Topic: "t:new", Member: 1, Presence: &linkpb.Presence{Key: "k", Meta: []byte("{}")}})
		g.Flush()
		return next[*linkpb.Reply](t, g)
	})
	r.Past(&g.Turn, g.Lane, &linkpb.History{Ref: 5, Topic: "t:new"})
	g.Flush()
	if p := next[*linkpb.Past](t, g); p.Code != linkpb.Code_OVERLOADED {
		t.Errorf("history: %v", p)
	}
	if got := r.Stats(); got.Topics != 2 || got.Refused != 5 {
		t.Errorf("%d topics, %d refused", got.Topics, got.Refused)
	}
	if rep := g.publishWithID(t, r, "t:idle", "x", 6); rep.Code != linkpb.Code_OK {
		t.Errorf("a topic that is there: %v", rep)
	}
	state := &linkpb.TopicState{Topic: "t:given", Position: &linkpb.Position{Epoch: 9, Offset: 40}}
	if !r.Expect("t:given") || !r.Install("t:given", state) || r.Stats().Topics != 3 {
		t.Errorf("%d topics after one was handed over", r.Stats().Topics)
	}
	waitFor(t, "what nobody uses to be forgotten", func() bool {
		r.Sweep(time.Nanosecond)
		return r.Stats().Topics == 1
	})
	if rep := g.publishWithID(t, r, "t:new", "x", 7); rep.Code != linkpb.Code_OK {
		t.Errorf("with room again: %v", rep)
	}
}
