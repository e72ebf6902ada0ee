package session

import (
	"fmt"
	"testing"
	"time"

	"github.com/ringcast/ringcast/gateway/auth"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
)

// unsubscribe does on the loop what an operator asks for.
func (h *house) unsubscribe(topic, user string, opened int64) {
	done := make(chan struct{})
	h.loops.Each(func(c *socket.Conn) { c.Handler().(*Session).Unsubscribe(topic, user, opened) })
	h.loops.Loop(0).Post(func() { close(done) })
	<-done
}

func TestUnsubscribeEndsTheChannelAsALeaveDoes(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "*:*", 0)
	c := h.connect(t, codec.PhoenixV2)
	for _, topic := range []string{"room:1", "room:2"} {
		c.say(joinFrame("1", topic, "{}"))
		c.expect(fmt.Sprintf(okReply, "1", "1", topic))
	}
	c.say(joinFrame("2", "room:silent", "{}"))
	h.unsubscribe("room:none", "", 0)
	h.unsubscribe("room:1", "", 0)
	c.expect(`["1","1","room:1","phx_close",{}]`)
	h.eventually("the owner knows", func() bool { return h.owner.present("room:1") == 0 })
	c.say(`["1","3","room:1","say",{}]`, `["1","4","room:2","say",{}]`)
	c.expect(`[null,"3","room:1","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]`,
		`["1","4","room:2","phx_reply",{"response":{},"status":"ok"}]`, `["1",null,"room:2","say",{}]`)

	// A join that waits has its answer first, and nothing comes of it later.
	h.eventually("the join is asked for", func() bool {
		h.owner.mu.Lock()
		defer h.owner.mu.Unlock()
		return h.owner.unanswered["room:silent"] != nil
	})
	h.unsubscribe("room:silent", "", 0)
	c.expect(fmt.Sprintf(refusalReply, `"2"`, "2", "room:silent", "forbidden", "unsubscribed by an operator"), `["2","2","room:silent","phx_close",{}]`)
	h.owner.answer("room:silent")
	c.say(joinFrame("5", "room:1", "{}"))
	c.expect(fmt.Sprintf(okReply, "5", "5", "room:1"))
}

func TestUnsubscribeOfAUser(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, auth.AtJoin)
	neo := g.connectWith(t, codec.PhoenixV2, g.token("neo", time.Hour, "room:*"))
	trinity := g.connectWith(t, codec.PhoenixV2, g.token("trinity", time.Hour, "room:*"))
	own := g.connect(t, codec.PhoenixV2)
	for _, c := range []*client{neo, trinity} {
		c.say(joinFrame("1", "room:1", "{}"))
		c.expect(fmt.Sprintf(okReply, "1", "1", "room:1"))
	}
	own.say(joinFrame("1", "room:1", fmt.Sprintf(`{"token":%q}`, g.token("neo", time.Hour, "room:*"))))
	own.expect(fmt.Sprintf(okReply, "1", "1", "room:1"))

	g.unsubscribe("room:1", "neo", g.start.Unix()-2) // asked for before they came
	g.unsubscribe("room:1", "neo", g.start.Unix()+60)
	for _, c := range []*client{neo, own} {
		c.expect(`["1","1","room:1","phx_close",{}]`)
	}
	neo.say(joinFrame("2", "room:1", "{}")) // the token counts on
	neo.expect(fmt.Sprintf(okReply, "2", "2", "room:1"))
	trinity.say(`["1","2","room:1","say",{}]`)
	trinity.expect(`["1","2","room:1","phx_reply",{"response":{},"status":"ok"}]`, `["1",null,"room:1","say",{}]`)
}

func TestUnsubscribeOfOtherFormats(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "*:*", 0)
	w := h.connectWest(t, codec.WestText, WestOptions{Key: "u1"})
	w.say("sub ps1", "sub 2silent")
	w.expect("Welcome !", "west ps1:subscription_succeeded")
	h.unsubscribe("west:ps1", "", 0)
	h.unsubscribe("west:2silent", "", 0)
	w.expect("west ps1:unsubscription_succeeded", "west 2silent:unsubscription_succeeded")
	w.say("unsub ps1")
	w.expect("west ps1:subscription_not_found")

	p := h.connectTo(t, func(c *socket.Conn) socket.Handler {
		return h.sessions.OpenPlain(c, PlainOptions{Topics: []string{"ws:a", "ws:b"}, Publish: true, Event: PlainEvent}, nil)
	})
	h.eventually("both are joined", func() bool { return h.owner.present("ws:a") == 1 && h.owner.present("ws:b") == 1 })
	h.unsubscribe("ws:a", "", 0)
	p.say("once")
	p.expect("once") // from ws:b alone
	h.unsubscribe("ws:b", "", 0)
	p.expect("close 4403 unsubscribed")
}
