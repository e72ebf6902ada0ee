package check

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/ringcast/ringcast/cluster/verify/record"
)

// checkHealed checks the publishers' part of I10.
func (c *checker) checkHealed(t *topic) {
	if c.heal == nil {
		return
	}
	var first *op
	for _, o := range t.acks {
		if o.invoke != nil && o.invoke.T >= c.heal.T {
			first = o
			break
		}
	}
	if first == nil {
		c.report(Stuck, []*record.Record{c.heal}, "no publish to %s succeeded after the last fault was over", t.name)
		return
	}
	c.counts.Probed++
	if took := time.Duration(first.end.T - c.heal.T); took > c.opts.HealWithin {
		c.report(Stuck, []*record.Record{c.heal, first.invoke, first.end},
			"the first publish to %s succeeded %v after the last fault was over, want %v", t.name, took.Round(time.Millisecond), c.opts.HealWithin)
	}
}

// window is the time of a fault.
type window struct {
	class      string
	begin, end int64
	topics     []string // that it hits; nil means any
}

// topicsOf lists the topics that a record of a fault names.
func topicsOf(r *record.Record) []string {
	if r.Topics == "" {
		return nil
	}
	return strings.Split(r.Topics, ",")
}

// hits reports whether the fault may delay publishes to a topic.
func (w *window) hits(topic string) bool { return w.topics == nil || slices.Contains(w.topics, topic) }

// aftermath is how long after a fault's end a pause still counts as the fault's.
const aftermath = 3 * time.Second

// Quiet is the class of pauses that no fault explains.
const Quiet = "no fault"

// PauseStats are the pauses of one class of faults (I12): for each fault and each topic that it hits, the longest pause
// that overlaps the fault or its aftermath. Quiet has one pause per topic: the longest that no fault explains.
//
// A pause is a time in which a publish to the topic was unanswered and none was acknowledged.
type PauseStats struct {
	Class string
	Times []time.Duration // sorted, not empty
}

// Quantile is the smallest time that is not exceeded by q of them all.
func (p *PauseStats) Quantile(q float64) time.Duration {
	return p.Times[max(int(math.Ceil(q*float64(len(p.Times))))-1, 0)]
}

// checkPauses measures pauses and, with MaxPause, bounds them.
func (c *checker) checkPauses(names []string) {
	pauses := make(map[string][]time.Duration)
	for _, name := range names {
		t := c.topics[name]
		longest := make([]time.Duration, len(c.faults))
		var quiet time.Duration
		c.eachPause(t, func(from, to *record.Record, begin int64) {
			gap, explained := time.Duration(to.T-begin), false
			for k := range c.faults {
				if f := &c.faults[k]; f.hits(name) && begin <= f.end+int64(aftermath) && to.T >= f.begin {
					longest[k], explained = max(longest[k], gap), true
				}
			}
			if !explained {
				quiet = max(quiet, gap)
			}
			if c.opts.MaxPause > 0 && gap > c.opts.MaxPause {
				c.report(Pause, []*record.Record{from, to}, "no publish to %s was acknowledged for %v, want at most %v",
					name, gap.Round(time.Millisecond), c.opts.MaxPause)
			}
		})
		for k, gap := range longest {
			if gap > 0 {
				pauses[c.faults[k].class] = append(pauses[c.faults[k].class], gap)
			}
		}
		if quiet > 0 {
			pauses[Quiet] = append(pauses[Quiet], quiet)
		}
	}
	for class, all := range pauses {
		slices.Sort(all)
		c.pauses = append(c.pauses, PauseStats{class, all})
	}
	slices.SortFunc(c.pauses, func(a, b PauseStats) int { return cmp.Compare(a.Class, b.Class) })
}

// eachPause yields each pair of successive acknowledgments of a topic before the heal, and since when a publish was
// unanswered between the two.
func (c *checker) eachPause(t *topic, yield func(from, to *record.Record, begin int64)) {
	oldest := 0 // of t.ops: those before it had been answered by from
	for i := 1; i < len(t.acks); i++ {
		from, to := t.acks[i-1].end, t.acks[i].end
		if c.heal != nil && to.T > c.heal.T {
			return // publishers have stopped by then
		}
		for oldest < len(t.ops) && (t.ops[oldest].end == nil || t.ops[oldest].end.T <= from.T) {
			oldest++
		}
		if oldest < len(t.ops) && t.ops[oldest].invoke.T < to.T {
			yield(from, to, max(from.T, t.ops[oldest].invoke.T))
		}
	}
}

// checkBack sees that publishes to each topic succeed soon after each fault for which that is bounded.
func (c *checker) checkBack(names []string) {
	for _, f := range c.faults {
		if c.opts.BackWithin == 0 || f.class != c.opts.BackFrom {
			continue
		}
		for _, name := range names {
			acks := c.topics[name].acks
			i := slices.IndexFunc(acks, func(o *op) bool { return o.end.T >= f.end })
			if i < 0 {
				continue // checkHealed knows
			}
			if took := time.Duration(acks[i].end.T - f.end); took > c.opts.BackWithin {
				c.report(Stuck, []*record.Record{acks[i].invoke, acks[i].end}, "the first publish to %s succeeded %v after the end of the fault %s, want %v",
					name, took.Round(time.Millisecond), f.class, c.opts.BackWithin)
			}
		}
	}
}
