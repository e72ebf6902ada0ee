package router

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/link"
)

func never(c *Config) { c.Linger = time.Hour }

func TestGatewayStartsBeforeItsTopicServers(t *testing.T) {
	w := newWorld(t, 2)
	for _, o := range w.owners {
		o.gate.down.Store(true)
	}
	w.run()
	if err := w.r.Ready(); err == nil || !strings.Contains(err.Error(), `no link to topic server "ts-1"`) {
		t.Errorf("ready: %v", err)
	}
	w.owners[0].gate.down.Store(false)
	w.owners[0].expect("hello gw 0/1")
	w.eventually("one link is up", func() bool { return w.r.Stats().LanesUp == 1 })
	if err := w.r.Ready(); err == nil || !strings.Contains(err.Error(), `no link to topic server "ts-2"`) {
		t.Errorf("ready with one of two: %v", err)
	}
	w.owners[1].gate.down.Store(false)
	w.eventually("ready", func() bool { return w.r.Ready() == nil })
	if n := w.r.Stats().LanesUp; n != 2 {
		t.Errorf("%d lanes up", n)
	}
}

// Once a gateway has had all links it is ready while it has one.
func TestReadyWhileOneServerIsLeft(t *testing.T) {
	w := newWorld(t, 2)
	w.run()
	hellos := []up{w.owners[0].next(), w.owners[1].next()}
	w.eventually("ready", func() bool { return w.r.Ready() == nil })
	for i, o := range w.owners {
		o.gate.down.Store(true)
		hellos[i].cut()
		w.eventually("the lane is down", func() bool { return w.r.Stats().LanesUp == 1-i })
		if err := w.r.Ready(); (err == nil) != (i == 0) {
			t.Errorf("with %d of 2 servers gone: %v", i+1, err)
		}
	}
}

func TestJoinWaitsForTheOwnerAndEndsUnavailable(t *testing.T) {
	w := newWorld(t, 1, func(c *Config) { c.JoinTimeout, c.PublishTimeout = 40*time.Millisecond, 40*time.Millisecond })
	w.owners[0].gate.down.Store(true)
	w.run()
	m := w.member("room")
	began := time.Now()
	m.onLoop(m.join)
	m.wantCode(linkpb.Code_UNAVAILABLE)
	if took := time.Since(began); took < w.r.cfg.JoinTimeout {
		t.Errorf("gave up after %v", took)
	}
	m.onLoop(func() { m.publish("1") })
	m.wantCode(linkpb.Code_UNAVAILABLE)
	w.eventually("nothing is left of the join", func() bool { return w.subscription("room") == nil && m.local.waits.Load() == 0 })

	w.owners[0].gate.down.Store(false)
	w.owners[0].expect("hello gw 0/1")
	// Forgotten: the new link does not subscribe it. A new join does, whether it comes before the link is up or after.
	for out := (Outcome{Code: linkpb.Code_UNAVAILABLE}); !out.OK(); { // on a loaded machine an answer may be late
		m.onLoop(m.join)
		u := w.owners[0].next()
		if u.text == "unsubscribe room" { // the late one
			u = w.owners[0].next()
		}
		if u.text != "subscribe room" {
			t.Fatalf("the owner got %q", u.text)
		}
		u.accept(1, 0)
		if out = m.outcome(); !out.OK() && out.Code != linkpb.Code_UNAVAILABLE {
			t.Fatalf("outcome %+v", out)
		}
	}
}

