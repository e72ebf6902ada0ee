// Package hub is one event loop's index from topics to the channels that its sessions have on them, and the delivery
// of messages to those channels.
//
// A Hub belongs to its event loop: every method runs on it, so there are no locks. Only Message is shared between
// loops.
package hub

import (
	"bytes"
	"errors"
	"iter"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/mutant"
	"github.com/ringcast/ringcast/shared/trace"
)

// Channel is one session's membership of one topic as its hub sees it.
type Channel struct {
	// Static.
	Conn    *socket.Conn
	JoinRef codec.Ref
	Codec   codec.Kind
	// Positions makes each frame carry its message's position in the ref slot.
	Positions bool
	// NoEcho keeps messages from the channel that Own has said are its own.
	NoEcho bool
	// NoAck is the session's: it does not answer broadcasts that went well.
	NoAck bool
	// Slow says what is done with messages that the client does not take as fast as they come.
	Slow Slow

	// From is the offset after which the channel gets the topic's messages. Set by Add; who gives the channel earlier ones
	// with Send lowers it.
	From uint64

	// Owned by the hub.
	lagging bool   // it has a lag
	index   int32  // in topic.channels
	topic   *Topic // nil while not in a hub
}

// Subscriber returns the number of the channel's socket, which is what the topic's owner knows it by: a socket has one
// channel on a topic.
func (c *Channel) Subscriber() uint64 { return c.Conn.ID() }

// Topic returns the name of the topic whose messages the channel receives, "" while it is not in a hub.
func (c *Channel) Topic() string {
	if c.topic == nil {
		return ""
	}
	return c.topic.name
}

// Topic is a topic that at least one channel of the loop has joined.
//
// A topic's last position is the loop's, which may be behind the gateway's: messages wait in the loop's task queue.
// That decides where a channel begins. The interleaving that matters: messages 4 and 5 are in the queue, and before
// them the loop's last channel leaves and another joins, whose join says "after 5". The topic is new here then and
// starts at 5, so 4 and 5 pass it by. Were the old channel still here, the new one would start where that one is, and
// both get 4 and 5.
type Topic struct {
	name     string
	channels []*Channel // unordered
	last     Position   // every channel has been given each message up to here since it was added, and none beyond
}

// Hub is one event loop's index.
type Hub struct {
	topics map[string]*Topic

	// The messages being delivered, and their frames. These are lent to connections until the end of the loop's turn,
	// so the arena starts anew only in a later turn. Invariant: len(arena) < maxArena + the frames of one block.
	block  []*Message
	arena  []byte
	turn   uint64
	frames [frameSlots]frame
	head   []byte
	ref    []byte

	delivering *Topic   // whose block is on its way into the queues; nil outside of Deliver
	staged     Position // then: of the last message that the present channel got

	lags     map[*Channel]*lag         // of channels that may skip, while messages wait for them; nil until there is one
	backlogs map[*socket.Conn]*backlog // the same by connection
	ranges   map[*Channel][]Range      // that were skipped, the last ones; nil until there is one
	skips    Skips

	own map[*Channel][]Position // messages on their way here that their publisher is not to get, in order

	late map[string]*Message // kept back by a mutant; nil in ordinary builds
}

// maxArena is how many bytes of frames a turn lends. Those beyond are copied into the connections' queues, which are
// bounded; else a large message to a thousand join_refs would take a thousand times its size.
const maxArena = 1 << 20

// frameSlots is how many pieces of frames are remembered, by join_ref and codec. Most clients of a topic use the
// same few join_refs, so nearly every channel is served a frame that is built already.
const frameSlots = 16

// frame is the frames of the messages being delivered, one behind the other.
type frame struct {
	built     bool
	bytes     []byte
	count     int // of the messages that the codec carries
	joinRef   codec.Ref
	codec     codec.Kind
	positions bool
}

// New returns an empty hub.
func New() *Hub { return &Hub{topics: make(map[string]*Topic)} }

