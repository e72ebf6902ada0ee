package verify

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ringcast/ringcast/cluster/verify/check"
	"github.com/ringcast/ringcast/cluster/verify/record"
)

const (
	// sampleEvery is how often nodes under load are asked what they use.
	sampleEvery = 2 * time.Second
	// bulk is what may be queued for one client beyond its bound: the frame that crossed it.
	bulk = 96 << 10
)

// bounds are how much more than before a node may use at the end of a soak. What goroutines and descriptors come and go
// by themselves: a few of the admin listener and of redials.
var bounds = check.Bounds{Goroutines: 8, FDs: 4, Heap: 0.05, HeapSlack: 2 << 20, RSS: 0.25, RSSSlack: 16 << 20}

// gauges are read from a text of metrics.
func gauges(text string) map[string]float64 {
	values := make(map[string]float64)
	for line := range strings.Lines(text) {
		name, number, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		if v, err := strconv.ParseFloat(number, 64); err == nil {
			values[name] = v
		}
	}
	return values
}

// usage asks the node what it uses; with settled, its heap is collected first, and the profile of what lives is returned too. It
// reports false if the node does not answer.
func (n *node) usage(ctx context.Context, settled bool) (u *record.Usage, profile string, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if settled {
		var status int
		if status, profile = n.ask(ctx, "/debug/pprof/heap?gc=1"); status != http.StatusOK {
			return nil, "", false
		}
		http.DefaultClient.CloseIdleConnections() // they are goroutines and descriptors of the node
	}
	status, text := n.ask(ctx, "/metrics")
	if status != http.StatusOK {
		return nil, "", false
	}
	g := gauges(text)
	u = &record.Usage{
		RSS: int64(g["process_resident_memory_bytes"]), Goroutines: int(g["go_goroutines"]), FDs: int(g["process_open_fds"]),
		Clients: int(g["ringcast_gateway_sessions"]),
	}
	if settled {
		u.Heap = int64(g["go_memstats_heap_alloc_bytes"])
	}
	if queued, ok := g["ringcast_gateway_queue_bytes"]; ok {
		u.Queued, u.Bound = int64(queued), int64(u.Clients+1)*(queueBytes+bulk)
	} else {
		u.Queued, u.Bound = int64(g["ringcast_topic_history_bytes"]), n.remembers
	}
	return u, profile, true
}

// sample records what the running nodes use, and keeps their heap profiles beside their logs but during the faults. It returns
// the usage by node.
func (r *run) sample(ctx context.Context, phase string) map[string]*record.Usage {
	all := make(map[string]*record.Usage)
	for _, n := range r.cluster.running() {
		u, profile, ok := n.usage(ctx, phase != record.During)
		if !ok {
			continue
		}
		r.main.Add(record.Record{Kind: record.Used, ID: n.id, Reason: phase, Usage: u})
		all[n.id] = u
		if profile != "" {
			r.failed(os.WriteFile(filepath.Join(n.dir, "heap-"+phase+".pprof"), []byte(profile), 0o644))
		}
	}
	return all
}

// warmUp has the cluster do its work without faults, until histories and windows of ids are full and pools are as large as
// they get, and takes the baseline when the load has stopped.
func (r *run) warmUp(ctx context.Context) {
	r.logf("warming up for %v", r.cfg.WarmUp)
	r.publish(ctx, r.cfg.WarmUp, func(context.Context) {})
	r.base = r.sample(ctx, record.Before)
	r.ring = r.cluster.current()
}

// watch samples until ctx ends.
func (r *run) watch(ctx context.Context) {
	for sleep(ctx, sampleEvery) {
		r.sample(ctx, record.During)
	}
}

// settle gives each topic server the topics that it had at the baseline, waits until no node uses more than is allowed, and
// records what they use. What takes too long the check finds.
func (r *run) settle(ctx context.Context) {
	r.failed(r.cluster.reset(ctx, r.ring))
	r.logf("waiting for all nodes to use no more than before")
	within := func() bool {
		for _, n := range r.cluster.running() {
			if u, _, ok := n.usage(ctx, true); !ok || r.base[n.id] != nil && bounds.Exceeded(r.base[n.id], u) != "" {
				return false
			}
		}
		return true
	}
	for deadline := time.Now().Add(r.cfg.SettleWithin); !within() && time.Now().Before(deadline) && sleep(ctx, sampleEvery); {
	}
	r.sample(ctx, record.After)
}

// memory looks at what nodes have had of the memory that they may have. Where a cgroup holds them to it, one that took more
// has been killed.
func (r *run) memory() {
	if r.cfg.MemoryLimit == 0 {
		return
	}
	var peaks []string
	for _, n := range r.cluster.running() {
		if n.group != nil {
			peaks = append(peaks, fmt.Sprintf("%s %d", n.id, n.group.peak()>>20))
			continue
		}
		_, most := resident(n.pid())
		peaks = append(peaks, fmt.Sprintf("%s %d", n.id, most>>20))
		if most > r.cfg.MemoryLimit {
			r.failed(fmt.Errorf("%s had %d MiB resident, more than its limit", n.id, most>>20))
		}
	}
	r.notes = append(r.notes, fmt.Sprintf("memory limit %d MiB; the most that nodes had, MiB: %s", r.cfg.MemoryLimit>>20, strings.Join(peaks, ", ")))
}
