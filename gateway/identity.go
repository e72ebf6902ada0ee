package gateway

import (
	"errors"
	"net/url"

	"github.com/gofiber/fiber/v2"
	"go.uber.org/zap"

	"github.com/ringcast/ringcast/gateway/auth"
	"github.com/ringcast/ringcast/shared/certs"
	"github.com/ringcast/ringcast/shared/daemon"
)

// Where authenticate leaves what it found for adopt.
const (
	identityKey = "identity" // *auth.Identity
	refusalKey  = "refusal"  // *auth.Error, for a browser
)

// authTokenHeader carries a token in long polls of phoenix.js, which has it in a subprotocol of its sockets.
const authTokenHeader = "X-Phoenix-AuthToken"

// newAuth returns what verifies tokens, nil if clients need none.
func newAuth(cfg *Config, log *zap.Logger) (*auth.Verifier, error) {
	if cfg.Auth.On() {
		return auth.New(cfg.Auth, log)
	}
	log.Warn("AUTHENTICATION IS OFF: whoever reaches this gateway may join and publish to every topic; AUTH_REQUIRED=true forbids that")
	return nil, nil //nolint:nilnil // off is no error
}

// newPair loads the certificate for clients, nil if they come in plain text.
func newPair(cfg *Config) (*certs.Pair, error) {
	if cfg.TLSCert == "" {
		return nil, nil //nolint:nilnil // off is no error
	}
	pair, err := certs.LoadPair("TLS_CERT_FILE", cfg.TLSCert, "TLS_KEY_FILE", cfg.TLSKey)
	return pair, daemon.ConfigError(err)
}

// tokenOf returns the token of a request, "" if it has none.
func tokenOf(c *fiber.Ctx) string {
	return auth.Offer{
		Authorization: c.Get(fiber.HeaderAuthorization), Phoenix: c.Get(authTokenHeader), Protocols: c.Get("Sec-WebSocket-Protocol"),
		Query: c.Query("token"),
	}.Token()
}

// authenticate refuses a handshake without a good token with 401. A browser would not let its page see that, so a
// handshake with an Origin is accepted, and closed with 4401 and the same text.
func (g *Gateway) authenticate(c *fiber.Ctx) error {
	id, refusal, err := g.identify(tokenOf(c))
	switch {
	case err != nil:
		c.Set(fiber.HeaderRetryAfter, "1")
		return fiber.NewError(fiber.StatusServiceUnavailable, err.Error())
	case refusal == nil:
		if id != nil {
			c.Locals(identityKey, id)
		}
	case len(c.Request().Header.Peek(fiber.HeaderOrigin)) > 0:
		c.Locals(refusalKey, refusal)
	default:
		c.Set(fiber.HeaderWWWAuthenticate, `Bearer realm="ringcast"`)
		return fiber.NewError(fiber.StatusUnauthorized, refusal.Error())
	}
	return c.Next()
}

var errNoKeys = errors.New("keys for tokens are not there yet")

// identify verifies a token. The identity is nil where clients need none, or may bring theirs later.
func (g *Gateway) identify(token string) (*auth.Identity, *auth.Error, error) {
	switch {
	case g.auth == nil, token == "" && g.cfg.Auth.AuthAt == auth.AtJoin:
		return nil, nil, nil
	case g.auth.Ready() != nil:
		return nil, nil, errNoKeys
	}
	id, err := g.auth.Verify(token)
	if err == nil && g.isRevoked(id) {
		err = g.auth.Refuse(&auth.Error{Reason: auth.Revoked})
	}
	var refusal *auth.Error
	if errors.As(err, &refusal) {
		return nil, refusal, nil
	}
	return id, nil, nil
}

// requireToken lets a request pass that has a good token, where clients need one.
func (g *Gateway) requireToken(c *fiber.Ctx) error {
	if _, err := g.user(c); err != nil {
		return err
	}
	return c.Next()
}

// requireJoin lets a request pass whose token, where clients need one, allows to join the topic in its path.
func (g *Gateway) requireJoin(c *fiber.Ctx) error {
	id, err := g.user(c)
	if err != nil {
		return err
	}
	if topic, err := url.PathUnescape(c.Params("topic")); id != nil && (err != nil || id.May(topic)&auth.Join == 0) {
		return fiber.NewError(fiber.StatusForbidden, "the token does not allow to join this topic")
	}
	return c.Next()
}

// user is bearer for a request that counts in its user's rate, which may refuse it.
func (g *Gateway) user(c *fiber.Ctx) (*auth.Identity, error) {
	id, err := g.bearer(c)
	if err == nil && id != nil {
		err = g.api.AllowedUser(c, id.User)
	}
	return id, err
}

// bearer returns the identity of a request that is no handshake, nil where clients need no tokens.
func (g *Gateway) bearer(c *fiber.Ctx) (*auth.Identity, error) {
	id, refusal, err := g.identify(tokenOf(c))
	if refusal == nil && id == nil && err == nil && g.auth != nil {
		refusal = g.auth.Refuse(&auth.Error{Reason: auth.Missing}) // AUTH_AT=join is for sockets
	}
	switch {
	case err != nil:
		c.Set(fiber.HeaderRetryAfter, "1")
		return nil, fiber.NewError(fiber.StatusServiceUnavailable, err.Error())
	case refusal != nil:
		c.Set(fiber.HeaderWWWAuthenticate, `Bearer realm="ringcast"`)
		return nil, fiber.NewError(fiber.StatusUnauthorized, refusal.Error())
	}
	return id, nil
}
