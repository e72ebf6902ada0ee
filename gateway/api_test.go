package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/gateway/api"
)

// post is a POST of JSON with more header lines.
func post(path, body string, lines ...string) string {
	lines = append([]string{"Host: localhost", "Content-Type: application/json", fmt.Sprintf("Content-Length: %d", len(body))}, lines...)
	return "POST " + path + " HTTP/1.1\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n" + body
}

func withKeys(c *Config) {
	entry := func(name, scopes, key string) string {
		sum := sha256.Sum256([]byte(key))
		return name + ":" + scopes + ":" + hex.EncodeToString(sum[:])
	}
	c.APIOpen = false
	c.APIKeys = entry("shop", "publish", "shop-key") + "," + entry("shop-next", "publish+read", "shop-key-2") + "," + entry("audit", "read", "audit-key")
}

// asked sends a request on a connection of its own.
func (s *served) asked(t *testing.T, request string) (*http.Response, string) {
	t.Helper()
	w := s.dial()
	w.t = t
	w.write(request)
	return w.answer()
}

const (
	publishPath = "/api/topics/room:1/publish"
	goodPublish = `{"event":"e","payload":{}}`
)

func TestRow23_KeysAndScopes(t *testing.T) {
	s := serve(t, withKeys)
	for _, tt := range []struct {
		name, request string
		status        int
		detail        string
		authenticate  string
	}{
		{"no key", post(publishPath, goodPublish), 401, "want Authorization: Bearer KEY", `Bearer realm="ringcast"`},
		{"wrong key", post(publishPath, goodPublish, "Authorization: Bearer nope"), 401, "unknown key", `Bearer realm="ringcast", error="invalid_token"`},
		{"the hash as key", post(publishPath, goodPublish, "Authorization: Bearer "+strings.Repeat("0", 64)), 401, "unknown key", ""},
		{"another scheme", post(publishPath, goodPublish, "Authorization: Basic shop-key"), 401, "want Authorization: Bearer KEY", ""},
		{"two keys", post(publishPath, goodPublish, "Authorization: Bearer shop-key", "Authorization: Bearer shop-key"), 401, "want Authorization: Bearer KEY", ""},
		{"empty key", post(publishPath, goodPublish, "Authorization: Bearer "), 401, "want Authorization: Bearer KEY", ""},
		{"wrong scope", post(publishPath, goodPublish, "Authorization: Bearer audit-key"), 403, "key lacks scope publish", `Bearer realm="ringcast", error="insufficient_scope", scope="publish"`},
		{"wrong scope for reading", "GET /api/topics/room:1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer shop-key\r\n\r\n", 403, "key lacks scope read", ""},
		{"no key for reading", "GET /api/topics/room:1/messages HTTP/1.1\r\nHost: x\r\n\r\n", 401, "want Authorization: Bearer KEY", ""},
		{"no key and a large body", post(publishPath, `{"event":"e","payload":{"a":"`+strings.Repeat("x", 5000)+`"}}`), 401, "want Authorization: Bearer KEY", ""},
		{"good", post(publishPath, goodPublish, "Authorization: Bearer shop-key"), 503, "no link to the topic's owner", ""},
		{"good, the next key", post(publishPath, goodPublish, "authorization: bearer shop-key-2"), 503, "no link to the topic's owner", ""},
		{"good, a large body", post(publishPath, `{"event":"e","payload":{"a":"`+strings.Repeat("x", 50000)+`"}}`, "Authorization: Bearer shop-key"), 503, "no link to the topic's owner", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.status == 503 {
				t.Parallel() // a first link may still come, so the answer takes a while
			}
			resp, body := s.asked(t, tt.request)
			var e struct{ Detail string }
			if err := json.Unmarshal([]byte(body), &e); err != nil || resp.StatusCode != tt.status || e.Detail != tt.detail {
				t.Fatalf("%d %s, want %d %q", resp.StatusCode, body, tt.status, tt.detail)
			}
			if got := resp.Header.Get("WWW-Authenticate"); tt.authenticate != "" && got != tt.authenticate || tt.status == 401 && got == "" {
				t.Errorf("WWW-Authenticate: %s", got)
			}
		})
	}
}

