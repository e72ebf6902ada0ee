package session

import (
	"fmt"

	"github.com/ringcast/ringcast/gateway/admission"
	"github.com/ringcast/ringcast/gateway/auth"
	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
	"github.com/ringcast/ringcast/proto/linkpb"
)

// closePolicy is the close code of a plain socket on which what the client sent is not allowed. One whose channel was not
// joined, or whose message was not published, is closed with socket.CloseTryAgain: there is no other way to tell it.
const closePolicy = 1008

// PlainEvent is the event that a plain client's messages have unless it chooses another.
const PlainEvent = "message"

// PlainOptions is what a plain client asks for when it connects.
type PlainOptions struct {
	Topics  []string // to join; each is served and comes once
	Publish bool     // what the client sends is published to all of them
	Event   string   // of what it publishes
}

// plain is what the session of a plain client has more: it has joined its topics from the start, and its messages are payloads.
type plain struct {
	*Session
	publishes bool
	event     string
}

// OpenPlain is Open for a plain client.
func (ss *Sessions) OpenPlain(conn *socket.Conn, opts PlainOptions, id *auth.Identity) *Session {
	s := ss.Open(conn, codec.Plain, id)
	p := &plain{Session: s, publishes: opts.Publish, event: opts.Event}
	s.extras().plain = p
	conn.KeepAlive() // it may have nothing to say
	for _, topic := range opts.Topics {
		p.join(topic)
	}
	return s
}

func (p *plain) join(topic string) {
	c := &channel{topic: topic}
	c.Conn, c.Codec = p.conn, p.codec
	if p.conn.Closing() || p.limited(admission.Join) {
		return
	}
	if !p.may(c, auth.Join) {
		p.conn.Close(CloseForbidden, "not allowed to join "+topic)
		return
	}
	p.channels = append(p.channels, c)
	p.ss.local.Join(topic, &c.Channel, nil, func(o router.Outcome) {
		if !o.OK() {
			p.remove(c)
			p.conn.Close(socket.CloseTryAgain, fmt.Sprintf("%s: %s", topic, reason(o.Code)))
		}
	})
}

// message publishes what the client has sent to all of its channels.
func (p *plain) message(op socket.Opcode, data []byte) {
	if !p.publishes {
		p.conn.Close(closePolicy, "this socket does not publish: connect with publish=1")
		return
	}
	f, err := codec.ForKind(p.codec).Decode(data, op == socket.OpBinary)
	if err != nil {
		p.conn.Close(closeBadFrame, err.Error())
		return
	}
	for range p.channels { // all of them, or none
		if p.limited(admission.Publish) {
			return
		}
	}
	for _, c := range p.channels {
		if !p.may(c, auth.Publish) {
			p.conn.Close(CloseForbidden, "not allowed to publish to "+c.topic)
			return
		}
	}
	for _, c := range p.channels {
		topic := c.topic
		m := linkpb.Publish{Topic: topic, Event: p.event, Payload: f.Payload, Binary: f.Binary}
		p.ss.local.Publish(&m, func(o router.Outcome) {
			if !o.OK() && !p.closed {
				p.conn.Close(socket.CloseTryAgain, fmt.Sprintf("not published to %s: %s", topic, reason(o.Code)))
			}
		})
	}
}

// lost ends the socket when messages of a channel were lost. The client is to connect again.
func (p *plain) lost(c *channel) {
	p.conn.Close(socket.CloseRestart, "messages of "+c.topic+" were lost")
}
