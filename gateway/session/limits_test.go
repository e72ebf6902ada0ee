package session

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/gateway/admission"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
	"github.com/ringcast/ringcast/shared/rate"
)

var millis = regexp.MustCompile(`(retry_after_ms"?[:=]|"data":"|rate_limited\D{0,8})[1-9][0-9]*`)

// expectMasked is expect with N for the milliseconds of a refusal.
func (c *client) expectMasked(frames ...string) {
	c.t.Helper()
	for _, want := range frames {
		if got := millis.ReplaceAllString(c.hear(), "${1}N"); got != want {
			c.t.Fatalf("heard %s\n want %s", got, want)
		}
	}
}

const limitedReply = `{"response":{"reason":"rate_limited","retry_after_ms":N},"status":"error"}`

// Bad input row 19: what is over the rate is refused, each kind by its own limit, and nothing of it happens.
func TestRatesOfASession(t *testing.T) {
	h := newHouseWith(t, "*:*", Config{Rates: Rates{
		Publishes: rate.Every(time.Hour, 3), Joins: rate.Every(time.Hour, 2), Frames: rate.Every(time.Hour, 4),
	}})
	ok := func(ref, topic string) string {
		return `["1","` + ref + `","` + topic + `","phx_reply",{"response":{},"status":"ok"}]`
	}

	c := h.connect(t, codec.PhoenixV2)
	c.say(`["1","1","t:a","phx_join",{}]`, `["1","2","t:b","phx_join",{}]`, `["1","3","t:c","phx_join",{}]`)
	// The replies of the owner come later than what is refused here.
	c.expectMasked(`["1","3","t:c","phx_reply",`+limitedReply+`]`, ok("1", "t:a"), ok("2", "t:b"))
	c.say(`["1","4","t:a","e",{}]`, `["1","5","t:c","e",{}]`)
	// The joins have taken two hours of the session's time, a publish may take another.
	c.expectMasked(`["1","5","t:c","phx_reply",`+limitedReply+`]`, ok("4", "t:a"), `["1",null,"t:a","e",{}]`)
	c.say(`[null,"6","phoenix","heartbeat",{}]`, `[null,"7","phoenix","heartbeat",{}]`)
	c.expectMasked(`[null,"6","phoenix","phx_reply",{"response":{},"status":"ok"}]`, `[null,"7","phoenix","phx_reply",`+limitedReply+`]`)
	if n := h.router.Stats().Publishes; n != 1 {
		t.Errorf("%d publishes went to the owner, want 1", n)
	}

	v1 := h.connect(t, codec.PhoenixV1)
	v1.say(`{"topic":"t:a","event":"phx_join","payload":{},"ref":"1"}`)
	v1.hear()
	for range 2 {
		v1.say(`{"topic":"t:a","event":"e","payload":{},"ref":"2"}`)
		v1.hear()
		v1.hear()
	}
	v1.say(`{"topic":"t:a","event":"e","payload":{},"ref":"3"}`)
	v1.expectMasked(`{"event":"phx_reply","payload":` + limitedReply + `,"ref":"3","topic":"t:a"}`)
}

func TestRatesOfNames(t *testing.T) {
	h := newHouseWith(t, "*:*", Config{Rates: Rates{Joins: rate.Every(time.Hour, 1)}})
	c := h.connect(t, codec.PhoenixV2)
	c.say(`["1","1","names","phx_join",{}]`, `["1","2","names","register",{"name":"r1"}]`)
	c.expectMasked(`["1","1","names","phx_reply",{"response":{},"status":"ok"}]`, `["1","2","names","phx_reply",`+limitedReply+`]`)
}

