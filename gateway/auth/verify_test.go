package auth

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Every algorithm, from every kind of file.
func TestVerifyAcceptsGoodTokens(t *testing.T) {
	t.Parallel()
	pems := putFile(t, "keys.pem", publicPEM(&rsaKey().PublicKey)+publicPEM(&ecKey().PublicKey)+publicPEM(edKey().Public()), 0o644)
	set := putFile(t, "jwks.json", jwks(rsaJWK("r", &rsaKey().PublicKey), ecJWK("e", &ecKey().PublicKey),
		edJWK("d", edKey().Public().(ed25519.PublicKey)), octJWK("h", testSecret)), 0o600)
	secret := putFile(t, "secret", testSecret+"\n", 0o600)
	for _, test := range []struct {
		name string
		file string
		kid  string
		alg  jwt.SigningMethod
		key  any
	}{
		{"HS256, a file's secret", secret, "", jwt.SigningMethodHS256, []byte(testSecret)},
		{"HS256, whatever the key id", secret, "any", jwt.SigningMethodHS256, []byte(testSecret)},
		{"RS256, PEM", pems, "", jwt.SigningMethodRS256, rsaKey()},
		{"ES256, PEM", pems, "x", jwt.SigningMethodES256, ecKey()},
		{"EdDSA, PEM", pems, "", jwt.SigningMethodEdDSA, edKey()},
		{"RS256, JWKS", set, "r", jwt.SigningMethodRS256, rsaKey()},
		{"ES256, JWKS", set, "e", jwt.SigningMethodES256, ecKey()},
		{"EdDSA, JWKS", set, "d", jwt.SigningMethodEdDSA, edKey()},
		{"HS256, JWKS", set, "h", jwt.SigningMethodHS256, []byte(testSecret)},
		{"the only key of its algorithm needs no id", set, "", jwt.SigningMethodRS256, rsaKey()},
	} {
		v := newTest(t, func(c *Config) {
			c.HMACSecret = ""
			if test.file == secret {
				c.HMACSecretFile = secret
			} else {
				c.KeysFile = test.file
			}
		})
		header := map[string]any{}
		if test.kid != "" {
			header["kid"] = test.kid
		}
		id, err := v.Verify(sign(test.alg, test.key, header, with("jti", "t1", "presence", map[string]any{"name": "Neo"})))
		if err != nil {
			t.Errorf("%s: %v (%v)", test.name, err, errors.Unwrap(err))
			continue
		}
		if id.User != "neo" || id.TokenID != "t1" || string(id.Presence) != `{"name":"Neo"}` || id.Ends != start.Add(time.Hour).Unix() ||
			id.Issued != start.Unix() || id.May("room:1") != Join|Publish || id.May("hall:1") != 0 {
			t.Errorf("%s: %+v", test.name, id)
		}
	}
}

func unsigned(header string, c jwt.MapClaims) string {
	parts := strings.Split(hs(c), ".")
	return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + parts[1] + "."
}

