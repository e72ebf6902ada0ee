package api

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"mime"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/gateway/session"
	"github.com/ringcast/ringcast/proto/codec"
	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/trace"
)

// message is a publish as a request states it.
type message struct {
	topic, event, id string
	payload          []byte
	binary           bool
	at               codec.Value
}

// fields are the members that a request's object may have, and what reads them. Others are an error.
type fields map[string]func(codec.Value) error

// read reads the object v. Each required field must be there.
func (f fields) read(v codec.Value, required ...string) error {
	there := make(map[string]bool)
	err := v.Members(func(key string, member codec.Value) error {
		read := f[key]
		if read == nil {
			return member.Errorf("unknown field %.64q", key)
		}
		there[key] = true
		return read(member)
	})
	if err != nil {
		return err
	}
	for _, key := range required {
		if !there[key] {
			return v.Errorf("missing field %q", key)
		}
	}
	return nil
}

func text(to *string) func(codec.Value) error {
	return func(v codec.Value) (err error) {
		*to, err = v.String()
		return err
	}
}

// readContent reads the object v, which has the fields f beside those that say what is published: event, payload, binary.
// An object without payload has an empty one.
func (m *message) readContent(v codec.Value, f fields, required ...string) error {
	m.at = v
	var payload codec.Value
	f["event"] = text(&m.event)
	f["payload"] = func(v codec.Value) error {
		payload = v
		return nil
	}
	f["binary"] = func(v codec.Value) error {
		switch string(v.Text) {
		case "true":
			m.binary = true
		case "false":
		default:
			return v.Errorf("want true or false")
		}
		return nil
	}
	if err := f.read(v, append(required, "event")...); err != nil {
		return err
	}
	switch {
	case m.binary:
		return m.readBinary(v, payload)
	case payload.Text == nil:
		m.payload = []byte("{}")
		return nil
	}
	var err error
	m.payload, err = payload.Payload()
	return err
}

// readBinary reads a payload of any bytes, which stands in the object v as base64.
func (m *message) readBinary(v, payload codec.Value) error {
	if payload.Text == nil {
		return v.Errorf("missing field %q", "payload")
	}
	encoded, err := payload.String()
	if err != nil {
		return err
	}
	if strings.ContainsAny(encoded, "\r\n") {
		return payload.Errorf("payload: want base64 in one line")
	}
	if m.payload, err = base64.StdEncoding.Strict().DecodeString(encoded); err != nil {
		return payload.Errorf("payload: %v", err)
	}
	return nil
}

// check says why the message cannot be published.
func (a *API) check(m *message) error {
	if err := session.CheckPublish(m.event, m.payload, m.binary); err != nil {
		return m.at.Errorf("%v", err)
	}
	if len(m.payload) > a.cfg.MaxMessage {
		return &Error{
			Status: fiber.StatusRequestEntityTooLarge, Code: "too_large", Definite: true,
			Detail: "a message carries at most " + strconv.Itoa(a.cfg.MaxMessage) + " bytes", Offset: m.at.Offset, HasOffset: true,
		}
	}
	return nil
}

// request turns messages into what the router takes. Payloads alias the request's body, which stays until it is answered.
func request(c *fiber.Ctx, messages []message) ([]*linkpb.Publish, error) {
	list := make([]*linkpb.Publish, len(messages))
	parent := trace.Parse(c.Get("traceparent"))
	for i := range messages {
		m := &messages[i]
		p := &linkpb.Publish{Topic: m.topic, Event: m.event, Payload: m.payload, Binary: m.binary, Trace: parent}
		var err error
		if p.IdHigh, p.IdLow, err = router.PublishID(m.id); err != nil {
			return nil, m.at.Errorf("id: %v", err)
		}
		list[i] = p
	}
	return list, nil
}

// body returns the request's body as JSON.
func body(c *fiber.Ctx) (codec.Value, error) {
	kind, params, err := mime.ParseMediaType(c.Get(fiber.HeaderContentType))
	charset := params["charset"]
	if err != nil || kind != fiber.MIMEApplicationJSON || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return codec.Value{}, &Error{
			Status: fiber.StatusUnsupportedMediaType, Code: "unsupported_media_type", Detail: "want Content-Type: application/json", Definite: true,
		}
	}
	text, err := uncompressed(c)
	if err != nil {
		return codec.Value{}, err
	}
	return codec.ParseValue(text)
}

// uncompressed returns the bytes of the request's body. Ctx.Body would inflate a compressed one, to whatever that gives.
//
// A client that goes away while it waits changes nothing, and the server keeps the body until the handler returns; but
// a publish may outlive that by the wait for its outcome, so it gets memory of its own.
func uncompressed(c *fiber.Ctx) ([]byte, error) {
	if len(c.Request().Header.ContentEncoding()) > 0 {
		return nil, &Error{
			Status: fiber.StatusUnsupportedMediaType, Code: "unsupported_media_type", Detail: "want no Content-Encoding", Definite: true,
		}
	}
	return append([]byte(nil), c.Request().Body()...), nil
}

