package gateway

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/gateway/admission"
	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/proto/linkpb"
)

var afterMillis = regexp.MustCompile(`retry_after_ms=[1-9][0-9]*`)

// masked replaces the milliseconds of a refusal by N.
func masked(text string) string { return afterMillis.ReplaceAllString(text, "retry_after_ms=N") }

// wantRefused checks the answer to a handshake that was not admitted.
func (w *wire) wantRefused(reason string) {
	w.t.Helper()
	resp, body := w.answer()
	seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if resp.StatusCode != http.StatusServiceUnavailable || err != nil || seconds < 1 || masked(body) != reason+" retry_after_ms=N\n" {
		w.t.Errorf("%d %q, Retry-After %q; want 503 %s", resp.StatusCode, body, resp.Header.Get("Retry-After"), reason)
	}
}

// wantTurnedAway checks that a browser, which cannot see the answer to a handshake, is let in and sent away.
func (w *wire) wantTurnedAway() {
	w.t.Helper()
	if resp, body := w.answer(); resp.StatusCode != http.StatusSwitchingProtocols {
		w.t.Fatalf("%d %q", resp.StatusCode, body)
	}
	first, payload := w.frame()
	if first != 0x88 || payload[:2] != "\x03\xf5" || masked(payload[2:]) != "retry_after_ms=N" {
		w.t.Fatalf("got frame %#x %q, want close 1013", first, payload)
	}
	w.write("\x88\x82\x00\x00\x00\x00" + payload[:2])
}

func TestBrowsersAreTurnedAwayWithAClose(t *testing.T) {
	s := serve(t, func(c *Config) { c.MaxConnections = 1 })
	first := s.dial()
	first.write(handshake(target) + text(heartbeat))
	first.answer()
	first.frame()
	for range 3 {
		sdk := s.dial()
		sdk.write(handshake(target))
		sdk.wantRefused("full")
		browser := s.dial()
		browser.write(handshake(target, "Origin: https://app.example"))
		browser.wantTurnedAway()
	}
	s.eventually("those turned away are gone", func() bool { return s.turnedAway.Load() == 0 && s.loops.Conns() == 1 })
	if n := s.gate.Stats().Refused[admission.Connect][admission.Full]; n != 6 {
		t.Errorf("%d refusals counted, want 6", n)
	}
	// Those that do not answer their close are bounded: more browsers get what the others get.
	s.turnedAway.Store(maxTurnedAway)
	defer s.turnedAway.Store(0)
	s.onLoops(func() {}) // so that what reads it on the loops is done,
	s.Gateway.cfg.MaxConnections = 1 - maxTurnedAway
	s.onLoops(func() {}) // and sees this from now on
	browser := s.dial()
	browser.write(handshake(target, "Origin: https://app.example"))
	browser.wantRefused("full")
}

func TestConnectsPerSecond(t *testing.T) {
	s := serve(t, func(c *Config) { c.Limits.Connects = 1 })
	for range 2 { // at once
		w := s.dial()
		w.write(handshake(target))
		if resp, _ := w.answer(); resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	refused := 0
	for i := 0; i < 100 && refused < 3; i++ { // one more is let in each second
		w := s.dial()
		w.write(handshake(target))
		if resp, body := w.answer(); resp.StatusCode == http.StatusServiceUnavailable && masked(body) == "rate_limited retry_after_ms=N\n" {
			refused++
		}
	}
	if refused < 3 {
		t.Errorf("%d of 100 more were refused", refused)
	}
}

// A gateway whose event loops do not get to their work takes on nothing more, on any surface, until they do again.
func TestALateGatewayTakesOnNothing(t *testing.T) {
	s := serve(t, func(c *Config) { c.Limits.AdmissionLag = 500 * time.Millisecond })
	block := make(chan struct{})
	s.loops.Loop(0).Post(func() { <-block })
	s.eventually("everything is refused", func() bool { return s.gate.Level() == admission.NoPublishes })

	w := s.dial()
	w.write(handshake(target))
	w.wantRefused("overloaded")
	browser := s.dial()
	browser.write(handshake(target, "Origin: https://app.example"))
	if _, polled := s.ask("GET", "?vsn=2.0.0", ""); polled.Status != 500 || masked(polled.Reason) != "overloaded retry_after_ms=N" {
		t.Errorf("long poll: %+v", polled)
	}
	resp, body := s.asked(t, post(publishPath, goodPublish))
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, `"error":"overloaded"`) ||
		!strings.Contains(body, `"definite":true,"retry_after_ms":`) {
		t.Errorf("HTTP API: %d %s", resp.StatusCode, body)
	}
	ingested := make(chan router.Outcome, 1)
	s.publishIngested(&linkpb.Publish{Topic: "t:a"}, func(o router.Outcome) { ingested <- o })
	if o := <-ingested; o.Code != linkpb.Code_OVERLOADED {
		t.Errorf("AMQP: %+v; want what is tried again", o)
	}

	close(block)
	browser.wantTurnedAway()
	s.eventually("a client is let in", func() bool { // after thirty looks at least
		if s.gate.Level() != admission.Open {
			return false
		}
		w := s.dial()
		w.write(handshake(target) + text(heartbeat))
		if resp, _ := w.answer(); resp.StatusCode != http.StatusSwitchingProtocols {
			return false
		}
		_, payload := w.frame()
		return payload == heartbeatReply
	})
	if resp, _ := s.asked(t, "GET /api/cluster HTTP/1.1\r\nHost: x\r\n\r\n"); resp.StatusCode != 200 {
		t.Errorf("cluster view: %d", resp.StatusCode)
	}
}
