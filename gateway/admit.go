package gateway

import (
	"strconv"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/ringcast/ringcast/gateway/admission"
	"github.com/ringcast/ringcast/gateway/socket"
)

// turnedAwayKey is where a handshake that was not admitted, and is completed all the same, has its admission.Refusal.
const turnedAwayKey = "turned away"

// maxTurnedAway is how many sockets of browsers that were not admitted there may be at a time. They are closed as soon as
// they are open, but until the browser answers each of them is one.
const maxTurnedAway = 1000

// admit refuses connections that there is no room for. A client is told when to come again: with a status and Retry-After
// if it can see them. The page behind a browser cannot; its handshake is completed, and the socket closed with 1013.
func (g *Gateway) admit(c *fiber.Ctx) error {
	r := g.room()
	switch {
	case !r.Refused():
		return c.Next()
	case len(c.Request().Header.Peek(fiber.HeaderOrigin)) > 0 && !g.stopping.Load() && g.turnedAway.Load() < maxTurnedAway:
		c.Locals(turnedAwayKey, r)
		return c.Next()
	}
	c.Set(fiber.HeaderRetryAfter, strconv.FormatInt(int64((r.After+time.Second-1)/time.Second), 10))
	return fiber.NewError(fiber.StatusServiceUnavailable, r.String())
}

// room asks whether there is room for another connection: there is none over MAX_CONNECTIONS, nor while the gateway has too
// much to do, nor when it is stopping. Handshakes that are under way at the same moment are not counted, so a burst may end
// a little over the limit.
func (g *Gateway) room() admission.Refusal {
	switch {
	case g.stopping.Load():
		return admission.Refusal{Reason: admission.Stopping, After: time.Second}
	case g.loops.Conns()-int(g.turnedAway.Load()) >= g.cfg.MaxConnections:
		return g.gate.NoRoom(admission.Full)
	}
	return g.gate.Connect()
}

// turnAway returns what closes a connection that was not admitted as soon as it is open.
func (g *Gateway) turnAway(r admission.Refusal) func(*socket.Conn) socket.Handler {
	return func(c *socket.Conn) socket.Handler {
		g.turnedAway.Add(1)
		c.Close(socket.CloseTryAgain, "retry_after_ms="+strconv.FormatInt(r.Millis(), 10))
		return stranger{g}
	}
}

// stranger is the handler of a connection that was not admitted.
type stranger struct{ g *Gateway }

// Message implements socket.Handler.
func (stranger) Message(*socket.Conn, socket.Opcode, []byte) {}

// Closed implements socket.Handler.
func (s stranger) Closed(*socket.Conn, error) { s.g.turnedAway.Add(-1) }
