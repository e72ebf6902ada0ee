package ingest

import (
	"errors"
	"fmt"
	"mime"
	"strings"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/gateway/session"
	"github.com/ringcast/ringcast/proto/codec"
	"github.com/ringcast/ringcast/proto/linkpb"
)

// bareTopic is put before a routing key that is a bare word, as before a plain WebSocket's channel.
const bareTopic = "ws:"

// judge is message, for which a panic is one more reason to reject the message: else it would end one gateway after the other.
func (c *Consumer) judge(d *amqp.Delivery) (p *linkpb.Publish, err error) {
	defer func() {
		if bug := recover(); bug != nil {
			c.cfg.Log.Error("message panicked", zap.String("queue", c.cfg.Queue), zap.Any("panic", bug), zap.Stack("stack"))
			c.panics.Add(1)
			p, err = nil, errors.New("a bug; the log has the rest")
		}
	}()
	return c.message(d)
}

// message turns a delivery into a publish: the topic from the header topic, else the routing key; the event from the header
// event, else the message's type, else the one of plain clients; the publish id from the message id. The error is for good.
func (c *Consumer) message(d *amqp.Delivery) (*linkpb.Publish, error) {
	topic, err := header(d, "topic", d.RoutingKey)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(topic, ":") {
		topic = bareTopic + topic
	}
	if err := c.cfg.Check(topic); err != nil {
		return nil, fmt.Errorf("topic %.64q: %w", topic, err)
	}
	event, err := header(d, "event", d.Type)
	if err != nil {
		return nil, err
	}
	if event == "" {
		event = session.PlainEvent
	}
	p := &linkpb.Publish{Topic: topic, Event: event}
	if p.Payload, p.Binary, err = payload(d); err != nil {
		return nil, err
	}
	if len(p.Payload) > c.cfg.MaxPayload {
		return nil, fmt.Errorf("payload of %d bytes: at most %d are allowed", len(p.Payload), c.cfg.MaxPayload)
	}
	if err := session.CheckPublish(event, []byte("{}"), p.Binary); err != nil {
		return nil, err
	}
	id := d.MessageId
	if id == "" {
		id = newID()
	}
	if p.IdHigh, p.IdLow, err = router.PublishID(id); err != nil {
		return nil, fmt.Errorf("message id: %w", err)
	}
	return p, nil
}

// header returns a header of a delivery that is a text, def if there is none.
func header(d *amqp.Delivery, name, def string) (string, error) {
	switch v := d.Headers[name].(type) {
	case nil:
		return def, nil
	case string:
		return v, nil
	case []byte:
		return string(v), nil
	default:
		return "", fmt.Errorf("header %s: want a text, not %T", name, v)
	}
}

// payload returns the payload of a delivery by its content type: JSON must be an object, bytes are bytes, and of the rest
// texts are carried as those of plain clients are.
func payload(d *amqp.Delivery) (payload []byte, binary bool, err error) {
	if d.ContentEncoding != "" && !strings.EqualFold(d.ContentEncoding, "utf-8") {
		return nil, false, fmt.Errorf("content encoding %.32q is not supported", d.ContentEncoding)
	}
	kind, _, _ := mime.ParseMediaType(d.ContentType)
	switch {
	case kind == "application/json":
		v, err := codec.ParseValue(d.Body)
		if err != nil {
			return nil, false, err
		}
		payload, err = v.Payload()
		return payload, false, err
	case kind == "application/octet-stream", !utf8.Valid(d.Body):
		return d.Body, true, nil
	}
	f, err := codec.ForKind(codec.Plain).Decode(d.Body, false)
	return f.Payload, false, err
}
