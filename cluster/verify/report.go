package verify

import (
	"fmt"
	"io"
	"path/filepath"
	"text/tabwriter"
	"time"
)

// shown is how many anomalies a report shows in full.
const shown = 20

// Print writes the result for people. Again is the command that repeats the run.
func (res *Result) Print(out io.Writer, again string) {
	n := res.Counts
	opts := res.Config.options()
	fmt.Fprintf(out, "\nverified in %v: seed %d, faults %s (%d)\n", res.Took.Round(time.Millisecond), res.Config.Seed, join(res.Config.Faults), n.Faults)
	switch {
	case !opts.Positions:
		fmt.Fprintln(out, "promised: one order, nothing lost or doubled while joined (no positions: nothing is kept for who is away)")
	case opts.Lossless:
		fmt.Fprintln(out, "promised: every acknowledged publish reaches every subscriber once and in order, and nobody is told of a gap")
	default:
		fmt.Fprintln(out, "promised: every acknowledged publish reaches every subscriber once and in order, or it is told of the gap")
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "  publishes\t%d on %d topics: %d acknowledged, %d refused, %d unknown; %d tried again, %d of them stand in two epochs\n",
		n.Published, n.Topics, n.Acked, n.Failed, n.Unknown, n.Retried, n.Reapplied)
	fmt.Fprintf(table, "  deliveries\t%d\n", n.Deliveries)
	fmt.Fprintf(table, "  joins\t%d: %d resumed, %d told of a gap; %d phx_error, %d sockets closed\n", n.Joins, n.Resumed, n.Gaps, n.PhxErrors, n.Closes)
	if opts.Positions {
		fmt.Fprintf(table, "  epochs\t%d topics began anew\n", n.Epochs)
	}
	fmt.Fprintf(table, "  at the end\t%d of %d topics take publishes; %d of %d memberships have everything\n",
		n.Probed, n.Topics, n.FinalPositionsSeen, n.Subscribers)
	_ = table.Flush() // out is the terminal, or a buffer
	if len(res.Pauses) > 0 {
		fmt.Fprintln(out, "\nlongest time that publishes waited and none was acknowledged, per fault and topic:")
		table = tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(table, "fault\tn\tp50\tp99\tmax\t")
		for _, p := range res.Pauses {
			fmt.Fprintf(table, "%s\t%d\t%v\t%v\t%v\t\n", p.Class, len(p.Times), ms(p.Quantile(0.5)), ms(p.Quantile(0.99)), ms(p.Quantile(1)))
		}
		_ = table.Flush()
	}
	if len(res.Anomalies) == 0 {
		fmt.Fprintf(out, "\nno anomalies\n")
		return
	}
	fmt.Fprintf(out, "\n%d ANOMALIES\n", len(res.Anomalies))
	for _, a := range res.Anomalies[:min(len(res.Anomalies), shown)] {
		fmt.Fprintln(out, a)
	}
	if more := len(res.Anomalies) - shown; more > 0 {
		fmt.Fprintf(out, "… and %d more\n", more)
	}
	fmt.Fprintf(out, "records: %s, logs: %s\n", filepath.Join(res.Dir, "records"), res.Dir)
	fmt.Fprintf(out, "the same faults again: %s\n", again)
}

func ms(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
