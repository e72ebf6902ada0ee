package ingest

import (
	"errors"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/ringcast/ringcast/gateway/router"
)

func testConsumer(t *testing.T) *Consumer {
	t.Helper()
	c, err := New(Config{URL: "amqp://localhost", Queue: "q", MaxPayload: 100, Check: func(topic string) error {
		if strings.Contains(topic, " ") {
			return errors.New("invalid topic")
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestMessages(t *testing.T) {
	c := testConsumer(t)
	for _, tt := range []struct {
		name                  string
		d                     amqp.Delivery
		topic, event, payload string
		binary                bool
		problem               string
	}{
		{name: "routing key", d: amqp.Delivery{RoutingKey: "room:1", Body: []byte(`{"a":1}`)}, topic: "room:1", event: "message", payload: `{"a":1}`},
		{name: "bare key", d: amqp.Delivery{RoutingKey: "news", Body: []byte("hi")}, topic: "ws:news", event: "message", payload: `"hi"`},
		{name: "headers", d: amqp.Delivery{
			RoutingKey: "x", Type: "y", Headers: amqp.Table{"topic": "room:2", "event": []byte("say")}, ContentType: "application/json; charset=utf-8", Body: []byte(` {} `),
		}, topic: "room:2", event: "say", payload: `{}`},
		{name: "type", d: amqp.Delivery{RoutingKey: "a:b", Type: "say", ContentType: "application/octet-stream", Body: []byte("{}")}, topic: "a:b", event: "say", payload: "{}", binary: true},
		{name: "no text", d: amqp.Delivery{RoutingKey: "a:b", Body: []byte("\xff")}, topic: "a:b", event: "message", payload: "\xff", binary: true},
		{name: "bad topic", d: amqp.Delivery{RoutingKey: "a b"}, problem: `topic "ws:a b": invalid topic`},
		{name: "header that is no text", d: amqp.Delivery{Headers: amqp.Table{"topic": int32(7)}}, problem: "header topic: want a text, not int32"},
		{name: "reserved event", d: amqp.Delivery{RoutingKey: "a:b", Type: "phx_join"}, problem: "reserved event"},
		{name: "bad JSON", d: amqp.Delivery{RoutingKey: "a:b", ContentType: "application/json", Body: []byte(`{`)}, problem: "bad JSON: offset 1: unexpected end"},
		{name: "JSON that is no object", d: amqp.Delivery{RoutingKey: "a:b", ContentType: "application/json", Body: []byte(`[]`)}, problem: "offset 0: payload must be an object"},
		{name: "gzip", d: amqp.Delivery{RoutingKey: "a:b", ContentEncoding: "gzip"}, problem: `content encoding "gzip" is not supported`},
		{name: "large", d: amqp.Delivery{RoutingKey: "a:b", Body: make([]byte, 101), ContentType: "application/octet-stream"}, problem: "payload of 101 bytes: at most 100 are allowed"},
		{name: "long id", d: amqp.Delivery{RoutingKey: "a:b", MessageId: strings.Repeat("x", 129)}, problem: "message id: want 1 to 128 bytes"},
	} {
		p, err := c.message(&tt.d)
		if tt.problem != "" {
			if err == nil || err.Error() != tt.problem {
				t.Errorf("%s: %v, want %s", tt.name, err, tt.problem)
			}
			continue
		}
		if err != nil || p.Topic != tt.topic || p.Event != tt.event || string(p.Payload) != tt.payload || p.Binary != tt.binary {
			t.Errorf("%s: %v, %v", tt.name, p, err)
		}
	}
}

// The message id is the publish id; without one each message has its own.
func TestPublishIDs(t *testing.T) {
	c := testConsumer(t)
	d := amqp.Delivery{RoutingKey: "a:b", MessageId: "order-17"}
	p, err := c.message(&d)
	high, low, _ := router.PublishID("order-17")
	if err != nil || p.IdHigh != high || p.IdLow != low {
		t.Errorf("%v, %v", p, err)
	}
	d.MessageId = ""
	p1, _ := c.message(&d)
	p2, _ := c.message(&d)
	if p1.IdHigh == p2.IdHigh || p1.IdLow == 0 {
		t.Error("made-up ids")
	}
}

func TestNewWantsAURL(t *testing.T) {
	for _, url := range []string{"", "localhost", "http://user:secret@localhost", "amqp://user:secret@localhost:x"} {
		_, err := New(Config{URL: url})
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", url, err)
		}
	}
}
