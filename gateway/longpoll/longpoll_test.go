package longpoll

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/ringcast/ringcast/gateway/socket"
)

func TestFramesGoInByPostAndOutByGet(t *testing.T) {
	h := newHome(t)
	token := h.session()
	h.wantPost(token, `["1","1","a:b","phx_join",{}]`, "Content-Type: application/json")
	h.wantPoll(token, `["1","1","a:b","phx_join",{}]`)
	odd := `["1","2","a:b","e",{"text":"Grüße, 世界 🦀 \" \\ ` + "\u2028" + `"}]`
	h.wantPost(token, odd)
	h.wantPost(token, `{"topic":"v1"}`)
	h.wantPoll(token, odd, `{"topic":"v1"}`)
}

func TestABatchIsALineForEachFrame(t *testing.T) {
	h := newHome(t)
	token := h.session()
	binary := base64.StdEncoding.EncodeToString([]byte("\x00\x01\xff binary"))
	h.wantPost(token, "[1]\n"+binary+"\r\n\n[2]\n", ndjson)
	h.wantPoll(token, "[1]", binary, "[2]")
	h.wantPost(token, lines(100, "[%d]"), ndjson)
	if g := h.poll(token); len(g.Messages) != 100 || g.Messages[99] != "[99]" {
		t.Errorf("polled %+v", g)
	}
	for name, tt := range map[string][2]string{
		"101 frames":     {lines(101, "[%d]"), "bad body: more than 100 frames"},
		"100 and blanks": {lines(100, "[%d]") + "\n\n\n", "bad body: more than 100 frames"},
		"blank lines":    {"\n\n", "bad body: no frame"},
		"nothing":        {"", "bad body: no frame"},
	} {
		if g := h.post(token, tt[0], ndjson); g.Status != 400 || g.Reason != tt[1] {
			t.Errorf("%s: %+v", name, g)
		}
	}
	h.wantPost(token, "[3]") // the session has not suffered
	h.wantPoll(token, "[3]")
}

// A frame that is not in a batch may be binary too.
func TestASingleBinaryFrame(t *testing.T) {
	h := newHome(t)
	token := h.session()
	h.wantPost(token, "AAEC")
	h.wantPoll(token, "AAEC")
	h.wantPost(token, "no base64!") // for the session to judge
	h.wantPoll(token, "no base64!")
}

func TestAPollThatGetsNothingIs204(t *testing.T) {
	t.Parallel()
	h := newHome(t, func(c *Config) { c.Window = 8 * time.Second }) // the session must live until the poll comes
	token := h.session()
	if g := h.poll(token); g.Status != 204 || g.Token != token || len(g.Messages) != 0 {
		t.Errorf("polled %+v", g)
	}
}

func TestTheTokenMayBeInAHeader(t *testing.T) {
	h := newHome(t)
	token := h.session()
	if g := h.json("POST", "?vsn=2.0.0", "[1]", "x-phoenix-longpoll-token: "+token); g.Status != 200 {
		t.Fatalf("posted: %+v", g)
	}
	if g := h.json("GET", "?vsn=2.0.0", "", "x-phoenix-longpoll-token: "+token); g.Status != 200 || len(g.Messages) != 1 {
		t.Fatalf("polled: %+v", g)
	}
}

func TestCORS(t *testing.T) {
	h := newHome(t)
	resp, body := h.ask("OPTIONS", "?token=x", "", "Access-Control-Request-Headers: content-type,x-phoenix-longpoll-token")
	if resp.StatusCode != http.StatusOK || body != "" {
		t.Errorf("OPTIONS: %s %q", resp.Status, body)
	}
	for name, want := range map[string]string{
		"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Methods": "get, post, options", "Access-Control-Max-Age": "3600",
		"Access-Control-Allow-Headers": "content-type,x-phoenix-longpoll-token",
	} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for _, method := range []string{"GET", "POST"} {
		if resp, _ := h.ask(method, "", "[1]"); resp.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: not for all origins", method)
		}
	}
	if resp, _ := h.ask("DELETE", "", ""); resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "GET, POST, OPTIONS" {
		t.Errorf("DELETE: %s, Allow %q", resp.Status, resp.Header.Get("Allow"))
	}
}

