package router

import (
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/proto/linkpb"
)

// shard holds the subscriptions of some topics.
type shard struct {
	mu     sync.Mutex
	topics map[string]*subscription
	idle   map[string]time.Time // no loop wants them since then; given up after the linger

	presences map[string]*presence // nil until there is one
}

// do calls f with the shard locked.
func (s *shard) do(f func(s *shard)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// subscription is this gateway's interest in one topic, and the way its publishes take. Guarded by its shard's mutex.
//
// Which loops get a message is decided, under that mutex, by the goroutine that receives it. A loop puts its bit into
// live under the same mutex, so each message is either before that moment, and covered by the position that the loop
// gets, or after it, and posted to the loop. Positions tell the loop's hub which of the messages that it finds in its
// queue are which.
//
// Invariant: while flowing, the loops in live have been posted every message up to last, and none beyond.
type subscription struct {
	name   string // static
	wanted bool   // some loop wants it, or did until a while ago; else only flow counts
	lane   *lane  // whose messages are delivered
	next   *move  // to the lane of a new owner; nil if the topic is not moving
	sealed bool   // the owner behind lane has said its last word
	untold bool   // it may not know the subscribers in live, and is to be told of them when it has answered
	fetch  fetch  // the Subscribe on lane
	flow   flow

	flowing  bool         // messages are delivered as they come; false while missed ones are being fetched
	known    bool         // last is set
	last     hub.Position // of the last message delivered, or of the first Reply
	live     uint64       // loops that have channels
	troubled time.Time    // since when the owner refuses the subscription; zero if it does not

	poster *inbox // that posted to loops last,
	posted uint64 // and in which of its batches; see inbox.mayPost
	held   []held // what came while another inbox had not flushed that batch
}

// fetch is a Subscribe on its way, and the answer as it comes: the Reply, then as many messages as it announces.
type fetch struct {
	ref     uint64 // 0: none was sent over this connection, or its answer is complete
	serial  uint64 // counts the subscription's fetches; joins wait for the first that knows what they want
	wants   []hub.Position
	waiting uint64 // loops that have joins waiting for it

	replied bool
	reply   Outcome
	from    *hub.Position // everything behind it follows; nil if not all is remembered
	missing int           // messages of the answer that have not come
	past    []*hub.Message
	bytes   int // of past, about

	// What the next fetch is to bring, because this one was under way already.
	nextWants   []hub.Position
	nextWaiting uint64
}

// maxWants is of how many epochs a fetch asks for places. A topic has one epoch at a time, so who comes with one more
// has hardly anything to recover.
const maxWants = 16

// want adds a place to those whose future is fetched. Within an epoch the lowest one covers the others.
func want(wants []hub.Position, p hub.Position) []hub.Position {
	for i := range wants {
		if wants[i].Epoch == p.Epoch {
			wants[i].Offset = min(wants[i].Offset, p.Offset)
			return wants
		}
	}
	if len(wants) >= maxWants {
		return wants
	}
	return append(wants, p)
}

// asks reports whether the fetch, which has been sent, asks for what a join needs.
func (f *fetch) asks(since *hub.Position) bool {
	return since == nil || slices.ContainsFunc(f.wants, func(w hub.Position) bool { return since.Reached(w) })
}

// forget makes the fetch be sent again over the next connection.
func (f *fetch) forget() {
	f.ref, f.replied, f.missing, f.past, f.from = 0, false, 0, nil, nil
}

// answered reports whether the whole answer is here.
func (f *fetch) answered() bool { return f.replied && f.missing == 0 }

// covers reports whether who is at p misses nothing with the answer.
func (f *fetch) covers(p hub.Position) bool {
	top := f.reply.Position
	return p == top || f.from != nil && p.Epoch == top.Epoch && p.Offset >= f.from.Offset && p.Offset <= top.Offset
}

// ticket is what a join gets for its interest in a topic.
type ticket struct {
	sub    *subscription
	flows  bool         // messages flow: the loop gets everything behind pos, and perhaps older ones that wait in its queue
	pos    hub.Position // if flows
	serial uint64       // if not: of the first answer that counts; Local.subscribed is called with it or a higher one
	shared bool         // that answer may be older than the join
}

// subscribe registers a loop's interest in a topic. With since, it fetches what follows that place.
func (r *Router) subscribe(topic string, loop int, since *hub.Position) ticket {
	s := r.shard(topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.idle, topic)
	sub := r.entryLocked(s, topic)
	sub.wanted = true
	if sub.flowing && since == nil {
		sub.live |= 1 << loop
		return ticket{sub: sub, flows: true, pos: sub.last}
	}
	f := &sub.fetch
	if f.ref != 0 && !f.asks(since) {
		// It is under way without since; the answer that counts is the next one's.
		f.nextWaiting |= 1 << loop
		f.nextWants = want(f.nextWants, *since)
		return ticket{sub: sub, serial: f.serial + 1}
	}
	f.waiting |= 1 << loop
	if f.ref != 0 {
		return ticket{sub: sub, serial: f.serial, shared: true}
	}
	if since != nil {
		f.wants = want(f.wants, *since)
	}
	if sub.troubled.IsZero() || since != nil {
		sub.lane.subscribe(sub) // perhaps it waits its turn after a new connection
	}
	return ticket{sub: sub, serial: f.serial}
}

// laneOf returns the lane whose owner knows this gateway as a subscriber of the topic, nil if there is none.
func (r *Router) laneOf(topic string) *lane {
	s := r.shard(topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub := s.topics[topic]; sub != nil && sub.wanted {
		return sub.lane
	}
	return nil
}

// entryLocked returns the topic's entry, made now if need be.
func (r *Router) entryLocked(s *shard, topic string) *subscription {
	sub := s.topics[topic]
	if sub == nil {
		lane := r.route(topic)
		sub = &subscription{name: topic, lane: lane, flow: flow{lane: lane, target: lane}}
		sub.fetch.serial = 1
		s.topics[topic] = sub
	}
	return sub
}

// release ends a loop's interest. The gateway stays subscribed for the linger.
func (r *Router) release(topic string, loop int) {
	s := r.shard(topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.topics[topic]
	if sub == nil {
		return
	}
	sub.live &^= 1 << loop
	sub.fetch.waiting &^= 1 << loop
	sub.fetch.nextWaiting &^= 1 << loop
	if sub.unused() {
		s.idle[topic] = time.Now()
	}
}

// awaited reports whether a join or a publish waits for the topic.
func (sub *subscription) awaited() bool {
	return sub.fetch.waiting|sub.fetch.nextWaiting != 0 || sub.flow.busy()
}

func (sub *subscription) unused() bool {
	return sub.live|sub.fetch.waiting|sub.fetch.nextWaiting == 0
}

func (r *Router) unsubscribeIdle(now time.Time) {
	touched := make(map[*lane]bool)
	for i := range r.shards {
		r.shards[i].do(func(s *shard) {
			for topic, since := range s.idle {
				sub := s.topics[topic]
				if sub != nil && (now.Sub(since) < r.cfg.Linger || sub.flow.busy()) {
					continue
				}
				delete(s.idle, topic)
				delete(s.topics, topic)
				if sub != nil && sub.wanted {
					sub.unsubscribe(r, touched)
				}
			}
		})
	}
	for l := range touched {
		l.flush()
	}
}

// unsubscribe tells the topic's owners that nobody wants it any more: under the shard's lock, so that a later subscribe of
// the topic follows it on the lane.
func (sub *subscription) unsubscribe(r *Router, touched map[*lane]bool) {
	lanes := []*lane{sub.lane}
	sub.lane.giveUp(sub.fetch.ref)
	if n := sub.next; n != nil {
		lanes = append(lanes, n.lane)
		n.lane.giveUp(n.fetch.ref)
		r.moving.Add(-1)
	}
	for _, l := range lanes {
		l.tell(linkpb.KindUnsubscribe, &linkpb.Unsubscribe{Topic: sub.name})
		touched[l] = true
	}
}

// resync stops the flow and fetches what was missed, because a message or a digest shows that something was.
func (sub *subscription) resync(r *Router) {
	if !sub.flowing || !sub.wanted {
		return
	}
	r.stats.resyncs.Add(1)
	sub.flowing = false
	if sub.fetch.ref == 0 {
		sub.lane.subscribe(sub)
	}
}

// replied takes the Reply to a fetch.
func (in *inbox) replied(f *fetch, sub *subscription, rep *linkpb.Reply) {
	f.replied, f.past, f.bytes = true, nil, 0
	f.reply = Outcome{Code: rep.Code, Detail: rep.Detail, Position: position(rep.Position)}
	f.from = nil
	if rep.From != nil {
		from := position(rep.From)
		f.from = &from
	}
	f.missing = int(rep.Replayed)
	if f.missing == 0 {
		in.answered(f, sub)
	}
}

// answered handles the complete answer to a fetch.
func (in *inbox) answered(f *fetch, sub *subscription) {
	switch {
	case sub.next != nil && f == &sub.next.fetch:
		in.arrive(sub)
	case !in.mayPost(sub, held{lane: sub.lane, answered: true}):
	case f.reply.OK():
		in.settle(sub)
	default:
		in.refused(sub)
	}
}

// settle ends a fetch that was answered: channels that were live get what they missed, or are told that it is gone;
// joins are completed; messages flow.
func (in *inbox) settle(sub *subscription) {
	f := &sub.fetch
	r := in.lane.r
	o := f.reply
	in.catchUp(sub, f)
	if sub.untold {
		sub.untold = false
		in.postMask(sub, sub.live, event{kind: eventAnnounce, sub: sub})
	}
	in.postMask(sub, f.waiting, event{kind: eventSubscribed, sub: sub, outcome: o, serial: f.serial, from: f.from, past: f.past})
	sub.live |= f.waiting
	sub.last, sub.known, sub.flowing, sub.sealed, sub.troubled = o.Position, true, true, false, time.Time{}
	sub.nextFetch()
	in.touch(sub.lane)
	if sub.next != nil && sub.next.fetch.answered() {
		in.arrive(sub)
	}
	if r.route(sub.name) != sub.lane && sub.next == nil {
		sub.reroute(r, in.touch) // the ring changed meanwhile
	}
}

// catchUp gives live channels what they missed according to an answer, or tells them that it is gone.
func (in *inbox) catchUp(sub *subscription, f *fetch) {
	switch {
	case !sub.known || sub.live == 0:
	case f.covers(sub.last):
		for _, m := range f.past {
			if m.Position.Offset > sub.last.Offset {
				in.lane.r.stats.replayed.Add(1)
				in.postMask(sub, sub.live, event{kind: eventMessage, message: m})
			}
		}
	default:
		in.gap(sub, f.reply)
	}
}

// gap tells the channels on all loops that their topic has lost messages.
func (in *inbox) gap(sub *subscription, o Outcome) {
	in.lane.r.stats.gaps.Add(1)
	in.lane.r.gapLog.Log(in.lane.log, zap.WarnLevel, "messages were lost", zap.String("topic", sub.name), zap.Stringer("code", o.Code),
		zap.Uint64("from_epoch", sub.last.Epoch), zap.Uint64("from", sub.last.Offset),
		zap.Uint64("to_epoch", o.Position.Epoch), zap.Uint64("to", o.Position.Offset))
	kind := eventEnd
	if o.OK() && wentBack(o.Position, sub.last) {
		kind = eventRewound
	}
	in.postMask(sub, sub.live, event{kind: kind, sub: sub, outcome: o})
}

// wentBack reports whether an owner that says it is at p has gone back: it was at last before, in the same epoch. None may
// do that; a new epoch is for one that has forgotten.
func wentBack(p, last hub.Position) bool { return p.Epoch == last.Epoch && p.Offset < last.Offset }

// nextFetch begins the fetch that was asked for while the last one was under way.
func (sub *subscription) nextFetch() {
	f := &sub.fetch
	again := f.nextWaiting != 0
	*f = fetch{serial: f.serial + 1, wants: f.nextWants, waiting: f.nextWaiting}
	if again && sub.wanted {
		sub.lane.subscribe(sub)
	}
}

// passing reports whether a refusal is likely to end by itself: one of the two does not know the other's ring yet, or
// the server has too much to do.
func passing(code linkpb.Code) bool {
	switch code {
	case linkpb.Code_NOT_OWNER, linkpb.Code_OVERLOADED, linkpb.Code_UNAVAILABLE, linkpb.Code_SHUTTING_DOWN:
		return true
	}
	return false
}

// refused handles a fetch that the server does not serve. It is tried again for a while if that may help; then joins
// fail and channels are told.
func (in *inbox) refused(sub *subscription) {
	f := &sub.fetch
	o := f.reply
	f.ref, f.replied, f.past = 0, false, nil
	now := time.Now()
	if sub.troubled.IsZero() {
		sub.troubled = now
	}
	if sub.next != nil || passing(o.Code) && now.Sub(sub.troubled) < in.lane.r.cfg.JoinTimeout {
		sub.flowing, sub.untold = false, true
		if sub.next != nil && sub.next.fetch.answered() {
			in.arrive(sub) // nothing more comes from here
		}
		return // retry does it
	}
	if sub.live != 0 {
		in.gap(sub, o)
	}
	in.postMask(sub, f.waiting|f.nextWaiting, event{kind: eventSubscribed, sub: sub, outcome: o, serial: f.serial + 1})
	// Forgotten at once: the next join asks anew.
	s := in.lane.r.shard(sub.name)
	sub.wanted, sub.flowing, sub.known, sub.live, sub.troubled = false, false, false, 0, time.Time{}
	sub.fetch = fetch{serial: f.serial + 2}
	if !sub.flow.busy() {
		delete(s.topics, sub.name)
		delete(s.idle, sub.name)
		return
	}
	s.idle[sub.name] = now
}

// retry sends again what was refused or could not be routed.
func (r *Router) retry(now time.Time) {
	touched := make(map[*lane]bool)
	for i := range r.shards {
		r.shards[i].do(func(s *shard) {
			for _, sub := range s.topics {
				sub.retry(r, now, touched)
			}
		})
	}
	for l := range touched {
		l.flush()
	}
}

func (sub *subscription) retry(r *Router, now time.Time, touched map[*lane]bool) {
	if !sub.troubled.IsZero() && sub.wanted && sub.fetch.ref == 0 {
		sub.lane.subscribe(sub)
		touched[sub.lane] = true
	}
	if sub.flow.waits() {
		sub.flow.expire(now, r.cfg.PublishTimeout)
		sub.flow.proceed()
		touched[sub.flow.lane] = true
	}
	if n := sub.next; n != nil {
		n.overdue = n.overdue || !n.deadline.IsZero() && now.After(n.deadline)
		if sub.ask(r, false) {
			touched[n.lane] = true
		}
	}
}
