package session

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ringcast/ringcast/proto/codec"
	"github.com/ringcast/ringcast/proto/linkpb"
)

// What a V2 client says and hears.
func TestConversations(t *testing.T) {
	long := strings.Repeat("e", maxEventBytes)
	h := newHouse(t, "*:*,lobby", 0)
	actions := map[string]func(){
		"answer room:silent": func() {
			h.eventually("the owner is asked", func() bool { return h.owner.answer("room:silent") })
		},
		"lose room:a": func() {
			lost := h.owner.lose("room:a")
			h.eventually("there is another link", func() bool { return h.owner.lanesSoFar() > lost })
		},
		"the link is up": func() {
			h.eventually("the link is up", func() bool { return h.router.Ready() == nil })
		},
	}
	for _, tt := range []struct{ name, script string }{
		{"join, publish, leave", `
			> ["1","1","room:a","phx_join",{}]
			< ["1","1","room:a","phx_reply",{"response":{},"status":"ok"}]
			> ["1","2","room:a","say",{"a": 1}]
			< ["1","2","room:a","phx_reply",{"response":{},"status":"ok"}]
			< ["1",null,"room:a","say",{"a": 1}]
			> ["1","3","room:a","phx_leave",{}]
			< ["1","3","room:a","phx_reply",{"response":{},"status":"ok"}]
			< ["1","1","room:a","phx_close",{}]
			> ["1","4","room:a","say",{}]
			< [null,"4","room:a","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]`},
		{"refs are echoed as they came", `
			> [1,0,"room:a","phx_join",{}]
			< [1,0,"room:a","phx_reply",{"response":{},"status":"ok"}]
			> [1,-1.5e3,"room:a","say",{}]
			< [1,-1.5e3,"room:a","phx_reply",{"response":{},"status":"ok"}]
			< [1,null,"room:a","say",{}]`},
		{"join with null refs", `
			> [null,null,"room:a","phx_join",{}]
			< [null,null,"room:a","phx_reply",{"response":{},"status":"ok"}]
			> [null,"1","room:a","phx_leave",{}]
			< [null,"1","room:a","phx_reply",{"response":{},"status":"ok"}]
			< [null,null,"room:a","phx_close",{}]`},
		{"join an exact topic", `
			> ["1","1","lobby","phx_join",{}]
			< ["1","1","lobby","phx_reply",{"response":{},"status":"ok"}]`},
		{"heartbeat first, with and without a payload", `
			> [null,"5","phoenix","heartbeat",{}]
			< [null,"5","phoenix","phx_reply",{"response":{},"status":"ok"}]
			> [null,6,"phoenix","heartbeat",null]
			< [null,6,"phoenix","phx_reply",{"response":{},"status":"ok"}]`},
		{"heartbeat on another topic is a push", `
			> [null,"1","room:a","heartbeat",{}]
			< [null,"1","room:a","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]`},
		{"unmatched topics have a null join_ref", `
			> ["1","1","nowhere","phx_join",{}]
			< [null,"1","nowhere","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]
			> ["1","2",":x","phx_join",{}]
			< [null,"2",":x","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]
			> ["1","3","room:","phx_join",{}]
			< [null,"3","room:","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]`},
		{"invalid topics", `
			> ["1","1","","phx_join",{}]
			< ["1","1","","phx_reply",{"response":{"reason":"invalid topic: empty"},"status":"error"}]
			> ["1","2","room:a b","phx_join",{}]
			< ["1","2","room:a b","phx_reply",{"response":{"reason":"invalid topic: only ASCII letters, digits and _ . : - are allowed"},"status":"error"}]
			> ["1","3","room:\u0000\n","phx_join",{}]
			< ["1","3","room:\u0000\n","phx_reply",{"response":{"reason":"invalid topic: only ASCII letters, digits and _ . : - are allowed"},"status":"error"}]
			> ["1","4","reg:a","phx_join",{}]
			< ["1","4","reg:a","phx_reply",{"response":{"reason":"invalid topic: reserved"},"status":"error"}]
			> ["1","5","topics:a","phx_join",{}]
			< ["1","5","topics:a","phx_reply",{"response":"` + seedNameError + `","status":"error"}]`},
		{"topic of 256 bytes", `
			> ["1","1","room:` + strings.Repeat("x", 251) + `","phx_join",{}]
			< ["1","1","room:` + strings.Repeat("x", 251) + `","phx_reply",{"response":{"reason":"invalid topic: 256 bytes, at most 255 are allowed"},"status":"error"}]`},
		{"the protocol's own topic", `
			> ["1","1","phoenix","phx_join",{}]
			< ["1","1","phoenix","phx_reply",{"response":{"reason":"reserved event"},"status":"error"}]
			> ["1","2","phoenix","say",{}]
			< [null,"2","phoenix","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]`},
		{"events and payloads that cannot be published", `
			> ["1","1","room:a","phx_join",{}]
			< ["1","1","room:a","phx_reply",{"response":{},"status":"ok"}]
			> ["1","2","room:a","phx_close",{}]
			< ["1","2","room:a","phx_reply",{"response":{"reason":"reserved event"},"status":"error"}]
			> ["1","3","room:a","",{}]
			< ["1","3","room:a","phx_reply",{"response":{"reason":"invalid event: empty"},"status":"error"}]
			> ["1","4","room:a","` + long + `e",{}]
			< ["1","4","room:a","phx_reply",{"response":{"reason":"invalid event: more than 64 bytes"},"status":"error"}]
			> ["1","5","room:a","` + long + `",{}]
			< ["1","5","room:a","phx_reply",{"response":{},"status":"ok"}]
			< ["1",null,"room:a","` + long + `",{}]
			> ["1","6","room:a","say",[]]
			< ["1","6","room:a","phx_reply",{"response":{"reason":"payload must be an object"},"status":"error"}]
			> ["1","7","room:a","say",null]
			< ["1","7","room:a","phx_reply",{"response":{"reason":"payload must be an object"},"status":"error"}]`},
		{"publish names its event in the payload", `
			> ["1","1","topics:matrix","phx_join",{}]
			< ["1","1","topics:matrix","phx_reply",{"response":{},"status":"ok"}]
			> ["1","2","topics:matrix","publish",["event",{"message":"red pill or blue pill?"}]]
			< ["1","2","topics:matrix","phx_reply",{"response":{},"status":"ok"}]
			< ["1",null,"topics:matrix","event",{"message":"red pill or blue pill?"}]
			> ["1","3","topics:matrix","publish",{"message":"x"}]
			< ["1","3","topics:matrix","phx_reply",{"response":{"reason":"bad publish: want [event, object]"},"status":"error"}]
			> ["1","4","topics:matrix","publish",["phx_close",{}]]
			< ["1","4","topics:matrix","phx_reply",{"response":{"reason":"reserved event"},"status":"error"}]`},
		{"a push without a ref has no reply", `
			> ["1","1","room:a","phx_join",{}]
			< ["1","1","room:a","phx_reply",{"response":{},"status":"ok"}]
			> ["1",null,"room:a","say",{}]
			< ["1",null,"room:a","say",{}]
			> ["1",null,"room:a","TOO_LARGE",{}]`},
		{"join twice", `
			> ["1","1","room:a","phx_join",{}]
			< ["1","1","room:a","phx_reply",{"response":{},"status":"ok"}]
			> ["2","2","room:a","phx_join",{}]
			< ["2","2","room:a","phx_reply",{"response":{},"status":"ok"}]
			< ["1","1","room:a","phx_close",{}]
			> ["1","3","room:a","say",{}]
			> ["1","4","room:a","phx_leave",{}]
			> ["2","5","room:a","say",{"n":1}]
			< ["2","5","room:a","phx_reply",{"response":{},"status":"ok"}]
			< ["2",null,"room:a","say",{"n":1}]
			> [null,"6","room:a","say",{"n":2}]
			< ["2","6","room:a","phx_reply",{"response":{},"status":"ok"}]
			< ["2",null,"room:a","say",{"n":2}]
			> [2,"7","room:a","say",{"n":3}]
			> [null,"8","room:a","phx_leave",{}]
			< [null,"8","room:a","phx_reply",{"response":{},"status":"ok"}]
			< ["2","2","room:a","phx_close",{}]`},
		{"leave what is not joined", `
			> ["1","9","room:a","phx_leave",{}]
			< ["1","9","room:a","phx_reply",{"response":{},"status":"ok"}]`},
		{"every join has its answer, and every joined channel its end", `
			> ["1","1","room:silent","phx_join",{}]
			answer room:silent
			< ["1","1","room:silent","phx_reply",{"response":{},"status":"ok"}]
			lose room:a
			the link is up
			> ["2","2","room:silent","phx_join",{}]
			> ["3","3","room:silent","phx_join",{}]
			< ["2","2","room:silent","phx_reply",{"response":{"reason":"superseded by a later join"},"status":"error"}]
			answer room:silent
			< ["3","3","room:silent","phx_reply",{"response":{},"status":"ok"}]
			< ["1","1","room:silent","phx_close",{}]`},
		{"leave while the channel is being replaced", `
			> ["1","1","room:silent","phx_join",{}]
			answer room:silent
			< ["1","1","room:silent","phx_reply",{"response":{},"status":"ok"}]
			lose room:a
			the link is up
			> ["2","2","room:silent","phx_join",{}]
			> ["2","3","room:silent","phx_leave",{}]
			< ["2","3","room:silent","phx_reply",{"response":{},"status":"ok"}]
			< ["1","1","room:silent","phx_close",{}]
			< ["2","2","room:silent","phx_close",{}]`},
		{"leave before the answer", `
			> ["1","1","hall:silent","phx_join",{}]
			> ["2","2","hall:silent","phx_join",{}]
			< ["1","1","hall:silent","phx_reply",{"response":{"reason":"superseded by a later join"},"status":"error"}]
			> ["2","3","hall:silent","phx_leave",{}]
			< ["2","3","hall:silent","phx_reply",{"response":{},"status":"ok"}]
			< ["2","2","hall:silent","phx_close",{}]`},
		{"the owner does not answer", `
			> ["1","1","attic:silent","phx_join",{}]
			< ["1","1","attic:silent","phx_reply",{"response":{"reason":"unavailable","detail":"the topic's owner does not answer"},"status":"error"}]
			> ["1","2","attic:silent","say",{}]
			< [null,"2","attic:silent","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]`},
		{"the owner refuses", `
			> ["1","1","room:refused","phx_join",{}]
			< ["1","1","room:refused","phx_reply",{"response":{"reason":"unavailable","detail":"the owner's detail"},"status":"error"}]
			> ["1","2","room:refused","phx_leave",{}]
			< ["1","2","room:refused","phx_reply",{"response":{},"status":"ok"}]`},
		{"a channel that lost messages is ended", `
			> ["1","1","room:a","phx_join",{}]
			< ["1","1","room:a","phx_reply",{"response":{},"status":"ok"}]
			> ["4","4","room:b","phx_join",{}]
			< ["4","4","room:b","phx_reply",{"response":{},"status":"ok"}]
			lose room:a
			< ["1","1","room:a","phx_error",{}]
			> ["1","2","room:a","say",{}]
			< [null,"2","room:a","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]
			> ["3","3","room:a","phx_join",{}]
			< ["3","3","room:a","phx_reply",{"response":{},"status":"ok"}]
			> ["4","5","room:b","say",{}]
			< ["4","5","room:b","phx_reply",{"response":{},"status":"ok"}]
			< ["4",null,"room:b","say",{}]`},
		{"the link is lost before the answer to a publish", `
			> ["1","1","room:c","phx_join",{}]
			< ["1","1","room:c","phx_reply",{"response":{},"status":"ok"}]
			> ["1","2","room:c","lost",{}]
			< ["1","2","room:c","phx_reply",{"response":{"reason":"unknown_outcome","detail":"the link to the topic's owner was lost before it answered"},"status":"error"}]
			the link is up`},
		{"undecodable", `
			> {}
			< close 4400 bad frame: want [join_ref, ref, topic, event, payload]`},
		{"four elements", `
			> ["1","1","room:a","phx_join"]
			< close 4400 bad frame: want [join_ref, ref, topic, event, payload]`},
		{"nothing after a bad frame is handled", `
			> [nil]
			< close 4400 bad frame: offset 2: unexpected i`},
		{"too deep", `
			> ["1","1","room:a","say",` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `]
			< close 4400 bad frame: depth > 32`},
	} {
		t.Run(tt.name, func(t *testing.T) { h.play(t, codec.PhoenixV2, tt.script, actions) })
	}
}