// phoenix.js knows 403, and 500 for what may work later; with any other status it stops in its tracks.
func TestRefusalsThatPhoenixKnows(t *testing.T) {
	var refusal error
	h := newHome(t, func(c *Config) {
		open := c.Open
		c.Allow = func(c *fiber.Ctx) error {
			if c.Get("Origin") != "" {
				return fiber.NewError(http.StatusForbidden, "origin not allowed")
			}
			return nil
		}
		c.Open = func(c *fiber.Ctx) (func(*socket.Conn) socket.Handler, error) {
			if refusal != nil {
				return nil, refusal
			}
			return open(c)
		}
	})
	token := h.session()
	for _, tt := range []struct {
		code, status int
	}{{http.StatusForbidden, 403}, {http.StatusUnauthorized, 403}, {http.StatusServiceUnavailable, 500}} {
		refusal = fiber.NewError(tt.code, `the "reason"`)
		if g := h.json("GET", "", ""); g.Status != tt.status || g.Reason != `the "reason"` || g.Token != "" {
			t.Errorf("%d: %+v", tt.code, g)
		}
	}
	refusal = errors.New("a secret")
	if resp, text := h.ask("GET", "", ""); resp.StatusCode != http.StatusInternalServerError {
		t.Errorf("an error that is not for the client: %s %q", resp.Status, text)
	}
	for _, method := range []string{"GET", "POST", "OPTIONS"} {
		if g := h.json(method, "?token="+token, "[1]", "Origin: http://evil.example"); g.Status != 403 || g.Reason != "origin not allowed" {
			t.Errorf("%s from elsewhere: %+v", method, g)
		}
	}
}

func TestWhatIsGoneIs410(t *testing.T) {
	h := newHome(t)
	other := newTokens(nil)
	for name, token := range map[string]string{
		"another key":        other.sign(claim{process: h.process, id: 1, home: h.addr, expires: time.Now().Add(time.Hour)}),
		"an id without one":  h.tokens.sign(claim{process: h.process, id: 77, home: h.addr, expires: time.Now().Add(time.Hour)}),
		"an earlier process": h.tokens.sign(claim{process: 1, id: 1, home: h.addr, expires: time.Now().Add(time.Hour)}),
		"expired":            h.tokens.sign(claim{process: h.process, id: 1, home: h.addr, expires: time.Now().Add(-time.Second)}),
		"a dead home":        h.tokens.sign(claim{process: 1, id: 1, home: "127.0.0.1:1", expires: time.Now().Add(time.Hour)}),
	} {
		if g := h.poll(token); g.Status != 410 || g.Token != "" {
			t.Errorf("poll with %s: %+v", name, g)
		}
		if g := h.post(token, "[1]"); g.Status != 410 {
			t.Errorf("post with %s: %+v", name, g)
		}
	}
	for _, query := range []string{"", "?token=garbage", "?token=a.b.c", "?token=" + strings.Repeat("A", 600), "?token=" + base64.RawURLEncoding.EncodeToString(make([]byte, 90))} {
		if g := h.json("POST", query, "[1]"); g.Status != 410 {
			t.Errorf("post without a token, %.20s: %+v", query, g)
		}
		// A client's params may have a token that has nothing to do with long polls.
		if g := h.json("GET", query, ""); g.Status != 410 || g.Token == "" {
			t.Errorf("get without a token of ours, %.20s: %+v", query, g)
		}
	}
	mine := h.session()
	if g := h.json("POST", "?token=a.b.c&vsn=2.0.0&token="+mine, "[1]"); g.Status != 200 {
		t.Errorf("post with a token of the client's own too: %+v", g)
	}
	h.wantPoll("a.b.c&token="+mine, "[1]")
	// What a client comes with that took a 410 for a new session.
	if g := h.poll("undefined"); g.Status != 500 {
		t.Errorf("poll with undefined: %+v", g)
	}
}