// subscription returns a copy of the router's subscription to the topic, nil if there is none.
func (w *world) subscription(topic string) *subscription {
	s := w.r.shard(topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.topics[topic] == nil {
		return nil
	}
	sub := *s.topics[topic]
	return &sub
}

func TestJoinsShareOneSubscription(t *testing.T) {
	w := newWorld(t, 1, twoLoops(t), never)
	o := w.start()
	a, b, c, d := w.member("room"), w.member("room"), w.member("room"), w.member("room")
	a.onLoop(a.join)
	c.onLoop(c.join) // on a's loop, which waits already
	sub := o.expect("subscribe room")
	sub.accept(1, 5)
	a.wantOK(1, 5)
	c.wantOK(1, 5)
	sub.fanOut(1, 6)
	a.hears(6)
	c.hears(6)
	b.onLoop(b.join) // on the other loop
	b.wantOK(1, 6)
	d.onLoop(d.join) // where b is
	d.wantOK(1, 6)
	sub.fanOut(1, 7)
	for _, m := range []*member{a, b, c, d} {
		m.hears(7)
	}
	ids := make(map[uint64]bool)
	for _, m := range []*member{a, c, b, d} {
		o.expect(fmt.Sprintf("join room %x", m.channel.Subscriber()))
		ids[m.channel.Subscriber()] = true
	}
	if len(ids) != 4 {
		t.Errorf("subscribers share ids: %v", ids)
	}
	if s := w.r.Stats(); s.Messages != 2 || s.Deliveries != 6 {
		t.Errorf("%d messages, %d deliveries; want 2, 6", s.Messages, s.Deliveries)
	}
}

func TestLastLeaveLingersThenUnsubscribes(t *testing.T) {
	w := newWorld(t, 1, twoLoops(t))
	o := w.start()
	a, sub := w.joined(o, "room", 1, 0)
	b := w.member("room")
	b.onLoop(b.join)
	b.wantOK(1, 0)
	a.onLoop(a.leave)
	o.expect(fmt.Sprintf("join room %x", b.channel.Subscriber()), fmt.Sprintf("leave room %x", a.channel.Subscriber()))
	sub.fanOut(1, 1) // for b alone
	b.hears(1)
	b.onLoop(b.leave)
	o.expect(fmt.Sprintf("leave room %x", b.channel.Subscriber()), "unsubscribe room")

	// What the owner sent before it heard that belongs to nobody.
	sub.fanOut(1, 2)
	w.eventually("the message is counted", func() bool { return w.r.Stats().Stray == 1 })
	a.onLoop(a.join)
	o.expect("subscribe room").accept(1, 2)
	a.wantOK(1, 2)
	sub.fanOut(1, 3)
	a.hears(3)
}

func TestJoinWithinTheLingerKeepsTheSubscription(t *testing.T) {
	w := newWorld(t, 1, never)
	o := w.start()
	a, sub := w.joined(o, "room", 1, 0)
	a.onLoop(a.leave)
	sub.fanOut(1, 1) // for nobody, but the position moves
	w.eventually("the message is here", func() bool { return w.subscription("room").last.Offset == 1 })
	left := a.channel.Subscriber()
	a.onLoop(a.join)
	a.wantOK(1, 1)
	o.expect(fmt.Sprintf("leave room %x", left), fmt.Sprintf("join room %x", a.channel.Subscriber()))
	sub.fanOut(1, 2)
	a.hears(2)
	if s := w.r.Stats(); s.Stray != 0 || s.Messages != 1 {
		t.Errorf("%+v", s)
	}
	if n := len(w.r.shard("room").idle); n != 0 {
		t.Errorf("%d topics are idle", n)
	}
}

// The older Subscribe's Reply and the messages behind it are of a subscription that has been given up.
func TestReplyOfAnOlderSubscribeIsIgnored(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	a := w.member("room")
	a.onLoop(a.join)
	older := o.expect("subscribe room")
	a.onLoop(a.leave)
	o.expect("unsubscribe room")
	a.onLoop(a.join)
	newer := o.expect("subscribe room")
	older.accept(1, 5)
	older.fanOut(1, 6)
	newer.accept(1, 8)
	a.wantOK(1, 8)
	newer.fanOut(1, 9)
	a.hears(9)
	if n := w.r.Stats().Stray; n != 1 {
		t.Errorf("%d stray messages, want 1", n)
	}
}

// The same, when the older Reply is in the loop's queue while the loop gives up and joins again.
func TestOlderReplyInTheLoopsQueueIsIgnored(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	a := w.member("room")
	a.onLoop(a.join)
	older := o.expect("subscribe room")
	do, release := w.hold(0)
	defer release()
	older.accept(1, 5)
	w.eventually("the reply is here", func() bool { return w.subscription("room").flowing })
	do(a.leave)
	o.expect("unsubscribe room")
	do(a.join)
	release()
	o.expect("subscribe room").accept(1, 8)
	a.wantOK(1, 8)
}

func TestCanceledJoinIsNeverAnswered(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	a, b := w.member("room"), w.member("room")
	a.onLoop(func() { a.join(); b.join(); a.leave() })
	sub := o.expect("subscribe room")
	sub.accept(1, 0)
	b.wantOK(1, 0)
	o.expect(fmt.Sprintf("join room %x", b.channel.Subscriber()))

	c := w.member("hall")
	c.onLoop(c.join)
	hall := o.expect("subscribe hall")
	c.onLoop(c.leave)
	o.expect("unsubscribe hall")
	hall.accept(1, 0)
	sub.fanOut(1, 1)
	b.hears(1) // by now the reply has been handled
	if len(a.outcomes)+len(c.outcomes) != 0 {
		t.Error("a canceled join was answered")
	}
	if w.subscription("hall") != nil || c.local.waits.Load() != 0 || c.local.hub.Topics() != 1 {
		t.Error("a canceled join leaves something behind")
	}
	a.onLoop(a.leave) // once more does nothing
}

// What will not pass by itself fails the join at once.
func TestOwnerRefusesTheSubscription(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	a := w.member("room")
	a.onLoop(a.join)
	o.expect("subscribe room").refuse(linkpb.Code_INVALID, "no such topic")
	if got := a.wantCode(linkpb.Code_INVALID); got.Detail != "no such topic" {
		t.Errorf("detail %q", got.Detail)
	}
	if w.subscription("room") != nil {
		t.Error("the router remembers it")
	}
	a.onLoop(a.join) // asks anew
	o.expect("subscribe room").accept(1, 0)
	a.wantOK(1, 0)
}

// A refusal that another ring or a little time may end is no answer to a join: the owner is asked again.
func TestSubscriptionIsTriedAgain(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	a := w.member("room")
	a.onLoop(a.join)
	for _, code := range []linkpb.Code{linkpb.Code_NOT_OWNER, linkpb.Code_OVERLOADED, linkpb.Code_SHUTTING_DOWN} {
		o.expect("subscribe room").refuse(code, "not now")
	}
	o.expect("subscribe room").accept(1, 5)
	a.wantOK(1, 5)
	w.quiet(a)
}

// It is so for the time that a join may take. Then channels that are live are told.
func TestSubscriptionIsGivenUp(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	a, sub := w.joined(o, "room", 1, 5)
	sub.digest(1, 6)
	for range 3 {
		o.expect("subscribe room since 1:5").refuse(linkpb.Code_NOT_OWNER, "ask ts-2")
	}
	u := o.expect("subscribe room since 1:5")
	select {
	case <-a.ended:
		t.Error("given up at once")
	default:
	}
	s := w.r.shard("room")
	s.mu.Lock()
	s.topics["room"].troubled = s.topics["room"].troubled.Add(-w.r.cfg.JoinTimeout)
	s.mu.Unlock()
	u.refuse(linkpb.Code_NOT_OWNER, "ask ts-2")
	a.wantEnded()
	if s := w.r.Stats(); s.Gaps != 1 || s.Resyncs != 1 {
		t.Errorf("%+v", s)
	}
}

// A loop that is busy has older messages in its queue when a channel joins. A channel gets what is after its join's
// position and nothing else.
func TestJoinAheadOfOlderMessages(t *testing.T) {
	for _, tt := range []struct {
		name  string
		leave bool // before the join, so that the loop has no channel on the topic
		at    uint64
		hears []uint64
	}{
		{"first channel of the loop", true, 2, []uint64{3}},
		{"another channel of the loop", false, 0, []uint64{1, 2, 3}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, 1, never)
			o := w.start()
			a, sub := w.joined(o, "room", 1, 0)
			b := w.member("room")
			do, release := w.hold(0)
			defer release()
			sub.fanOut(1, 1, 2)
			w.eventually("both messages wait for the loop", func() bool { return a.local.backlog.Load() > 2*256 })
			do(func() {
				if tt.leave {
					a.leave()
				}
				b.join()
			})
			b.wantOK(1, tt.at)
			release()
			sub.fanOut(1, 3)
			b.hears(tt.hears...)
			if n := a.local.backlog.Load(); n != 0 {
				t.Errorf("%d bytes in an idle loop's backlog", n)
			}
		})
	}
}

