package longpoll

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/ringcast/ringcast/gateway/socket"
)

var sharedKey = bytes.Repeat([]byte("k"), 32)

func shared(c *Config) { c.Key = sharedKey }

func requestHeader(method, target, token string) *fasthttp.RequestHeader {
	var h fasthttp.RequestHeader
	h.SetMethod(method)
	h.SetRequestURI(target)
	if token != "" {
		h.Set(tokenHeader, token)
	}
	return &h
}

func TestAnyGatewayServesASession(t *testing.T) {
	a, b := newHome(t, shared), newHome(t, shared)
	token := a.session()
	b.wantPost(token, `["1","1","a:b","phx_join",{}]`+"\nAAEC", ndjson)
	b.wantPoll(token, `["1","1","a:b","phx_join",{}]`, "AAEC")
	// A poll by one gateway, the post by the other.
	polled := make(chan got, 1)
	go func() { polled <- b.poll(token) }()
	a.wantPost(token, "[2]")
	if g := <-polled; g.Status != 200 || len(g.Messages) != 1 || g.Token != token {
		t.Errorf("polled: %+v", g)
	}
	if n := b.loops.Conns(); n != 0 {
		t.Errorf("%d sessions on the other gateway", n)
	}
	// The home's refusals and ends come through.
	if g := b.post(token, strings.Repeat("[1]\n", 101), ndjson); g.Status != 400 {
		t.Errorf("posted: %+v", g)
	}
	if g := b.post(token, `["close"]`); g.Status != 410 || g.Code != 4400 {
		t.Errorf("posted: %+v", g)
	}
	if g := b.poll(token); g.Status != 410 {
		t.Errorf("polled: %+v", g)
	}
}

func TestWithoutTheSameKeyASessionIsGoneElsewhere(t *testing.T) {
	a, b := newHome(t), newHome(t)
	if g := b.poll(a.session()); g.Status != 410 {
		t.Errorf("polled: %+v", g)
	}
}

func TestADeadHomeIsGone(t *testing.T) {
	// Where no other process connects or listens, so that the address can be used again.
	pid := os.Getpid()
	alone, err := net.Listen("tcp", fmt.Sprintf("127.7.%d.%d:0", pid/250%250, pid%250+1))
	if err != nil {
		if alone, err = net.Listen("tcp", "127.0.0.1:0"); err != nil { // a system with one address for itself
			t.Fatal(err)
		}
	}
	a, b := serveOn(t, alone, shared), newHome(t, shared)
	token := a.session()
	a.stop()
	if g := b.poll(token); g.Status != 410 || g.Reason != "session's gateway cannot be reached" {
		t.Errorf("polled: %+v", g)
	}
	// Another process at the same address has other sessions.
	lis, err := net.Listen("tcp", a.addr)
	if err != nil {
		t.Fatal(err)
	}
	again := serveOn(t, lis, shared)
	mine := again.session()
	if g := b.poll(token); g.Status != 410 {
		t.Errorf("polled: %+v", g)
	}
	again.wantPost(mine, "[1]")
	b.wantPoll(mine, "[1]")
}

func TestAHomeThatDiesUnderAPollIs500(t *testing.T) {
	a, b := newHome(t, shared), newHome(t, shared)
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		nc, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			nc.Close()
		}
	}))
	defer broken.Close()
	odd := httptest.NewServer(http.NotFoundHandler())
	defer odd.Close()
	for name, addr := range map[string]string{"breaks off": broken.Listener.Addr().String(), "is no gateway": odd.Listener.Addr().String()} {
		token := a.tokens.sign(claim{process: 1, id: 1, home: addr, expires: time.Now().Add(time.Hour)})
		if g := b.poll(token); g.Status != 500 || g.Reason != "session's gateway does not answer" {
			t.Errorf("home that %s: %+v", name, g)
		}
	}
}

func TestAGatewayThatStopsForwardsNoMore(t *testing.T) {
	a, b := newHome(t, shared), newHome(t, shared)
	token := a.session()
	answered := make(chan got, 1)
	go func() { answered <- b.poll(token) }()
	a.eventually("the poll has come", func() bool { return len(b.relays) == 1 })
	b.Close()
	if g := <-answered; g.Status != 500 {
		t.Errorf("polled: %+v", g)
	}
}

