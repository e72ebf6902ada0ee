package bench

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// stalled measures a Stalled load: the latency of all but the last connection, first while that one reads as the others
// do, then while it does not read and its socket is full.
func (r *runner) stalled(ctx context.Context) (*Run, error) {
	if err := r.populate(ctx); err != nil {
		return nil, err
	}
	p := newPacer(r)
	victim := r.loop.conns[len(r.loop.conns)-1]
	victim.unmeasured = true
	if err := p.publishFor(ctx, r.load.Duration/2); err != nil { // warming up
		return nil, err
	}
	r.loop.latency = new(histogram)
	if err := p.publishFor(ctx, r.load.Duration); err != nil {
		return nil, err
	}
	calm := r.loop.latency

	if err := r.loop.watch(unix.EPOLL_CTL_DEL, victim.fd, victim.slot, 0); err != nil {
		return nil, err
	}
	published := p.published
	behind := func() int64 { return p.published - published }
	if err := p.publishWithout(ctx, r.load.Duration/2, behind); err != nil { // until its socket is full
		return nil, err
	}
	r.loop.latency = new(histogram)
	from, err := r.usage()
	if err != nil {
		return nil, err
	}
	before := r.loop.deliveries
	if err := p.publishWithout(ctx, r.load.Duration, behind); err != nil {
		return nil, err
	}
	to, err := r.usage()
	if err != nil {
		return nil, err
	}
	full := r.loop.latency
	delivered := float64(r.loop.deliveries - before)
	r.figure("stalled_behind_kib", float64(behind())*float64(r.load.Payload)/1024)

	if err := r.loop.watch(unix.EPOLL_CTL_ADD, victim.fd, victim.slot, unix.EPOLLIN); err != nil {
		return nil, err
	}
	if err := p.rest(ctx, func() int64 { return 0 }); err != nil {
		return nil, err
	}
	for _, t := range r.topics {
		verdict(&r.loop.faults, t.subscribers, t.sent)
	}
	r.run.Faults.add(r.loop.faults)
	r.run.Faults.Refused += p.published - p.answered
	for _, q := range []struct {
		name string
		q    float64
	}{{"p50", 0.5}, {"p99", 0.99}, {"p999", 0.999}} {
		r.figure(fmt.Sprintf("calm_%s_ms", q.name), millis(calm.quantile(q.q)))
		r.figure(fmt.Sprintf("stalled_%s_ms", q.name), millis(full.quantile(q.q)))
		r.figure(fmt.Sprintf("added_%s_ms", q.name), millis(full.quantile(q.q)-calm.quantile(q.q)))
	}
	r.cpuFigures(from, to, delivered, "million", 1e6)
	return &r.run, nil
}

// publishWithout is publishFor at the load's rate while some deliveries are not to be waited for.
func (p *pacer) publishWithout(ctx context.Context, d time.Duration, without func() int64) error {
	start := clock()
	p.loop.lastAt = start
	if err := p.paced(ctx, start, d); err != nil {
		return err
	}
	return p.rest(ctx, without)
}
