package session

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/proto/codec"
	"github.com/ringcast/ringcast/proto/linkpb"
)

// testdata has transcripts of what clients say and hear; see play for their form. Each begins with a line "# name". Those in which
// "the owner does not answer" have a house that does not wait long for it.
func TestConversations(t *testing.T) {
	for _, k := range []codec.Kind{codec.PhoenixV1, codec.PhoenixV2, codec.WestJSON, codec.WestText} {
		transcripts, err := os.ReadFile("testdata/" + k.String() + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		h, inVain := newHouse(t, "*:*,lobby", 0), newHouseWith(t, "*:*", Config{}, func(c *router.Config) { c.JoinTimeout = 50 * time.Millisecond })
		for _, transcript := range strings.Split("\n"+string(transcripts), "\n# ")[1:] {
			name, script, _ := strings.Cut(transcript, "\n")
			in := h
			if name == "the owner does not answer" {
				in = inVain
			}
			t.Run(k.String()+"/"+name, func(t *testing.T) { in.play(t, k, script) })
		}
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

// A burst of frames is answered in its order, and each publish before its own copy.
func TestPipelinedFrames(t *testing.T) {
	h := newHouse(t, "*:*", 0)
	c := h.connect(t, codec.PhoenixV2)
	c.say(`["1","1","room:a","phx_join",{}]`,
		`["1","2","room:a","say",{"n":2}]`, `["1","3","room:a","say",{"n":3}]`, `["1","4","room:a","say",{"n":4}]`)
	c.expect(`["1","1","room:a","phx_reply",{"response":{},"status":"ok"}]`)
	replies, copies := 2, 2 // the next ones
	for replies+copies < 10 {
		switch got := c.hear(); {
		case got == fmt.Sprintf(`["1","%d","room:a","phx_reply",{"response":{},"status":"ok"}]`, replies):
			replies++
		case got == fmt.Sprintf(`["1",null,"room:a","say",{"n":%d}]`, copies) && copies < replies:
			copies++
		default:
			t.Fatalf("heard %s after %d replies and %d copies", got, replies-2, copies-2)
		}
	}
}

// Each of the owner's codes is one word to clients.
func TestReasons(t *testing.T) {
	h := newHouse(t, "*:*", 0)
	c := h.connect(t, codec.PhoenixV2)
	c.say(`["1","1","room:a","phx_join",{}]`)
	c.expect(`["1","1","room:a","phx_reply",{"response":{},"status":"ok"}]`)
	for code, want := range map[linkpb.Code]string{
		linkpb.Code_ID_REUSED:       "publish_id reused with different content",
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
	c.say(`["1","3","room:a","OVERLOADED",{}]`)
	c.expect(`["1","3","room:a","phx_reply",{"response":{"reason":"busy","retry_after_ms":100,"detail":"the owner's detail"},"status":"error"}]`)
}