func TestVerifyRefusesBadTokens(t *testing.T) {
	t.Parallel()
	// Keys for every algorithm, so that each token could be meant for one of them.
	file := putFile(t, "keys.pem", publicPEM(&rsaKey().PublicKey)+publicPEM(&ecKey().PublicKey), 0o644)
	v := newTest(t, func(c *Config) { c.KeysFile = file })
	long := strings.Repeat("x", 256)
	header := func(k string, value any) map[string]any { return map[string]any{k: value} }
	for name, test := range map[string]struct{ token, want, detail string }{
		"none":        {"", "token missing", ""},
		"garbage":     {"garbage", "token invalid", "not three parts"},
		"three parts": {"a.b.c", "token invalid", "malformed"},
		"100k dots":   {strings.Repeat(".", 100_000), "token invalid", "100000 bytes, at most 4096 are allowed"},
		"4 dots":      {hs(good()) + "..", "token invalid", "not three parts"},
		"4097 bytes":  {hs(with("pad", strings.Repeat("x", 4000))), "token invalid", "at most 4096 are allowed"},
		"alg none":    {unsigned(`{"alg":"none"}`, good()), "token invalid", "wrong signature, or an algorithm that is not allowed"},
		"alg None":    {unsigned(`{"alg":"None"}`, good()), "token invalid", "unknown algorithm"},
		"no alg":      {unsigned(`{}`, good()), "token invalid", "unknown algorithm"},
		"alg number":  {unsigned(`{"alg":1}`, good()), "token invalid", "unknown algorithm"},
		"HS256 with the RSA public key, as PEM": {
			sign(jwt.SigningMethodHS256, []byte(publicPEM(&rsaKey().PublicKey)), nil, good()), "token invalid", "wrong signature",
		},
		"RS512":           {sign(jwt.SigningMethodRS512, rsaKey(), nil, good()), "token invalid", "not allowed"},
		"PS256":           {sign(jwt.SigningMethodPS256, rsaKey(), nil, good()), "token invalid", "not allowed"},
		"HS384":           {sign(jwt.SigningMethodHS384, []byte(testSecret), nil, good()), "token invalid", "not allowed"},
		"EdDSA, no key":   {sign(jwt.SigningMethodEdDSA, edKey(), nil, good()), "token invalid", "no key of that"},
		"other secret":    {sign(jwt.SigningMethodHS256, []byte(testSecret+"!"), nil, good()), "token invalid", "wrong signature"},
		"empty signature": {unsigned(`{"alg":"HS256"}`, good()), "token invalid", "wrong signature"},
		"crit":            {sign(jwt.SigningMethodHS256, []byte(testSecret), header("crit", []string{"exp"}), good()), "token invalid", "critical"},
		"kid number":      {sign(jwt.SigningMethodHS256, []byte(testSecret), header("kid", 7), good()), "token invalid", "no key of that"},
		"kid object":      {sign(jwt.SigningMethodHS256, []byte(testSecret), header("kid", good()), good()), "token invalid", "no key of that"},
		"kid of 256":      {sign(jwt.SigningMethodHS256, []byte(testSecret), header("kid", long), good()), "token invalid", "no key of that"},
		"no exp":          {hs(with("exp", nil)), "token invalid", "missing"},
		"exp text":        {hs(with("exp", "tomorrow")), "token invalid", "malformed"},
		"exp too far":     {hs(with("exp", start.Add(25*time.Hour).Unix())), "token invalid", "AUTH_MAX_TOKEN_LIFE"},
		"exp absurd":      {hs(with("exp", 1e300)), "token invalid", "outside the years"},
		"exp negative":    {hs(with("exp", -1e300)), "token invalid", "outside the years"},
		"nbf absurd":      {hs(with("nbf", 1e300)), "token invalid", "outside the years"},
		"nbf of 64 bits":  {hs(with("nbf", json.Number("9223372036854775807"))), "token invalid", "outside the years"},
		"iat absurd":      {hs(with("iat", 1e300)), "token invalid", "outside the years"},
		"iat negative":    {hs(with("iat", -1)), "token invalid", "outside the years"},
		"expired":         {hs(with("exp", start.Add(-2*time.Minute).Unix())), "token expired at 2026-05-01T11:58:00Z", ""},
		"expired and unsigned": {
			unsigned(`{"alg":"HS256"}`, with("exp", start.Add(-2*time.Minute).Unix())), "token invalid", "wrong signature",
		},
		"expired, wrong aud": {
			hs(with("exp", start.Add(-2*time.Minute).Unix(), "aud", "other")), "token invalid", "wrong aud",
		},
		"nbf in the future":   {hs(with("nbf", start.Add(2*time.Minute).Unix())), "token invalid", "nbf is in the future"},
		"iat in the future":   {hs(with("iat", start.Add(2*time.Minute).Unix())), "token invalid", "iat is in the future"},
		"neither nbf nor iat": {hs(with("nbf", nil, "iat", nil)), "token invalid", "neither nbf nor iat"},
		"wrong aud":           {hs(with("aud", "other")), "token invalid", "wrong aud"},
		"no aud":              {hs(with("aud", nil)), "token invalid", "missing"},
		"wrong iss":           {hs(with("iss", "https://evil.example")), "token invalid", "no key of that"},
		"no iss":              {hs(with("iss", nil)), "token invalid", "no key of that"},
		"no sub":              {hs(with("sub", nil)), "token invalid", "sub has 0 bytes"},
		"sub of 256":          {hs(with("sub", long)), "token invalid", "sub has 256 bytes"},
		"jti of 256":          {hs(with("jti", long)), "token invalid", "jti has 256 bytes"},
		"topics no array":     {hs(with("topics", "room:*")), "token invalid", "malformed"},
		"unknown right":       {hs(with("topics", []any{map[string]any{"topic": "a:b", "allow": []string{"admin"}}})), "token invalid", "malformed"},
		"bad pattern":         {hs(with("topics", []any{"room:*:x"})), "token invalid", "malformed"},
		"presence text":       {hs(with("presence", "neo")), "token invalid", "presence is no object"},
		"presence too big":    {hs(with("presence", map[string]any{"x": strings.Repeat("y", 1024)})), "token invalid", "presence has"},
	} {
		id, err := v.Verify(test.token)
		var e *Error
		if !errors.As(err, &e) || id != nil {
			t.Errorf("%s: %+v, %v: want an *Error", name, id, err)
			continue
		}
		if test.want != "" && err.Error() != test.want {
			t.Errorf("%s: %q, want %q", name, err, test.want)
		}
		if test.detail != "" && !strings.Contains(fmt.Sprint(e.Detail), test.detail) {
			t.Errorf("%s: detail %q, want %q", name, e.Detail, test.detail)
		}
	}
}

