package router

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/ring"
)

// ringOf makes a ring of owners.
func ringOf(t *testing.T, version uint64, owners ...*owner) *ring.Ring {
	t.Helper()
	var servers []ring.Server
	for _, o := range owners {
		servers = append(servers, ring.Server{ID: o.id, Addr: o.gate.Addr().String()})
	}
	rg, err := ring.New(version, servers)
	if err != nil {
		t.Fatal(err)
	}
	return rg
}

// setRing makes the gateway use a ring, and takes note that each of the told owners hears of it.
func (w *world) setRing(version uint64, told []*owner, owners ...*owner) {
	w.t.Helper()
	if err := w.r.Rings().Adopt(ringOf(w.t, version, owners...)); err != nil {
		w.t.Fatal(err)
	}
	for _, o := range told {
		o.expect(fmt.Sprint("ring ", version))
	}
}

// topic returns a topic that the ring of all owners gives to the first, and a ring of the others to the second.
func (w *world) topic() string {
	w.t.Helper()
	all, others := ringOf(w.t, 1, w.owners...), ringOf(w.t, 1, w.owners[1:]...)
	for i := range 1000 {
		topic := fmt.Sprint("room:", i)
		if all.Owner(topic).ID == w.owners[0].id && others.Owner(topic).ID == w.owners[1].id {
			return topic
		}
	}
	w.t.Fatal("no such topic")
	return ""
}

// ringItem is what a topic server sends of a ring.
func ringItem(rg *ring.Ring) *linkpb.Ring { return link.EncodeRing(rg) }

// removal is a topic whose owner has just been taken out of the ring: a is the old one, b the new one.
type removal struct {
	*world
	a, b  *owner
	topic string
	m     *member
	old   up // its Subscribe to a, answered with 1:5
	next  up // its Subscribe to b, not answered
}

func newRemoval(t *testing.T, adjust ...func(*Config)) *removal {
	t.Helper()
	w := newWorld(t, 2, append(adjust, never)...)
	w.start()
	r := &removal{world: w, a: w.owners[0], b: w.owners[1], topic: w.topic()}
	r.m, r.old = w.joined(r.a, r.topic, 1, 5)
	w.setRing(2, w.owners, r.b)
	r.next = r.b.expect("subscribe " + r.topic + " since 1:5")
	return r
}

// wantLanes wants that no more lanes than those are kept open.
func (w *world) wantLanes(n int) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%d lanes are left", n), func() bool { w.r.retire(); return len(w.r.everyLane()) == n })
}

// Who says the last thing to a server may not have flushed it yet when the lane is needed no more.
func TestARetiredLaneEndsWithItsLastWords(t *testing.T) {
	w := newWorld(t, 2, func(c *Config) { // no housekeeper
		c.Linger, c.JoinTimeout, c.PublishTimeout, c.Heartbeat = time.Hour, time.Hour, time.Hour, time.Hour
	})
	w.start()
	old := w.r.route(w.topic())
	w.setRing(2, w.owners, w.owners[1])
	old.tell(linkpb.KindUnsubscribe, &linkpb.Unsubscribe{Topic: "room"})
	w.r.retire()
	w.owners[0].expect("unsubscribe room")
	w.wantLanes(1)
}

// ticking has the housekeeper try again often what was refused.
func ticking(c *Config) { c.PublishTimeout = 60 * time.Millisecond }

// wantSettled wants the topic to be at b and nowhere else.
func (r *removal) wantSettled(offset uint64) {
	r.t.Helper()
	r.a.expect("unsubscribe " + r.topic)
	r.b.joins(r.m)
	r.old.fanOut(1, offset) // nobody listens there any more
	r.next.fanOut(1, offset)
	r.m.hears(offset)
	r.wantLanes(1)
	if n := r.r.moving.Load(); n != 0 {
		r.t.Errorf("%d topics are moving", n)
	}
	if s := r.r.Stats(); s.Moves != 1 || s.Gaps != 0 || s.LanesUp != 1 {
		r.t.Errorf("%+v", s)
	}
}

func TestNewOwnerHasEverything(t *testing.T) {
	r := newRemoval(t)
	r.old.fanOut(1, 6)
	r.m.hears(6)
	r.next.recover(1, 5, 8)
	r.m.hears(7, 8)
	r.wantSettled(9)
}

func TestNewOwnerIsWhereTheOldOneWas(t *testing.T) {
	r := newRemoval(t)
	r.next.accept(1, 5) // it remembers nothing, and nothing is missing
	r.wantSettled(6)
}

