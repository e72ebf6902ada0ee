package cluster_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// joinSince joins with a since key, checks the reply's form, and returns the position it tells and whether it recovered.
func (s *socket) joinSince(joinRef, topic, since string) (position string, recovered bool) {
	s.t.Helper()
	s.say(fmt.Sprintf(`[%q,%q,%q,"phx_join",{"since":%s}]`, joinRef, joinRef, topic, since))
	frame := s.hear()
	m := regexp.MustCompile(`^\["(\w+)","(\w+)","([^"]+)","phx_reply",{"response":({"since":"([0-9a-z]+:[0-9]+)","recovered":(true|false)}),"status":"ok"}\]$`).FindStringSubmatch(frame)
	if m == nil || m[1] != joinRef || m[2] != joinRef || m[3] != topic {
		s.t.Fatalf("%s: reply to join since %s: %s", s.name, since, frame)
	}
	return m[5], m[6] == "true"
}

// hearMessage reads a pushed frame and returns its position and payload.
func (s *socket) hearMessage(joinRef, topic string) (position, payload string) {
	s.t.Helper()
	frame := s.hear()
	var f [5]json.RawMessage
	if err := json.Unmarshal([]byte(frame), &f); err != nil {
		s.t.Fatalf("%s: %v in %s", s.name, err, frame)
	}
	if string(f[0]) != `"`+joinRef+`"` || string(f[2]) != `"`+topic+`"` {
		s.t.Fatalf("%s: heard %s, want a message of %s", s.name, frame, topic)
	}
	return strings.Trim(string(f[1]), `"`), string(f[4])
}

// A client goes away, misses messages, and comes back to the other gateway with the position it had: what it missed
// follows the reply, once, in order, before what comes live.
func TestResume_TheOtherGatewayReplaysWhatWasMissed(t *testing.T) {
	c := start(t)
	publisher := dial(t, "publisher", c.Gateways[0].WebSocketURL())
	publisher.join("room:1")
	reader := dial(t, "reader", c.Gateways[0].WebSocketURL())
	start, recovered := reader.joinSince("1", "room:1", "null")
	if recovered {
		t.Error("a join from now on says recovered")
	}
	publish := func(i int) {
		publisher.say(fmt.Sprintf(`["1","p","room:1","publish",["n",{"i":%d}]]`, i))
		publisher.expect(`["1","p","room:1","phx_reply",{"response":{},"status":"ok"}]`, fmt.Sprintf(`["1",null,"room:1","n",{"i":%d}]`, i))
	}
	publish(1)
	last, payload := reader.hearMessage("1", "room:1")
	if epoch, _, _ := strings.Cut(start, ":"); last != epoch+":1" || payload != `{"i":1}` {
		t.Fatalf("began at %s, heard %s at %s", start, payload, last)
	}
	_ = reader.ws.CloseNow()
	for i := 2; i <= 9; i++ {
		publish(i)
	}
	reader = dial(t, "reader again", c.Gateways[1].WebSocketURL())
	since, recovered := reader.joinSince("4", "room:1", `"`+last+`"`)
	if since != last || !recovered {
		t.Fatalf("resumed since %s: %s, recovered %t", last, since, recovered)
	}
	publish(10)
	epoch, _, _ := strings.Cut(start, ":")
	for i := 2; i <= 10; i++ {
		position, payload := reader.hearMessage("4", "room:1")
		if position != fmt.Sprintf("%s:%d", epoch, i) || payload != fmt.Sprintf(`{"i":%d}`, i) {
			t.Fatalf("heard %s at %s, want number %d", payload, position, i)
		}
	}
	reader.silence()
}

