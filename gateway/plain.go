package gateway

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"

	"github.com/ringcast/ringcast/gateway/auth"
	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/gateway/session"
	"github.com/ringcast/ringcast/gateway/socket"
)

// plainPrefix is put before a channel name that is a bare word, to make a topic of it.
const plainPrefix = "ws:"

// hint answers a request for a plain socket's URL that is no WebSocket handshake.
func (g *Gateway) hint(c *fiber.Ctx) error {
	if hasToken(c.Get(fiber.HeaderUpgrade), "websocket") {
		return c.Next()
	}
	c.Set(fiber.HeaderCacheControl, "no-store")
	return c.SendString("ringcast: connect a WebSocket to /ws?channel=NAME to get what is published there; with publish=1 what you send is published\n")
}

// checkSlow refuses a policy for slow clients where it could not be told what was skipped.
func checkSlow(c *fiber.Ctx) error {
	if slow := c.Query("slow", hub.SlowClose.String()); slow != hub.SlowClose.String() {
		return fiber.NewError(fiber.StatusBadRequest, "invalid slow: a client of this protocol cannot be told what was skipped: want close")
	}
	return nil
}

// checkPlain reads which channels a plain client wants, and whether it publishes.
func (g *Gateway) checkPlain(c *fiber.Ctx) error {
	opts := session.PlainOptions{Event: strings.Clone(c.Query("event", session.PlainEvent))}
	if err := session.CheckPublish(opts.Event, []byte("{}"), false); err != nil {
		return fiber.NewError(fiber.StatusBadRequest, err.Error())
	}
	if err := checkSlow(c); err != nil {
		return err
	}
	switch c.Query("publish", "0") {
	case "1":
		opts.Publish = true
	case "0":
	default:
		return fiber.NewError(fiber.StatusBadRequest, "invalid publish: want 0 or 1")
	}
	for _, name := range c.Context().QueryArgs().PeekMulti("channel") {
		topic := string(name)
		if !strings.Contains(topic, ":") {
			topic = plainPrefix + topic
		}
		if err := g.topics.Check(topic); err != nil {
			status := fiber.StatusBadRequest
			if err.Error() == "unmatched topic" {
				status = fiber.StatusNotFound
			}
			return fiber.NewError(status, fmt.Sprintf("channel %.64q: %v", name, err))
		}
		if !slices.Contains(opts.Topics, topic) {
			opts.Topics = append(opts.Topics, topic)
		}
		if len(opts.Topics) > g.cfg.MaxChannels {
			return fiber.NewError(fiber.StatusBadRequest, "too many channels")
		}
	}
	if len(opts.Topics) == 0 {
		return fiber.NewError(fiber.StatusBadRequest, "no channel: want /ws?channel=NAME")
	}
	setOpener(c, func(ss *session.Sessions, conn *socket.Conn, id *auth.Identity) *session.Session {
		return ss.OpenPlain(conn, opts, id)
	})
	return c.Next()
}
