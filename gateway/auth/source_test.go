package auth

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const patience = time.Minute

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// run runs the verifier until the test ends.
func run(t *testing.T, v *Verifier) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { v.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// issuer is a server of a JWKS.
type issuer struct {
	*httptest.Server
	body    atomic.Value // string
	status  atomic.Int64
	fetches atomic.Int64
}

func newIssuer(t *testing.T, body string) *issuer {
	i := new(issuer)
	i.body.Store(body)
	i.status.Store(http.StatusOK)
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.fetches.Add(1)
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "/jwks", http.StatusFound)
			return
		}
		w.WriteHeader(int(i.status.Load()))
		fmt.Fprint(w, i.body.Load())
	}))
	t.Cleanup(i.Close)
	return i
}

func newURLTest(t *testing.T, address string, p pace) *Verifier {
	v := newTest(t, func(c *Config) { c.HMACSecret, c.JWKSURL = "", address })
	v.sources[0].pace = p
	return v
}

func TestJWKSRotation(t *testing.T) {
	t.Parallel()
	second := must(rsa.GenerateKey(rand.Reader, 2048))
	i := newIssuer(t, jwks(rsaJWK("1", &rsaKey().PublicKey)))
	v := newURLTest(t, i.URL+"/jwks", pace{every: time.Hour, retry: time.Millisecond, again: 20 * time.Millisecond})
	if v.Ready() == nil {
		t.Error("ready before the keys are there")
	}
	run(t, v)
	token := func(kid string, k *rsa.PrivateKey) string {
		return sign(jwt.SigningMethodRS256, k, map[string]any{"kid": kid}, good())
	}
	accepts := func(token string) func() bool {
		return func() bool { _, err := v.Verify(token); return err == nil }
	}
	eventually(t, "the first key is there", accepts(token("1", rsaKey())))

	// A new key is fetched when a token is signed with it.
	i.body.Store(jwks(rsaJWK("1", &rsaKey().PublicKey), rsaJWK("2", &second.PublicKey)))
	eventually(t, "the second key is there", accepts(token("2", second)))
	if !accepts(token("1", rsaKey()))() {
		t.Error("the first key does not count any more")
	}

	// An answer that is of no use changes nothing.
	for _, bad := range []string{"", "<html>", "{", `{"keys":[]}`, jwks(map[string]any{"kty": "RSA"}), strings.Repeat(" ", maxSource+1), jwks(octJWK("h", testSecret))} {
		i.body.Store(bad)
		eventually(t, "the bad answer is noticed", func() bool { _, _ = v.Verify(token("3", second)); return v.Stats().Failed })
		if !accepts(token("2", second))() {
			t.Errorf("answer %.20q: the key in use is gone", bad)
		}
		i.body.Store(jwks(rsaJWK("1", &rsaKey().PublicKey), rsaJWK("2", &second.PublicKey)))
		eventually(t, "it has recovered", func() bool { return !v.Stats().Failed })
	}

	// A key that is gone does not count any more.
	i.body.Store(jwks(rsaJWK("2", &second.PublicKey)))
	eventually(t, "the first key is gone", func() bool {
		_, _ = v.Verify(token("3", second))
		return !accepts(token("1", rsaKey()))()
	})
}

// An issuer that is away for very long is asked on and on: the time between two attempts doubles only so often.
func TestAnIssuerThatIsAwayForLong(t *testing.T) {
	t.Parallel()
	const doublings = 64 // of a nanosecond: more than fit into a Duration
	i := newIssuer(t, jwks(rsaJWK("1", &rsaKey().PublicKey)))
	i.status.Store(http.StatusServiceUnavailable)
	v := newURLTest(t, i.URL, pace{every: time.Millisecond, retry: 1, again: time.Hour})
	run(t, v)
	eventually(t, "it is asked more than that", func() bool { return i.fetches.Load() > doublings+2 })
	i.status.Store(http.StatusOK)
	eventually(t, "the key is there", func() bool { return v.Ready() == nil })
}

