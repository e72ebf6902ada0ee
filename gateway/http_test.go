package gateway

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/ringcast/ringcast/gateway/socket"
)

// handshakes are requests and what they are answered: a status, a header "Name: value", a body; empty ones do not matter.
type handshakes []struct {
	name, request string
	status        int
	header, body  string
}

// check sends each, and sees that another client's socket is none the worse for it.
func (tests handshakes) check(t *testing.T) {
	t.Helper()
	s := serve(t)
	witness := s.dial()
	witness.write(handshake(target))
	witness.answer()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := s.dial()
			w.t, witness.t = t, t
			before := s.failed(tt.status)
			w.write(tt.request)
			resp, body := w.answer()
			if resp.StatusCode != tt.status || tt.body != "" && body != tt.body {
				t.Fatalf("got %d %q, want %d %q", resp.StatusCode, body, tt.status, tt.body)
			}
			if name, value, _ := strings.Cut(tt.header, ": "); value != "" && resp.Header.Get(name) != value {
				t.Errorf("%s: %q, want %q", name, resp.Header.Get(name), value)
			}
			if ext := resp.Header.Get("Sec-WebSocket-Extensions"); ext != "" {
				t.Errorf("extensions: %s", ext)
			}
			if n := s.failed(tt.status) - before; tt.status >= 400 && n != 1 || tt.status < 400 && n != 0 {
				t.Errorf("%d requests counted as failed with %d", n, tt.status)
			}
			witness.write(text(heartbeat))
			if _, got := witness.frame(); got != heartbeatReply {
				t.Errorf("the witness hears %s", got)
			}
		})
	}
}

// failed returns how many requests have failed with a status.
func (s *served) failed(status int) uint64 {
	if i := slices.Index(errorStatuses[:], status); i >= 0 {
		return s.httpErrors.by[i].Load()
	}
	return s.httpErrors.other.Load()
}

func TestRow1_WithoutAnUpgrade(t *testing.T) {
	handshakes{
		{"no Upgrade", "GET " + target + " HTTP/1.1\r\nHost: localhost\r\n\r\n", 426, "Upgrade: websocket", "expected a WebSocket upgrade\n"},
		{"Upgrade to something else", handshake(target, "Upgrade: h2c"), 426, "Upgrade: websocket", "expected a WebSocket upgrade\n"},
		{"Connection without upgrade", handshake(target, "Connection: keep-alive"), 426, "Upgrade: websocket", "expected a WebSocket upgrade\n"},
	}.check(t)
}

