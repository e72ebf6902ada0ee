package router

import (
	"bytes"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// A server that announces more of an answer than it can have, and sends it without an end, fills no memory: its lane ends, and
// the join is answered over the next one.
func TestAnAnswerWithoutAnEnd(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	m := w.member("t:a")
	m.onLoop(m.join)
	u := o.expect("subscribe t:a")
	u.reply(1, math.MaxUint64, 0, math.MaxUint32)
	payload := append(bytes.Repeat([]byte("x"), 1<<20), '"')
	payload[0] = '"'
	sent := 0
	for w.r.Stats().LanesLost == 0 && sent < 20*maxGathered {
		sent += len(payload)
		u.send(linkpb.KindMessage, &linkpb.Message{Topic: "t:a", Event: "e", Payload: payload, Position: &linkpb.Position{Epoch: 1, Offset: uint64(sent)}})
		w.eventually("the message to be on its way", func() bool { return u.wire.Backlog() < 4<<20 || w.r.Stats().LanesLost > 0 })
	}
	if n := w.r.Stats().LanesLost; n != 1 {
		t.Fatalf("%d lanes lost after %d bytes", n, sent)
	}
	o.expect("hello gw 0/1", "subscribe t:a").accept(1, 5)
	m.wantOK(1, 5)
}

// What a server says about an outcome goes to clients, whose queues are bounded.
func TestALongDetailIsCut(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	m := w.member("t:a")
	m.onLoop(m.join)
	o.expect("subscribe t:a").refuse(linkpb.Code_INVALID, strings.Repeat("d", 1<<20))
	if got := <-m.outcomes; got.Code != linkpb.Code_INVALID || len(got.Detail) != maxDetail {
		t.Errorf("%v, detail of %d bytes", got.Code, len(got.Detail))
	}
}

// A server that takes requests and answers none has the gateway remember no more of them than somebody still waits for.
func TestRequestsThatAreNeverAnswered(t *testing.T) {
	const topics = 200
	w := newWorld(t, 1)
	w.start()
	first := w.member("t:0")
	for i := range topics {
		m := *first
		m.topic, m.outcomes = fmt.Sprint("t:", i), make(chan Outcome, 9)
		m.onLoop(func() {
			m.join()
			a := m.local.Attend(m.topic, &m.channel)
			a.Track("key", []byte("{}"), m.done)
			m.leave()
			a.End(false)
		})
	}
	requests := func() int {
		l := w.r.everyLane()[0]
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.pending) + l.fetches
	}
	w.eventually("all is given up", func() bool { return requests() == 0 })
	// One that somebody waits for is remembered, and answered.
	last := w.member("t:last")
	last.onLoop(last.join)
	w.eventually("it is asked", func() bool { return requests() == 2 })
}

// A snapshot whose rest never comes, and members without end, end the lane.
func TestPresencesWithoutAnEnd(t *testing.T) {
	for name, more := range map[string]bool{"one change": true, "many changes": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			r, meta := w.r, fmt.Appendf(nil, `{"a":%q}`, strings.Repeat("b", 1000))
			s := r.shard("t:a")
			s.mu.Lock()
			p := r.presenceLocked(s, "t:a")
			p.watching = true
			s.mu.Unlock()
			in, n := &p.lane.in, 0
			d := &linkpb.PresenceDiff{Topic: "t:a", Snapshot: true, SettlingMs: 1000, More: more}
			for err := error(nil); err == nil; n += len(d.Joins) {
				if n > maxPresences/1000 {
					t.Fatal("no end")
				}
				d = &linkpb.PresenceDiff{Topic: "t:a", Snapshot: d.Snapshot, SettlingMs: 1000, More: more}
				for i := range 1000 {
					d.Joins = append(d.Joins, &linkpb.Presence{Ref: uint64(n + i + 1), Key: "k", Meta: meta})
				}
				err = in.presenceDiff(d)
			}
		})
	}
}

// Whether a name is lost is the business of the server that the ring gives it to, and of no other; nor does another one make the
// gateway ask it things.
func TestNamesOfOtherServers(t *testing.T) {
	w := newWorld(t, 2, never)
	w.run()
	wires := map[string]up{}
	for _, o := range w.owners {
		wires[o.id] = o.next()
	}
	w.eventually("all links are up", func() bool { return w.r.Ready() == nil })
	topic := NameTopic("bob")
	owner, other := w.owners[0], w.owners[1]
	if w.r.route(topic).server == other.id {
		owner, other = other, owner
	}
	own, foreign := wires[owner.id], wires[other.id]
	lost, heard, held := make(chan struct{}, 9), make(chan string, 9), make(chan Outcome, 9)
	n := &Name{Received: func(event string, _ []byte) { heard <- event }, Lost: func() { lost <- struct{}{} }}
	w.on(0, func() { w.r.Local(0).Register("bob", n, func(o Outcome) { held <- o }); w.r.Local(0).flush() })
	register := owner.expect("NAME_REGISTER reg:bob")
	register.send(linkpb.KindReply, &linkpb.Reply{Ref: register.ref})
	if o := <-held; !o.OK() {
		t.Fatal(o)
	}
	foreign.send(linkpb.KindNameLost, &linkpb.NameLost{Topic: topic, Claim: n.claim})
	foreign.send(linkpb.KindNameMessage, &linkpb.NameMessage{Topic: topic, Claim: n.claim + 1, Event: "nobody's"})
	foreign.send(linkpb.KindNameMessage, &linkpb.NameMessage{Topic: NameTopic("eve"), Claim: n.claim, Event: "another's"})
	foreign.send(linkpb.KindNameMessage, &linkpb.NameMessage{Topic: topic, Claim: n.claim, Event: "moved on"})
	if e := <-heard; e != "moved on" || len(lost) != 0 {
		t.Errorf("heard %q, lost %d", e, len(lost))
	}
	own.send(linkpb.KindNameMessage, &linkpb.NameMessage{Topic: topic, Claim: n.claim + 7, Event: "gone"})
	owner.expect("NAME_RELEASE reg:bob") // the owner is told that nobody has that claim, once
	own.send(linkpb.KindNameLost, &linkpb.NameLost{Topic: topic, Claim: n.claim})
	<-lost
}

// A flood of rings is built one at a time for each lane, and says little in the log.
func TestAFloodOfRings(t *testing.T) {
	w := newWorld(t, 1)
	w.run()
	hello := w.owners[0].next()
	w.eventually("the link is up", func() bool { return w.r.Ready() == nil })
	w.r.learnMu.Lock()
	running := runtime.NumGoroutine()
	for i := range uint64(1000) {
		hello.wire.Append(linkpb.KindDownRing, &linkpb.Ring{Version: 10 + i%500})
	}
	hello.wire.Flush()
	w.r.learnMu.Unlock()
	m := w.member("t:a")
	m.onLoop(m.join)
	w.owners[0].expect("subscribe t:a").accept(1, 1)
	m.wantOK(1, 1)
	if n := runtime.NumGoroutine(); n > running+20 {
		t.Errorf("%d goroutines, %d before", n, running)
	}
	const line = "ring of the topic server not taken"
	w.eventually("one is judged", func() bool { return w.logs.FilterMessage(line).Len() > 0 })
	if n := w.logs.FilterMessage(line).Len(); n > 100 {
		t.Errorf("%d lines", n)
	}
}
