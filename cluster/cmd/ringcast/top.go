package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// busy is a node and what it does each second.
type busy struct {
	node
	publishes, sends float64
}

// rank compares two looks at the same nodes and puts the busiest first. A node that was started in between, or does not
// answer, has no rates.
func rank(before, now []node, passed time.Duration) []busy {
	rows := make([]busy, len(now))
	for i, n := range now {
		rows[i] = busy{node: n}
		old := before[i]
		if n.Status == nil || old.Status == nil || n.Publishes < old.Publishes || n.Sends < old.Sends {
			continue
		}
		rows[i].publishes = float64(n.Publishes-old.Publishes) / passed.Seconds()
		rows[i].sends = float64(n.Sends-old.Sends) / passed.Seconds()
	}
	slices.SortStableFunc(rows, func(a, b busy) int { return cmp.Compare(b.publishes+b.sends, a.publishes+a.sends) })
	return rows
}

func printTop(out io.Writer, rows []busy) error {
	if p, ok := out.(printer); ok {
		p.clear()
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NODE\tROLE\tRING\tPUBLISHES/S\tSENDS/S\tTOPICS\tSESSIONS\tSUBSCRIBERS")
	for _, r := range rows {
		if r.Status == nil {
			fmt.Fprintf(table, "%s\tNode is not running!\n", r.URL)
			continue
		}
		fmt.Fprintf(table, "%s\t%s\tv%d\t%.1f\t%.1f\t%d\t%d\t%d\n",
			r.Ring.ID, r.Ring.Role, r.Ring.Version, r.publishes, r.sends, r.Topics, r.Sessions, r.Subscribers)
	}
	return table.Flush()
}
