package gateway

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestClusterView(t *testing.T) {
	s := serve(t)
	idle := s.dial()
	idle.write(handshake(target) + text(heartbeat))
	idle.answer()
	idle.frame()
	for _, tt := range []struct{ name, query, owner string }{
		{"no topic", "", ""},
		{"a topic", "?topic=room:lobby", `,"owner":"ts"`},
		{"an empty topic", "?topic=", ""},
		{"a topic that is none", "?topic=%00%ff%22", `,"owner":"ts"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := s.dial()
			w.t = t
			w.write("GET /api/cluster" + tt.query + " HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n\r\n")
			resp, body := w.answer()
			want := `{"gateway":"gw","ready":false,"sessions":1,"channels":0,"topics":0,"publishes":0,"messages":0,"deliveries":0,` +
				`"ring_version":1,"lanes_up":0,"lanes":2,"topic_servers":[{"id":"ts","weight":1,"share":1}]` +
				tt.owner + `,"busiest":[],"busiest_of_all":true}`
			if resp.StatusCode != http.StatusOK || body != want {
				t.Errorf("got %d %s\n\twant %s", resp.StatusCode, body, want)
			}
			if !json.Valid([]byte(body)) || resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("Content-Type") != "application/json" {
				t.Errorf("headers: %v", resp.Header)
			}
			if cors := resp.Header.Get("Access-Control-Allow-Origin"); cors != "" {
				t.Errorf("pages of others may read it: %s", cors)
			}
		})
	}
}

// Topics are named to those only who may read them; the rest is for all.
func TestClusterViewNamesNoTopicsToStrangers(t *testing.T) {
	s := serve(t, withKeys)
	for name, tt := range map[string]struct {
		header string
		named  bool
	}{"no key": {"X: y", false}, "a key to publish": {"Authorization: Bearer shop-key", false}, "a key to read": {"Authorization: Bearer audit-key", true}} {
		resp, body := s.asked(t, "GET /api/cluster HTTP/1.1\r\nHost: x\r\n"+tt.header+"\r\n\r\n")
		if resp.StatusCode != http.StatusOK || strings.Contains(body, `"busiest":`) != tt.named || resp.Header.Get("WWW-Authenticate") != "" {
			t.Errorf("%s: %d %s", name, resp.StatusCode, body)
		}
	}
}

// A browser that has the page open keeps its HTTP connections. They do not hold up a stop.
func TestStopDoesNotWaitForThePage(t *testing.T) {
	s := serve(t, func(c *Config) { c.StopTimeout = time.Hour })
	w := s.dial()
	w.write("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if resp, body := w.answer(); resp.StatusCode != http.StatusOK || !strings.Contains(body, "<title>ringcast</title>") {
		t.Fatalf("GET /: %d %s", resp.StatusCode, body)
	}
	if err := s.stop(); err != nil { // which would wait for the next request for as long as it may come, and give up
		t.Error(err)
	}
}
