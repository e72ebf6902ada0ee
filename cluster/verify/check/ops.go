package check

import (
	"cmp"
	"maps"
	"slices"

	"github.com/ringcast/ringcast/cluster/verify/record"
)

// checkOps checks what a delivery or an acknowledgment says of a single publish (I1, I5, I6, I7), and learns where each
// publish stands.
func (c *checker) checkOps(t *topic) {
	t.learnEpochs()
	c.counts.Epochs += max(len(t.epochs)-1, 0)
	for _, s := range t.streams {
		for _, r := range s.records {
			if r.Kind == record.Recv {
				c.checkDelivery(t, r)
			}
		}
	}
	for _, o := range t.acks {
		c.checkAck(t, o)
	}
}

func (c *checker) countOps() {
	for _, o := range c.ops {
		switch {
		case o.invoke == nil:
			continue
		case o.end == nil || o.end.Kind == record.Info:
			c.counts.Unknown++
		case o.end.Kind == record.Fail:
			c.counts.Failed++
		default:
			c.counts.Acked++
		}
		if o.tries > 1 {
			c.counts.Retried++
		}
		if o.twice {
			c.counts.Reapplied++
		}
	}
}

// learnEpochs ranks a topic's epochs by the time when they were first heard of.
func (t *topic) learnEpochs() {
	first := make(map[string]int64)
	see := func(r *record.Record) {
		epoch := r.Position.Epoch
		if at, ok := first[epoch]; epoch != "" && (!ok || r.T < at) {
			first[epoch] = r.T
		}
	}
	for _, s := range t.streams {
		for _, r := range s.records {
			see(r)
		}
	}
	for _, o := range t.acks {
		see(o.end)
	}
	names := slices.SortedFunc(maps.Keys(first), func(a, b string) int {
		return cmp.Or(cmp.Compare(first[a], first[b]), cmp.Compare(a, b))
	})
	for i, epoch := range names {
		t.epochs[epoch] = i
	}
}

func (c *checker) checkDelivery(t *topic, r *record.Record) {
	o := c.ops[r.ID]
	switch {
	case o == nil || o.invoke == nil:
		c.report(Phantom, []*record.Record{r}, "%s received %q on %s, which nobody published", r.Actor, r.ID, t.name)
		return
	case o.invoke.Topic != t.name:
		c.report(Phantom, []*record.Record{o.invoke, r}, "%s received %s on %s, published to %s", r.Actor, r.ID, t.name, o.invoke.Topic)
		return
	case o.invoke.SHA != r.SHA:
		c.report(Phantom, []*record.Record{o.invoke, r}, "%s received %s on %s with other bytes than it was published with", r.Actor, r.ID, t.name)
	case r.T < o.invoke.T:
		c.report(Phantom, []*record.Record{r, o.invoke}, "%s received %s on %s before it was published", r.Actor, r.ID, t.name)
	case o.end != nil && o.end.Kind == record.Fail:
		c.report(Undead, []*record.Record{o.invoke, o.end, r}, "%s received %s on %s, whose publisher was told %q", r.Actor, r.ID, t.name, o.end.Reason)
	}
	if !r.Position.IsZero() {
		c.hold(t, o, r)
	}
	if o.first == nil {
		o.first = r
	}
}

// hold notes that the publish stands at the record's position, and that nothing else does.
func (c *checker) hold(t *topic, o *op, r *record.Record) {
	holder := t.holders[r.Position]
	if holder == nil {
		t.holders[r.Position] = r
	} else if holder.ID != r.ID {
		c.report(Order, []*record.Record{holder, r}, "%s %v is %s to %s and %s to %s", t.name, r.Position, holder.ID, holder.Actor, r.ID, r.Actor)
	}
	if o.first == nil || o.first.Position == r.Position || o.first.Position.IsZero() {
		return
	}
	if o.first.Position.Epoch != r.Position.Epoch {
		o.twice = true
		return
	}
	c.report(Duplicate, []*record.Record{o.first, r}, "%s stands at %v and at %v of %s", r.ID, o.first.Position, r.Position, t.name)
}

func (c *checker) checkAck(t *topic, o *op) {
	ack := o.end
	if ack.Position.IsZero() {
		if c.opts.Positions {
			c.report(Duplicate, []*record.Record{o.invoke, ack}, "%s was acknowledged on %s without a position", ack.ID, t.name)
		}
		return
	}
	c.hold(t, o, ack)
}

// checkRealTime checks I8: a publish acknowledged before another one was begun stands before it, also across epochs.
func (c *checker) checkRealTime(t *topic) {
	// top is the acknowledged publish with the highest position so far.
	var top *op
	done := 0
	for _, o := range t.ops {
		for done < len(t.acks) && t.acks[done].end.T < o.invoke.T {
			if a := t.acks[done]; top == nil || t.before(top.position(), a.position()) {
				top = a
			}
			done++
		}
		p := o.position()
		if top == nil || p.IsZero() || top.position().IsZero() || !t.before(p, top.position()) {
			continue
		}
		// A retry may find its first try where it was applied in an epoch of which others have seen the end.
		c.report(RealTime, []*record.Record{top.invoke, top.end, o.invoke, o.end, o.first},
			"%s: %s was acknowledged at %v before %s was begun, which stands at %v",
			t.name, top.end.ID, top.position(), o.invoke.ID, p)
	}
}

func (t *topic) before(a, b record.Position) bool {
	if a.Epoch != b.Epoch {
		return t.epochs[a.Epoch] < t.epochs[b.Epoch]
	}
	return a.Offset < b.Offset
}

// checkFIFO checks I9. A publish that was sent again, or was never acknowledged, may be overtaken by what its publisher sent
// later, perhaps over another connection.
func (c *checker) checkFIFO(t *topic) {
	type front struct {
		op  *op
		pos record.Position
	}
	fronts := make(map[string]front) // by publisher: the highest position so far
	for _, o := range t.ops {
		p := o.position()
		if p.IsZero() {
			continue
		}
		f, ok := fronts[o.invoke.Actor]
		if ok && f.pos.Epoch == p.Epoch && p.Offset < f.pos.Offset {
			c.report(FIFO, []*record.Record{f.op.invoke, f.op.end, o.invoke, o.end},
				"%s: %s sent %s before %s, but they stand at %v and %v", t.name, o.invoke.Actor, f.op.invoke.ID, o.invoke.ID, f.pos, p)
		}
		if o.steady() && (!ok || t.before(f.pos, p)) {
			fronts[o.invoke.Actor] = front{o, p}
		}
	}
}
