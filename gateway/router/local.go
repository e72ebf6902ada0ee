package router

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/linkpb"
)

// Local is the router's face on one event loop. All its methods run on that loop.
type Local struct {
	// Static.
	r     *Router
	loop  *socket.Loop
	flush func() // flushLanes, bound once

	// Ended is called for each channel that the router ends by itself: its topic has lost messages that the channel
	// should have had, or its owner does not serve it any more. Called on the loop. Set before the first Join.
	Ended func(c *hub.Channel)

	// Owned by the loop.
	hub     *hub.Hub
	joins   map[string]*waiting // for the owner, by topic
	run     []*hub.Message      // being delivered together; nothing between the events of a batch
	touched []*lane             // have items appended since the last flush
	staged  int                 // bytes of publishes appended since the last flush
	names   map[uint64]*Name    // by claim; nil until there is one
	nextID  uint64              // of members of presences, and of claims to names
	gone    departures

	audiences map[string]*audience     // by topic
	tracks    map[*Attendance]struct{} // that have no outcome yet
	postponed map[*Attendance]struct{} // whose clients have no room for the state yet; nil until there is one
	looking   bool                     // lookForRoom has been called, and askPostponed not yet
	told      []*hub.Channel           // scratch

	waits   atomic.Int64 // number of topics in joins, of tracks and of the postponed, for the housekeeper
	backlog atomic.Int64 // bytes of messages that are posted to the loop and not handled
	batches sync.Pool    // of *batch

	channels atomic.Int64 // in hub; written by the loop only
}

// flushEvery is how many bytes of publishes are appended before they are sent within the turn. So a lane's backlog is
// known while one turn publishes much, and publishes are refused before the lane is full.
const flushEvery = 256 << 10

// waiting is the joins that wait for one subscription's answers. Invariant: joins is not empty.
type waiting struct {
	sub   *subscription
	joins []join
}

// join is a channel that waits for its topic to be subscribed.
type join struct {
	channel *hub.Channel
	place   *hub.Position // resume after this one; nil: from now on
	serial  uint64        // of the first answer that counts for it
	shared  bool          // that answer may be older than the join
	done    func(Outcome)
	since   time.Time
	needs   int  // bytes of what it missed, for which its client had no room; else 0
	asked   bool // its owner was asked again since
}

func newLocal(r *Router, loop *socket.Loop) *Local {
	l := &Local{
		r: r, loop: loop, hub: hub.New(),
		joins:     make(map[string]*waiting),
		audiences: make(map[string]*audience),
		tracks:    make(map[*Attendance]struct{}),
		nextID:    uint64(loop.Index()) << 56, // so that ids of different loops never meet
		Ended:     func(*hub.Channel) {},
	}
	l.flush = l.flushLanes
	loop.Relieved(l.hub.Relieve)
	return l
}

// Join makes the channel receive the topic's messages and calls done, on the loop, perhaps before Join returns. After
// an OK outcome the channel receives every message after the outcome's position and none up to it. That is place, if
// one is given and everything behind it is remembered; then the outcome is Recovered, and what was missed comes before
// anything else. After any other outcome it is not joined. If Leave comes first, done is not called.
func (l *Local) Join(topic string, c *hub.Channel, place *hub.Position, done func(Outcome)) {
	w := l.joins[topic]
	// Only the subscription knows whether messages flow, so a join asks even where the loop has channels already.
	t := l.r.subscribe(topic, l.loop.Index(), place)
	if w != nil && w.sub != t.sub {
		l.abandon(topic, w)
		w = nil
	}
	if t.flows && (w == nil || w.postponed()) {
		l.r.joinTimes.add(0)
		l.answer(done, Outcome{Position: l.enter(topic, c, t.pos)})
		return
	}
	if w == nil {
		w = &waiting{sub: t.sub}
		l.joins[topic] = w
		l.waits.Add(1)
	}
	w.joins = append(w.joins, join{channel: c, place: place, serial: t.serial, shared: t.shared, done: done, since: time.Now()})
	l.touch(t.sub.lane)
}

// abandon ends joins that wait for a subscription that is no more.
func (l *Local) abandon(topic string, w *waiting) {
	delete(l.joins, topic)
	l.waits.Add(-1)
	for _, j := range w.joins {
		l.answer(j.done, Outcome{Code: linkpb.Code_UNAVAILABLE, Detail: "the topic's owner does not serve it"})
	}
}

