package api

import (
	"mime"
	"net/url"
	"strconv"
	"strings"

	"github.com/gofiber/fiber/v2"

	"github.com/ringcast/ringcast/proto/codec"
)

// RealtimePrefix is what the paths for @supabase/realtime-js begin with.
const RealtimePrefix = "/realtime/v1/api/"

// realtimeTopic is what the library leaves out of the names of its topics here.
const realtimeTopic = "realtime:"

// RegisterRealtime serves the broadcasts that @supabase/realtime-js sends by HTTP. What allowed says of a request comes
// before all else; may says whether it may publish to a topic.
func (a *API) RegisterRealtime(r fiber.Router, allowed fiber.Handler, may func(c *fiber.Ctx, topic string) bool) {
	serve := func(read func(*fiber.Ctx) ([]message, error)) fiber.Handler {
		return func(c *fiber.Ctx) error {
			messages, err := read(c)
			if err != nil {
				return err
			}
			for i := range messages {
				if !may(c, messages[i].topic) {
					return &Error{
						Status: fiber.StatusForbidden, Code: "forbidden", Definite: true,
						Detail: "the token does not allow to publish to " + messages[i].topic,
					}
				}
			}
			return a.broadcastRealtime(c, messages)
		}
	}
	r.Post("/realtime/v1/api/broadcast", allowed, a.admit, serve(a.readBroadcasts))
	r.Post("/realtime/v1/api/broadcast/:topic/events/:event", allowed, a.admit, serve(a.readBroadcast))
}

// readBroadcasts reads what channel.send falls back to: {"messages":[{"topic","event","payload","private"}]}.
func (a *API) readBroadcasts(c *fiber.Ctx) ([]message, error) {
	id, err := publishID(c)
	if err != nil {
		return nil, err
	}
	v, err := body(c)
	if err != nil {
		return nil, err
	}
	var messages []message
	read := func(i int, v codec.Value) error {
		m := message{id: id + "#" + strconv.Itoa(i), at: v}
		var event string
		var payload codec.Value
		err := fields{
			"topic": text(&m.topic), "event": text(&event), "private": ignore,
			"payload": func(v codec.Value) error { payload = v; return nil },
		}.read(v, "topic", "event")
		if err == nil {
			err = m.asBroadcast(event, payload)
		}
		if err == nil {
			err = a.named(&m)
		}
		messages = append(messages, m)
		return err
	}
	return messages, fields{"messages": func(v codec.Value) error { return v.Elements(MaxBatch, read) }}.read(v, "messages")
}

// ignore reads what changes nothing here.
func ignore(codec.Value) error { return nil }

// asBroadcast makes m what the library's clients send over their sockets: an event broadcast with the user's own event in
// the payload.
func (m *message) asBroadcast(event string, payload codec.Value) error {
	m.topic, m.event = realtimeTopic+m.topic, "broadcast"
	m.payload = codec.AppendString([]byte(`{"type":"broadcast","event":`), event)
	if payload.Text != nil {
		m.payload = append(append(m.payload, `,"payload":`...), payload.Text...)
	}
	m.payload = append(m.payload, '}')
	whole, err := codec.ParseValue(m.payload)
	if err == nil {
		_, err = whole.Payload() // it nests one deeper than what came
	}
	if err != nil {
		return m.at.Errorf("%v", err)
	}
	return nil
}

// readBroadcast reads what channel.httpSend sends: a body of JSON or of bytes.
func (a *API) readBroadcast(c *fiber.Ctx) ([]message, error) {
	var m message
	var err error
	if m.id, err = publishID(c); err != nil {
		return nil, err
	}
	if m.topic, err = url.PathUnescape(c.Params("topic")); err != nil {
		return nil, BadRequest("invalid topic: %v", err)
	}
	event, err := url.PathUnescape(c.Params("event"))
	if err != nil {
		return nil, BadRequest("invalid event: %v", err)
	}
	m.topic, event = strings.Clone(m.topic), strings.Clone(event) // they may be part of the request, and go on after it
	kind, _, _ := mime.ParseMediaType(c.Get(fiber.HeaderContentType))
	if kind == fiber.MIMEOctetStream {
		m.topic, m.event, m.binary = realtimeTopic+m.topic, event, true
		if m.payload, err = uncompressed(c); err != nil {
			return nil, err
		}
		m.at = codec.Value{}
	} else {
		v, err := body(c)
		if err != nil {
			return nil, err
		}
		m.at = v
		if err := m.asBroadcast(event, v); err != nil {
			return nil, err
		}
	}
	if err := a.served(m.topic); err != nil {
		return nil, err
	}
	return []message{m}, a.check(&m)
}

// broadcastRealtime publishes the messages. The library asks no more of the answer than whether all went well.
func (a *API) broadcastRealtime(c *fiber.Ctx, messages []message) error {
	list, err := request(c, messages)
	if err != nil {
		return err
	}
	a.owe(c, messages)
	ctx, cancel := a.wait()
	defer cancel()
	for i, o := range a.cfg.Router.PublishAll(ctx, list) {
		if e := outcomeError(o, messages[i].id); e != nil {
			if len(messages) > 1 {
				e.Detail, e.Definite = "message "+strconv.Itoa(i)+": "+e.Detail, false // others may have been published
			}
			return e
		}
	}
	return c.SendStatus(fiber.StatusAccepted)
}
