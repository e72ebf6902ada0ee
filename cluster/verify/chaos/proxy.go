// Package chaos is a TCP proxy that stands before a topic server and does to each peer's connections what networks do:
// cut them, swallow bytes, hold them up, one way or both.
//
// Peers share the proxy's address. The proxy learns who a connection is from by the first bytes of the connection, where
// the peer's id stands in the clear, behind a byte with its length.
package chaos

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// maxGreeting is how many bytes of a connection are searched for an id.
	maxGreeting = 16 << 10
	// greetingTime is how long a connection may take to send them.
	greetingTime = 2 * time.Second
	dialTimeout  = 2 * time.Second
	chunk        = 8 << 10
)

// Stranger is the peer of connections in which no known id was found. They pass unless a fault is set for it.
const Stranger = ""

// Mode is what happens to connections.
type Mode int

// The modes. Each affects the connections that there are and new ones.
const (
	Pass      Mode = iota
	Cut            // connections are reset
	Blackhole      // bytes and ends vanish; who lost some is reset when the fault is over
	Freeze         // bytes wait, and go on when the fault is over
	Slow           // bytes take their time
)

// String names the mode.
func (m Mode) String() string {
	return [...]string{"pass", "cut", "blackhole", "freeze", "slow"}[m]
}

// Fault is what a proxy does to a peer. The zero value is no fault.
type Fault struct {
	Mode Mode
	// Up and Down restrict a Blackhole, Freeze or Slow to the bytes from the peer or those to it; neither means both.
	Up, Down bool
	// Delay and BytesPerSecond are what Slow does to each chunk of at most 8 KiB; 0 bytes per second means no limit.
	Delay          time.Duration
	BytesPerSecond int
}

func (f Fault) hits(up bool) bool {
	if f.Mode == Pass || f.Mode == Cut {
		return false
	}
	return f.Up == f.Down || f.Up == up
}

// String describes the fault.
func (f Fault) String() string {
	text := f.Mode.String()
	switch {
	case f.Up && !f.Down:
		text += " up"
	case f.Down && !f.Up:
		text += " down"
	}
	if f.Mode == Slow {
		text += fmt.Sprintf(" %v, %d B/s", f.Delay, f.BytesPerSecond)
	}
	return text
}

// Proxy stands before one server. Any goroutine may call its methods.
type Proxy struct {
	// Static.
	listener net.Listener
	target   string
	open     sync.WaitGroup

	mu     sync.Mutex
	peers  map[string]*peer
	conns  map[*conn]struct{}
	closed bool
}

// peer is the fault of one peer. Guarded by Proxy.mu.
type peer struct {
	fault   Fault
	changed chan struct{} // closed when fault is no longer what is set
}

// Listen starts a proxy on a free port of 127.0.0.1 that stands before target. Peers are the ids that it can tell apart.
// The caller must Close it.
func Listen(target string, peers []string) (*Proxy, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("chaos: %w", err)
	}
	p := &Proxy{listener: lis, target: target, peers: make(map[string]*peer), conns: make(map[*conn]struct{})}
	for _, id := range append([]string{Stranger}, peers...) {
		p.peers[id] = &peer{changed: make(chan struct{})}
	}
	p.open.Go(p.accept)
	return p, nil
}

// Addr is where peers connect.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Set puts a fault into effect for a peer, or with the zero Fault ends it. The peer must be known.
func (p *Proxy) Set(id string, f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pe := p.peers[id]
	if pe == nil {
		panic("chaos: unknown peer " + id)
	}
	pe.fault = f
	close(pe.changed)
	pe.changed = make(chan struct{})
	for c := range p.conns {
		if c.peer == pe && (f.Mode == Cut || c.lossy && f.Mode != Blackhole) {
			c.reset()
		}
	}
}

// SetAll does it for every peer.
func (p *Proxy) SetAll(f Fault) {
	p.mu.Lock()
	ids := make([]string, 0, len(p.peers))
	for id := range p.peers {
		ids = append(ids, id)
	}
	p.mu.Unlock()
	for _, id := range ids {
		p.Set(id, f)
	}
}

// Connections counts the connections of a peer.
func (p *Proxy) Connections(id string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for c := range p.conns {
		if c.peer == p.peers[id] {
			n++
		}
	}
	return n
}

// Close resets every connection and returns when nothing runs any more.
func (p *Proxy) Close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		c.reset()
	}
	p.mu.Unlock()
	p.open.Wait()
}

func (p *Proxy) accept() {
	for {
		nc, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of descriptors
			continue
		}
		c := &conn{proxy: p, near: nc.(*net.TCPConn), done: make(chan struct{})}
		if p.add(c) {
			p.open.Go(c.serve)
		}
	}
}

// add registers a connection, or resets it when the proxy is closed.
func (p *Proxy) add(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		c.reset()
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

// identify finds the peer whose id stands first in a greeting; nil if there is none yet.
func (p *Proxy) identify(greeting []byte) *peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found *peer
	first := len(greeting)
	for id, pe := range p.peers {
		if id == Stranger {
			continue
		}
		pattern := append([]byte{byte(len(id))}, id...)
		if i := bytes.Index(greeting, pattern); i >= 0 && i < first {
			found, first = pe, i
		}
	}
	return found
}

// state is what is in effect for a connection's peer, and a channel that is closed when that changes.
func (p *Proxy) state(c *conn) (Fault, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return c.peer.fault, c.peer.changed
}
