package check

import (
	"cmp"
	"slices"

	"github.com/ringcast/ringcast/cluster/verify/record"
)

// checkSequences checks what can be checked without positions: I2, I3, I4, I8, I9 and I10 for each client of a topic,
// then I1 over all of them.
func (c *checker) checkSequences(t *topic) {
	for _, s := range t.streams {
		sq := &sequence{c: c, t: t, s: s, seen: make(map[string]*record.Record)}
		for _, r := range s.records {
			if c.end != nil && r.T > c.end.T {
				break
			}
			sq.step(r)
		}
		sq.finish()
	}
	c.checkOneOrder(t)
}

// sequence follows one client through one topic, without positions.
type sequence struct {
	c *checker
	t *topic
	s *stream

	joined *record.Record // nil while not joined
	left   bool           // of its own will
	at     *record.Record // the record walked last
	seen   map[string]*record.Record
	// Of the current membership.
	latest  *op            // of those received, the one begun last
	highest map[string]*op // by publisher: of those received, the one it sent last
}

func (sq *sequence) step(r *record.Record) {
	switch r.Kind {
	case record.Join:
		sq.over(false)
		sq.joined, sq.left, sq.latest, sq.highest = r, false, nil, make(map[string]*op)
	case record.Recv:
		sq.recv(r)
	default:
		sq.over(false)
		sq.joined = nil
		sq.left = sq.left || r.Kind == record.Left
	}
	sq.at = r
}

func (sq *sequence) recv(r *record.Record) {
	c, name := sq.c, sq.t.name
	if sq.joined == nil {
		c.report(Skip, []*record.Record{sq.at, r}, "%s received %s of %s while it was not joined", sq.s.actor, r.ID, name)
		return
	}
	if again := sq.seen[r.ID]; again != nil {
		c.report(Forward, []*record.Record{again, r}, "%s received %s of %s twice", sq.s.actor, r.ID, name)
		return
	}
	sq.seen[r.ID] = r
	o := c.ops[r.ID]
	if o == nil || o.invoke == nil {
		return // a phantom, reported as one
	}
	if sq.latest != nil && o.acked() && o.end.T < sq.latest.invoke.T {
		c.report(RealTime, []*record.Record{o.end, sq.latest.invoke, r}, "%s received %s of %s after %s, which was begun when the former was acknowledged",
			sq.s.actor, r.ID, name, sq.latest.invoke.ID)
	}
	if sq.latest == nil || o.invoke.T > sq.latest.invoke.T {
		sq.latest = o
	}
	by := o.invoke.Actor
	if h := sq.highest[by]; h == nil || o.number > h.number {
		sq.highest[by] = o
	} else if o.steady() {
		c.report(FIFO, []*record.Record{o.invoke, h.invoke, r}, "%s received %s of %s after %s, which %s sent later", sq.s.actor, r.ID, name, h.invoke.ID, by)
	}
}

// over checks a membership that has ended, or at the end of the run one that has not: what was acknowledged, begun after
// the join, and sent before something else that arrived, has arrived too. At the end of the run, so has all the rest.
func (sq *sequence) over(atEnd bool) {
	if sq.joined == nil {
		return
	}
	for _, o := range sq.t.acks {
		if o.invoke == nil || o.invoke.T < sq.joined.T || sq.seen[o.invoke.ID] != nil || sq.c.end != nil && o.end.T > sq.c.end.T {
			continue
		}
		h := sq.highest[o.invoke.Actor]
		switch {
		case h != nil && h.number > o.number && o.steady():
			sq.c.report(Skip, []*record.Record{sq.joined, o.invoke, o.end, sq.seen[h.invoke.ID]}, "%s received %s of %s but not %s, sent earlier by the same publisher",
				sq.s.actor, h.invoke.ID, sq.t.name, o.invoke.ID)
		case atEnd:
			sq.c.report(LostWrite, []*record.Record{sq.joined, o.invoke, o.end}, "%s never received %s of %s", sq.s.actor, o.invoke.ID, sq.t.name)
		default:
			continue
		}
		return // one for each membership says enough
	}
}

func (sq *sequence) finish() {
	if sq.c.end == nil || sq.at == nil || sq.left {
		return
	}
	if sq.joined == nil {
		sq.c.report(Stuck, []*record.Record{sq.at, sq.c.end}, "%s had not joined %s again at the end", sq.s.actor, sq.t.name)
		return
	}
	sq.c.counts.Subscribers++
	before := len(sq.c.anomalies)
	sq.over(true)
	if len(sq.c.anomalies) == before {
		sq.c.counts.FinalPositionsSeen++
	}
}

// checkOneOrder checks I1: there is an order of all the topic's messages that each client saw a part of. Every two
// messages that a client saw one after the other are an edge of a graph; where it has a cycle there is no such order.
func (c *checker) checkOneOrder(t *topic) {
	edges := make(map[string][]*record.Record) // by id: what some client saw next
	degree := make(map[string]int)
	for _, s := range t.streams {
		var prev *record.Record
		for _, r := range s.records {
			if r.Kind != record.Recv {
				continue
			}
			degree[r.ID] += 0
			if prev != nil && prev.ID != r.ID {
				edges[prev.ID] = append(edges[prev.ID], r)
				degree[r.ID]++
			}
			prev = r
		}
	}
	var free []string
	for id, n := range degree {
		if n == 0 {
			free = append(free, id)
		}
	}
	for len(free) > 0 {
		id := free[len(free)-1]
		free = free[:len(free)-1]
		delete(degree, id)
		for _, next := range edges[id] {
			if degree[next.ID]--; degree[next.ID] == 0 {
				free = append(free, next.ID)
			}
		}
	}
	if len(degree) == 0 {
		return
	}
	var knot []*record.Record
	for _, s := range t.streams {
		for _, r := range s.records {
			if _, tied := degree[r.ID]; tied && r.Kind == record.Recv {
				knot = append(knot, r)
			}
		}
	}
	slices.SortStableFunc(knot, func(a, b *record.Record) int { return cmp.Compare(a.T, b.T) })
	c.report(Order, knot[:min(len(knot), 12)], "%s: no one order explains what all clients saw; %d messages are involved", t.name, len(degree))
}
