package bench

import (
	"context"
	"fmt"
	"time"
)

// pacer publishes for a while and waits for what comes of it.
type pacer struct {
	*runner
	publishers []*publisher
	late       *histogram // by how much publishes went out after their time

	// Since the first publish of all, warming up included.
	published int64 // publishes
	answered  int64 // answers to them
	expected  int64 // deliveries that they make

	until    int64         // closed loop: when to stop
	patience time.Duration // how long to wait for the rest once nothing comes any more
}

// newPacer returns a pacer for all publishers of r, whose connections have joined.
func newPacer(r *runner) *pacer {
	p := &pacer{runner: r, late: new(histogram), patience: 5 * time.Second}
	for k := range r.load.Publishers {
		for _, t := range r.topics {
			p.publishers = append(p.publishers, t.publishers[k])
		}
	}
	r.loop.acked = p.acked
	return p
}

// deliveries measures a Publish load.
func (r *runner) deliveries(ctx context.Context) (*Run, error) {
	if err := r.populate(ctx); err != nil {
		return nil, err
	}
	p := newPacer(r)
	// Warming up: buffers, caches and heaps find their size.
	if err := p.publishFor(ctx, min(time.Second, r.load.Duration/4)); err != nil {
		return nil, err
	}
	r.loop.latency, p.late = new(histogram), new(histogram)
	published, delivered := p.published, r.loop.deliveries
	from, err := r.usage()
	if err != nil {
		return nil, err
	}
	if err := p.publishFor(ctx, r.load.Duration); err != nil {
		return nil, err
	}
	to, err := r.usage()
	if err != nil {
		return nil, err
	}
	for _, t := range r.topics {
		verdict(&r.loop.faults, t.subscribers, t.sent)
	}
	r.run.Faults.add(r.loop.faults)
	r.run.Faults.Refused += p.published - p.answered

	n, seconds := float64(r.loop.deliveries-delivered), float64(r.loop.lastAt-from.at)/1e9
	r.figure("deliveries", n)
	if seconds > 0 {
		r.figure("deliveries_per_s", n/seconds)
		r.figure("publishes_per_s", float64(p.published-published)/seconds)
	}
	r.cpuFigures(from, to, n, "million", 1e6)
	r.latencyFigures()
	if r.load.Rate > 0 {
		r.figure("publish_late_p99_ms", millis(p.late.quantile(0.99)))
	}
	return &r.run, nil
}

// publishFor publishes for so long, and returns when all of it has been answered and delivered, or nothing comes any
// more.
func (p *pacer) publishFor(ctx context.Context, d time.Duration) error {
	start := clock()
	p.loop.lastAt = start
	if p.load.Rate > 0 {
		if err := p.paced(ctx, start, d); err != nil {
			return err
		}
	} else {
		p.loop.now, p.until = start, start+int64(d)
		for range p.load.Window {
			for _, pub := range p.publishers {
				if err := p.publish(pub); err != nil {
					return err
				}
			}
		}
		for p.loop.now < p.until {
			if err := p.loop.poll(ctx, p.until, nil); err != nil {
				return err
			}
		}
	}
	p.loop.lastAt = max(p.loop.lastAt, start)
	return p.rest(ctx, func() int64 { return 0 })
}

// rest returns when all publishes have been answered and delivered, but for so many deliveries as without says, or
// nothing comes any more.
func (p *pacer) rest(ctx context.Context, without func() int64) error {
	waiting := p.loop.now
	for p.answered < p.published || p.loop.deliveries < p.expected-without() {
		if p.loop.now-max(p.loop.lastAt, waiting) > int64(p.patience) {
			return nil // the verdict will say what is missing
		}
		if err := p.loop.poll(ctx, never, nil); err != nil {
			return err
		}
	}
	return nil
}

// paced publishes at the load's rate. A publish that comes late does not delay those after it.
func (p *pacer) paced(ctx context.Context, start int64, d time.Duration) error {
	total := int64(p.load.Rate * d.Seconds())
	due := func(i int64) int64 { return start + int64(float64(i)*1e9/p.load.Rate) }
	i := int64(0)
	tick := func() error {
		for ; i < total && due(i) <= p.loop.now; i++ {
			p.late.add(p.loop.now - due(i))
			if err := p.publish(p.publishers[i%int64(len(p.publishers))]); err != nil {
				return err
			}
		}
		return nil
	}
	for i < total {
		if err := p.loop.poll(ctx, due(i), tick); err != nil {
			return err
		}
	}
	return nil
}

func (p *pacer) publish(pub *publisher) error {
	p.published++
	p.expected += int64(len(pub.topic.subscribers))
	return p.loop.publish(pub)
}

// acked takes the answer to a publish. In the closed loop it makes room for the next one.
func (p *pacer) acked(c *conn, ok bool, text []byte) error {
	p.answered++
	if !ok {
		if p.run.Reason == "" {
			p.run.Reason = fmt.Sprintf("first refusal: %.200s", text)
		}
		p.run.Faults.Refused++
	}
	if p.loop.now < p.until {
		return p.publish(c.publisher)
	}
	return nil
}
