package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// stormTimeout is how long a crowd may take to be back.
const stormTimeout = 60 * time.Second

// comebacks are the pauses of phoenix.js before its attempts to connect again, without jitter. The last one stays.
var comebacks = [...]time.Duration{
	10 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 150 * time.Millisecond, 200 * time.Millisecond,
	250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second,
}

// crowd are the connections that come all at once. They have an event loop of their own, so that those who are there
// already are read in time.
type crowd struct {
	*runner
	waiting [len(comebacks)][]*conn // by the pause that they are in; in each, in the order in which they are due
	due     map[*conn]int64
	tries   map[*conn]int
	back    int
	opened  int   // attempts
	refused int64 // handshakes answered 503 or closed with 1013
	broken  int64 // other attempts that failed
}

// storm measures a Storm load: Established connections on the first gateway, whose messages are timed, first in peace
// and then while a crowd, whose gateway has died, comes to the first one all at once and joins.
func (r *runner) storm(ctx context.Context) (*Run, error) {
	if len(r.target.addrs) < 2 {
		return nil, errors.New("a storm needs two gateways")
	}
	first, last := *r.target, *r.target
	first.addrs, last.addrs = r.target.addrs[:1], r.target.addrs[1:]
	load := r.load
	load.Topics, load.Connections, load.Kind = 1, r.load.Established, Publish
	there, err := newRunner(load, &first, r.progress)
	if err != nil {
		return nil, err
	}
	defer there.loop.close()
	if err := there.populate(ctx); err != nil {
		return nil, err
	}
	target := r.target
	c := &crowd{runner: r, due: make(map[*conn]int64), tries: make(map[*conn]int)}
	r.load.Publishers = 0
	r.target = &last
	if err := r.populate(ctx); err != nil {
		return nil, err
	}
	p := newPacer(there)
	if err := p.publishFor(ctx, min(time.Second, r.load.Duration/4)); err != nil { // warming up
		return nil, err
	}
	there.loop.latency = new(histogram)
	if err := p.publishFor(ctx, r.load.Duration); err != nil {
		return nil, err
	}
	calm := there.loop.latency
	there.loop.latency = new(histogram)

	survivor := target.processes[:1]
	for i := range target.processes {
		if target.processes[i].Name == "gateway-0" {
			survivor = target.processes[i : i+1]
		}
	}
	before, err := residentKiB(survivor)
	if err != nil {
		return nil, err
	}
	var over atomic.Bool
	came := make(chan error, 1)
	start := clock()
	go func() {
		defer over.Store(true)
		target.kill("gateway-1")
		came <- c.comeBack(ctx, first.addrs[0])
	}()
	if err := p.publishUntil(ctx, start, &over); err != nil {
		return nil, errors.Join(err, <-came)
	}
	if err := <-came; err != nil {
		return nil, err
	}
	back := r.loop.now - start
	if err := p.rest(ctx, func() int64 { return 0 }); err != nil {
		return nil, err
	}
	for _, t := range there.topics {
		verdict(&there.loop.faults, t.subscribers, t.sent)
	}
	r.run.Faults.add(there.loop.faults)
	r.run.Faults.add(r.loop.faults)
	r.run.Faults.Refused += p.published - p.answered
	peak, err := peakKiB(survivor[0].PID)
	if err != nil {
		return nil, err
	}
	r.figure("back_s", float64(back)/1e9)
	r.figure("back_p50_s", float64(r.loop.latency.quantile(0.5))/1e9)
	r.figure("back_p99_s", float64(r.loop.latency.quantile(0.99))/1e9)
	r.figure("refused", float64(c.refused))
	r.figure("failed_attempts", float64(c.broken))
	r.figure("rss_before_mib", float64(before[0])/1024)
	r.figure("rss_peak_mib", float64(peak)/1024)
	for _, q := range []struct {
		name string
		q    float64
	}{{"p50", 0.5}, {"p99", 0.99}, {"max", 1}} {
		r.figure("calm_"+q.name+"_ms", millis(calm.quantile(q.q)))
		r.figure("storm_"+q.name+"_ms", millis(there.loop.latency.quantile(q.q)))
	}
	return &r.run, nil
}

