package gateway

import (
	"context"
	"encoding/base64"
	"fmt"
	"strconv"

	"github.com/gofiber/fiber/v2"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/proto/codec"
	"github.com/ringcast/ringcast/proto/linkpb"
)

const (
	historyDefault = 100
	historyMax     = 1000
)

// serveHistory answers GET /api/topics/:topic/messages?since=P&limit=N with what the topic's owner remembers behind P, or
// the newest messages without since.
func (g *Gateway) serveHistory(c *fiber.Ctx) error {
	topic, err := g.api.Topic(c)
	if err != nil {
		return err
	}
	limit := historyDefault
	if text := c.Query("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > historyMax {
			return fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf("invalid limit: want 1 to %d", historyMax))
		}
	}
	var since *hub.Position
	if text := c.Query("since"); text != "" {
		p, err := hub.ParsePosition(text)
		if err != nil {
			return fiber.NewError(fiber.StatusBadRequest, "invalid since: "+err.Error())
		}
		since = &p
	}
	ctx, cancel := context.WithTimeout(context.Background(), g.cfg.JoinTimeout)
	defer cancel()
	past, o := g.router.Past(ctx, topic, since, limit)
	if err := historyError(c, o); err != nil {
		return err
	}
	c.Set(fiber.HeaderCacheControl, "no-store")
	c.Set(fiber.HeaderContentType, fiber.MIMEApplicationJSONCharsetUTF8)
	return c.Send(appendHistory(nil, topic, &past))
}

// historyError is what a refused read is answered with; nil for one that is not.
func historyError(c *fiber.Ctx, o router.Outcome) error {
	switch o.Code {
	case linkpb.Code_OK:
		return nil
	case linkpb.Code_INVALID:
		return fiber.NewError(fiber.StatusBadRequest, o.Detail)
	case linkpb.Code_INTERNAL:
		return fiber.NewError(fiber.StatusBadGateway, o.Detail)
	}
	c.Set(fiber.HeaderRetryAfter, "1")
	return fiber.NewError(fiber.StatusServiceUnavailable, o.Detail)
}

// appendHistory appends the answer. Payloads go out as they were published: nothing encodes them anew.
func appendHistory(b []byte, topic string, past *router.Past) []byte {
	b = append(b, `{"topic":`...)
	b = codec.AppendString(b, topic)
	b = append(b, `,"messages":[`...)
	for i, m := range past.Messages {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"position":`...)
		b = m.Position.AppendRef(b)
		b = append(b, `,"event":`...)
		b = codec.AppendString(b, m.Event)
		if m.Binary {
			b = append(b, `,"binary":true,"payload":"`...)
			b = base64.StdEncoding.AppendEncode(b, m.Payload)
			b = append(b, `"}`...)
			continue
		}
		b = append(b, `,"payload":`...)
		if len(m.Payload) == 0 {
			b = append(b, "{}"...)
		}
		b = append(b, m.Payload...)
		b = append(b, '}')
	}
	b = append(b, `],"next":`...)
	b = past.Next.AppendRef(b)
	b = append(b, `,"recovered":`...)
	b = strconv.AppendBool(b, past.Recovered)
	b = append(b, `,"more":`...)
	b = strconv.AppendBool(b, past.More)
	return append(b, "}\n"...)
}