func TestReplyStandsBeforeTheOwnCopy(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	a, sub := w.joined(o, "room", 1, 0)
	for offset := uint64(1); offset <= 20; offset++ {
		a.onLoop(func() {
			p := linkpb.Publish{Topic: "room", Event: "e", Payload: []byte("1")}
			a.local.Publish(&p, func(out Outcome) { a.conn.Send(1, fmt.Append(nil, "ok ", out.Position.Offset)) })
		})
		u := o.expect("publish room e 1")
		if offset%2 == 0 { // in one batch, or in two
			u.wire.Append(linkpb.KindReply, &linkpb.Reply{Ref: u.ref, Position: &linkpb.Position{Epoch: 1, Offset: offset}})
		} else {
			u.accept(1, offset)
		}
		sub.fanOut(1, offset)
		if got := a.read(); got != fmt.Sprint("ok ", offset) {
			t.Fatalf("before the reply to %d: %s", offset, got)
		}
		a.hears(offset)
	}
	if n := w.r.Stats().Publishes; n != 20 {
		t.Errorf("%d publishes counted", n)
	}
}

// Everything about a topic goes over one lane, and the topics use all lanes.
func TestTopicsKeepTheirLane(t *testing.T) {
	w := newWorld(t, 2, func(c *Config) { c.Lanes = 3 })
	w.start()
	lanes := make(map[string]uint32)
	used := make(map[string]bool)
	see := func(o *owner, kinds ...linkpb.Kind) (u up) {
		for _, kind := range kinds {
			u = o.next()
			if u.kind != kind {
				t.Errorf("%s: kind %d, want %d", u.text, u.kind, kind)
			}
			if lane, ok := lanes[u.topic]; ok && lane != u.index {
				t.Errorf("%s on lane %d, first seen on %d", u.text, u.index, lane)
			}
			lanes[u.topic] = u.index
			used[fmt.Sprint(o.id, " ", u.index)] = true
		}
		return u
	}
	// The hash is another in each process: forty topics miss a lane once in five hundred times.
	for i := 0; i < 40 || len(used) < 6 && i < 400; i++ {
		m := w.member(fmt.Sprint("room:", i))
		owner := w.owners[0]
		if w.r.cfg.Ring.Owner(m.topic).ID != owner.id {
			owner = w.owners[1]
		}
		m.onLoop(m.join)
		see(owner, linkpb.KindSubscribe).accept(1, 0)
		m.wantOK(1, 0)
		m.onLoop(func() { m.publish("1"); m.leave() })
		see(owner, linkpb.KindJoin, linkpb.KindPublish).accept(1, 1)
		m.wantOK(1, 1)
		see(owner, linkpb.KindLeave, linkpb.KindUnsubscribe)
	}
	if len(used) != 6 {
		t.Errorf("lanes used: %v, want 3 of each server", used)
	}
}