// Changes of presence go to a topic's owner and on to its gateways as publishes do, and count as such.
func TestRatesOfPresence(t *testing.T) {
	h := newHouseWith(t, "*:*", Config{Rates: Rates{Publishes: rate.Every(time.Hour, 1)}})
	connects := map[string]func() *client{
		"phoenix": func() *client { return h.connect(t, codec.PhoenixV2) },
		"realtime": func() *client {
			return h.connectTo(t, func(c *socket.Conn) socket.Handler { return h.sessions.OpenRealtime(c, codec.Realtime, nil) })
		},
	}
	for _, tt := range []struct{ client, event, payload, reply string }{
		{"phoenix", "presence_update", `{"device":"tablet"}`, `{"response":{"reason":"joined without presence"},"status":"error"}`},
		{"phoenix", "presence_leave", `{}`, `{"response":{"reason":"joined without presence"},"status":"error"}`},
		{"realtime", "presence", `{"type":"presence","event":"untrack"}`, `{"response":{},"status":"ok"}`},
	} {
		c := connects[tt.client]()
		c.say(`["1","1","t:a","phx_join",{}]`)
		c.expect(`["1","1","t:a","phx_reply",{"response":{},"status":"ok"}]`)
		change := `["1","2","t:a","` + tt.event + `",` + tt.payload + `]`
		c.say(change, change, `[null,"3","phoenix","heartbeat",{}]`)
		c.expectMasked(`["1","2","t:a","phx_reply",`+tt.reply+`]`, `["1","2","t:a","phx_reply",`+limitedReply+`]`,
			`[null,"3","phoenix","phx_reply",{"response":{},"status":"ok"}]`)
	}
}

func TestRatesOfAWestClient(t *testing.T) {
	h := newHouseWith(t, "*:*", Config{Rates: Rates{Publishes: rate.Every(time.Hour, 2)}})
	c := h.connectWest(t, codec.WestJSON, WestOptions{Key: "u1"})
	c.hear()
	publish := `{"event":"publish","channel":"ps1","data":"x","id":"7"}`
	c.say(publish, publish, publish)
	done := `{"event":"publication_succeeded","channel":"ps1","from":"west","id":"7"}`
	// The replies of the owner come later than what is refused here.
	c.expectMasked(`{"event":"rate_limited","channel":"ps1","from":"west","id":"7","data":"N"}`, done, done)

	text := h.connectWest(t, codec.WestText, WestOptions{Key: "u1"})
	text.hear()
	text.say("pub ps1 x", "pub ps1 x", "pub ps1 x")
	text.expect("west ps1:rate_limited", "west ps1:publication_succeeded", "west ps1:publication_succeeded")
}

func TestRatesOfAPlainClient(t *testing.T) {
	h := newHouseWith(t, "*:*", Config{Rates: Rates{Publishes: rate.Every(time.Hour, 2)}})
	c := h.connectTo(t, func(c *socket.Conn) socket.Handler {
		return h.sessions.OpenPlain(c, PlainOptions{Topics: []string{"t:a"}, Publish: true, Event: PlainEvent}, nil)
	})
	c.say(`["one"]`, `["two"]`, `["three"]`)
	var last string
	for last = c.hear(); !strings.HasPrefix(last, "close"); last = c.hear() {
	}
	if got := millis.ReplaceAllString(last, "${1}N"); got != "close 4429 rate_limited retry_after_ms=N" {
		t.Errorf("heard %q", got)
	}
}

