package cluster_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/ringcast/ringcast/cluster"
)

func errorsAs(err error, target *websocket.CloseError) bool { return errors.As(err, target) }

const pill = `{"message":"red pill or blue pill?"}`

// Two clients on two gateways join one topic, one publishes, both hear it, each with its own join_ref, and the
// publisher is answered before it hears itself.
func TestD2_OnePublishReachesEverySubscriberOnBothGateways(t *testing.T) {
	c := start(t)
	neo := dial(t, "neo", c.Gateways[0].WebSocketURL())
	trinity := dial(t, "trinity", c.Gateways[1].WebSocketURL())

	neo.say(`["1","1","topics:matrix","phx_join",{}]`)
	neo.expect(`["1","1","topics:matrix","phx_reply",{"response":{},"status":"ok"}]`)
	trinity.say(`["7","7","topics:matrix","phx_join",{}]`)
	trinity.expect(`["7","7","topics:matrix","phx_reply",{"response":{},"status":"ok"}]`)

	neo.say(`["1","1","topics:matrix","publish",["event",` + pill + `]]`)
	neo.expect(
		`["1","1","topics:matrix","phx_reply",{"response":{},"status":"ok"}]`,
		`["1",null,"topics:matrix","event",`+pill+`]`)
	trinity.expect(`["7",null,"topics:matrix","event",` + pill + `]`)
	neo.silence()
	trinity.silence()
}

func TestD3_TopicNameRule(t *testing.T) {
	c := start(t)
	s := dial(t, "client", c.Gateways[0].WebSocketURL())
	const text = `"invalid topic name, must be between 2 and 64 characters long and only contain alphanumeric characters"`
	for _, name := range []string{"", "a", strings.Repeat("x", 65), "a-b", "a b", "ä", "a:b"} {
		s.say(fmt.Sprintf(`["1","2","topics:%s","phx_join",{}]`, name))
		s.expect(fmt.Sprintf(`["1","2","topics:%s","phx_reply",{"response":%s,"status":"error"}]`, name, text))
	}
	for _, name := range []string{"ab", "A1", strings.Repeat("x", 64)} {
		s.join("topics:" + name)
	}
}

func TestD3_OutsideTopicsIsUnmatchedWhenOnlyTopicsIsServed(t *testing.T) {
	c := start(t, func(cfg *cluster.Config) { cfg.Gateway = onlyTopics })
	s := dial(t, "client", c.Gateways[0].WebSocketURL())
	s.say(`["1","2","room:1","phx_join",{}]`)
	s.expect(`[null,"2","room:1","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]`)
	s.join("topics:matrix")
}

func TestD4_TheEventNameIsFreeAndThePayloadAnObject(t *testing.T) {
	c := start(t)
	s := dial(t, "client", c.Gateways[0].WebSocketURL())
	s.join("topics:matrix")
	for i, event := range []string{"event", "x", "Größe", "new_msg:1", "a b"} {
		s.say(fmt.Sprintf(`["1","%d","topics:matrix","publish",["%s",{"n":[1, 2]}]]`, i, event))
		s.expect(
			fmt.Sprintf(`["1","%d","topics:matrix","phx_reply",{"response":{},"status":"ok"}]`, i),
			fmt.Sprintf(`["1",null,"topics:matrix","%s",{"n":[1, 2]}]`, event))
	}
	for _, bad := range []string{`["event",1]`, `["event"]`, `["event",{},{}]`, `[1,{}]`, `{}`, `null`, `["event",[]]`, `["phx_reply",{}]`, `["",{}]`} {
		s.say(`["1","9","topics:matrix","publish",` + bad + `]`)
		if got := s.hear(); !strings.Contains(got, `"status":"error"`) || !strings.HasPrefix(got, `["1","9","topics:matrix","phx_reply",`) {
			t.Errorf("publish %s: heard %s, want an error reply", bad, got)
		}
	}
	s.silence()
}

// Any other event than publish is a publish under its own name: what chat examples call "shout".
func TestD4_OtherEventsArePublishedUnderTheirOwnName(t *testing.T) {
	c := start(t)
	a := dial(t, "a", c.Gateways[0].WebSocketURL())
	b := dial(t, "b", c.Gateways[1].WebSocketURL())
	a.join("room:1")
	b.join("room:1")
	a.say(`["1","2","room:1","shout",{"message":"hi"}]`)
	a.expect(`["1","2","room:1","phx_reply",{"response":{},"status":"ok"}]`, `["1",null,"room:1","shout",{"message":"hi"}]`)
	b.expect(`["1",null,"room:1","shout",{"message":"hi"}]`)
	a.say(`["1","3","room:1","phx_own",{}]`)
	a.expect(`["1","3","room:1","phx_reply",{"response":{"reason":"reserved event"},"status":"error"}]`)
}

