package admission

import (
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

// probe measures how late one loop is: how long a task waits until the loop runs it. One is on its way at a time.
type probe struct {
	sent   time.Duration // 0: none is on its way
	landed atomic.Int64  // how long the last one took; 0 while it is on its way
}

// next returns how late the loop is by what is known, and sends another probe if the last one is back.
func (p *probe) next(start time.Time, post func(func())) time.Duration {
	now := max(time.Since(start), 1)
	took := time.Duration(p.landed.Load())
	if p.sent > 0 && took == 0 {
		return now - p.sent
	}
	p.sent = now
	p.landed.Store(0)
	post(func() { p.landed.Store(max(int64(time.Since(start)-now), 1)) })
	return took
}

// judge turns figures into a level. It goes up at once, as far as the figures say, and comes down level by level, each
// after calm looks that would have allowed a lower one by a margin: so it does not swing.
//
// The first level begins at the configured figures. For memory, the others begin at a third and two thirds of the rest;
// for lag, at two and four times of it.
type judge struct {
	memory float64
	lag    time.Duration

	level Level
	late  [sustained]time.Duration // the last looks
	looks int
	good  int // looks in a row that allow a lower level
}

// The margins by which the figures must be below a threshold before the level falls.
const (
	memoryMargin = 0.05
	lagMargin    = 2 // times
)

func (j *judge) next(used float64, lag time.Duration) Level {
	j.late[j.looks%sustained] = lag
	j.looks++
	steady := min(j.late[0], j.late[1], j.late[2])
	worst := max(j.late[0], j.late[1], j.late[2])
	switch up, down := j.at(used, steady), j.at(used+memoryMargin, worst*lagMargin); {
	case up > j.level:
		j.level, j.good = up, 0
	case down >= j.level:
		j.good = 0
	default:
		if j.good++; j.good >= calm {
			j.level, j.good = j.level-1, 0
		}
	}
	return j.level
}

// at is the level that the figures ask for by themselves.
func (j *judge) at(used float64, lag time.Duration) (level Level) {
	if j.memory > 0 {
		for i := range NoPublishes {
			if used > j.memory+(1-j.memory)*float64(i)/3 {
				level = max(level, i+1)
			}
		}
	}
	if j.lag > 0 {
		for i := range NoPublishes {
			if lag > j.lag<<i {
				level = max(level, i+1)
			}
		}
	}
	return level
}

// MemoryUsed returns the share of the memory limit (GOMEMLIMIT) that the garbage collector cannot give back: what was
// live after the last collection, and all that is no heap. What is waiting to be collected does not count, however much
// that is: near the limit it is collected at once. Without a limit it is 0.
func MemoryUsed() float64 {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 || limit <= 0 {
		return 0
	}
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"}, // neither this nor the next three is used,
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, // and of this what is live
	}
	metrics.Read(samples)
	used := samples[0].Value.Uint64() + samples[1].Value.Uint64()
	for _, s := range samples[2:] {
		used -= s.Value.Uint64()
	}
	return float64(used) / float64(limit)
}

// collector has garbage collected while memory holds the level up and nobody else does: a gateway that refuses everything allocates
// little, and would not notice for minutes that its clients have gone.
type collector struct {
	cycles uint64 // collections up to the last look
	looks  int    // in a row that have found no more
}

// stale is how many looks may find no collection: three seconds.
const stale = 30

func (c *collector) look() {
	sample := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}}
	metrics.Read(sample)
	if cycles := sample[0].Value.Uint64(); cycles != c.cycles {
		c.cycles, c.looks = cycles, 0
		return
	}
	if c.looks++; c.looks >= stale {
		c.looks = 0
		go runtime.GC() // it waits for the end of the collection
	}
}
