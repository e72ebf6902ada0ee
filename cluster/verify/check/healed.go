package check

import (
	"cmp"
	"math"
	"slices"
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

// window is when a fault lasted, in ns.
type window struct {
	class      string
	begin, end int64
}

// aftermath is how long after a fault's end a pause still counts as the fault's.
const aftermath = 3 * time.Second

// Quiet is the class of pauses that no fault explains.
const Quiet = "no fault"

// PauseStats are the pauses of one class of faults (I12): for each fault and topic, the longest time between two
// successive acknowledgments that overlaps the fault or its aftermath. Quiet has one pause per topic: the longest that no
// fault explains.
type PauseStats struct {
	Class         string
	Count         int
	P50, P99, Max time.Duration
}

// checkPauses measures pauses and, with MaxPause, bounds them.
func (c *checker) checkPauses(names []string) {
	pauses := make(map[string][]time.Duration)
	for _, name := range names {
		t := c.topics[name]
		longest := make([]time.Duration, len(c.faults))
		var quiet time.Duration
		for i := 1; i < len(t.acks); i++ {
			from, to := t.acks[i-1].end, t.acks[i].end
			if c.heal != nil && to.T > c.heal.T {
				break // publishers have stopped by then
			}
			gap := time.Duration(to.T - from.T)
			explained := false
			for k, f := range c.faults {
				if from.T <= f.end+int64(aftermath) && to.T >= f.begin {
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
		}
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
		c.pauses = append(c.pauses, PauseStats{class, len(all), quantile(all, 0.5), quantile(all, 0.99), all[len(all)-1]})
	}
	slices.SortFunc(c.pauses, func(a, b PauseStats) int { return cmp.Compare(a.Class, b.Class) })
}

// quantile is the smallest value that is not exceeded by q of them all; sorted is not empty.
func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)]
}
