package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap"

	"github.com/ringcast/ringcast/shared/daemon"
)

const (
	maxUser        = 255  // bytes of sub and of jti
	maxPresence    = 1024 // bytes of the claim presence
	maxKeyID       = 255
	badTokenPeriod = time.Second // between two log lines about bad tokens
)

// Verifier verifies tokens. Any goroutine may call its methods.
type Verifier struct {
	// Static.
	cfg     Config
	open    []grant
	parser  *jwt.Parser
	sources []*source
	log     *zap.Logger
	now     func() time.Time
	began   time.Time

	keys    atomic.Pointer[keyring]
	failed  atomic.Bool // the keys in use are older than a source's, which is of no use
	refused [NumReasons]atomic.Uint64
	nextLog atomic.Int64 // nanoseconds since began, which no clock that is set moves
}

// New returns a verifier with the keys that the files have. Keys of a URL come once Run runs. The configuration is one that
// Validate accepts and that is On; the error, a daemon.ErrConfig, names every file that is of no use.
func New(cfg Config, log *zap.Logger) (*Verifier, error) {
	return newVerifier(cfg, log, time.Now)
}

func newVerifier(cfg Config, log *zap.Logger, now func() time.Time) (*Verifier, error) {
	v := &Verifier{cfg: cfg, log: log, now: now, began: time.Now()}
	patterns, err := parsePatterns(cfg.OpenTopics)
	if err != nil {
		return nil, daemon.ConfigError(err)
	}
	for _, p := range patterns {
		v.open = append(v.open, grant{pattern: p, rights: Join | Publish})
	}
	v.parser = jwt.NewParser(jwt.WithValidMethods([]string{"HS256", "RS256", "ES256", "EdDSA"}), jwt.WithLeeway(cfg.Leeway),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithStrictDecoding(), jwt.WithTimeFunc(now),
		jwt.WithAudience(cfg.Audience), jwt.WithIssuer(cfg.Issuer))
	var errs []error
	for _, s := range []*source{
		hmacSource(cfg.Issuer, cfg.HMACSecret, cfg.HMACSecretFile), fileSource(cfg.Issuer, cfg.KeysFile), urlSource(cfg.Issuer, cfg.JWKSURL),
	} {
		if s == nil {
			continue
		}
		v.sources = append(v.sources, s)
		if s.url == "" {
			errs = append(errs, s.load())
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, daemon.ConfigError(err)
	}
	v.rebuild()
	return v, nil
}

// Run reloads files that change and fetches the keys of URLs, until ctx is canceled.
func (v *Verifier) Run(ctx context.Context) { v.runSources(ctx) }

// Ready returns nil once there is a key, whether of a file or of a URL. Any goroutine may call it.
func (v *Verifier) Ready() error {
	if v.keys.Load().count == 0 {
		return errors.New("no key for tokens yet")
	}
	return nil
}

// Config returns the configuration without its secrets.
func (v *Verifier) Config() Config {
	cfg := v.cfg
	cfg.HMACSecret = ""
	return cfg
}

// Stats are a verifier's counts.
type Stats struct {
	Refused [NumReasons]uint64 // since the start
	Keys    int                // now
	Failed  bool               // a source's present keys are of no use, or cannot be had; older ones are used
}

// Stats returns the current counts.
func (v *Verifier) Stats() Stats {
	s := Stats{Keys: v.keys.Load().count, Failed: v.failed.Load()}
	for i := range s.Refused {
		s.Refused[i] = v.refused[i].Load()
	}
	return s
}

// Refuse counts a token that is refused, and makes the error for its client. detail, which may be nil, is logged now and then.
func (v *Verifier) Refuse(e *Error) *Error {
	v.refused[e.Reason].Add(1)
	if e.Detail == nil {
		return e
	}
	now, next := int64(time.Since(v.began)), v.nextLog.Load()
	if now >= next && v.nextLog.CompareAndSwap(next, now+int64(badTokenPeriod)) {
		v.log.Info("token refused", zap.Stringer("reason", e.Reason), zap.String("detail", e.Detail.Error()))
	}
	return e
}

// claims is what is read of a token.
type claims struct {
	jwt.RegisteredClaims
	Topics   grants          `json:"topics"`
	Presence json.RawMessage `json:"presence"`
}

// Verify returns whom a token is of. The error is an *Error. It takes up to about 0.2 ms of CPU, and does not wait.
func (v *Verifier) Verify(token string) (*Identity, error) {
	id, e := v.verify(token)
	if e != nil {
		return nil, v.Refuse(e)
	}
	return id, nil
}

func (v *Verifier) verify(token string) (*Identity, *Error) {
	switch {
	case token == "":
		return nil, &Error{Reason: Missing}
	case len(token) > MaxToken:
		return nil, invalid("%d bytes, at most %d are allowed", len(token), MaxToken)
	case strings.Count(token, ".") != 2:
		return nil, invalid("not three parts")
	}
	var c claims
	var k *key
	_, err := v.parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		var err error
		if k, err = v.find(t, c.Issuer); err != nil {
			return nil, err
		}
		return k.material, nil
	})
	switch {
	case (err == nil || errors.Is(err, jwt.ErrTokenExpired) && onlyExpired(err)) && !c.times():
		return nil, invalid("exp, nbf or iat is outside the years 1970 to 9999")
	case errors.Is(err, jwt.ErrTokenExpired) && onlyExpired(err):
		return nil, &Error{Reason: Expired, At: c.ExpiresAt.Time}
	case err != nil:
		return nil, invalid("%s", describe(err))
	}
	return v.identity(&c)
}