func TestASessionThatIsClosedSaysWhy(t *testing.T) {
	h := newHome(t)
	token := h.session()
	if g := h.post(token, "[1]\n"+`["close"]`, ndjson); g.Status != 410 || g.Code != 4400 || g.Reason != "bad frame" {
		t.Errorf("posted: %+v", g)
	}
	h.wantPoll(token, "[1]") // what came before still comes
	if g := h.poll(token); g.Status != 410 {
		t.Errorf("polled: %+v", g)
	}
	token = h.session()
	if g := h.post(token, `["flood"]`); g.Status != 410 || g.Code != socket.CloseSlow {
		t.Errorf("posted: %+v", g)
	}
	if g := h.poll(token); g.Status != 410 || g.Code != socket.CloseSlow || g.Reason != "slow" {
		t.Errorf("polled: %+v", g)
	}
	h.eventually("no session is left", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.boxes) == 0
	})
}

func TestASessionDiesOneAndAHalfWindowsAfterItsLastPoll(t *testing.T) {
	h := newHome(t, func(c *Config) { c.Loops, c.Window = newLoops(t, 20*time.Millisecond), 40*time.Millisecond })
	start := time.Now()
	token := h.session()
	var ce *socket.CloseError
	if err := <-h.closed; !errors.As(err, &ce) || ce.Code != socket.CloseIdleTimeout || time.Since(start) < 60*time.Millisecond {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
	if g := h.poll(token); g.Status != 410 {
		t.Errorf("polled: %+v", g)
	}
	h.eventually("it has gone", func() bool { return h.loops.Conns() == 0 })
}

func TestADrainAnswersTheWaitingPoll(t *testing.T) {
	h := newHome(t)
	token := h.session()
	answered := make(chan got, 1)
	go func() { answered <- h.poll(token) }()
	for polled := false; !polled; time.Sleep(time.Millisecond) {
		// The poll has come once a message is taken away.
		h.wantPost(token, "[1]")
		select {
		case g := <-answered:
			if g.Status != 200 {
				t.Fatalf("polled: %+v", g)
			}
			polled = true
		default:
		}
	}
	go func() {
		for g := h.poll(token); ; g = h.poll(token) {
			if g.Status != 200 {
				answered <- g
				return
			}
		}
	}()
	h.loops.CloseAll(socket.CloseRestart, "gateway restarts")
	if g := <-answered; g.Status != 410 {
		t.Errorf("polled: %+v", g)
	}
}

func TestBodyLimitIsForHoldersOfATokenOnly(t *testing.T) {
	h := newHome(t)
	token := h.session()
	for name, tt := range map[string]struct {
		method, target, header string
		want                   int
	}{
		"token in the query":  {"POST", "/socket/longpoll?vsn=2.0.0&token=" + token, "", h.maxBody},
		"token in the header": {"POST", "/socket/longpoll", token, h.maxBody},
		"no token":            {"POST", "/socket/longpoll", "", 0},
		"bad token":           {"POST", "/socket/longpoll?token=x" + token, "", 0},
		"GET":                 {"GET", "/socket/longpoll?token=" + token, "", 0},
		"target that is none": {"POST", "http://[:/?token=" + token, "", 0},
	} {
		if got := h.BodyLimit(requestHeader(tt.method, tt.target, tt.header)); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
	if h.maxBody < 100*64<<10*4/3 || h.maxBody > maxBodyBytes {
		t.Errorf("limit of %d bytes", h.maxBody)
	}
}

// While too many answers wait for their clients no poll takes frames: those wait in the session's queue, and the next poll has them.
func TestAPollTakesNothingThatCannotBeKept(t *testing.T) {
	t.Parallel()
	var full atomic.Bool
	h := newHome(t, func(c *Config) { c.Full = full.Load })
	token := h.session()
	h.post(token, `["a"]`)
	full.Store(true)
	if g := h.poll(token); g.Status != 500 || g.Reason != "too many answers wait for their clients" || len(g.Messages) != 0 {
		t.Errorf("a poll gets %+v", g)
	}
	if g := h.post(token, `["b"]`); g.Status != 200 {
		t.Errorf("a post gets %+v", g)
	}
	full.Store(false)
	h.wantPoll(token, `["a"]`, `["b"]`)
}
