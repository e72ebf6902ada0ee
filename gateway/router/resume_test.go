package router

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/proto/linkpb"
)

// A join with a place gets what is behind it, if all of that is remembered, or learns that it does not.
func TestResume(t *testing.T) {
	for _, tt := range []struct {
		name          string
		epoch, offset uint64
		answer        func(u up)
		recovered     bool
		at            uint64   // the outcome's offset
		hears         []uint64 // before offset 9, which comes live
	}{
		{"recovered", 7, 5, func(u up) { u.recover(7, 5, 8) }, true, 5, []uint64{6, 7, 8}},
		{"more is replayed than was missed", 7, 5, func(u up) { u.recover(7, 3, 8) }, true, 5, []uint64{6, 7, 8}},
		{"nothing was missed", 7, 8, func(u up) { u.recover(7, 8, 8) }, true, 8, nil},
		{"nothing was missed, nothing is remembered", 7, 8, func(u up) { u.accept(7, 8) }, true, 8, nil},
		{"from the very beginning", 7, 0, func(u up) { u.recover(7, 0, 8) }, true, 0, []uint64{1, 2, 3, 4, 5, 6, 7, 8}},
		{"not remembered", 7, 5, func(u up) { u.accept(7, 8) }, false, 8, nil},
		{"not all is remembered", 7, 5, func(u up) { u.recover(7, 6, 8) }, false, 8, nil},
		{"beyond the top", 7, 9, func(u up) { u.reply(7, 8, 9, 0) }, false, 8, nil},
		{"beyond the top, not remembered", 7, 9, func(u up) { u.accept(7, 8) }, false, 8, nil},
		{"another epoch", 6, 5, func(u up) { u.accept(7, 8) }, false, 8, nil},
		{"another epoch, the topic's own offset", 6, 8, func(u up) { u.accept(7, 8) }, false, 8, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, 1)
			o := w.start()
			m := w.member("room")
			m.resume(tt.epoch, tt.offset)
			u := o.expect(fmt.Sprintf("subscribe room since %d:%d", tt.epoch, tt.offset))
			tt.answer(u)
			got, want := m.outcome(), Outcome{Position: hub.Position{Epoch: 7, Offset: tt.at}, Recovered: tt.recovered}
			if got != want {
				t.Fatalf("outcome %+v, want %+v", got, want)
			}
			o.joins(m)
			u.fanOut(7, 9)
			m.hears(append(tt.hears, 9)...)
		})
	}
}

// Joins that wait at the same time are served by one fetch if it asks for what they need, and by the next one else.
func TestOneFetchServesManyJoins(t *testing.T) {
	w := newWorld(t, 1, twoLoops(t))
	o := w.start()
	fresh, low, high, same, lower := w.member("room"), w.member("room"), w.member("room"), w.member("room"), w.member("room")
	low.resume(1, 5)
	u := o.expect("subscribe room since 1:5")
	fresh.onLoop(fresh.join)
	high.resume(1, 7)
	same.resume(1, 5)
	lower.resume(1, 4)
	u.recover(1, 5, 8)
	again := o.expect("subscribe room since 1:4")
	fresh.wantOK(1, 8)
	low.wantRecovered(1, 5)
	high.wantRecovered(1, 7)
	same.wantRecovered(1, 5)
	low.hears(6, 7, 8)
	high.hears(8)
	same.hears(6, 7, 8)
	o.joins(fresh, low, high, same)
	w.quiet(lower)
	u.fanOut(1, 9) // while lower waits
	again.recover(1, 4, 9)
	lower.wantRecovered(1, 4)
	lower.hears(5, 6, 7, 8, 9)
	again.fanOut(1, 10)
	for _, m := range []*member{fresh, high} {
		m.hears(9, 10)
	}
	lower.hears(10)
	o.joins(lower)
	select {
	case u := <-o.ups:
		t.Errorf("the owner is asked for more: %s", u.text)
	default:
	}
}

// The next fetch is sent though the one before completes no join.
func TestNextFetchAfterACanceledJoin(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	low, lower := w.member("room"), w.member("room")
	low.resume(1, 5)
	u := o.expect("subscribe room since 1:5")
	lower.resume(1, 4)
	low.onLoop(low.leave)
	u.recover(1, 5, 6)
	o.expect("subscribe room since 1:4").recover(1, 4, 6)
	lower.wantRecovered(1, 4)
	lower.hears(5, 6)
	w.quiet(low)
}

