package cluster_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/ringcast/ringcast/cluster"
	"github.com/ringcast/ringcast/gateway"
)

// What comes in over HTTP on one gateway reaches the subscribers on every other, and the answer's position is the message's.
func TestG6_AnHTTPRequestIsBroadcast(t *testing.T) {
	t.Parallel()
	c := start(t)
	d := describe(t, c.Gateways[0].Addr)
	neo := dial(t, "neo", c.Gateways[1].WebSocketURL())
	neo.say(`["1","1","room:1","phx_join",{"since":null}]`)
	first := neo.hear()
	if !strings.Contains(first, `"status":"ok"`) {
		t.Fatal(first)
	}
	got := d.do("POST", "/api/topics/room:1/publish", `{"event":"say","payload": {"text" : "h\u0069"} }`, 200)
	neo.expect(fmt.Sprintf(`["1",%q,"room:1","say",{"text" : "h\u0069"}]`, got["position"]))

	// Tried again, over the other gateway, it is not published again.
	again := describe(t, c.Gateways[1].Addr).do("POST", "/api/topics/room:1/publish", `{"event":"say","payload":{"text" : "h\u0069"}}`, 200,
		"Idempotency-Key: "+got["publish_id"].(string))
	if again["position"] != got["position"] {
		t.Errorf("first %v, again %v", got, again)
	}
	neo.silence()
}

func TestG6_BatchesAndBroadcastsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	c := start(t, func(cfg *cluster.Config) {
		cfg.Gateway = func(cfg *gateway.Config) { quick(cfg); cfg.Loops = 2 }
	})
	d := describe(t, c.Gateways[0].Addr)
	neo := dial(t, "neo", c.Gateways[1].WebSocketURL())
	neo.join("room:1")
	neo.join("room:2")
	var messages []string
	for i := range 200 {
		messages = append(messages, fmt.Sprintf(`{"topic":"room:1","event":"n","payload":{"n":%d}}`, i))
	}
	body := `{"messages":[` + strings.Join(messages, ",") + `]}`
	got := d.do("POST", "/api/publish", body, 200, "Idempotency-Key: batch")
	if got["failed"] != 0.0 || len(got["results"].([]any)) != 200 {
		t.Fatal(got)
	}
	for i := range 200 {
		neo.expect(fmt.Sprintf(`["1",null,"room:1","n",{"n":%d}]`, i))
	}
	// The whole batch again: each message has its id.
	if again := d.do("POST", "/api/publish", body, 200, "Idempotency-Key: batch"); fmt.Sprint(again) != fmt.Sprint(got) {
		t.Errorf("the batch again: %v", again)
	}
	neo.silence()

	const broadcast = `{"topics":["room:1","room:2","room:3"],"event":"all","payload":{}}`
	all := d.do("POST", "/api/broadcast", broadcast, 200, "Idempotency-Key: b")
	heard := []string{neo.hear(), neo.hear()}
	for _, topic := range []string{"room:1", "room:2"} {
		if want := fmt.Sprintf(`["1",null,%q,"all",{}]`, topic); heard[0] != want && heard[1] != want {
			t.Errorf("heard %q, want %s among them", heard, want)
		}
	}
	if again := d.do("POST", "/api/broadcast", broadcast, 200, "Idempotency-Key: b"); fmt.Sprint(again) != fmt.Sprint(all) {
		t.Errorf("the broadcast again: %v", again)
	}
	neo.silence()
}

// An owner that has gone: definite while nothing was sent, unknown once something was. The unknown one is tried again with
// its id when the owner is back.
func TestRow26_OutcomesOverHTTP(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ts := s.topicserver("ts-a")
	s.topicserver("ts-b")
	gw, patient := s.gateway("API_OPEN=true", "PUBLISH_TIMEOUT=500ms"), s.gateway("API_OPEN=true")
	gw.ready()
	patient.ready()
	topic := s.topicOf("ts-a", 0)
	d, p := describe(t, gw.addr), describe(t, patient.addr)
	path := "/api/topics/" + topic + "/publish"
	p.do("POST", path, `{"event":"one"}`, 200)
	ts.freeze()
	got := d.do("POST", path, `{"event":"two"}`, 504, "Idempotency-Key: two")
	if got["error"] != "unknown_outcome" || got["publish_id"] != "two" || got["definite"] != nil {
		t.Errorf("%v", got)
	}
	ts.signal(syscall.SIGCONT)
	p.do("POST", path, `{"event":"two"}`, 200, "Idempotency-Key: two")
	past := p.do("GET", "/api/topics/"+topic+"/messages", "", 200)
	if n := len(past["messages"].([]any)); n != 2 {
		t.Errorf("%d messages, want 2: %v", n, past)
	}
	ts.kill()
	eventually(t, "the link is known to be lost", func() bool {
		_, text := fetch(gw.admin, "/metrics")
		return strings.Contains(text, "ringcast_gateway_lanes 2\n")
	})
	got = d.do("POST", path, `{"event":"three"}`, 503)
	if got["error"] != "unavailable" || got["definite"] != true {
		t.Errorf("%v", got)
	}
}
