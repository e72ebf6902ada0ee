package cluster_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/coder/websocket"

	"github.com/ringcast/ringcast/cluster"
)

// Each test here is a row of what a broadcast by key to plain WebSockets is to do.

// plainURL is where plain clients of a gateway connect.
func plainURL(g *cluster.Gateway, query string) string { return "ws://" + g.Addr + "/ws?" + query }

// subscribed waits until the topic has so many subscribers: a plain client is not told when it has joined.
func subscribed(t *testing.T, c *cluster.Cluster, topic string, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s has %d subscribers", topic, n), func() bool { return len(c.Owner(topic).Subscribers(topic)) == n })
}

func TestG1_HTTPAndWebSocketOnOneURL(t *testing.T) {
	t.Parallel()
	c := start(t)
	g := c.Gateways[0]
	status, body := fetch(g.Addr, "/ws?channel=news")
	if status != 200 || !strings.Contains(body, "connect a WebSocket") {
		t.Errorf("plain GET: %d %s", status, body)
	}
	for _, upgrade := range []string{"websocket", "WebSocket", "WEBSOCKET"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+g.Addr+"/ws?channel=news", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{
			"Connection": {"Upgrade"}, "Upgrade": {upgrade}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusSwitchingProtocols {
			t.Errorf("Upgrade: %s: %s", upgrade, resp.Status)
		}
	}
}

// A client that publishes hears its own words, byte for byte.
func TestG2_Echo(t *testing.T) {
	t.Parallel()
	c := start(t)
	neo := dial(t, "neo", plainURL(c.Gateways[0], "channel=echo&publish=1"))
	for _, text := range []string{"hello", `{"a": 1}`, "[1,2]", `"quoted"`, "ünïcödé\n\x00", ""} {
		neo.say(text)
		neo.expect(text)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := neo.ws.Write(ctx, websocket.MessageBinary, []byte("\x00\xff")); err != nil {
		t.Fatal(err)
	}
	kind, data, err := neo.ws.Read(ctx)
	if kind != websocket.MessageBinary || string(data) != "\x00\xff" || err != nil {
		t.Errorf("%v %q %v", kind, data, err)
	}
}

func TestG3_BroadcastToAllConnections(t *testing.T) {
	t.Parallel()
	c := start(t)
	var all []*socket
	for i := range 20 {
		all = append(all, dial(t, fmt.Sprint(i), plainURL(c.Gateways[i%2], "channel=all")))
	}
	subscribed(t, c, "ws:all", 20)
	describe(t, c.Gateways[0].Addr).do("POST", "/api/topics/ws:all/publish", `{"event":"any","payload":{"line":1}}`, 200)
	for _, s := range all {
		s.expect(`{"line":1}`)
	}
}

func TestG4_OnlyTheKeyHears(t *testing.T) {
	t.Parallel()
	c := start(t)
	red, blue := dial(t, "red", plainURL(c.Gateways[0], "channel=red")), dial(t, "blue", plainURL(c.Gateways[1], "channel=blue"))
	subscribed(t, c, "ws:red", 1)
	subscribed(t, c, "ws:blue", 1)
	d := describe(t, c.Gateways[0].Addr)
	d.do("POST", "/api/topics/ws:red/publish", `{"event":"e","payload":{"to":"red"}}`, 200)
	d.do("POST", "/api/topics/ws:blue/publish", `{"event":"e","payload":{"to":"blue"}}`, 200)
	red.expect(`{"to":"red"}`)
	blue.expect(`{"to":"blue"}`)
	d.do("POST", "/api/broadcast", `{"topics":["ws:red","ws:blue"],"event":"e","payload":{"to":"both"}}`, 200)
	red.expect(`{"to":"both"}`) // and nothing in between
	blue.expect(`{"to":"both"}`)
}

// The channel in the URL is a subscription; Phoenix clients and plain ones meet on the topic.
func TestG5_TheChannelParameterSubscribes(t *testing.T) {
	t.Parallel()
	c := start(t)
	neo := dial(t, "neo", c.Gateways[0].WebSocketURL())
	neo.join("room:1")
	plain := dial(t, "plain", plainURL(c.Gateways[1], "channel=room%3A1&publish=1&event=chat"))
	subscribed(t, c, "room:1", 2)
	neo.say(`["1","2","room:1","say",{"text" : "hi"}]`)
	neo.expect(`["1","2","room:1","phx_reply",{"response":{},"status":"ok"}]`, `["1",null,"room:1","say",{"text" : "hi"}]`)
	plain.expect(`{"text" : "hi"}`)
	for sent, carried := range map[string]string{`hello`: `"hello"`, `{"x":1}`: `{"x":1}`} {
		plain.say(sent)
		plain.expect(sent)
		neo.expect(`["1",null,"room:1","chat",` + carried + `]`)
	}
}

func TestG11_ManyTopicsOverOneSocket(t *testing.T) {
	t.Parallel()
	c := start(t)
	var query, topics []string
	for i := range 50 {
		query = append(query, fmt.Sprintf("channel=t%d", i))
		topics = append(topics, fmt.Sprintf("ws:t%d", i))
	}
	s := dial(t, "s", plainURL(c.Gateways[0], strings.Join(append(query, "channel=t0"), "&"))) // twice is once
	for _, topic := range topics {
		subscribed(t, c, topic, 1)
	}
	d := describe(t, c.Gateways[1].Addr)
	for i, topic := range topics {
		body := fmt.Sprintf(`{"n":%d}`, i)
		d.do("POST", "/api/topics/"+topic+"/publish", `{"event":"e","payload":`+body+`}`, 200)
		s.expect(body) // once
	}
}

func TestPlain_BadRequests(t *testing.T) {
	t.Parallel()
	c := start(t, func(cfg *cluster.Config) { cfg.Gateway = onlyTopics })
	for query, want := range map[string]string{
		"":                              "400 no channel: want /ws?channel=NAME\n",
		"channel=topics:ab%20c":         "400 channel \"topics:ab c\": invalid topic name, must be between 2 and 64 characters long and only contain alphanumeric characters\n",
		"channel=news":                  "404 channel \"news\": unmatched topic\n",
		"channel=":                      "404 channel \"\": unmatched topic\n",
		"channel=phoenix:x":             "404 channel \"phoenix:x\": unmatched topic\n",
		"channel=topics:ok&publish=yes": "400 invalid publish: want 0 or 1\n",
		"channel=topics:ok&publish=1&event=phx_x": "400 reserved event\n",
		"channel=topics:ok&slow=latest":           "400 invalid slow: a client of this protocol cannot be told what was skipped: want close\n",
	} {
		_, resp, err := websocket.Dial(t.Context(), plainURL(c.Gateways[0], query), nil)
		if err == nil || resp == nil {
			t.Fatalf("%s: %v", query, err)
		}
		body := make([]byte, 512)
		n, _ := resp.Body.Read(body)
		if got := fmt.Sprintf("%d %s", resp.StatusCode, body[:n]); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
}

func TestPlain_WhoMayNotPublishIsTold(t *testing.T) {
	t.Parallel()
	c := start(t)
	s := dial(t, "s", plainURL(c.Gateways[0], "channel=news"))
	s.say("hello")
	s.expectClose(1008, "this socket does not publish: connect with publish=1")
}

func TestPlain_AMessageThatIsNotPublishedClosesTheSocket(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	ts := site.topicserver("ts-a")
	site.topicserver("ts-b")
	gw := site.gateway("PUBLISH_TIMEOUT=100ms")
	gw.ready()
	topic := site.topicOf("ts-a", 0)
	s := dial(t, "s", "ws://"+gw.addr+"/ws?publish=1&channel="+topic)
	eventually(t, "it has joined", func() bool { return metric(ts.admin, "ringcast_topic_subscribers") == 1 })
	ts.kill()
	eventually(t, "the link is known to be lost", func() bool {
		_, text := fetch(gw.admin, "/metrics")
		return strings.Contains(text, "ringcast_gateway_lanes 2\n")
	})
	s.say("two")
	s.expectClose(1013, "not published to "+topic+": unavailable")
}

// A browser cannot ping. The gateway does, so a client that only listens stays.
func TestPlain_AListenerIsNotIdle(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	site.topicserver("ts-a")
	site.topicserver("ts-b")
	gw := site.gateway("IDLE_TIMEOUT=4s")
	gw.ready()
	topic := site.topicOf("ts-a", 0)
	url := "ws://" + gw.addr + "/ws?publish=1&channel=" + topic
	var pings atomic.Int32
	ws, _, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{
		OnPingReceived: func(context.Context, []byte) bool { pings.Add(1); return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	heard := make(chan string, 1)
	go func() {
		_, data, err := ws.Read(t.Context()) // reading is what answers pings
		heard <- fmt.Sprint(string(data), err)
	}()
	eventually(t, "more than an idle timeout has passed", func() bool { return pings.Load() >= 3 })
	other := dial(t, "other", url)
	other.say("still here")
	other.expect("still here")
	if got := <-heard; got != "still here<nil>" {
		t.Errorf("heard %s", got)
	}
}
