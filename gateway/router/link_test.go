package router

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// Publishes outlive the link: what was not answered is sent again, in its order and with its ids, before what comes
// later, and each is answered once.
func TestPublishesOutliveTheLink(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	m := w.member("room")
	m.onLoop(func() { m.publish("1"); m.publish("2"); m.publish("3") })
	first := o.expect("publish room e 1")
	before := []up{o.expect("publish room e 2"), o.expect("publish room e 3")}
	first.accept(1, 1)
	m.wantOK(1, 1)
	o.gate.down.Store(true)
	first.cut()
	w.eventually("the lane is down", func() bool { return w.r.Stats().LanesUp == 0 })
	m.onLoop(func() { m.publish("4") }) // waits for the link
	o.gate.down.Store(false)
	o.expect("hello gw 0/1")
	for i, u := range before {
		again := o.expect(u.text)
		if again.id != u.id || again.id == [2]uint64{} || again.ref != u.ref {
			t.Errorf("%s: id %x, ref %d; sent again with %x, %d", u.text, u.id, u.ref, again.id, again.ref)
		}
		before[i] = again
	}
	last := o.expect("publish room e 4")
	if ids := [][2]uint64{first.id, before[0].id, before[1].id, last.id}; ids[0] == ids[1] || ids[1] == ids[2] || ids[2] == ids[3] {
		t.Errorf("ids %x", ids)
	}
	last.send(linkpb.KindReply, &linkpb.Reply{Ref: first.ref}) // which has its answer already
	for i, u := range append(before, last) {
		u.accept(1, uint64(i)+2)
		u.accept(1, 99)
		m.wantOK(1, uint64(i)+2)
	}
	w.quiet(m)
}

// A bug that something from one server meets ends the lane that it came over. It is dialed again, nobody who had joined misses
// anything, and the other servers' lanes stay.
func TestABugEndsOneLane(t *testing.T) {
	w := newWorld(t, 2, never, func(c *Config) { c.Revoked = func(string, *linkpb.Revoke) { panic("a bug") } })
	w.start()
	owners, topics := w.owners, [2]string{}
	for i := 0; topics[0] == "" || topics[1] == ""; i++ {
		name := fmt.Sprint("t:", i)
		topics[map[string]int{owners[0].id: 0, owners[1].id: 1}[w.r.rings.Current().Owner(name).ID]] = name
	}
	a, first := w.joined(owners[0], topics[0], 1, 5)
	b, second := w.joined(owners[1], topics[1], 1, 5)
	first.send(linkpb.KindDownRevoke, &linkpb.Revoke{})
	again := owners[0].expect("hello gw 0/1", "subscribe "+topics[0]+" since 1:5")
	second.fanOut(1, 6)
	b.hears(6)
	again.recover(1, 5, 7)
	a.hears(6, 7)
	if n := w.r.Stats().Panics; n != 1 {
		t.Errorf("%d panics counted", n)
	}
	lines := w.logs.FilterMessage("lane handler panicked").All()
	if len(lines) != 1 || lines[0].ContextMap()["panic"] != "a bug" || !strings.Contains(fmt.Sprint(lines[0].ContextMap()["stack"]), "TestABugEndsOneLane") {
		t.Errorf("log %v", lines)
	}
	if n := w.logs.FilterMessage("link given up; dialing again").Len(); n != 1 || w.r.Stats().LanesLost != 1 {
		t.Errorf("%d lanes given up, %d lost", n, w.r.Stats().LanesLost)
	}
}

// A bug that is met when a lane is lost leaves the topic that it is about as it is, and no lock behind; the others resume.
func TestABugWhileALaneIsLost(t *testing.T) {
	w := newWorld(t, 1, never)
	o := w.start()
	m, conn := w.joined(o, "t:good", 1, 5)
	w.joined(o, "t:bad", 1, 5)
	w.r.shard("t:bad").do(func(s *shard) { s.topics["t:bad"].next = &move{} }) // to no lane
	conn.cut()
	o.expect("hello gw 0/1")
	resumed := make(map[string]up)
	for len(resumed) < 2 {
		u := o.next()
		resumed[u.text] = u
	}
	resumed["subscribe t:good since 1:5"].recover(1, 5, 6)
	m.hears(6)
	if w.r.Stats().Panics == 0 {
		t.Error("no panic is counted")
	}
}

