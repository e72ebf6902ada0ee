package router

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/ring"
)

// calm makes the housekeeper do nothing by itself.
func calm(c *Config) { c.Linger, c.Heartbeat = time.Hour, time.Hour }

// publishes has the member publish payloads, in one turn.
func (m *member) publishes(payloads ...string) {
	m.t.Helper()
	m.onLoop(func() {
		for _, p := range payloads {
			m.publish(p)
		}
	})
}

// expectPublishes wants publishes of a topic next, and returns them.
func (o *owner) expectPublishes(topic string, payloads ...string) (ups []up) {
	o.t.Helper()
	for _, p := range payloads {
		ups = append(ups, o.expect(fmt.Sprintf("publish %s e %s", topic, p)))
	}
	return ups
}

// newMover makes a publisher on a topic that ring 2 gives from a to b.
func newMover(t *testing.T, adjust ...func(*Config)) (w *world, a, b *owner, m *member) {
	t.Helper()
	w = newWorld(t, 2, append([]func(*Config){calm}, adjust...)...)
	w.start()
	m = w.member(w.topic())
	m.outcomes = make(chan Outcome, 2*maxParked)
	return w, w.owners[0], w.owners[1], m
}

// What the server does not own goes to the ring's owner when the gateway has that ring, in its order and with its ids,
// and what was published meanwhile goes behind it.
func TestBouncedPublishesKeepTheirOrder(t *testing.T) {
	w, a, b, m := newMover(t)
	m.publishes("1", "2", "3")
	sent := a.expectPublishes(m.topic, "1", "2", "3")
	sent[0].refuse(linkpb.Code_NOT_OWNER, "not mine")
	w.eventually("the first is back", func() bool { return len(w.subscription(m.topic).flow.bounced) == 1 })
	m.publishes("4") // must not overtake
	sent[1].refuse(linkpb.Code_NOT_OWNER, "not mine")
	sent[2].refuse(linkpb.Code_NOT_OWNER, "not mine")
	w.eventually("all are back", func() bool { return len(w.subscription(m.topic).flow.bounced) == 3 })
	w.setRing(2, w.owners, b)
	for i, u := range b.expectPublishes(m.topic, "1", "2", "3", "4") {
		if i < 3 && u.id != sent[i].id {
			t.Errorf("%s: id %x, then %x", u.text, sent[i].id, u.id)
		}
		u.accept(1, uint64(i)+1)
		m.wantOK(1, uint64(i)+1)
	}
	m.publishes("5")
	b.expectPublishes(m.topic, "5")
	w.quiet(m)
	if n := w.r.parked.Load(); n != 0 {
		t.Errorf("%d bytes are said to wait", n)
	}
}

// Nothing goes to the new owner before the old one has answered what it was sent.
func TestPublishesWaitForTheOldOwnersAnswers(t *testing.T) {
	for _, last := range []linkpb.Code{linkpb.Code_OK, linkpb.Code_NOT_OWNER, linkpb.Code_INVALID} {
		t.Run(last.String(), func(t *testing.T) {
			w, a, b, m := newMover(t)
			m.publishes("1", "2")
			sent := a.expectPublishes(m.topic, "1", "2")
			w.setRing(2, w.owners, b)
			m.publishes("3", "4")
			sent[0].accept(1, 1)
			m.wantOK(1, 1)
			if len(b.ups) != 0 {
				t.Fatalf("the new owner gets %q early", b.next().text)
			}
			want := []string{"3", "4"}
			switch last {
			case linkpb.Code_OK:
				sent[1].accept(1, 2)
				m.wantOK(1, 2)
			case linkpb.Code_NOT_OWNER:
				sent[1].refuse(last, "not mine")
				want = []string{"2", "3", "4"}
			default:
				sent[1].refuse(last, "the owner's detail")
				m.wantCode(last)
			}
			for i, u := range b.expectPublishes(m.topic, want...) {
				u.accept(1, uint64(i)+10)
				m.wantOK(1, uint64(i)+10)
			}
			w.quiet(m)
		})
	}
}

// An old owner that does not answer any more holds up the publishes behind it for the time of one, no longer.
func TestOldOwnerNeverAnswers(t *testing.T) {
	w, a, b, m := newMover(t)
	m.publishes("1", "2")
	a.expectPublishes(m.topic, "1", "2")
	old := w.r.route(m.topic)
	w.setRing(2, w.owners, b)
	m.publishes("3", "4")
	old.expire(time.Now().Add(2 * w.r.cfg.PublishTimeout))
	m.wantCode(linkpb.Code_UNKNOWN_OUTCOME)
	m.wantCode(linkpb.Code_UNKNOWN_OUTCOME)
	b.expectPublishes(m.topic, "3", "4")
	w.wantLanes(1) // that to the new owner
}