func TestRow23_WithoutKeysTheAPIIsOff(t *testing.T) {
	s := serve(t, func(c *Config) { c.APIOpen = false })
	for _, path := range []string{publishPath, "/api/publish", "/api/broadcast"} {
		resp, body := s.asked(t, post(path, goodPublish, "Authorization: Bearer x"))
		if resp.StatusCode != 403 || !strings.Contains(body, `"error":"disabled"`) {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
}

var inMillis = regexp.MustCompile(`("retry_after_ms":)[1-9][0-9]*`)

// A key that asks for too much waits; others do not.
func TestRow23_ARateForEachKey(t *testing.T) {
	s := serve(t, withKeys, func(c *Config) { c.APIRate, c.JoinTimeout = 2, 10*time.Millisecond })
	read := func(key string) (*http.Response, string) {
		return s.asked(t, "GET /api/topics/room:1/count HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+key+"\r\n\r\n")
	}
	var resp *http.Response
	var body string
	for range 100 { // two are let through at once, and two more each second
		if resp, body = read("audit-key"); resp.StatusCode != 503 {
			break
		}
	}
	const want = `{"error":"rate_limited","detail":"the key may have 2 requests or messages a second here","definite":true,"retry_after_ms":N}` + "\n"
	if resp.StatusCode != 429 || inMillis.ReplaceAllString(body, "${1}N") != want || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("%d %s, Retry-After %q", resp.StatusCode, body, resp.Header.Get("Retry-After"))
	}
	if resp, body = read("shop-key-2"); resp.StatusCode != 503 {
		t.Errorf("another key: %d %s", resp.StatusCode, body)
	}
	if n := s.api.Limited(); n != 1 {
		t.Errorf("%d counted", n)
	}
}

// A user who reads too much with a token waits, as one who publishes does; others do not.
func TestRow23_ARateForEachUserWhoReads(t *testing.T) {
	for _, path := range []string{"/api/topics/room:1/messages", "/api/topics/room:1/subscribers", "/api/topics/room:1/count", "/api/cluster"} {
		s := serve(t, guarded, func(c *Config) { c.Limits.Publishes, c.JoinTimeout = 2, 10*time.Millisecond })
		read := func(token string) (resp *http.Response, body string) {
			return s.asked(t, "GET "+path+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+token+"\r\n\r\n")
		}
		neo, trinity := surfaceToken(t, "neo"), surfaceToken(t, "trinity")
		var resp *http.Response
		var body string
		for range 100 { // two are let through at once, and two more each second
			if resp, body = read(neo); resp.StatusCode != 503 && resp.StatusCode != 200 {
				break
			}
		}
		const want = `{"error":"rate_limited","detail":"the user may have 2 requests or messages a second here","definite":true,"retry_after_ms":N}` + "\n"
		if resp.StatusCode != 429 || inMillis.ReplaceAllString(body, "${1}N") != want || resp.Header.Get("Retry-After") != "1" {
			t.Errorf("%s: %d %s, Retry-After %q", path, resp.StatusCode, body, resp.Header.Get("Retry-After"))
		}
		if resp, body = read(trinity); resp.StatusCode != 503 && resp.StatusCode != 200 {
			t.Errorf("%s: another user: %d %s", path, resp.StatusCode, body)
		}
		if n := s.api.Limited(); n != 1 {
			t.Errorf("%s: %d counted", path, n)
		}
	}
}

// All messages of a request count, whichever way it comes.
func TestRow23_EachMessageOfABatchCounts(t *testing.T) {
	for path, message := range map[string]string{
		"/api/publish":                   `{"topic":"room:1","event":"e"}`,
		api.RealtimePrefix + "broadcast": `{"topic":"room:1","event":"e"}`,
	} {
		s := serve(t, withKeys, func(c *Config) { c.APIRate, c.PublishTimeout = 2, 100*time.Millisecond })
		batch := post(path, `{"messages":[`+strings.Repeat(message+",", 999)+message+`]}`, "Authorization: Bearer shop-key")
		if resp, body := s.asked(t, batch); resp.StatusCode >= 400 && resp.StatusCode < 500 {
			t.Errorf("%s: %d %.200s", path, resp.StatusCode, body)
		}
		if resp, body := s.asked(t, batch); resp.StatusCode != 429 { // for eight minutes
			t.Errorf("%s, the next one: %d %.200s", path, resp.StatusCode, body)
		}
	}
}

func TestRow23_UnsubscribeAndRevokeNeedTheScopeKick(t *testing.T) {
	s := serve(t, withKeys)
	for _, path := range []string{"/api/topics/room:1/unsubscribe", "/api/revoke"} {
		for key, want := range map[string]string{
			"shop-key-2": `{"error":"forbidden","detail":"key lacks scope kick","definite":true}` + "\n",
			"nobody's":   `{"error":"unauthorized","detail":"unknown key","definite":true}` + "\n",
		} {
			if _, body := s.asked(t, post(path, `{"session":"1-1"}`, "Authorization: Bearer "+key)); body != want {
				t.Errorf("%s with %s: %s", path, key, body)
			}
		}
	}
}

func TestRow24_BadBodies(t *testing.T) {
	s := serve(t)
	const batch, broadcast, unsubscribe = "/api/publish", "/api/broadcast", "/api/topics/room:1/unsubscribe"
	deep := strings.Repeat(`{"a":`, 33) + "1" + strings.Repeat("}", 33)
	for _, tt := range []struct {
		path, body string
		status     int
		want       string
	}{
		{publishPath, ``, 400, `{"error":"bad_request","detail":"bad JSON: offset 0: unexpected end","offset":0}`},
		{publishPath, `event=e`, 400, `{"error":"bad_request","detail":"bad JSON: offset 0: unexpected e","offset":0}`},
		{publishPath, goodPublish + `x`, 400, `{"error":"bad_request","detail":"bad JSON: offset 26: data after the end","offset":26}`},
		{publishPath, `{"event":"e","payload":{},"event":"f"}`, 400, `{"error":"bad_request","detail":"offset 26: duplicate key \"event\"","offset":26}`},
		{publishPath, `{"event":"e","payload":{},"to":1}`, 400, `{"error":"bad_request","detail":"offset 31: unknown field \"to\"","offset":31}`},
		{publishPath, `{"event":"e","topic":"a:b"}`, 400, `{"error":"bad_request","detail":"offset 21: unknown field \"topic\"","offset":21}`},
		{publishPath, `{"payload":{}}`, 400, `{"error":"bad_request","detail":"offset 0: missing field \"event\"","offset":0}`},
		{publishPath, `{"event":7}`, 400, `{"error":"bad_request","detail":"offset 9: want a string","offset":9}`},
		{publishPath, `{"event":""}`, 400, `{"error":"bad_request","detail":"offset 0: invalid event: empty","offset":0}`},
		{publishPath, `{"event":"phx_join"}`, 400, `{"error":"bad_request","detail":"offset 0: reserved event","offset":0}`},
		{publishPath, `{"event":"e","payload":[]}`, 400, `{"error":"bad_request","detail":"offset 23: payload must be an object","offset":23}`},
		{publishPath, `{"event":"e","payload":` + deep + `}`, 400, `{"error":"bad_request","detail":"offset 23: payload: depth > 32","offset":23}`},
		{publishPath, `{"event":"e","payload":{},"binary":""}`, 400, `{"error":"bad_request","detail":"offset 35: want true or false","offset":35}`},
		{publishPath, `{"event":"e","payload":{},"binary":true}`, 400, `{"error":"bad_request","detail":"offset 23: want a string","offset":23}`},
		{publishPath, `{"event":"e","binary":true}`, 400, `{"error":"bad_request","detail":"offset 0: missing field \"payload\"","offset":0}`},
		{publishPath, `{"event":"e","binary":true,"payload":"a"}`, 400, `{"error":"bad_request","detail":"offset 37: payload: illegal base64 data at input byte 0","offset":37}`},
		{publishPath, `{"event":"e","binary":true,"payload":"AA\nAA"}`, 400, `{"error":"bad_request","detail":"offset 37: payload: want base64 in one line","offset":37}`},
		{publishPath, `[]`, 400, `{"error":"bad_request","detail":"offset 0: want an object","offset":0}`},
		{"/api/topics/a%20b/publish", goodPublish, 400, `{"error":"bad_request","detail":"invalid topic: only ASCII letters, digits and _ . : - are allowed"}`},
		{"/api/topics/phoenix/publish", goodPublish, 400, `{"error":"bad_request","detail":"invalid topic: reserved"}`},
		{"/api/topics/room/publish", goodPublish, 404, `{"error":"unmatched_topic","detail":"TOPICS has no pattern for it"}`},
		{"/api/nothing", goodPublish, 404, `{"error":"not_found","detail":"Cannot POST /api/nothing"}`},
		{publishPath, `{"event":"e","payload":{"a":"` + strings.Repeat("x", 64<<10) + `"}}`, 413,
			`{"error":"too_large","detail":"a message carries at most 65536 bytes","offset":0,"definite":true}`},
		{batch, `{}`, 400, `{"error":"bad_request","detail":"offset 0: missing field \"messages\"","offset":0}`},
		{batch, `{"messages":[{"topic":"a:b","event":"e"},{"topic":"a","event":"e"}]}`, 400, `{"error":"bad_request","detail":"offset 41: topic \"a\": unmatched topic","offset":41}`},
		{batch, `{"messages":[{"event":"e"}]}`, 400, `{"error":"bad_request","detail":"offset 13: missing field \"topic\"","offset":13}`},
		{batch, `{"messages":[{"topic":"a:b","event":"e","id":""}]}`, 400, `{"error":"bad_request","detail":"offset 13: id: want 1 to 128 bytes","offset":13}`},
		{broadcast, `{"topics":["a:b","a:b"],"event":"e"}`, 400, `{"error":"bad_request","detail":"offset 17: topic \"a:b\": comes twice","offset":17}`},
		{broadcast, `{"topics":"a:b","event":"e"}`, 400, `{"error":"bad_request","detail":"offset 10: want an array","offset":10}`},
		{unsubscribe, `{}`, 400, `{"error":"bad_request","detail":"bad target: want one of user, token id and session"}`},
		{unsubscribe, `{"session":"1-1","user":"neo"}`, 400, `{"error":"bad_request","detail":"bad target: want one of user, token id and session"}`},
		{unsubscribe, `{"session":"1"}`, 400, `{"error":"bad_request","detail":"bad target: no session id"}`},
		{unsubscribe, `{"user":"neo"}`, 400, `{"error":"bad_request","detail":"bad target: clients have no users and no tokens here"}`},
		{unsubscribe, `{"jti":"1"}`, 400, `{"error":"bad_request","detail":"offset 7: unknown field \"jti\"","offset":7}`},
		{"/api/topics/room/unsubscribe", `{}`, 404, `{"error":"unmatched_topic","detail":"TOPICS has no pattern for it"}`},
		{broadcast, `{"event":"e"}`, 400, `{"error":"bad_request","detail":"offset 0: missing field \"topics\"","offset":0}`},
	} {
		resp, body := s.asked(t, post(tt.path, tt.body))
		if resp.StatusCode != tt.status || body != tt.want+"\n" || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %.60s: %d %s\nwant %d %s", tt.path, tt.body, resp.StatusCode, body, tt.status, tt.want)
		}
	}
}

func TestRow24_ContentTypeAndIdempotencyKey(t *testing.T) {
	s := serve(t)
	replace := func(line string) string {
		return strings.Replace(post(publishPath, goodPublish), "Content-Type: application/json", line, 1)
	}
	for name, tt := range map[string]struct {
		request string
		status  int
		detail  string
	}{
		"none":          {replace("X: y"), 415, "want Content-Type: application/json"},
		"form":          {replace("Content-Type: application/x-www-form-urlencoded"), 415, "want Content-Type: application/json"},
		"suffix":        {replace("Content-Type: application/json-patch+json"), 415, "want Content-Type: application/json"},
		"charset":       {replace("Content-Type: application/json; charset=latin1"), 415, "want Content-Type: application/json"},
		"gzip":          {post(publishPath, goodPublish, "Content-Encoding: gzip"), 415, "want no Content-Encoding"},
		"good charset":  {replace("Content-Type: Application/JSON; charset=UTF-8"), 503, "no link to the topic's owner"},
		"long key":      {post(publishPath, goodPublish, "Idempotency-Key: "+strings.Repeat("x", 129)), 400, "Idempotency-Key: want 1 to 128 bytes"},
		"empty key":     {post(publishPath, goodPublish, "Idempotency-Key: "), 400, "Idempotency-Key: want 1 to 128 bytes"},
		"two keys":      {post(publishPath, goodPublish, "Idempotency-Key: a", "Idempotency-Key: b"), 400, "Idempotency-Key: want one"},
		"GET":           {"GET " + publishPath + " HTTP/1.1\r\nHost: x\r\n\r\n", 405, "Method Not Allowed"},
		"too long body": {post(publishPath, strings.Repeat(" ", 1<<20+1)), 413, "a request has at most 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.status == 503 {
				t.Parallel()
			}
			resp, body := s.asked(t, tt.request)
			var e struct{ Detail string }
			if json.Unmarshal([]byte(body), &e) != nil || resp.StatusCode != tt.status || e.Detail != tt.detail {
				t.Errorf("%d %s, want %d %q", resp.StatusCode, body, tt.status, tt.detail)
			}
		})
	}
}

