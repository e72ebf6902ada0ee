package verify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/ringcast/ringcast/cluster/verify/check"
	"github.com/ringcast/ringcast/cluster/verify/record"
)

const (
	// joinTime bounds the first joins of all clients.
	joinTime = 30 * time.Second
	// drainTime bounds the wait for publishes in flight after the last one was begun.
	drainTime = retryFor + 5*time.Second
	// poll is how often conditions are looked at.
	poll = 10 * time.Millisecond
)

// Result is the outcome of a run.
type Result struct {
	*check.Report
	Config Config        // with all defaults in place
	Took   time.Duration // all of it
	Dir    string        // of records and logs, which are kept on an anomaly; "" if they are not
	Notes  []string      // what else is to be known about the run, a line each
}

// Run runs one verification. The error is about the verification itself: anomalies are in the Result.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	dir := cfg.Dir
	if dir == "" {
		dir, err = os.MkdirTemp("", "ringcast-verify-")
	} else {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	r := newRun(cfg)
	if err := r.do(ctx, dir); err != nil {
		return nil, fmt.Errorf("verify: %w; logs: %s", err, dir)
	}
	res := &Result{Report: check.Check(r.log.Records(), cfg.options()), Config: cfg, Took: r.log.Now(), Notes: r.notes}
	if len(res.Anomalies) > 0 {
		res.Dir = dir
		return res, r.log.Save(filepath.Join(dir, "records"))
	}
	if cfg.Dir == "" {
		return res, os.RemoveAll(dir)
	}
	return res, nil
}

// run is one verification at work.
type run struct {
	cfg     Config
	log     *record.Log
	topics  []string
	enough  func() bool // if set, publishing goes on until it is true
	cluster *deployment
	main    *record.Actor

	clients     []*client // all of them
	subscribers []*client
	publishers  []*publisher

	notes []string
	base  map[string]*record.Usage // after the warm-up, by node
	ring  topology                 // then
}

func newRun(cfg Config) *run {
	log := record.NewLog()
	return &run{cfg: cfg, log: log, topics: cfg.topics(), main: log.Actor("verify")}
}

// do starts the cluster, exercises it, and stops it.
func (r *run) do(ctx context.Context, dir string) (err error) {
	r.logf("starting %d gateways and %d topic servers", r.cfg.Gateways, r.cfg.TopicServers)
	r.cluster, err = deploy(ctx, r.cfg, dir, func(id, reason string) {
		if ctx.Err() == nil {
			r.logf("%s died: %s", id, reason)
			r.main.Add(record.Record{Kind: record.Died, ID: id, Reason: reason})
		}
	})
	if err != nil {
		return err
	}
	defer func() { r.failed(r.cluster.stop()) }()
	if why := r.cluster.unlimited; why != nil {
		r.notes = append(r.notes, fmt.Sprintf("NO REAL MEMORY LIMIT: only GOMEMLIMIT was set, and what nodes had taken was looked at in the end: %v", why))
	}
	return r.exercise(ctx)
}

// exercise has clients use the cluster, in this order: joins, publishes and faults, heal, one publish to each topic,
// everybody arrives, final read.
func (r *run) exercise(ctx context.Context) error {
	clientCtx, stopClients := context.WithCancel(ctx)
	defer func() {
		stopClients()
		for _, c := range r.clients {
			<-c.done
		}
	}()
	if err := r.start(ctx, clientCtx); err != nil {
		return err
	}
	if r.cfg.WarmUp > 0 {
		r.warmUp(ctx)
	}
	r.publish(ctx, r.cfg.Duration, r.disturb)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.logf("healing")
	r.failed(r.cluster.heal())
	r.main.Add(record.Record{Kind: record.Heal})
	r.finish(ctx, clientCtx)
	r.main.Add(record.Record{Kind: record.End})
	r.failed(r.cluster.waitReady(ctx))
	if r.cfg.WarmUp > 0 {
		r.settle(ctx)
	}
	r.memory()
	return ctx.Err()
}

// failed records what went wrong with the nodes, if err is not nil.
func (r *run) failed(err error) {
	if err != nil {
		r.logf("%v", err)
		r.main.Add(record.Record{Kind: record.Died, ID: "cluster", Reason: err.Error()})
	}
}

// clientConfig is that of the i-th client. Only subscribers are tampered with.
func (r *run) clientConfig(i int, subscriber bool) clientConfig {
	cfg := clientConfig{
		urls: r.cluster.urls, scale: r.cfg.Scale, positions: !r.cfg.NoPositions,
		rng: rand.New(rand.NewPCG(r.cfg.Seed, 100+uint64(i))), buffer: 8 * r.cfg.PayloadBytes,
	}
	if subscriber {
		cfg.tamper, cfg.every = r.cfg.Tamper, r.cfg.TamperEvery
	}
	return cfg
}

// start starts all clients and waits until they have joined.
func (r *run) start(ctx, clientCtx context.Context) error {
	for i := range r.cfg.Subscribers {
		cfg := r.clientConfig(i, true)
		c := newClient(r.log, fmt.Sprintf("sub-%d", i+1), cfg)
		for k, topic := range r.topics {
			if r.joins(i, k, cfg.rng) {
				c.join(topic, record.Position{})
			}
		}
		r.subscribers = append(r.subscribers, c)
	}
	r.clients = slices.Clone(r.subscribers)
	for i := range r.cfg.Publishers {
		p := newPublisher(r.log, fmt.Sprintf("pub-%d", i+1), r.clientConfig(r.cfg.Subscribers+i, false), r.topics)
		p.bytes = r.cfg.PayloadBytes
		r.publishers = append(r.publishers, p)
		r.clients = append(r.clients, p.client)
	}
	for _, c := range r.clients {
		c.run(clientCtx)
	}
	if !r.wait(ctx, joinTime, r.clients, func(_ string, p progress) bool { return p.joined }) {
		return errors.Join(ctx.Err(), fmt.Errorf("not all clients had joined after %v", joinTime))
	}
	r.logf("%d subscribers and %d publishers have joined %d topics", len(r.subscribers), len(r.publishers), len(r.topics))
	return nil
}

