package cluster_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/cluster"
	"github.com/ringcast/ringcast/gateway"
)

// What the real library does stands in TestRealClients. Here is what it does not do.

const topicR = "realtime:lobby"

func dialRealtime(t *testing.T, g *cluster.Gateway) *socket {
	t.Helper()
	return dial(t, "client", strings.Replace(g.WebSocketURL(), "/socket/", "/realtime/v1/", 1))
}

func TestRealtime_PresenceRefusals(t *testing.T) {
	c := start(t, func(cfg *cluster.Config) { cfg.Gateways = 1; cfg.Gateway = quick })
	s := dialRealtime(t, c.Gateways[0])
	refusal := func(ref, reason string) string {
		return `["1","` + ref + `","` + topicR + `","phx_reply",{"response":{"reason":"` + reason + `"},"status":"error"}]`
	}
	ok := func(ref string) string {
		return `["1","` + ref + `","` + topicR + `","phx_reply",{"response":{},"status":"ok"}]`
	}
	s.say(`["1","1","` + topicR + `","phx_join",{"config":{"presence":{"key":"toString","enabled":true}}}]`)
	s.expect(refusal("1", "invalid presence key: reserved"))
	// Of the wrong types: not asked for.
	s.say(`["1","2","` + topicR + `","phx_join",{"config":{"presence":{"key":7,"enabled":"yes"},"broadcast":[]}}]`)
	s.expect(ok("2"))
	for _, tt := range []struct{ payload, reason string }{
		{`{}`, "invalid presence: event: want track or untrack"},
		{`{"event":"dance"}`, "invalid presence: event: want track or untrack"},
		{`[]`, `invalid presence: want {\"event\":\"track\",\"payload\":{…}}`},
		{`{"event":"track","payload":[]}`, "invalid presence meta: want an object"},
		{`{"event":"track","payload":{"phx_ref":"mine"}}`, "invalid presence meta: phx_ref is reserved"},
	} {
		s.say(`["1","3","` + topicR + `","presence",` + tt.payload + `]`)
		s.expect(refusal("3", tt.reason))
	}
	s.say(`["1","4","` + topicR + `","presence",{"type":"presence","event":"untrack"}]`)
	s.expect(ok("4"))
	// Two at once: the first has no outcome of its own, and the channel is present with the second.
	s.say(`["1","5","` + topicR + `","presence",{"event":"track","payload":{"name":"a"}}]`)
	s.say(`["1","6","` + topicR + `","presence",{"event":"TRACK","payload":{"name":"b"}}]`)
	state := ""
	for answers := 0; answers < 2 || !strings.Contains(state, `"name":"b"`); {
		frame := s.hear()
		if strings.Contains(frame, "phx_reply") {
			answers++
		} else {
			state = frame
		}
	}
	s.say(`["1","7","` + topicR + `","phx_leave",{}]`)
	for s.hear() != ok("7") { // diffs may come before it
	}
	s.expect(`["1","1","` + topicR + `","phx_close",{}]`)
}

// broadcastHTTP posts as realtime-js does, and returns the status and the body.
func broadcastHTTP(t *testing.T, g *cluster.Gateway, path, contentType, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+g.Addr+"/realtime/v1/api/broadcast"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(answer)
}

const (
	oneBroadcast = `{"messages":[{"topic":"lobby","event":"shout","payload":{"n":1},"private":false}]}`
	oneEvent     = "/lobby/events/shout"
	jsonBody     = "application/json"
	bytesBody    = "application/octet-stream"
)

