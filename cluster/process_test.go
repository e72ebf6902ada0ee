package cluster_test

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
)

// exchange is the conversation of two clients on two sockets of a cluster: both join, one publishes, both hear it,
// the publisher's answer comes first. The topic must not be joined by others.
func exchange(t *testing.T, topic, url1, url2 string) {
	t.Helper()
	neo, trinity := dial(t, "neo", url1), dial(t, "trinity", url2)
	neo.join(topic)
	trinity.say(fmt.Sprintf(`["7","7",%q,"phx_join",{}]`, topic))
	trinity.expect(fmt.Sprintf(`["7","7",%q,"phx_reply",{"response":{},"status":"ok"}]`, topic))
	neo.say(fmt.Sprintf(`["1","1",%q,"publish",["event",%s]]`, topic, pill))
	neo.expect(
		fmt.Sprintf(`["1","1",%q,"phx_reply",{"response":{},"status":"ok"}]`, topic),
		fmt.Sprintf(`["1",null,%q,"event",%s]`, topic, pill))
	trinity.expect(fmt.Sprintf(`["7",null,%q,"event",%s]`, topic, pill))
	neo.silence()
	trinity.silence()
	_, _ = neo.ws.CloseNow(), trinity.ws.CloseNow()
}

// joinsAtLast joins a topic, with the join_ref 2, again and again until that is accepted.
func (s *socket) joinsAtLast(topic string) {
	s.t.Helper()
	eventually(s.t, "a join is accepted", func() bool {
		s.say(fmt.Sprintf(`["2","2",%q,"phx_join",{}]`, topic))
		return s.hear() == fmt.Sprintf(`["2","2",%q,"phx_reply",{"response":{},"status":"ok"}]`, topic)
	})
}

func TestProcess_AGatewayWaitsForItsTopicServers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	serverA, _ := s.ring.Server("ts-a")
	serverB, _ := s.ring.Server("ts-b")
	gw := s.gateway("JOIN_TIMEOUT=100ms") // which may not be enough for a join, on a busy machine
	gw.readiness(http.StatusServiceUnavailable, fmt.Sprintf("not ready\nlinks: no link to topic server \"ts-a\" at %s\n", serverA.Addr))

	// A client that comes all the same gets an answer, and may try again.
	early := dial(t, "early", gw.webSocketURL())
	topic := s.topicOf("ts-a", 0)
	early.say(fmt.Sprintf(`["1","1",%q,"phx_join",{}]`, topic))
	early.expect(fmt.Sprintf(`["1","1",%q,"phx_reply",{"response":{"reason":"unavailable","detail":"the topic's owner does not answer"},"status":"error"}]`, topic))

	s.topicserver("ts-a")
	gw.readiness(http.StatusServiceUnavailable, fmt.Sprintf("not ready\nlinks: no link to topic server \"ts-b\" at %s\n", serverB.Addr))
	s.topicserver("ts-b")
	gw.ready()
	early.joinsAtLast(topic)
	second, third := s.gateway("GATEWAY_ID=gw-b"), s.gateway("GATEWAY_ID=gw-c")
	second.ready()
	third.ready()
	for _, id := range []string{"ts-a", "ts-b"} {
		exchange(t, s.topicOf(id, 1), third.webSocketURL(), second.webSocketURL())
	}
	other := dial(t, "other", second.webSocketURL())
	other.join(topic)
	other.say(fmt.Sprintf(`["1",null,%q,"e",{}]`, topic))
	early.expect(fmt.Sprintf(`["2",null,%q,"e",{}]`, topic))
}

// A service runs with either role or, as ringcast dev, with both. A topic server serves no clients: its port speaks
// no HTTP.
func TestD1_ATopicServerSpeaksNoHTTP(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ts := s.topicserver("ts-a")
	if status, text := fetch(ts.addr, "/socket/websocket"); status != 0 {
		t.Errorf("topic server answers HTTP: %d %q", status, text)
	}
	ts.alive()
	for path, want := range map[string]int{"/healthz": 200, "/metrics": 200, "/socket/websocket": 404} {
		if status, _ := fetch(ts.admin, path); status != want {
			t.Errorf("admin listener: GET %s gives %d, want %d", path, status, want)
		}
	}
	gw := s.gateway()
	if status, text := fetch(gw.addr, "/socket/websocket"); status != http.StatusUpgradeRequired {
		t.Errorf("gateway: GET gives %d %q, want 426", status, text)
	}
}