// Topics returns how many topics have a channel here.
func (h *Hub) Topics() int { return len(h.topics) }

// Channels returns how many channels the topic has here.
func (h *Hub) Channels(topic string) int {
	if t := h.topics[topic]; t != nil {
		return len(t.channels)
	}
	return 0
}

// Last returns the position up to which the topic's channels here have its messages, and whether it has any channel.
func (h *Hub) Last(topic string) (Position, bool) {
	if t := h.topics[topic]; t != nil {
		return t.last, true
	}
	return Position{}, false
}

// Each calls yield with every topic and its channels, in no order.
func (h *Hub) Each(yield func(topic string, channels []*Channel)) {
	for name, t := range h.topics {
		yield(name, t.channels)
	}
}

// Some yields up to most topics, whichever, and how many channels each has.
func (h *Hub) Some(most int) iter.Seq2[string, int] {
	return func(yield func(string, int) bool) {
		for name, t := range h.topics {
			if most--; most < 0 || !yield(name, len(t.channels)) {
				return
			}
		}
	}
}

// Add makes the channel receive the topic's messages, and returns the position after which it does: from, if it is the
// topic's first channel here, else where the others are. The channel must not be in a hub.
func (h *Hub) Add(topic string, c *Channel, from Position) Position {
	t := h.topics[topic]
	if t == nil {
		t = &Topic{name: topic, last: from}
		h.topics[topic] = t
	}
	c.topic, c.index, c.From = t, int32(len(t.channels)), t.last.Offset
	t.channels = append(t.channels, c)
	return t.last
}