// comeBack drops all connections and has each connect to addr at once, again and again until it has joined.
func (c *crowd) comeBack(ctx context.Context, addr *net.TCPAddr) error {
	l := c.loop
	l.latency = new(histogram)
	l.joined = func(conn *conn) error {
		c.back++
		l.latency.add(l.now - c.due[conn])
		return nil
	}
	l.ended = c.ended
	l.now = clock()
	start := l.now
	for _, conn := range l.conns {
		l.drop(conn)
		conn.addr, conn.host = addr, addr.String()
		c.due[conn] = start
		conn.tracker = tracker{next: conn.tracker.next}
		if err := c.open(conn); err != nil {
			return err
		}
	}
	for c.back < len(l.conns) {
		if l.now-start > int64(stormTimeout) {
			return fmt.Errorf("only %d of %d are back after %s; %d refused, %d failed", c.back, len(l.conns), stormTimeout, c.refused, c.broken)
		}
		next, err := c.retry()
		if err != nil {
			return err
		}
		if err := l.poll(ctx, next, nil); err != nil {
			return err
		}
	}
	return nil
}

func (c *crowd) open(conn *conn) error {
	c.opened++
	return c.loop.open(conn, sourceAddress(conn.addr.IP, c.opened/perSource))
}

// ended takes an attempt that has failed. The next one comes after its pause.
func (c *crowd) ended(conn *conn, was state, why error) error {
	switch text := why.Error(); {
	case was == joined:
		return why // it was in
	case strings.Contains(text, " 503 ") || strings.Contains(text, "1013"):
		c.refused++
	default:
		if c.broken++; c.run.Reason == "" {
			c.run.Reason = "first attempt that failed: " + text
		}
	}
	n := min(c.tries[conn], len(comebacks)-1)
	c.tries[conn]++
	c.waiting[n] = append(c.waiting[n], conn)
	conn.began = c.loop.now + int64(comebacks[n])
	return nil
}

// retry opens the connections whose pause is over, and returns when the next one's is.
func (c *crowd) retry() (next int64, err error) {
	next = never
	for n := range c.waiting {
		for len(c.waiting[n]) > 0 {
			conn := c.waiting[n][0]
			if conn.began > c.loop.now {
				next = min(next, conn.began)
				break
			}
			c.waiting[n] = c.waiting[n][1:]
			if err := c.open(conn); err != nil {
				return 0, err
			}
		}
	}
	return next, nil
}

// publishUntil publishes at the load's rate until over is set, whatever comes of it.
func (p *pacer) publishUntil(ctx context.Context, start int64, over *atomic.Bool) error {
	i := int64(0)
	due := func() int64 { return start + int64(float64(i)*1e9/p.load.Rate) }
	tick := func() error {
		for ; due() <= p.loop.now && !over.Load(); i++ {
			if err := p.publish(p.publishers[i%int64(len(p.publishers))]); err != nil {
				return err
			}
		}
		return nil
	}
	for !over.Load() {
		if err := p.loop.poll(ctx, due(), tick); err != nil {
			return err
		}
	}
	return nil
}

// kill kills the process with the name, if it is one of ours.
func (t *target) kill(name string) {
	for _, c := range t.children {
		if c.name == name {
			_ = c.cmd.Process.Kill()
		}
	}
}

// peakKiB returns the largest resident size that a process has had.
func peakKiB(pid int) (int64, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, fmt.Errorf("memory: %w", err)
	}
	_, rest, ok := strings.Cut(string(text), "VmHWM:")
	if !ok {
		return 0, errors.New("memory: no peak found")
	}
	return parseRSS([]byte("VmRSS:" + rest))
}
