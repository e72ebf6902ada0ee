package hub

import (
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/ringcast/ringcast/gateway/socket"
)

// Slow is what is done with a channel's messages when its client reads more slowly than they come. Replies, and
// whatever else is no message of the topic, wait in the connection's queue in any case.
type Slow uint8

// The policies. In all but the first the client is told in band what it did not get.
const (
	SlowClose      Slow = iota // they wait in the connection's queue; when that is full the socket closes with 4008
	SlowDropOldest             // they wait aside, up to half of Config.MaxQueueBytes for all channels; then the oldest are skipped
	SlowLatest                 // only the newest one waits
	NumSlow
)

var slowNames = [NumSlow]string{"close", "drop_oldest", "latest"}

// String returns the policy's name, as in a join's params and in metrics.
func (s Slow) String() string { return slowNames[s] }

// ParseSlow parses the name of a policy. The error lists the names there are; it is for clients.
func ParseSlow(name string) (Slow, error) {
	for s, n := range slowNames {
		if n == name {
			return Slow(s), nil
		}
	}
	return 0, fmt.Errorf("want %s, %s or %s", SlowClose, SlowDropOldest, SlowLatest)
}

// EventSkipped tells a channel which messages it does not get: {"from":P,"to":P,"count":N}, both included. Nobody can
// publish an event of that prefix.
const EventSkipped = "phx_skipped"

// Skips counts what happens to channels that may skip. Any goroutine may read it.
type Skips struct {
	Lagging atomic.Int64           // channels for which messages wait aside, now
	Skipped [NumSlow]atomic.Uint64 // messages that were not handed to their channel, by policy
}

// Skips returns the hub's counts.
func (h *Hub) Skips() *Skips { return &h.skips }

// lag is what a channel that may skip has not got yet, because its client does not take it: messages that were skipped,
// of which the client is still to be told, and behind them those that wait. They are shared with all other channels, and
// become frames only when the socket has room.
//
// Invariant: as long as a channel has a lag, all its messages go through it, so they keep their order; waiting is not
// empty between calls.
type lag struct {
	channel *Channel
	topic   string
	backlog *backlog
	skipped Range
	sending *Message // on its way into the queue right now
	waiting []*Message
	bytes   int // of waiting
}

// Range is messages of one channel that were skipped, From and To included.
type Range struct {
	From, To Position // of one epoch
	Count    int      // without those that the channel was not to have anyway
}

// Has reports whether the message at p is in the range.
func (r Range) Has(p Position) bool { return p.Reached(r.From) && r.To.Reached(p) }

// maxRanges is how many of the last ranges of a channel are remembered, for Skipped.
const maxRanges = 16

// backlog is the lags of one connection.
type backlog struct {
	lags  []*lag
	bytes int
}

// before returns the position up to which the channel has got, or was told to have missed, its messages.
func (g *lag) before() Position {
	switch {
	case g.sending != nil:
		return g.sending.before()
	case g.skipped.Count > 0:
		return Position{g.skipped.From.Epoch, g.skipped.From.Offset - 1}
	}
	return g.waiting[0].before()
}

// FrameBytes is about what the message takes in a queue.
func (m *Message) FrameBytes() int { return len(m.Topic) + len(m.Event) + len(m.Payload) + around }

// holdBlock holds the block's messages back for one channel.
func (h *Hub) holdBlock(c *Channel) (held, unfit int) {
	for _, m := range h.block {
		switch {
		case m.Binary && !c.Codec.Carries(&m.Push):
			unfit++
		case c.NoEcho && len(h.own[c]) > 0 && h.isOwn(c, m.Position):
		default:
			h.hold(c, m)
			held++
		}
	}
	return held, unfit
}

// hold makes the message wait until the channel's connection takes something, and skips what its policy says. If there is
// nothing left to skip and still no room, the connection closes with 4008.
func (h *Hub) hold(c *Channel, m *Message) {
	if c.Conn.Closing() {
		return
	}
	g := h.lagOf(c, m.Topic)
	for c.Slow == SlowLatest && len(g.waiting) > 0 {
		h.skip(g)
	}
	n, limit := m.FrameBytes(), c.Conn.Loop().MaxQueueBytes()/2
	for g.backlog.bytes+n > limit || !c.Conn.Fits(n) {
		if len(g.waiting) > 0 {
			h.skip(g)
		} else if fat := g.backlog.fattest(); fat != nil {
			h.skip(fat)
		} else {
			break
		}
	}
	g.waiting = append(g.waiting, m)
	g.bytes += n
	g.backlog.bytes += n
	c.Conn.HoldBack(n)
	c.Conn.Room(0)
}

// lagOf returns the channel's lag, a new one if it has none.
func (h *Hub) lagOf(c *Channel, topic string) *lag {
	if c.lagging {
		return h.lags[c]
	}
	if h.lags == nil {
		h.lags, h.backlogs = make(map[*Channel]*lag), make(map[*socket.Conn]*backlog)
	}
	b := h.backlogs[c.Conn]
	if b == nil {
		b = &backlog{}
		h.backlogs[c.Conn] = b
	}
	g := &lag{channel: c, topic: topic, backlog: b}
	b.lags = append(b.lags, g)
	h.lags[c], c.lagging = g, true
	h.skips.Lagging.Add(1)
	return g
}

