package bench

import (
	"context"
	"time"
)

// churner keeps so many connections on their way from connecting to closed, and counts those that get there.
type churner struct {
	*runner
	idle   []*conn // gone, to be opened again
	opened int     // connections so far; the next one's source address depends on it
	flying int
	cycles int64
}

// cycleTimeout is how long connections may take to end once no more are opened.
const cycleTimeout = 10 * time.Second

// churn measures a Churn load.
func (r *runner) churn(ctx context.Context) (*Run, error) {
	c := &churner{runner: r}
	goodbye := closeFrame()
	for i := range r.load.Connections {
		c.idle = append(c.idle, r.newConn(i))
	}
	r.loop.joined = func(conn *conn) error {
		conn.state = leaving
		if err := r.loop.send(conn, conn.topic.leave); err != nil {
			return r.loop.fail(conn, err)
		}
		return nil
	}
	r.loop.left = func(conn *conn) error {
		conn.state = closing
		if err := r.loop.send(conn, goodbye); err != nil {
			return r.loop.fail(conn, err)
		}
		return nil
	}
	r.loop.ended = c.ended
	if err := c.cycleFor(ctx, min(time.Second, r.load.Duration/4)); err != nil {
		return nil, err
	}
	r.loop.latency, c.cycles = new(histogram), 0
	from, err := r.usage()
	if err != nil {
		return nil, err
	}
	if err := c.cycleFor(ctx, r.load.Duration); err != nil {
		return nil, err
	}
	to, err := r.usage()
	if err != nil {
		return nil, err
	}
	n := float64(c.cycles)
	r.figure("cycles", n)
	r.figure("cycles_per_s", n*1e9/float64(to.at-from.at))
	r.cpuFigures(from, to, n, "thousand", 1e3)
	r.latencyFigures()
	r.run.Faults.add(r.loop.faults)
	return &r.run, nil
}

// cycleFor opens connections for so long, and returns when the last one has ended.
func (c *churner) cycleFor(ctx context.Context, d time.Duration) error {
	start := clock()
	end := start + int64(d)
	c.loop.now = start
	for {
		open := c.loop.now < end
		if !open && c.flying == 0 {
			return nil
		}
		if c.loop.now > end+int64(cycleTimeout) {
			c.giveUp()
			return nil
		}
		for open && len(c.idle) > 0 {
			if err := c.next(); err != nil {
				return err
			}
		}
		deadline := never
		if open {
			deadline = end
		}
		if err := c.loop.poll(ctx, deadline, nil); err != nil {
			return err
		}
	}
}

// next opens an idle connection again. A closed connection keeps its port for a minute, so each comes from another
// address than those before it.
func (c *churner) next() error {
	conn := c.idle[len(c.idle)-1]
	c.idle = c.idle[:len(c.idle)-1]
	t := c.opened % c.load.Topics
	conn.topic = c.topics[t]
	conn.addr = c.target.addrs[(t+c.opened/c.load.Topics)%len(c.target.addrs)]
	conn.host = conn.addr.String()
	c.opened++
	c.flying++
	return c.loop.open(conn, sourceAddress(conn.addr.IP, c.opened))
}

// ended takes a connection that is gone. It has come all the way if it was closing.
func (c *churner) ended(conn *conn, was state, why error) error {
	c.flying--
	c.idle = append(c.idle, conn)
	if was == closing {
		c.cycles++
		c.loop.latency.add(c.loop.now - conn.began)
		return nil
	}
	c.failed(why.Error())
	return nil
}

func (c *churner) failed(why string) {
	c.run.Faults.Failed++
	if c.run.Reason == "" {
		c.run.Reason = "first failure: " + why
	}
}

// giveUp counts the connections that do not end.
func (c *churner) giveUp() {
	for _, conn := range c.loop.conns {
		if conn.state != gone {
			c.failed("still " + conn.state.String() + " after " + cycleTimeout.String())
			c.loop.drop(conn)
			c.flying--
			c.idle = append(c.idle, conn)
		}
	}
}