// The new owner goes on, but has not got what the gateway lacks. It is still to come over the old lane.
func TestOldOwnerBringsTheRest(t *testing.T) {
	r := newRemoval(t)
	r.next.accept(1, 8)
	r.next.fanOut(1, 9, 10)
	r.old.fanOut(1, 6, 7)
	r.m.hears(6, 7)
	select {
	case <-r.m.ended:
		t.Fatal("ended though nothing is lost yet")
	default:
	}
	r.old.fanOut(1, 8)
	r.m.hears(8, 9, 10)
	r.wantSettled(11)
}

// There is nothing more to wait for, and messages are missing: the channels are told.
func TestMoveWithAGap(t *testing.T) {
	for _, tt := range []struct {
		name   string
		adjust func(*Config)
		ends   func(r *removal)
	}{
		{"sealed", never, func(r *removal) { r.old.fanOut(1, 6, 7); r.old.seal(1, 7); r.m.hears(6, 7) }},
		{"the old lane is lost", never, func(r *removal) { r.a.gate.down.Store(true); r.old.cut() }},
		{"overdue", never, func(r *removal) {
			sub, shard := r.subscription(r.topic), r.r.shard(r.topic)
			shard.mu.Lock()
			if left := time.Until(sub.next.deadline); left <= 0 || left > r.r.cfg.JoinTimeout {
				t.Errorf("%v are left", left)
			}
			sub.next.deadline = sub.next.deadline.Add(-r.r.cfg.JoinTimeout)
			shard.mu.Unlock()
			r.r.retry(time.Now())
			r.eventually("it is overdue", func() bool {
				shard.mu.Lock()
				defer shard.mu.Unlock()
				return sub.next.overdue
			})
			r.next.send(linkpb.KindDownPing, &linkpb.Ping{})
		}},
		{"too much to keep", never, func(r *removal) {
			// No more than it takes: the owner's lane ends if 8 MiB wait there.
			for offset := uint64(9); offset <= 9+maxMoveBuffer>>20; offset++ {
				m := messageItem(r.topic, 1, offset)
				m.Payload = []byte(strings.Repeat("1", 1<<20))
				r.next.send(linkpb.KindMessage, m)
			}
		}},
	} {
		for _, answerFirst := range []bool{true, false} {
			if !answerFirst && tt.name == "too much to keep" {
				continue
			}
			t.Run(fmt.Sprintf("%s, answer first: %v", tt.name, answerFirst), func(t *testing.T) {
				r := newRemoval(t, tt.adjust)
				if answerFirst {
					r.next.accept(1, 8)
				}
				tt.ends(r)
				if !answerFirst {
					r.next.accept(1, 8)
				}
				r.m.wantEnded()
				r.eventually("it has moved", func() bool { s := r.r.Stats(); return s.Moves == 1 && s.Gaps == 1 })
				r.m.onLoop(r.m.join)
				if o := r.m.outcome(); !o.OK() || o.Position.Offset < 8 {
					t.Errorf("%+v", o)
				}
			})
		}
	}
}

// The answer of the new owner is lost with its link.
func TestNewOwnersLinkIsLost(t *testing.T) {
	r := newRemoval(t)
	r.next.reply(1, 7, 5, 2)
	r.next.fanOut(1, 6)
	r.next.cut()
	r.b.expect("hello gw 0/1")
	if r.next = r.b.next(); r.next.text == "ring 2" { // it is the process that has heard of it, but its welcome says 1
		r.next = r.b.next()
	}
	if r.next.text != "subscribe "+r.topic+" since 1:5" {
		t.Fatalf("got %q", r.next.text)
	}
	r.old.fanOut(1, 6)
	r.m.hears(6)
	r.next.recover(1, 5, 7)
	r.m.hears(7)
	r.wantSettled(8)
}

// The new owner does not know the ring yet. It is asked again.
func TestNewOwnerRefusesAtFirst(t *testing.T) {
	r := newRemoval(t, ticking)
	r.next.refuse(linkpb.Code_NOT_OWNER, "not mine")
	r.next = r.b.expect("subscribe " + r.topic + " since 1:5")
	r.next.recover(1, 5, 6)
	r.m.hears(6)
	r.wantSettled(7)
}