// A refusal without a newer ring is tried again where it came from, until the publish has waited too long.
func TestBouncedPublishIsTriedAgain(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	m := w.member("room")
	m.publishes("1", "2")
	for range 2 {
		for _, u := range o.expectPublishes("room", "1", "2") {
			u.refuse(linkpb.Code_NOT_OWNER, "not mine")
		}
	}
	for i, u := range o.expectPublishes("room", "1", "2") {
		u.accept(1, uint64(i)+1)
		m.wantOK(1, uint64(i)+1)
	}
	w.eventually("nothing is left", func() bool { return w.subscription("room") == nil && w.r.parked.Load() == 0 })
}

func TestBouncedPublishIsGivenUp(t *testing.T) {
	w := newWorld(t, 1, func(c *Config) { c.PublishTimeout = 60 * time.Millisecond })
	o := w.start()
	m := w.member("room")
	m.publishes("1")
	for len(m.outcomes) == 0 {
		select {
		case u := <-o.ups:
			u.refuse(linkpb.Code_NOT_OWNER, "not mine")
		case <-time.After(time.Millisecond):
		}
	}
	if code := m.outcome().Code; code != linkpb.Code_UNAVAILABLE && code != linkpb.Code_UNKNOWN_OUTCOME {
		t.Errorf("%v", code) // unknown if it was under way once more
	}
	w.eventually("nothing is left", func() bool { return w.subscription("room") == nil && w.r.parked.Load() == 0 })
}

// What waits for a new owner is bounded, in number and in bytes.
func TestParkedPublishesAreBounded(t *testing.T) {
	for _, tt := range []struct {
		name    string
		payload string
		taken   int
	}{
		{"number", "1", maxParked},
		{"bytes", strings.Repeat("1", 1<<20), maxParkedBytes >> 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, a, b, m := newMover(t)
			m.publishes("1")
			first := a.expectPublishes(m.topic, "1")[0]
			w.setRing(2, w.owners, b)
			m.onLoop(func() {
				for range tt.taken + 5 {
					m.publish(tt.payload)
				}
			})
			for range 5 {
				m.wantCode(linkpb.Code_OVERLOADED)
			}
			w.quiet(m)
			first.accept(1, 1)
			m.wantOK(1, 1)
			for i := range uint64(tt.taken) { // not all at once: the lane is bounded too
				b.expectPublishes(m.topic, tt.payload)[0].accept(1, i+2)
				m.wantOK(1, i+2)
			}
			if n := w.r.parked.Load(); n != 0 {
				t.Errorf("%d bytes are said to wait", n)
			}
		})
	}
}

// A link that is down takes as many bytes as one that is up, and they fit through when it is back.
func TestPublishesForALostLinkAreBounded(t *testing.T) {
	w := newWorld(t, 1, func(c *Config) { c.MaxBacklog = 1 << 20 })
	o := w.start()
	m := w.member("room")
	m.outcomes = make(chan Outcome, 100)
	m.publishes("1")
	u := o.expect("publish room e 1")
	u.accept(1, 1)
	m.wantOK(1, 1)
	o.gate.down.Store(true)
	u.cut()
	w.eventually("the lane is down", func() bool { return w.r.Stats().LanesUp == 0 })
	payload := strings.Repeat("1", 64<<10)
	m.onLoop(func() {
		for range cap(m.outcomes) {
			m.publish(payload)
		}
	})
	taken := cap(m.outcomes) - len(m.outcomes)
	if taken < 1<<20/len(payload)-1 || taken > 1<<20/len(payload) {
		t.Errorf("%d publishes of %d bytes taken", taken, len(payload))
	}
	for range cap(m.outcomes) - taken {
		m.wantCode(linkpb.Code_OVERLOADED)
	}
	o.gate.down.Store(false)
	o.expect("hello gw 0/1")
	for i := range uint64(taken) {
		o.next().accept(1, i+2)
		m.wantOK(1, i+2)
	}
}

