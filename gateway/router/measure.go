package router

import (
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// sampleEvery is of how many publishes and batches the time of one is taken, so that clocks cost nothing that shows.
const sampleEvery = 16

// maxCode bounds the codes that are counted each on its own; those above, of a later protocol, are counted as the last.
const maxCode = 128

func codeIndex(code linkpb.Code) int { return min(max(int(code), 0), maxCode-1) }

// ended counts a publish that has its outcome. Called once for each.
func (p *publish) ended(o Outcome) {
	r := p.local.r
	r.stats.publishEnds[codeIndex(o.Code)].Add(1)
	if p.timed && o.OK() && r.cfg.PublishTime != nil {
		r.cfg.PublishTime.Observe(time.Since(p.since).Seconds())
	}
	if p.span != nil {
		p.endSpan(o)
	}
}

// answer ends a join with its outcome.
func (l *Local) answer(done func(Outcome), o Outcome) {
	l.r.stats.joinEnds[codeIndex(o.Code)].Add(1)
	done(o)
}

// clock takes the time of batches with messages. It belongs to its inbox.
type clock struct {
	batch   uint64 // the last one that was looked at
	batches uint64 // looked at
	began   time.Time
	observe func(float64)
}

// start notes when a batch came that has a message in it, if it is one of those that are measured.
func (k *clock) start(in *inbox) {
	if k.batch == in.batch || in.lane.r.cfg.DeliveryTime == nil {
		return
	}
	k.batch = in.batch
	if k.batches++; k.batches%sampleEvery == 1 {
		k.began, k.observe = time.Now(), in.lane.r.cfg.DeliveryTime.Observe
	}
}

// stopAfter has the time taken when the loop has written what the batch staged.
func (k *clock) stopAfter(b *batch) {
	if k.began.IsZero() {
		return
	}
	began, observe := k.began, k.observe
	b.timed = func() { observe(time.Since(began).Seconds()) }
}

// Outcomes counts what has ended since the start, by code.
type Outcomes struct {
	Publishes, Joins uint64
}

// Outcomes returns how many publishes and joins have ended with a code.
func (r *Router) Outcomes(code linkpb.Code) Outcomes {
	i := codeIndex(code)
	return Outcomes{Publishes: r.stats.publishEnds[i].Load(), Joins: r.stats.joinEnds[i].Load()}
}

// Topics returns how many topics this gateway subscribes now, those that linger included.
func (r *Router) Topics() (n int) {
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		for _, sub := range s.topics {
			if sub.wanted {
				n++
			}
		}
		s.mu.Unlock()
	}
	return n
}

// InFlight returns how many publishes have not ended now: those sent and not answered, and those that wait for an owner.
func (r *Router) InFlight() (n int) {
	for _, l := range r.everyLane() {
		l.mu.Lock()
		n += l.flights
		l.mu.Unlock()
	}
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		for _, sub := range s.topics {
			n += len(sub.flow.bounced) + len(sub.flow.parked)
		}
		s.mu.Unlock()
	}
	return n
}

// Links returns the number of live lanes to each topic server of the ring.
func (r *Router) Links() map[string]int {
	links := make(map[string]int)
	for server, lanes := range r.table.Load().lanes {
		links[server] = 0
		for _, l := range lanes {
			if l.live() {
				links[server]++
			}
		}
	}
	return links
}