// What a V1 client says and hears: no join_ref, refs of any type.
func TestConversationsV1(t *testing.T) {
	h := newHouse(t, "*:*", 0)
	for _, tt := range []struct{ name, script string }{
		{"join, publish, join again, leave", `
			> {"topic":"room:a","event":"phx_join","payload":{},"ref":1}
			< {"event":"phx_reply","payload":{"response":{},"status":"ok"},"ref":1,"topic":"room:a"}
			> {"topic":"room:a","event":"say","payload":{"a":1},"ref":"2"}
			< {"event":"phx_reply","payload":{"response":{},"status":"ok"},"ref":"2","topic":"room:a"}
			< {"ref":null,"topic":"room:a","event":"say","payload":{"a":1}}
			> {"topic":"room:a","event":"phx_join","payload":{},"ref":3}
			< {"event":"phx_reply","payload":{"response":{},"status":"ok"},"ref":3,"topic":"room:a"}
			< {"ref":null,"topic":"room:a","event":"phx_close","payload":{}}
			> {"topic":"room:a","event":"phx_leave","payload":{},"ref":4}
			< {"event":"phx_reply","payload":{"response":{},"status":"ok"},"ref":4,"topic":"room:a"}
			< {"ref":null,"topic":"room:a","event":"phx_close","payload":{}}`},
		{"a join_ref counts, though it is not sent back", `
			> {"topic":"room:a","event":"phx_join","payload":{},"ref":"1","join_ref":"1"}
			< {"event":"phx_reply","payload":{"response":{},"status":"ok"},"ref":"1","topic":"room:a"}
			> {"topic":"room:a","event":"say","payload":{},"ref":"2","join_ref":"0"}
			> {"topic":"room:a","event":"phx_leave","payload":{},"ref":"3","join_ref":"1"}
			< {"event":"phx_reply","payload":{"response":{},"status":"ok"},"ref":"3","topic":"room:a"}
			< {"ref":"1","topic":"room:a","event":"phx_close","payload":{}}`},
		{"not joined", `
			> {"topic":"room:a","event":"say","payload":{},"ref":7}
			< {"event":"phx_reply","payload":{"response":{"reason":"unmatched topic"},"status":"error"},"ref":7,"topic":"room:a"}`},
		{"undecodable", `
			> []
			< close 4400 bad frame: want {"topic", "event", "payload", "ref"}`},
	} {
		t.Run(tt.name, func(t *testing.T) { h.play(t, codec.PhoenixV1, tt.script, nil) })
	}
}

