package router

import (
	"time"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/mutant"
)

// move is a topic on its way to a new owner, as this gateway sees it:
//
//	old lane:  … 41 42 43 ──────────── Sealed(45) after 44 45
//	new lane:        Subscribe{since 43} … Reply{top 45, from 43} 44 45 │ 46 47 …
//
// The new owner answers once it has the topic's state from the old one. As soon as its answer covers what has been
// delivered, the topic goes over to it; until then the old lane's messages are delivered and the new lane's are
// buffered. Each position is delivered once: whatever comes over both lanes is behind last by then.
type move struct {
	lane     *lane
	fetch    fetch
	buffer   []*hub.Message // came over lane after the answer
	bytes    int            // of buffer
	deadline time.Time      // for the answer; zero until it is asked for
	overdue  bool           // the deadline has passed; what is missing is not waited for any more
	refused  time.Time      // since when the new owner refuses while the old one brings nothing; zero if it is not so
}

// maxMoveBuffer bounds what is buffered for one topic; beyond it the old lane is not waited for.
const maxMoveBuffer = 4 << 20

// reroute sends a topic where the ring wants it, and touches the lanes that are to be flushed. Called under the shard's
// lock when the ring has changed.
func (sub *subscription) reroute(r *Router, touch func(*lane)) {
	target := r.route(sub.name)
	sub.flow.target = target
	sub.flow.proceed()
	touch(sub.flow.lane)
	n := sub.next
	if n != nil && n.lane == target {
		return
	}
	if n != nil {
		touch(n.lane)
		n.lane.tell(linkpb.KindUnsubscribe, &linkpb.Unsubscribe{Topic: sub.name})
		n.lane.giveUp(n.fetch.ref)
		sub.next = nil
		r.moving.Add(-1)
	}
	touch(sub.lane)
	touch(target)
	switch {
	case !sub.wanted:
		sub.lane = target
	case sub.lane == target:
		if !sub.troubled.IsZero() {
			sub.troubled = time.Now() // it is the owner again only now
		}
		if sub.sealed { // it went away and is coming back
			sub.sealed, sub.untold = false, true
			sub.resync(r)
		}
	case sub.live == 0:
		// Nobody has anything to lose: the new lane's fetch is the only one.
		sub.lane.tell(linkpb.KindUnsubscribe, &linkpb.Unsubscribe{Topic: sub.name})
		sub.switchLane(target)
		sub.lane.subscribe(sub)
	default:
		sub.next = &move{lane: target}
		r.moving.Add(1)
		sub.ask(r, false)
	}
}

// ask subscribes a topic that moves at its new owner, unless it was asked already, and reports whether it did. Very many topics
// are asked for a few at a time, as those of a new connection are: the new owner fetches first what requests wait for, and if
// all wait, none is first. The others are asked for as soon as that makes a difference: when the old owner has said its last
// word, which it does in its own time, or is out of reach; or when somebody waits. Called under the shard's lock.
func (sub *subscription) ask(r *Router, now bool) bool {
	n := sub.next
	if n.fetch.ref != 0 || n.fetch.replied || !(now || sub.sealed || sub.awaited() || n.lane.hasRoom() || !sub.lane.live()) {
		return false
	}
	n.deadline = time.Now().Add(r.cfg.JoinTimeout)
	n.lane.subscribeTo(sub, &n.fetch)
	return true
}

// switchLane makes lane the one that counts. Joins that waited for the old lane's answer wait for the new one's.
func (sub *subscription) switchLane(lane *lane) {
	f := &sub.fetch
	sub.lane.giveUp(f.ref)
	wants := f.wants
	for _, w := range f.nextWants {
		wants = want(wants, w)
	}
	sub.lane = lane
	sub.fetch = fetch{serial: f.serial + 1, wants: wants, waiting: f.waiting | f.nextWaiting}
	sub.flowing, sub.known, sub.sealed, sub.untold, sub.troubled = false, false, false, false, time.Time{}
}

// arrive lets the topic go over to its new owner if nothing is lost by it, or nothing is to be gained by waiting.
func (in *inbox) arrive(sub *subscription) {
	n, r := sub.next, in.lane.r
	if n == nil || !n.fetch.answered() {
		return
	}
	f := &n.fetch
	if !f.reply.OK() {
		in.moveRefused(sub)
		return
	}
	covered := !sub.known || sub.live == 0 || f.covers(sub.last) || mutant.Is(mutant.SkipSeal)
	if !covered && sub.served() && !n.overdue && n.bytes <= maxMoveBuffer {
		return // the old lane brings what is missing
	}
	if !in.mayPost(sub, held{}) {
		return
	}
	if !mutant.Is(mutant.SkipSeal) {
		in.catchUp(sub, f)
	}
	old := sub.lane
	old.tell(linkpb.KindUnsubscribe, &linkpb.Unsubscribe{Topic: sub.name})
	answer, buffer := f.reply, n.buffer
	sub.next = nil
	r.moving.Add(-1)
	r.stats.moves.Add(1)
	sub.switchLane(n.lane)
	sub.last, sub.known, sub.flowing = answer.Position, true, true
	for _, m := range buffer {
		in.deliver(sub, m)
	}
	in.postMask(sub, sub.live, event{kind: eventAnnounce, sub: sub})
	if sub.fetch.waiting != 0 && sub.fetch.ref == 0 {
		sub.lane.subscribe(sub)
		in.touch(sub.lane)
	}
	in.touch(old)
	if r.route(sub.name) != sub.lane {
		sub.reroute(r, in.touch)
	}
}