// fattest returns the lag with the most bytes that has a message to spare, nil if none has.
func (b *backlog) fattest() (fat *lag) {
	for _, g := range b.lags {
		if len(g.waiting) > 1 && (fat == nil || g.bytes > fat.bytes) {
			fat = g
		}
	}
	return fat
}

// skip skips the oldest message that waits.
func (h *Hub) skip(g *lag) {
	m := g.take()
	if g.skipped.Count == 0 {
		g.skipped.From = m.Position
	}
	g.skipped.To = m.Position
	g.skipped.Count++
	h.skips.Skipped[g.channel.Slow].Add(1)
}

// take takes the oldest message that waits.
func (g *lag) take() *Message {
	m := g.waiting[0]
	g.waiting[0] = nil
	if g.waiting = g.waiting[1:]; len(g.waiting) == 0 {
		g.waiting = nil
	}
	n := m.FrameBytes()
	g.bytes -= n
	g.backlog.bytes -= n
	g.channel.Conn.HoldBack(-n)
	return m
}

// forget drops the lag without a word.
func (h *Hub) forget(g *lag) {
	for len(g.waiting) > 0 {
		g.take()
	}
	c, b := g.channel, g.backlog
	for i, other := range b.lags {
		if other == g {
			b.lags = slices.Delete(b.lags, i, i+1) // in their order: it is whose turn it is
			break
		}
	}
	if len(b.lags) == 0 {
		delete(h.backlogs, c.Conn)
	}
	delete(h.lags, c)
	c.lagging = false
	h.skips.Lagging.Add(-1)
}

// Forget drops what waits for a channel whose connection is going to close.
func (h *Hub) Forget(c *Channel) {
	if c.lagging {
		h.forget(h.lags[c])
	}
}

// skipRest skips all that waits for a channel that ends, and tells it.
func (h *Hub) skipRest(c *Channel) {
	if !c.lagging {
		return
	}
	g := h.lags[c]
	if !c.Conn.Closing() {
		for len(g.waiting) > 0 {
			h.skip(g)
		}
		h.tellSkipped(g)
	}
	h.Forget(c) // unless that has closed the connection
}

// tellSkipped tells the channel what was skipped since it was told last.
func (h *Hub) tellSkipped(g *lag) {
	r := g.skipped
	if r.Count == 0 {
		return
	}
	b := r.From.AppendRef([]byte(`{"from":`))
	b = r.To.AppendRef(append(b, `,"to":`...))
	b = strconv.AppendInt(append(b, `,"count":`...), int64(r.Count), 10)
	m := NewPush(g.topic, EventSkipped, append(b, '}'))
	m.Position = r.To
	h.sendCopy(g.channel, m)
	if g.channel.Conn.Closing() {
		return
	}
	g.skipped = Range{}
	if h.ranges == nil {
		h.ranges = make(map[*Channel][]Range)
	}
	old := h.ranges[g.channel]
	h.ranges[g.channel] = append(old[max(0, len(old)-maxRanges+1):], r)
}

// Skipped returns the last ranges that the channel was told were skipped, and the one that it is still to be told of.
func (h *Hub) Skipped(c *Channel) []Range {
	ranges := h.ranges[c]
	if c.lagging && h.lags[c].skipped.Count > 0 {
		ranges = append(ranges[:len(ranges):len(ranges)], h.lags[c].skipped)
	}
	return ranges
}

// Waits reports whether the message at p waits for the channel, aside from its connection's queue.
func (h *Hub) Waits(c *Channel, p Position) bool {
	return c.lagging && slices.ContainsFunc(h.lags[c].waiting, func(m *Message) bool { return m.Position == p })
}

// relief is how many bytes of what waits aside are sent at once when a socket has room.
const relief = 64 << 10

// Relieve sends some of what waits aside for a connection that has taken its queue: each of its lagging channels in its
// turn, first what was skipped, then what waits.
func (h *Hub) Relieve(conn *socket.Conn) {
	b := h.backlogs[conn]
	for sent := 0; b != nil && len(b.lags) > 0 && sent < relief && !conn.Closing(); {
		g := b.lags[0]
		h.tellSkipped(g)
		for share := 0; len(g.waiting) > 0 && share < relief/4 && !conn.Closing(); {
			m := g.take()
			g.sending = m
			h.sendCopy(g.channel, m)
			g.sending = nil
			share += m.FrameBytes()
			sent += m.FrameBytes()
		}
		switch {
		case conn.Closing(): // which has dropped them
		case len(g.waiting) == 0:
			h.forget(g)
		case len(b.lags) > 1:
			copy(b.lags, b.lags[1:])
			b.lags[len(b.lags)-1] = g
		}
	}
}
