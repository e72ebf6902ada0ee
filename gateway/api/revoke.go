package api

import (
	"context"
	"encoding/json"

	"github.com/gofiber/fiber/v2"
)

// Disconnector sends clients away from the whole cluster. Exactly one of user, tokenID and session is set. It returns the
// topic servers that have not passed that on yet; an error is about the target.
type Disconnector func(ctx context.Context, user, tokenID, session string) (unconfirmed []string, err error)

// revoke answers POST /api/revoke with 200 when every topic server has passed it on, and with 202 when the rest follows by
// itself.
func (a *API) revoke(c *fiber.Ctx) error {
	v, err := body(c)
	if err != nil {
		return err
	}
	var user, tokenID, session string
	if err := (fields{"user": text(&user), "jti": text(&tokenID), "session": text(&session)}).read(v); err != nil {
		return err
	}
	ctx, cancel := a.wait()
	defer cancel()
	unconfirmed, err := a.cfg.Disconnect(ctx, user, tokenID, session)
	if err != nil {
		return BadRequest("%s", err.Error())
	}
	answer, status := map[string]any{"confirmed": true}, fiber.StatusOK
	if len(unconfirmed) > 0 {
		answer, status = map[string]any{"confirmed": false, "unconfirmed": unconfirmed}, fiber.StatusAccepted
	}
	text, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	return send(c, status, text)
}