// A join that waits keeps the loop's interest when the channel that was there leaves.
func TestResumeWhileTheLastOtherLeaves(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	a, sub := w.joined(o, "room", 1, 5)
	b := w.member("room")
	b.resume(1, 3)
	u := o.expect("subscribe room since 1:3")
	a.onLoop(a.leave)
	sub.fanOut(1, 6) // for nobody
	u.recover(1, 3, 6)
	b.wantRecovered(1, 3)
	b.hears(4, 5, 6)
	u.fanOut(1, 7)
	b.hears(7)
}

// Who resumes on a topic that others of the gateway have gets its past alone.
func TestResumeWhileMessagesFlow(t *testing.T) {
	w := newWorld(t, 1, twoLoops(t))
	o := w.start()
	a, sub := w.joined(o, "room", 1, 5)
	b, c := w.member("room"), w.member("room") // on the other loop, and on a's
	sub.fanOut(1, 6)
	a.hears(6)
	b.resume(1, 3)
	u := o.expect("subscribe room since 1:3")
	c.resume(1, 4)
	sub.fanOut(1, 7) // before the answer: for a alone
	a.hears(7)
	u.recover(1, 3, 7)
	b.wantRecovered(1, 3)
	c.wantRecovered(1, 4)
	sub.fanOut(1, 8)
	a.hears(8)
	b.hears(4, 5, 6, 7, 8)
	c.hears(5, 6, 7, 8)
	if s := w.r.Stats(); s.Gaps != 0 || s.Stray != 0 || s.Resyncs != 0 || s.Messages != 3 || s.Replayed != 0 {
		t.Errorf("%+v", s)
	}
}

// A fetch asks for places of a few epochs only, whatever clients come with.
func TestPlacesOfManyEpochs(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	m := w.member("room")
	m.outcomes = make(chan Outcome, 100)
	m.resume(1, 1)
	first := o.expect("subscribe room since 1:1")
	for epoch := range uint64(50) {
		other := w.member("room")
		other.outcomes = m.outcomes
		other.resume(100+epoch, 1)
	}
	first.accept(500, 1)
	if next := o.next(); len(next.since) != maxWants {
		t.Errorf("%s", next.text)
	} else {
		next.accept(500, 2)
	}
	for range 51 {
		if out := m.outcome(); !out.OK() || out.Recovered {
			t.Errorf("%+v", out)
		}
	}
}

// What a cut took is fetched with the new link, and nobody hears anything twice.
func TestGapIsFilledAfterTheCut(t *testing.T) {
	w := newWorld(t, 1, twoLoops(t))
	o := w.start()
	a, sub := w.joined(o, "room", 1, 5)
	b := w.member("room")
	b.onLoop(b.join)
	b.wantOK(1, 5)
	o.joins(b)
	sub.fanOut(1, 6)
	a.hears(6)
	b.hears(6)
	sub = w.relink(o, sub, 3)["subscribe room since 1:6"]
	c := w.member("room")
	c.onLoop(c.join) // waits for the answer
	sub.recover(1, 6, 8)
	sub.fanOut(1, 8, 9) // 8 once more
	for _, m := range []*member{a, b} {
		m.hears(7, 8, 9)
	}
	c.wantOK(1, 8)
	c.hears(9)
	if s := w.r.Stats(); s.Gaps != 0 || s.Replayed != 2 || s.Stray != 1 {
		t.Errorf("%+v", s)
	}
}

// An answer that comes in part before the next cut is asked for anew.
func TestCutWithinTheAnswer(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	a, sub := w.joined(o, "room", 1, 5)
	sub = w.relink(o, sub, 2)["subscribe room since 1:5"]
	sub.reply(1, 7, 5, 2)
	sub.fanOut(1, 6)
	w.eventually("half of the answer is here", func() bool {
		s := w.r.shard("room")
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.topics["room"].fetch.missing == 1
	})
	sub = w.relink(o, sub, 2)["subscribe room since 1:5"]
	sub.recover(1, 5, 7)
	a.hears(6, 7)
}