// Binary payloads go from V2 to V2 as they are; V1 has no place for them.
func TestBinaryPayloads(t *testing.T) {
	h := newHouse(t, "*:*", 0)
	v2, v1 := h.connect(t, codec.PhoenixV2), h.connect(t, codec.PhoenixV1)
	v2.say(`["1","1","room:a","phx_join",{}]`)
	v2.expect(`["1","1","room:a","phx_reply",{"response":{},"status":"ok"}]`)
	v1.say(`{"topic":"room:a","event":"phx_join","payload":{},"ref":1}`)
	v1.expect(`{"event":"phx_reply","payload":{"response":{},"status":"ok"},"ref":1,"topic":"room:a"}`)
	v2.say("\x00\x01\x01\x06\x03" + "12room:asay\xff\x00")
	v2.expect(`["1","2","room:a","phx_reply",{"response":{},"status":"ok"}]`, "\x00\x01\x06\x03"+"1room:asay\xff\x00")
	v2.say("\x00\x01\x01\x06\x07" + "13room:apublish[]") // no [event, object] is looked for
	v2.expect(`["1","3","room:a","phx_reply",{"response":{},"status":"ok"}]`, "\x00\x01\x06\x07"+"1room:apublish[]")
	v2.say("\x00\x01\x01\x06\x04" + "14room:aphx_")
	v2.expect(`["1","4","room:a","phx_reply",{"response":{"reason":"reserved event"},"status":"error"}]`)
	v2.say("\x01\x00\x00\x00\x00")
	v2.expect("close 4400 bad binary frame: kind 1: want 0, a push")
	v1.say(`{"topic":"phoenix","event":"heartbeat","payload":{},"ref":2}`)
	v1.expect(`{"event":"phx_reply","payload":{"response":{},"status":"ok"},"ref":2,"topic":"phoenix"}`)
	if n := h.router.Stats().Unfit; n != 2 {
		t.Errorf("%d messages counted as unfit, want 2", n)
	}
}

