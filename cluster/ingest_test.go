package cluster_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// ingesting starts a site whose gateways take messages from a queue.
func ingesting(t *testing.T, r *rabbit) (s *site, env []string) {
	t.Helper()
	s = newSite(t)
	s.env = []string{"HISTORY_TTL=1h"} // a broker that starts slowly brings messages again, whose ids must be known still
	s.topicserver("ts-a")
	s.topicserver("ts-b")
	return s, []string{"AMQP_URL=" + r.url(), "AMQP_QUEUE=in", "AMQP_PREFETCH=16", "LINK_LANES=1"}
}

func consuming(t *testing.T, g *gatewayProc) {
	t.Helper()
	g.ready()
	shows(t, g, "ringcast_gateway_ingest_connected 1")
}

// shows waits until a gateway shows a line among its metrics.
func shows(t *testing.T, g *gatewayProc, line string) {
	t.Helper()
	eventually(t, line, func() bool {
		_, text := fetch(g.admin, "/metrics")
		return strings.Contains(text, line+"\n")
	})
}

// What is put into a queue appears on the topics that its routing key and headers name; what cannot be published ends in the
// dead-letter queue.
func TestG7_MessagesOfAQueueAppearOnTheirChannels(t *testing.T) {
	t.Parallel()
	r := startRabbit(t)
	s, env := ingesting(t, r)
	gw := s.gateway(env...)
	consuming(t, gw)
	plain := dial(t, "plain", "ws://"+gw.addr+"/ws?channel=news&channel=room:1")
	neo := dial(t, "neo", gw.webSocketURL())
	neo.join("ws:news")
	neo.join("room:1")
	shows(t, gw, "ringcast_gateway_channels 4")
	ch := r.channel()
	put := func(key string, m amqp.Publishing) {
		t.Helper()
		if err := ch.ExchangeDeclare("feed", amqp.ExchangeDirect, true, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
		if err := ch.QueueBind("in", key, "feed", false, nil); err != nil {
			t.Fatal(err)
		}
		if err := ch.PublishWithContext(t.Context(), "feed", key, true, false, m); err != nil {
			t.Fatal(err)
		}
	}
	put("news", amqp.Publishing{Body: []byte("hello")})
	plain.expect("hello")
	neo.expect(`["1",null,"ws:news","message","hello"]`)
	put("x", amqp.Publishing{Headers: amqp.Table{"topic": "room:1", "event": "say"}, ContentType: "application/json", Body: []byte(`{"a" : 1}`)})
	plain.expect(`{"a" : 1}`)
	neo.expect(`["1",null,"room:1","say",{"a" : 1}]`)
	// The same message id is the same message.
	for range 2 {
		put("room:1", amqp.Publishing{MessageId: "m-1", Body: []byte(`{"once":true}`)})
	}
	plain.expect(`{"once":true}`)
	neo.expect(`["1",null,"room:1","message",{"once":true}]`)

	put("no such topic", amqp.Publishing{Body: []byte("poison 1")})
	put("room:1", amqp.Publishing{ContentType: "application/json", Body: []byte("poison 2")})
	put("room:1", amqp.Publishing{MessageId: "m-1", Body: []byte("another content")})
	shows(t, gw, "ringcast_gateway_ingest_rejected_total 3")
	neo.silence()
	dead := make(map[string]bool)
	eventually(t, "three dead letters", func() bool {
		d, ok, err := ch.Get("in.dead", true)
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			dead[string(d.Body)] = true
		}
		return len(dead) == 3
	})
	if !dead["poison 1"] || !dead["poison 2"] || !dead["another content"] {
		t.Errorf("dead letters %v", dead)
	}
	for name, value := range map[string]any{"kind-u": int16(1), "kind-i": int32(1), "kind-L": int64(1)} { // see foreign
		put("room:1", amqp.Publishing{Headers: amqp.Table{name: value}, Body: []byte("poison 3")})
	}
	put("room:1", amqp.Publishing{Body: []byte("and on")})
	plain.expect("and on")
	shows(t, gw, "ringcast_gateway_ingest_rejected_total 6")
	eventually(t, "three dead letters more", func() bool {
		q, err := ch.QueueDeclarePassive("in.dead", true, false, false, false, nil)
		return err == nil && q.Messages == 3
	})
	eventually(t, "the log says why", func() bool {
		return strings.Count(gw.stderr.String(), "of headers of an unknown kind") == 3
	})
	if log := gw.stderr.String(); strings.Contains(log, "guest:guest") {
		t.Error("the log has the broker's password")
	}
}

// The broker is killed, then one gateway, then the other, all in the middle of a stream: every message that the broker has
// confirmed is delivered, once.
func TestG7_NothingIsLostWhenTheBrokerOrAGatewayDies(t *testing.T) {
	t.Parallel()
	r := startRabbit(t)
	s, env := ingesting(t, r)
	first, second := s.gateway(append(env, "GATEWAY_ID=gw-a")...), s.gateway(append(env, "GATEWAY_ID=gw-b")...)
	consuming(t, first)
	consuming(t, second)
	watch := s.gateway() // takes nothing from the queue, so it stays
	watch.ready()
	topic := s.topicOf("ts-a", 0)
	l := listenTo(t, "listener", watch.url(), topic)

	const total = 1500
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	f := &feeder{r: r}
	fed := make(chan error, 1)
	go func() { fed <- f.feed(ctx, "in", topic, total) }()
	reaches := func(n int) {
		t.Helper()
		for f.confirmed() < n {
			select {
			case err := <-fed:
				t.Fatalf("feeding ended at %d: %v", f.confirmed(), err)
			case <-time.After(2 * time.Millisecond):
			}
		}
	}
	reaches(total / 4)
	r.kill()
	r.start()
	reaches(total / 2)
	first.kill() // one of the two is the one that consumes
	reaches(total * 3 / 4)
	first.start(t)
	consuming(t, first)
	second.kill()
	if err := <-fed; err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(2 * time.Minute)
	for count(l.notes(topic)) < total {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d messages", count(l.notes(topic)), total)
		}
		time.Sleep(5 * time.Millisecond)
	}
	seen := make(map[int]int)
	for _, n := range l.notes(topic) {
		if seen[n]++; seen[n] > 1 {
			t.Errorf("message %d came twice", n)
		}
	}
	for n := 1; n <= total; n++ {
		if seen[n] == 0 {
			t.Fatalf("message %d is lost", n)
		}
	}
}