func TestVerifyWithinTheLeeway(t *testing.T) {
	t.Parallel()
	v := newTest(t, nil)
	for name, test := range map[string]struct {
		claims jwt.MapClaims
		ends   time.Time
	}{
		"expired just now": {with("exp", start.Add(-time.Second).Unix()), start.Add(59 * time.Second)},
		"not yet":          {with("nbf", start.Add(59*time.Second).Unix(), "iat", start.Add(59*time.Second).Unix()), start.Add(time.Hour)},
		"no nbf":           {with("nbf", nil), start.Add(time.Hour)},
	} {
		if id, err := v.Verify(hs(test.claims)); err != nil || id.Ends != test.ends.Unix() {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
}

func TestLimitsOfAToken(t *testing.T) {
	t.Parallel()
	v := newTest(t, nil)
	of := func(n int) string { return strings.Repeat("x", n) }
	claims := map[string]any{"x": ""}
	for what, tt := range map[string]struct {
		most  int
		token func(n int) string
	}{
		"sub":      {255, func(n int) string { return hs(with("sub", of(n))) }},
		"jti":      {255, func(n int) string { return hs(with("jti", of(n))) }},
		"presence": {1024, func(n int) string { claims["x"] = of(n - len(`{"x":""}`)); return hs(with("presence", claims)) }},
		"token": {4096, func(n int) string { // three bytes of claims are four of the token
			token := hs(with("pad", ""))
			for pad := 0; len(token) < n; pad++ {
				token = hs(with("pad", of(pad)))
			}
			return token
		}},
	} {
		for _, n := range []int{tt.most, tt.most + 1} {
			token := tt.token(n)
			if _, err := v.Verify(token); (err != nil) != (n > tt.most) {
				t.Errorf("%s of %d bytes, a token of %d: %v", what, n, len(token), err)
			}
		}
	}
}

func TestGrants(t *testing.T) {
	t.Parallel()
	v := newTest(t, func(c *Config) { c.OpenTopics = "lobby:*, news" })
	id, err := v.Verify(hs(with("topics", []any{
		"room:1",
		map[string]any{"topic": "room:*", "allow": []string{"join"}},
		map[string]any{"topic": []string{"log:a", "log:b"}, "allow": []string{"publish"}},
		map[string]any{"topic": "shut:*", "allow": []string{}},
	})))
	if err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string]Right{
		"room:1": Join | Publish, "room:2": Join, "room:": 0, "room": 0, "xroom:1": 0, "log:a": Publish, "log:b": Publish, "log:c": 0,
		"shut:1": 0, "lobby:x": Join | Publish, "news": Join | Publish, "news:1": 0, "": 0,
	} {
		if got := id.May(topic); got != want {
			t.Errorf("May(%q) = %b, want %b", topic, got, want)
		}
	}
	for pattern, topics := range map[string]map[string]bool{
		"*":   {"a": true, "a:b": true},
		"*:*": {"a": false, "a:b": true, ":b": false, "a:": false, "a:b:c": true},
	} {
		id, err := v.Verify(hs(with("topics", []any{pattern})))
		if err != nil {
			t.Fatal(err)
		}
		for topic, want := range topics {
			if got := id.May(topic) != 0; got != want {
				t.Errorf("%s allows %q: %v, want %v", pattern, topic, got, want)
			}
		}
	}
	if id, err := v.Verify(hs(with("topics", nil))); err != nil || id.May("room:1") != 0 {
		t.Errorf("a token without topics: %v, %v", id, err)
	}
	if _, err := v.Verify(hs(with("topics", strings.Split(strings.Repeat("a:b,", 65), ",")))); err == nil {
		t.Error("65 patterns are accepted")
	}
}

// One issuer must not be able to sign for another, whatever ids its keys have.
func TestKeysAreFoundByIssuerAndID(t *testing.T) {
	t.Parallel()
	mine, other := []byte(strings.Repeat("m", 32)), []byte(strings.Repeat("o", 32))
	ring := newKeyring(
		[]*key{{issuer: "mine", id: "1", alg: "HS256", material: mine}},
		[]*key{{issuer: "other", id: "1", alg: "HS256", material: other}, {issuer: "other", id: "2", alg: "HS256", material: other}},
	)
	for _, test := range []struct {
		issuer, id, alg string
		want            string
	}{
		{"mine", "1", "HS256", "m"}, {"other", "1", "HS256", "o"}, {"mine", "", "HS256", "m"},
		{"mine", "2", "HS256", ""}, {"other", "", "HS256", ""}, {"", "1", "HS256", ""}, {"mine", "1", "RS256", ""},
		{"mine", "../../dev/null", "HS256", ""}, {"mine", "1' OR '1'='1", "HS256", ""},
	} {
		got := ""
		if k := ring.find(test.issuer, test.id, test.alg); k != nil {
			got = string(k.material.([]byte)[:1])
		}
		if got != test.want {
			t.Errorf("%+v: key %q", test, got)
		}
	}
}

// What a client reads, and what the log says, has nothing of the token.
func TestErrorsDoNotQuoteTheToken(t *testing.T) {
	t.Parallel()
	v := newTest(t, nil)
	for _, token := range []string{"s3cr3t", "s3cr3t.s3cr3t.s3cr3t", hs(with("sub", nil, "aud", "s3cr3t")), hs(with("topics", "s3cr3t"))} {
		_, err := v.Verify(token)
		var e *Error
		if !errors.As(err, &e) {
			t.Fatalf("%v", err)
		}
		for _, text := range []string{err.Error(), fmt.Sprint(e.Detail), fmt.Sprintf("%+v", e)} {
			if strings.Contains(text, "s3cr3t") || strings.Contains(text, token) {
				t.Errorf("error quotes the token: %s", text)
			}
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	file := putFile(b, "keys.pem", publicPEM(&rsaKey().PublicKey)+publicPEM(&ecKey().PublicKey)+publicPEM(edKey().Public()), 0o644)
	v := newTest(b, func(c *Config) { c.KeysFile = file })
	for name, token := range map[string]string{
		"HS256": hs(good()), "RS256": sign(jwt.SigningMethodRS256, rsaKey(), nil, good()),
		"ES256": sign(jwt.SigningMethodES256, ecKey(), nil, good()), "EdDSA": sign(jwt.SigningMethodEdDSA, edKey(), nil, good()),
		"no key": sign(jwt.SigningMethodHS256, []byte(testSecret), nil, with("iss", "x")),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_, _ = v.Verify(token)
			}
		})
	}
}

func BenchmarkMay(b *testing.B) {
	id, err := newTest(b, nil).Verify(hs(with("topics", []any{"a:*", "b:*", "c:*", "room:*"})))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if id.May("room:1") == 0 {
			b.Fatal("no right")
		}
	}
}