func TestRealtime_BroadcastsByHTTP(t *testing.T) {
	c := start(t)
	s := dialRealtime(t, c.Gateways[1])
	s.join(topicR)
	for _, tt := range []struct{ path, kind, body, heard string }{
		{"", jsonBody, oneBroadcast, `["1",null,"realtime:lobby","broadcast",{"type":"broadcast","event":"shout","payload":{"n":1}}]`},
		{oneEvent, jsonBody, `[1, "two"]`, `["1",null,"realtime:lobby","broadcast",{"type":"broadcast","event":"shout","payload":[1, "two"]}]`},
		{"/lobby/events/a%20%22b%22%2F?private=true", jsonBody, `7`, `["1",null,"realtime:lobby","broadcast",{"type":"broadcast","event":"a \"b\"/","payload":7}]`},
		{"", jsonBody, `{"messages":[{"topic":"lobby","event":"bare"}]}`, `["1",null,"realtime:lobby","broadcast",{"type":"broadcast","event":"bare"}]`},
		{oneEvent, bytesBody, "\x00\xff", "\x04\x0e\x05\x00\x00realtime:lobbyshout\x00\xff"},
	} {
		if resp, body := broadcastHTTP(t, c.Gateways[0], tt.path, tt.kind, tt.body); resp.StatusCode != http.StatusAccepted {
			t.Fatalf("%s %s: %d %s", tt.path, tt.body, resp.StatusCode, body)
		}
		if heard := s.hear(); heard != tt.heard {
			t.Errorf("heard %q, want %q", heard, tt.heard)
		}
	}
	for _, tt := range []struct {
		path, kind, body string
		status           int
		detail           string
	}{
		{"", jsonBody, `{"messages":[{"topic":"lobby","event":"e"},{"topic":"no topic","event":"e"}]}`, 400, "invalid topic"},
		{"", jsonBody, `{"messages":[{"topic":"lobby"}]}`, 400, "missing field"},
		{"", jsonBody, `{"messages":[{"topic":"lobby","event":"e","payload":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}]}`, 400, "depth"},
		{"", jsonBody, `{"messages":7}`, 400, "want an array"},
		{"", "text/plain", oneBroadcast, 415, "want Content-Type"},
		{oneEvent, "text/plain", "hi", 415, "want Content-Type"},
		{oneEvent, jsonBody, "{", 400, "unexpected end"},
		{oneEvent, jsonBody, `"` + strings.Repeat("x", 70_000) + `"`, 413, "at most 65536 bytes"},
		{"/lobby/events/phx_join", bytesBody, "x", 400, "reserved event"},
		{"/no%20topic/events/e", jsonBody, "{}", 400, "invalid topic"},
	} {
		if resp, body := broadcastHTTP(t, c.Gateways[0], tt.path, tt.kind, tt.body); resp.StatusCode != tt.status || !strings.Contains(body, tt.detail) {
			t.Errorf("%s %.60s: %d %s, want %d %s", tt.path, tt.body, resp.StatusCode, body, tt.status, tt.detail)
		}
	}
	s.silence() // nothing of a batch that is refused was published
}

