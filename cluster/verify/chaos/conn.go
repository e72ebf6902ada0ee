package chaos

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// conn is one connection of a peer (near) and the one to the server that belongs to it (far).
type conn struct {
	// Static.
	proxy *Proxy
	near  *net.TCPConn
	done  chan struct{} // closed by reset

	// Guarded by Proxy.mu.
	peer  *peer        // nil until it is known
	far   *net.TCPConn // nil until there is one
	lossy bool         // bytes were swallowed
	over  bool
}

// reset ends both connections so that their peers see it at once. Proxy.mu is held.
func (c *conn) reset() {
	if c.over {
		return
	}
	c.over = true
	close(c.done)
	for _, nc := range []*net.TCPConn{c.near, c.far} {
		if nc != nil {
			_ = nc.SetLinger(0) // what cannot be reset is closed
			_ = nc.Close()
		}
	}
}

func (c *conn) end() {
	c.proxy.mu.Lock()
	defer c.proxy.mu.Unlock()
	c.reset()
	delete(c.proxy.conns, c)
}

// serve serves the connection until it ends.
func (c *conn) serve() {
	defer c.end()
	greeting, ok := c.greet()
	if !ok || !c.admit() || !c.dial() {
		return
	}
	if len(greeting) > 0 && !c.forward(c.far, greeting, true) {
		return
	}
	var pumps sync.WaitGroup
	pumps.Go(func() { c.pump(c.near, c.far, true) })
	pumps.Go(func() { c.pump(c.far, c.near, false) })
	pumps.Wait()
}

// greet reads until it is known whose connection this is, and returns what it read. A server speaks second, so
// nobody waits for what is held back meanwhile.
func (c *conn) greet() ([]byte, bool) {
	buf := make([]byte, 0, maxGreeting)
	_ = c.near.SetReadDeadline(time.Now().Add(greetingTime))
	var found *peer
	for found == nil && len(buf) < cap(buf) {
		n, err := c.near.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		found = c.proxy.identify(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return nil, false
		}
	}
	_ = c.near.SetReadDeadline(time.Time{})
	c.proxy.mu.Lock()
	defer c.proxy.mu.Unlock()
	if found == nil {
		found = c.proxy.peers[Stranger]
	}
	c.peer = found
	return buf, !c.over
}

// admit waits for the peer's faults to let a new connection through. Under a cut or a black hole none can be made: TCP
// needs both ways for that.
func (c *conn) admit() bool {
	for {
		f, changed := c.proxy.state(c)
		switch f.Mode {
		case Pass, Slow:
			return true
		case Cut:
			return false
		case Blackhole:
			c.lose()
		}
		if !c.wait(changed, 0) {
			return false
		}
	}
}

func (c *conn) dial() bool {
	nc, err := net.DialTimeout("tcp", c.proxy.target, dialTimeout)
	if err != nil {
		return false
	}
	c.proxy.mu.Lock()
	defer c.proxy.mu.Unlock()
	if c.over {
		_ = nc.Close()
		return false
	}
	c.far = nc.(*net.TCPConn)
	return true
}

// lose marks the connection as one that cannot go on.
func (c *conn) lose() {
	c.proxy.mu.Lock()
	c.lossy = true
	c.proxy.mu.Unlock()
}

// wait waits for a change of the fault, the end of the connection (false), or with d > 0 for that time.
func (c *conn) wait(changed <-chan struct{}, d time.Duration) bool {
	var timeout <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-c.done:
		return false
	case <-changed:
	case <-timeout:
	}
	return true
}

// pump forwards one direction until it ends, and then ends the other one too, unless a black hole swallows the end.
func (c *conn) pump(from, to *net.TCPConn, up bool) {
	buf := make([]byte, chunk)
	for {
		n, err := from.Read(buf)
		if n > 0 && !c.forward(to, buf[:n], up) {
			break
		}
		if err != nil {
			break
		}
	}
	for {
		f, changed := c.proxy.state(c)
		if !f.hits(up) || f.Mode == Slow {
			break
		}
		c.lose()
		if !c.wait(changed, 0) {
			break
		}
	}
	c.proxy.mu.Lock()
	c.reset()
	c.proxy.mu.Unlock()
}

// forward hands one chunk on as the fault demands. It reports false when the connection is over.
func (c *conn) forward(to *net.TCPConn, data []byte, up bool) bool {
	for waited := false; ; {
		f, changed := c.proxy.state(c)
		switch {
		case !f.hits(up) || f.Mode == Slow && waited:
			_, err := to.Write(data)
			return err == nil
		case f.Mode == Blackhole:
			c.lose()
			return true
		case f.Mode == Freeze:
			if !c.wait(changed, 0) {
				return false
			}
		case f.Mode == Slow:
			d := f.Delay
			if f.BytesPerSecond > 0 {
				d += time.Duration(float64(len(data)) / float64(f.BytesPerSecond) * float64(time.Second))
			}
			if d > 0 && !c.wait(changed, d) {
				return false
			}
			waited = true
		}
	}
}