// Two gateways that each take the other for the home do not send a request back and forth.
func TestForwardingDoesNotLoop(t *testing.T) {
	a, b := newHome(t, shared), newHome(t, shared)
	for _, h := range []*home{a, b} {
		token := a.tokens.sign(claim{process: 1, id: 1, home: b.addr, expires: time.Now().Add(time.Hour)})
		if g := h.poll(token); g.Status != 410 {
			t.Errorf("polled: %+v", g)
		}
	}
	token := a.session()
	if g := b.json("GET", "?token="+token, "", forwardedHeader+": 1"); g.Status != 410 {
		t.Errorf("a request that says it was forwarded, at the wrong gateway: %+v", g)
	}
	a.wantPost(token, "[1]", forwardedHeader+": 1")
}

func TestForwardingIsBounded(t *testing.T) {
	a, b := newHome(t, shared), newHome(t, shared)
	token := a.session()
	for range cap(b.relays) {
		b.relays <- struct{}{}
	}
	if g := b.poll(token); g.Status != 500 {
		t.Errorf("polled: %+v", g)
	}
	if now, refused := b.Forwarding(); now != maxRelays || refused != 1 {
		t.Errorf("%d are forwarded, %d refused", now, refused)
	}
	<-b.relays
	b.wantPost(token, "[1]")
}

// What the home has to know of the client to let it in arrives there.
func TestForwardingKeepsHostAndOrigin(t *testing.T) {
	seen := make(chan [3]string, 10)
	a := newHome(t, shared, func(c *Config) {
		c.Allow = func(c *fiber.Ctx) error {
			seen <- [3]string{string(c.Request().Host()), c.Get("Origin"), c.Get("X-Forwarded-Proto")}
			return nil
		}
	})
	b := newHome(t, shared)
	token := a.session()
	<-seen
	a.wantPost(token, "[1]")
	<-seen
	if g := b.json("GET", "?token="+token, "", "Origin: https://app.example", "X-Forwarded-Proto: https"); g.Status != 200 {
		t.Fatalf("polled: %+v", g)
	}
	if got := <-seen; got != [3]string{b.addr, "https://app.example", "https"} {
		t.Errorf("the home saw %q", got)
	}
}

func TestTokens(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	ours := newTokens(sharedKey)
	want := claim{process: 1<<63 + 5, id: 42, home: "ws1.example:4000", expires: now.Add(tokenLife)}
	token := ours.sign(want)
	for name, keys := range map[string]*tokens{"the signer": ours, "who has the same key": newTokens(sharedKey)} {
		if got, err := keys.verify(token, now); got != want || err != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := newTokens(nil).verify(token, now); err != errToken {
		t.Errorf("another key: %v", err)
	}
	if _, err := ours.verify(token, now.Add(tokenLife)); err != errExpired {
		t.Errorf("two weeks later: %v", err)
	}
	if _, err := ours.verify(token, now.Add(tokenLife-time.Second)); err != nil {
		t.Errorf("a second before: %v", err)
	}
	for i := range token {
		other := byte('A')
		if token[i] == other {
			other = 'B'
		}
		if got, err := ours.verify(token[:i]+string(other)+token[i+1:], now); err == nil && got != want {
			t.Fatalf("character %d changed: %+v", i, got)
		}
	}
}

// Nobody without the key makes a token, and any bytes have an answer.
func FuzzToken(f *testing.F) {
	now := time.Unix(1_700_000_000, 0)
	ours := newTokens(sharedKey)
	good := ours.sign(claim{process: 1, id: 2, home: "h:1", expires: now.Add(time.Hour)})
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(good[:17] + "\n" + good[17:])
	f.Add("")
	f.Add("undefined")
	f.Add(strings.Repeat("A", 600))
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ours.verify(text, now)
		if err == nil && ours.sign(c) != text {
			t.Errorf("%q is taken for %+v", text, c)
		}
	})
}

// Whatever a POST carries, there are at most 100 frames, none empty, and each is a line as it was or its bytes.
func FuzzSplitBody(f *testing.F) {
	f.Add([]byte("[1]\nAAEC\n"), true)
	f.Add([]byte("{}"), false)
	f.Add([]byte("\r\n \n"), true)
	f.Add(bytes.Repeat([]byte("[\n"), 102), true)
	f.Fuzz(func(t *testing.T, body []byte, batch bool) {
		messages, err := splitBody(body, batch)
		if err != nil {
			return
		}
		if len(messages) == 0 || len(messages) > maxBatch || !batch && len(messages) != 1 {
			t.Fatalf("%d messages", len(messages))
		}
		for _, m := range messages {
			if m.op == socket.OpText && !bytes.Contains(body, m.data) {
				t.Errorf("text %q is not in %q", m.data, body)
			}
		}
	})
}
