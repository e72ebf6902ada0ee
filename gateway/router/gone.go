package router

import (
	"bytes"
	"strings"
	"time"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
)

// maxGone is how many channels that have ended a loop remembers.
const maxGone = 1024

// gone is a channel that has ended: what explaining the recent past needs of it.
//
// Nothing is noted per message. Positions of a topic have no holes, so a channel was given everything behind from, up
// to last; what of that was not written is the newest of it, and stands in the connection's queue while there is one.
type gone struct {
	topic   string
	conn    *socket.Conn
	codec   codec.Kind
	joinRef codec.Ref
	from    uint64       // offset, of last's epoch
	last    hub.Position // put into its queue
	reason  string
	unsent  uint64 // messages of the topic that were dropped from its queue
	skipped []hub.Range
	at      time.Time
}

// departures are the last channels of a loop that have ended. Owned by the loop.
type departures struct {
	list []gone
	next int // to be overwritten, once the list is full
}

func (d *departures) add(g gone) *gone {
	if len(d.list) < maxGone {
		d.list = append(d.list, g)
		return &d.list[len(d.list)-1]
	}
	i := d.next
	d.list[i] = g
	d.next = (i + 1) % maxGone
	return &d.list[i]
}

// find returns the last channel that a connection has had on a topic.
func (d *departures) find(conn *socket.Conn, topic string) *gone {
	for i := range d.list {
		at := (d.next + len(d.list) - 1 - i) % len(d.list) // next is 0 until the list is full
		if g := &d.list[at]; g.conn == conn && g.topic == topic {
			return g
		}
	}
	return nil
}

// Witness has f called for the connections of the loop; see socket.Loop.Witness.
func (l *Local) Witness(f func(c *socket.Conn, end socket.End, unsent bool)) { l.loop.Witness(f) }

// Departing notes that a channel gets no more messages because its connection ends, or, with unsent, that what its
// connection has queued will not be written. It does nothing for a channel that is not joined.
func (l *Local) Departing(c *hub.Channel, reason string, unsent bool) {
	if c.Topic() == "" {
		return
	}
	var g *gone
	if unsent {
		g = l.gone.find(c.Conn, c.Topic())
	}
	if g == nil {
		g = l.depart(c, reason, l.hub.Staged(c))
	}
	if unsent {
		g.unsent += uint64(queuedMessages(c.Conn, c.Codec, c.JoinRef, g.topic))
	}
	l.hub.Forget(c)
}

// depart notes the end of a channel, which is in the hub or was until just now.
func (l *Local) depart(c *hub.Channel, reason string, last hub.Position) *gone {
	return l.gone.add(gone{
		topic: c.Topic(), conn: c.Conn, codec: c.Codec, joinRef: c.JoinRef,
		from: c.From, last: last, reason: reason, skipped: l.hub.Skipped(c), at: time.Now(),
	})
}

// queuedMessages counts the messages of a channel that wait in its connection's queue.
func queuedMessages(conn *socket.Conn, kind codec.Kind, joinRef codec.Ref, topic string) (n int) {
	if conn == nil || conn.Waiting() == 0 {
		return 0
	}
	var own []byte // decoding may write to what it decodes
	for op, payload := range conn.Queued {
		own = append(own[:0], payload...)
		if isMessage(own, op == socket.OpBinary, kind, joinRef, topic) {
			n++
		}
	}
	return n
}

// isMessage reports whether a frame for a client carries a message of the channel. Phoenix's server frames have the form
// of client frames, but for binary ones, which have no ref. In WEST's the channel's name decides, so a reply may pass
// for a message.
func isMessage(frame []byte, binary bool, kind codec.Kind, joinRef codec.Ref, topic string) bool {
	if binary && kind == codec.PhoenixV2 {
		const header = 4
		if len(frame) < header || frame[0] != 0 {
			return false
		}
		start := header + int(frame[1])
		end := start + int(frame[2])
		return end <= len(frame) && string(frame[start:end]) == topic
	}
	if binary && kind == codec.Realtime {
		const header = 5
		return len(frame) > header && frame[0] == 4 && bytes.HasPrefix(frame[header:], []byte(topic)) && int(frame[1]) == len(topic)
	}
	if kind != codec.PhoenixV1 && kind != codec.PhoenixV2 && kind != codec.Realtime {
		return bytes.Contains(frame, []byte(strings.TrimPrefix(topic, "west:")))
	}
	f, err := codec.ForKind(kind).Decode(frame, binary)
	switch {
	case err != nil:
		return false
	case string(f.Topic) != topic, strings.HasPrefix(string(f.Event), "phx_"):
		return false
	}
	return f.JoinRef == nil || bytes.Equal(f.JoinRef, joinRef)
}
