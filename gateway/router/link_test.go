package router

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ringcast/ringcast/proto/linkpb"
)

func TestPublishesWhenTheLinkIsLost(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	m := w.member("room")
	m.onLoop(func() { m.publish("1"); m.publish("2") })
	o.expect("publish room e 1")
	u := o.expect("publish room e 2")
	o.gate.down.Store(true)
	u.cut()
	m.wantCode(linkpb.Code_UNKNOWN_OUTCOME) // neither has been answered; either may have happened
	m.wantCode(linkpb.Code_UNKNOWN_OUTCOME)
	w.eventually("the lane is down", func() bool { return w.r.Stats().LanesUp == 0 })
	m.onLoop(func() { m.publish("3") })
	m.wantCode(linkpb.Code_UNAVAILABLE)

	o.gate.down.Store(false)
	o.expect("hello gw 0/1")
	w.eventually("the lane is up", func() bool { return w.r.Stats().LanesUp == 1 })
	m.onLoop(func() { m.publish("4") })
	again := o.expect("publish room e 4") // 1, 2 and 3 are not sent again
	if again.ref <= u.ref {
		t.Errorf("ref %d after %d", again.ref, u.ref)
	}
	u.ref--
	again.send(linkpb.KindReply, &linkpb.Reply{Ref: u.ref}) // to nothing that is known
	again.accept(1, 9)
	m.wantOK(1, 9)
}

// relink cuts the lane and returns the owner's view of what the gateway subscribes and announces on the new one.
func (w *world) relink(o *owner, u up, items int) map[string]up {
	w.t.Helper()
	u.cut()
	o.expect("hello gw 0/1")
	again := make(map[string]up)
	for range items {
		u := o.next()
		again[u.text] = u
	}
	return again
}

// The gateway keeps what its clients want over a cut. If nothing was published meanwhile they notice nothing.
func TestSubscriptionsOutliveTheLink(t *testing.T) {
	w := newWorld(t, 1, twoLoops(t))
	o := w.start()
	a, sub := w.joined(o, "room", 1, 5)
	b := w.member("room")
	b.onLoop(b.join)
	b.wantOK(1, 5)
	o.expect(fmt.Sprintf("join room %x", b.channel.ID))
	sub.fanOut(1, 6)
	a.hears(6)
	b.hears(6)

	again := w.relink(o, sub, 3)
	for _, m := range []*member{a, b} {
		if _, ok := again[fmt.Sprintf("join room %x", m.channel.ID)]; !ok {
			t.Errorf("subscriber %x was not announced again: %v", m.channel.ID, again)
		}
	}
	sub, ok := again["subscribe room"]
	if !ok {
		t.Fatalf("not subscribed again: %v", again)
	}
	sub.fanOut(1, 7) // before the reply: of no subscription that the gateway knows
	sub.accept(1, 6)
	sub.fanOut(1, 7)
	a.hears(7)
	b.hears(7)
	if s := w.r.Stats(); s.Gaps != 0 || s.Stray != 1 {
		t.Errorf("%+v", s)
	}
	if n := w.logs.FilterMessage("link lost; dialing again").Len(); n != 1 {
		t.Errorf("%d lines about the lost link", n)
	}
}

// A topic whose position is another after the cut has lost messages: its channels are ended, and no others.
func TestMovedPositionsEndChannels(t *testing.T) {
	w := newWorld(t, 1, never)
	o := w.start()
	still, sub := w.joined(o, "still", 1, 5)
	moved, _ := w.joined(o, "moved", 1, 5)
	reborn, _ := w.joined(o, "reborn", 1, 0)
	gone, _ := w.joined(o, "gone", 1, 5)
	again := w.relink(o, sub, 8)
	again["subscribe moved"].accept(1, 6)
	again["subscribe reborn"].accept(2, 0)
	again["subscribe gone"].refuse(linkpb.Code_NOT_OWNER, "ask ts-2")
	again["subscribe still"].accept(1, 5)
	moved.wantEnded()
	reborn.wantEnded()
	gone.wantEnded()
	again["subscribe moved"].fanOut(1, 7) // nobody is there, but the gateway still has the topic
	again["subscribe still"].fanOut(1, 6)
	still.hears(6)
	select {
	case <-still.ended:
		t.Error("a channel that missed nothing was ended")
	default:
	}
	if s := w.r.Stats(); s.Gaps != 3 || s.Stray != 0 || s.Messages != 1 {
		t.Errorf("%+v", s)
	}
	// The clients join again.
	moved.onLoop(moved.join)
	moved.wantOK(1, 7)
	reborn.onLoop(reborn.join)
	reborn.wantOK(2, 0)
	again["subscribe reborn"].fanOut(2, 1)
	reborn.hears(1)
	gone.onLoop(gone.join)
	o.expect(fmt.Sprintf("join moved %x", moved.channel.ID), fmt.Sprintf("join reborn %x", reborn.channel.ID), "subscribe gone")
}

