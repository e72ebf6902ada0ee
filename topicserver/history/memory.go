package history

import (
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/ringcast/ringcast/shared/mutant"
)

// Config bounds a Memory. A bound of zero is its default. A negative bound keeps nothing: every past is then lost at
// once, and a subscriber who missed a message is told so.
//
// Bytes are those of the items and names, 64 more for each message and 320 more for each topic. An item that is part
// of a larger buffer keeps all of that in memory, which nobody counts: give each message a buffer of its own.
type Config struct {
	Messages   int           // per topic; 256
	Bytes      int           // per topic; 1 MiB. More than TotalBytes is TotalBytes.
	TTL        time.Duration // of a message; 2 minutes. A message is too old when it is older than this.
	TotalBytes int64         // over all topics; 1 GiB
}

// withDefaults returns the bounds in force: none is negative, and Bytes <= TotalBytes.
func (c Config) withDefaults() Config {
	if c.Messages == 0 {
		c.Messages = 256
	}
	if c.Bytes == 0 {
		c.Bytes = 1 << 20
	}
	if c.TTL == 0 {
		c.TTL = 2 * time.Minute
	}
	if c.TotalBytes == 0 {
		c.TotalBytes = 1 << 30
	}
	if c.Messages < 0 || c.Bytes < 0 || c.TTL < 0 || c.TotalBytes < 0 {
		return Config{}
	}
	c.Bytes = int(min(int64(c.Bytes), c.TotalBytes))
	return c
}

// Memory is a Store in the process's memory: what it remembers ends with the process.
//
// A topic over its bound of messages or bytes forgets its oldest messages; a message that is too large by itself
// leaves it with none. All topics together over theirs forget whole topics, the least recently used first; a topic is
// used when it is appended to, restored or read. The topic that was just appended to is never among them, since one
// topic's bound is at most that of all. Append and the look-up in After take constant time, amortized; nothing is
// allocated but the rings and what After returns.
type Memory struct {
	// Static.
	cfg   Config    // with defaults
	start time.Time // zero of the clock in slots; has a monotonic reading, so a step of the wall clock ages nothing

	// mu is taken last: nothing is called and nothing waited for while it is held.
	mu     sync.Mutex
	closed bool
	topics map[string]*past // Invariant: none is empty; the same ones stand in the order of use
	use    past             // head of a circular list: use.older is the last used, use.newer the least recently used
	stats  Stats            // but for Topics, which is len(topics)
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty Memory. It needs no Close to be collected.
func NewMemory(cfg Config) *Memory {
	m := &Memory{cfg: cfg.withDefaults(), start: time.Now(), topics: make(map[string]*past)}
	m.use.newer, m.use.older = &m.use, &m.use
	return m
}

// Append implements Store. It may evict other topics, the one used longest ago first, to stay within the bound over all.
func (m *Memory) Append(topic string, msg Message, now time.Time) error {
	if msg.Offset == 0 {
		return fmt.Errorf("history: append to topic %q: offset 0, the first is 1: %w", topic, ErrOrder)
	}
	at, cutoff := m.at(now), m.cutoff(now)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	if m.cfg.Messages == 0 {
		return nil
	}
	p := m.topics[topic]
	switch {
	case p == nil:
		p = m.addLocked(topic, msg.Position)
	case p.epoch != msg.Epoch:
		m.removeLocked(p)
		p = m.addLocked(topic, msg.Position)
	case p.next() != msg.Offset:
		return fmt.Errorf("history: append to topic %q: offset %d, the one before is %d: %w",
			topic, msg.Offset, p.next()-1, ErrOrder)
	default:
		m.expireLocked(p, cutoff)
		m.touchLocked(p)
	}
	m.pushLocked(p, msg.Item, at)
	m.evictLocked()
	return nil
}

// After implements Store.
func (m *Memory) After(topic string, since, top Position, now time.Time) (msgs []Message, complete bool) {
	if since.Epoch != top.Epoch || since.Offset > top.Offset {
		return nil, false
	}
	if since == top {
		return nil, true
	}
	cutoff := m.cutoff(now)
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.topics[topic]
	if p == nil || p.epoch != top.Epoch {
		return nil, false
	}
	m.expireLocked(p, cutoff)
	if p.n == 0 {
		m.removeLocked(p)
		return nil, false
	}
	m.touchLocked(p)
	return p.between(since.Offset, top.Offset)
}

// Restore implements Store.
func (m *Memory) Restore(topic string, msgs []Message, now time.Time) error {
	if err := checkRun(topic, msgs); err != nil {
		return err
	}
	at := m.at(now)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	if p := m.topics[topic]; p != nil {
		m.removeLocked(p)
	}
	if m.cfg.Messages == 0 {
		return nil
	}
	if over := len(msgs) - m.cfg.Messages; over > 0 {
		msgs = msgs[over:]
		m.stats.Trimmed += uint64(over)
	}
	var p *past
	for _, msg := range msgs {
		if p == nil {
			p = m.addLocked(topic, msg.Position)
		}
		if !m.pushLocked(p, msg.Item, at) {
			p = nil
		}
	}
	m.evictLocked()
	return nil
}

// Forget implements Store.
func (m *Memory) Forget(topic string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.topics[topic]; p != nil {
		m.removeLocked(p)
	}
}

// sweepChunk is the number of topics that Sweep forgets before it lets others have the lock: tens of microseconds.
const sweepChunk = 256

// Sweep implements Store. It costs what it forgets: of the topics it leaves it looks at one.
//
// That is enough because whoever uses a topic expires its messages. Beginning with the least recently used, topics go
// until there is one with a message that is young enough; it was used since the cutoff, so those behind it were too.
// What is too old in those goes when they are used next, or a TTL later if they are not: a message takes memory for
// two TTLs and the time between two sweeps at most.
func (m *Memory) Sweep(now time.Time) (dropped int) {
	cutoff := m.cutoff(now)
	for {
		n := m.sweepSome(cutoff)
		dropped += n
		if n < sweepChunk {
			return dropped
		}
		runtime.Gosched()
	}
}

// sweepSome forgets up to sweepChunk topics. It returns fewer only when there is nothing left to sweep.
func (m *Memory) sweepSome(cutoff time.Duration) (dropped int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for dropped < sweepChunk {
		p := m.use.newer
		if p == &m.use || p.slot(p.n-1).at >= cutoff {
			break
		}
		m.stats.Expired += uint64(p.n)
		m.removeLocked(p)
		dropped++
	}
	return dropped
}

// Stats implements Store.
func (m *Memory) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	s.Topics = len(m.topics)
	return s
}

