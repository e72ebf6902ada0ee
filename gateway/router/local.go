package router

import (
	"slices"
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
	// should have had, or its owner does not serve it any more. Set before the first Join.
	Ended func(c *hub.Channel)

	// Owned by the loop.
	hub     *hub.Hub
	joins   map[string][]join // waiting for the owner, by topic
	touched []*lane           // have items appended since the last flush
	nextID  uint64

	waits atomic.Int64 // number of topics in joins, for the housekeeper
}

// join is a channel that waits for its topic to be subscribed.
type join struct {
	channel *hub.Channel
	done    func(Outcome)
	since   time.Time
}

func newLocal(r *Router, loop *socket.Loop) *Local {
	l := &Local{
		r: r, loop: loop, hub: hub.New(),
		joins:  make(map[string][]join),
		nextID: uint64(loop.Index()) << 56, // so that ids of different loops never meet
		Ended:  func(*hub.Channel) {},
	}
	l.flush = l.flushLanes
	return l
}

// Join makes the channel receive the topic's messages and calls done, on the loop, perhaps before Join returns. After
// an OK outcome the channel receives every message after the outcome's position. After any other it is not joined. If
// Leave comes first, done is not called.
func (l *Local) Join(topic string, c *hub.Channel, done func(Outcome)) {
	l.nextID++
	c.ID = l.nextID
	if waiting, ok := l.joins[topic]; ok {
		l.joins[topic] = append(waiting, join{c, done, time.Now()})
		return
	}
	// Only the receiver of the lane knows the position, so a join asks even where the loop has channels already.
	if pos, ok := l.r.subscribe(topic, l.loop.Index()); ok {
		l.enter(topic, c)
		done(Outcome{Position: pos})
		return
	}
	l.joins[topic] = []join{{c, done, time.Now()}}
	l.waits.Add(1)
	l.touch(l.r.lane(topic))
}

// enter puts the channel into the hub and tells the owner of its new subscriber.
func (l *Local) enter(topic string, c *hub.Channel) {
	l.hub.Add(topic, c)
	lane := l.r.lane(topic)
	lane.tell(linkpb.KindJoin, &linkpb.Join{Topic: topic, Subscriber: c.ID})
	l.touch(lane)
}

// Leave ends what Join began. It does nothing to a channel that has ended already.
func (l *Local) Leave(topic string, c *hub.Channel) {
	if c.Topic() == "" {
		l.cancel(topic, c)
		return
	}
	last := l.hub.Remove(c)
	lane := l.r.lane(topic)
	lane.tell(linkpb.KindLeave, &linkpb.Leave{Topic: topic, Subscriber: c.ID})
	l.touch(lane)
	if last {
		l.r.release(topic, l.loop.Index())
	}
}

// cancel takes a waiting join back. The loop's interest ends when the owner answers and nobody waits.
func (l *Local) cancel(topic string, c *hub.Channel) {
	if _, ok := l.joins[topic]; !ok {
		return
	}
	l.joins[topic] = slices.DeleteFunc(l.joins[topic], func(j join) bool { return j.channel == c })
	if len(l.joins[topic]) == 0 {
		l.settle(topic)
	}
}

// settle forgets that joins wait for the topic, and the loop's interest if it has no channel on it.
func (l *Local) settle(topic string) {
	if _, waiting := l.joins[topic]; !waiting {
		return
	}
	delete(l.joins, topic)
	l.waits.Add(-1)
	if l.hub.Channels(topic) == 0 {
		l.r.release(topic, l.loop.Index())
	}
}

// Publish sends a message to the topic's owner and calls done on this loop when the owner has answered, or when it
// is clear that it will not. Payload is copied.
func (l *Local) Publish(p *linkpb.Publish, done func(Outcome)) {
	lane := l.r.lane(p.Topic)
	if code := lane.publish(p, l, done); code != linkpb.Code_OK {
		done(refusal(code))
		return
	}
	l.touch(lane)
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
	l.touched = l.touched[:0]
}

// subscribed ends the joins that waited for the topic.
func (l *Local) subscribed(topic string, o Outcome) {
	joins := l.joins[topic]
	if o.OK() {
		for _, j := range joins {
			l.enter(topic, j.channel)
		}
	}
	l.settle(topic)
	for _, j := range joins {
		j.done(o)
	}
}

// expire ends the joins that have waited too long.
func (l *Local) expire(now time.Time) {
	for topic, joins := range l.joins {
		var late []join
		kept := joins[:0:0]
		for _, j := range joins {
			if now.Sub(j.since) >= l.r.cfg.JoinTimeout {
				late = append(late, j)
			} else {
				kept = append(kept, j)
			}
		}
		if len(late) == 0 {
			continue
		}
		l.joins[topic] = kept
		if len(kept) == 0 {
			l.settle(topic)
		}
		for _, j := range late {
			j.done(Outcome{Code: linkpb.Code_UNAVAILABLE, Detail: "the topic's owner does not answer"})
		}
	}
}

// end ends all channels of the topic on this loop. Joins that wait for the topic are no part of what is lost; their
// answer comes right behind.
func (l *Local) end(topic string) {
	channels := l.hub.Clear(topic)
	if _, waiting := l.joins[topic]; !waiting {
		l.r.release(topic, l.loop.Index())
	}
	for _, c := range channels {
		l.Ended(c)
	}
}

// announce tells the owner at the other end of a new connection who this loop's subscribers are.
func (l *Local) announce(lane *lane) {
	var req linkpb.Join
	l.hub.Each(func(topic string, channels []*hub.Channel) {
		if l.r.lane(topic) != lane {
			return
		}
		for _, c := range channels {
			req.Topic, req.Subscriber = topic, c.ID
			lane.tell(linkpb.KindJoin, &req)
		}
	})
	l.touch(lane)
}

// eventKind says what an event asks of a loop.
type eventKind uint8

const (
	eventMessage eventKind = iota
	eventDone
	eventSubscribed
	eventEnd
)

// event is one thing that came down a lane for a loop.
type event struct {
	kind    eventKind
	message *hub.Message
	topic   string
	done    func(Outcome)
	outcome Outcome
}

// handle does what came down a lane, in its order.
func (l *Local) handle(events []event) {
	deliveries, unfit := 0, 0
	for i := range events {
		switch e := &events[i]; e.kind {
		case eventMessage:
			n, u := l.hub.Deliver(l.loop, e.message)
			deliveries, unfit = deliveries+n, unfit+u
		case eventDone:
			e.done(e.outcome)
		case eventSubscribed:
			l.subscribed(e.topic, e.outcome)
		case eventEnd:
			l.end(e.topic)
		}
	}
	l.r.stats.deliveries.Add(uint64(deliveries))
	if unfit > 0 {
		l.r.stats.unfit.Add(uint64(unfit))
	}
}