// A tail that was lost shows in the next digest, a hole in the middle in the next message.
func TestLossIsFoundAndFetched(t *testing.T) {
	for _, tt := range []struct {
		name  string
		signs func(u up)
	}{
		{"digest", func(u up) { u.digest(1, 8) }},
		{"jump", func(u up) { u.fanOut(1, 8) }},
		{"both, more than once", func(u up) { u.fanOut(1, 8); u.digest(1, 8); u.fanOut(1, 8) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, 1)
			o := w.start()
			a, sub := w.joined(o, "room", 1, 5)
			sub.digest(1, 5) // tells nothing new
			sub.fanOut(1, 6)
			a.hears(6)
			tt.signs(sub)
			u := o.expect("subscribe room since 1:6")
			u.recover(1, 6, 8)
			sub.fanOut(1, 9)
			a.hears(7, 8, 9)
			if s := w.r.Stats(); s.Resyncs != 1 || s.Gaps != 0 || s.Replayed != 2 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// An owner that goes back within an epoch, whatever has come over it, gives offsets out again that clients have seen. What it
// publishes then must not pass for what was delivered already: the channels are told, and go on from where it is.
func TestAnOwnerThatGoesBack(t *testing.T) {
	for name, back := range map[string]func(o *owner, conn up) up{
		"over a new connection": func(o *owner, conn up) up {
			conn.cut()
			return o.expect("hello gw 0/1", "subscribe t:a since 1:101")
		},
		"as a digest shows": func(o *owner, conn up) up {
			conn.fanOut(1, 50, 51)
			conn.digest(1, 51)
			return o.expect("subscribe t:a since 1:101")
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, never)
			o := w.start()
			m, conn := w.joined(o, "t:a", 1, 100)
			conn.fanOut(1, 101)
			m.hears(101)
			sub := back(o, conn)
			sub.accept(1, 51)
			m.wantEnded()
			if n := w.r.Stats().Gaps; n != 1 {
				t.Errorf("%d gaps are counted", n)
			}
			again := w.member("t:a")
			again.onLoop(again.join)
			again.wantOK(1, 51)
			sub.fanOut(1, 52)
			again.hears(52)
		})
	}
}

// What cannot be fetched any more is told.
func TestLossThatIsForGood(t *testing.T) {
	for name, sign := range map[string]func(u up){
		"digest":      func(u up) { u.digest(1, 9) },
		"other epoch": func(u up) { u.fanOut(2, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, never)
			o := w.start()
			a, sub := w.joined(o, "room", 1, 5)
			sign(sub)
			o.expect("subscribe room since 1:5").accept(2, 9)
			a.wantEnded()
			a.onLoop(a.join)
			a.wantOK(2, 9)
			sub.fanOut(2, 10)
			a.hears(10)
		})
	}
}

// A server that says nothing any more, not even to pings, costs the link; one that answers pings does not.
func TestRow44_SilentServer(t *testing.T) {
	w := newWorld(t, 1, func(c *Config) { c.Heartbeat = 20 * time.Millisecond })
	o := w.start()
	o.mute.Store(true)
	w.eventually("the link is lost, and the log says so", func() bool { return w.logs.FilterMessage("link lost; dialing again").Len() > 0 })
	o.expect("hello gw 0/1")
	o.mute.Store(false)
	w.eventually("the link is back", func() bool { return w.r.Ready() == nil })
}

// remembering plays an owner of one topic that forgets nothing until the test ends, and cuts the lane now and then if
// asked to.
func (o *owner) remembering(cuts bool) {
	var wg sync.WaitGroup
	o.t.Cleanup(wg.Wait)
	wg.Go(func() {
		ids, top, subscribed := make(map[[2]uint64]uint64), uint64(0), false
		for {
			var u up
			select {
			case u = <-o.ups:
			case <-o.t.Context().Done():
				return
			}
			switch u.kind {
			case linkpb.KindHello:
				subscribed = false
			case linkpb.KindUnsubscribe:
				subscribed = false
			case linkpb.KindSubscribe:
				subscribed = true
				from := top
				for _, p := range u.since {
					from = min(from, p.Offset)
				}
				u.recover(1, from, top)
			case linkpb.KindPublish:
				if at := ids[u.id]; at != 0 {
					u.accept(1, at)
					continue
				}
				top++
				ids[u.id] = top
				if cuts && rand.N(20) == 0 {
					u.cut() // appended, and not answered
					continue
				}
				u.accept(1, top)
				if subscribed {
					u.fanOut(1, top)
				}
			}
		}
	})
}