func TestRow2_HandshakesThatAreNone(t *testing.T) {
	handshakes{
		{"POST", strings.Replace(handshake(target, "Content-Length: 0"), "GET", "POST", 1), 405, "Allow: GET", "want GET\n"},
		{"version 8", handshake(target, "Sec-WebSocket-Version: 8"), 400, "Sec-WebSocket-Version: 13", "unsupported Sec-WebSocket-Version: want 13\n"},
		{"no version", handshake(target, "Sec-WebSocket-Version:"), 400, "Sec-WebSocket-Version: 13", "unsupported Sec-WebSocket-Version: want 13\n"},
		{"no key", handshake(target, "Sec-WebSocket-Key:"), 400, "", "missing Sec-WebSocket-Key\n"},
		{"key that is no base64", handshake(target, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"), 400, "", "invalid Sec-WebSocket-Key\n"},
		{"key of 15 bytes", handshake(target, "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1"), 400, "", "invalid Sec-WebSocket-Key\n"},
	}.check(t)
}

func TestRow4_UnknownVersions(t *testing.T) {
	handshakes{
		{"vsn 3.0.0", handshake("/socket/websocket?vsn=3.0.0"), 403, "", "unsupported vsn \"3.0.0\": want 1.0.0 or 2.0.0\n"},
		{"vsn x", handshake("/socket/websocket?vsn=x"), 403, "", "unsupported vsn \"x\": want 1.0.0 or 2.0.0\n"},
		{"long vsn", handshake("/socket/websocket?vsn=" + strings.Repeat("1", 500)), 403, "",
			"unsupported vsn \"" + strings.Repeat("1", 32) + "\": want 1.0.0 or 2.0.0\n"},
	}.check(t)
}

func TestRow6_Headers(t *testing.T) {
	of := func(n int) string { // a handshake of so many bytes
		return handshake(target, "Cookie: "+strings.Repeat("x", n-len(handshake(target, "Cookie: "))))
	}
	handshakes{
		{"4096 bytes", of(4096), 101, "", ""},
		{"4097 bytes", of(4097), 431, "", "Request Header Fields Too Large\n"},
		{"4096 bytes, not for an event loop", strings.Replace(of(4096), "GET /socket/websocket", "GET /nowhere/nowhere1", 1), 404, "", ""},
		{"4097 bytes, not for an event loop", strings.Replace(of(4097), "GET /socket/websocket", "GET /nowhere/nowhere1", 1), 431, "", ""},
		{"500 lines", handshake(target, strings.Repeat("a: b\r\n", 499)+"a: b"), 101, "", ""},
		{"header of 5000 bytes", handshake(target, "Cookie: "+strings.Repeat("x", 5000)), 431, "", "Request Header Fields Too Large\n"},
		{"header of 3000 bytes", handshake(target, "Cookie: "+strings.Repeat("x", 3000)), 101, "", ""},
	}.check(t)
}

func TestHandshake(t *testing.T) {
	handshakes{
		{"good", handshake(target), 101, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", ""},
		{"unknown path", handshake("/socket/other"), 404, "", "Cannot GET /socket/other\n"},
		{"root", handshake("/"), 200, "Content-Type: text/html; charset=utf-8", ""},
		{"body of 5000 bytes", "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n" + strings.Repeat("x", 5000),
			413, "", "Request Entity Too Large\n"},
		{"no HTTP", "HELLO\r\n\r\n", 400, "", ""},
	}.check(t)
}

func TestRow3_Origins(t *testing.T) {
	for _, tt := range []struct {
		name    string
		allowed string
		lines   []string
		ok      bool
	}{
		{"missing", "https://app.example", nil, true},
		{"listed", "https://app.example", []string{"Origin: https://app.example"}, true},
		{"listed with its default port", "https://app.example", []string{"Origin: https://app.example:443"}, true},
		{"default port in the list", "http://app.example:80", []string{"Origin: http://app.example"}, true},
		{"another case", "https://App.Example", []string{"Origin: HTTPS://aPP.eXAMPLE"}, true},
		{"second in the list", "https://app.example,http://localhost:3000", []string{"Origin: http://localhost:3000"}, true},
		{"IPv6", "http://[::1]:3000", []string{"Origin: http://[::1]:3000"}, true},
		{"another host", "https://app.example", []string{"Origin: https://evil.example"}, false},
		{"sub domain", "https://app.example", []string{"Origin: https://sub.app.example"}, false},
		{"longer name", "https://app.example", []string{"Origin: https://app.example.evil.example"}, false},
		{"prefixed name", "https://app.example", []string{"Origin: https://notapp.example"}, false},
		{"another port", "https://app.example", []string{"Origin: https://app.example:8443"}, false},
		{"another scheme", "https://app.example", []string{"Origin: http://app.example"}, false},
		{"user", "https://app.example", []string{"Origin: https://evil@app.example"}, false},
		{"path", "https://app.example", []string{"Origin: https://app.example/"}, false},
		{"query", "https://app.example", []string{"Origin: https://app.example?x"}, false},
		{"fragment", "https://app.example", []string{"Origin: https://app.example#x"}, false},
		{"null", "https://app.example", []string{"Origin: null"}, false},
		{"empty", "https://app.example", []string{"Origin: "}, false},
		{"no URL", "https://app.example", []string{"Origin: https://app.example:x"}, false},
		{"two, both listed", "https://app.example", []string{"Origin: https://app.example", "Origin: https://app.example"}, false},
		{"any", "*", []string{"Origin: https://evil.example"}, true},
		{"any, null", "*", []string{"Origin: null"}, true},
		{"false is any", "false", []string{"Origin: https://evil.example"}, true},
		{"any scheme", "//app.example", []string{"Origin: http://app.example:8080"}, true},
		{"any scheme, another host", "//app.example", []string{"Origin: http://evil.example"}, false},
		{"any scheme, longer name", "//app.example", []string{"Origin: https://evilapp.example"}, false},
		{"any scheme, one port", "//app.example:8080", []string{"Origin: https://app.example:8080"}, true},
		{"any scheme, another port", "//app.example:8080", []string{"Origin: https://app.example"}, false},
		{"wildcard, name below", "//*.app.example", []string{"Origin: https://a.b.app.example"}, true},
		{"wildcard, the name itself", "//*.app.example", []string{"Origin: https://app.example"}, true},
		{"wildcard, upper case", "//*.app.example", []string{"Origin: HTTPS://A.APP.EXAMPLE"}, true},
		{"wildcard, suffix without a dot", "//*.app.example", []string{"Origin: https://evilapp.example"}, false},
		{"wildcard, name in the middle", "//*.app.example", []string{"Origin: https://app.example.evil.example"}, false},
		{"wildcard with a scheme", "https://*.app.example", []string{"Origin: https://a.app.example"}, true},
		{"wildcard with another scheme", "https://*.app.example", []string{"Origin: http://a.app.example"}, false},
		{":conn, same", ":conn", []string{"Host: app.example:4000", "Origin: http://app.example:4000"}, true},
		{":conn, default port", ":conn", []string{"Host: app.example", "Origin: http://app.example:80"}, true},
		{":conn, TLS ends before", ":conn", []string{"Host: app.example", "X-Forwarded-Proto: https", "Origin: https://app.example"}, true},
		{":conn, another scheme", ":conn", []string{"Host: app.example", "Origin: https://app.example"}, false},
		{":conn, another port", ":conn", []string{"Host: app.example:4000", "Origin: http://app.example"}, false},
		{":conn, another host", ":conn", []string{"Host: app.example", "Origin: http://evil.example"}, false},
		{":conn, null", ":conn", []string{"Host: app.example", "Origin: null"}, false},
		{"true, same host", "true", []string{"Host: app.example:4000", "Origin: https://app.example"}, true},
		{"true, sub domain", "true", []string{"Host: app.example", "Origin: https://sub.app.example"}, false},
		{"true, another host", "true", []string{"Host: app.example", "Origin: https://evil.example"}, false},
		{"any, but two", "*", []string{"Origin: https://a.example", "Origin: https://b.example"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, func(c *Config) { c.AllowedOrigins = strings.Split(tt.allowed, ",") })
			w := s.dial()
			w.write(handshake(target, tt.lines...))
			resp, body := w.answer()
			switch {
			case tt.ok && resp.StatusCode != http.StatusSwitchingProtocols:
				t.Errorf("got %d %q", resp.StatusCode, body)
			case !tt.ok && (resp.StatusCode != http.StatusForbidden || body != "origin not allowed\n"):
				t.Errorf("got %d %q, want 403", resp.StatusCode, body)
			}
		})
	}
}

// Whatever a client puts into Origin, it is let in only as the one origin that is listed.
func FuzzOrigin(f *testing.F) {
	for _, seed := range []string{
		"https://app.example", "HTTPS://APP.EXAMPLE:443", "https://app.example.evil", "https://app.example@evil", "null", "",
		"https://app.example/", "https://app.example\\.evil", "//app.example", "https://[::1]", "https://app.example:443:443",
	} {
		f.Add(seed)
	}
	allowed, err := parseOrigins([]string{"https://app.example"})
	if err != nil {
		f.Fatal(err)
	}
	below, err := parseOrigins([]string{"https://*.app.example"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		name := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(text), "443"), ":")
		if allowed.allows(text, origin{}) && name != "https://app.example" {
			t.Errorf("%q is let in", text)
		}
		if below.allows(text, origin{}) && name != "https://app.example" && !(strings.HasPrefix(name, "https://") && strings.HasSuffix(name, ".app.example")) {
			t.Errorf("%q is let in as a name below", text)
		}
	})
}

