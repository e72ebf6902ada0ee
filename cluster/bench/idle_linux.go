package bench

import (
	"context"
	"fmt"
	"time"
)

const sampleEvery = 500 * time.Millisecond // of memory

// idle measures an Idle load.
func (r *runner) idle(ctx context.Context) (*Run, error) {
	before, err := r.settled(ctx)
	if err != nil {
		return nil, err
	}
	start := clock()
	if err := r.populate(ctx); err != nil {
		return nil, err
	}
	joining := float64(clock()-start) / 1e9
	after, err := r.settled(ctx)
	if err != nil {
		return nil, err
	}
	for i, p := range r.target.processes {
		r.run.Memory = append(r.run.Memory, Memory{Process: p.Name, PID: p.PID, BeforeKiB: before[i], AfterKiB: after[i]})
	}
	from, to := float64(sum(before)), float64(sum(after))
	r.figure("kib_per_connection", (to-from)/float64(r.load.Connections))
	r.figure("rss_before_mib", from/1024)
	r.figure("rss_after_mib", to/1024)
	r.figure("joins_per_s", float64(r.load.Connections)/joining)
	r.run.Faults.add(r.loop.faults)
	return &r.run, nil
}

// settled returns the memory of each process once their sum has been the same for quietFor samples, or the load's
// duration is over. The connections are served all the while.
func (r *runner) settled(ctx context.Context) ([]int64, error) {
	end := clock() + int64(r.load.Duration)
	var sums []int64
	for {
		sizes, err := residentKiB(r.target.processes)
		if err != nil {
			return nil, err
		}
		sums = append(sums, sum(sizes))
		if quiet(sums) {
			return sizes, nil
		}
		if r.loop.now >= end {
			fmt.Fprintf(r.progress, "memory still moves after %s: the last samples are %v KiB\n",
				r.load.Duration, sums[max(0, len(sums)-quietFor):])
			return sizes, nil
		}
		for next := clock() + int64(sampleEvery); r.loop.now < next; {
			if err := r.loop.poll(ctx, next, nil); err != nil {
				return nil, err
			}
		}
	}
}
