package router

import (
	"fmt"
	"testing"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// subscribed returns a router that has very many topics subscribed, and the last request.
func subscribed(t *testing.T, topics int) (w *world, o *owner, last up) {
	w = newWorld(t, 1)
	o = w.start()
	for i := range topics {
		sub := w.r.subscribe(fmt.Sprint("topic-", i), 0, nil).sub
		sub.lane.flush()
		last = o.next()
		last.accept(1, 0)
	}
	w.eventually("all topics flow", func() bool { return w.flowing() == topics })
	return w, o, last
}

// flowing counts the subscriptions whose messages are delivered as they come.
func (w *world) flowing() (n int) {
	for i := range w.r.shards {
		s := &w.r.shards[i]
		s.mu.Lock()
		for _, sub := range s.topics {
			if sub.flowing {
				n++
			}
		}
		s.mu.Unlock()
	}
	return n
}

// subscribes takes the next n items, which must be Subscribes.
func (o *owner) subscribes(n int) (all []up) {
	o.t.Helper()
	for range n {
		u := o.next()
		if u.kind != linkpb.KindSubscribe {
			o.t.Fatalf("got %q, want Subscribes", u.text)
		}
		all = append(all, u)
	}
	return all
}

// A gateway with very many topics resumes them a few at a time over a new connection, as fast as they are answered. A join and a
// publish that come meanwhile wait for none of them.
func TestManyTopicsAreResumedAFewAtATime(t *testing.T) {
	const rest = resubscribes + 100
	w, o, conn := subscribed(t, resubscribes+rest)
	conn.cut()
	o.expect("hello gw 0/1")
	first := o.subscribes(resubscribes)

	m := w.member("hall")
	m.onLoop(m.join)
	o.expect("subscribe hall").accept(1, 0) // and none of the others
	m.wantOK(1, 0)
	o.joins(m)
	m.onLoop(func() { m.publish("1") })
	o.expect("publish hall e 1").accept(1, 1)
	m.wantOK(1, 1)

	seen := make(map[string]bool)
	for pending := first; len(pending) > 0; pending = pending[1:] {
		u := pending[0]
		if seen[u.topic] {
			t.Errorf("%s was subscribed twice", u.topic)
		}
		seen[u.topic] = true
		u.accept(u.since[0].Epoch, u.since[0].Offset)
		if len(pending) == 1 {
			pending = append(pending, o.subscribes(min(resubscribes, resubscribes+rest-len(seen)))...)
		}
	}
	w.eventually("all topics flow", func() bool { return w.flowing() == resubscribes+rest+1 })
	if s := w.r.Stats(); s.Gaps != 0 {
		t.Errorf("%+v", s)
	}
}

// Topics that the owner answers late, since another server still has them, hold up the rest for two heartbeats at most.
func TestTopicsThatAreAnsweredLateHoldUpNoOthers(t *testing.T) {
	w, o, conn := subscribed(t, 2*resubscribes+100)
	conn.cut()
	hello := o.expect("hello gw 0/1")
	o.subscribes(resubscribes)
	for range 2 {
		hello.send(linkpb.KindDownPing, &linkpb.Ping{})
	}
	o.subscribes(resubscribes + 100)
	w.eventually("nothing is left", func() bool { return w.flowing() == 0 })
}

// A join of a topic whose turn has not come subscribes it at once, and its subscribers are announced all the same.
func TestAJoinDoesNotWaitForItsTopicsTurn(t *testing.T) {
	w, o, conn := subscribed(t, 2*resubscribes)
	conn.cut()
	o.expect("hello gw 0/1")
	sent := make(map[string]bool)
	for _, u := range o.subscribes(resubscribes) {
		sent[u.topic] = true
	}
	waits := ""
	for i := 0; waits == ""; i++ {
		if name := fmt.Sprint("topic-", i); !sent[name] {
			waits = name
		}
	}
	m := w.member(waits)
	m.onLoop(m.join)
	u := o.expect("subscribe " + waits + " since 1:0")
	u.accept(1, 0)
	m.wantOK(1, 0)
	o.joins(m)
	for range 2 {
		u.send(linkpb.KindDownPing, &linkpb.Ping{})
	}
	announced, subscribes := 0, 0
	for announced+subscribes < resubscribes {
		switch v := o.next(); {
		case v.kind == linkpb.KindSubscribe && v.topic != waits:
			subscribes++
		case v.text == fmt.Sprintf("join %s %x", waits, m.channel.Subscriber()):
			announced++
		case v.kind != linkpb.KindJoin:
			t.Fatalf("got %q", v.text)
		}
	}
	if announced != 1 {
		t.Errorf("announced %d times when its turn came", announced)
	}
}

// A join that comes while a new connection is being opened, and subscribes its topic first, does not keep the topic's other
// subscribers from being announced.
func TestAJoinWhileTheLaneOpensHidesNoSubscribers(t *testing.T) {
	w := newWorld(t, 1, twoLoops(t))
	o := w.start()
	name := "hall"
	for i := 0; w.r.shard(name) == &w.r.shards[0]; i++ {
		name = fmt.Sprint("hall-", i)
	}
	first, conn := w.joined(o, name, 1, 0)
	second := w.member(name)
	o.gate.down.Store(true)
	conn.cut()
	w.eventually("the lane is lost", func() bool { return w.logs.FilterMessage("link lost; dialing again").Len() == 1 })

	w.r.shards[0].mu.Lock() // the lane goes live, and does not get to the topic
	o.gate.down.Store(false)
	w.eventually("the lane is live", func() bool {
		_, live := w.r.laneOf(name).queued()
		return live
	})
	second.onLoop(second.join)
	o.expect("hello gw 0/1")
	u := o.expect("subscribe " + name + " since 1:0")
	w.r.shards[0].mu.Unlock()

	o.joins(first)
	u.accept(1, 0)
	second.wantOK(1, 0)
	o.joins(second)
}

// What the owner answered late over the last connection does not count over the next one.
func TestANewConnectionDoesNotBeginStalled(t *testing.T) {
	w, o, conn := subscribed(t, 2*resubscribes+100)
	conn.cut()
	hello := o.expect("hello gw 0/1")
	o.subscribes(resubscribes)
	hello.send(linkpb.KindDownPing, &linkpb.Ping{})
	hello.topic = "nobody's"
	hello.fanOut(1, 1)
	w.eventually("the ping was handled", func() bool { return w.r.Stats().Stray == 1 })
	hello.cut()

	hello = o.expect("hello gw 0/1")
	o.subscribes(resubscribes)
	hello.send(linkpb.KindDownPing, &linkpb.Ping{})
	hello.topic = "nobody's"
	hello.fanOut(1, 2)
	w.eventually("the ping was handled", func() bool { return w.r.Stats().Stray == 2 })
	m := w.member("hall")
	m.onLoop(m.join)
	o.expect("subscribe hall") // and none of the others
}

// Of very many topics that move at once, only some are asked for at once. The others follow when the old owner lets go of them, or
// is lost; and where somebody waits, at once.
func TestManyTopicsMoveAFewAtATime(t *testing.T) {
	const rest = 20
	w := newWorld(t, 2, never)
	w.start()
	a, b := w.owners[0], w.owners[1]
	old := make(map[string]up) // the Subscribes to a
	for i := 0; len(old) < resubscribes+rest; i++ {
		name := fmt.Sprint("topic-", i)
		if w.r.route(name).server != a.id {
			continue
		}
		sub := w.r.subscribe(name, 0, nil).sub
		sub.lane.flush()
		u := a.next()
		u.accept(1, 7)
		old[name] = u
	}
	w.eventually("all topics flow", func() bool { return w.flowing() == len(old) })
	w.setRing(2, w.owners, b)
	unasked := make(map[string]up)
	for name, u := range old {
		unasked[name] = u
	}
	asked := b.subscribes(resubscribes)
	for _, u := range asked {
		delete(unasked, u.topic)
	}
	if len(unasked) != rest {
		t.Fatalf("%d topics were asked for, want %d", len(old)-len(unasked), resubscribes)
	}
	take := func() (u up) {
		for _, u = range unasked {
			break
		}
		delete(unasked, u.topic)
		return u
	}

	u := take()
	u.fanOut(1, 8)
	u.seal(1, 8)
	next := b.expect("subscribe " + u.topic + " since 1:8")
	next.accept(1, 8)
	w.eventually("the topic has moved", func() bool { return w.r.Stats().Moves == 1 })
	a.expect("unsubscribe " + u.topic)

	for _, u := range asked[:3] { // what is answered makes room for others, the next time that somebody looks
		u.accept(1, 7)
		a.expect("unsubscribe " + u.topic)
	}
	w.r.retry(time.Now())
	for _, u := range b.subscribes(3) {
		delete(unasked, u.topic)
	}

	a.gate.down.Store(true)
	take().cut()
	for _, u := range b.subscribes(rest - 4) {
		delete(unasked, u.topic)
	}
	w.eventually("nothing is on the way to a", func() bool { return w.r.moving.Load() == resubscribes+rest-4 })
}
