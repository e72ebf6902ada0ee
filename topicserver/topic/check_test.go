package topic

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/link"
)

// What a server gives is good, and what differs from it in one thing is not.
func TestCheckState(t *testing.T) {
	item := func(change func(*linkpb.Message)) []byte {
		m := &linkpb.Message{Topic: "t:a", Event: "e", Payload: []byte("{}"), Position: &linkpb.Position{Epoch: 7, Offset: 4}}
		change(m)
		return linkpb.AppendItem(nil, linkpb.KindMessage, m)
	}
	at := func(offset uint64) []byte { return item(func(m *linkpb.Message) { m.Position.Offset = offset }) }
	good := &linkpb.TopicState{
		Topic: "t:a", Position: &linkpb.Position{Epoch: 7, Offset: 5}, History: [][]byte{at(3), at(4), at(5)},
		Ids:  []*linkpb.PublishID{{High: 1, Low: 1, Offset: 1}, {High: 1, Low: 2, Offset: 5}},
		Name: &linkpb.NameHolder{Gateway: "gw-a", Instance: 1, Claim: 2},
	}
	second := func(change func(*linkpb.Message)) func(*linkpb.TopicState) {
		return func(s *linkpb.TopicState) { s.History[1] = item(change) }
	}
	for _, test := range []struct {
		name   string
		change func(*linkpb.TopicState)
		want   string
	}{
		{"as it is", func(*linkpb.TopicState) {}, ""},
		{"without a past", func(s *linkpb.TopicState) { s.History, s.Ids, s.Name = nil, nil, nil }, ""},
		{"new", func(s *linkpb.TopicState) { *s = linkpb.TopicState{Topic: "t:a", Position: &linkpb.Position{Epoch: 7}} }, ""},
		{"absent", func(s *linkpb.TopicState) { *s = linkpb.TopicState{Topic: "t:a", Absent: true} }, ""},
		{"no position", func(s *linkpb.TopicState) { s.Position = nil }, "it has no epoch"},
		{"no epoch", func(s *linkpb.TopicState) { s.Position.Epoch = 0 }, "it has no epoch"},
		{"a past before the first message", func(s *linkpb.TopicState) { s.Position.Offset = 2 }, "3 messages up to offset 2"},
		{"an offset near the last there is", func(s *linkpb.TopicState) {
			s.Position.Offset, s.History, s.Ids = 1<<62+1, nil, nil
		}, "offset 4611686018427387905 leaves no room for messages to come"},
		{"offsets that do not rise", second(func(m *linkpb.Message) { m.Position.Offset = 3 }), "message 2 of 3: it has offset 3, want 4"},
		{"a hole", second(func(m *linkpb.Message) { m.Position.Offset = 5 }), "message 2 of 3: it has offset 5, want 4"},
		{"a past that ends elsewhere", func(s *linkpb.TopicState) { s.Position.Offset = 6 }, "message 1 of 3: it has offset 3, want 4"},
		{"another epoch", second(func(m *linkpb.Message) { m.Position.Epoch = 8 }), "message 2 of 3: it is of epoch 8, the topic of 7"},
		{"a message without a position", second(func(m *linkpb.Message) { m.Position = nil }), "message 2 of 3: it is of epoch 0, the topic of 7"},
		{"another topic", second(func(m *linkpb.Message) { m.Topic = "t:b" }), `message 2 of 3: it is of topic "t:b"`},
		{"a long payload", second(func(m *linkpb.Message) { m.Payload = make([]byte, link.MaxItem+1) }), "message 2 of 3: payload of 1048577 bytes; the limit is 1048576"},
		{"a long event", second(func(m *linkpb.Message) { m.Event = strings.Repeat("e", link.MaxEvent+1) }), "message 2 of 3: event of "},
		{"an event that is no UTF-8", second(func(m *linkpb.Message) { m.Event = "\xff" }), "message 2 of 3: event of 1 bytes; want UTF-8"},
		{"nothing", func(s *linkpb.TopicState) { s.History[1] = nil }, "message 2 of 3: it is not one message"},
		{"two messages", func(s *linkpb.TopicState) { s.History[1] = append(at(4), at(4)...) }, "message 2 of 3: it is not one message"},
		{"another item", func(s *linkpb.TopicState) { s.History[1] = linkpb.AppendItem(nil, linkpb.KindDownPing, &linkpb.Ping{}) }, "message 2 of 3: it is not one message"},
		{"a torn item", func(s *linkpb.TopicState) { s.History[1] = at(4)[:9] }, "message 2 of 3: linkpb: torn batch"},
		{"bytes that are no message", func(s *linkpb.TopicState) {
			s.History[1] = []byte{1<<3 | 2, 4, byte(linkpb.KindMessage)<<3 | 2, 2, 0x0a, 0x7f}
		}, "message 2 of 3: "},
		{"an id of a later message", func(s *linkpb.TopicState) { s.Ids[1].Offset = 6 }, "publish id 2 of 2 has offset 6, the topic is at 5"},
		{"an id of no message", func(s *linkpb.TopicState) { s.Ids[0].Offset = 0 }, "publish id 1 of 2 has offset 0, the topic is at 5"},
		{"ids of messages to a name", func(s *linkpb.TopicState) {
			s.Topic, s.Position.Offset, s.History, s.Ids[0].Offset, s.Ids[1].Offset = "reg:n", 0, nil, 0, 0
		}, ""},
		{"nil for an id", func(s *linkpb.TopicState) { s.Ids[0] = nil }, "publish id 1 of 2 has offset 0"},
		{"a holder without a gateway", func(s *linkpb.TopicState) { s.Name.Gateway = "" }, "its name is held by a gateway with an id of 0 bytes"},
	} {
		state := proto.Clone(good).(*linkpb.TopicState)
		test.change(state)
		switch err := CheckState(state); {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", test.name, err)
		case test.want != "" && (err == nil || !strings.HasPrefix(err.Error(), test.want)):
			t.Errorf("%s: %v, want %s", test.name, err, test.want)
		}
	}
}

// The state that a server seals is one that another takes.
func TestSealedStatesAreGood(t *testing.T) {
	r, g := newRegistry(t), gateways(t, 1, true)[0]
	for i := range uint64(300) { // more than are remembered
		r.Publish(&g.Turn, g.Lane, &linkpb.Publish{Topic: "t:a", Event: "e", Payload: []byte("{}"), IdHigh: 1, IdLow: i + 1})
	}
	g.Flush()
	if state := seal(t, r, "t:a", 8); len(state.History) == 0 || len(state.Ids) == 0 || CheckState(state) != nil {
		t.Errorf("%d messages, %d ids: %v", len(state.History), len(state.Ids), CheckState(state))
	}
}
