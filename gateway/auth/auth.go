// Package auth says who a client is and what it may do: it reads a token from a handshake or a join, verifies it, and
// turns it into an Identity.
//
// A token is a JWT, signed with HS256, RS256, ES256 or EdDSA. What it says is believed only once its signature is verified
// with a key of its issuer, by the one algorithm that the key is for. Nothing in a token ever names where a key is fetched.
package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ringcast/ringcast/shared/daemon"
)

// MaxToken is the length of the longest token, in bytes.
const MaxToken = 4096

// Where a client must present its token.
const (
	AtConnect = "connect" // in the handshake
	AtJoin    = "join"    // in the handshake, or in each join
)

// minHMAC is the length of the shortest secret that HS256 may use, in bytes: that of its hash.
const minHMAC = 32

// Config says which tokens count. No keys at all mean that everybody may do everything.
type Config struct {
	AuthRequired   bool          `env:"AUTH_REQUIRED" envDefault:"false" help:"refuse to start without a key for tokens"`
	AuthAt         string        `env:"AUTH_AT" envDefault:"connect" help:"connect: every handshake needs a token; join: a socket may bring it with its joins"`
	HMACSecret     string        `env:"AUTH_HMAC_SECRET" secret:"true" help:"secret of HS256 tokens, at least 32 bytes"`
	HMACSecretFile string        `env:"AUTH_HMAC_SECRET_FILE" help:"file with that secret instead"`
	KeysFile       string        `env:"AUTH_KEYS_FILE" help:"file with the keys of tokens: PEM public keys or a JWKS"`
	JWKSURL        string        `env:"AUTH_JWKS_URL" help:"https URL of the issuer's JWKS, fetched in the background"`
	Issuer         string        `env:"AUTH_ISSUER" help:"iss of every token"`
	Audience       string        `env:"AUTH_AUDIENCE" help:"aud of every token"`
	OpenTopics     string        `env:"AUTH_TOPICS" help:"topics that every valid token may join and publish to, beside those it lists; as in TOPICS"`
	Leeway         time.Duration `env:"AUTH_LEEWAY" envDefault:"60s" help:"how much the clocks of issuer and gateway may differ"`
	MaxTokenLife   time.Duration `env:"AUTH_MAX_TOKEN_LIFE" envDefault:"24h" help:"refuse tokens that are good for longer; revocations are kept for so long"`
	AuthTimeout    time.Duration `env:"AUTH_TIMEOUT" envDefault:"10s" help:"with AUTH_AT=join: close a socket that has brought no good token for so long"`
}

// On reports whether clients need tokens.
func (c *Config) On() bool {
	return c.HMACSecret != "" || c.HMACSecretFile != "" || c.KeysFile != "" || c.JWKSURL != ""
}

// Validate reports every problem at once, one line each. It does not read files.
func (c *Config) Validate() error {
	var errs []error
	add := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	add(c.AuthRequired && !c.On(),
		"AUTH_REQUIRED=true: no key is configured: set AUTH_HMAC_SECRET_FILE, AUTH_KEYS_FILE or AUTH_JWKS_URL")
	if !c.On() {
		return errors.Join(errs...)
	}
	add(c.HMACSecret != "" && c.HMACSecretFile != "", "AUTH_HMAC_SECRET and AUTH_HMAC_SECRET_FILE are both set: want one of them")
	if c.HMACSecret != "" {
		errs = append(errs, daemon.CheckSecret("AUTH_HMAC_SECRET", strings.TrimSpace(c.HMACSecret), minHMAC))
	}
	add(c.Issuer == "", "AUTH_ISSUER is required: the iss of tokens")
	add(c.Audience == "", "AUTH_AUDIENCE is required: the aud of tokens")
	errs = append(errs, daemon.CheckOneOf("AUTH_AT", c.AuthAt, AtConnect, AtJoin))
	if c.JWKSURL != "" {
		if err := checkURL(c.JWKSURL); err != nil {
			errs = append(errs, daemon.Invalid("AUTH_JWKS_URL", c.JWKSURL, "%v", err))
		}
	}
	if _, err := parsePatterns(c.OpenTopics); err != nil {
		errs = append(errs, daemon.Invalid("AUTH_TOPICS", c.OpenTopics, "%v", err))
	}
	errs = append(errs,
		daemon.CheckRange("AUTH_LEEWAY", c.Leeway, 0, 5*time.Minute),
		daemon.CheckRange("AUTH_MAX_TOKEN_LIFE", c.MaxTokenLife, time.Minute, 366*24*time.Hour),
		daemon.CheckRange("AUTH_TIMEOUT", c.AuthTimeout, time.Second, 5*time.Minute))
	return errors.Join(errs...)
}

// Reason is why a token is refused.
type Reason uint8

// The reasons there are.
const (
	Missing Reason = iota // there is no token
	Invalid               // not one of ours; the client does not learn more
	Expired               // was good until Error.At
	Revoked               // would be good, were it not revoked
	NumReasons
)

// String returns the reason in metrics.
func (r Reason) String() string {
	return [NumReasons]string{"missing", "invalid", "expired", "revoked"}[r]
}

// Error refuses a token. Its text is for the client: it tells apart only what a good signature has earned. What exactly
// is wrong is for the operator, in Detail.
type Error struct {
	Reason Reason
	At     time.Time // the token's exp; for Expired only
	Detail error     // may be nil; has nothing of the token in it
}

func (e *Error) Error() string {
	switch e.Reason {
	case Missing:
		return "token missing"
	case Expired:
		return "token expired at " + e.At.UTC().Format(time.RFC3339)
	case Revoked:
		return "token revoked"
	}
	return "token invalid"
}

// Identity is what a verified token says. It is immutable.
type Identity struct {
	User    string // sub; never empty
	TokenID string // jti; may be empty
	Issued  int64  // iat in Unix seconds, else nbf
	Ends    int64  // when it stops to count, in Unix seconds
	// Presence is the claim of that name, a JSON object, nil if there is none.
	Presence json.RawMessage

	grants []grant
}

// Right is what a token may allow on a topic. Rights are a set of bits.
type Right uint8

// The rights there are.
const (
	Join Right = 1 << iota
	Publish
)

// May returns the rights that the identity has on a topic.
func (id *Identity) May(topic string) Right {
	var all Right
	for i := range id.grants {
		if g := &id.grants[i]; all|g.rights != all && g.pattern.matches(topic) {
			all |= g.rights
		}
	}
	return all
}

// Expired reports whether the identity has stopped to count.
func (id *Identity) Expired(now time.Time) bool { return now.Unix() >= id.Ends }
