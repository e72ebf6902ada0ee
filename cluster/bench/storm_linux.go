package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// stormTimeout is how long a crowd may take to be back.
const stormTimeout = 60 * time.Second

// crowdNice is the priority of the crowd's thread, the lowest.
const crowdNice = 19

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
	took    int64 // until all were
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
	survivor := r.target.processesOf("gateway-0")
	there, err := r.establish(ctx)
	if err != nil {
		return nil, err
	}
	defer there.loop.close()
	c := &crowd{runner: r, due: make(map[*conn]int64), tries: make(map[*conn]int)}
	p := newPacer(there)
	calm, err := p.calm(ctx)
	if err != nil {
		return nil, err
	}
	before, err := residentKiB(survivor)
	if err != nil {
		return nil, err
	}
	// The end of a process with 10 000 sockets keeps a core busy for long. In life it is another machine's.
	if err := p.publishWhile(ctx, func() error { c.lose("gateway-1"); return nil }); err != nil {
		return nil, err
	}
	there.loop.latency = new(histogram)
	if err := p.publishWhile(ctx, func() error { return c.comeBack(ctx, there.target.addrs[0]) }); err != nil {
		return nil, err
	}
	if err := p.rest(ctx, func() int64 { return 0 }); err != nil {
		return nil, err
	}
	for _, t := range there.topics {
		verdict(&there.loop.faults, t.subscribers, t.sent)
	}
	r.run.Faults.add(there.loop.faults)
	r.run.Faults.add(r.loop.faults)
	r.run.Faults.Refused += p.published - p.answered
	return &r.run, c.figures(survivor[0], before[0], calm, there.loop.latency)
}

// establish connects those who are there all the time to the first gateway, and the crowd to the others.
func (r *runner) establish(ctx context.Context) (*runner, error) {
	first, others := *r.target, *r.target
	first.addrs, others.addrs = r.target.addrs[:1], r.target.addrs[1:]
	load := r.load
	load.Topics, load.Connections, load.Kind = 1, r.load.Established, Publish
	there, err := newRunner(load, &first, r.progress)
	if err != nil {
		return nil, err
	}
	r.target, r.load.Publishers = &others, 0
	if err := errors.Join(there.populate(ctx), r.populate(ctx)); err != nil {
		there.loop.close()
		return nil, err
	}
	return there, nil
}

// calm returns the latency in peace.
func (p *pacer) calm(ctx context.Context) (*histogram, error) {
	if err := p.publishFor(ctx, min(time.Second, p.load.Duration/4)); err != nil { // warming up
		return nil, err
	}
	calm := new(histogram)
	p.loop.latency = calm
	return calm, p.publishFor(ctx, p.load.Duration)
}

// figures notes what the storm has come to.
func (c *crowd) figures(survivor Process, before int64, calm, storm *histogram) error {
	peak, err := peakKiB(survivor.PID)
	if err != nil {
		return err
	}
	c.figure("back_s", float64(c.took)/1e9)
	c.figure("back_p50_s", float64(c.loop.latency.quantile(0.5))/1e9)
	c.figure("back_p99_s", float64(c.loop.latency.quantile(0.99))/1e9)
	c.figure("refused", float64(c.refused))
	c.figure("failed_attempts", float64(c.broken))
	c.figure("rss_before_mib", float64(before)/1024)
	c.figure("rss_peak_mib", float64(peak)/1024)
	for _, q := range []struct {
		name string
		q    float64
	}{{"p50", 0.5}, {"p99", 0.99}, {"max", 1}} {
		c.figure("calm_"+q.name+"_ms", millis(calm.quantile(q.q)))
		c.figure("storm_"+q.name+"_ms", millis(storm.quantile(q.q)))
	}
	return nil
}

// lose kills the crowd's gateway, if it is one of our processes, and returns when it is gone; then the crowd closes its
// sockets too.
func (c *crowd) lose(gateway string) {
	c.target.kill(gateway)
	for _, conn := range c.loop.conns {
		c.loop.drop(conn)
	}
}

// comeBack has each connection, none of which is open, connect to addr at once, again and again until it has joined.
//
// It takes what processor time the servers and those who are there leave: the crowd stands for 10 000 machines of their
// own. Nor may the garbage collector stop those who are there until a thread of that priority has stopped too.
func (c *crowd) comeBack(ctx context.Context, addr *net.TCPAddr) error {
	runtime.LockOSThread() // for good: the thread ends with the goroutine
	if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), crowdNice); err != nil {
		return fmt.Errorf("priority of the crowd: %w", err)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
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
	c.took = l.now - start
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

// publishWhile publishes at the load's rate while f, in a goroutine of its own, is busy, whatever comes of it.
func (p *pacer) publishWhile(ctx context.Context, f func() error) error {
	var over atomic.Bool
	done := make(chan error, 1)
	start := clock()
	go func() {
		defer over.Store(true)
		done <- f()
	}()
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
			return errors.Join(err, <-done)
		}
	}
	return <-done
}

// kill kills the process with the name, if it is one of ours, and returns when it is gone.
func (t *target) kill(name string) {
	for _, c := range t.children {
		if c.name == name {
			_ = c.cmd.Process.Kill()
			<-c.done
		}
	}
}

// processesOf returns the process with the name alone, or the first one if there is none.
func (t *target) processesOf(name string) []Process {
	for i := range t.processes {
		if t.processes[i].Name == name {
			return t.processes[i : i+1]
		}
	}
	return t.processes[:1]
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
