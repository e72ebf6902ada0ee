package cluster_test

import (
	"encoding/json"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// bulk is a payload that fills sockets soon.
var bulk = `{"fill":"` + strings.Repeat("x", 48<<10) + `"}`

// flooder publishes messages and counts them.
type flooder struct {
	*socket
	topic string
	last  int // offset of the last message
}

func newFlooder(t *testing.T, url, topic string) *flooder {
	f := &flooder{socket: dial(t, "publisher", url), topic: topic}
	f.join(topic)
	return f
}

// publish publishes one message and returns its offset: nobody else publishes to the topic.
func (f *flooder) publish(payload string) int {
	f.t.Helper()
	f.say(fmt.Sprintf(`["1","p",%q,"n",%s]`, f.topic, payload))
	f.expect(fmt.Sprintf(`["1","p",%q,"phx_reply",{"response":{},"status":"ok"}]`, f.topic), fmt.Sprintf(`["1",null,%q,"n",%s]`, f.topic, payload))
	f.last++
	return f.last
}

// stall joins a topic and reads nothing any more.
func stall(t *testing.T, gw *gatewayProc, topic string) *rawSocket {
	t.Helper()
	s := dialRaw(t, gw.addr)
	_ = s.conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	s.say(fmt.Sprintf(`["1","1",%q,"phx_join",{}]`, topic))
	s.expect(fmt.Sprintf(`["1","1",%q,"phx_reply",{"response":{},"status":"ok"}]`, topic))
	return s
}

// metric reads one series of a node.
func metric(admin, series string) float64 {
	_, text := fetch(admin, "/metrics")
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindStringSubmatch(text)
	if m == nil {
		return -1
	}
	v, _ := strconv.ParseFloat(m[1], 64)
	return v
}

// explains runs ringcast explain and wants lines that match.
func explains(t *testing.T, topic string, offset int, nodes []string, lines ...string) {
	t.Helper()
	began := time.Now()
	p := spawn(t, "ringcast", []string{"RINGCAST_ADMIN=" + strings.Join(nodes, ",")}, "explain", topic, fmt.Sprint(offset))
	p.exits(0)
	took := time.Since(began)
	for _, want := range lines {
		if !regexp.MustCompile(`(?m)^` + want + `$`).MatchString(p.stdout.String()) {
			t.Errorf("explain %s %d: no line like\n%s\nin (after %v)\n%s", topic, offset, want, took, p.stdout.String())
		}
	}
}

// droppedOf publishes until the gateway tells that a slow reader is gone, and returns the offset of a message that was
// dropped from its queue, or 0 if it tells only which ones came too late.
func droppedOf(t *testing.T, gw *gatewayProc, p *flooder) (dropped int) {
	t.Helper()
	text := ""
	defer func() {
		if t.Failed() {
			t.Logf("the gateway says %.2000s", text)
		}
	}()
	eventually(t, "the reader on gw-2 is known to be gone", func() bool {
		var page struct {
			Explain struct {
				Subscribers []struct{ Why string }
			}
		}
		_, text = fetch(gw.admin, fmt.Sprintf("/debug/topic?name=%s&offset=%d", p.topic, p.last))
		_ = json.Unmarshal([]byte(text), &page)
		for _, sub := range page.Explain.Subscribers {
			if m := regexp.MustCompile(`behind offset (\d+): socket closed: slow|socket closed: slow: (\d+) messages`).FindStringSubmatch(sub.Why); m != nil {
				dropped, _ = strconv.Atoi(m[1])
				return true
			}
		}
		p.publish(bulk)
		return false
	})
	return dropped
}

// One message each for every fate there is, told by processes of their own.
func TestExplain_EveryFateOfAMessage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b := s.topicserver("ts-a"), s.topicserver("ts-b")
	topic := s.topicOf("ts-a", 0)
	gw1, gw2 := s.gateway("GATEWAY_ID=gw-1", "MAX_QUEUE_BYTES=16777216", "SOFT_QUEUE_BYTES=0"), s.gateway("GATEWAY_ID=gw-2", "MAX_QUEUE_BYTES=131072", "SOFT_QUEUE_BYTES=0", "LINGER=5m")
	gw1.ready()
	gw2.ready()
	nodes := []string{a.admin, b.admin, gw1.admin, gw2.admin}

	leaver := dial(t, "leaver", gw2.webSocketURL())
	leaver.join(topic)
	p := newFlooder(t, gw1.webSocketURL(), topic)
	first := p.publish(`{}`)
	leaver.expect(fmt.Sprintf(`["1",null,%q,"n",{}]`, topic))
	leaver.say(fmt.Sprintf(`["1","2",%q,"phx_leave",{}]`, topic))
	leaver.expect(fmt.Sprintf(`["1","2",%q,"phx_reply",{"response":{},"status":"ok"}]`, topic), fmt.Sprintf(`["1","1",%q,"phx_close",{}]`, topic))

	t.Cleanup(trickle([]net.Conn{stall(t, gw1, topic).conn})) // who takes nothing for 10 s is cut
	stall(t, gw2, topic)
	// The second is closed once the kernel takes no more for it and little may wait; the first may have much waiting.
	for metric(gw1.admin, "ringcast_gateway_queue_bytes") < 2<<20 || metric(gw2.admin, `ringcast_gateway_closed_total{reason="slow"}`)+metric(gw2.admin, "ringcast_gateway_queue_bytes") < 1 {
		for range 5 {
			p.publish(bulk)
		}
		if p.last > 500 {
			t.Fatal("sockets take everything")
		}
	}
	dropped := droppedOf(t, gw2, p)
	later := dial(t, "later", gw2.webSocketURL())
	later.join(topic)
	newest := p.publish(`{}`)
	later.expect(fmt.Sprintf(`["1",null,%q,"n",{}]`, topic))

	explains(t, topic, first, nodes,
		`ts-a owns `+topic+`, which is at \w+:`+fmt.Sprint(newest),
		`gw-1: 1 written, 1 skipped`,
		`  session [0-9a-z]+-[0-9a-z]+ 127\.0\.0\.1:\d+ join_ref "1": skipped: joined later, behind offset 1; \d+ bytes wait for the client`,
		`gw-2: 1 written, 2 skipped`,
		`  session [0-9a-z]+-[0-9a-z]+ join_ref "1": written: gone since: left \(\S+Z\)`,
		`  session [0-9a-z]+-[0-9a-z]+ join_ref "1": skipped: joined later, behind offset 1; gone since: socket closed: slow\b.*`,
		`  session [0-9a-z]+-[0-9a-z]+ 127\.0\.0\.1:\d+ join_ref "1": skipped: joined later, behind offset \d+`)
	explains(t, topic, newest, nodes,
		fmt.Sprintf(`message %d: event "n", 2 bytes`, newest),
		`gw-1: 1 written, 1 queued`,
		`  session [0-9a-z]+-[0-9a-z]+ 127\.0\.0\.1:\d+ join_ref "1": queued: the client reads slowly: \d+ messages of the topic wait for it; \d+ bytes wait for the client`,
		`gw-2: 1 written, 2 skipped`,
		`  session [0-9a-z]+-[0-9a-z]+ join_ref "1": skipped: gone before it, behind offset 1: left .*`,
		`  session [0-9a-z]+-[0-9a-z]+ join_ref "1": skipped: gone before it, behind offset \d+: socket closed: slow\b.*`)
	if dropped > 0 {
		explains(t, topic, dropped, nodes, `  session [0-9a-z]+-[0-9a-z]+ join_ref "1": skipped: socket closed: slow: \d+ messages of the topic waited and were dropped\b.*`)
	}
	explains(t, topic, newest+1, nodes, fmt.Sprintf(`message %d has not been published`, newest+1), `gw-1: 2 coming`)

	gw2.kill()
	late := spawn(t, "ringcast", nil, "explain", topic, fmt.Sprint(newest), a.admin, gw1.admin, gw2.admin)
	late.exits(1)
	if !strings.Contains(late.stdout.String(), gw2.admin+" does not answer: ") {
		t.Errorf("explain with a dead node:\n%s", late.stdout.String())
	}
}