func TestPublishesInFlightAreBounded(t *testing.T) {
	w := newWorld(t, 1, func(c *Config) { c.MaxPending = 2 })
	o := w.start()
	for _, topic := range []string{"a", "b", "c"} { // subscriptions do not count
		waiting := w.member(topic)
		waiting.onLoop(waiting.join)
		o.expect("subscribe " + topic)
	}
	m := w.member("room")
	m.onLoop(func() { m.publish("1"); m.publish("2"); m.publish("3") })
	m.wantCode(linkpb.Code_OVERLOADED)
	first := o.expect("publish room e 1")
	o.expect("publish room e 2")
	first.accept(1, 1)
	m.wantOK(1, 1)
	m.onLoop(func() { m.publish("4"); m.publish("5") })
	m.wantCode(linkpb.Code_OVERLOADED)
	o.expect("publish room e 4")
}

func TestPublishTooLarge(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	m := w.member("room")
	m.onLoop(func() { m.publish(strings.Repeat("1", link.MaxItem+1)) })
	m.wantCode(linkpb.Code_TOO_LARGE)
	m.onLoop(func() { m.publish(strings.Repeat("1", link.MaxItem)) })
	o.next().accept(1, 1)
	m.wantOK(1, 1)
}

// An owner that does not read makes publishes be refused, also if one turn has very many; it does not cost the link.
func TestBacklogIsBounded(t *testing.T) {
	w := newWorld(t, 1, func(c *Config) { c.MaxBacklog = 1 << 20 })
	o := w.start()
	m := w.member("room")
	m.outcomes = make(chan Outcome, 1000)
	payload := strings.Repeat("1", 64<<10)
	o.busy.Lock()
	read := sync.OnceFunc(o.busy.Unlock)
	defer read()
	m.onLoop(func() {
		for range cap(m.outcomes) {
			m.publish(payload)
		}
	})
	refused := len(m.outcomes)
	if refused == 0 {
		t.Fatal("64 MB were taken for an owner that does not read")
	}
	for range refused {
		m.wantCode(linkpb.Code_OVERLOADED)
	}
	taken := cap(m.outcomes) - refused
	if s := w.r.Stats(); s.LanesUp != 1 || s.Publishes != uint64(taken) {
		t.Errorf("%+v with %d taken", s, taken)
	}
	read()
	for i := range uint64(taken) {
		o.next().accept(1, i+1)
		m.wantOK(1, i+1)
	}
}