func TestTooManyChannels(t *testing.T) {
	h := newHouse(t, "*:*", 0)
	c := h.connect(t, codec.PhoenixV2)
	join := func(i int, status string) {
		t.Helper()
		c.say(fmt.Sprintf(`["%d","%d","room:%d","phx_join",{}]`, i, i, i))
		c.expect(fmt.Sprintf(`["%d","%d","room:%d","phx_reply",%s]`, i, i, i, status))
	}
	const ok, tooMany = `{"response":{},"status":"ok"}`, `{"response":{"reason":"too many channels joined"},"status":"error"}`
	for i := range DefaultMaxChannels {
		join(i, ok)
	}
	join(DefaultMaxChannels, tooMany)
	// Joining anew what is joined, and joining after a leave, do not add up.
	c.say(`["x","x","room:7","phx_join",{}]`)
	c.expect(`["x","x","room:7","phx_reply",{"response":{},"status":"ok"}]`, `["7","7","room:7","phx_close",{}]`)
	join(DefaultMaxChannels, tooMany)
	c.say(`["x","y","room:7","phx_leave",{}]`)
	c.expect(`["x","y","room:7","phx_reply",{"response":{},"status":"ok"}]`, `["x","x","room:7","phx_close",{}]`)
	join(DefaultMaxChannels, ok)
}