// quiet wants that nothing has been told to the member that it has not taken.
func (w *world) quiet(m *member) {
	w.t.Helper()
	m.onLoop(func() {})
	if n := len(m.outcomes); n != 0 {
		w.t.Errorf("%d outcomes too many: %+v …", n, <-m.outcomes)
	}
}

// A new process behind the link knows no ids of the one before: what that one may have appended is not sent again.
func TestPublishesToARestartedServer(t *testing.T) {
	w := newWorld(t, 1, never)
	o := w.start()
	m := w.member("room")
	m.onLoop(func() { m.publish("1"); m.publish("2") })
	o.expect("publish room e 1")
	u := o.expect("publish room e 2")
	o.gate.down.Store(true)
	o.instance.Store(2)
	u.cut()
	w.eventually("the lane is down", func() bool { return w.r.Stats().LanesUp == 0 })
	m.onLoop(func() { m.publish("3") }) // not sent to either
	w.quiet(m)                          // it may still be the same process
	o.gate.down.Store(false)
	m.wantCode(linkpb.Code_UNKNOWN_OUTCOME)
	m.wantCode(linkpb.Code_UNKNOWN_OUTCOME)
	o.expect("hello gw 0/1", "publish room e 3").accept(2, 1)
	m.wantOK(2, 1)
	if l := w.r.route("room"); l.busy() || l.bytes != 0 || w.subscription("room").flow.busy() {
		t.Error("publishes are left that nobody waits for")
	}
}

// A publish that nobody answers ends in time: unknown if it was sent, else as what never happened.
func TestPublishTimeouts(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	m, l := w.member("room"), w.r.route("room")
	after := func(d time.Duration) { l.expire(time.Now().Add(d)); w.quiet(m) }
	m.onLoop(func() { m.publish("1") })
	u := o.expect("publish room e 1")
	after(w.r.cfg.PublishTimeout / 2)
	l.expire(time.Now().Add(w.r.cfg.PublishTimeout))
	m.wantCode(linkpb.Code_UNKNOWN_OUTCOME)
	u.accept(1, 1) // too late
	o.gate.down.Store(true)
	u.cut()
	w.eventually("the lane is down", func() bool { return w.r.Stats().LanesUp == 0 })
	m.onLoop(func() { m.publish("2") })
	after(w.r.cfg.PublishTimeout / 2)
	l.expire(time.Now().Add(w.r.cfg.PublishTimeout))
	m.wantCode(linkpb.Code_UNAVAILABLE)
	w.eventually("nothing is left", func() bool { return w.subscription("room") == nil })
	l.mu.Lock()
	l.since = l.since.Add(-w.r.cfg.PublishTimeout)
	l.mu.Unlock()
	m.onLoop(func() { m.publish("3") }) // the link has been away too long to wait for
	m.wantCode(linkpb.Code_UNAVAILABLE)
	o.gate.down.Store(false)
	o.expect("hello gw 0/1")
	w.eventually("the lane is up", func() bool { return w.r.Stats().LanesUp == 1 })
	m.onLoop(func() { m.publish("4") })
	o.expect("publish room e 4").accept(1, 2)
	m.wantOK(1, 2)
	w.quiet(m)
}

