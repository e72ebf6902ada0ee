package topic

import (
	"testing"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// FuzzInstall: whatever another server hands over as the state of a topic, the topic works afterwards: it can be subscribed
// from any place, published to, and handed over again.
func FuzzInstall(f *testing.F) {
	message := linkpb.AppendItem(nil, linkpb.KindMessage, &linkpb.Message{Topic: "t:a", Event: "e", Position: &linkpb.Position{Epoch: 7, Offset: 3}})
	for _, state := range []*linkpb.TopicState{
		{}, {Absent: true}, {Position: &linkpb.Position{}}, {Position: &linkpb.Position{Epoch: 7, Offset: 3}, History: [][]byte{message, message, message}},
		{Position: &linkpb.Position{Epoch: 7, Offset: 1}, History: [][]byte{message, message, nil}}, // more than it can have
		{Position: &linkpb.Position{Epoch: 7, Offset: 1<<64 - 1}, History: [][]byte{message}},
		{Position: &linkpb.Position{Epoch: 7, Offset: 2}, Ids: []*linkpb.PublishID{{High: 1, Low: 2, Offset: 9}, {High: 1, Low: 2}}},
		{Position: &linkpb.Position{Epoch: 7}, Name: &linkpb.NameHolder{Gateway: "gw-a", Claim: 3, HeldMs: 1<<64 - 1}},
	} {
		encoded, err := state.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encoded, uint64(7), uint64(2))
	}
	f.Fuzz(func(t *testing.T, encoded []byte, epoch, offset uint64) {
		var state linkpb.TopicState
		if err := state.UnmarshalVT(encoded); err != nil {
			return
		}
		for _, item := range state.History {
			if err := linkpb.EachItem(item, func(linkpb.Kind, []byte) error { return nil }); err != nil {
				return // gateways end their lanes for this
			}
		}
		r, g := newRegistry(t), gateways(t, 1, true)[0]
		if !r.Expect("t:a") || !r.Install("t:a", &state) {
			t.Fatal("not installed")
		}
		r.Subscribe(&g.Turn, g.Lane, &linkpb.Subscribe{Ref: 1, Topic: "t:a", Since: []*linkpb.Position{{Epoch: epoch, Offset: offset}}})
		r.Past(&g.Turn, g.Lane, &linkpb.History{Ref: 2, Topic: "t:a"})
		r.Publish(&g.Turn, g.Lane, &linkpb.Publish{Ref: 3, Topic: "t:a", Event: "e", IdHigh: 1, IdLow: 2})
		r.Unsubscribe(&g.Turn, g.Lane, "t:a")
		g.Flush()
		if view := r.Inspect("t:a", offset); !view.Held || view.Waiting {
			t.Errorf("%v: the topic is %+v", &state, view)
		}
		if again, _ := r.Seal("t:a", 9); again.GetPosition() == nil {
			t.Errorf("%v: nothing to hand over", &state)
		}
	})
}