// A gateway without a key refuses everybody, and so does not sleep for long over an issuer that was away for long.
func TestTheFirstKeyIsNotWaitedForLong(t *testing.T) {
	t.Parallel()
	i := newIssuer(t, "")
	v := newURLTest(t, i.URL, pace{every: time.Hour, retry: time.Hour, again: time.Millisecond})
	run(t, v)
	eventually(t, "it is asked more than once", func() bool { return i.fetches.Load() > 2 })
	i.body.Store(jwks(rsaJWK("1", &rsaKey().PublicKey)))
	eventually(t, "the key is there", func() bool { return v.Ready() == nil })
}

// An issuer that never ends its answer costs no memory.
func TestAnEndlessJWKS(t *testing.T) {
	t.Parallel()
	sent := make(chan int, 1)
	endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n, spaces := 0, []byte(strings.Repeat(" ", 64<<10))
		for {
			k, err := w.Write(spaces)
			if n += k; err != nil {
				select {
				case sent <- n:
				default:
				}
				return
			}
		}
	}))
	t.Cleanup(endless.Close)
	v := newURLTest(t, endless.URL, pace{every: time.Hour, retry: time.Hour, again: time.Hour})
	run(t, v)
	eventually(t, "it is given up", func() bool { return v.Stats().Failed })
	if n := <-sent; n > 32<<20 { // what is read, and what the system holds on its way
		t.Errorf("%d bytes were sent", n)
	}
}

// Tokens with unknown keys do not make the gateway a hammer for its issuer.
func TestUnknownKeysDoNotFloodTheIssuer(t *testing.T) {
	t.Parallel()
	i := newIssuer(t, jwks(rsaJWK("1", &rsaKey().PublicKey)))
	v := newURLTest(t, i.URL, pace{every: time.Hour, retry: time.Hour, again: time.Hour})
	run(t, v)
	eventually(t, "the key is there", func() bool { return v.Ready() == nil })
	for n := range 1000 {
		_, _ = v.Verify(sign(jwt.SigningMethodHS256, []byte(testSecret), map[string]any{"kid": fmt.Sprint(n)}, good()))
	}
	if n := i.fetches.Load(); n != 1 {
		t.Errorf("%d fetches for 1000 tokens, want the first one alone", n)
	}
}

// No claim and no header of a token is a place where a key is fetched from; and the issuer's server cannot send the
// gateway elsewhere.
func TestTokensNameNoPlaces(t *testing.T) {
	t.Parallel()
	evil := newIssuer(t, jwks(rsaJWK("1", &rsaKey().PublicKey)))
	i := newIssuer(t, jwks(ecJWK("1", &ecKey().PublicKey)))
	v := newURLTest(t, i.URL, pace{every: time.Hour, retry: time.Millisecond, again: time.Millisecond})
	run(t, v)
	eventually(t, "the key is there", func() bool { return v.Ready() == nil })
	for _, header := range []map[string]any{
		{"jku": evil.URL, "kid": "1"}, {"x5u": evil.URL, "kid": "1"}, {"kid": evil.URL + "/jwks"}, {"jwk": rsaJWK("1", &rsaKey().PublicKey)},
	} {
		for _, iss := range []string{testIssuer, evil.URL} {
			if _, err := v.Verify(sign(jwt.SigningMethodRS256, rsaKey(), header, with("iss", iss))); err == nil {
				t.Errorf("a token with the header %v is accepted", header)
			}
		}
	}
	before := i.fetches.Load()
	_, _ = v.Verify(sign(jwt.SigningMethodRS256, rsaKey(), nil, good()))
	eventually(t, "another fetch", func() bool { return i.fetches.Load() > before })
	if n := evil.fetches.Load(); n != 0 {
		t.Errorf("%d fetches from where a token says", n)
	}

	moved := newURLTest(t, i.URL+"/moved", pace{every: time.Hour, retry: time.Hour, again: time.Hour})
	run(t, moved)
	eventually(t, "the redirect is refused", func() bool { return moved.Stats().Failed })
	if moved.Ready() == nil {
		t.Error("a redirect was followed")
	}
}

