package api

import (
	"context"
	"encoding/json"

	"github.com/gofiber/fiber/v2"
	"go.uber.org/zap"
)

// Target is who is sent away: exactly one of User, TokenID and Session is set. With a Topic only the channels on it end.
type Target struct{ User, TokenID, Session, Topic string }

// Disconnector sends clients away from the whole cluster. It returns the topic servers that have not passed that on yet; an error
// is about the target.
type Disconnector func(ctx context.Context, t Target) (unconfirmed []string, err error)

// revoke serves POST /api/revoke: a user, a token's holders or a session are sent away.
func (a *API) revoke(c *fiber.Ctx) error {
	v, err := body(c)
	if err != nil {
		return err
	}
	var t Target
	if err := (fields{"user": text(&t.User), "jti": text(&t.TokenID), "session": text(&t.Session)}).read(v); err != nil {
		return err
	}
	return a.disconnect(c, t)
}

// unsubscribe serves POST /api/topics/:topic/unsubscribe: the channels that a user or a session has on a topic end.
func (a *API) unsubscribe(c *fiber.Ctx) error {
	topic, err := a.Topic(c)
	if err != nil {
		return err
	}
	v, err := body(c)
	if err != nil {
		return err
	}
	t := Target{Topic: topic}
	if err := (fields{"user": text(&t.User), "session": text(&t.Session)}).read(v); err != nil {
		return err
	}
	return a.disconnect(c, t)
}

// disconnect answers with 200 when every topic server has passed it on, and with 202 when the rest follows by itself. Who
// asked is logged; who was sent away is nobody else's business.
func (a *API) disconnect(c *fiber.Ctx, t Target) error {
	ctx, cancel := a.wait()
	defer cancel()
	unconfirmed, err := a.cfg.Disconnect(ctx, t)
	if err != nil {
		return BadRequest("%s", err.Error())
	}
	a.cfg.Log.Info("clients sent away by the API", zap.String("key", keyOf(c).name), zap.String("topic", t.Topic))
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