// served reports whether the owner behind lane brings messages, as far as is known.
func (sub *subscription) served() bool {
	return !sub.sealed && sub.troubled.IsZero() && sub.lane.live()
}

// moveRefused handles a new owner's answer that is not OK. Its ring is older than ours, most likely: retry asks again. But when
// the old owner brings nothing any more, and the new one, which may have as many topics as it may have, refuses for as long as
// joins wait, the channels are told.
func (in *inbox) moveRefused(sub *subscription) {
	n, r, now := sub.next, in.lane.r, time.Now()
	switch {
	case sub.served():
		n.refused = time.Time{}
	case n.refused.IsZero():
		n.refused = now
	}
	if n.refused.IsZero() || now.Sub(n.refused) < r.cfg.JoinTimeout {
		n.fetch = fetch{}
		return
	}
	if !in.mayPost(sub, held{}) {
		return
	}
	sub.lane.tell(linkpb.KindUnsubscribe, &linkpb.Unsubscribe{Topic: sub.name})
	in.touch(sub.lane)
	sub.next = nil
	r.moving.Add(-1)
	sub.switchLane(n.lane)
	sub.fetch.reply, sub.troubled = n.fetch.reply, n.refused
	in.refused(sub)
}

// held is something for a subscription's loops that waits for another inbox to flush.
type held struct {
	lane     *lane        // that it came over; it is void when that is not the subscription's any more
	message  *hub.Message // the next message, perhaps
	answered bool         // the answer to the fetch is complete
	sealed   bool         // the owner has said its last word
	// With none of these, it is a look at whether the move is ready.
}

// mayPost reports whether this inbox may post to loops for the subscription. It may not while another inbox has posted
// for it in a batch that it has not flushed: its events would overtake those. Then h is held, and the other inbox goes
// on with it when it has flushed. Whatever posts asks here first.
//
// Invariant: while anything is held, poster is the inbox that goes on with it, and nobody else posts.
func (in *inbox) mayPost(sub *subscription, h held) bool {
	other := sub.poster
	if other == nil || other == in {
		if len(sub.held) == 0 {
			return true
		}
		sub.held = append(sub.held, h)
		return false
	}
	other.mu.Lock()
	defer other.mu.Unlock()
	if other.flushed >= sub.posted && len(sub.held) == 0 {
		return true
	}
	sub.held = append(sub.held, h)
	other.after = append(other.after, sub.name)
	return false
}

// goOn does what was held for subscriptions until this inbox had flushed.
func (in *inbox) goOn() {
	in.mu.Lock()
	in.flushed = in.batch
	names := in.after
	in.after = nil
	in.mu.Unlock()
	in.batch++
	for _, name := range names {
		in.lane.r.shard(name).do(func(s *shard) {
			sub := s.topics[name]
			if sub == nil || len(sub.held) == 0 {
				return
			}
			waiting := sub.held
			// Of this batch, whether or not something is posted: what comes meanwhile waits for its end.
			sub.held, sub.poster, sub.posted = nil, in, in.batch
			for _, h := range waiting {
				in.release(sub, h)
			}
			in.arrive(sub) // not earlier: what is missing may be among what was held
		})
	}
	if len(names) > 0 {
		in.flush()
	}
}

// release does one thing that was held.
func (in *inbox) release(sub *subscription, h held) {
	switch {
	case h.lane == nil: // arrive follows anyway
	case h.lane != sub.lane:
		in.lane.r.stats.stray.Add(1)
	case h.message != nil:
		in.deliver(sub, h.message)
	case h.answered && sub.fetch.ref != 0 && sub.fetch.answered():
		in.answered(&sub.fetch, sub)
	case h.sealed:
		in.seal(sub)
	}
}

// sweepMoves ends moves that are overdue.
func (in *inbox) sweepMoves() {
	r := in.lane.r
	if r.moving.Load() == 0 {
		return
	}
	for i := range r.shards {
		r.shards[i].do(func(s *shard) {
			for _, sub := range s.topics {
				if sub.next != nil && sub.next.lane == in.lane && sub.next.overdue {
					in.arrive(sub)
				}
			}
		})
	}
}
