package ingest

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/proto/linkpb"
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

// A message that a bug is met with is rejected, like any that can never be published.
func TestAPanicRejectsItsMessage(t *testing.T) {
	c := testConsumer(t)
	core, logs := observer.New(zap.ErrorLevel)
	c.cfg.Log = zap.New(core)
	c.cfg.Check = func(string) error { panic("a bug") }
	p, err := c.judge(&amqp.Delivery{RoutingKey: "room:1"})
	if p != nil || err == nil || err.Error() != "a bug; the log has the rest" {
		t.Errorf("%v, %v", p, err)
	}
	if lines := logs.FilterMessage("message panicked").All(); len(lines) != 1 || lines[0].ContextMap()["panic"] != "a bug" {
		t.Errorf("log %v", lines)
	}
	if n := c.Stats().Panics; n != 1 {
		t.Errorf("%d panics counted", n)
	}
}

// A broker that does not keep to the prefetch loses its connection: what event loops have to tell always has room.
func TestABrokerThatDeliversTooMuch(t *testing.T) {
	c := testConsumer(t)
	c.cfg.Prefetch = 2
	var done []func(router.Outcome)
	c.cfg.Publish = func(_ *linkpb.Publish, f func(router.Outcome)) { done = append(done, f) }
	deliveries := make(chan amqp.Delivery, 3)
	for range cap(deliveries) {
		deliveries <- amqp.Delivery{RoutingKey: "room:1", ContentType: "application/json", Body: []byte("{}")}
	}
	close(deliveries)
	r := &run{c: c, ctx: t.Context(), deliveries: deliveries, settled: make(chan settled, c.cfg.Prefetch), ended: make(chan struct{})}
	if err := r.consume("tag"); !errors.Is(err, errPrefetch) || len(done) != c.cfg.Prefetch {
		t.Errorf("%v with %d under way", err, len(done))
	}
	for _, f := range done { // as a loop does, later: nobody listens any more
		f(router.Outcome{})
	}
}

// FuzzMessage: whatever is in a queue is published as something that a client could publish, or refused, and panics nothing.
func FuzzMessage(f *testing.F) {
	f.Add("room:1", "say", "", "", "m-1", []byte("hello"))
	f.Add("news", "", "application/json; charset=utf-8", "utf-8", "", []byte(` {"a":1} `))
	f.Add("a b", "phx_join", "application/json", "gzip", strings.Repeat("x", 129), []byte(strings.Repeat(`[`, 50)))
	f.Add("\xff:\x00", "\x1b", "application/octet-stream; =", "UTF-8", "\x00", []byte("\xff"))
	c, err := New(Config{URL: "amqp://localhost", Queue: "q", MaxPayload: 100, Check: func(string) error { return nil }})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, key, event, kind, encoding, id string, body []byte) {
		d := amqp.Delivery{
			RoutingKey: key, Type: event, ContentType: kind, ContentEncoding: encoding, MessageId: id, Body: body,
			Headers: amqp.Table{"topic": []byte(key), "other": amqp.Table{}},
		}
		p, err := c.message(&d)
		if err != nil {
			return
		}
		if len(p.Payload) > 100 || p.Event == "" || len(p.Event) > 64 || !strings.Contains(p.Topic, ":") {
			t.Errorf("published as %v", p)
		}
		if !p.Binary && !json.Valid(p.Payload) {
			t.Errorf("payload %q is no JSON", p.Payload)
		}
	})
}