// Close implements Store. The error is nil.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	clear(m.topics)
	m.use.newer, m.use.older = &m.use, &m.use
	m.stats.Messages, m.stats.Bytes = 0, 0
	return nil
}

// at is now on the clock of slots.
func (m *Memory) at(now time.Time) time.Duration { return now.Sub(m.start) }

// cutoff is the time, on the clock of slots, before which a message is too old.
func (m *Memory) cutoff(now time.Time) time.Duration { return now.Add(-m.cfg.TTL).Sub(m.start) }

// addLocked makes a topic that is not remembered the last used one. It is empty, which the caller must not leave so.
func (m *Memory) addLocked(topic string, next Position) *past {
	p := newPast(topic, next)
	m.topics[p.name] = p
	m.stats.Bytes += p.bytes
	m.linkLocked(p)
	return p
}

// pushLocked adds the next message to a past, possibly an empty one, and trims it to the bounds of one topic. It
// reports false when the message is too large for them: then the topic is gone.
func (m *Memory) pushLocked(p *past, item []byte, at time.Duration) bool {
	c := cost(item)
	for p.n > 0 && (p.n >= m.cfg.Messages || p.bytes+c > int64(m.cfg.Bytes)) {
		m.popLocked(p)
		m.stats.Trimmed++
	}
	if p.bytes+c > int64(m.cfg.Bytes) {
		m.removeLocked(p)
		m.stats.Trimmed++
		return false
	}
	p.push(item, at)
	m.stats.Messages++
	m.stats.Bytes += c
	return true
}

func (m *Memory) popLocked(p *past) {
	m.stats.Bytes -= p.pop()
	m.stats.Messages--
}

// expireLocked forgets a past's messages from before cutoff. It may leave it empty; the caller must not. It stops at
// the first message that is young enough: those behind it are no older, unless the caller's clock went back.
func (m *Memory) expireLocked(p *past, cutoff time.Duration) {
	before := p.n
	for p.n > 0 && p.slot(0).at < cutoff {
		m.popLocked(p)
		m.stats.Expired++
	}
	if p.n > 0 && p.n < before {
		p.fit(p.n)
	}
}

// evictLocked forgets topics until all of them together are within their bound. The last used one stays: it is within
// its own bound, which is no higher.
func (m *Memory) evictLocked() {
	for m.stats.Bytes > m.cfg.TotalBytes && !mutant.Is(mutant.Hoard) {
		p := m.use.newer
		m.stats.Evicted += uint64(p.n)
		m.removeLocked(p)
	}
}

func (m *Memory) removeLocked(p *past) {
	delete(m.topics, p.name)
	m.unlinkLocked(p)
	m.stats.Messages -= p.n
	m.stats.Bytes -= p.bytes
}

// touchLocked makes p the last used topic.
func (m *Memory) touchLocked(p *past) {
	if m.use.older != p {
		m.unlinkLocked(p)
		m.linkLocked(p)
	}
}

func (m *Memory) linkLocked(p *past) {
	p.newer, p.older = &m.use, m.use.older
	p.older.newer = p
	m.use.older = p
}

func (m *Memory) unlinkLocked(p *past) {
	p.newer.older, p.older.newer = p.older, p.newer
	p.newer, p.older = nil, nil
}
