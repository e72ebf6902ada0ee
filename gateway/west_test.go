package gateway

import (
	"strings"
	"testing"
)

func TestWestHandshake(t *testing.T) {
	s := serve(t)
	for _, tt := range []struct {
		name, target string
		status       int
		first, body  string // of what comes behind the answer
	}{
		{"JSON", "/websocket/json/u1", 101, `{"event":"connection_established","from":"west"}`, ""},
		{"text", "/websocket/text/u1", 101, "Welcome !", ""},
		{"Protobuf", "/websocket/pb/u1", 101, "\n\x16connection_established\x1a\x04west", ""},
		{"all that the page asks for", "/websocket/text/u1?keepalive=true&timeout=1000&drop=true&close_unmasked=true&protocol=json", 101, "Welcome !", ""},
		{"no timeout", "/websocket/text/u1?timeout=infinity&keepalive=&drop=false", 101, "Welcome !", ""},
		{"a name with escapes", "/websocket/text/J%C3%BCrgen%20M", 101, "Welcome !", ""},
		{"no name", "/websocket/text", 101, "bad_request", ""},
		{"no name behind the slash", "/websocket/json/", 101, "bad_request", ""},
		{"no name, Protobuf", "/websocket/pb/", 101, "\n\vbad_request\x1a\x04west", ""},
		{"another format", "/websocket/xml/u1", 404, "", "want /websocket/json/NAME, /websocket/text/NAME or /websocket/pb/NAME\n"},
		{"no format", "/websocket", 404, "", "Cannot GET /websocket\n"},
		{"a longer path", "/websocket/json/u1/more", 404, "", ""},
		{"a long name", "/websocket/json/" + strings.Repeat("x", 256), 400, "", "invalid user name: want 1 to 255 bytes of UTF-8 without control characters\n"},
		{"a name that is not UTF-8", "/websocket/json/%ff", 400, "", ""},
		{"a name with a control character", "/websocket/json/a%0ab", 400, "", ""},
		{"timeout 0", "/websocket/json/u1?timeout=0", 400, "", "invalid timeout: want 100 to 86400000 milliseconds, or infinity\n"},
		{"timeout -1", "/websocket/json/u1?timeout=-1", 400, "", ""},
		{"timeout of 50 days", "/websocket/json/u1?timeout=4294967295", 400, "", ""},
		{"keepalive maybe", "/websocket/json/u1?keepalive=maybe", 400, "", "invalid keepalive: want true or false\n"},
		{"slow latest", "/websocket/text/u1?slow=latest", 400, "", "invalid slow: a client of this protocol cannot be told what was skipped: want close\n"},
		{"slow close", "/websocket/text/u1?slow=close", 101, "Welcome !", ""},
		{"drop 1", "/websocket/json/u1?drop=1", 400, "", "invalid drop: want true or false\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := s.dial()
			w.t = t
			w.write(handshake(tt.target))
			resp, body := w.answer()
			if resp.StatusCode != tt.status || tt.body != "" && body != tt.body {
				t.Fatalf("got %d %q, want %d %q", resp.StatusCode, body, tt.status, tt.body)
			}
			if tt.first == "" {
				return
			}
			if _, got := w.frame(); got != tt.first {
				t.Errorf("first frame %q, want %q", got, tt.first)
			}
			if strings.Contains(tt.first, "bad_request") {
				w.wantClose(4400, "no user name: want /websocket/FORMAT/NAME")
			}
		})
	}
	w := s.dial()
	w.write("GET /websocket/json/u1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if resp, _ := w.answer(); resp.StatusCode != 426 {
		t.Errorf("without an upgrade: %d", resp.StatusCode)
	}
}

func TestWestSwitchedOff(t *testing.T) {
	s := serve(t, func(c *Config) { c.West = false })
	w := s.dial()
	w.write(handshake("/websocket/json/u1"))
	if resp, _ := w.answer(); resp.StatusCode != 404 {
		t.Errorf("got %d, want 404", resp.StatusCode)
	}
}

func TestWestOrigin(t *testing.T) {
	s := serve(t, func(c *Config) { c.AllowedOrigins = []string{"https://app.example"} })
	w := s.dial()
	w.write(handshake("/websocket/json/u1", "Origin: https://evil.example"))
	if resp, _ := w.answer(); resp.StatusCode != 403 {
		t.Errorf("got %d, want 403", resp.StatusCode)
	}
}
