package cluster_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ringcast/ringcast/cluster"
)

// sessionsOn lists who has joined a topic, as any gateway lists them.
func sessionsOn(t *testing.T, c *cluster.Cluster, topic string, n int) (ids []string) {
	t.Helper()
	eventually(t, "all are listed", func() bool {
		ids = nil
		for _, s := range subscribers(t, c.Gateways[0].Addr, topic, "").Subscribers {
			ids = append(ids, s.ID)
		}
		return len(ids) == n
	})
	return ids
}

// The ids that the listing shows are those that a session is unsubscribed and disconnected by, over any gateway.
func TestG8_ListedSessionsCanBeSentAway(t *testing.T) {
	t.Parallel()
	c := start(t)
	a, b := dial(t, "a", c.Gateways[0].WebSocketURL()), dial(t, "b", c.Gateways[1].WebSocketURL())
	a.join("room:1")
	a.join("room:2")
	idOfA := sessionsOn(t, c, "room:1", 1)[0]
	if both := sessionsOn(t, c, "room:2", 1); both[0] != idOfA {
		t.Errorf("one session is %s on one topic and %s on the other", idOfA, both[0])
	}
	b.join("room:1")
	ids := sessionsOn(t, c, "room:1", 2)
	idOfB := ids[1-slices.Index(ids, idOfA)]

	d := describe(t, c.Gateways[1].Addr)
	d.do("POST", "/api/topics/room:1/unsubscribe", fmt.Sprintf(`{"session":%q}`, idOfA), 200)
	a.expect(`["1","1","room:1","phx_close",{}]`)
	if left := sessionsOn(t, c, "room:1", 1); left[0] != idOfB {
		t.Errorf("left on the topic is %s, want %s", left[0], idOfB)
	}
	d.do("POST", "/api/topics/room:1/publish", `{"event":"say"}`, 200)
	b.expect(`["1",null,"room:1","say",{}]`)
	a.join("room:1") // it may come back; and it is on the other topic still
	d.do("POST", "/api/topics/room:2/publish", `{"event":"say"}`, 200)
	heard := a.hear()
	if heard == `["1",null,"room:1","say",{}]` { // came to this gateway behind the join, from another one
		heard = a.hear()
	}
	if want := `["1",null,"room:2","say",{}]`; heard != want {
		t.Fatalf("heard %s, want %s", heard, want)
	}

	d.do("POST", "/api/revoke", fmt.Sprintf(`{"session":%q}`, idOfA), 200)
	a.expectClose(4403, "disconnected")
	describe(t, c.Gateways[0].Addr).do("POST", "/api/revoke", fmt.Sprintf(`{"session":%q}`, idOfB), 200)
	b.expectClose(4403, "disconnected")
}

// A user's channels on a topic end on every gateway; the sockets, the other topics and the tokens stay.
func TestUnsubscribeAUserEverywhere(t *testing.T) {
	t.Parallel()
	c := startWithAuth(t, 2, 2)
	var neo []*socket
	for i, g := range c.Gateways {
		s := dial(t, fmt.Sprint("neo", i), g.WebSocketURL()+"&token="+tokenFor("neo", time.Hour, []string{"room:*"}))
		s.join("room:1")
		s.join("room:2")
		neo = append(neo, s)
	}
	trinity := dial(t, "trinity", c.Gateways[0].WebSocketURL()+"&token="+tokenFor("trinity", time.Hour, []string{"room:*"}))
	trinity.join("room:1")
	d := describe(t, c.Gateways[1].Addr)
	d.do("POST", "/api/topics/room:1/unsubscribe", `{"user":"neo"}`, 200)
	for _, s := range neo {
		s.expect(`["1","1","room:1","phx_close",{}]`)
	}
	d.do("POST", "/api/publish", `{"messages":[{"topic":"room:1","event":"say"},{"topic":"room:2","event":"say"}]}`, 200)
	trinity.expect(`["1",null,"room:1","say",{}]`)
	for _, s := range neo {
		s.expect(`["1",null,"room:2","say",{}]`)
		s.join("room:1")
	}
}