// times reports whether what should be times are some. The library lets numbers go over that are too large for one: 1e308 is a long
// time ago.
func (c *claims) times() bool {
	const last = 253402300799 // 9999-12-31T23:59:59Z
	for _, t := range []*jwt.NumericDate{c.ExpiresAt, c.NotBefore, c.IssuedAt} {
		if t != nil && (t.Unix() < 0 || t.Unix() > last) {
			return false
		}
	}
	return true
}

// onlyExpired reports whether a token is good but for its exp: then its signature has been verified, and the client may
// know.
func onlyExpired(err error) bool {
	for _, other := range []error{
		jwt.ErrTokenMalformed, jwt.ErrTokenUnverifiable, jwt.ErrTokenSignatureInvalid, jwt.ErrTokenRequiredClaimMissing,
		jwt.ErrTokenInvalidAudience, jwt.ErrTokenUsedBeforeIssued, jwt.ErrTokenInvalidIssuer, jwt.ErrTokenNotValidYet,
	} {
		if errors.Is(err, other) {
			return false
		}
	}
	return true
}

// describe says what the library found, in words of our own: its errors may quote the token.
func describe(err error) string {
	for _, known := range []struct {
		is   error
		text string
	}{
		{errNoKey, "no key of that issuer, id and algorithm"},
		{errCritical, "has critical header parameters"},
		{jwt.ErrTokenSignatureInvalid, "wrong signature, or an algorithm that is not allowed"},
		{jwt.ErrTokenUnverifiable, "unknown algorithm"},
		{jwt.ErrTokenMalformed, "malformed"},
		{jwt.ErrTokenRequiredClaimMissing, "exp, aud or iss is missing"},
		{jwt.ErrTokenInvalidAudience, "wrong aud"},
		{jwt.ErrTokenInvalidIssuer, "wrong iss"},
		{jwt.ErrTokenNotValidYet, "nbf is in the future"},
		{jwt.ErrTokenUsedBeforeIssued, "iat is in the future"},
		{jwt.ErrTokenExpired, "expired"},
	} {
		if errors.Is(err, known.is) {
			return known.text
		}
	}
	return "not a token"
}

var (
	errNoKey    = errors.New("no such key")
	errCritical = errors.New("critical header parameters")
)

// find picks the key of a token whose signature is not verified yet: its issuer and key id only choose among the keys that
// are here.
func (v *Verifier) find(t *jwt.Token, issuer string) (*key, error) {
	if _, ok := t.Header["crit"]; ok {
		return nil, errCritical
	}
	kid := ""
	if raw, ok := t.Header["kid"]; ok {
		if kid, ok = raw.(string); !ok || len(kid) > maxKeyID {
			return nil, errNoKey
		}
	}
	k := v.keys.Load().find(issuer, kid, t.Method.Alg())
	if k == nil {
		v.askAgain(issuer)
		return nil, errNoKey
	}
	return k, nil
}

// identity turns verified claims into an identity.
func (v *Verifier) identity(c *claims) (*Identity, *Error) {
	now := v.now()
	id := &Identity{User: c.Subject, TokenID: c.ID, Ends: c.ExpiresAt.Unix()}
	switch {
	case c.IssuedAt != nil:
		id.Issued = c.IssuedAt.Unix()
	case c.NotBefore != nil:
		id.Issued = c.NotBefore.Unix()
	default:
		return nil, invalid("has neither nbf nor iat")
	}
	switch {
	case id.User == "" || len(id.User) > maxUser:
		return nil, invalid("sub has %d bytes, 1 to %d are allowed", len(id.User), maxUser)
	case len(id.TokenID) > maxUser:
		return nil, invalid("jti has %d bytes, at most %d are allowed", len(id.TokenID), maxUser)
	case c.ExpiresAt.Sub(now) > v.cfg.MaxTokenLife+v.cfg.Leeway:
		return nil, invalid("good for longer than AUTH_MAX_TOKEN_LIFE")
	case len(c.Presence) > maxPresence:
		return nil, invalid("presence has %d bytes, at most %d are allowed", len(c.Presence), maxPresence)
	case len(c.Presence) > 0 && c.Presence[0] != '{' && string(c.Presence) != "null":
		return nil, invalid("presence is no object")
	}
	if len(c.Presence) > 0 && c.Presence[0] == '{' {
		id.Presence = c.Presence
	}
	if now.Unix() >= id.Ends { // within the leeway
		id.Ends += int64((v.cfg.Leeway + time.Second - 1) / time.Second)
	}
	id.grants = append(append(make([]grant, 0, len(c.Topics)+len(v.open)), c.Topics...), v.open...)
	return id, nil
}

func invalid(format string, args ...any) *Error {
	return &Error{Reason: Invalid, Detail: fmt.Errorf(format, args...)}
}
