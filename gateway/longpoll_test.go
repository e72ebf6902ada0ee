package gateway

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/gateway/socket"
)

// polled is an answer to a long poll.
type polled struct {
	Status   int
	Token    string
	Messages []string
	Code     int
	Reason   string
}

// ask sends a request to the gateway's long poll endpoint.
func (s *served) ask(method, query, body string, lines ...string) (resp *http.Response, got polled) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+s.addr+"/socket/longpoll"+query, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Close = true
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	resp, err = http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(text, &got); err != nil {
			s.t.Fatalf("%s %s: %q", method, query, text)
		}
	}
	return resp, got
}

func (s *served) pollSession() (query string) {
	s.t.Helper()
	_, got := s.ask("GET", "?vsn=2.0.0", "")
	if got.Status != 410 || got.Token == "" {
		s.t.Fatalf("opening: %+v", got)
	}
	return "?vsn=2.0.0&token=" + got.Token
}

// endPolled ends a session by a bad frame and takes its close away, for which a gateway that stops would wait.
func (s *served) endPolled(query string) {
	s.t.Helper()
	s.ask("POST", query, "{")
	for {
		if _, got := s.ask("GET", query, ""); got.Status != 200 {
			return
		}
	}
}

func TestLongpollIsTheSameConversation(t *testing.T) {
	s := serve(t)
	query := s.pollSession()
	if _, got := s.ask("POST", query, heartbeat); got.Status != 200 {
		t.Fatalf("posted: %+v", got)
	}
	if _, got := s.ask("GET", query, ""); got.Status != 200 || len(got.Messages) != 1 || got.Messages[0] != heartbeatReply {
		t.Fatalf("polled: %+v", got)
	}
	if _, got := s.ask("POST", query, "{"); got.Status != 410 || got.Code != 4400 ||
		got.Reason != "bad frame: want [join_ref, ref, topic, event, payload]" {
		t.Errorf("a bad frame: %+v", got)
	}
	s.endPolled(query)
	// Without a vsn it is V1.
	_, got := s.ask("GET", "", "")
	query = "?token=" + got.Token
	s.ask("POST", query, `{"topic":"phoenix","event":"heartbeat","payload":{},"ref":1}`)
	if _, got := s.ask("GET", query, ""); len(got.Messages) != 1 ||
		got.Messages[0] != `{"event":"phx_reply","payload":{"response":{},"status":"ok"},"ref":1,"topic":"phoenix"}` {
		t.Errorf("V1: %+v", got)
	}
	s.endPolled(query)
}

func TestLongpollHandshake(t *testing.T) {
	s := serve(t, func(c *Config) { c.AllowedOrigins = []string{"https://app.example"}; c.MaxConnections = 1 })
	for _, tt := range []struct {
		name, query, line string
		status            int
		reason            string
	}{
		{"unknown vsn", "?vsn=3.0.0", "", 403, `unsupported vsn "3.0.0": want 1.0.0 or 2.0.0`},
		{"another origin", "?vsn=2.0.0", "Origin: https://evil.example", 403, "origin not allowed"},
		{"null origin", "?vsn=2.0.0", "Origin: null", 403, "origin not allowed"},
		{"good", "?vsn=2.0.0", "Origin: https://app.example", 410, ""},
		{"no room", "?vsn=2.0.0", "", 500, "full retry_after_ms=N"},
	} {
		var lines []string
		if tt.line != "" {
			lines = append(lines, tt.line)
		}
		_, got := s.ask("GET", tt.query, "", lines...)
		if got.Status != tt.status || masked(got.Reason) != tt.reason {
			t.Errorf("%s: %+v", tt.name, got)
		}
		if got.Token != "" {
			defer s.endPolled(tt.query + "&token=" + got.Token)
		}
	}
}

// A batch is as long as its frames may be, for who has a session; for all others a body is at most 4 KiB.
func TestLongpollBodies(t *testing.T) {
	s := serve(t)
	query := s.pollSession()
	frame := fmt.Sprintf(`[null,"1","phoenix","heartbeat",{"pad":%q}]`, strings.Repeat("x", 60<<10))
	batch := strings.Repeat(frame+"\n", 40)
	if _, got := s.ask("POST", query, batch, "Content-Type: application/x-ndjson"); got.Status != 200 {
		t.Errorf("40 frames of 60 KiB: %+v", got)
	}
	w := s.dial()
	w.write(fmt.Sprintf("POST /socket/longpoll?vsn=2.0.0&token=nobody HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", len(batch)))
	if resp, _ := w.answer(); resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("the same without a session: %s", resp.Status)
	}
	if _, got := s.ask("POST", query, frame+strings.Repeat(" ", 6<<10)); got.Status != 200 { // what is around a frame does not count
		t.Errorf("a frame with white space: %+v", got)
	}
	long := strings.Replace(frame, `"pad"`, `"pad`+strings.Repeat("y", 6<<10)+`"`, 1)
	if _, got := s.ask("POST", query, long); got.Status != 410 || got.Code != 1009 || got.Reason != "message over 65536 bytes" {
		t.Errorf("a frame over the limit: %+v", got)
	}
	s.endPolled(query)
	query = s.pollSession()
	binary := base64.StdEncoding.EncodeToString(make([]byte, 64<<10+1))
	if _, got := s.ask("POST", query, binary); got.Code != 1009 {
		t.Errorf("a binary frame over the limit: %+v", got)
	}
	s.endPolled(query)
}

// A gateway that stops answers the polls that wait, and opens no session any more.
func TestLongpollStop(t *testing.T) {
	s := serve(t, func(c *Config) { c.LongpollWindow = time.Minute })
	query := s.pollSession()
	ended := make(chan polled, 1)
	go func() {
		_, got := s.ask("GET", query, "")
		ended <- got
	}()
	s.eventually("the poll waits", func() bool {
		waits := make(chan bool, 1)
		s.loops.Each(func(c *socket.Conn) { waits <- !c.Behind() })
		return <-waits
	})
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	select {
	case got := <-ended:
		if got.Status != 410 {
			t.Errorf("polled: %+v", got)
		}
	case <-time.After(patience):
		t.Fatal("the poll was not answered")
	}
}

func TestSubprotocol(t *testing.T) {
	s := serve(t)
	for _, tt := range []struct {
		name, offer    string
		status         int
		protocol, body string
	}{
		{"none", "", 101, "", ""},
		{"phoenix alone", "phoenix", 101, "phoenix", ""},
		{"with a token", "phoenix, base64url.bearer.phx.dG9rZW4", 101, "phoenix", ""},
		{"in another order", "base64url.bearer.phx.dG9rZW4,phoenix", 101, "phoenix", ""},
		{"a token alone", "base64url.bearer.phx.dG9rZW4", 403, "", "unsupported Sec-WebSocket-Protocol: want phoenix\n"},
		{"another protocol", "graphql-ws", 403, "", "unsupported Sec-WebSocket-Protocol: want phoenix\n"},
		{"another one beside it", "graphql-ws, phoenix", 101, "phoenix", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := s.dial()
			w.t = t
			if tt.offer == "" {
				w.write(handshake(target))
			} else {
				w.write(handshake(target, "Sec-WebSocket-Protocol: "+tt.offer))
			}
			resp, body := w.answer()
			if got := resp.Header.Get("Sec-WebSocket-Protocol"); resp.StatusCode != tt.status || got != tt.protocol || body != tt.body {
				t.Errorf("got %d %q, protocol %q", resp.StatusCode, body, got)
			}
		})
	}
}
