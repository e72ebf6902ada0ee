// Package topic holds the topics that a topic server has: each one's position and past, and its subscribers grouped by
// gateway, so that a publish costs one send per gateway that has a subscriber.
//
// A topic comes into being when it is first used; if another server may have it from an older ring, its requests wait
// until its state has come over. It leaves by being sealed for another server, or is forgotten when nobody uses it and
// nothing of its past is left.
//
// Lock order: shard.mu → Topic.mu → Lane.mu → link.Sender. Nothing here waits for a peer.
package topic

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/rate"
	"github.com/ringcast/ringcast/shared/trace"
)

// Topic is one topic at its owner.
type Topic struct {
	name string // static

	mu     sync.Mutex
	epoch  uint64
	offset uint64         // of the last message; 0 before the first
	ids    idWindow       // of the last publishes that had one
	subs   []subscription // one per gateway; unordered
	used   time.Time      // when it last lost its last gateway or was published to without one
	gone   bool           // no longer in the registry; whoever locks it must look it up again
	rate   rate.Meter     // of publishes; a topic that moves begins anew

	presence  *presence  // nil while nobody has a part in it
	exclusive *exclusive // nil unless the topic stands for a name

	// While the topic's state may be on its way from another server, requests wait here, in their order.
	waiting     bool
	parked      []parked
	stakes      map[stake]struct{} // of those
	parkedBytes int                // of those that maxParked bounds
	changes     int                // that wait; see parkChange
	parkedSince time.Time
}

// subscription is a gateway's interest in a topic and the subscribers that are its reason.
type subscription struct {
	lane        *Lane
	subscribers map[uint64]struct{}
	undigested  bool // messages were sent since the last digest; the topic is in lane.undigested
}

// Lane is a gateway's lane as its topics see it. A gateway's subscriptions to one topic all come over one lane, so a
// lane stands for its gateway in a topic's subscriber sets.
type Lane struct {
	// Static.
	Gateway string       // as it names itself
	Out     *link.Sender // to it; topics append under their locks, and a Turn flushes
	// Instance tells the gateway's process from those before it. Set before the lane is used.
	Instance uint64

	mu         sync.Mutex
	closed     bool                // Drop has begun; no topic takes it any more
	topics     map[*Topic]struct{} // those that have the lane in subs
	attached   map[*Topic]struct{} // those whose presence the lane has a part in
	undigested []*Topic
	names      map[*Topic]struct{} // whose holder's messages go over the lane
}

// NewLane returns a lane with no subscriptions.
func NewLane(gateway string, out *link.Sender) *Lane {
	return &Lane{Gateway: gateway, Out: out, topics: make(map[*Topic]struct{})}
}

// subscriptionLocked returns the lane's entry, nil if it has none. Gateways are few; a scan beats a map.
func (t *Topic) subscriptionLocked(lane *Lane) *subscription {
	for i := range t.subs {
		if t.subs[i].lane == lane {
			return &t.subs[i]
		}
	}
	return nil
}

// enterLocked makes the topic send to the lane. It does nothing to a lane that is closed already, as one may be by the
// time a parked request runs.
func (t *Topic) enterLocked(lane *Lane) {
	if t.subscriptionLocked(lane) != nil {
		return
	}
	lane.mu.Lock()
	defer lane.mu.Unlock()
	if lane.closed {
		return
	}
	lane.topics[t] = struct{}{}
	t.subs = append(t.subs, subscription{lane: lane})
}

// dropLocked removes the lane and everything behind it: one operation, however many subscribers that were.
func (t *Topic) dropLocked(lane *Lane, now time.Time) (subscribers int) {
	i := slices.IndexFunc(t.subs, func(s subscription) bool { return s.lane == lane })
	if i < 0 {
		return 0
	}
	subscribers = len(t.subs[i].subscribers)
	t.subs = slices.Delete(t.subs, i, i+1)
	t.used = now
	lane.mu.Lock()
	delete(lane.topics, t)
	lane.mu.Unlock()
	return subscribers
}

// fanOutLocked sends an encoded message to every subscribed gateway.
func (t *Topic) fanOutLocked(tn *Turn, item []byte) {
	for i := range t.subs {
		sub := &t.subs[i]
		sub.lane.Out.AppendEncoded(item)
		tn.touch(sub.lane)
		if !sub.undigested {
			sub.undigested = true
			sub.lane.mu.Lock()
			sub.lane.undigested = append(sub.lane.undigested, t)
			sub.lane.mu.Unlock()
		}
	}
}

// Digest tells the lane the position of each topic that has sent it messages since the last digest. Any goroutine may
// call it.
func (l *Lane) Digest() {
	l.mu.Lock()
	topics := l.undigested
	l.undigested = nil
	l.mu.Unlock()
	if len(topics) == 0 {
		return
	}
	var d linkpb.Digest
	for _, t := range topics {
		t.mu.Lock()
		if sub := t.subscriptionLocked(l); sub != nil {
			sub.undigested = false
			d.Topic, d.Position = t.name, t.positionLocked()
			l.Out.Append(linkpb.KindDigest, &d)
		}
		t.mu.Unlock()
	}
	l.Out.Flush()
}

func (t *Topic) positionLocked() *linkpb.Position {
	return &linkpb.Position{Epoch: t.epoch, Offset: t.offset}
}

// Turn is what handling one batch from a lane needs: the time, scratch space, and the lanes to flush at its end. It
// belongs to one goroutine, mostly the one that receives from the lane.
type Turn struct {
	now     time.Time
	touched []*Lane
	reply   linkpb.Reply
	message linkpb.Message
	pos     linkpb.Position
	spans   []*trace.Span       // of traced messages; they end with the turn
	timed   prometheus.Observer // gets the time of the turn, in seconds; nil in most turns
}

// Now is the time of the turn: one clock reading serves a whole batch.
func (tn *Turn) Now() time.Time {
	if tn.now.IsZero() {
		tn.now = time.Now()
	}
	return tn.now
}

func (tn *Turn) touch(lane *Lane) {
	if !slices.Contains(tn.touched, lane) {
		tn.touched = append(tn.touched, lane)
	}
}

// Reply answers a request on the lane it came over.
func (tn *Turn) Reply(lane *Lane, ref uint64, code linkpb.Code, detail string, pos *linkpb.Position) {
	r := &tn.reply
	r.Ref, r.Code, r.Detail, r.Position, r.From, r.Replayed = ref, code, detail, pos, nil, 0
	tn.send(lane)
}

func (tn *Turn) send(lane *Lane) {
	lane.Out.Append(linkpb.KindReply, &tn.reply)
	tn.touch(lane)
}

// Flush ends the turn: it sends what the turn appended, one batch per lane.
func (tn *Turn) Flush() {
	for i, lane := range tn.touched {
		lane.Out.Flush()
		tn.touched[i] = nil
	}
	if len(tn.spans) > 0 {
		tn.endSpans()
	}
	if tn.timed != nil {
		tn.timed.Observe(time.Since(tn.now).Seconds())
		tn.timed = nil
	}
	tn.touched = tn.touched[:0]
	tn.now = time.Time{}
}
