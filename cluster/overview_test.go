package cluster_test

import (
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/ringcast/ringcast/cluster"
)

// overview is what GET /api/cluster says of topics.
type overview struct {
	Channels, Messages, Deliveries int
	Busiest                        []struct {
		Topic, Owner string
		Here         int
		Subscribers  int
	}
}

func lookAt(t *testing.T, g *cluster.Gateway, token string) (o overview) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+g.Addr+"/api/cluster", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(body, &o)
	}
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s %v", resp.StatusCode, body, err)
	}
	return o
}

// The view of the cluster has the topics of its gateway, most channels first, and their subscribers on all gateways.
func TestOverview_TheBusiestTopics(t *testing.T) {
	t.Parallel()
	c := start(t)
	join := func(gateway int, topics ...string) {
		s := dial(t, "client", c.Gateways[gateway].WebSocketURL())
		for _, topic := range topics {
			s.join(topic)
		}
	}
	join(0, "room:a", "room:b", "room:c")
	join(0, "room:a", "room:b")
	join(0, "room:a")
	join(1, "room:a", "room:c", "room:elsewhere")
	join(1, "room:c")
	eventually(t, "the view has all", func() bool {
		o := lookAt(t, c.Gateways[0], "")
		if o.Channels != 6 || len(o.Busiest) != 3 {
			return false
		}
		a, b, third := o.Busiest[0], o.Busiest[1], o.Busiest[2]
		return a.Topic == "room:a" && a.Here == 3 && a.Subscribers == 4 && b.Topic == "room:b" && b.Here == 2 && b.Subscribers == 2 &&
			third.Topic == "room:c" && third.Here == 1 && third.Subscribers == 3 && a.Owner != ""
	})
}

// Who comes with a token sees the topics that it allows to join.
func TestOverview_ATokenSeesItsOwnTopics(t *testing.T) {
	t.Parallel()
	c := startWithAuth(t, 1, 1)
	token := func(topics ...string) string { return tokenFor("neo", time.Minute, topics) }
	s := dial(t, "client", c.Gateways[0].WebSocketURL()+"&token="+token("room:*"))
	s.join("room:a")
	s.join("room:b")
	eventually(t, "the view of one topic", func() bool {
		o := lookAt(t, c.Gateways[0], token("room:b"))
		return len(o.Busiest) == 1 && o.Busiest[0].Topic == "room:b"
	})
	if o := lookAt(t, c.Gateways[0], token("hall:*")); len(o.Busiest) != 0 {
		t.Errorf("topics of others: %v", o.Busiest)
	}
}
