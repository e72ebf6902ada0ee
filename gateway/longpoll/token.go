package longpoll

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strings"
	"time"
)

const (
	tokenLife     = 14 * 24 * time.Hour
	maxTokenBytes = 512 // as text

	claimBytes = 1 + 8 + 8 + 8 // version, expiry, process, id; the home's address follows
	tokenV1    = 1
)

// claim is what a token says: which session of which process, and where that is.
type claim struct {
	process uint64 // drawn at random by each process: ids begin anew in the next one
	id      uint64 // of the session's connection
	home    string // host:port where other gateways reach the process
	expires time.Time
}

var (
	errForeign = errors.New("no token of a long poll session")
	errToken   = errors.New("token invalid")
	errExpired = errors.New("token expired")
)

// tokens signs claims and verifies them. Gateways with the same key verify each other's.
type tokens struct {
	key []byte
}

// newTokens returns tokens with the key, or with one of its own if key is empty.
func newTokens(key []byte) *tokens {
	if len(key) == 0 {
		key = make([]byte, 32)
		_, _ = rand.Read(key) // never fails
	}
	return &tokens{key: key}
}

// mac is over a text before the claim too, so that the key can serve other purposes.
func (t *tokens) mac(claim []byte) []byte {
	h := hmac.New(sha256.New, t.key)
	h.Write([]byte("ringcast longpoll\x00"))
	h.Write(claim)
	return h.Sum(nil)
}

// sign returns the token of a claim, in the alphabet of URLs.
func (t *tokens) sign(c claim) string {
	b := make([]byte, 0, claimBytes+len(c.home)+sha256.Size)
	b = append(b, tokenV1)
	b = binary.BigEndian.AppendUint64(b, uint64(c.expires.Unix()))
	b = binary.BigEndian.AppendUint64(b, c.process)
	b = binary.BigEndian.AppendUint64(b, c.id)
	b = append(b, c.home...)
	return base64.RawURLEncoding.EncodeToString(append(b, t.mac(b)...))
}

// verify returns the claim of a token that a holder of the key has signed and that has not expired. The error is
// errForeign for what has not even the form of a token.
func (t *tokens) verify(text string, now time.Time) (claim, error) {
	if len(text) > maxTokenBytes {
		return claim{}, errForeign
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") || len(b) < claimBytes+sha256.Size || b[0] != tokenV1 {
		return claim{}, errForeign
	}
	signed, mac := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if !hmac.Equal(mac, t.mac(signed)) {
		return claim{}, errToken
	}
	c := claim{
		expires: time.Unix(int64(binary.BigEndian.Uint64(signed[1:])), 0),
		process: binary.BigEndian.Uint64(signed[9:]),
		id:      binary.BigEndian.Uint64(signed[17:]),
		home:    string(signed[claimBytes:]),
	}
	if !now.Before(c.expires) {
		return claim{}, errExpired
	}
	return c, nil
}
