package check

import (
	"github.com/ringcast/ringcast/cluster/verify/record"
)

// walk follows one client through one topic, with positions.
type walk struct {
	c *checker
	t *topic
	s *stream

	open  bool            // joined
	left  bool            // of its own will
	known bool            // from and last are set
	last  record.Position // up to here the client has everything, or knows what it has not
	prev  *record.Record  // the record last is from
	at    *record.Record  // the record walked last
	holes []hole
	start *record.Record // the join since which the client was told of no gap
}

// hole is a range of offsets that a client did not get and was not told of.
type hole struct {
	epoch       string
	first, last uint64
	after, next *record.Record
}

// checkPositions checks I2, I3, I4 and the subscribers' part of I10 for each client of a topic.
func (c *checker) checkPositions(t *topic) {
	top, topRecord := t.top()
	for _, s := range t.streams {
		w := &walk{c: c, t: t, s: s}
		for _, r := range s.records {
			if c.end != nil && r.T > c.end.T {
				break
			}
			w.step(r)
		}
		w.checkHoles()
		if c.end != nil {
			w.checkEnd(top, topRecord)
		}
	}
}

// top is the position a topic arrived at, as far as anybody knows.
func (t *topic) top() (record.Position, *record.Record) {
	var top record.Position
	var at *record.Record
	for p, r := range t.holders {
		if at == nil || t.before(top, p) {
			top, at = p, r
		}
	}
	return top, at
}

func (w *walk) step(r *record.Record) {
	switch r.Kind {
	case record.Join:
		w.join(r)
	case record.Recv:
		w.recv(r)
	case record.Left:
		w.open, w.left = false, true
	default:
		w.open = false
	}
	w.at = r
}

// join checks the reply to a join. A client that asked for a position and is told recovered goes on from there; one
// that is not told so knows that it missed something; one that asked for none begins here.
func (w *walk) join(r *record.Record) {
	w.open, w.left = true, false
	involved := []*record.Record{w.prev, r}
	defer func() { w.prev = r }()
	if r.Position.IsZero() {
		w.c.report(Skip, involved, "%s joined %s with since, and the reply has no position", w.s.actor, w.t.name)
		return
	}
	switch {
	case r.Asked.IsZero():
	case r.Recovered && r.Position != r.Asked:
		w.c.report(Skip, involved, "%s asked to resume %s from %v, and was resumed from %v", w.s.actor, w.t.name, r.Asked, r.Position)
	case r.Recovered && w.known && r.Asked != w.last:
		w.c.report(Skip, involved, "%s resumed %s from %v, but was at %v", w.s.actor, w.t.name, r.Asked, w.last)
	case !r.Recovered && w.c.opts.Lossless && !w.c.outgrown(r):
		w.c.report(Skip, involved, "%s was told of a gap on %s after %v, and no fault explains it", w.s.actor, w.t.name, r.Asked)
	}
	if w.known && r.Position.Epoch == w.last.Epoch && r.Position.Offset < w.last.Offset {
		w.c.report(Forward, involved, "%s was at %v of %s, and joined again at %v", w.s.actor, w.last, w.t.name, r.Position)
	}
	if w.start == nil || r.Asked.IsZero() || !r.Recovered {
		w.start = r
	}
	w.known, w.last = true, r.Position
}

// outgrown reports whether the history need not reach back to what a join asked for.
func (c *checker) outgrown(r *record.Record) bool {
	return c.opts.Retained > 0 && r.Position.Epoch == r.Asked.Epoch && r.Position.Offset > r.Asked.Offset+c.opts.Retained
}

func (w *walk) recv(r *record.Record) {
	involved := []*record.Record{w.prev, r}
	defer func() { w.prev = r }()
	p := r.Position
	switch {
	case p.IsZero():
		w.c.report(Skip, involved, "%s received %s on %s without a position", w.s.actor, r.ID, w.t.name)
		return
	case !w.open:
		w.c.report(Skip, involved, "%s received %v of %s while it was not joined", w.s.actor, p, w.t.name)
	case !w.known:
	case p.Epoch != w.last.Epoch:
		w.c.report(Skip, involved, "%s was at %v of %s, and the next message is %v: another epoch, without notice", w.s.actor, w.last, w.t.name, p)
	case p.Offset == w.last.Offset:
		w.c.report(Forward, involved, "%s received %v of %s twice", w.s.actor, p, w.t.name)
	case p.Offset < w.last.Offset:
		w.c.report(Forward, involved, "%s received %v of %s after %v", w.s.actor, p, w.t.name, w.last)
		return // what is behind does not move the front
	case p.Offset > w.last.Offset+1:
		w.holes = append(w.holes, hole{p.Epoch, w.last.Offset + 1, p.Offset - 1, w.prev, r})
		w.c.report(Skip, involved, "%s was at %v of %s, and the next message is %v: %d skipped without notice",
			w.s.actor, w.last, w.t.name, p, p.Offset-w.last.Offset-1)
	}
	w.known, w.last = true, p
}

// checkHoles checks I4 inside what the client believes to have whole.
func (w *walk) checkHoles() {
	for _, h := range w.holes {
		for _, o := range w.t.acks {
			p := o.end.Position
			if p.Epoch == h.epoch && h.first <= p.Offset && p.Offset <= h.last {
				w.c.report(LostWrite, []*record.Record{o.invoke, o.end, h.after, h.next},
					"%s never received %s, acknowledged at %v of %s", w.s.actor, o.invoke.ID, p, w.t.name)
				break // one for each hole says enough
			}
		}
	}
}

// checkEnd checks that a client that did not leave is joined at the end (I10) and has everything that was acknowledged
// (I4), up to the topic's last position (I10).
func (w *walk) checkEnd(top record.Position, topRecord *record.Record) {
	if w.at == nil || w.left {
		return
	}
	if !w.open {
		w.c.report(Stuck, []*record.Record{w.at, w.c.end}, "%s had not joined %s again at the end", w.s.actor, w.t.name)
		return
	}
	w.c.counts.Subscribers++
	if w.last == top || topRecord == nil {
		w.c.counts.FinalPositionsSeen++
	} else {
		w.c.report(Stuck, []*record.Record{w.prev, topRecord}, "%s ended at %v of %s, which is at %v", w.s.actor, w.last, w.t.name, top)
	}
	for _, o := range w.t.acks {
		if w.lost(o) {
			w.c.report(LostWrite, []*record.Record{w.start, o.invoke, o.end, w.prev},
				"%s never received %s, acknowledged at %v of %s", w.s.actor, o.invoke.ID, o.end.Position, w.t.name)
			return
		}
	}
}

// lost reports whether a client that is joined at the end should have received a publish that it has not: one behind its
// last position, or one of another epoch although it was told of none.
func (w *walk) lost(o *op) bool {
	p := o.end.Position
	switch {
	case o.invoke == nil || p.IsZero() || o.end.T > w.c.end.T:
		return false
	case p.Epoch == w.last.Epoch:
		return p.Offset > w.last.Offset
	default:
		return w.start != nil && o.invoke.T > w.start.T
	}
}