func TestClosedLeavesAllChannels(t *testing.T) {
	h := newHouse(t, "*:*", 3)
	c, other := h.connect(t, codec.PhoenixV2), h.connect(t, codec.PhoenixV2)
	for _, topic := range []string{"room:a", "room:b"} {
		c.say(fmt.Sprintf(`["1","1",%q,"phx_join",{}]`, topic))
		c.expect(fmt.Sprintf(`["1","1",%q,"phx_reply",{"response":{},"status":"ok"}]`, topic))
	}
	c.say(`["1","1","room:silent","phx_join",{}]`, `["1","2","room:a","UNAVAILABLE",{}]`)
	other.say(`["1","1","room:a","phx_join",{}]`)
	other.expect(`["1","1","room:a","phx_reply",{"response":{},"status":"ok"}]`)
	h.eventually("the owner knows all", func() bool { return h.owner.present("room:a") == 2 && h.owner.present("room:b") == 1 })
	c.nc.Close() // with a join and maybe a publish under way
	h.eventually("the owner knows who is gone", func() bool { return h.owner.present("room:a") == 1 && h.owner.present("room:b") == 0 })
	h.owner.answer("room:silent")
	other.say(`["1","2","room:a","say",{}]`)
	other.expect(`["1","2","room:a","phx_reply",{"response":{},"status":"ok"}]`, `["1",null,"room:a","say",{}]`)
	if n := h.loops.Stats().Panics; n != 0 {
		t.Errorf("%d panics", n)
	}
}

// A burst of frames is answered in its order.
func TestPipelinedFrames(t *testing.T) {
	h := newHouse(t, "*:*", 0)
	c := h.connect(t, codec.PhoenixV2)
	c.say(`["1","1","room:a","phx_join",{}]`, `["1","2","room:a","say",{"n":1}]`, `["1","3","room:a","say",{"n":2}]`)
	c.expect(
		`["1","1","room:a","phx_reply",{"response":{},"status":"ok"}]`,
		`["1","2","room:a","phx_reply",{"response":{},"status":"ok"}]`, `["1",null,"room:a","say",{"n":1}]`,
		`["1","3","room:a","phx_reply",{"response":{},"status":"ok"}]`, `["1",null,"room:a","say",{"n":2}]`)
}

// Each of the owner's codes is one word to clients.
func TestReasons(t *testing.T) {
	h := newHouse(t, "*:*", 0)
	c := h.connect(t, codec.PhoenixV2)
	c.say(`["1","1","room:a","phx_join",{}]`)
	c.expect(`["1","1","room:a","phx_reply",{"response":{},"status":"ok"}]`)
	for code, want := range map[linkpb.Code]string{
		linkpb.Code_NOT_OWNER:       "unavailable",
		linkpb.Code_OVERLOADED:      "busy",
		linkpb.Code_UNAVAILABLE:     "unavailable",
		linkpb.Code_TOO_LARGE:       "too_large",
		linkpb.Code_INVALID:         "invalid",
		linkpb.Code_SHUTTING_DOWN:   "unavailable",
		linkpb.Code_INTERNAL:        "internal",
		linkpb.Code_UNKNOWN_OUTCOME: "unknown_outcome",
	} {
		c.say(fmt.Sprintf(`["1","2","room:a","%s",{}]`, code))
		c.expect(fmt.Sprintf(`["1","2","room:a","phx_reply",{"response":{"reason":%q,"detail":"the owner's detail"},"status":"error"}]`, want))
	}
}