// The new owner refuses on and on, for it has as many topics as it may have. While the old one brings messages that is no matter;
// from then on channels wait for as long as joins do, and are told.
func TestNewOwnerRefusesForGood(t *testing.T) {
	r := newRemoval(t, ticking)
	again := func(hour time.Duration) {
		t.Helper()
		s := r.r.shard(r.topic)
		s.mu.Lock()
		if n := s.topics[r.topic].next; !n.refused.IsZero() {
			n.refused = n.refused.Add(-hour)
		}
		s.mu.Unlock()
		r.next.refuse(linkpb.Code_OVERLOADED, "too many topics")
	}
	for range 2 {
		again(2 * r.r.cfg.JoinTimeout)
		r.next = r.b.expect("subscribe " + r.topic + " since 1:5")
	}
	r.old.fanOut(1, 6)
	r.m.hears(6)
	r.old.seal(1, 6)
	r.eventually("it is sealed", func() bool { return r.subscription(r.topic).sealed })
	again(0)
	r.next = r.b.expect("subscribe " + r.topic + " since 1:6")
	again(2 * r.r.cfg.JoinTimeout)
	<-r.m.ended
	r.a.expect("unsubscribe " + r.topic)
	if s := r.r.Stats(); s.Gaps != 1 || s.Moves != 0 || s.Moving != 0 || s.Channels != 0 {
		t.Errorf("%+v", s)
	}
	m := r.world.member(r.topic)
	m.onLoop(m.join)
	r.b.expect("subscribe " + r.topic)
}

// The ring takes the topic back before it has moved: nothing happens to it, and no second link is opened.
func TestMoveIsCalledOff(t *testing.T) {
	r := newRemoval(t)
	r.setRing(3, r.owners, r.owners...)
	r.b.expect("unsubscribe " + r.topic)
	r.next.recover(1, 5, 7) // of no interest
	r.old.fanOut(1, 6)
	r.m.hears(6)
	if s := r.r.Stats(); s.Moves != 0 || s.Gaps != 0 || s.LanesUp != 2 || r.r.moving.Load() != 0 {
		t.Errorf("%+v", s)
	}
	r.wantLanes(2)
	r.m.onLoop(r.m.leave)
	r.a.expect(fmt.Sprintf("leave %s %x", r.topic, r.m.channel.Subscriber())) // and no hello
}

// The same after the old owner has let it go: the gateway subscribes it there again, with its place.
func TestMoveBackAfterTheSeal(t *testing.T) {
	r := newRemoval(t)
	r.old.seal(1, 5)
	r.eventually("it is sealed", func() bool { return r.subscription(r.topic).sealed })
	r.setRing(3, r.owners, r.owners...)
	r.b.expect("unsubscribe " + r.topic)
	again := r.a.expect("subscribe " + r.topic + " since 1:5")
	again.recover(1, 5, 6)
	again.fanOut(1, 7)
	r.m.hears(6, 7)
	r.a.joins(r.m) // it has forgotten them
}

// The owner lets a topic go before the gateway knows why.
func TestSealedBeforeTheRingIsHere(t *testing.T) {
	w := newWorld(t, 2, never, ticking)
	w.start()
	a, b, topic := w.owners[0], w.owners[1], w.topic()
	m, old := w.joined(a, topic, 1, 5)
	old.fanOut(1, 6)
	old.seal(1, 7)
	m.hears(6)
	for range 2 { // it asks until the ring comes
		a.expect("subscribe "+topic+" since 1:6").refuse(linkpb.Code_NOT_OWNER, "not mine")
	}
	old.send(linkpb.KindDownRing, ringItem(ringOf(t, 2, b)))
	b.expect("ring 2")
	next := b.expect("subscribe " + topic + " since 1:6")
	next.recover(1, 6, 8)
	m.hears(7, 8)
	next.fanOut(1, 9)
	m.hears(9)
}

// Two changes in a row: the one in the middle never answers.
func TestTwoRingsInARow(t *testing.T) {
	w := newWorld(t, 3, never)
	w.start()
	a, b, c, topic := w.owners[0], w.owners[1], w.owners[2], w.topic()
	m, old := w.joined(a, topic, 1, 5)
	w.setRing(2, w.owners, b, c)
	b.expect("subscribe " + topic + " since 1:5")
	old.fanOut(1, 6)
	m.hears(6)
	w.setRing(3, w.owners, c) // those that the ring has no more are told too
	b.expect("unsubscribe " + topic)
	last := c.expect("subscribe " + topic + " since 1:6")
	last.recover(1, 6, 7)
	m.hears(7)
	a.expect("unsubscribe " + topic)
	c.joins(m)
	w.wantLanes(1)
	if s := w.r.Stats(); s.Moves != 1 || s.Gaps != 0 || w.r.moving.Load() != 0 {
		t.Errorf("%+v", s)
	}
}

