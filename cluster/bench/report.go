package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
)

// Figure is one measured value.
type Figure struct {
	Name  string // lower case with underscores, the unit included unless it is a count
	Value float64
}

// Run is one measurement of one target.
type Run struct {
	Figures []Figure
	Faults  Faults
	Reason  string // of the first refusal or failure among the faults
	Memory  []Memory
}

// Memory is the resident size of one server process before and after the connections of an Idle load.
type Memory struct {
	Process   string `json:"process"`
	PID       int    `json:"pid"`
	BeforeKiB int64  `json:"before_kib"`
	AfterKiB  int64  `json:"after_kib"`
}

// Figure returns the value with the name, and whether there is one.
func (r *Run) Figure(name string) (float64, bool) {
	for _, f := range r.Figures {
		if f.Name == name {
			return f.Value, true
		}
	}
	return 0, false
}

// Report is what all runs of one load have found.
type Report struct {
	Load  Load
	Runs  []*Run // of the cluster
	Floor []*Run // empty unless asked for
}

// Faults adds up what was wrong in all runs, those of the floor included.
func (r *Report) Faults() Faults {
	var sum Faults
	for _, run := range slices.Concat(r.Runs, r.Floor) {
		sum.add(run.Faults)
	}
	return sum
}

// sustained is the share of a load's rate below which the target has not kept up with it.
const sustained = 0.95

// Warnings names what makes the figures doubtful.
func (r *Report) Warnings() []string {
	var out []string
	for _, side := range []struct {
		name string
		runs []*Run
	}{{"ringcast", r.Runs}, {"floor", r.Floor}} {
		for i, run := range side.runs {
			client, ok := run.Figure("client_cpu_s")
			if server, _ := run.Figure("server_cpu_s"); ok && client > server {
				out = append(out, fmt.Sprintf("%s run %d: the client took more CPU time than the servers (%.2f s, %.2f s)",
					side.name, i+1, client, server))
			}
			if rate, ok := run.Figure("publishes_per_s"); ok && rate < sustained*r.Load.Rate {
				out = append(out, fmt.Sprintf("%s run %d: only %.1f of %g publishes/s were delivered in time: the latency is that of a growing queue",
					side.name, i+1, rate, r.Load.Rate))
			}
			if busy, ok := run.Figure("machine_busy"); ok && busy > 0.6 {
				out = append(out, fmt.Sprintf("%s run %d: the machine was busy %.0f %% of the time: small differences drown in its queues",
					side.name, i+1, busy*100))
			}
			if run.Faults.Any() {
				out = append(out, fmt.Sprintf("%s run %d: FAULTS: %s %s", side.name, i+1, run.Faults, run.Reason))
			}
		}
	}
	return out
}

// Spread is one figure over all runs.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// spread returns the figure with the name over the runs that have it; ok is false if none has.
func spread(runs []*Run, name string) (s Spread, ok bool) {
	var values []float64
	for _, r := range runs {
		if v, ok := r.Figure(name); ok {
			values = append(values, v)
		}
	}
	if len(values) == 0 {
		return s, false
	}
	slices.Sort(values)
	mid := len(values) / 2
	s = Spread{Median: values[mid], Min: values[0], Max: values[len(values)-1]}
	if len(values)%2 == 0 {
		s.Median = (values[mid-1] + values[mid]) / 2
	}
	return s, true
}

// names returns the names of all figures, in the order of their first appearance.
func (r *Report) names() []string {
	var names []string
	for _, run := range slices.Concat(r.Runs, r.Floor) {
		for _, f := range run.Figures {
			if !slices.Contains(names, f.Name) {
				names = append(names, f.Name)
			}
		}
	}
	return names
}

// ratio returns the median of the cluster over that of the floor.
func (r *Report) ratio(name string) (float64, bool) {
	ours, ok1 := spread(r.Runs, name)
	floor, ok2 := spread(r.Floor, name)
	if !ok1 || !ok2 || floor.Median == 0 {
		return 0, false
	}
	return ours.Median / floor.Median, true
}