// enter puts the channel into the hub and tells the owner of its new subscriber.
func (l *Local) enter(topic string, c *hub.Channel, from hub.Position) hub.Position {
	from = l.hub.Add(topic, c, from)
	l.channels.Add(1)
	l.tell(topic, linkpb.KindJoin, &linkpb.Join{Topic: topic, Subscriber: c.Subscriber()})
	return from
}

// tell sends the owner an item that has no reply, within noticeDelay.
func (l *Local) tell(topic string, kind linkpb.Kind, item linkpb.Item) {
	if lane := l.r.laneOf(topic); lane != nil {
		lane.notice(kind, item)
	}
}

// Own says that the channel is not to get the message that it has published at p.
func (l *Local) Own(c *hub.Channel, p hub.Position) { l.hub.Own(c, p) }

// Leave ends what Join began. It does nothing to a channel that has ended already.
func (l *Local) Leave(topic string, c *hub.Channel) {
	if c.Topic() == "" {
		l.cancel(topic, c)
		return
	}
	if !c.Conn.Closing() { // else Departing has noted it
		l.depart(c, "left", l.hub.Staged(c))
	}
	last := l.hub.Remove(c)
	l.channels.Add(-1)
	l.tell(topic, linkpb.KindLeave, &linkpb.Leave{Topic: topic, Subscriber: c.Subscriber()})
	// Joins that wait are the loop's interest too. Their answer may be in the loop's queue already: who lets go of the
	// topic now misses what comes until they are handled.
	if last && l.joins[topic] == nil {
		l.r.release(topic, l.loop.Index())
	}
}

// cancel takes a waiting join back. The loop's interest ends when nobody waits any more.
func (l *Local) cancel(topic string, c *hub.Channel) {
	w := l.joins[topic]
	if w == nil {
		return
	}
	w.joins = slices.DeleteFunc(w.joins, func(j join) bool { return j.channel == c })
	if len(w.joins) == 0 {
		l.settle(topic)
	}
}

// settle forgets that joins wait for the topic, and the loop's interest if it has no channel on it.
func (l *Local) settle(topic string) {
	delete(l.joins, topic)
	l.waits.Add(-1)
	if l.hub.Channels(topic) == 0 {
		l.r.release(topic, l.loop.Index())
	}
}

// Publish sends a message to the topic's owner and calls done on this loop when the owner has answered, or when it
// is clear that it will not. Payload and Trace are copied.
func (l *Local) Publish(p *linkpb.Publish, done func(Outcome)) {
	own := &publish{local: l, done: done, since: time.Now()}
	r := &own.req
	r.Topic, r.Event, r.Payload, r.Binary = p.Topic, p.Event, slices.Clone(p.Payload), p.Binary
	r.IdHigh, r.IdLow = p.IdHigh, p.IdLow
	own.beginSpan(p.Trace)
	r.Name = p.Name
	lane, code := l.r.publish(own)
	if code != linkpb.Code_OK {
		own.ended(refusal(code))
		done(refusal(code))
		return
	}
	l.touch(lane)
	if l.staged += len(p.Payload); l.staged >= flushEvery {
		l.flushLanes()
	}
}

// touch makes the lane be flushed at the end of the loop's turn: one batch for all that the turn's frames caused.
func (l *Local) touch(lane *lane) {
	if slices.Contains(l.touched, lane) {
		return
	}
	if len(l.touched) == 0 {
		l.loop.Post(l.flush)
	}
	l.touched = append(l.touched, lane)
}

func (l *Local) flushLanes() {
	for i, lane := range l.touched {
		lane.flush()
		l.touched[i] = nil
	}
	l.touched, l.staged = l.touched[:0], 0
}

// subscribed ends the joins that waited for an answer. Those for which it came too early, or that wait for a later
// subscription of the topic, wait on.
func (l *Local) subscribed(e *event) {
	topic := e.sub.name
	w := l.joins[topic]
	if w == nil || w.sub != e.sub {
		return
	}
	var ready []join
	now := time.Now()
	w.joins = slices.DeleteFunc(w.joins, func(j join) bool {
		if j.serial > e.serial || j.postponed() {
			return false
		}
		l.r.joinTimes.add(now.Sub(j.since))
		ready = append(ready, j)
		return true
	})
	if !e.outcome.OK() {
		if len(w.joins) == 0 {
			l.settle(topic)
		}
		for _, j := range ready {
			l.answer(j.done, e.outcome)
		}
		return
	}
	for _, j := range ready {
		if j.shared && ahead(j.place, e.outcome.Position) {
			l.ask(topic, w, j)
			continue
		}
		l.complete(topic, w, j, e)
	}
	if len(w.joins) == 0 {
		l.settle(topic)
	}
}