// Joins that wait for the old owner's answer when nobody is on the topic yet wait for the new one's.
func TestJoinWaitsWhileItsTopicMoves(t *testing.T) {
	w := newWorld(t, 2, never)
	w.start()
	a, b, topic := w.owners[0], w.owners[1], w.topic()
	m, fresh := w.member(topic), w.member(topic)
	m.resume(1, 5)
	late := a.expect("subscribe " + topic + " since 1:5")
	fresh.onLoop(fresh.join)
	w.setRing(2, w.owners, b)
	a.expect("unsubscribe " + topic)
	next := b.expect("subscribe " + topic + " since 1:5")
	late.recover(1, 5, 6) // of no interest
	next.recover(1, 5, 7)
	m.wantRecovered(1, 5)
	fresh.wantOK(1, 7)
	m.hears(6, 7)
	b.joins(m, fresh)
	w.wantLanes(1)
}

// Who joins while the topic moves gets an answer from either owner.
func TestJoinsDuringAMove(t *testing.T) {
	r := newRemoval(t)
	fresh, back, slow := r.member(r.topic), r.member(r.topic), r.member(r.topic)
	fresh.onLoop(fresh.join) // where m is
	fresh.wantOK(1, 5)
	r.a.joins(fresh)
	back.resume(1, 3)
	r.a.expect("subscribe "+r.topic+" since 1:3").recover(1, 3, 5)
	back.wantRecovered(1, 3)
	back.hears(4, 5)
	r.a.joins(back)
	slow.resume(1, 2)
	r.a.expect("subscribe " + r.topic + " since 1:2") // not answered
	r.next.recover(1, 5, 6)
	again := r.b.expect("subscribe " + r.topic + " since 1:2")
	again.recover(1, 2, 7)
	slow.wantRecovered(1, 2)
	slow.hears(3, 4, 5, 6, 7)
	for _, m := range []*member{r.m, fresh, back} {
		m.hears(6, 7)
	}
	again.fanOut(1, 8)
	for _, m := range []*member{r.m, fresh, back, slow} {
		m.hears(8)
	}
	if s := r.r.Stats(); s.Gaps != 0 {
		t.Errorf("%+v", s)
	}
}

// A topic that nobody wants any more is unsubscribed at both ends.
func TestLastLeaveDuringAMove(t *testing.T) {
	r := newRemoval(t)
	r.m.onLoop(r.m.leave)
	r.a.expect(fmt.Sprintf("leave %s %x", r.topic, r.m.channel.Subscriber()))
	r.r.unsubscribeIdle(time.Now().Add(2 * r.r.cfg.Linger))
	r.a.expect("unsubscribe " + r.topic)
	r.b.expect("unsubscribe " + r.topic)
	if n := r.r.moving.Load(); n != 0 || r.subscription(r.topic) != nil {
		t.Errorf("%d topics are moving", n)
	}
}

// A server's new address moves no topic. The gateway goes there with all that it has.
func TestServerAtANewAddress(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	m, _ := w.joined(o, "room", 1, 5)
	m.onLoop(func() { m.publish("1") })
	sent := o.expect("publish room e 1")
	there := newOwner(t, o.id)
	there.serve()
	w.setRing(2, nil, there)
	there.expect("hello gw 0/1", "ring 2") // its welcome says 1
	again := there.expect("publish room e 1")
	if again.id != sent.id {
		t.Errorf("id %x, then %x", sent.id, again.id)
	}
	again.accept(1, 6)
	m.wantOK(1, 6)
	there.expect("subscribe room since 1:5").recover(1, 5, 6)
	there.joins(m)
	m.hears(6)
	if s := w.r.Stats(); s.Moves != 0 || s.Gaps != 0 || len(w.r.everyLane()) != 1 {
		t.Errorf("%+v", s)
	}
}

// receivers is a topic on its way from one lane to another in a world that does not run: the test is both receivers.
type receivers struct {
	*world
	m        *member
	sub      *subscription
	old, new *inbox
}