func TestDebugTopic(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b := s.topicserver("ts-a"), s.topicserver("ts-b")
	topic := s.topicOf("ts-b", 0)
	gw := s.gateway("GATEWAY_ID=gw-1", "LINGER=1m")
	gw.ready()
	p := newFlooder(t, gw.webSocketURL(), topic)
	p.publish(`{}`)
	p.publish(`{"a":1}`)
	page := func(admin, query string) (m map[string]any) {
		t.Helper()
		status, text := fetch(admin, "/debug/topic?name="+topic+query)
		if err := json.Unmarshal([]byte(text), &m); err != nil || status != 200 {
			t.Fatalf("%d %s", status, text)
		}
		return m
	}
	want := func(m map[string]any, key string, value any) {
		t.Helper()
		if got, want := fmt.Sprint(m[key]), fmt.Sprint(value); got != want {
			t.Errorf("%s is %s, want %s, in %v", key, got, want, m)
		}
	}
	owner := page(b.admin, "&offset=2")
	want(owner, "server", "ts-b")
	want(owner, "owner", "ts-b")
	want(owner, "held", true)
	want(owner, "offset", 2)
	want(owner, "subscribers", "map[gw-1:1]")
	want(owner["history"].(map[string]any), "messages", 2)
	want(owner["history"].(map[string]any), "first", 1)
	want(owner["message"].(map[string]any), "bytes", 7)
	other := page(a.admin, "")
	want(other, "held", false)
	want(other, "owner", "ts-b")

	view := page(gw.admin, "")
	want(view, "owner", "ts-b")
	want(view, "subscription", "flowing")
	want(view, "subscribed_at", "ts-b")
	want(view, "position", fmt.Sprintf("%v:2", owner["epoch"]))
	want(view, "lane_live", true)
	want(view, "explain", nil)
	sum := 0.0
	for _, n := range view["channels"].([]any) {
		sum += n.(float64)
	}
	if sum != 1 {
		t.Errorf("channels %v", view["channels"])
	}
	_ = p.ws.CloseNow()
	eventually(t, "the topic lingers", func() bool { return page(gw.admin, "")["lingering"] != nil })

	for query, text := range map[string]string{
		"":                              "want name=TOPIC",
		"name=a&offset=x":               `offset="x": want a number`,
		"name=a&offset=-1":              `offset="-1": want a number`,
		"name=a&offset=1&epoch=%21":     `epoch="!": want a number in base 36`,
		"name=a&offset=1&binary=maybe":  `binary="maybe": want true or false`,
		"name=a&offset=0":               "offset 1",
		"name=a&offset=1&limit=1000000": "",
	} {
		status, body := fetch(gw.admin, "/debug/topic?"+query)
		if (status == 400) != (text != "") || !strings.Contains(body, text) {
			t.Errorf("%s: %d %s", query, status, body)
		}
	}
	for _, query := range []string{"", "name=a&offset=x"} {
		if status, body := fetch(a.admin, "/debug/topic?"+query); status != 400 {
			t.Errorf("topic server, %q: %d %s", query, status, body)
		}
	}
}