// A session has so many publishes in flight and no more, over all of its topics, whatever it speaks. What is over is refused; the rest goes on.
func TestPublishesInFlightOfASession(t *testing.T) {
	gate := admission.New(admission.Config{})
	h := newHouseWith(t, "*:*", Config{MaxInFlight: 3, Gate: gate})
	refused := uint64(0)
	released := func(n int) {
		t.Helper()
		h.eventually("the owner has what was not refused", func() bool { return h.owner.release(n) })
		if refused++; gate.Stats().Refused[admission.Publish][admission.Busy] != refused {
			t.Errorf("refusals are %v", gate.Stats().Refused[admission.Publish])
		}
	}
	ok := func(ref, topic string) string {
		return `["1","` + ref + `","` + topic + `","phx_reply",{"response":{},"status":"ok"}]`
	}

	c := h.connect(t, codec.PhoenixV2)
	c.say(`["1","1","t:held","phx_join",{}]`, `["1","1","names","phx_join",{}]`)
	c.expect(ok("1", "names"), ok("1", "t:held"))
	c.say(`["1","2","t:held","a",{}]`, `["1","3","t:held","b",{}]`, `["1","4","t:held","c",{}]`, `["1","5","t:held","d",{}]`)
	c.expect(`["1","5","t:held","phx_reply",{"response":{"reason":"busy","retry_after_ms":100},"status":"error"}]`)
	c.say(`[null,"hb","phoenix","heartbeat",{}]`)
	c.expect(`[null,"hb","phoenix","phx_reply",{"response":{},"status":"ok"}]`)
	released(3)
	for range 6 { // replies and copies
		c.hear()
	}
	c.say(`["1","6","t:held","d",{}]`)
	h.eventually("the owner has the next", func() bool { return h.owner.release(1) })
	c.expect(ok("6", "t:held"), `["1",null,"t:held","d",{}]`)

	for _, k := range []codec.Kind{codec.PhoenixV1, codec.Realtime} {
		c := h.connect(t, k)
		join := map[codec.Kind]string{
			codec.PhoenixV1: `{"topic":"x:held","event":"phx_join","payload":{},"ref":"1"}`, codec.Realtime: `["1","1","x:held","phx_join",{}]`,
		}[k]
		publish := map[codec.Kind]string{
			codec.PhoenixV1: `{"topic":"x:held","event":"e","payload":{},"ref":"2"}`, codec.Realtime: `["1","2","x:held","e",{}]`,
		}[k]
		c.say(join)
		c.hear()
		c.say(publish, publish, publish, publish)
		if heard := c.hear(); !strings.Contains(heard, `{"reason":"busy","retry_after_ms":100}`) {
			t.Errorf("%v: heard %s", k, heard)
		}
		released(3)
		for range 6 { // replies and copies, of which the next one that joins must not get any
			c.hear()
		}
	}

	w := h.connectWest(t, codec.WestJSON, WestOptions{Key: "u1"})
	w.hear()
	publish := `{"event":"publish","channel":"held","data":"x","id":"7"}`
	w.say(publish, publish, publish, publish)
	w.expect(`{"event":"busy","channel":"held","from":"west","id":"7","data":"100"}`)
	released(3)

	p := h.connectTo(t, func(c *socket.Conn) socket.Handler {
		return h.sessions.OpenPlain(c, PlainOptions{Topics: []string{"t:held", "u:held"}, Publish: true, Event: PlainEvent}, nil)
	})
	p.say(`["one"]`, `["two"]`, `["three"]`) // two publishes each, and no answers to wait for
	h.eventually("the owner has all", func() bool { return h.owner.release(6) })
}

// An owner that has too much of a topic says so, and when to try again.
func TestRateOfATopic(t *testing.T) {
	h := newHouse(t, "*:*", 0)
	h.play(t, codec.PhoenixV2, `
> ["1","1","t:a","phx_join",{}]
< ["1","1","t:a","phx_reply",{"response":{},"status":"ok"}]
> ["1","2","t:a","RATE_LIMITED",{}]
< ["1","2","t:a","phx_reply",{"response":{"reason":"rate_limited","retry_after_ms":250},"status":"error"}]`)
	h.play(t, codec.WestJSON, `
< {"event":"connection_established","from":"west"}
> {"event":"publish","channel":"x-RATE_LIMITED","data":"x"}
< {"event":"rate_limited","channel":"x-RATE_LIMITED","from":"west","data":"250"}`)
}

// Bad input row 19: who goes on for three seconds in a row is sent away.
func TestRow19_ThreeSecondsOverTheRate(t *testing.T) {
	t.Parallel()
	h := newHouseWith(t, "*:*", Config{Rates: Rates{Frames: rate.Every(time.Hour, 1)}})
	c := h.connect(t, codec.PhoenixV2)
	began := time.Now()
	for {
		c.say(`[null,"1","phoenix","heartbeat",{}]`)
		if heard := c.hear(); strings.HasPrefix(heard, "close") {
			if heard != "close 4429 rate limited" {
				t.Errorf("heard %q", heard)
			}
			break
		}
		time.Sleep(20 * time.Millisecond) // a client's own pace
	}
	if took := time.Since(began); took < time.Second {
		t.Errorf("closed after %v", took)
	}
	h.eventually("it is counted", func() bool { return h.loops.Stats().Ended[socket.EndRate] == 1 })
}