func TestRow25_LongBatches(t *testing.T) {
	s := serve(t, func(c *Config) { c.APIMaxBody = 16 << 20 })
	long := strings.Repeat(`{"topic":"a:b","event":"e"},`, 10_000) + `{"topic":"a:b","event":"e"}`
	for path, body := range map[string]string{
		"/api/publish":   `{"messages":[` + long + `]}`,
		"/api/broadcast": `{"event":"e","topics":[` + strings.Repeat(`"a:b",`, 10_000) + `"a:c"]}`,
	} {
		resp, answer := s.asked(t, post(path, body))
		if resp.StatusCode != 400 || !strings.Contains(answer, "batch > 1000") {
			t.Errorf("%s: %d %s", path, resp.StatusCode, answer)
		}
	}
	resp, answer := s.asked(t, post("/api/publish", strings.Repeat("\n", 8<<20)))
	if resp.StatusCode != 400 || !strings.Contains(answer, `"offset":8388608`) {
		t.Errorf("newlines: %d %s", resp.StatusCode, answer)
	}
}

// What is too large is refused before its body is read, to who may call; it counts as a request of the key, whatever its scopes.
func TestRow25_TooLongABody(t *testing.T) {
	s := serve(t, withKeys, guarded, func(c *Config) { c.APIRate = 2 })
	token := surfaceToken(t, "neo")
	const broadcast = api.RealtimePrefix + "broadcast"
	for _, tt := range []struct {
		name, path, bearer string
		status             int
		word               string
	}{
		{"nobody", publishPath, "nope", 401, "unauthorized"},
		{"a key", publishPath, "shop-key", 413, "too_large"},
		{"a key without the scope", publishPath, "audit-key", 413, "too_large"},
		{"a broadcast with a key", broadcast, "shop-key", 413, "too_large"},
		{"a broadcast with a token", broadcast, token, 413, "too_large"},
		{"a broadcast of nobody", broadcast, "nope", 401, "unauthorized"},
	} {
		header := post(tt.path, "", "Authorization: Bearer "+tt.bearer)
		resp, body := s.asked(t, strings.Replace(header, "Content-Length: 0", "Content-Length: 1048577", 1))
		if resp.StatusCode != tt.status || !strings.Contains(body, `"error":"`+tt.word+`"`) {
			t.Errorf("%s: %d %s, want %d %s", tt.name, resp.StatusCode, body, tt.status, tt.word)
		}
	}
	header := strings.Replace(post(publishPath, "", "Authorization: Bearer shop-key-2"), "Content-Length: 0", "Content-Length: 1048577", 1)
	for range 100 { // two are let through at once, and two more each second
		if resp, _ := s.asked(t, header); resp.StatusCode == 429 {
			return
		}
	}
	t.Error("a key may have any number of requests that are too large")
}