// A gateway that only publishes lets the subscription go that it once had.
func TestPublishingKeepsNoSubscription(t *testing.T) {
	w := newWorld(t, 1, calm)
	o := w.start()
	m, _ := w.joined(o, "room", 1, 0)
	m.onLoop(m.leave)
	o.expect(fmt.Sprintf("leave room %x", m.channel.Subscriber()))
	left := time.Now()
	m.publishes("1")
	o.expect("publish room e 1").accept(1, 1)
	m.wantOK(1, 1)
	w.r.unsubscribeIdle(left.Add(w.r.cfg.Linger))
	o.expect("unsubscribe room")
}

// A newer ring from a topic server is used, told to the others and to the process; what is not newer or no ring is not.
func TestRingFromATopicServer(t *testing.T) {
	adopted := make(chan *ring.Ring, 10)
	w, a, b, m := newMover(t, func(c *Config) { c.Adopted = func(r *ring.Ring) { adopted <- r } })
	m.publishes("1")
	u := a.expectPublishes(m.topic, "1")[0]
	u.send(linkpb.KindDownRing, ringItem(ringOf(t, 1, a))) // a conflict
	u.send(linkpb.KindDownRing, &linkpb.Ring{Version: 9})  // no ring
	far := ringItem(ringOf(t, 1<<64-1, b))
	u.send(linkpb.KindDownRing, far)                       // nothing could come after it
	u.send(linkpb.KindDownRing, ringItem(ringOf(t, 2, b))) // without the one that says it
	u.send(linkpb.KindDownRing, ringItem(ringOf(t, 2, b))) // once more
	u.send(linkpb.KindReply, &linkpb.Reply{Ref: u.ref, Code: linkpb.Code_NOT_OWNER})
	a.expect("ring 2")
	b.expect("ring 2")
	b.expectPublishes(m.topic, "1")[0].accept(1, 1)
	m.wantOK(1, 1)
	if got := <-adopted; got.Version() != 2 || len(adopted) != 0 {
		t.Errorf("adopted version %d, and %d more", got.Version(), len(adopted))
	}
	if n := w.logs.FilterMessage("ring of the topic server not taken").Len(); n != 1 {
		t.Errorf("%d lines about rings that were not taken", n)
	}
	if v := w.r.Rings().Current().Version(); v != 2 {
		t.Errorf("ring version %d", v)
	}
	if n := w.r.Stats().Conflicts; n != 2 {
		t.Errorf("%d conflicts", n)
	}
}

// A bug that is met while a server's ring is put to use ends nothing, and the next ring is taken.
func TestARingFromATopicServerPanics(t *testing.T) {
	w := newWorld(t, 1, func(c *Config) {
		c.Adopted = func(r *ring.Ring) {
			if r.Version() == 2 {
				panic("a bug")
			}
		}
	})
	for version := range uint64(2) {
		w.r.learning = version + 2
		w.r.table.Load().all()[0].build(ringItem(ringOf(t, version+2, w.owners...)))
		if v := w.r.Rings().Current().Version(); v != version+2 || w.r.learning != 0 || w.r.Stats().Panics != 1 {
			t.Errorf("ring version %d, building %d, %d panics", v, w.r.learning, w.r.Stats().Panics)
		}
	}
}

// A server whose ring is older hears of the newer one before anything else.
func TestServerWithAnOlderRing(t *testing.T) {
	w := newWorld(t, 1)
	o := w.owners[0]
	o.greeting = func() (linkpb.Kind, linkpb.Item) {
		return linkpb.KindWelcome, &linkpb.Welcome{Server: o.id, RingVersion: 0}
	}
	m := w.member("room")
	m.publishes("1")
	m.onLoop(m.join)
	w.run()
	o.expect("hello gw 0/1", "ring 1", "publish room e 1", "subscribe room")
}

// Joins that wait for a subscription that is no more do not hold up the next ones.
func TestJoinAfterARefusalInTheQueue(t *testing.T) {
	w := newWorld(t, 1, twoLoops(t), never)
	o := w.start()
	a, b, c := w.member("room"), w.member("room"), w.member("room")
	a.onLoop(a.join)
	u := o.expect("subscribe room")
	do, release := w.hold(0)
	defer release()
	u.refuse(linkpb.Code_INVALID, "no such topic")
	w.eventually("it is refused", func() bool { return w.subscription("room") == nil })
	b.onLoop(b.join) // on the other loop
	o.expect("subscribe room").accept(1, 5)
	b.wantOK(1, 5)
	do(func() { c.join() })
	a.wantCode(linkpb.Code_UNAVAILABLE)
	c.wantOK(1, 5)
	release()
	w.quiet(a)
	w.quiet(c)
}