// ahead reports whether a client has been farther than an answer knows: it was, over another gateway, when the answer was
// on its way already.
func ahead(place *hub.Position, top hub.Position) bool {
	return place != nil && place.Epoch == top.Epoch && place.Offset > top.Offset
}

// ask has a join wait for an answer that is newer than itself.
func (l *Local) ask(topic string, w *waiting, j join) {
	t := l.r.subscribe(topic, l.loop.Index(), j.place)
	if t.sub != w.sub {
		l.answer(j.done, Outcome{Code: linkpb.Code_UNAVAILABLE, Detail: "the topic's owner does not serve it"})
		return
	}
	j.serial, j.shared = t.serial, false
	w.joins = append(w.joins, j)
	l.touch(t.sub.lane)
}

// complete joins one channel. What it missed comes behind the reply and before anything else, and if its client has no room
// for that, the join is postponed.
func (l *Local) complete(topic string, w *waiting, j join, e *event) {
	top := e.outcome.Position
	f := fetch{reply: e.outcome, from: e.from}
	if j.place == nil || !f.covers(*j.place) {
		from := l.enter(topic, j.channel, top)
		l.answer(j.done, Outcome{Position: from})
		return
	}
	missed := missedBehind(e.past, j.place.Offset)
	send := func() {
		l.answer(j.done, Outcome{Position: *j.place, Recovered: true})
		for _, m := range missed {
			l.hub.Send(j.channel, m)
		}
	}
	if needs := bytesOf(missed); needs == 0 || j.channel.Slow != hub.SlowClose {
		send()
	} else if !j.channel.Conn.SendRun(needs, send) {
		l.postponeJoin(w, j, needs)
		return
	}
	if j.asked {
		l.lookForRoom()
	}
	l.enter(topic, j.channel, top)
	j.channel.From = j.place.Offset
}

// expire ends the joins that have waited too long, and goes on with what was postponed.
func (l *Local) expire(now time.Time) {
	l.askPostponed(now)
	l.expireTracks(now)
	for a := range l.postponed {
		a.Show()
	}
	for topic, w := range l.joins {
		var late []join
		w.joins = slices.DeleteFunc(w.joins, func(j join) bool {
			if j.postponed() || now.Sub(j.since) < l.r.cfg.JoinTimeout {
				return false
			}
			l.r.joinTimes.add(l.r.cfg.JoinTimeout)
			late = append(late, j)
			return true
		})
		if len(w.joins) == 0 {
			l.settle(topic)
		}
		for _, j := range late {
			l.answer(j.done, Outcome{Code: linkpb.Code_UNAVAILABLE, Detail: "the topic's owner does not answer"})
		}
	}
}

// end ends the topic's channels on this loop, because the outcome of its subscription shows that they have missed
// messages. Channels that joined after what was missed stay, but if the topic is rewound: what is published from there on
// would pass all of them by. Joins that wait for the topic are no part of what is lost; their answer comes right behind.
func (l *Local) end(topic string, o Outcome, rewound bool) {
	last, ok := l.hub.Last(topic)
	if !ok || o.OK() && last.Reached(o.Position) && !rewound {
		return
	}
	for c := range l.hub.ChannelsOf(topic) {
		l.depart(c, "told by phx_error that messages were lost", l.hub.Staged(c))
	}
	channels := l.hub.Clear(topic)
	l.channels.Add(-int64(len(channels)))
	if l.joins[topic] == nil {
		l.r.release(topic, l.loop.Index())
	}
	for _, c := range channels {
		l.Ended(c)
	}
}

// announceTopic tells a topic's owner who its subscribers on this loop are: a new owner, or one over a new connection.
func (l *Local) announceTopic(topic string) {
	for c := range l.hub.ChannelsOf(topic) {
		l.tell(topic, linkpb.KindJoin, &linkpb.Join{Topic: topic, Subscriber: c.Subscriber()})
	}
}

// eventKind says what an event asks of a loop.
type eventKind uint8