// ChannelsOf yields the topic's channels here.
func (h *Hub) ChannelsOf(topic string) iter.Seq[*Channel] {
	return func(yield func(*Channel) bool) {
		if t := h.topics[topic]; t != nil {
			for _, c := range t.channels {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// Remove takes the channel out and reports whether it was the topic's last here. It does nothing to a channel that is
// not in a hub. Of messages that wait for a channel which may skip, it tells that they are skipped.
func (h *Hub) Remove(c *Channel) (last bool) {
	h.skipRest(c)
	delete(h.own, c)
	delete(h.ranges, c)
	t := c.topic
	if t == nil {
		return false
	}
	end := len(t.channels) - 1
	t.channels[c.index] = t.channels[end]
	t.channels[c.index].index = c.index
	t.channels[end] = nil
	t.channels = t.channels[:end]
	c.topic = nil
	if end == 0 {
		delete(h.topics, t.name)
		return true
	}
	return false
}

// Clear takes all channels of the topic out and returns them. Of messages that wait it tells as Remove does.
func (h *Hub) Clear(topic string) []*Channel {
	t := h.topics[topic]
	if t == nil {
		return nil
	}
	delete(h.topics, topic)
	for _, c := range t.channels {
		h.skipRest(c)
		delete(h.own, c)
		delete(h.ranges, c)
		c.topic = nil
	}
	return t.channels
}

// Position is a place in a topic's order; see linkpb.Position.
type Position struct {
	Epoch  uint64 // names a topic's past: another one means that it was lost. They have no order
	Offset uint64 // of a message, from 1, without holes within an epoch; 0 is before the first
}

// AppendRef appends the position as clients see it: the JSON string "epoch:offset", the epoch in base 36.
func (p Position) AppendRef(dst []byte) []byte {
	dst = append(dst, '"')
	dst = strconv.AppendUint(dst, p.Epoch, 36)
	dst = append(dst, ':')
	dst = strconv.AppendUint(dst, p.Offset, 10)
	return append(dst, '"')
}

// String returns the position as clients see it.
func (p Position) String() string {
	return strconv.FormatUint(p.Epoch, 36) + ":" + strconv.FormatUint(p.Offset, 10)
}

// ParsePosition parses what AppendRef wrote, without its quotes. The error says what it should look like; it is for clients.
func ParsePosition(s string) (Position, error) {
	epoch, offset, ok := strings.Cut(s, ":")
	if !ok {
		return Position{}, errPosition
	}
	e, err1 := strconv.ParseUint(epoch, 36, 64)
	o, err2 := strconv.ParseUint(offset, 10, 64)
	if err1 != nil || err2 != nil {
		return Position{}, errPosition
	}
	return Position{Epoch: e, Offset: o}, nil
}

var errPosition = errors.New(`want "epoch:offset"`)

// Reached reports whether p is at q or beyond. Positions of different epochs have no order: neither reaches the other.
func (p Position) Reached(q Position) bool { return p.Epoch == q.Epoch && p.Offset >= q.Offset }

// Message is one message on its way to the channels of a gateway. Several loops deliver it at once; it is immutable
// but for bodies.
type Message struct {
	codec.Push
	Position Position
	Traced   *Traced // nil for most
	bodies   [codec.NumKinds]atomic.Pointer[[]byte]
}

// Traced is what only a message that is traced has.
type Traced struct {
	Context  trace.Context // the parent of the delivery's span
	Received time.Time     // from the lane, where that span begins
}

// NewMessage wraps a message that came down a lane. It keeps m's event and payload, and takes the topic's name from
// the caller, who has it already.
func NewMessage(topic string, m *linkpb.Message) *Message {
	own := &Message{
		Push:     codec.Push{Topic: topic, Event: m.Event, Payload: m.Payload, Binary: m.Binary},
		Position: Position{Epoch: m.Position.GetEpoch(), Offset: m.Position.GetOffset()},
	}
	if len(m.Trace) > 0 && trace.Context(m.Trace).Sampled() {
		own.Traced = &Traced{Context: m.Trace, Received: time.Now()}
	}
	return own
}

// NewPush returns a message that has no position, for Send and Broadcast. It keeps payload, which is JSON text.
func NewPush(topic, event string, payload []byte) *Message {
	return &Message{Push: codec.Push{Topic: topic, Event: event, Payload: payload}}
}

// around is how many bytes the longest codec puts around topic, event and payload.
const around = 40

// before returns the place that the message follows.
func (m *Message) before() Position { return Position{m.Position.Epoch, m.Position.Offset - 1} }

// body returns the part of the message's frame that every subscriber of a codec shares. The first loop to need it
// encodes it; two that need it in the same instant both do, and one result is kept.
func (m *Message) body(k codec.Kind) []byte {
	if b := m.bodies[k].Load(); b != nil {
		return *b
	}
	size := len(m.Topic) + len(m.Event) + len(m.Payload) + around
	b := codec.ForKind(k).AppendBody(make([]byte, 0, size), &m.Push)
	if !m.bodies[k].CompareAndSwap(nil, &b) {
		return *m.bodies[k].Load()
	}
	return b
}

// Deliver stages messages of one topic, in their order, into the queue of every channel of that topic whose codec can
// carry them, and returns how many deliveries those were and how many were left out for their codec. A message that is
// not beyond the topic's last position here, or of another epoch, is from before the channels joined: it passes them
// by. The connections are flushed at the end of the loop's turn, once for all that the turn staged, or when much is
// staged. It allocates nothing per channel.
//
// Messages that come together cost each channel about as much as one: their frames are built one behind the other,
// and lent as one piece (flood: 0.30 → 0.26 s of CPU time per million deliveries).
func (h *Hub) Deliver(loop *socket.Loop, messages ...*Message) (delivered, unfit int) {
	if mutant.Build {
		for _, m := range messages {
			d, u := h.mangle(loop, m)
			delivered, unfit = delivered+d, unfit+u
		}
		return delivered, unfit
	}
	return h.deliver(loop, messages...)
}

// maxBlock bounds the messages that are delivered as one piece, in bytes of their frames, about. A piece must fit into
// the queue of a connection that is not behind.
const maxBlock = 32 << 10

func (h *Hub) deliver(loop *socket.Loop, messages ...*Message) (delivered, unfit int) {
	t := h.topics[messages[0].Topic]
	if t == nil {
		return 0, 0
	}
	h.begin(loop)
	limit := min(maxBlock, loop.MaxQueueBytes()/8)
	last, size := t.last, 0
	for _, m := range messages {
		if m.Position.Epoch != last.Epoch || m.Position.Offset <= last.Offset {
			continue
		}
		n := len(m.Topic) + len(m.Event) + len(m.Payload) + around
		if size+n > limit && size > 0 {
			d, u := h.deliverBlock(t)
			delivered, unfit, size = delivered+d, unfit+u, 0
		}
		h.block = append(h.block, m)
		last, size = m.Position, size+n
	}
	d, u := h.deliverBlock(t)
	return delivered + d, unfit + u
}

// begin makes room for frames if this is a new turn.
func (h *Hub) begin(loop *socket.Loop) {
	if turn := loop.Turn(); turn != h.turn {
		h.turn = turn
		loop.Delivers()
		if cap(h.arena) > 2*maxArena {
			h.arena = nil // a burst's worth of memory is not kept
		}
		h.arena = h.arena[:0]
	}
}

// Staged returns the position of the last message that was put into the queue of the channel, which is in the hub, or
// passed it by. It may be asked in the middle of a Deliver, when a queue overflows: the messages that found no room are
// not counted.
func (h *Hub) Staged(c *Channel) Position {
	if c.lagging {
		return h.lags[c].before()
	}
	if h.delivering == c.topic {
		return h.staged
	}
	return c.topic.last
}

// Broadcast sends one message without a position to some channels, which need not be in the hub. Its frames have no
// join_ref, so that all channels of a codec share one.
func (h *Hub) Broadcast(loop *socket.Loop, channels []*Channel, m *Message) {
	h.begin(loop)
	var frames [codec.NumKinds][]byte
	for _, c := range channels {
		f := frames[c.Codec]
		if f == nil {
			op := h.encodeHead(&Channel{Codec: c.Codec}, m)
			start := len(h.arena)
			h.arena = socket.AppendFrame(h.arena, op, h.head, m.body(c.Codec))
			f = h.arena[start:len(h.arena):len(h.arena)]
			frames[c.Codec] = f
		}
		c.Conn.SendFramed(f)
	}
}

// deliverBlock delivers the messages of block as one piece, and empties it.
func (h *Hub) deliverBlock(t *Topic) (delivered, unfit int) {
	if len(h.block) == 0 {
		return 0, 0
	}
	before := h.block[0].before()
	t.last = h.block[len(h.block)-1].Position
	h.frames = [frameSlots]frame{}
	h.delivering = t
	for _, c := range t.channels {
		h.staged = before
		if c.Slow != SlowClose && (c.lagging || c.Conn.Behind()) {
			n, u := h.holdBlock(c)
			delivered, unfit = delivered+n, unfit+u
			continue
		}
		if c.NoEcho && len(h.own[c]) > 0 {
			n, u := h.copyBlock(c)
			delivered, unfit = delivered+n, unfit+u
			continue
		}
		f := &h.frames[slot(c.JoinRef, c.Codec)]
		if !f.built || f.codec != c.Codec || f.positions != c.Positions || !bytes.Equal(f.joinRef, c.JoinRef) {
			if len(h.arena) >= maxArena {
				n, u := h.copyBlock(c)
				delivered, unfit = delivered+n, unfit+u
				continue
			}
			h.build(f, c)
		}
		if f.count > 0 {
			c.Conn.SendFrames(f.bytes, f.count)
		}
		delivered, unfit = delivered+f.count, unfit+len(h.block)-f.count
	}
	h.delivering = nil
	clear(h.block)
	h.block = h.block[:0]
	return delivered, unfit
}

// build makes the WebSocket frames that carry the block's messages to channels with c's codec and join_ref.
func (h *Hub) build(f *frame, c *Channel) {
	start, count := len(h.arena), 0
	for _, m := range h.block {
		if m.Binary && !c.Codec.Carries(&m.Push) {
			continue
		}
		op := h.encodeHead(c, m)
		h.arena = socket.AppendFrame(h.arena, op, h.head, m.body(c.Codec))
		count++
	}
	*f = frame{
		built: true, bytes: h.arena[start:len(h.arena):len(h.arena)], count: count,
		joinRef: c.JoinRef, codec: c.Codec, positions: c.Positions,
	}
}

// copyBlock sends the block's messages to one channel without a place in the arena, but for its own if it wants none of
// those, and returns how many it sent and how many its codec does not carry.
func (h *Hub) copyBlock(c *Channel) (sent, unfit int) {
	for _, m := range h.block {
		switch {
		case m.Binary && !c.Codec.Carries(&m.Push):
			unfit++
		case c.NoEcho && h.isOwn(c, m.Position):
		default:
			h.staged = m.before()
			h.sendCopy(c, m)
			sent++
		}
	}
	return sent, unfit
}

// Own says that the message at p, which is still to come, is the channel's own. It is for channels with NoEcho.
func (h *Hub) Own(c *Channel, p Position) {
	if c.topic == nil || c.topic.last.Reached(p) {
		return // it came before its reply, or will not come
	}
	if h.own == nil {
		h.own = make(map[*Channel][]Position)
	}
	h.own[c] = append(h.own[c], p)
}

// isOwn reports whether the message at p is the channel's own, and forgets those before it.
func (h *Hub) isOwn(c *Channel, p Position) bool {
	own := h.own[c]
	for len(own) > 0 && (own[0].Epoch != p.Epoch || own[0].Offset < p.Offset) {
		own = own[1:]
	}
	found := len(own) > 0 && own[0] == p
	if found {
		own = own[1:]
	}
	if len(own) == 0 {
		delete(h.own, c)
	} else {
		h.own[c] = own
	}
	return found
}

// Send sends one message to one channel, which need not be in the hub: what it missed while it was away. What has no
// position is not the topic's, and so neither waits for a slow client nor is skipped.
func (h *Hub) Send(c *Channel, m *Message) {
	switch {
	case m.Binary && !c.Codec.Carries(&m.Push):
	case c.Slow != SlowClose && m.Position != (Position{}) && (c.lagging || c.Conn.Behind()):
		h.hold(c, m)
	default:
		h.sendCopy(c, m)
	}
}

// sendCopy sends the message to one channel without a place in the arena.
func (h *Hub) sendCopy(c *Channel, m *Message) {
	op := h.encodeHead(c, m)
	c.Conn.Send(op, h.head, m.body(c.Codec))
}

// encodeHead fills head for the channel and returns the kind of WebSocket message that takes it.
func (h *Hub) encodeHead(c *Channel, m *Message) socket.Opcode {
	cd := codec.ForKind(c.Codec)
	var ref codec.Ref
	if c.Positions && m.Position != (Position{}) {
		h.ref = m.Position.AppendRef(h.ref[:0])
		ref = h.ref
	}
	h.head = cd.AppendHead(h.head[:0], c.JoinRef, ref, &m.Push)
	if cd.Binary(&m.Push) {
		return socket.OpBinary
	}
	return socket.OpText
}

// slot spreads join_refs and codecs over the remembered frames. The refs of one topic are mostly small decimal numbers,
// bare or in quotes, so the last two bytes tell them apart.
func slot(ref codec.Ref, k codec.Kind) int {
	n := uint(k)*(frameSlots/2) + uint(k)/2
	for _, b := range ref[max(0, len(ref)-2):] {
		n += uint(b)
	}
	return int(n % frameSlots)
}