// A join that waits while the link comes back is answered with the new position, after the old channels' end.
func TestJoinWaitsAcrossTheCut(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	a, sub := w.joined(o, "room", 1, 5)
	b := w.member("room")
	o.gate.down.Store(true)
	sub.cut()
	w.eventually("the lane is down", func() bool { sub := w.subscription("room"); return !sub.flowing })
	b.onLoop(b.join)
	o.gate.down.Store(false)
	o.expect("hello gw 0/1")
	sub = o.expect("subscribe room")
	o.expect(fmt.Sprintf("join room %x", a.channel.ID))
	sub.accept(1, 9)
	a.wantEnded()
	b.wantOK(1, 9)
	o.expect(fmt.Sprintf("join room %x", b.channel.ID))
	sub.fanOut(1, 10)
	b.hears(10)
}

// A channel that joins after the loss, on a loop that has not heard of it, has lost nothing and stays. One that joins
// the loop's old channels is ended with them.
func TestLossInTheLoopsQueue(t *testing.T) {
	for _, leave := range []bool{true, false} {
		t.Run(fmt.Sprintf("the old channel leaves first: %v", leave), func(t *testing.T) {
			w := newWorld(t, 1, never)
			o := w.start()
			a, sub := w.joined(o, "room", 1, 5)
			b := w.member("room")
			// The announcements of the new connection wait for the loop, so the loop is held after them.
			again := w.relink(o, sub, 2)
			do, release := w.hold(0)
			defer release()
			sub = again["subscribe room"]
			sub.accept(1, 9)
			w.eventually("the reply is here", func() bool { return w.subscription("room").flowing })
			do(func() {
				if leave {
					a.leave()
				}
				b.join()
			})
			if leave {
				b.wantOK(1, 9)
				release()
				sub.fanOut(1, 10)
				b.hears(10)
				return
			}
			b.wantOK(1, 5)
			release()
			a.wantEnded()
			b.wantEnded()
		})
	}
}

// A subscription that was given up while the link was down is not made again.
func TestForgottenWhileTheLinkIsDown(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	a, sub := w.joined(o, "room", 1, 0)
	b, _ := w.joined(o, "hall", 1, 0)
	o.gate.down.Store(true)
	sub.cut()
	w.eventually("the lane is down", func() bool { return w.r.Stats().LanesUp == 0 })
	a.onLoop(a.leave)
	w.eventually("the topic is forgotten", func() bool { return w.subscription("room") == nil })
	o.gate.down.Store(false)
	o.expect("hello gw 0/1", "subscribe hall", fmt.Sprintf("join hall %x", b.channel.ID))
}

func TestRefusedAndMisplacedLinks(t *testing.T) {
	for _, tt := range []struct {
		name     string
		greeting func() (linkpb.Kind, linkpb.Item)
		log      string
		detail   string
	}{
		{"refusal", func() (linkpb.Kind, linkpb.Item) {
			return linkpb.KindRefusal, &linkpb.Refusal{Code: linkpb.Code_RING_CONFLICT, Detail: "ring v1 differs"}
		}, "topic server refuses the link", "ring v1 differs"},
		{"another server", func() (linkpb.Kind, linkpb.Item) {
			return linkpb.KindWelcome, &linkpb.Welcome{Server: "ts-7", RingVersion: 1}
		}, "no link to topic server; will keep trying", `presents id "ts-7", the ring says "ts-1"`},
		{"no welcome", func() (linkpb.Kind, linkpb.Item) {
			return linkpb.KindReply, &linkpb.Reply{}
		}, "no link to topic server; will keep trying", "first item is no welcome"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.owners[0].greeting = tt.greeting
			w.run()
			w.owners[0].expect("hello gw 0/1", "hello gw 0/1") // it tries again
			if w.r.Ready() == nil {
				t.Error("ready")
			}
			lines := w.logs.FilterMessage(tt.log).All()
			if len(lines) == 0 {
				t.Fatalf("no line %q", tt.log)
			}
			said := fmt.Sprint(lines[0].ContextMap())
			if !strings.Contains(said, tt.detail) {
				t.Errorf("the log says %s, want %s", said, tt.detail)
			}
		})
	}
}

func TestRingVersionsThatDifferAreLogged(t *testing.T) {
	w := newWorld(t, 1)
	w.owners[0].greeting = func() (linkpb.Kind, linkpb.Item) {
		return linkpb.KindWelcome, &linkpb.Welcome{Server: "ts-1", RingVersion: 2}
	}
	w.start()
	if w.logs.FilterMessage("ring versions differ").Len() != 1 {
		t.Error("not a word about ring version 2")
	}
}

// A peer that sends what cannot be read is hung up on; what it said before counts.
func TestTornItems(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	a, sub := w.joined(o, "room", 1, 0)
	for _, kind := range []linkpb.Kind{linkpb.KindReply, linkpb.KindMessage} {
		sub.wire.Append(kind+90, &linkpb.Reply{}) // of a later protocol: passed over
		sub.wire.Append(linkpb.KindMessage, messageItem("room", 1, uint64(kind)))
		sub.wire.Append(kind, torn{})
		sub.wire.Flush()
		a.hears(uint64(kind))
		o.expect("hello gw 0/1")
		sub = o.expect("subscribe room")
		o.expect(fmt.Sprintf("join room %x", a.channel.ID))
		sub.accept(1, uint64(kind))
	}
}

// torn is an item that is no Protobuf message.
type torn struct{}

func (torn) SizeVT() int { return 1 }

func (torn) MarshalToSizedBufferVT(dst []byte) (int, error) {
	dst[len(dst)-1] = 0x80
	return 1, nil
}
