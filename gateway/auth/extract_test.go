package auth

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

func TestOfferToken(t *testing.T) {
	t.Parallel()
	encoded := base64.RawURLEncoding.EncodeToString([]byte("a.b.c"))
	for _, test := range []struct {
		name  string
		offer Offer
		want  string
	}{
		{"nothing", Offer{}, ""},
		{"header", Offer{Authorization: "Bearer a.b.c"}, "a.b.c"},
		{"header, other case", Offer{Authorization: "bearer  a.b.c "}, "a.b.c"},
		{"another scheme", Offer{Authorization: "Basic eDp5", Query: "q"}, "q"},
		{"header without a token", Offer{Authorization: "Bearer"}, ""},
		{"subprotocol", Offer{Protocols: "phoenix, base64url.bearer.phx." + encoded}, "a.b.c"},
		{"subprotocol, padded", Offer{Protocols: "base64url.bearer.phx." + encoded + "=="}, "a.b.c"},
		{"subprotocol that is not base64", Offer{Protocols: "phoenix,base64url.bearer.phx.!", Query: "q"}, "?"},
		{"subprotocols without a token", Offer{Protocols: "phoenix, other", Query: "q"}, "q"},
		{"query", Offer{Query: "a.b.c"}, "a.b.c"},
		{"subprotocol, as phoenix.js writes it", Offer{Protocols: "phoenix, base64url.bearer.phx.+/+/"}, "\xfb\xff\xbf"},
		{"subprotocol, in the alphabet of URLs", Offer{Protocols: "phoenix, base64url.bearer.phx.-_-_"}, "\xfb\xff\xbf"},
		{"header of long polls", Offer{Phoenix: "a.b.c", Protocols: "base64url.bearer.phx." + encoded, Query: "q"}, "a.b.c"},
		{"header before that of long polls", Offer{Authorization: "Bearer h", Phoenix: "p"}, "h"},
		{"header before subprotocol before query", Offer{Authorization: "Bearer h", Protocols: "base64url.bearer.phx." + encoded, Query: "q"}, "h"},
		{"subprotocol before query", Offer{Protocols: "base64url.bearer.phx." + encoded, Query: "q"}, "a.b.c"},
		{"endless subprotocols", Offer{Protocols: strings.Repeat("base64url.bearer.phx.YQ,", 10_000)}, ""},
	} {
		if got := test.offer.Token(); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

// Whatever a stranger sends is refused with one of the known texts, and grants nothing.
func FuzzToken(f *testing.F) {
	v := newTest(f, nil)
	genuine := hs(good())
	for _, seed := range []string{"", "a.b.c", genuine, genuine[:len(genuine)-1], unsigned(`{"alg":"none"}`, good()), strings.Repeat(".", 5000)} {
		f.Add("Bearer "+seed, "base64url.bearer.phx."+base64.RawURLEncoding.EncodeToString([]byte(seed)), seed)
	}
	f.Add("Bearer", ",,", "\x00")
	f.Fuzz(func(t *testing.T, header, protocols, query string) {
		for _, o := range []Offer{{header, "", protocols, query}, {"", header, protocols, query}, {"", "", protocols, query}, {"", "", "", query}} {
			token := o.Token()
			id, err := v.Verify(token)
			var e *Error
			switch {
			case err == nil && token != genuine:
				t.Fatalf("accepts %q as %+v", token, id)
			case err != nil && (!errors.As(err, &e) || id != nil || len(err.Error()) > 60):
				t.Fatalf("%q: %+v, %v", token, id, err)
			}
		}
	})
}