// The vsn parameter chooses the codec; without it the client speaks 1.0.0.
func TestVersions(t *testing.T) {
	s := serve(t)
	for _, target := range []string{"/socket/websocket", "/socket/websocket?vsn=1.0.0", "/socket/websocket?token=x&vsn=1.0.7"} {
		w := s.dial()
		w.write(handshake(target) + text(`{"topic":"phoenix","event":"heartbeat","payload":{},"ref":1}`))
		w.answer()
		if _, got := w.frame(); got != `{"event":"phx_reply","payload":{"response":{},"status":"ok"},"ref":1,"topic":"phoenix"}` {
			t.Errorf("%s: %s", target, got)
		}
	}
}

// What a client sends right behind its handshake, before the answer, is not lost.
func TestFirstFrameBehindTheHandshake(t *testing.T) {
	s := serve(t)
	w := s.dial()
	w.write(handshake(target) + text(heartbeat) + text(heartbeat)[:9])
	w.answer()
	if _, got := w.frame(); got != heartbeatReply {
		t.Errorf("first frame: %s", got)
	}
	w.write(text(heartbeat)[9:])
	if _, got := w.frame(); got != heartbeatReply {
		t.Errorf("second frame: %s", got)
	}
}

func TestMaxConnections(t *testing.T) {
	s := serve(t, func(c *Config) { c.MaxConnections = 2 })
	open := func() *wire {
		t.Helper()
		w := s.dial()
		w.write(handshake(target) + text(heartbeat))
		if resp, body := w.answer(); resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("got %d %q", resp.StatusCode, body)
		}
		w.frame() // by now it counts
		return w
	}
	first := open()
	open()
	w := s.dial()
	w.write(handshake(target))
	resp, body := w.answer()
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("the third: %d %q, Retry-After %q", resp.StatusCode, body, resp.Header.Get("Retry-After"))
	}
	first.nc.Close()
	s.eventually("the first is gone", func() bool { return s.loops.Conns() == 1 })
	open()
}

func TestUndecodableFrameClosesWith4400(t *testing.T) {
	s := serve(t)
	w := s.dial()
	w.write(handshake(target) + text("{"))
	w.answer()
	w.wantClose(4400, "bad frame: want [join_ref, ref, topic, event, payload]")
	s.eventually("it is counted", func() bool { sockets, _ := s.Stats(); return sockets.Ended[socket.EndLocal] == 1 })
}
