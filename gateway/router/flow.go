package router

import (
	"slices"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/trace"
)

// publish is one publish on its way. It has its own copy of the message, since it may be sent more than once: over a
// new connection, or to a new owner.
type publish struct {
	req   linkpb.Publish
	local *Local // where done runs
	done  func(Outcome)
	since time.Time
	timed bool // its time is measured
	span  *trace.Span
}

// finish calls done with the outcome, on its loop.
func (p *publish) finish(o Outcome) {
	p.ended(o)
	p.local.loop.Post(func() { p.done(o) })
}

// size is about the memory that the publish keeps.
func (p *publish) size() int { return len(p.req.Payload) + len(p.req.Event) + len(p.req.Topic) + 128 }

// flow is the way of one topic's publishes. It keeps their order when the topic gets a new owner: what was sent to the
// old one is answered before anything goes to the new one.
//
//	sent over lane ──ok──► done
//	      │ NOT_OWNER: bounced            the ring changes: target ≠ lane
//	      ▼                                     │
//	   bounced ─┐    new ones: parked ◄─────────┘
//	            └──────┬───────┘
//	                   ▼ when flights is 0: lane = target, all sent in their order
//
// Guarded by the mutex of the subscription's shard.
type flow struct {
	lane    *lane // takes the topic's publishes
	target  *lane // should take them, by the ring
	flights int   // sent over lane and not answered
	bounced []*publish
	parked  []*publish
}

const (
	// maxParked bounds the publishes of one topic that wait for a new owner.
	maxParked = 4096
	// maxParkedBytes bounds what the waiting publishes of all topics take.
	maxParkedBytes = 32 << 20
)

// busy reports whether any publish is on its way.
func (fl *flow) busy() bool { return fl.flights > 0 || fl.waits() }

// waits reports whether publishes wait to be sent.
func (fl *flow) waits() bool { return len(fl.bounced)+len(fl.parked) > 0 }

// add sends a publish or parks it. Anything but OK is a definite error.
func (fl *flow) add(p *publish) linkpb.Code {
	if fl.lane != fl.target && !fl.busy() {
		fl.lane = fl.target
	}
	if fl.lane == fl.target && !fl.waits() {
		return fl.send(p)
	}
	if len(fl.parked) >= maxParked || fl.lane.r.parked.Load() >= maxParkedBytes {
		return linkpb.Code_OVERLOADED
	}
	fl.parked = append(fl.parked, p)
	fl.lane.r.parked.Add(int64(p.size()))
	return linkpb.Code_OK
}

func (fl *flow) send(p *publish) linkpb.Code {
	code := fl.lane.publish(p)
	if code == linkpb.Code_OK {
		fl.flights++
	}
	return code
}

// landed takes note that a publish sent over lane has its outcome. One that the server does not own is sent again:
// at once if the ring names another owner by now, else when it does, or after a while. Afterwards fl.lane is to be
// flushed.
func (fl *flow) landed(p *publish, notOwner bool) {
	fl.flights--
	if notOwner {
		fl.bounced = append(fl.bounced, p)
		fl.lane.r.parked.Add(int64(p.size()))
	}
	if fl.lane != fl.target || !notOwner {
		fl.proceed()
	}
}

// proceed sends what waits, as far as the lane takes it, once everything sent before has its outcome. Afterwards fl.lane
// is to be flushed.
func (fl *flow) proceed() {
	if fl.flights > 0 {
		return
	}
	fl.lane = fl.target
	waiting := slices.Concat(fl.bounced, fl.parked)
	fl.bounced, fl.parked = nil, nil
	for i, p := range waiting {
		code := fl.send(p)
		if code == linkpb.Code_OVERLOADED {
			fl.parked = waiting[i:] // they go on when these have landed, or with retry
			return
		}
		fl.lane.r.parked.Add(-int64(p.size()))
		if code != linkpb.Code_OK {
			p.finish(refusal(code))
		}
	}
}

// expire ends publishes that have waited too long. They were never accepted anywhere.
func (fl *flow) expire(now time.Time, timeout time.Duration) {
	keep := func(list []*publish) []*publish {
		kept := list[:0]
		for _, p := range list {
			if now.Sub(p.since) < timeout {
				kept = append(kept, p)
			} else {
				fl.lane.r.parked.Add(-int64(p.size()))
				p.finish(refusal(linkpb.Code_UNAVAILABLE))
			}
		}
		clear(list[len(kept):])
		return kept
	}
	fl.bounced, fl.parked = keep(fl.bounced), keep(fl.parked)
}

// publish puts a publish on its way. Anything but OK is a definite error, and done will not be called.
func (r *Router) publish(p *publish) (*lane, linkpb.Code) {
	if len(p.req.Payload) > link.MaxItem {
		return nil, linkpb.Code_TOO_LARGE
	}
	if p.req.IdHigh == 0 && p.req.IdLow == 0 {
		// So that sending it again after a link loss does not publish it twice.
		p.req.IdHigh, p.req.IdLow = r.instance, r.lastID.Add(1)
	}
	s := r.shard(p.req.Topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := r.entryLocked(s, p.req.Topic)
	if _, idle := s.idle[sub.name]; !idle && sub.unused() {
		s.idle[sub.name] = p.since
	}
	code := sub.flow.add(p)
	return sub.flow.lane, code
}