// WriteText writes the report for people.
func (r *Report) WriteText(out io.Writer) error {
	l := r.Load
	fmt.Fprintf(out, "%s: %d connections, %d topics", l.Name, l.Connections, l.Topics)
	if l.Kind == Storm {
		fmt.Fprintf(out, ", beside %d others", l.Established)
	}
	if l.Kind == Publish || l.Kind == Stalled || l.Kind == Storm {
		fmt.Fprintf(out, ", %d publishers a topic, %d B payload", l.Publishers, l.Payload)
		if l.Rate > 0 {
			fmt.Fprintf(out, ", %g publishes/s", l.Rate)
		} else {
			fmt.Fprintf(out, ", closed loop with %d publishes out", l.Window)
		}
	}
	fmt.Fprintf(out, ", %s; %d runs, median (min-max)\n", l.Duration, len(r.Runs))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	head := "  \tringcast\t"
	if len(r.Floor) > 0 {
		head += "floor\tratio\t"
	}
	fmt.Fprintln(w, head)
	for _, name := range r.names() {
		fmt.Fprintf(w, "  %s\t%s\t", name, spreadText(r.Runs, name))
		if len(r.Floor) > 0 {
			fmt.Fprintf(w, "%s\t", spreadText(r.Floor, name))
			if ratio, ok := r.ratio(name); ok {
				fmt.Fprintf(w, "%.2f", ratio)
			}
			fmt.Fprint(w, "\t")
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for i, run := range r.Runs {
		for _, m := range run.Memory {
			fmt.Fprintf(out, "  run %d, %s (%d): %d KiB before, %d KiB with the connections\n", i+1, m.Process, m.PID, m.BeforeKiB, m.AfterKiB)
		}
	}
	fmt.Fprintf(out, "  faults: %s\n", r.Faults())
	for _, text := range r.Warnings() {
		fmt.Fprintf(out, "  warning: %s\n", text)
	}
	_, err := fmt.Fprintln(out)
	return err
}

func spreadText(runs []*Run, name string) string {
	s, ok := spread(runs, name)
	switch {
	case !ok:
		return "-"
	case len(runs) == 1:
		return number(s.Median)
	}
	return fmt.Sprintf("%s (%s-%s)", number(s.Median), number(s.Min), number(s.Max))
}

// number prints whole what is large or whole, and three digits of what is small.
func number(v float64) string {
	switch {
	case v == math.Trunc(v) || math.Abs(v) >= 1000:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.3g", v)
	}
}

// MarshalJSON writes the report for programs: each figure as median, min and max.
func (r *Report) MarshalJSON() ([]byte, error) {
	side := func(runs []*Run) map[string]Spread {
		figures := make(map[string]Spread)
		for _, name := range r.names() {
			if s, ok := spread(runs, name); ok {
				figures[name] = s
			}
		}
		return figures
	}
	out := struct {
		Load     Load               `json:"load"`
		Runs     int                `json:"runs"`
		Ringcast map[string]Spread  `json:"ringcast"`
		Floor    map[string]Spread  `json:"floor,omitempty"`
		Ratio    map[string]float64 `json:"ratio,omitempty"`
		Memory   [][]Memory         `json:"memory,omitempty"` // a list for each run
		Faults   Faults             `json:"faults"`
		Warnings []string           `json:"warnings,omitempty"`
	}{
		Load: r.Load, Runs: len(r.Runs), Ringcast: side(r.Runs), Floor: side(r.Floor), Ratio: make(map[string]float64),
		Faults: r.Faults(), Warnings: r.Warnings(),
	}
	for _, name := range r.names() {
		if v, ok := r.ratio(name); ok {
			out.Ratio[name] = v
		}
	}
	for _, run := range r.Runs {
		if run.Memory != nil {
			out.Memory = append(out.Memory, run.Memory)
		}
	}
	return json.Marshal(out)
}