// newReceivers makes a topic with one channel, at 1:5. The request 7 on the new lane is the move's, 8 is free.
func newReceivers(t *testing.T) *receivers {
	t.Helper()
	w := newWorld(t, 2)
	r := &receivers{world: w, m: w.member(w.topic())}
	from := w.r.route(r.m.topic)
	for _, to := range w.r.everyLane() {
		if to != from {
			r.new = &to.in
		}
	}
	r.old = &from.in
	r.new.lane.pending[7], r.new.lane.pending[8] = pending{topic: r.m.topic}, pending{topic: r.m.topic}
	r.locked(func(s *shard) {
		sub := w.r.entryLocked(s, r.m.topic)
		sub.wanted, sub.flowing, sub.known, sub.live, sub.last = true, true, true, 1, hub.Position{Epoch: 1, Offset: 5}
		sub.next = &move{lane: r.new.lane, fetch: fetch{ref: 7}, deadline: time.Now().Add(time.Hour)}
		r.sub = sub
	})
	w.r.moving.Add(1)
	r.m.onLoop(func() { r.m.local.hub.Add(r.m.topic, &r.m.channel, hub.Position{Epoch: 1, Offset: 5}) })
	return r
}

func (r *receivers) locked(f func(s *shard)) {
	s := r.r.shard(r.m.topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// unflushed makes an inbox one that has posted for the topic in a batch that goes on.
func (r *receivers) unflushed(in *inbox) {
	r.locked(func(*shard) { r.sub.poster, r.sub.posted = in, in.batch })
}

func (r *receivers) receive(in *inbox, offsets ...uint64) {
	for _, offset := range offsets {
		in.receive(messageItem(r.m.topic, 1, offset))
	}
}

// What another inbox has posted and not flushed is not overtaken, whatever comes over the new lane meanwhile.
func TestNothingOvertakes(t *testing.T) {
	r := newReceivers(t)
	r.receive(r.old, 6) // in a batch that goes on
	r.new.answer(up{ref: 7}.answer(1, 8, 5, 3))
	r.receive(r.new, 6, 7, 8, 9)
	r.new.flush()
	r.m.onLoop(func() {
		if last, _ := r.m.local.hub.Last(r.m.topic); last.Offset != 5 {
			t.Errorf("the loop is at %d before the first batch ends", last.Offset)
		}
	})
	r.receive(r.old, 7)
	r.old.sealed(r.m.topic, hub.Position{Epoch: 1, Offset: 7})
	r.receive(r.new, 10)
	r.new.flush()
	r.old.flush()
	r.m.hears(6, 7, 8, 9, 10)

	// From now on the new lane's inbox posts, and the old one has nothing that it may wait for.
	r.receive(r.new, 11)
	r.new.flush()
	r.m.hears(11)
	if s := r.r.Stats(); s.Gaps != 0 || s.Moves != 1 || len(r.sub.held) != 0 || r.sub.sealed {
		t.Errorf("%+v, %d held, sealed %v", s, len(r.sub.held), r.sub.sealed)
	}
}

// An answer does not overtake either, nor do the messages behind it.
func TestAnswerDoesNotOvertake(t *testing.T) {
	r := newReceivers(t)
	r.locked(func(*shard) { r.sub.lane, r.sub.next, r.sub.fetch.ref = r.new.lane, nil, 8 })
	r.unflushed(r.old)
	r.new.answer(up{ref: 8}.answer(1, 6, 5, 1))
	r.receive(r.new, 6, 7)
	r.new.flush()
	if r.sub.last.Offset != 5 || len(r.sub.held) != 2 {
		t.Errorf("at %d, %d held", r.sub.last.Offset, len(r.sub.held))
	}
	r.old.flush()
	r.m.hears(6, 7)
}

// The owner's last word counts when the messages before it have been handled.
func TestLastWordDoesNotOvertake(t *testing.T) {
	r := newReceivers(t)
	r.unflushed(r.new) // a move before this one has ended there
	r.receive(r.old, 6, 7)
	r.old.sealed(r.m.topic, hub.Position{Epoch: 1, Offset: 7})
	r.new.answer(&linkpb.Reply{Ref: 7, Position: &linkpb.Position{Epoch: 1, Offset: 7}}) // remembers nothing
	r.receive(r.new, 8)
	r.old.flush()
	r.new.flush()
	r.m.hears(6, 7, 8)
	if s := r.r.Stats(); s.Gaps != 0 || s.Moves != 1 {
		t.Errorf("%+v", s)
	}
}
