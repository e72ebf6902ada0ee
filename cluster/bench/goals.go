package bench

import (
	"fmt"
	"io"
)

// Goal is what a figure of a load is to be.
type Goal struct {
	Load, Figure, Unit string
	AtLeast            bool    // else at most
	Ratio              float64 // to the floor; 0 if Value counts alone
	Value              float64 // 0 if Ratio counts alone
	// Lower names the lower quartile of Figure, whose median is told from chance only if that is too much as well.
	Lower string
}

// Goals returns the goals of all loads that have some. Where one has a Value and a Ratio, the value was set on a machine
// whose floor is faster than most, and the ratio is that machine's: either will do.
func Goals() []Goal {
	const perMillion, perThousand = "server_cpu_s_per_million", "server_cpu_s_per_thousand"
	return []Goal{
		{Load: "idle", Figure: "kib_per_connection", Unit: "KiB RSS per joined connection", Value: 3},
		{Load: "fanout", Figure: perMillion, Unit: "CPU-s per 1M deliveries", Ratio: 1.25},
		{Load: "fanout", Figure: "p99_ms", Unit: "p99 ms", Ratio: 1.2},
		{Load: "fanout-wide", Figure: perMillion, Unit: "CPU-s per 1M deliveries", Ratio: 1.25},
		{Load: "fanout-wide", Figure: "p99_ms", Unit: "p99 ms", Ratio: 1.2},
		{Load: "rooms", Figure: perMillion, Unit: "CPU-s per 1M deliveries", Ratio: 2.5},
		{Load: "rooms", Figure: "p99_ms", Unit: "p99 ms", Ratio: 2},
		{Load: "flood", Figure: "deliveries_per_s", Unit: "deliveries/s", AtLeast: true, Value: 4e6, Ratio: 4 / 6.5},
		{Load: "flood", Figure: perMillion, Unit: "CPU-s per 1M deliveries", Value: 0.25, Ratio: 0.25 / 0.08},
		{Load: "churn", Figure: "cycles_per_s", Unit: "cycles/s", AtLeast: true, Value: 10_000, Ratio: 10_000 / 22_200.},
		{Load: "churn", Figure: perThousand, Unit: "CPU-s per 1000 cycles", Ratio: 4},
		{Load: "stalled", Figure: "added_p99_ms", Unit: "ms added to the others' p99", Value: 1, Lower: "added_p99_lower_quartile_ms"},
	}
}

// Verdict says whether the report meets the goal.
type Verdict string

// The verdicts. MetByRatio is not by the value. WithinChance: the figure is too much, its lower quartile is not.
// NotMeasured: the floor or the figure is missing. Faulty: messages were lost, doubled, reordered or refused.
const (
	Met          Verdict = "met"
	MetByRatio   Verdict = "met by the ratio"
	WithinChance Verdict = "not told from chance"
	NotMeasured  Verdict = "**not measured**"
	NotMet       Verdict = "**not met**"
	Faulty       Verdict = "**not met**: faults"
)

// Judge compares a report of the goal's load with the goal.
func (g Goal) Judge(r *Report) Verdict {
	ours, ok := spread(r.Runs, g.Figure)
	ratio, compared := r.ratio(g.Figure)
	holds := func(v, limit float64) bool { return v == limit || v > limit == g.AtLeast }
	switch lower, _ := spread(r.Runs, g.Lower); {
	case !ok || g.Value == 0 && !compared:
		return NotMeasured
	case r.Faults().Any():
		return Faulty
	case g.Value != 0 && holds(ours.Median, g.Value):
		return Met
	case g.Ratio != 0 && compared && holds(ratio, g.Ratio):
		if g.Value == 0 {
			return Met
		}
		return MetByRatio
	case g.Lower != "" && holds(lower.Median, g.Value):
		return WithinChance
	}
	return NotMet
}

// text writes the goal.
func (g Goal) text() string {
	sign := "≤"
	if g.AtLeast {
		sign = "≥"
	}
	switch {
	case g.Ratio == 0:
		return sign + " " + number(g.Value)
	case g.Value == 0:
		return fmt.Sprintf("%s %.3g × floor", sign, g.Ratio)
	}
	return fmt.Sprintf("%s %s, or %.2f × floor", sign, number(g.Value), g.Ratio)
}

// WriteGoals writes a table, in Markdown, of the goals of the loads in the reports, and reports whether all are met.
func WriteGoals(out io.Writer, reports []*Report) (met bool, err error) {
	met = true
	fmt.Fprintln(out, "| load | figure | ringcast | floor | ratio | goal | |\n|---|---|---|---|---|---|---|")
	for _, g := range Goals() {
		for _, r := range reports {
			if r.Load.Name != g.Load {
				continue
			}
			ratio := ""
			if v, ok := r.ratio(g.Figure); ok {
				ratio = fmt.Sprintf("%.2f", v)
			}
			verdict := g.Judge(r)
			met = met && (verdict == Met || verdict == MetByRatio)
			fmt.Fprintf(out, "| %s | %s | %s | %s | %s | %s | %s |\n", g.Load, g.Unit, spreadText(r.Runs, g.Figure),
				spreadText(r.Floor, g.Figure), ratio, g.text(), verdict)
		}
	}
	for _, r := range reports {
		if f := r.Faults(); f.Any() {
			met = false
			fmt.Fprintf(out, "\n%s: %s\n", r.Load.Name, f)
		}
	}
	_, err = fmt.Fprintln(out)
	return met, err
}
