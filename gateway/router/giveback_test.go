package router

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// The old owner lets a topic go and gets it back, and the gateway sees the ring before and the one after that, not the one in
// between. The owner has forgotten the subscribers, and is told of them when it is the owner again.
func TestGivenBackUnseen(t *testing.T) {
	w := newWorld(t, 2, never, ticking)
	a, topic := w.start(), w.topic()
	m, old := w.joined(a, topic, 1, 5)
	old.seal(1, 5)
	for range 2 {
		a.expect("subscribe "+topic+" since 1:5").refuse(linkpb.Code_NOT_OWNER, "not mine")
	}
	back := a.expect("subscribe " + topic + " since 1:5")
	back.recover(1, 5, 6)
	m.hears(6)
	a.joins(m)
	back.digest(1, 7) // once is enough
	a.expect("subscribe "+topic+" since 1:6").recover(1, 6, 7)
	m.hears(7)
	back.seal(1, 7) // and is back before the gateway asks
	a.expect("subscribe "+topic+" since 1:7").accept(1, 7)
	a.joins(m)
	m.onLoop(m.leave)
	a.expect(fmt.Sprintf("leave %s %x", topic, m.channel.Subscriber()))
}

// An owner that refuses a topic over a new connection has heard of the subscribers in vain. It is told when it serves the topic.
func TestSubscribersAreToldToWhoServesThem(t *testing.T) {
	w := newWorld(t, 1, never, ticking)
	o := w.start()
	m, conn := w.joined(o, "room", 1, 5)
	conn.cut()
	o.expect("hello gw 0/1")
	sub := o.expect("subscribe room since 1:5")
	o.joins(m)
	sub.refuse(linkpb.Code_OVERLOADED, "too many topics")
	o.expect("subscribe room since 1:5").accept(1, 5)
	o.joins(m)
}

// The same for a topic's presence: the owner is told of the members, under their references, and asked for all there are.
func TestGivenBackUnseen_Presence(t *testing.T) {
	w := newWorld(t, 2, never)
	a, topic := w.start(), w.topic()
	m := w.member(topic)
	s := w.r.shard(topic)
	ticks := func() { // once all that is under way has ended
		w.eventually("the presence is to be told anew", func() (idle bool) {
			s.do(func(s *shard) {
				p := s.presences[topic]
				idle = p.behind && p.watchRef == 0
				for _, in := range p.members {
					idle = idle && in.ref == 0
				}
			})
			return idle
		})
		w.r.tickPresence(time.Now())
	}
	var part *Attendance
	m.onLoop(func() {
		part = m.local.Attend(topic, &m.channel)
		part.Track("me", []byte(`{}`), m.done)
		part.Show()
	})
	snapshot := func(u up, refs ...uint64) {
		u.send(linkpb.KindReply, &linkpb.Reply{Ref: u.ref})
		d := &linkpb.PresenceDiff{Topic: topic, Snapshot: true}
		for _, ref := range refs {
			d.Joins = append(d.Joins, &linkpb.Presence{Ref: ref, Key: fmt.Sprint("key", ref), Meta: []byte(`{}`)})
		}
		u.send(linkpb.KindPresenceDiff, d)
	}
	granted := func(u up) { u.send(linkpb.KindReply, &linkpb.Reply{Ref: u.ref, PresenceRef: 7}) }
	watch := a.expect("watch " + topic)
	granted(a.expect("track " + topic + " me ref 0 again false"))
	if o := m.outcome(); !o.OK() {
		t.Fatalf("outcome %+v", o)
	}
	watch.seal(1, 0) // before its answer: there will be none
	ticks()
	again := "track " + topic + " me ref 7 again true"
	for range 2 { // until it has the topic back
		a.expect(again).refuse(linkpb.Code_NOT_OWNER, "not mine")
		a.expect("watch "+topic).refuse(linkpb.Code_NOT_OWNER, "not mine")
		ticks()
	}
	granted(a.expect(again))
	watch = a.expect("watch " + topic)
	snapshot(watch, 7, 8)
	if f := string(m.frame()); !strings.Contains(f, `"presence_state"`) {
		t.Fatalf("got %s", f)
	}
	watch.seal(1, 0)
	ticks()
	granted(a.expect(again))
	watch = a.expect("watch " + topic)
	snapshot(watch, 7, 8, 9)
	f := string(m.frame())
	if !strings.Contains(f, `"presence_diff"`) || !strings.Contains(f, "key9") || strings.Contains(f, "key8") {
		t.Errorf("got %s, want news alone", f)
	}
	m.onLoop(func() { part.End(false) })
	a.expect(fmt.Sprintf("of presence: %d", linkpb.KindUntrack), fmt.Sprintf("of presence: %d", linkpb.KindUnwatch))
	lane := w.r.route(topic)
	lane.mu.Lock()
	defer lane.mu.Unlock()
	if n := len(lane.pending); n != 0 {
		t.Errorf("%d requests are remembered that nobody waits for", n)
	}
}

// The same for a name: its holder is announced, once for all seals until then. What another server than its owner says of a name is of
// no interest.
func TestGivenBackUnseen_Name(t *testing.T) {
	w := newWorld(t, 2, never)
	w.start()
	name := nameAt(w, "ts-1")
	a, b, topic := w.owners[0], w.owners[1], NameTopic(name)
	held := make(chan Outcome, 1)
	w.on(0, func() {
		w.r.Local(0).Register(name, &Name{Lost: func() { t.Error("lost") }}, func(o Outcome) { held <- o })
	})
	reg := a.expect("NAME_REGISTER " + topic)
	reg.accept(0, 0)
	if o := <-held; !o.OK() {
		t.Fatalf("outcome %+v", o)
	}
	w.on(0, func() { w.r.Local(0).SendTo(nameAt(w, "ts-2"), "e", nil, func(Outcome) {}) })
	other := b.next()
	other.topic = topic
	other.seal(0, 0)
	other.accept(0, 0)
	reg.topic = NameTopic("free")
	for w.r.route(reg.topic).server != "ts-1" {
		reg.topic += "x"
	}
	free := reg.topic
	reg.topic = topic
	reg.seal(0, 0)
	reg.seal(0, 0)
	reg.topic = free
	reg.seal(0, 0) // nobody here holds that one
	lane := w.r.route(topic)
	w.eventually("the seals are noted", func() bool {
		lane.mu.Lock()
		defer lane.mu.Unlock()
		return lane.sealedNames[free] && lane.sealedNames[topic]
	})
	lane.announceSealed()
	a.expect("NAME_ANNOUNCE "+topic).accept(0, 0)
	w.on(0, func() { w.r.Local(0).SendTo(name, "e", nil, func(Outcome) {}) })
	a.expect("NAME_SEND "+topic).accept(0, 0)
}

// nameAt returns a name that a server is the owner of.
func nameAt(w *world, server string) string {
	for i := 0; ; i++ {
		if name := fmt.Sprint("n", i); w.r.route(NameTopic(name)).server == server {
			return name
		}
	}
}