// Clients that stay hear everything once and in order, clients that come and go resume where they were, while others
// publish and the link is cut now and then.
func TestNobodyMissesAnything(t *testing.T) {
	const publishers, each = 3, 100
	w := newWorld(t, 1, twoLoops(t), never)
	o := w.start()
	o.remembering(true)
	stay := []*member{w.member("room"), w.member("room")}
	for _, m := range stay {
		m.onLoop(m.join)
		m.wantOK(1, 0)
	}
	var wg sync.WaitGroup
	for range publishers {
		p := w.member("room")
		wg.Go(func() {
			for range each {
				p.onLoop(func() { p.publish("0") })
				if out := p.outcome(); !out.OK() {
					t.Errorf("publish: %+v", out)
					return
				}
			}
		})
	}
	for range 2 {
		guest := w.member("room")
		wg.Go(func() {
			for at := uint64(0); at < publishers*each; {
				guest.resume(1, at)
				guest.wantRecovered(1, at)
				for range 1 + rand.N(7) {
					if at++; at <= publishers*each {
						guest.hears(at)
					}
				}
				if at < publishers*each {
					guest.onLoop(func() { guest.leave() })
					at = guest.drain(at)
				}
			}
		})
	}
	for _, m := range stay {
		for offset := uint64(1); offset <= publishers*each; offset++ {
			m.hears(offset)
		}
	}
	wg.Wait()
	if s := w.r.Stats(); s.Gaps != 0 {
		t.Errorf("%+v", s)
	}
}

// drain reads what was sent before the member left and returns the last offset.
func (m *member) drain(at uint64) uint64 {
	m.t.Helper()
	m.onLoop(func() { m.conn.Send(1, []byte("left")) })
	for {
		got := m.read()
		if got == "left" {
			return at
		}
		at++
		if want := fmt.Sprintf(`["1",null,%q,"e",%d]`, m.topic, at); got != want {
			m.t.Errorf("member got %s, want %s", got, want)
		}
	}
}

// A client drops its socket and is back on the same loop before the drop is noticed: what it joins for must not end with
// its old channel, which is the last one there, wherever the answer is at that moment.
func TestTheLastChannelLeavesWhileOneResumes(t *testing.T) {
	for _, tt := range []struct {
		name     string
		answered bool // the answer waits in the loop's queue
	}{{"before the answer", false}, {"before the answer is handled", true}} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, 1)
			o := w.start()
			old, _ := w.joined(o, "room", 7, 5)
			back := w.member("room")
			back.resume(7, 5)
			u := o.expect("subscribe room since 7:5")
			if !tt.answered {
				old.onLoop(old.leave)
				u.recover(7, 5, 6)
			} else {
				do, release := w.hold(0)
				u.recover(7, 5, 6)
				w.eventually("the answer is posted", func() bool {
					s := w.r.shard("room")
					s.mu.Lock()
					defer s.mu.Unlock()
					return s.topics["room"].last.Offset == 6
				})
				do(old.leave)
				release()
			}
			u.fanOut(7, 7)
			back.wantRecovered(7, 5)
			back.hears(6, 7)
		})
	}
}

// A client that was farther over another gateway than the answer that it shares is asked for anew, once.
func TestAResumeAheadOfASharedAnswer(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	first, ahead, liar := w.member("room"), w.member("room"), w.member("room")
	first.resume(7, 5)
	u := o.expect("subscribe room since 7:5")
	ahead.resume(7, 9)
	liar.resume(7, 99)
	u.recover(7, 5, 8)
	first.wantRecovered(7, 5)
	first.hears(6, 7, 8)
	o.joins(first)
	u = o.expect("subscribe room since 7:8")
	u.fanOut(7, 9, 10)
	u.recover(7, 8, 10)
	ahead.wantRecovered(7, 9)
	ahead.hears(10)
	liar.wantOK(7, 10)
	first.hears(9, 10)
	u.fanOut(7, 11)
	for _, m := range []*member{first, ahead, liar} {
		m.hears(11)
	}
}