const (
	eventMessage eventKind = iota
	eventDone
	eventSubscribed
	eventEnd
	eventRewound // eventEnd, and positions begin again below those that were delivered
	eventAnnounce
	eventName
	eventNameLost
)

// event is one thing that came down a lane for a loop.
type event struct {
	kind    eventKind
	message *hub.Message
	sub     *subscription
	done    func(Outcome)
	outcome Outcome // of eventName: NOT_OWNER if the ring gives the name to another server than the one that sent it

	// Of eventSubscribed.
	serial uint64
	from   *hub.Position
	past   []*hub.Message

	name *linkpb.NameMessage // of eventName and eventNameLost
}

// size is what the event counts in a loop's backlog: about the memory that it keeps.
func (e *event) size() int64 {
	switch e.kind {
	case eventMessage:
	case eventName:
		return int64(len(e.name.Payload)) + 256
	default:
		return 0
	}
	return int64(len(e.message.Payload)) + 256
}

// batch is what one batch of a lane has for one loop. Batches are used again: a lane's batch allocates nothing here.
type batch struct {
	local  *Local
	events []event
	size   int64  // of the events
	timed  func() // called when what they staged is written; mostly nil

	isSmall   func() bool // small and handle, bound once
	handleAll func()
}

// maxKept is the most events for which a batch's memory is kept.
const maxKept = 1024

func (l *Local) newBatch() *batch {
	if b, ok := l.batches.Get().(*batch); ok {
		return b
	}
	b := &batch{local: l}
	b.isSmall, b.handleAll = b.small, b.handle
	return b
}

// maxSmall is how many frames a lane's goroutine delivers itself rather than wake the loop. Other loops and the lane's
// next batch wait that long.
const maxSmall = 16

// small reports whether the batch is so little work that waking the loop for it would cost more. Called as the loop.
func (b *batch) small() bool {
	frames := 0
	for i := range b.events {
		switch e := &b.events[i]; e.kind {
		case eventMessage:
			frames += b.local.hub.Channels(e.message.Topic)
		case eventDone, eventSubscribed:
			frames++
		default:
			return false
		}
		if frames > maxSmall {
			return false
		}
	}
	return true
}

// handle does what came down the lane, in its order.
func (b *batch) handle() {
	l := b.local
	l.backlog.Add(-b.size)
	l.handle(b.events)
	if b.timed != nil {
		l.loop.AfterFlush(b.timed)
		b.timed = nil
	}
	if cap(b.events) > maxKept {
		b.events = nil
	}
	clear(b.events)
	b.events, b.size = b.events[:0], 0
	l.batches.Put(b)
}

// collect puts the messages of one topic that follow each other in events, from index i on, into run, and returns the
// index of the last event it has seen to. Answers to publishes among them come first: an answer may stand before
// messages that were published earlier, only not behind the publisher's own copy.
func (l *Local) collect(events []event, i int) (last int) {
	topic := events[i].message.Topic
	l.run = l.run[:0]
	for ; i < len(events); i++ {
		switch e := &events[i]; {
		case e.kind == eventMessage && e.message.Topic == topic:
			l.run = append(l.run, e.message)
		case e.kind == eventDone:
			e.done(e.outcome)
		default:
			return i - 1
		}
	}
	return i - 1
}

// handle does what events ask, in their order but for what collect says.
func (l *Local) handle(events []event) {
	deliveries, unfit := 0, 0
	for i := 0; i < len(events); i++ {
		switch e := &events[i]; e.kind {
		case eventMessage:
			i = l.collect(events, i)
			n, u := l.hub.Deliver(l.loop, l.run...)
			for _, m := range l.run {
				if m.Traced != nil {
					l.traceDelivery(m, l.hub.Channels(m.Topic))
				}
			}
			deliveries, unfit = deliveries+n, unfit+u
		case eventDone:
			e.done(e.outcome)
		case eventSubscribed:
			l.subscribed(e)
		case eventEnd, eventRewound:
			l.end(e.sub.name, e.outcome, e.kind == eventRewound)
		case eventAnnounce:
			l.announceTopic(e.sub.name)
		case eventName:
			l.nameMessage(e.name, e.outcome.Code != linkpb.Code_NOT_OWNER)
		case eventNameLost:
			l.nameLost(e.name)
		}
	}
	clear(l.run)
	l.r.stats.deliveries.Add(uint64(deliveries))
	if unfit > 0 {
		l.r.stats.unfit.Add(uint64(unfit))
	}
}
