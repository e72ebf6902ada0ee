package gateway

import (
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/ringcast/ringcast/gateway/api"
	"github.com/ringcast/ringcast/gateway/auth"
)

// registerRealtime serves what @supabase/realtime-js sends by HTTP rather than over its socket.
func (g *Gateway) registerRealtime(app *fiber.App) {
	app.Options(api.RealtimePrefix+"*", g.acrossOrigins, func(c *fiber.Ctx) error {
		c.Set(fiber.HeaderAccessControlAllowHeaders, c.Get(fiber.HeaderAccessControlRequestHeaders))
		c.Set(fiber.HeaderAccessControlAllowMethods, fiber.MethodPost)
		c.Set(fiber.HeaderAccessControlMaxAge, "3600")
		return c.SendStatus(fiber.StatusNoContent)
	})
	app.Use(api.RealtimePrefix, g.acrossOrigins)
	g.api.RegisterRealtime(app, g.mayBroadcast, func(c *fiber.Ctx, topic string) bool {
		id, _ := c.Locals(identityKey).(*auth.Identity)
		return id == nil || id.May(topic)&auth.Publish != 0
	})
}

// acrossOrigins lets pages of the allowed origins read the answers: the library runs in browsers, on pages that come from
// elsewhere.
func (g *Gateway) acrossOrigins(c *fiber.Ctx) error {
	if err := g.allowOrigin(c); err != nil {
		return err
	}
	if origin := c.Get(fiber.HeaderOrigin); origin != "" {
		c.Set(fiber.HeaderAccessControlAllowOrigin, origin)
		c.Vary(fiber.HeaderOrigin)
	}
	return c.Next()
}

// mayBroadcast lets a request pass that has an API key for publishing or, where clients need tokens, a good one; what that
// allows is looked at for each topic.
func (g *Gateway) mayBroadcast(c *fiber.Ctx) error {
	if !g.broadcastsByToken(c) {
		if err := g.api.Allowed(c, api.Publish); err != nil {
			return err
		}
		return c.Next()
	}
	id, err := g.user(c)
	if err != nil {
		return err
	}
	c.Locals(identityKey, id)
	return c.Next()
}

// broadcastsByToken reports whether a broadcast by HTTP is let through by a token rather than an API key.
func (g *Gateway) broadcastsByToken(c *fiber.Ctx) bool { return g.auth != nil && !g.api.Known(c) }

// tooLarge returns the answer to a request of the API whose body is over its limit.
func (g *Gateway) tooLarge(c *fiber.Ctx) error {
	if !strings.HasPrefix(c.Path(), api.RealtimePrefix) || !g.broadcastsByToken(c) {
		return g.api.TooLarge(c)
	}
	if _, err := g.user(c); err != nil {
		return err
	}
	return g.api.Oversized()
}

// broadcastLimit returns how many bytes the body of a broadcast by HTTP may have whose header has come with a good token, 0
// for what the server allows to everybody.
func (g *Gateway) broadcastLimit(h *fasthttp.RequestHeader) int {
	if g.auth == nil || !h.IsPost() || !strings.HasPrefix(string(h.RequestURI()), api.RealtimePrefix) {
		return 0
	}
	token := auth.Offer{Authorization: string(h.Peek(fiber.HeaderAuthorization))}.Token()
	if id, refusal, err := g.identify(token); err != nil || refusal != nil || id == nil {
		return 0
	}
	return g.cfg.APIMaxBody
}
