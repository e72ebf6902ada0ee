package verify

import (
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ringcast/ringcast/cluster/verify/record"
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
	for _, note := range res.Notes {
		fmt.Fprintln(out, note)
	}
	if len(res.Pauses) > 0 {
		fmt.Fprintln(out, "\nlongest time that publishes waited and none was acknowledged, per fault and topic:")
		table = tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(table, "fault\tn\tp50\tp99\tmax\t")
		for _, p := range res.Pauses {
			fmt.Fprintf(table, "%s\t%d\t%v\t%v\t%v\t\n", p.Class, len(p.Times), ms(p.Quantile(0.5)), ms(p.Quantile(0.99)), ms(p.Quantile(1)))
		}
		_ = table.Flush()
	}
	res.printNodes(out)
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
	fmt.Fprintf(out, "records: %s, logs and heap profiles: %s\n", filepath.Join(res.Dir, "records"), res.Dir)
	fmt.Fprintf(out, "the same faults again: %s\n", again)
}

// printNodes writes what each node used: warm and before the faults, the most under load, and when all was over.
func (res *Result) printNodes(out io.Writer) {
	if len(res.Nodes) == 0 {
		return
	}
	fmt.Fprintln(out, "\nwhat each node used before the faults, at most during them, and after them:")
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "node\tgoroutines\tdescriptors\tof clients\theap MiB\tresident MiB\t")
	for _, n := range res.Nodes {
		row := func(of func(*record.Usage) string) string {
			words := []string{"–", of(&n.Peak), "–"}
			if n.Base != nil {
				words[0] = of(n.Base)
			}
			if n.Final != nil {
				words[2] = of(n.Final)
			}
			return strings.Join(words, " / ")
		}
		number := func(of func(*record.Usage) int) string {
			return row(func(u *record.Usage) string { return strconv.Itoa(of(u)) })
		}
		mib := func(of func(*record.Usage) int64) string {
			return row(func(u *record.Usage) string { return fmt.Sprintf("%.1f", float64(of(u))/(1<<20)) })
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t\n", n.Node,
			number(func(u *record.Usage) int { return u.Goroutines }), number(func(u *record.Usage) int { return u.FDs }),
			number(func(u *record.Usage) int { return u.Clients }),
			mib(func(u *record.Usage) int64 { return u.Heap }), mib(func(u *record.Usage) int64 { return u.RSS }))
	}
	_ = table.Flush()
	if res.Config.WarmUp > 0 {
		fmt.Fprintf(out, "afterwards at most: %d goroutines and %d descriptors (without those of clients) more, heap %+.0f %% and %d MiB, resident %+.0f %% and %d MiB\n",
			bounds.Goroutines, bounds.FDs, 100*bounds.Heap, bounds.HeapSlack>>20, 100*bounds.RSS, bounds.RSSSlack>>20)
	}
}

func ms(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