// publishID returns the id that the client gave the request, or a new one, so that every publish can be tried again.
func publishID(c *fiber.Ctx) (string, error) {
	keys := c.Request().Header.PeekAll("Idempotency-Key")
	switch {
	case len(keys) == 0:
		var b [16]byte
		_, _ = rand.Read(b[:]) // never fails
		return hex.EncodeToString(b[:]), nil
	case len(keys) > 1:
		return "", BadRequest("Idempotency-Key: want one")
	}
	id := string(keys[0])
	if _, _, err := router.PublishID(id); err != nil {
		return "", BadRequest("Idempotency-Key: %v", err)
	}
	return id, nil
}

// publish serves POST /api/topics/:topic/publish.
func (a *API) publish(c *fiber.Ctx) error {
	topic, err := a.Topic(c)
	if err != nil {
		return err
	}
	id, err := publishID(c)
	if err != nil {
		return err
	}
	v, err := body(c)
	if err != nil {
		return err
	}
	m := message{topic: topic, id: id}
	if err := m.readContent(v, fields{}); err != nil {
		return err
	}
	if err := a.check(&m); err != nil {
		return err
	}
	list, err := request(c, []message{m})
	if err != nil {
		return err
	}
	ctx, cancel := a.wait()
	defer cancel()
	o := a.cfg.Router.PublishAll(ctx, list)[0]
	if e := outcomeError(o, id); e != nil {
		return e
	}
	return send(c, fiber.StatusOK, append(appendResult(nil, &m, o), '\n'))
}

// appendResult appends what became of a message.
func appendResult(b []byte, m *message, o router.Outcome) []byte {
	b = codec.AppendString(append(b, `{"topic":`...), m.topic)
	if e := outcomeError(o, m.id); e != nil {
		e.PublishID = m.id
		return append(append(b, ','), e.append(nil)[1:]...)
	}
	b = o.Position.AppendRef(append(b, `,"position":`...))
	b = codec.AppendString(append(b, `,"publish_id":`...), m.id)
	return append(b, '}')
}

// publishBatch serves POST /api/publish: several messages to any topics. Nothing is published unless all of them could
// be; those to one topic keep their order.
func (a *API) publishBatch(c *fiber.Ctx) error {
	id, err := publishID(c)
	if err != nil {
		return err
	}
	v, err := body(c)
	if err != nil {
		return err
	}
	var messages []message
	read := func(i int, v codec.Value) error {
		m := message{id: id + "#" + strconv.Itoa(i)}
		if err := m.readContent(v, fields{"topic": text(&m.topic), "id": text(&m.id)}, "topic"); err != nil {
			return err
		}
		if err := a.named(&m); err != nil {
			return err
		}
		messages = append(messages, m)
		return nil
	}
	err = fields{"messages": func(v codec.Value) error { return v.Elements(MaxBatch, read) }}.read(v, "messages")
	if err != nil {
		return err
	}
	return a.publishAll(c, messages)
}

// named checks a message whose topic stands in the body.
func (a *API) named(m *message) error {
	if err := a.cfg.Topics.Check(m.topic); err != nil {
		return m.at.Errorf("topic %.64q: %v", m.topic, err)
	}
	return a.check(m)
}

// broadcast serves POST /api/broadcast: one message to several topics.
func (a *API) broadcast(c *fiber.Ctx) error {
	id, err := publishID(c)
	if err != nil {
		return err
	}
	v, err := body(c)
	if err != nil {
		return err
	}
	var messages []message
	var topics []codec.Value
	named := make(map[string]bool)
	m := message{id: id}
	read := func(v codec.Value) error {
		return v.Elements(MaxBatch, func(_ int, v codec.Value) error {
			topics = append(topics, v)
			return nil
		})
	}
	if err := m.readContent(v, fields{"topics": read}, "topics"); err != nil {
		return err
	}
	for _, v := range topics {
		if m.topic, err = v.String(); err != nil {
			return err
		}
		if m.at = v; named[m.topic] {
			return v.Errorf("topic %.64q: comes twice", m.topic)
		}
		named[m.topic] = true
		if err := a.named(&m); err != nil {
			return err
		}
		messages = append(messages, m)
	}
	return a.publishAll(c, messages)
}

// owe counts all messages but the first, which is the request itself, against the rate of the request's key or user, if it
// has one.
func (a *API) owe(c *fiber.Ctx, messages []message) {
	if p, ok := c.Locals(payerLocal).(payer); ok {
		p.limits.owe(p.name, len(messages)-1, time.Now())
	}
}

// publishAll publishes the messages and answers with the result of each.
func (a *API) publishAll(c *fiber.Ctx, messages []message) error {
	list, err := request(c, messages)
	if err != nil {
		return err
	}
	a.owe(c, messages)
	ctx, cancel := a.wait()
	defer cancel()
	failed := 0
	b := []byte(`{"results":[`)
	for i, o := range a.cfg.Router.PublishAll(ctx, list) {
		if i > 0 {
			b = append(b, ',')
		}
		if !o.OK() {
			failed++
		}
		b = appendResult(b, &messages[i], o)
	}
	b = strconv.AppendInt(append(b, `],"failed":`...), int64(failed), 10)
	return send(c, fiber.StatusOK, append(b, "}\n"...))
}