// The housekeeper looks for those.
func TestPublishesEndByThemselves(t *testing.T) {
	w := newWorld(t, 1, func(c *Config) { c.PublishTimeout = 80 * time.Millisecond })
	o := w.start()
	m := w.member("room")
	began := time.Now()
	m.onLoop(func() { m.publish("1") })
	o.expect("publish room e 1")
	m.wantCode(linkpb.Code_UNKNOWN_OUTCOME)
	if took := time.Since(began); took < w.r.cfg.PublishTimeout {
		t.Errorf("gave up after %v", took)
	}
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
	o.expect(fmt.Sprintf("join room %x", b.channel.Subscriber()))
	sub.fanOut(1, 6)
	a.hears(6)
	b.hears(6)

	again := w.relink(o, sub, 3)
	for _, m := range []*member{a, b} {
		if _, ok := again[fmt.Sprintf("join room %x", m.channel.Subscriber())]; !ok {
			t.Errorf("subscriber %x was not announced again: %v", m.channel.Subscriber(), again)
		}
	}
	sub, ok := again["subscribe room since 1:6"]
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
	again["subscribe moved since 1:5"].accept(1, 6)
	again["subscribe reborn since 1:0"].accept(2, 0)
	again["subscribe gone since 1:5"].refuse(linkpb.Code_INVALID, "no such topic")
	again["subscribe still since 1:5"].accept(1, 5)
	moved.wantEnded()
	reborn.wantEnded()
	gone.wantEnded()
	again["subscribe moved since 1:5"].fanOut(1, 7) // nobody is there, but the gateway still has the topic
	again["subscribe still since 1:5"].fanOut(1, 6)
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
	again["subscribe reborn since 1:0"].fanOut(2, 1)
	reborn.hears(1)
	gone.onLoop(gone.join)
	o.expect(fmt.Sprintf("join moved %x", moved.channel.Subscriber()), fmt.Sprintf("join reborn %x", reborn.channel.Subscriber()), "subscribe gone")
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
	sub = o.expect("subscribe room since 1:5")
	o.expect(fmt.Sprintf("join room %x", a.channel.Subscriber()))
	sub.accept(1, 9)
	a.wantEnded()
	b.wantOK(1, 9)
	o.expect(fmt.Sprintf("join room %x", b.channel.Subscriber()))
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
			sub = again["subscribe room since 1:5"]
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
	o.expect("hello gw 0/1", "subscribe hall since 1:0", fmt.Sprintf("join hall %x", b.channel.Subscriber()))
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
		{"another cluster", func() (linkpb.Kind, linkpb.Item) {
			return linkpb.KindWelcome, &linkpb.Welcome{Server: "ts-1", RingVersion: 1, Cluster: "green"}
		}, "no link to topic server; will keep trying", `) is of cluster "green", gateway "gw" of cluster "blue"`},
		{"no welcome", func() (linkpb.Kind, linkpb.Item) {
			return linkpb.KindReply, &linkpb.Reply{}
		}, "no link to topic server; will keep trying", "first item is no welcome"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, 1, func(c *Config) { c.Cluster = "blue" })
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

// A peer that sends what cannot be read is hung up on; what it said before counts.
func TestTornItems(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	a, sub := w.joined(o, "room", 1, 0)
	kinds := []linkpb.Kind{linkpb.KindReply, linkpb.KindMessage, linkpb.KindDownRing, linkpb.KindDigest, linkpb.KindSealed}
	for i, kind := range kinds {
		offset := uint64(i + 1)
		sub.wire.Append(kind+90, &linkpb.Reply{}) // of a later protocol: passed over
		sub.wire.Append(linkpb.KindMessage, messageItem("room", 1, offset))
		sub.wire.Append(kind, torn{})
		sub.wire.Flush()
		a.hears(offset)
		o.expect("hello gw 0/1")
		sub = o.expect(fmt.Sprintf("subscribe room since 1:%d", offset))
		o.expect(fmt.Sprintf("join room %x", a.channel.Subscriber()))
		sub.accept(1, offset)
	}
}

// torn is an item that is no Protobuf message.
type torn struct{}

func (torn) SizeVT() int { return 1 }

func (torn) MarshalToSizedBufferVT(dst []byte) (int, error) {
	dst[len(dst)-1] = 0x80
	return 1, nil
}

// The lanes of a server that has been away come back together: the topics of the last one wait for its pause otherwise.
func TestLanesComeBackTogether(t *testing.T) {
	w := newWorld(t, 1, func(c *Config) { c.Lanes = 3 })
	lanes := w.r.everyLane()
	for _, l := range lanes {
		l.redial, l.since = time.Hour, time.Now().Add(-time.Hour)
	}
	o := w.owners[0]
	o.gate.down.Store(true)
	w.run()
	w.eventually("all have tried", func() bool {
		return w.logs.FilterMessage("no link to topic server; will keep trying").Len() == len(lanes)
	})
	o.gate.down.Store(false)
	lanes[1].dialNow()
	w.eventually("all are live", func() bool { return w.r.Stats().LanesUp == len(lanes) })
}

// Lanes that are lost again and again do not drive each other to dial without a pause.
func TestALaneThatWasLostForAMomentWakesNone(t *testing.T) {
	w := newWorld(t, 1, func(c *Config) { c.Lanes = 3 })
	lanes := w.r.everyLane()
	for away, want := range map[time.Duration][]int{0: {0, 0, 0}, time.Minute: {1, 0, 1}} {
		w.r.serverIsBack(lanes[1], away)
		for i, l := range lanes {
			if len(l.kick) != want[i] {
				t.Errorf("away for %v: lane %d: %d, want %d", away, i, len(l.kick), want[i])
			}
			select {
			case <-l.kick:
			default:
			}
		}
	}
}