func TestKeyFilesAreReloaded(t *testing.T) {
	t.Parallel()
	path := putFile(t, "jwks.json", jwks(octJWK("1", testSecret)), 0o600)
	v := newTest(t, func(c *Config) { c.HMACSecret, c.KeysFile = "", path })
	run(t, v)
	next := strings.Repeat("n", 40)
	token := sign(jwt.SigningMethodHS256, []byte(next), map[string]any{"kid": "2"}, good())
	if _, err := v.Verify(token); err == nil {
		t.Fatal("the next key counts already")
	}
	if err := os.WriteFile(path, []byte(jwks(octJWK("2", next))), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the next key counts", func() bool { _, err := v.Verify(token); return err == nil })
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the bad file is noticed", func() bool { return v.Stats().Failed })
	if _, err := v.Verify(token); err != nil {
		t.Errorf("the keys in use are gone: %v", err)
	}
}

func TestKeyFilesOfNoUse(t *testing.T) {
	t.Parallel()
	small := must(rsa.GenerateKey(rand.Reader, 1024)) //nolint:gosec // too small is the point
	for name, test := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"empty":              {"", 0o600, "has no key for RS256, ES256, EdDSA or HS256"},
		"no PEM":             {"keys", 0o600, "has no key for RS256, ES256, EdDSA or HS256"},
		"small RSA":          {publicPEM(&small.PublicKey), 0o600, "RSA key of 1024 bits: want 2048 to 8192"},
		"private PEM":        {"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 0o600, "only public keys belong here"},
		"private JWK":        {jwks(map[string]any{"kty": "EC", "d": "x"}), 0o600, "has a private key"},
		"two RSA":            {publicPEM(&rsaKey().PublicKey) + publicPEM(&rsaKey().PublicKey), 0o600, "has two keys for RS256"},
		"two of one id":      {jwks(octJWK("a", testSecret), octJWK("a", testSecret)), 0o600, `has two keys for HS256 with the id "a"`},
		"101 keys":           {jwks(make([]map[string]any, 101)...), 0o600, "has 101 keys, at most 100 are allowed"},
		"short secret":       {jwks(octJWK("a", "short")), 0o600, "has no key"},
		"secrets for others": {jwks(octJWK("a", testSecret)), 0o644, "mode 0644 lets others read it"},
		"off the curve":      {jwks(map[string]any{"kty": "EC", "crv": "P-256", "x": b64(make([]byte, 32)), "y": b64(make([]byte, 32))}), 0o600, "has no key"},
	} {
		cfg := goodConfig()
		cfg.HMACSecret, cfg.KeysFile = "", putFile(t, "keys", test.text, test.mode)
		if _, err := New(cfg, nil); err == nil || !strings.Contains(err.Error(), "AUTH_KEYS_FILE=") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		edit func(*Config)
		want []string
	}{
		"good":            {func(*Config) {}, nil},
		"off":             {func(c *Config) { *c = Config{} }, nil},
		"required and no": {func(c *Config) { *c = Config{AuthRequired: true} }, []string{"AUTH_REQUIRED=true: no key is configured"}},
		"two secrets":     {func(c *Config) { c.HMACSecretFile = "x" }, []string{"AUTH_HMAC_SECRET and AUTH_HMAC_SECRET_FILE are both set"}},
		"short":           {func(c *Config) { c.HMACSecret = "hunter2hunter2" }, []string{"AUTH_HMAC_SECRET: want a secret of at least 32 bytes"}},
		"all at once": {
			func(c *Config) {
				c.Issuer, c.Audience, c.AuthAt, c.Leeway, c.OpenTopics = "", "", "never", time.Hour, "*x"
			},
			[]string{"AUTH_ISSUER is required", "AUTH_AUDIENCE is required", `AUTH_AT="never"`, "AUTH_LEEWAY", `AUTH_TOPICS="*x"`},
		},
		"http":     {func(c *Config) { c.JWKSURL = "http://issuer.example/jwks" }, []string{`AUTH_JWKS_URL="http://issuer.example/jwks": want https`}},
		"password": {func(c *Config) { c.JWKSURL = "https://u:p@issuer.example/" }, []string{"want a URL without a password"}},
		"loopback": {func(c *Config) { c.JWKSURL = "http://127.0.0.1:1/" }, nil},
	} {
		cfg := goodConfig()
		test.edit(&cfg)
		err := cfg.Validate()
		if (err == nil) != (test.want == nil) {
			t.Errorf("%s: %v", name, err)
		}
		for _, want := range test.want {
			if err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the secret is shown: %v", name, err)
		}
	}
}
