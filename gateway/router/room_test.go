package router

import (
	"bytes"
	"testing"
	"time"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/linkpb"
)

// fill sends the member filler until its client, who does not read, has no room for n bytes more. It returns the number of
// frames.
func (m *member) fill(n int) (frames int) {
	m.t.Helper()
	for _, size := range []int{16 << 10, 128} {
		m.onLoop(func() {
			for m.conn.MakeRoom(n+size) && !m.conn.Closing() {
				m.conn.Send(socket.OpText, make([]byte, size))
				frames++
			}
		})
	}
	return frames
}

// tick does what the housekeeper does, at a time of the test's own.
func (m *member) tick(now time.Time) { m.onLoop(func() { m.local.expire(now) }) }

// hearsNothingBefore wants nothing to be under way to the owner: what the member publishes is next.
func (o *owner) hearsNothingBefore(m *member) {
	o.t.Helper()
	m.onLoop(func() { m.publish("0") })
	o.expect("publish "+m.topic+" e 0").accept(1, 1)
	if got := m.outcome(); got.Code != linkpb.Code_OK {
		o.t.Fatalf("published: %+v", got)
	}
}

// A client that has no room for what a join missed is not closed as slow: the join waits until it has read, however long
// that takes, and then gets all of it; others on the topic do not wait.
func TestAJoinWaitsUntilThereIsRoomForWhatItMissed(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	m, fresh := w.member("room"), w.member("room")
	frames := m.fill(frameMargin)
	m.resume(7, 5)
	o.expect("subscribe room since 7:5").recover(7, 5, 8)
	w.eventually("postponed", func() bool { return w.r.Stats().JoinsPostponed == 1 })
	fresh.onLoop(fresh.join)
	fresh.wantOK(7, 8)
	o.joins(fresh)
	later := w.member("room")
	later.resume(7, 7)
	o.expect("subscribe room since 7:7").recover(7, 7, 8) // which is no answer for m
	later.wantRecovered(7, 7)
	o.joins(later)
	later.hears(8)
	m.tick(time.Now().Add(24 * time.Hour))
	w.quiet(m)
	o.hearsNothingBefore(fresh) // there is no room yet

	m.onLoop(func() { m.local.joins["room"].joins[0].since = time.Now().Add(-24 * time.Hour) })
	for range frames {
		m.frame()
	}
	u := o.expect("subscribe room since 7:5")
	u.fanOut(7, 9)
	u.recover(7, 5, 9)
	m.wantRecovered(7, 5)
	o.joins(m)
	u.fanOut(7, 10)
	m.hears(6, 7, 8, 9, 10)
	fresh.hears(9, 10)
}

// The joins of one client take turns, and one that misses more than a queue may hold has its turn when nothing waits.
func TestJoinsOfAClientTakeTurns(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	m, probe := w.member("a"), w.member("probe")
	frames := m.fill(frameMargin)
	other := *m
	other.topic, other.outcomes = "b", make(chan Outcome, 4)
	other.channel.Conn, other.channel.JoinRef = m.conn, m.channel.JoinRef
	m.resume(1, 0)
	o.expect("subscribe a since 1:0").recover(1, 0, 2)
	other.resume(1, 0)
	o.expect("subscribe b since 1:0").recover(1, 0, 2)
	w.eventually("postponed", func() bool { return w.r.Stats().JoinsPostponed == 2 })
	m.onLoop(func() {
		for topic := range m.local.joins {
			m.local.joins[topic].joins[0].needs = m.local.loop.MaxQueueBytes() + 1 // as if they had missed that much
		}
	})
	for range frames {
		m.frame()
	}
	for range 2 {
		u := o.next()
		m.tick(time.Now())
		o.hearsNothingBefore(probe) // one is under way
		u.recover(1, 0, 2)
		who := m
		if u.topic == other.topic {
			who = &other
		}
		who.wantRecovered(1, 0)
		o.joins(who)
		who.hears(1, 2)
	}
}

// Who gives up a postponed join leaves nothing behind.
func TestAPostponedJoinIsTakenBack(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	m := w.member("room")
	m.fill(frameMargin)
	m.resume(7, 5)
	o.expect("subscribe room since 7:5").recover(7, 5, 8)
	w.eventually("postponed", func() bool { return w.r.Stats().JoinsPostponed == 1 })
	m.onLoop(m.leave)
	o.expect("unsubscribe room")
	w.quiet(m)
	m.onLoop(func() {
		if n := m.local.waits.Load(); n != 0 || len(m.local.joins) != 0 {
			t.Errorf("%d wait, for %d topics", n, len(m.local.joins))
		}
	})
}

// A client that missed more than its queue may hold gets all of it, also when the loop flushes for others while that is put into its
// queue, and though it reads nothing meanwhile.
func TestALongPastIsSentWholeThoughTheLoopFlushes(t *testing.T) {
	const messages, size = 16, 512 << 10
	w := newWorld(t, 1)
	o := w.start()
	m, other := w.member("room"), w.member("room")
	m.onLoop(func() {
		m.local.Join(m.topic, &m.channel, &hub.Position{Epoch: 1}, func(got Outcome) {
			m.conn.Send(socket.OpText, []byte("joined"))
			for range 9 { // so much is staged then that the loop flushes
				other.conn.Send(socket.OpText, make([]byte, 128<<10))
			}
			m.done(got)
		})
	})
	u := o.expect("subscribe room since 1:0")
	u.reply(1, messages, 0, messages)
	for offset := range uint64(messages) {
		item := messageItem("room", 1, offset+1)
		item.Payload = bytes.Repeat([]byte{'1'}, size)
		u.send(linkpb.KindMessage, item)
	}
	m.wantRecovered(1, 0)
	o.joins(m)
	if got := string(m.frame()); got != "joined" {
		t.Fatalf("member got %s", got)
	}
	for range messages {
		m.frame()
	}
	u.fanOut(1, messages+1)
	m.hears(messages + 1)
}
