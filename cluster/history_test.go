package cluster_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// page is an answer of GET /api/topics/T/messages.
type page struct {
	Topic    string
	Messages []struct {
		Position, Event string
		Payload         json.RawMessage
		Binary          bool
	}
	Next            string
	Recovered, More bool
}

func readPage(t *testing.T, base, query string) (p page) {
	t.Helper()
	resp, err := http.Get(base + "/api/topics/room%3A1/messages?" + query)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode == http.StatusOK {
		err = json.Unmarshal(body, &p)
	}
	if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s: %v: %s %s", query, err, resp.Status, body)
	}
	return p
}

// Whoever cannot hold a socket reads a topic over HTTP, page by page, from any gateway, with the positions that channels
// have, and while messages come.
func TestHistory_PagesOverHTTP(t *testing.T) {
	c := start(t)
	base := strings.TrimSuffix(strings.Replace(c.Gateways[1].URL(), "ws://", "http://", 1), "/socket")
	empty := readPage(t, base, "since=")
	if len(empty.Messages) != 0 || empty.Recovered || empty.More || !strings.HasSuffix(empty.Next, ":0") {
		t.Errorf("a topic that nobody uses: %+v", empty)
	}
	s := dial(t, "client", c.Gateways[0].WebSocketURL())
	start, _ := s.joinSince("1", "room:1", "null")
	if start != empty.Next {
		t.Errorf("HTTP says %s, a join %s", empty.Next, start)
	}
	for i := range 7 {
		s.say(fmt.Sprintf(`["1",null,"room:1","n",{"i":%d}]`, i))
		s.hearMessage("1", "room:1")
	}
	epoch, _, _ := strings.Cut(start, ":")
	got, pages := "", 0
	for p := (page{Next: start, More: true}); p.More; pages++ {
		p = readPage(t, base, "limit=3&since="+p.Next)
		if p.Topic != "room:1" || !p.Recovered {
			t.Errorf("page %+v", p)
		}
		for _, m := range p.Messages {
			got += fmt.Sprintf("%s %s %s ", strings.TrimPrefix(m.Position, epoch), m.Event, m.Payload)
		}
	}
	if want := `:1 n {"i":0} :2 n {"i":1} :3 n {"i":2} :4 n {"i":3} :5 n {"i":4} :6 n {"i":5} :7 n {"i":6} `; got != want || pages != 3 {
		t.Errorf("%d pages: %s", pages, got)
	}
	if p := readPage(t, base, "limit=2"); len(p.Messages) != 2 || p.Messages[1].Position != epoch+":7" || p.Next != epoch+":7" || p.More {
		t.Errorf("the newest: %+v", p)
	}
	if p := readPage(t, base, "since=abc:3"); p.Recovered || len(p.Messages) != 7 {
		t.Errorf("since a place that never was: %+v", p)
	}
}