func TestRow26_AnOwnerOutOfReach(t *testing.T) {
	s := serve(t)
	resp, body := s.asked(t, post(publishPath, goodPublish))
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" ||
		body != `{"error":"unavailable","detail":"no link to the topic's owner","definite":true}`+"\n" {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	resp, body = s.asked(t, post("/api/publish", `{"messages":[{"topic":"a:b","event":"e","id":"x"}]}`))
	if resp.StatusCode != 200 ||
		body != `{"results":[{"topic":"a:b","error":"unavailable","detail":"no link to the topic's owner","publish_id":"x","definite":true}],"failed":1}`+"\n" {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestRow27_RequestsThatTwoServersReadDifferently(t *testing.T) {
	s := serve(t)
	const second = "GET /api/cluster HTTP/1.1\r\nHost: x\r\n\r\n"
	head := "POST " + publishPath + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	for name, request := range map[string]string{
		"CL and TE":                   head + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX",
		"TE and CL":                   head + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n",
		"two lengths":                 head + "Content-Length: 26\r\nContent-Length: 0\r\n\r\n" + goodPublish,
		"two Hosts":                   head + "Host: y\r\nContent-Length: 26\r\n\r\n" + goodPublish,
		"two Hosts, GET":              "GET / HTTP/1.1\r\nHost: x\r\nhost: y\r\n\r\n",
		"line feed in an extension":   head + "Transfer-Encoding: chunked\r\n\r\n1a;a\nb\r\n" + goodPublish + "\r\n0\r\n\r\n",
		"chunk size that is negative": head + "Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
		"unknown transfer encoding":   head + "Transfer-Encoding: xchunked\r\n\r\n" + goodPublish,
	} {
		t.Run(name, func(t *testing.T) {
			w := s.dial()
			w.t = t
			w.write(request + second)
			resp, body := w.answer()
			if resp.StatusCode != 400 {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
			if rest, err := io.ReadAll(w.br); len(rest) > 0 {
				t.Errorf("the connection goes on: %.60q, %v", rest, err)
			}
		})
	}
}
