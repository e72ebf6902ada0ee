package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"
)

// Measure runs the load as often as asked, against fresh servers each time if it starts them itself, and reports. Only
// one goroutine of the process may measure at a time: the client's CPU time is that of the whole process.
func Measure(ctx context.Context, cfg Config) (*Report, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	if err := checkDescriptors(cfg.Load.Connections + cfg.Load.Established); err != nil {
		return nil, err
	}
	report := &Report{Load: cfg.Load}
	ours := startCluster
	if len(cfg.URLs) > 0 {
		ours = runningTarget
	}
	for i := range cfg.Runs {
		cluster := func() error { return measureOne(ctx, &cfg, i, ours, &report.Runs) }
		floor := func() error { return measureOne(ctx, &cfg, i, startFloor, &report.Floor) }
		first, second := cluster, floor
		if i%2 == 1 {
			first, second = floor, cluster
		}
		if len(cfg.FloorCommand) == 0 {
			first, second = cluster, func() error { return nil }
		}
		if err := first(); err != nil {
			return nil, err
		}
		if err := second(); err != nil {
			return nil, err
		}
	}
	return report, nil
}

// measureOne starts a target, measures it, ends it, and appends what it found to runs.
func measureOne(ctx context.Context, cfg *Config, i int, start func(context.Context, *Config) (*target, error), runs *[]*Run) error {
	t, err := start(ctx, cfg)
	if err != nil {
		return err
	}
	defer t.stop()
	fmt.Fprintf(cfg.Progress, "%s, run %d of %d: %s …\n", cfg.Load.Name, i+1, cfg.Runs, t.name)
	run, err := measure(ctx, cfg.Load, t, cfg.Progress)
	if err != nil {
		if died := t.died(); died != nil {
			err = errors.Join(err, died)
		}
		return fmt.Errorf("%s against %s: %w%s", cfg.Load.Name, t.name, err, t.words())
	}
	*runs = append(*runs, run)
	return nil
}

// measure runs the load once against servers that are ready.
func measure(ctx context.Context, load Load, t *target, progress io.Writer) (*Run, error) {
	r, err := newRunner(load, t, progress)
	if err != nil {
		return nil, err
	}
	defer r.loop.close()
	switch load.Kind {
	case Idle:
		return r.idle(ctx)
	case Churn:
		return r.churn(ctx)
	case Stalled:
		return r.stalled(ctx)
	case Storm:
		return r.storm(ctx)
	default:
		return r.deliveries(ctx)
	}
}

// runner is one load on its way against one target.
type runner struct {
	load     Load
	target   *target
	progress io.Writer
	loop     *loop
	topics   []*topic
	run      Run
}

func newRunner(load Load, t *target, progress io.Writer) (*runner, error) {
	l, err := newLoop(t.path)
	if err != nil {
		return nil, err
	}
	r := &runner{load: load, target: t, progress: progress, loop: l}
	// Topics of one run are not those of another: servers that outlive a run remember topics.
	tag := rand.Uint32()
	for i := range load.Topics {
		name := fmt.Sprintf("bench:%08x.%05d", tag, i)
		t := &topic{
			name: name, delivery: newDelivery(name, load.Payload), join: joinFrame(name), leave: leaveFrame(name),
			sent: make([]uint32, load.Publishers),
		}
		if load.Kind == Stalled {
			t.filler = fillFrame(name)
		}
		r.topics = append(r.topics, t)
	}
	return r, nil
}

// checkDescriptors makes sure that this process may open so many connections.
func checkDescriptors(connections int) error {
	const others = 64
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	if need := uint64(connections) + others; need > limit.Cur {
		return fmt.Errorf("%d connections need %d open files, but the limit is %d: raise it (ulimit -n) or ask for fewer connections",
			connections, need, limit.Cur)
	}
	return nil
}

const (
	openAtOnce  = 64 // connections on their way to being joined
	openTimeout = 60 * time.Second
	perSource   = 20_000 // connections from one source address
)

// populate opens the load's connections and returns when all have joined.
func (r *runner) populate(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, openTimeout, fmt.Errorf("not all connections joined within %s", openTimeout))
	defer cancel()
	l, n := r.loop, r.load.Connections
	ready := 0
	l.joined = func(*conn) error { ready++; return nil }
	for i := range n {
		c := r.newConn(i)
		c.smallBuffer = r.load.Kind == Stalled && i >= n-r.load.Topics
		c.topic.subscribers = append(c.topic.subscribers, &c.tracker)
		if k := i / r.load.Topics; k < r.load.Publishers {
			p := &publisher{conn: c, topic: c.topic, index: k, frame: newPublishFrame(c.topic.name, k, r.load.Payload)}
			c.publisher = p
			c.topic.publishers = append(c.topic.publishers, p)
		}
	}
	for opened := 0; ready < n; {
		for ; opened < min(n, ready+openAtOnce); opened++ {
			c := l.conns[opened]
			if err := l.open(c, sourceAddress(c.addr.IP, opened/perSource)); err != nil {
				return err
			}
		}
		if err := l.poll(ctx, never, nil); err != nil {
			return err
		}
	}
	return nil
}

const never = int64(1<<63 - 1)

// newConn gives the loop another connection, not open yet: the i-th one, with its topic and its gateway. The connections
// of a topic take the gateways in turn, and so do the first connections of all topics.
func (r *runner) newConn(i int) *conn {
	t := i % r.load.Topics
	addr := r.target.addrs[(t+i/r.load.Topics)%len(r.target.addrs)]
	c := &conn{slot: i, state: gone, addr: addr, host: addr.String(), topic: r.topics[t]}
	c.tracker.next = make([]uint32, r.load.Publishers)
	r.loop.conns = append(r.loop.conns, c)
	return c
}

// usage is the CPU time used and the moment it was read.
type usage struct {
	at             int64
	server, client time.Duration
}

func (r *runner) usage() (usage, error) {
	server, err := cpuTime(r.target.processes)
	if err != nil {
		return usage{}, err
	}
	var own unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &own); err != nil {
		return usage{}, fmt.Errorf("CPU time of the client: %w", err)
	}
	return usage{at: clock(), server: server, client: time.Duration(own.Utime.Nano() + own.Stime.Nano())}, nil
}

// figure notes a figure.
func (r *runner) figure(name string, value float64) {
	r.run.Figures = append(r.run.Figures, Figure{Name: name, Value: value})
}

// cpuFigures notes the CPU time between two readings, and per so many units of work done between them.
func (r *runner) cpuFigures(from, to usage, done float64, name string, per float64) {
	server, client := (to.server - from.server).Seconds(), (to.client - from.client).Seconds()
	if done > 0 {
		r.figure("server_cpu_s_per_"+name, server/done*per)
		r.figure("client_cpu_s_per_"+name, client/done*per)
	}
	r.figure("server_cpu_s", server)
	r.figure("client_cpu_s", client)
}

// latencyFigures notes what the loop's histogram holds.
func (r *runner) latencyFigures() {
	h := r.loop.latency
	for _, q := range []struct {
		name string
		q    float64
	}{{"p50_ms", 0.5}, {"p99_ms", 0.99}, {"p999_ms", 0.999}} {
		r.figure(q.name, millis(h.quantile(q.q)))
	}
	r.figure("max_ms", millis(h.max))
}

func millis(ns int64) float64 { return float64(ns) / 1e6 }