func TestD5_ExactlyOnceToEachSubscriber(t *testing.T) {
	c := start(t)
	const subscribers, messages = 12, 50
	var all []*socket
	for i := range subscribers {
		s := dial(t, fmt.Sprint("subscriber ", i), c.Gateways[i%2].WebSocketURL())
		s.join("topics:once")
		all = append(all, s)
	}
	for i := range messages {
		all[0].say(fmt.Sprintf(`["1",null,"topics:once","publish",["n",{"i":%d}]]`, i))
	}
	for _, s := range all {
		for i := range messages {
			s.expect(fmt.Sprintf(`["1",null,"topics:once","n",{"i":%d}]`, i))
		}
		s.silence()
	}
}

func TestD6_LeavingAndDyingEmptyTheSubscriberList(t *testing.T) {
	c := start(t)
	owner := c.Owner("topics:matrix")
	count := func(n int) func() bool {
		return func() bool { return len(owner.Subscribers("topics:matrix")) == n }
	}
	a := dial(t, "a", c.Gateways[0].WebSocketURL())
	b := dial(t, "b", c.Gateways[1].WebSocketURL())
	a.join("topics:matrix")
	b.join("topics:matrix")
	eventually(t, "two subscribers", count(2))
	if list := owner.Subscribers("topics:matrix"); list[0].Gateway != "gw-a" || list[1].Gateway != "gw-b" {
		t.Errorf("subscribers %v, want one of each gateway", list)
	}

	a.say(`["1","2","topics:matrix","phx_leave",{}]`)
	a.expect(`["1","2","topics:matrix","phx_reply",{"response":{},"status":"ok"}]`, `["1","1","topics:matrix","phx_close",{}]`)
	eventually(t, "one subscriber after the leave", count(1))
	_ = b.ws.CloseNow() // killed, without a close frame
	eventually(t, "no subscriber after the kill", count(0))

	a.say(`["1","3","topics:matrix","publish",["event",{}]]`)
	a.expect(`[null,"3","topics:matrix","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]`)
}

func TestD7_JoiningTwiceIsOneSubscriber(t *testing.T) {
	c := start(t)
	owner := c.Owner("topics:matrix")
	s := dial(t, "client", c.Gateways[0].WebSocketURL())
	s.join("topics:matrix")
	s.say(`["2","2","topics:matrix","phx_join",{}]`)
	s.expect(
		`["2","2","topics:matrix","phx_reply",{"response":{},"status":"ok"}]`,
		`["1","1","topics:matrix","phx_close",{}]`)
	s.say(`["2","3","topics:matrix","publish",["event",{}]]`)
	s.expect(`["2","3","topics:matrix","phx_reply",{"response":{},"status":"ok"}]`, `["2",null,"topics:matrix","event",{}]`)
	s.silence()
	eventually(t, "one subscriber", func() bool { return len(owner.Subscribers("topics:matrix")) == 1 })
}

// The cost between nodes: one send per gateway that has a subscriber, not one per subscriber nor one per gateway.
func TestD12_OneSendPerGatewayThatHasASubscriber(t *testing.T) {
	c := start(t, func(cfg *cluster.Config) { cfg.Gateways = 3 })
	owner := c.Owner("topics:matrix")
	publisher := dial(t, "publisher", c.Gateways[0].WebSocketURL())
	publisher.join("topics:matrix")
	var others []*socket
	for i := range 20 {
		s := dial(t, fmt.Sprint("subscriber ", i), c.Gateways[i%2].WebSocketURL())
		s.join("topics:matrix")
		others = append(others, s)
	}
	bystander := dial(t, "bystander", c.Gateways[2].WebSocketURL())
	bystander.join("topics:other")

	before := owner.Stats().FanoutSends
	for i := range 10 {
		publisher.say(fmt.Sprintf(`["1",null,"topics:matrix","publish",["n",{"i":%d}]]`, i))
	}
	for _, s := range append(others, publisher) {
		for i := range 10 {
			s.expect(fmt.Sprintf(`["1",null,"topics:matrix","n",{"i":%d}]`, i))
		}
	}
	if sends := owner.Stats().FanoutSends - before; sends != 20 {
		t.Errorf("10 publishes to 21 subscribers on 2 of 3 gateways took %d sends, want 20", sends)
	}
	bystander.silence()
}
