package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ringcast/ringcast/cluster/verify/record"
)

// Bounds say how much more than at its baseline a node may use when all is healed and quiet. The zero value is: nothing more.
type Bounds struct {
	Goroutines int     // more
	FDs        int     // more, not counting those of clients
	Heap       float64 // as a share of what it was: 0.05 means a twentieth more,
	HeapSlack  int64   // and so many bytes
	RSS        float64 // likewise; the runtime gives memory back when it sees fit,
	RSSSlack   int64   // so this is wide
}

// Exceeded says what of a node's usage is more than its baseline allows; "" if nothing is.
func (b *Bounds) Exceeded(base, now *record.Usage) string {
	var over []string
	for _, x := range []struct {
		name             string
		now, base, bound int64
	}{
		{"goroutines", int64(now.Goroutines), int64(base.Goroutines), int64(base.Goroutines + b.Goroutines)},
		{"file descriptors without those of clients", int64(now.FDs - now.Clients), int64(base.FDs - base.Clients), int64(base.FDs - base.Clients + b.FDs)},
		{"bytes of heap", now.Heap, base.Heap, base.Heap + int64(b.Heap*float64(base.Heap)) + b.HeapSlack},
		{"bytes resident", now.RSS, base.RSS, base.RSS + int64(b.RSS*float64(base.RSS)) + b.RSSSlack},
	} {
		if x.now > x.bound {
			over = append(over, fmt.Sprintf("%d %s, %d before, at most %d", x.now, x.name, x.base, x.bound))
		}
	}
	return strings.Join(over, "; ")
}

// NodeUsage is what a node used before the faults and after them, and the most of each in between. What is not known is
// nil.
type NodeUsage struct {
	Node        string
	Base, Final *record.Usage
	Peak        record.Usage
}

// checkResources checks I11.
func (c *checker) checkResources() []NodeUsage {
	var nodes []NodeUsage
	for _, r := range c.used {
		i := slices.IndexFunc(nodes, func(n NodeUsage) bool { return n.Node == r.ID })
		if i < 0 {
			i = len(nodes)
			nodes = append(nodes, NodeUsage{Node: r.ID})
		}
		n, u := &nodes[i], r.Usage
		if u.Bound > 0 && u.Queued > u.Bound {
			c.report(Resources, []*record.Record{r}, "%s had %d bytes in its queues, at most %d may wait", r.ID, u.Queued, u.Bound)
		}
		n.Peak = record.Usage{
			RSS: max(n.Peak.RSS, u.RSS), Heap: max(n.Peak.Heap, u.Heap), Goroutines: max(n.Peak.Goroutines, u.Goroutines),
			FDs: max(n.Peak.FDs, u.FDs), Clients: max(n.Peak.Clients, u.Clients), Queued: max(n.Peak.Queued, u.Queued),
		}
		switch r.Reason {
		case record.Before:
			n.Base = u
		case record.After:
			n.Final = u
			if n.Base == nil || c.opts.Bounds == nil {
				continue
			}
			if over := c.opts.Bounds.Exceeded(n.Base, u); over != "" {
				c.report(Resources, []*record.Record{r}, "%s has not come back to its baseline: %s", r.ID, over)
			}
		}
	}
	slices.SortFunc(nodes, func(a, b NodeUsage) int { return cmp.Compare(a.Node, b.Node) })
	for _, n := range nodes {
		if c.opts.Bounds != nil && n.Base != nil && n.Final == nil {
			c.report(Resources, c.used[:1], "%s could not be asked at the end what it uses", n.Node)
		}
	}
	return nodes
}
