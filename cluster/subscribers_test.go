package cluster_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/ringcast/ringcast/shared/ring"
)

// subscriberList is what a gateway answers about a topic's subscribers.
type subscriberList struct {
	Topic    string
	Count    int
	Gateways []struct {
		Gateway string
		Count   int
	}
	Subscribers []struct{ ID, Gateway string }
}

func subscribers(t *testing.T, addr, topic, query string) (list subscriberList) {
	t.Helper()
	status, body := fetch(addr, "/api/topics/"+topic+"/subscribers"+query)
	if status != http.StatusOK {
		t.Fatalf("%s%s: %d %s", topic, query, status, body)
	}
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// Any gateway lists the subscribers of all gateways.
func TestG8_SubscribersOfAllGatewaysFromAnyOfThem(t *testing.T) {
	c := start(t)
	for i := range 5 {
		dial(t, "client", c.Gateways[i%2].WebSocketURL()).join("room:g8")
	}
	for _, gw := range c.Gateways {
		var list subscriberList
		eventually(t, "all five are listed", func() bool {
			list = subscribers(t, gw.Addr, "room:g8", "")
			return list.Count == 5
		})
		if got := fmt.Sprint(list.Topic, list.Gateways); got != "room:g8[{gw-a 3} {gw-b 2}]" {
			t.Errorf("%s answers %s", gw.ID, got)
		}
		var ids []string
		for _, s := range list.Subscribers {
			ids = append(ids, s.Gateway+" "+s.ID)
		}
		slices.Sort(ids)
		if ids = slices.Compact(ids); len(ids) != 5 {
			t.Errorf("%d different subscribers: %v", len(ids), ids)
		}
		if list = subscribers(t, gw.Addr, "room:g8", "?limit=2"); list.Count != 5 || len(list.Subscribers) != 2 {
			t.Errorf("with limit 2: %v", list)
		}
		if _, body := fetch(gw.Addr, "/api/topics/room%3ag8/subscribers?count=true"); body != `{"topic":"room:g8","count":5}` {
			t.Errorf("count: %s", body)
		}
		if _, body := fetch(gw.Addr, "/api/topics/room:nobody/subscribers"); body != `{"topic":"room:nobody","count":0,"gateways":[],"subscribers":[]}` {
			t.Errorf("a topic that nobody uses: %s", body)
		}
	}
	if _, body := fetch(c.Gateways[0].Addr, "/api/topics/room:g8/count"); body != `{"topic":"room:g8","count":5}` {
		t.Errorf("count: %s", body)
	}
	for path, want := range map[string]string{
		"/api/topics/a%20b/subscribers":                              "invalid topic: only ASCII letters, digits and _ . : - are allowed",
		"/api/topics/" + strings.Repeat("x", 256) + "/subscribers":   "invalid topic: 256 bytes, at most 255 are allowed",
		"/api/topics/room:g8/subscribers?limit=-1":                   "invalid limit: want 0 to 100000",
		"/api/topics/room:g8/subscribers?limit=100001":               "invalid limit: want 0 to 100000",
		"/api/topics/room:g8/subscribers?limit=many":                 "invalid limit: want 0 to 100000",
		"/api/topics/room:g8/subscribers?count=maybe":                "invalid count: want true or false",
		"/api/topics/%ff/subscribers":                                "invalid topic: only ASCII letters, digits and _ . : - are allowed",
		"/api/topics/room:g8/subscribers?limit=99999999999999999999": "invalid limit: want 0 to 100000",
	} {
		if status, body := fetch(c.Gateways[0].Addr, path); status != http.StatusBadRequest || !strings.Contains(body, want) {
			t.Errorf("%.60s: %d %q, want 400 with %q", path, status, body, want)
		}
	}

	for _, tt := range []struct{ args, want string }{
		{"-count", "5\n"},
		{"-limit 0", "… 0 of 5\n"},
	} {
		args := append([]string{"subscribers", c.Gateways[1].URL(), "room:g8"}, strings.Fields(tt.args)...)
		p := spawn(t, "ringcast", nil, args...)
		p.exits(0)
		if got := p.stdout.String(); got != tt.want {
			t.Errorf("%v prints %q, want %q", args, got, tt.want)
		}
	}
	p := spawn(t, "ringcast", nil, "subscribers", c.Gateways[0].URL(), "room:g8")
	p.exits(0)
	if lines := strings.Split(strings.TrimSpace(p.stdout.String()), "\n"); len(lines) != 5 || !strings.HasPrefix(lines[0], "gw-a\t") {
		t.Errorf("the command prints %q", lines)
	}
}

// The list follows a topic to its new owner, and says so when the owner cannot be asked.
func TestG8_SubscribersAfterARingEditAndWithoutAnOwner(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a := s.topicserver("ts-a")
	b := s.topicserver("ts-b")
	gw := s.gateway("PUBLISH_TIMEOUT=1s", "API_OPEN=true") // half of it is for how long a lost owner is waited for
	gw.ready()
	topic := s.topicOf("ts-a", 0)
	dial(t, "client", gw.webSocketURL()).join(topic)
	eventually(t, "the client is listed", func() bool { return subscribers(t, gw.addr, topic, "").Count == 1 })
	s.edit(func(path string) (*ring.Ring, error) { return ring.Remove(path, "ts-a", false) }, a.admin, b.admin, gw.admin)
	eventually(t, "the client is listed by the new owner", func() bool { return subscribers(t, gw.addr, topic, "").Count == 1 })
	b.kill()
	eventually(t, "the owner cannot be asked", func() bool {
		status, _ := fetch(gw.addr, "/api/topics/"+topic+"/subscribers")
		return status == http.StatusServiceUnavailable
	})
	s.topicserver("ts-b")
	eventually(t, "the owner is asked again", func() bool {
		status, body := fetch(gw.addr, "/api/topics/"+topic+"/subscribers?count=true")
		return status == http.StatusOK && strings.HasPrefix(body, `{"topic":`)
	})
}
