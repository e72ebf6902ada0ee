package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testSecret   = "a test secret of more than 32 bytes, for HS256"
	testIssuer   = "https://issuer.example"
	testAudience = "ringcast"
)

// start is when the tests' tokens are made.
var start = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })

var ecKey = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })

var edKey = sync.OnceValue(func() ed25519.PrivateKey {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	return must(private, err)
})

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func goodConfig() Config {
	return Config{
		AuthAt: AtConnect, HMACSecret: testSecret, Issuer: testIssuer, Audience: testAudience,
		Leeway: time.Minute, MaxTokenLife: 24 * time.Hour, AuthTimeout: 10 * time.Second,
	}
}

// newTest returns a verifier whose clock stands at start.
func newTest(t testing.TB, edit func(*Config)) *Verifier {
	t.Helper()
	cfg := goodConfig()
	if edit != nil {
		edit(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	v, err := newVerifier(cfg, zap.NewNop(), func() time.Time { return start })
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// good are the claims of a good token.
func good() jwt.MapClaims {
	return jwt.MapClaims{
		"sub": "neo", "iss": testIssuer, "aud": testAudience, "iat": start.Unix(), "nbf": start.Unix(), "exp": start.Add(time.Hour).Unix(),
		"topics": []any{"room:*"},
	}
}

// with returns good claims with changes; nil removes one.
func with(changes ...any) jwt.MapClaims {
	c := good()
	for i := 0; i < len(changes); i += 2 {
		if c[changes[i].(string)] = changes[i+1]; changes[i+1] == nil {
			delete(c, changes[i].(string))
		}
	}
	return c
}

// sign makes a token; header may be nil.
func sign(method jwt.SigningMethod, key any, header map[string]any, c jwt.MapClaims) string {
	t := jwt.NewWithClaims(method, c)
	for k, v := range header {
		t.Header[k] = v
	}
	return must(t.SignedString(key))
}

func hs(c jwt.MapClaims) string { return sign(jwt.SigningMethodHS256, []byte(testSecret), nil, c) }

func publicPEM(public any) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(public))}))
}

func putFile(t testing.TB, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func rsaJWK(id string, k *rsa.PublicKey) map[string]any {
	return map[string]any{"kty": "RSA", "kid": id, "alg": "RS256", "use": "sig", "n": b64(k.N.Bytes()), "e": b64(big.NewInt(int64(k.E)).Bytes())}
}

func ecJWK(id string, k *ecdsa.PublicKey) map[string]any {
	point := must(k.Bytes())
	return map[string]any{"kty": "EC", "kid": id, "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])}
}

func edJWK(id string, k ed25519.PublicKey) map[string]any {
	return map[string]any{"kty": "OKP", "kid": id, "crv": "Ed25519", "x": b64(k)}
}

func octJWK(id, secret string) map[string]any {
	return map[string]any{"kty": "oct", "kid": id, "alg": "HS256", "k": b64([]byte(secret))}
}

func jwks(keys ...map[string]any) string {
	return string(must(json.Marshal(map[string]any{"keys": keys})))
}