// A loop that cannot keep up gets no endless queue: the channels of a topic with one message too many are ended.
func TestBusyLoopEndsTopics(t *testing.T) {
	w := newWorld(t, 1, twoLoops(t), never, func(c *Config) { c.MaxLoopBacklog = 600 })
	o := w.start()
	a, room := w.joined(o, "room", 1, 0)
	b := w.member("room")
	b.onLoop(b.join)
	b.wantOK(1, 0)
	o.expect(fmt.Sprintf("join room %x", b.channel.Subscriber()))
	c, hall := w.joined(o, "hall", 1, 0) // on a's loop, with little to hear
	do, release := w.hold(0)
	defer release()
	for offset := uint64(1); offset <= 5; offset++ {
		room.fanOut(1, offset)
		b.hears(offset) // the other loop keeps up
	}
	late := w.member("room")
	if late.local != b.local {
		t.Fatal("the fourth member is not on loop 1")
	}
	do(func() { // joins where a is, before the loop knows
		late.local = a.local
		late.channel.Conn = a.conn
		late.join()
	})
	late.wantOK(1, 0)
	release()
	a.hears(1, 1, 2, 2, 3, 3) // a's and late's copies, up to the bound
	a.wantEnded()
	hall.fanOut(1, 1)
	c.hears(1)
	a.onLoop(a.join)
	a.wantOK(1, 5)
	room.fanOut(1, 6)
	a.hears(6)
	b.hears(6)
	if s := w.r.Stats(); s.Overruns != 1 || s.Gaps != 0 {
		t.Errorf("%+v", s)
	}
}

func TestConfig(t *testing.T) {
	if _, err := New(Config{Loops: newLoops(t, 65)}); err == nil || !strings.Contains(err.Error(), "65 event loops") {
		t.Errorf("65 loops: %v", err)
	}
	w := newWorld(t, 1, func(c *Config) { *c = Config{Gateway: "gw", Ring: c.Ring} })
	c := w.r.cfg
	if c.Lanes != 2 || c.Linger != time.Second || c.JoinTimeout != 5*time.Second || c.MaxPending == 0 ||
		c.MaxBacklog == 0 || c.MaxLoopBacklog == 0 || c.Log == nil {
		t.Errorf("defaults: %+v", c)
	}
	if !(Outcome{}).OK() || (Outcome{Code: linkpb.Code_INTERNAL}).OK() || (hub.Position{}) != (Outcome{}).Position {
		t.Error("zero outcome")
	}
}
