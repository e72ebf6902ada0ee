package gateway

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// surfaces are the routes on which sockets come in, each with a target that it serves.
var surfaces = map[string][]string{
	"/socket/websocket":         {"/socket/websocket?vsn=2.0.0", "/socket/websocket?vsn=1.0.0"},
	"/realtime/v1/websocket":    {"/realtime/v1/websocket?vsn=2.0.0"},
	"/ws":                       {"/ws?channel=news&publish=1"},
	"/websocket/:format/:name?": {"/websocket/json/u1?drop=false", "/websocket/text/u1?drop=false", "/websocket/pb/u1?drop=false"},
}

const surfaceSecret = "0123456789abcdef0123456789abcdef"

// surfaceToken is a user's token for room:1.
func surfaceToken(t *testing.T, user string) string {
	t.Helper()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"iss": "tests", "aud": "ringcast", "sub": user, "iat": time.Now().Unix() - 1, "exp": time.Now().Add(time.Hour).Unix(), "topics": []string{"room:1"},
	}).SignedString([]byte(surfaceSecret))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func guarded(c *Config) {
	c.AllowedOrigins = []string{"https://app.example"}
	c.Auth.HMACSecret, c.Auth.Issuer, c.Auth.Audience = surfaceSecret, "tests", "ringcast"
}

// Whatever a client speaks, it is let in only from an allowed origin, with a good token, and when there is room.
func TestEverySurfaceIsGuarded(t *testing.T) {
	s := serve(t, guarded)
	for _, r := range s.app.GetRoutes(true) {
		if (strings.Contains(r.Path, "websocket") || r.Path == "/ws") && surfaces[r.Path] == nil {
			t.Errorf("%s is guarded by no test", r.Path)
		}
	}
	token := surfaceToken(t, "neo")
	const home, evil = "Origin: https://app.example", "Origin: https://evil.example"
	refuses := func(t *testing.T, name, target string, status int, want string, lines ...string) {
		t.Helper()
		w := s.dial()
		w.t = t
		w.write(handshake(target, lines...))
		if resp, body := w.answer(); resp.StatusCode != status || masked(body) != want {
			t.Errorf("%s: %d %q, want %d %q", name, resp.StatusCode, body, status, want)
		}
	}
	each := func(f func(t *testing.T, target string)) {
		for _, targets := range surfaces {
			for _, target := range targets {
				t.Run(target, func(t *testing.T) { f(t, target) })
			}
		}
	}
	each(func(t *testing.T, target string) {
		good := target + "&token=" + token
		for name, lines := range map[string][]string{"another origin": {evil}, "no origin": {"Origin: null"}, "two origins": {home, home}} {
			refuses(t, name, good, http.StatusForbidden, "origin not allowed\n", lines...)
		}
		refuses(t, "no token", target, http.StatusUnauthorized, "token missing\n")
		refuses(t, "a bad token", good+"x", http.StatusUnauthorized, "token invalid\n")
		browser := s.dial()
		browser.t = t
		browser.write(handshake(good+"x", home))
		if resp, body := browser.answer(); resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("a browser with a bad token: %d %q", resp.StatusCode, body)
		}
		browser.wantClose(4401, "token invalid")
		for _, lines := range [][]string{nil, {home}} {
			w := s.dial()
			w.t = t
			w.write(handshake(good, lines...))
			if resp, body := w.answer(); resp.StatusCode != http.StatusSwitchingProtocols {
				t.Errorf("good, %v: %d %q", lines, resp.StatusCode, body)
			}
			w.nc.Close()
		}
	})
	s.stopping.Store(true)
	each(func(t *testing.T, target string) {
		refuses(t, "a gateway that stops", target+"&token="+token, http.StatusServiceUnavailable, "stopping retry_after_ms=N\n")
	})
	s.stopping.Store(false)
}

// What is in topics is for those who may join them, and the view of the cluster for those who have a token.
func TestEveryPageIsGuarded(t *testing.T) {
	s := serve(t, guarded, func(c *Config) { c.JoinTimeout, c.APIOpen = 10*time.Millisecond, false })
	token := surfaceToken(t, "neo")
	for _, tt := range []struct {
		path string
		mine int // with a token for room:1
	}{
		{"/api/cluster", 200},
		{"/api/topics/room:1/messages", 503}, {"/api/topics/room:1/subscribers", 503}, {"/api/topics/room:1/count", 503},
		{"/api/topics/room:2/messages", 403}, {"/api/topics/room:2/subscribers", 403}, {"/api/topics/room:2/count", 403},
		{"/api/topics/room%3A2/messages", 403},
	} {
		for bearer, want := range map[string]int{"": 401, token + "x": 401, token: tt.mine} {
			resp, body := s.asked(t, "GET "+tt.path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer "+bearer+"\r\n\r\n")
			if resp.StatusCode != want || want == 401 && resp.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s with %.10q: %d %s, want %d", tt.path, bearer, resp.StatusCode, body, want)
			}
		}
	}
	for _, tt := range []struct{ query, reason string }{{"?vsn=2.0.0", "token missing"}, {"?vsn=2.0.0&token=" + token + "x", "token invalid"}} {
		if _, got := s.ask("GET", tt.query, ""); got.Status != 403 || got.Reason != tt.reason {
			t.Errorf("a long poll: %+v, want %s", got, tt.reason)
		}
	}
}
