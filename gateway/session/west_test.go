package session

import (
	"fmt"
	"testing"
	"time"

	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
)

// Who gives no name is told and sent away.
func TestWestNeedsAName(t *testing.T) {
	h := newHouse(t, "*:*", 0)
	for _, k := range []codec.Kind{codec.WestJSON, codec.WestText} {
		c := h.connectWest(t, k, WestOptions{})
		c.expect("bad_request", "close 4400 no user name: want /websocket/FORMAT/NAME")
	}
	c := h.connectWest(t, codec.WestPB, WestOptions{})
	c.expect("\n\vbad_request\x1a\x04west", "close 4400 no user name: want /websocket/FORMAT/NAME")
}

// The wrong kind of message is answered, not punished, and counted for the goodbye.
func TestWestWrongOpcode(t *testing.T) {
	h := newHouse(t, "*:*", 0)
	c := h.connectWest(t, codec.WestText, WestOptions{Key: "u1"})
	c.expect("Welcome !")
	c.text = false
	c.say("ping") // binary
	c.expect("bad_encoding")
	c.text = true
	c.say("ping", "bye")
	c.expect("west pong", "Goodbye !", "1 text messages received", "1 binary messages received", "close 1000 bye")

	c = h.connectWest(t, codec.WestPB, WestOptions{Key: "u1"})
	c.expect("\n\x16connection_established\x1a\x04west")
	c.say("ping") // text
	c.expect("bad_encoding")
	c.text = false
	c.say("\xff", "\n\x04ping\x22\x017")
	c.expect("\n\vbad_request\x1a\x04west", "\n\x04pong\x1a\x04west\x22\x017")
}

// A client that says nothing is told so again and again, or sent away if it wants that.
func TestW11_IdleTimeout(t *testing.T) {
	h := newHouse(t, "*:*", 0)
	c := h.connectWest(t, codec.WestText, WestOptions{Key: "u1", Timeout: 60 * time.Millisecond})
	c.expect("Welcome !", "Anybody Else ?", "Anybody Else ?")
	c.say("ping")
	heard := c.hear()
	for ; heard == "Anybody Else ?"; heard = c.hear() { // before it has heard the ping
	}
	if heard != "west pong" {
		t.Errorf("heard %s", heard)
	}
	c.expect("Anybody Else ?")

	c = h.connectWest(t, codec.WestJSON, WestOptions{Key: "u1", Timeout: 60 * time.Millisecond, Drop: true})
	c.expect(`{"event":"connection_established","from":"west"}`, `{"event":"timeout"}`, "close 4408 timeout")
}

// With keepalive the client is pinged first. One that answers is not told anything.
func TestW11_Keepalive(t *testing.T) {
	h := newHouse(t, "*:*", 0)
	const ping = "" // it has no payload
	c := h.connectWest(t, codec.WestText, WestOptions{Key: "u1", Timeout: 60 * time.Millisecond, Keepalive: true, Drop: true})
	c.expect("Welcome !", ping, "Anybody Else ?", "close 4408 timeout")
	c.nc.Close()
	h.eventually("it has gone", func() bool { return h.loops.Conns() == 0 })

	c = h.connectWest(t, codec.WestText, WestOptions{Key: "u1", Timeout: time.Hour, Keepalive: true, Drop: true})
	c.expect("Welcome !")
	onLoop := func(f func(w *west)) {
		done := make(chan struct{})
		h.loops.Each(func(c *socket.Conn) { f(c.Handler().(*Session).extras().west); close(done) })
		<-done
	}
	silent := func() { // for its timeout
		onLoop(func(w *west) {
			w.opts.Timeout = 1
			w.quiet()
			w.opts.Timeout = time.Hour
		})
	}
	for range 3 {
		silent()
		c.expect(ping)
		if _, err := c.nc.Write([]byte("\x8a\x80\x00\x00\x00\x00")); err != nil {
			t.Fatal(err)
		}
		h.eventually("the answer is there", func() (there bool) {
			onLoop(func(w *west) { there = w.conn.Answered() })
			return there
		})
	}
	silent()
	c.expect(ping)
	silent()
	c.expect("Anybody Else ?", "close 4408 timeout")
}

func TestWestTooManyChannels(t *testing.T) {
	h := newHouse(t, "*:*", 3)
	c := h.connectWest(t, codec.WestText, WestOptions{Key: "u1"})
	c.expect("Welcome !")
	for i := range 3 {
		c.say(fmt.Sprintf("sub ps%d", i))
		c.expect(fmt.Sprintf("west ps%d:subscription_succeeded", i))
	}
	c.say("sub ps3", "sub ps0", "unsub ps1", "sub ps3")
	c.expect("west ps3:subscription_failed", "west ps0:subscription_already_exist", "west ps1:unsubscription_succeeded", "west ps3:subscription_succeeded")
}

// A WEST channel is a topic: Phoenix clients join it and publish into it.
func TestWestChannelsAreTopics(t *testing.T) {
	h := newHouse(t, "*:*", 0)
	p, w := h.connect(t, codec.PhoenixV2), h.connectWest(t, codec.WestJSON, WestOptions{Key: "u1"})
	w.expect(`{"event":"connection_established","from":"west"}`)
	p.say(`["1","1","west:ps1","phx_join",{}]`)
	p.expect(`["1","1","west:ps1","phx_reply",{"response":{},"status":"ok"}]`)
	w.say(`{"event":"subscribe","channel":"ps1"}`)
	w.expect(`{"event":"subscription_succeeded","channel":"ps1","from":"west"}`)
	w.say(`{"event":"publish","channel":"ps1","data":"from WEST"}`)
	w.expect(`{"event":"publication_succeeded","channel":"ps1","from":"west"}`, `{"event":"new_message","channel":"ps1","from":"u1","data":"from WEST"}`)
	p.expect(`["1",null,"west:ps1","new_message",{"channel":"ps1","from":"u1","data":"from WEST"}]`)
	p.say(`["1","2","west:ps1","new_message",{"channel":"ps1","from":"p1","data":"from Phoenix"}]`, `["1","3","west:ps1","shout",{"a":1}]`)
	w.expect(`{"event":"new_message","channel":"ps1","from":"p1","data":"from Phoenix"}`, `{"event":"shout","channel":"ps1","data":"{\"a\":1}"}`)

	served := newHouse(t, "topics:*", 0)
	w = served.connectWest(t, codec.WestText, WestOptions{Key: "u1"})
	w.say("sub ps1", "pub ps1 x")
	w.expect("Welcome !", "west ps1:subscription_failed", "west ps1:publication_failed")
}

func TestWestClosedLeavesAllChannels(t *testing.T) {
	h := newHouse(t, "*:*", 0)
	c := h.connectWest(t, codec.WestText, WestOptions{Key: "u1", Timeout: 10 * time.Second})
	c.say("sub ps1", "sub ps2")
	c.expect("Welcome !", "west ps1:subscription_succeeded", "west ps2:subscription_succeeded")
	h.eventually("the owner knows", func() bool { return h.owner.present("west:ps1") == 1 && h.owner.present("west:ps2") == 1 })
	c.say("sub 3silent", "pub x-UNAVAILABLE x")
	c.nc.Close()
	h.eventually("the owner knows who is gone", func() bool { return h.owner.present("west:ps1") == 0 && h.owner.present("west:ps2") == 0 })
	h.owner.answer("west:3silent")
	if n := h.loops.Stats().Panics; n != 0 {
		t.Errorf("%d panics", n)
	}
}