// No gateway holds state that another needs: one is killed under traffic, and nobody on the other notices.
func TestProcess_AKilledGatewayIsNobodyElsesLoss(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.topicserver("ts-a")
	s.topicserver("ts-b")
	gw1, gw2 := s.gateway("GATEWAY_ID=gw-a"), s.gateway("GATEWAY_ID=gw-b")
	gw1.ready()
	gw2.ready()
	topics := []string{s.topicOf("ts-a", 0), s.topicOf("ts-b", 0)}
	var here, there []*listener
	for i := range 2 {
		here = append(here, listenTo(t, fmt.Sprintf("subscriber %d of gateway 1", i), gw1.url(), topics...))
		there = append(there, listenTo(t, fmt.Sprintf("subscriber %d of gateway 2", i), gw2.url(), topics...))
	}
	var publishers []*publisher
	for _, topic := range topics {
		publishers = append(publishers, publish(t, gw1.url(), topic))
	}
	each := func(do func(i int, topic string)) {
		for i, topic := range topics {
			do(i, topic)
		}
	}
	each(func(i int, topic string) {
		publishers[i].more(t, 50)
		for _, l := range there {
			l.hears(t, topic, 50)
		}
	})

	gw2.kill()
	each(func(i int, topic string) {
		publishers[i].more(t, 100)
		for _, l := range here {
			l.hears(t, topic, int(publishers[i].published.Load()))
		}
	})
	if status, _ := fetch(gw1.admin, "/readyz"); status != http.StatusOK {
		t.Errorf("gateway 1 is not ready without gateway 2: %d", status)
	}

	gw2.start(t)
	each(func(i int, topic string) {
		for _, l := range there {
			l.rejoins(t, topic)
		}
		publishers[i].more(t, 50)
	})
	each(func(i int, topic string) {
		last := publishers[i].stop()
		for _, l := range here {
			l.hears(t, topic, last)
			l.check(t, topic, 1, last, 0)
		}
		for _, l := range there {
			l.hears(t, topic, last)
			l.check(t, topic, 1, last, 1)
		}
	})
}

// A topic server is killed under traffic and started again. While it is away, publishes to its topics end, and not as
// done; the topics of the other server go on. After its return the channels are told, join again, and all works.
func TestProcess_AKilledTopicServerComesBack(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a := s.topicserver("ts-a")
	s.topicserver("ts-b")
	gw, hasty := s.gateway("PUBLISH_TIMEOUT=5s"), s.gateway("JOIN_TIMEOUT=200ms")
	gw.ready()
	hasty.ready()
	lost, busy, kept := s.topicOf("ts-a", 0), s.topicOf("ts-a", 1), s.topicOf("ts-b", 0)

	raw := dial(t, "raw", gw.webSocketURL())
	raw.join(lost)
	subscriber := listenTo(t, "subscriber", gw.url(), lost, kept)
	undisturbed, disturbed := publish(t, gw.url(), kept), pound(t, gw.url(), busy)
	publishOne := func(n int) {
		raw.say(fmt.Sprintf(`["1","2",%q,"publish",["n",{"n":%d}]]`, lost, n))
		raw.expect(
			fmt.Sprintf(`["1","2",%q,"phx_reply",{"response":{},"status":"ok"}]`, lost),
			fmt.Sprintf(`["1",null,%q,"n",{"n":%d}]`, lost, n))
		subscriber.hears(t, lost, n)
	}
	publishOne(1)
	undisturbed.more(t, 20)
	disturbed.more(t, done, 50)

	a.kill()
	disturbed.more(t, notDone, 20)
	before := disturbed.count(done, 0)
	disturbed.more(t, notDone, 50)
	if n := disturbed.count(done, 0); n != before {
		t.Errorf("%d publishes were acknowledged by a dead server", n-before)
	}
	eventually(t, "publishes to all its topics are refused", func() bool {
		raw.say(fmt.Sprintf(`["1","3",%q,"publish",["n",{"n":2}]]`, lost))
		return raw.hear() == fmt.Sprintf(
			`["1","3",%q,"phx_reply",{"response":{"reason":"unavailable","detail":"no link to the topic's owner"},"status":"error"}]`, lost)
	})
	late, unheard := dial(t, "late", hasty.webSocketURL()), s.topicOf("ts-a", 2)
	late.say(fmt.Sprintf(`["1","1",%q,"phx_join",{}]`, unheard))
	late.expect(fmt.Sprintf(
		`["1","1",%q,"phx_reply",{"response":{"reason":"unavailable","detail":"the topic's owner does not answer"},"status":"error"}]`, unheard))
	undisturbed.more(t, 50)
	gw.ready()

	s.topicserver("ts-a")
	raw.expect(fmt.Sprintf(`["1","1",%q,"phx_error",{}]`, lost))
	raw.join(lost)
	subscriber.rejoins(t, lost)
	publishOne(3)
	late.joinsAtLast(unheard)
	disturbed.more(t, done, 50)
	undisturbed.more(t, 20)
	subscriber.check(t, lost, 1, 3, 1)
	last := undisturbed.stop()
	subscriber.hears(t, kept, last)
	subscriber.check(t, kept, 1, last, 0)
	t.Logf("publishes to the lost server: %d done, %d not done, %d maybe done, %d not sent", disturbed.count(done, 0),
		disturbed.count(notDone, 0), disturbed.count(maybeDone, 0), disturbed.count(notSent, 0))
}

