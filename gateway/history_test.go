package gateway

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/proto/linkpb"
)

func TestHistoryRefuses(t *testing.T) {
	s := serve(t, func(c *Config) {
		c.Topics, c.PublishTimeout, c.JoinTimeout = "topics:*,room:*", 10*time.Millisecond, 50*time.Millisecond
	})
	for target, want := range map[string]string{
		"/api/topics/topics:x/messages":                  "400 invalid topic name, must be between 2 and 64",
		"/api/topics/other:x/messages":                   "404 TOPICS has no pattern for it",
		"/api/topics/room:%20/messages":                  "400 invalid topic: only ASCII letters",
		"/api/topics/room:%zz/messages":                  "400 invalid topic: invalid URL escape",
		"/api/topics/reg:x/messages":                     "400 invalid topic: reserved",
		"/api/topics/room:1/messages?since=17":           `400 invalid since: want "epoch:offset"`,
		"/api/topics/room:1/messages?limit=0":            "400 invalid limit: want 1 to 1000",
		"/api/topics/room:1/messages?limit=1001":         "400 invalid limit: want 1 to 1000",
		"/api/topics/room:1/messages?limit=ten":          "400 invalid limit: want 1 to 1000",
		"/api/topics/room%3A1/messages?since=a:1&limit=": "503 no link to the topic's owner",
	} {
		w := s.dial()
		w.write("GET " + target + " HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, body := w.answer()
		var e struct{ Detail string }
		if err := json.Unmarshal([]byte(body), &e); err != nil {
			t.Errorf("%s: %s: %v", target, body, err)
		}
		if got := resp.Status[:4] + e.Detail; !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
		if retry := resp.Header.Get("Retry-After"); (retry != "") != (resp.StatusCode == http.StatusServiceUnavailable) {
			t.Errorf("%s: Retry-After %q", target, retry)
		}
	}
}

func TestAppendHistory(t *testing.T) {
	pos := func(offset uint64) *linkpb.Position { return &linkpb.Position{Epoch: 46, Offset: offset} }
	message := func(offset uint64, payload string, binary bool) *hub.Message {
		return hub.NewMessage("t:a", &linkpb.Message{Position: pos(offset), Event: "e\"", Payload: []byte(payload), Binary: binary})
	}
	for _, test := range []struct {
		past router.Past
		want string
	}{
		{router.Past{Next: hub.Position{Epoch: 46, Offset: 7}}, `{"topic":"t:a","messages":[],"next":"1a:7","recovered":false,"more":false}`},
		{
			router.Past{
				Messages:  []*hub.Message{message(1, `{"a": 1.0,"b":"\u003c<"}`, false), message(2, "", false), message(3, "\x00\xff", true)},
				Next:      hub.Position{Epoch: 46, Offset: 3},
				Recovered: true, More: true,
			},
			`{"topic":"t:a","messages":[{"position":"1a:1","event":"e\"","payload":{"a": 1.0,"b":"\u003c<"}},` +
				`{"position":"1a:2","event":"e\"","payload":{}},{"position":"1a:3","event":"e\"","binary":true,"payload":"AP8="}],` +
				`"next":"1a:3","recovered":true,"more":true}`,
		},
	} {
		if got := string(appendHistory(nil, "t:a", &test.past)); got != test.want+"\n" {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
}