// A page from elsewhere may call, and read the answers, if its origin may come at all.
func TestRealtime_BroadcastsByHTTPAcrossOrigins(t *testing.T) {
	c := start(t, func(cfg *cluster.Config) {
		cfg.Gateways = 1
		cfg.Gateway = func(cfg *gateway.Config) { quick(cfg); cfg.AllowedOrigins = []string{"https://app.example"} }
	})
	for origin, want := range map[string]int{"https://app.example": 202, "https://evil.example": 403} {
		resp, body := broadcastHTTP(t, c.Gateways[0], "", jsonBody, oneBroadcast, "Origin: "+origin)
		if allowed := resp.Header.Get("Access-Control-Allow-Origin"); resp.StatusCode != want || (allowed == origin) != (want == 202) {
			t.Errorf("%s: %d %s, allowed %q", origin, resp.StatusCode, body, allowed)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, "http://"+c.Gateways[0].Addr+"/realtime/v1/api/broadcast"+oneEvent, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Origin", origin)
		req.Header.Set("Access-Control-Request-Headers", "apikey,content-type")
		resp, err = http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if headers := resp.Header.Get("Access-Control-Allow-Headers"); (resp.StatusCode == 204 && headers == "apikey,content-type") != (want == 202) {
			t.Errorf("OPTIONS from %s: %d, headers %q", origin, resp.StatusCode, headers)
		}
	}
}

// The params of any join hold here too, beside those of the library.
func TestRealtime_PositionsAndSlow(t *testing.T) {
	c := start(t, func(cfg *cluster.Config) { cfg.Gateways = 1; cfg.Gateway = quick })
	s := dialRealtime(t, c.Gateways[0])
	s.say(`["1","1","` + topicR + `","phx_join",{"config":{},"slow":"never"}]`)
	if heard := s.hear(); !strings.Contains(heard, `"reason":"invalid slow: `) {
		t.Fatalf("heard %s", heard)
	}
	join := regexp.MustCompile(`^\["2","2","realtime:lobby","phx_reply",\{"response":\{"since":"([0-9a-z]+):0","recovered":false\},"status":"ok"\}\]$`)
	s.say(`["2","2","` + topicR + `","phx_join",{"config":{"broadcast":{"self":true}},"since":null,"slow":"latest"}]`)
	reply := s.hear()
	m := join.FindStringSubmatch(reply)
	if m == nil {
		t.Fatalf("heard %s", reply)
	}
	s.say(`["2",null,"` + topicR + `","broadcast",{"type":"broadcast","event":"shout","payload":{}}]`)
	s.expect(`["2","` + m[1] + `:1","` + topicR + `","broadcast",{"type":"broadcast","event":"shout","payload":{}}]`)
}

func TestRealtime_WhoMayBroadcastByHTTP(t *testing.T) {
	sum := sha256.Sum256([]byte("shop-key"))
	keys := "shop:publish:" + hex.EncodeToString(sum[:])
	closed := start(t, func(cfg *cluster.Config) {
		cfg.Gateways = 1
		cfg.Gateway = func(cfg *gateway.Config) { quick(cfg); cfg.APIOpen, cfg.APIKeys = false, keys }
	})
	tokens := start(t, func(cfg *cluster.Config) {
		cfg.Gateways = 1
		cfg.Gateway = func(cfg *gateway.Config) { quick(cfg); withAuth(cfg); cfg.APIOpen, cfg.APIKeys = false, keys }
	})
	slow := start(t, func(cfg *cluster.Config) {
		cfg.Gateways = 1
		cfg.Gateway = func(cfg *gateway.Config) {
			quick(cfg)
			withAuth(cfg)
			cfg.APIOpen, cfg.APIKeys, cfg.Limits.Publishes = false, keys, 1
		}
	})
	neo, trinity := tokenFor("neo", time.Minute, []string{"realtime:lobby"}), tokenFor("trinity", time.Minute, []string{"realtime:lobby"})
	const batch = 500 // takes more time, at the rate of a message a second, than a test has
	many := `{"messages":[` + strings.Repeat(`{"topic":"lobby","event":"shout"},`, batch) + `{"topic":"lobby","event":"shout"}]}`
	large := `{"messages":[{"topic":"lobby","event":"shout","payload":{"text":"` + strings.Repeat("x", 50_000) + `"}}]}`
	for _, tt := range []struct {
		name    string
		cluster *cluster.Cluster
		body    string
		header  string
		status  int
	}{
		{"keys: none", closed, oneBroadcast, "X: y", 401},
		{"keys: the library's apikey", closed, oneBroadcast, "Apikey: shop-key", 202},
		{"keys: a bearer", closed, oneBroadcast, "Authorization: Bearer shop-key", 202},
		{"keys: another", closed, oneBroadcast, "Apikey: nope", 401},
		{"tokens: none", tokens, oneBroadcast, "Apikey: nope", 401},
		{"tokens: that of the topic", tokens, oneBroadcast, "Authorization: Bearer " + neo, 202},
		{"tokens: and a large body", tokens, large, "Authorization: Bearer " + neo, 202},
		{"tokens: another topic", tokens, strings.Replace(oneBroadcast, "lobby", "hall", 1), "Authorization: Bearer " + neo, 403},
		{"tokens: an API key", tokens, oneBroadcast, "Apikey: shop-key", 202},
		{"a rate: a batch goes through whole", slow, many, "Authorization: Bearer " + neo, 202},
		{"a rate: the next waits for it", slow, oneBroadcast, "Authorization: Bearer " + neo, 429},
		{"a rate: of another user", slow, oneBroadcast, "Authorization: Bearer " + trinity, 202},
		{"a rate: of an API key", slow, oneBroadcast, "Apikey: shop-key", 202},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := broadcastHTTP(t, tt.cluster.Gateways[0], "", jsonBody, tt.body, tt.header)
			if resp.StatusCode != tt.status {
				t.Errorf("%d %s, want %d", resp.StatusCode, body, tt.status)
			}
		})
	}
	// Those that are refused for what they say in their headers. Nothing of the body is sent: what a server has not read when it
	// closes may take its answer along.
	for _, tt := range []struct {
		name    string
		cluster *cluster.Cluster
		length  int
		header  string
		status  int
	}{
		{"tokens: none, and a large body", tokens, 50_000, "X: y", 401},
		{"a rate: too large a body waits too", slow, 2 << 20, "Authorization: Bearer " + neo, 429},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", tt.cluster.Gateways[0].Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "POST /realtime/v1/api/broadcast HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%s\r\nContent-Length: %d\r\n\r\n", tt.header, tt.length)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != tt.status {
				t.Errorf("status %d, want %d", resp.StatusCode, tt.status)
			}
		})
	}
}