// joins decides whether the i-th subscriber joins the k-th topic. Each topic has a subscriber if there are enough of them, and
// each subscriber a topic.
func (r *run) joins(i, k int, rng *rand.Rand) bool {
	if n := len(r.topics); r.cfg.Joins > 0 {
		return (k-i*r.cfg.Joins%n+n)%n < r.cfg.Joins
	}
	return i%len(r.topics) == k || k%r.cfg.Subscribers == i || rng.IntN(3) > 0
}

// wait waits until a condition holds for every topic of every client given.
func (r *run) wait(ctx context.Context, d time.Duration, clients []*client, ok func(topic string, p progress) bool) bool {
	for deadline := time.Now().Add(d); ; {
		if !slices.ContainsFunc(clients, func(c *client) bool { return !c.all(ok) }) {
			return true
		}
		if time.Now().After(deadline) || !sleep(ctx, poll) {
			return false
		}
	}
}

// publish has the publishers publish while disturb runs, and for a time at least, and returns when the publishes in flight
// have ended.
func (r *run) publish(ctx context.Context, least time.Duration, disturb func(context.Context)) {
	r.logf("publishing for %v", least)
	publishing, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	for _, p := range r.publishers {
		all.Go(func() {
			p.publishAt(publishing, r.cfg.Rate/float64(len(r.publishers)), r.cfg.Window, r.topics)
		})
	}
	begun := time.Now()
	disturb(ctx)
	sleep(ctx, least-time.Since(begun))
	for r.enough != nil && !r.enough() && sleep(ctx, poll) {
	}
	stop()
	all.Wait()
	for deadline := time.Now().Add(drainTime); time.Now().Before(deadline); {
		if !slices.ContainsFunc(r.publishers, func(p *publisher) bool { return p.inFlight.Load() > 0 }) || !sleep(ctx, poll) {
			return
		}
		for _, p := range r.publishers {
			p.socket.Do(p.work)
		}
	}
}

func (r *run) disturb(ctx context.Context) {
	n := &nemesis{r: r, actor: r.log.Actor("nemesis")}
	if r.cfg.WarmUp > 0 {
		watching, stop := context.WithCancel(ctx)
		var watch sync.WaitGroup
		watch.Go(func() { r.watch(watching) })
		defer watch.Wait()
		defer stop()
	}
	n.work(ctx, plan(r.cfg))
}

// finish publishes to each topic until that succeeds, waits for all subscribers to receive it, and has a new client read
// each topic from where its epoch was first heard of. What takes too long the check finds missing.
func (r *run) finish(ctx, clientCtx context.Context) {
	acked := make(chan record.Record, len(r.topics))
	probe := newProbe(r.log, "probe", r.clientConfig(1000, false), r.topics, acked)
	r.clients = append(r.clients, probe.client)
	probe.run(clientCtx)
	last := make(map[string]record.Record) // by topic: the acknowledgment of its last message
	timeout := time.NewTimer(r.cfg.HealWithin)
	defer timeout.Stop()
	for len(last) < len(r.topics) {
		select {
		case ack := <-acked:
			last[ack.Topic] = ack
			continue
		case <-timeout.C:
		case <-ctx.Done():
		}
		r.logf("a publish succeeded on %d of %d topics only", len(last), len(r.topics))
		return
	}
	r.logf("all topics take publishes")
	// Who is told of a gap may begin at the last message, and does not receive that.
	arrived := func(topic string, p progress) bool {
		return p.joined && (p.last == last[topic].ID || !p.at.IsZero() && p.at == last[topic].Position)
	}
	if r.wait(ctx, r.cfg.HealWithin, r.clients, arrived) {
		r.logf("all clients have arrived at the last message of each topic")
	} else {
		r.logf("not all clients have arrived at the last message of each topic")
	}
	if r.cfg.NoPositions {
		return
	}
	final := newClient(r.log, "final", r.clientConfig(1001, false))
	starts := r.firstPositions()
	for _, topic := range r.topics {
		final.join(topic, starts[topic])
	}
	r.clients = append(r.clients, final)
	final.run(clientCtx)
	if r.wait(ctx, r.cfg.HealWithin, []*client{final}, arrived) {
		r.logf("the final read has arrived there, too")
	} else {
		r.logf("the final read did not arrive at the last message of each topic")
	}
}

// firstPositions are, for each topic, the first known position of the epoch that it is in, or a later one that its
// history reaches back to.
func (r *run) firstPositions() map[string]record.Position {
	starts, tops := make(map[string]record.Position), make(map[string]uint64)
	for _, rec := range r.log.Records() {
		p, start := rec.Position, starts[rec.Topic]
		switch {
		case rec.Kind == record.OK:
			tops[rec.Topic] = p.Offset
		case rec.Kind == record.Join && !p.IsZero() && (p.Epoch != start.Epoch || p.Offset < start.Offset):
			starts[rec.Topic] = p
		}
	}
	for topic, start := range starts {
		if top := tops[topic]; top > start.Offset+retained {
			start.Offset = top - retained
			starts[topic] = start
		}
	}
	return starts
}