// What cannot be recovered is said.
func TestResume_APlaceThatIsGoneIsNotRecovered(t *testing.T) {
	c := start(t)
	s := dial(t, "client", c.Gateways[0].WebSocketURL())
	top, _ := s.joinSince("1", "room:1", "null")
	epoch, _, _ := strings.Cut(top, ":")
	for i, since := range []string{epoch + ":7", "zz1:0", "0:0"} {
		ref := fmt.Sprint(i + 2)
		position, recovered := s.joinSince(ref, "room:1", `"`+since+`"`)
		if recovered || position != top {
			t.Errorf("since %s: %s, recovered %t; want %s, false", since, position, recovered, top)
		}
		s.expect(fmt.Sprintf(`["%d","%d","room:1","phx_close",{}]`, i+1, i+1))
	}
	for _, since := range []string{`7`, `"zzz"`, `"a:b"`, `[]`, `":"`} {
		s.say(`["9","9","room:2","phx_join",{"since":` + since + `}]`)
		if got := s.hear(); !strings.Contains(got, `{"reason":"invalid since: `) {
			t.Errorf("since %s: %s", since, got)
		}
	}
}

// A publish with an id that is sent again is answered with the position that it has already.
func TestPublishID_ARetryIsPublishedOnce(t *testing.T) {
	c := start(t)
	a := dial(t, "a", c.Gateways[0].WebSocketURL())
	a.joinSince("1", "room:1", "null")
	b := dial(t, "b", c.Gateways[1].WebSocketURL())
	b.joinSince("1", "room:1", "null")
	const push = `["1","2","room:1","publish",["n",{"x":1},{"id":"order-17"}]]`
	a.say(push)
	first := a.hear()
	position, _ := a.hearMessage("1", "room:1")
	if want := `["1","2","room:1","phx_reply",{"response":{"position":"` + position + `"},"status":"ok"}]`; first != want {
		t.Fatalf("heard %s, want %s", first, want)
	}
	b.hearMessage("1", "room:1")
	b.say(push) // over the other gateway
	b.expect(first)
	b.say(`["1","3","room:1","publish",["n",{"x":2},{"id":"order-17"}]]`)
	if got := b.hear(); !strings.Contains(got, "publish_id reused with different content") {
		t.Errorf("heard %s", got)
	}
	a.silence()
	b.silence()
}

// A client that comes back to many topics, with more missed on them than its queue may hold, and that reads only later, is
// not closed for it: its joins are answered one after the other, each with all that it missed.
func TestResume_AClientThatMissedMuchIsNotSlow(t *testing.T) {
	const topics, each, size = 8, 15, 60 << 10
	c := start(t)
	publisher := dial(t, "publisher", c.Gateways[0].WebSocketURL())
	began := make([]string, topics)
	for i := range topics {
		began[i], _ = publisher.joinSince("1", fmt.Sprint("room:", i), "null")
		for n := range each {
			publisher.say(fmt.Sprintf(`["1","p","room:%d","publish",["n",{"%05d":"%s"}]]`, i, n, strings.Repeat("x", size)))
			if answer := publisher.hear(); !strings.HasSuffix(answer, `"status":"ok"}]`) {
				t.Fatal(answer)
			}
			publisher.hearMessage("1", fmt.Sprint("room:", i))
		}
	}
	reader := dial(t, "reader", c.Gateways[1].WebSocketURL())
	for i, since := range began {
		reader.say(fmt.Sprintf(`["%d","j","room:%d","phx_join",{"since":%q}]`, i, i, since))
	}
	eventually(t, "there is no room", func() bool {
		_, stats := c.Gateways[1].Stats()
		return stats.JoinsPostponed > 0
	})
	next := make(map[string]int) // by topic: the message that is to come
	for range topics * (1 + each) {
		var f [5]json.RawMessage
		frame := reader.hear()
		if err := json.Unmarshal([]byte(frame), &f); err != nil {
			t.Fatalf("%v in %.200s", err, frame)
		}
		topic := string(f[2])
		n, joined := next[topic]
		switch {
		case !joined && string(f[3]) == `"phx_reply"` && strings.Contains(string(f[4]), `"recovered":true`):
			next[topic] = 0
		case joined && strings.HasPrefix(string(f[4]), fmt.Sprintf(`{"%05d"`, n)):
			next[topic]++
		default:
			t.Fatalf("joined %t, message %d is next, heard %.200s", joined, n, frame)
		}
	}
	reader.silence()
}