// count is how many different messages there are among what was heard.
func count(notes []int) int {
	seen := make(map[int]bool)
	for _, n := range notes {
		seen[n] = true
	}
	return len(seen)
}

func retries(g *gatewayProc) string {
	_, text := fetch(g.admin, "/metrics")
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "ringcast_gateway_ingest_retried_total") {
			return strings.TrimSpace(line)
		}
	}
	return "?"
}

// Messages wait with the broker, unacknowledged, while they cannot be published, and come when they can.
func TestG7_MessagesWait(t *testing.T) {
	t.Parallel()
	r := startRabbit(t)
	t.Run("for the owner", func(t *testing.T) { ownerlessIngest(t, r) })
	t.Run("for an overloaded gateway", func(t *testing.T) { overloadedIngest(t, r) })
}

// While the owner of a topic is away its messages wait, and come when it is back.
func ownerlessIngest(t *testing.T, r *rabbit) {
	s := newSite(t)
	ts := s.topicserver("ts-a")
	s.topicserver("ts-b")
	gw := s.gateway("AMQP_URL="+r.url(), "AMQP_QUEUE=in", "PUBLISH_TIMEOUT=100ms", "LINK_LANES=1", "API_OPEN=true")
	consuming(t, gw)
	topic := s.topicOf("ts-a", 0)
	l := listenTo(t, "listener", gw.url(), topic)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	f := &feeder{r: r}
	if err := f.feed(ctx, "in", topic, 5); err != nil {
		t.Fatal(err)
	}
	l.hears(t, topic, 5)
	ts.kill()
	shows(t, gw, "ringcast_gateway_lanes 1")
	if err := f.feed(ctx, "in", topic, 10); err != nil { // 1 to 5 again: a new owner knows no ids
		t.Fatal(err)
	}
	eventually(t, "publishes are tried again", func() bool { return !strings.HasSuffix(retries(gw), " 0") })
	ts = s.topicserver("ts-a")
	ts.alive()
	// Who was subscribed has been told of a new epoch; what was published since is in the history.
	eventually(t, "6 to 10 are published", func() bool {
		_, text := fetch(gw.addr, "/api/topics/"+topic+"/messages")
		for n := 6; n <= 10; n++ {
			if strings.Count(text, fmt.Sprintf(`{"n":%d}`, n)) != 1 {
				return false
			}
		}
		return true
	})
}

// A gateway that has too much to do takes no more from its queue for a while: the messages stay with the broker, and all of them come
// when it is better.
func overloadedIngest(t *testing.T, r *rabbit) {
	s, env := ingesting(t, r)
	gw := s.gateway(slices.Concat(env, littleMemory, []string{"GATEWAY_ID=gw-small", "AMQP_QUEUE=more"})...)
	other := s.gateway("GATEWAY_ID=gw-other") // takes nothing from the queue
	consuming(t, gw)
	other.ready()
	full, topic := s.topicOf("ts-a", 0), s.topicOf("ts-b", 0)
	l := listenTo(t, "listener", other.url(), topic)
	gone := hogs(t, gw, full)
	value := func(series string) float64 { return metric(gw.admin, "ringcast_gateway_"+series) }
	p := newFlooder(t, other.webSocketURL(), full)
	fill := func() {
		for value("admission_level") < 3 {
			if p.publish(numbered(p.last+1)) > 1000 {
				t.Fatal("memory is never full")
			}
		}
	}
	fill()

	const total = 60 // more than are under way at once
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := (&feeder{r: r}).feed(ctx, "more", topic, total); err != nil {
		t.Fatal(err)
	}
	eventually(t, "publishes are tried again", func() bool { fill(); return value("ingest_retried_total") > 0 })
	if n := value("ingest_published_total"); n == total {
		t.Error("all were published")
	}
	ch := r.channel()
	eventually(t, "as many as may be are under way, and the broker has the rest", func() bool {
		fill() // some of it is read all the while
		q, err := ch.QueueDeclarePassive("more", true, false, false, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		return value("ingest_under_way") == 16 && q.Messages == total-16-int(value("ingest_published_total"))
	})
	gone()
	deadline := time.Now().Add(2 * time.Minute)
	for count(l.notes(topic)) < total || value("ingest_published_total") < total {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d messages; level %v", count(l.notes(topic)), total, value("admission_level"))
		}
		time.Sleep(20 * time.Millisecond)
	}
	if n := len(l.notes(topic)); n != total {
		t.Errorf("%d messages came, want %d", n, total)
	}
	if n := value("ingest_rejected_total"); n != 0 || value("ingest_under_way") != 0 {
		t.Errorf("%v were rejected, %v are under way", n, value("ingest_under_way"))
	}
}