// A gateway that has too much to do refuses joins, then publishes too; heartbeats and messages go on.
func TestAnOverloadedGateway(t *testing.T) {
	used := make(chan float64, 1)
	used <- 0.5
	gate := admission.New(admission.Config{Memory: 0.8, Used: func() float64 {
		u := <-used
		used <- u
		return u
	}})
	ctx, cancel := context.WithCancel(context.Background())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		gate.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-watched })
	h := newHouseWith(t, "*:*", Config{Gate: gate})
	c, other := h.connect(t, codec.PhoenixV2), h.connect(t, codec.PhoenixV2)
	for _, one := range []*client{c, other} {
		one.say(`["1","1","t:a","phx_join",{}]`)
		one.expect(`["1","1","t:a","phx_reply",{"response":{},"status":"ok"}]`)
	}
	west := h.connectWest(t, codec.WestJSON, WestOptions{Key: "u1"})
	west.hear()
	overloaded := `{"response":{"reason":"overloaded","retry_after_ms":N},"status":"error"}`
	at := func(u float64, level admission.Level) {
		<-used
		used <- u
		h.within(time.Minute, level.String(), func() bool { return gate.Level() == level }) // it falls by thirty looks at least
	}

	at(0.9, admission.NoJoins)
	c.say(`["2","2","t:b","phx_join",{}]`)
	c.expectMasked(`["2","2","t:b","phx_reply",` + overloaded + `]`)
	c.say(`["1","3","t:a","e",{}]`)
	c.expect(`["1","3","t:a","phx_reply",{"response":{},"status":"ok"}]`, `["1",null,"t:a","e",{}]`)
	other.expect(`["1",null,"t:a","e",{}]`)
	west.say(`{"event":"subscribe","channel":"ps1"}`)
	west.expectMasked(`{"event":"overloaded","channel":"ps1","from":"west","data":"N"}`)

	at(0.95, admission.NoPublishes)
	c.say(`["1","4","t:a","e",{}]`, `[null,"5","phoenix","heartbeat",{}]`)
	c.expectMasked(`["1","4","t:a","phx_reply",`+overloaded+`]`, `[null,"5","phoenix","phx_reply",{"response":{},"status":"ok"}]`)

	at(0.5, admission.Open)
	c.say(`["1","6","t:a","e",{}]`)
	c.expect(`["1","6","t:a","phx_reply",{"response":{},"status":"ok"}]`, `["1",null,"t:a","e",{}]`)
	other.expect(`["1",null,"t:a","e",{}]`) // the refused one never came
}

// What is named in bytes is so to the byte.
func TestLimitsToTheByte(t *testing.T) {
	topics, err := ParseTopics("*:*")
	if err != nil {
		t.Fatal(err)
	}
	of := func(n int) string { return strings.Repeat("x", n) }
	meta := func(n int) []byte { return []byte(`{ "a" : "` + of(n-len(`{"a":""}`)) + `" }`) } // white space does not count
	for _, tt := range []struct {
		what   string
		most   int
		refuse func(n int) bool
	}{
		{"a presence's key", 255, func(n int) bool { return judgePresenceKey(of(n)) != nil }},
		{"a presence's meta", 4096, func(n int) bool { _, err := compactMeta(meta(n)); return err != nil }},
		{"a name", 200, func(n int) bool { return checkName(of(n)) != "" }},
		{"an event", 64, func(n int) bool { return CheckPublish(of(n), []byte("{}"), false) != nil }},
		{"a topic", 255, func(n int) bool { return topics.Check("t:"+of(n-2)) != nil }},
	} {
		if tt.refuse(tt.most) || !tt.refuse(tt.most+1) {
			t.Errorf("%s: %d bytes refused %v, %d bytes %v", tt.what, tt.most, tt.refuse(tt.most), tt.most+1, tt.refuse(tt.most+1))
		}
	}
}