func TestProcess_AStoppedGatewaySendsItsClientsAway(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.topicserver("ts-a")
	s.topicserver("ts-b")
	for _, sig := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		gw := s.gateway()
		gw.ready()
		idle, joined := dial(t, "idle", gw.webSocketURL()), dial(t, "joined", gw.webSocketURL())
		joined.join(s.topicOf("ts-a", 0))
		gw.signal(sig)
		joined.expectClose(1012, "gateway restarts")
		idle.expectClose(1012, "gateway restarts")
		gw.exits(0)
		if !refused(gw.addr) || !refused(gw.admin) {
			t.Errorf("somebody listens on %s or %s after the gateway's end", gw.addr, gw.admin)
		}
	}
}

func TestProcess_ASecondSignalEndsAGatewayAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.topicserver("ts-a")
	s.topicserver("ts-b")
	gw := s.gateway("STOP_TIMEOUT=1h")
	gw.ready()
	// This client never answers a close frame, so the gateway waits for it.
	stubborn := dialRaw(t, gw.addr)
	gw.signal(syscall.SIGTERM)
	if first, payload, err := stubborn.read(); err != nil || first != finClose || string(payload) != "\x03\xf4gateway restarts" {
		t.Fatalf("heard frame %#x %q, error %v, want close 1012", first, payload, err)
	}
	gw.alive()
	gw.signal(syscall.SIGTERM)
	gw.exits(128 + int(syscall.SIGTERM))
	if !strings.Contains(gw.stderr.String(), "second signal: exiting at once") {
		t.Error("the gateway does not log why it exits")
	}
}

func TestProcess_AStoppedTopicServerExitsClean(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b := s.topicserver("ts-a"), s.topicserver("ts-b")
	gw := s.gateway()
	gw.ready()
	client := dial(t, "client", gw.webSocketURL())
	client.join(s.topicOf("ts-a", 0))
	client.join(s.topicOf("ts-b", 0))

	a.signal(syscall.SIGTERM)
	a.exits(0)
	gw.ready() // it still serves the other's topics
	exchange(t, s.topicOf("ts-b", 1), gw.webSocketURL(), gw.webSocketURL())
	b.signal(os.Interrupt)
	b.exits(0)
	gw.readiness(http.StatusServiceUnavailable, fmt.Sprintf("not ready\nlinks: no link to topic server \"ts-a\" at %s\n", a.addr))
	client.silence()
	gw.signal(syscall.SIGTERM)
	client.expectClose(1012, "gateway restarts")
	gw.exits(0)
}
