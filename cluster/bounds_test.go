package cluster_test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Bounds are where the variables of real processes put them.
func TestBoundsAreWhereTheVariablesPutThem(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.env = []string{
		"MAX_CHANNELS=2", "MAX_MESSAGE_BYTES=1000", "MESSAGE_TIMEOUT=1s", "API_OPEN=true", "LINK_LANES=1",
		"MAX_LANES=3", "HISTORY_SIZE=3", "MAX_PUBLISHES_PER_TOPIC=5",
	}
	ts := s.topicserver("ts-a")
	s.topicserver("ts-b")
	gw := s.gateway()
	gw.ready()
	topic := s.topicOf("ts-a", 0)
	client := dial(t, "client", gw.webSocketURL())
	client.join("room:1")
	client.join("room:2")
	client.say(`["1","1","room:3","phx_join",{}]`)
	client.expect(`["1","1","room:3","phx_reply",{"response":{"reason":"too many channels joined"},"status":"error"}]`)

	fill := func(size int) []byte { return sized("1", size) }
	large := dialRaw(t, gw.addr)
	large.write(say(fill(1000)))
	large.expect(`[null,"1","phoenix","phx_reply",{"response":{},"status":"ok"}]`)
	large.write(say(fill(1001)))
	large.expectClose(1009, "message over 1000 bytes")
	torn := dialRaw(t, gw.addr)
	torn.write(say(fill(1000))[:500])
	torn.expectClose(4408, "message not complete in time")

	publisher := dialRaw(t, gw.addr)
	publisher.say(fmt.Sprintf(`["1","1",%q,"phx_join",{}]`, topic))
	publisher.expect(fmt.Sprintf(`["1","1",%q,"phx_reply",{"response":{},"status":"ok"}]`, topic))
	began := time.Now()
	publisher.write(bytes.Repeat(clientFrame(finText, []byte(fmt.Sprintf(`["1","2",%q,"e",{}]`, topic))), 30))
	published, limited := 0, 0
	for published+limited < 30 {
		switch first, payload, err := publisher.read(); {
		case err != nil || first != finText:
			t.Fatalf("heard frame %#x %q, %v", first, payload, err)
		case strings.Contains(string(payload), `"status":"ok"`):
			published++
		case strings.Contains(string(payload), `"reason":"rate_limited","retry_after_ms":`):
			limited++
		}
	}
	// Ten at once, and those of the time that it took.
	if most := 11 + int(5*time.Since(began).Seconds()); published < 10 || published > most {
		t.Errorf("%d of 30 are published, want 10, and no more than %d", published, most)
	}
	if n := metric(ts.admin, "ringcast_topic_rate_limited_total"); int(n) != limited {
		t.Errorf("%v counted as limited, %d told", n, limited)
	}
	if status, text := fetch(gw.addr, "/api/topics/"+topic+"/messages"); status != http.StatusOK || strings.Count(text, `"event":"e"`) != 3 {
		t.Errorf("%d %s, want three messages", status, text)
	}

	// Lanes: the gateway has one; what else comes takes the rest, and more are closed.
	for range 5 {
		conn, err := net.Dial("tcp", ts.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	eventually(t, "there are too many", func() bool { return metric(ts.admin, `ringcast_topic_closed_lanes_total{reason="too_many"}`) >= 3 })
	client.say(`["1","2","room:1","publish",["e",{}]]`)
	client.expect(`["1","2","room:1","phx_reply",{"response":{},"status":"ok"}]`, `["1",null,"room:1","e",{}]`)
}
