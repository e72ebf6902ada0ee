package topicserver

import (
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"storj.io/drpc/drpcwire"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/daemon"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/revoke"
)

// Row D12 over the wire: two of three gateways have subscribers, a thousand of them; each of the two gets each message
// once, the third none.
func TestOneMessagePerGatewayWithSubscribers(t *testing.T) {
	s := start(t, Config{})
	a, b, c := s.connect(t, "gw-a"), s.connect(t, "gw-b"), s.connect(t, "gw-c")
	for _, g := range []*gateway{a, b} {
		if rep := g.subscribe(t, "topics:matrix"); rep.Code != linkpb.Code_OK || rep.Position.Offset != 0 {
			t.Fatalf("reply %v", rep)
		}
		for id := range uint64(500) {
			g.Append(linkpb.KindJoin, &linkpb.Join{Topic: "topics:matrix", Subscriber: id})
		}
		g.Flush()
	}
	waitFor(t, "a thousand subscribers", func() bool { return s.Stats().Subscribers == 1000 })
	const publishes = 20
	for i := range uint64(publishes) {
		if rep := c.publish(t, "topics:matrix", `{"message":"red pill or blue pill?"}`); rep.Position.Offset != i+1 {
			t.Fatalf("reply %v to publish %d", rep, i)
		}
	}
	for _, g := range []*gateway{a, b} {
		for i := range uint64(publishes) {
			m := next[*linkpb.Message](t, g)
			if m.Topic != "topics:matrix" || m.Position.Offset != i+1 || string(m.Payload) != `{"message":"red pill or blue pill?"}` {
				t.Fatalf("message %v, want offset %d", m, i+1)
			}
		}
		g.publish(t, "topics:other", "") // its reply is next: nothing came twice
	}
	if got := s.Stats(); got.FanoutSends != 2*publishes || got.Publishes != publishes+2 {
		t.Errorf("stats %+v, want %d sends", got, 2*publishes)
	}
	if len(c.items) != 0 {
		t.Errorf("a gateway that has not subscribed got %v", <-c.items)
	}
}

func TestRow41_AnswersOfALane(t *testing.T) {
	s := start(t, Config{}, "ts-a", "ts-b")
	mine, other := "", ""
	for i := 0; mine == "" || other == ""; i++ {
		name := fmt.Sprint("t:", i)
		if s.rings.Current().Owner(name).ID == "ts-a" {
			mine = name
		} else {
			other = name
		}
	}
	long := strings.Repeat("x", 255)
	for i := 0; s.rings.Current().Owner(long).ID != "ts-a"; i++ {
		long = fmt.Sprintf("%0255d", i)
	}
	const badName = "topic must be 1 to 255 bytes of UTF-8"
	for _, test := range []struct {
		name    string
		publish *linkpb.Publish
		code    linkpb.Code
		detail  string
	}{
		{"mine", &linkpb.Publish{Topic: mine}, linkpb.Code_OK, ""},
		{"longest name", &linkpb.Publish{Topic: long}, linkpb.Code_OK, ""},
		{"not mine", &linkpb.Publish{Topic: other}, linkpb.Code_NOT_OWNER, "the ring gives the topic to another server"},
		{"no name", &linkpb.Publish{}, linkpb.Code_INVALID, badName},
		{"256 bytes", &linkpb.Publish{Topic: strings.Repeat("x", 256)}, linkpb.Code_INVALID, badName},
		{"not UTF-8", &linkpb.Publish{Topic: "t:\xff"}, linkpb.Code_INVALID, badName},
		{"largest payload", &linkpb.Publish{Topic: mine, Payload: make([]byte, link.MaxItem)}, linkpb.Code_OK, ""},
		{"payload too large", &linkpb.Publish{Topic: mine, Payload: make([]byte, link.MaxItem+1)}, linkpb.Code_TOO_LARGE,
			"payload of 1048577 bytes; the limit is 1048576"},
		{"longest event", &linkpb.Publish{Topic: mine, Event: strings.Repeat("e", link.MaxEvent)}, linkpb.Code_OK, ""},
		{"event too long", &linkpb.Publish{Topic: mine, Event: strings.Repeat("e", link.MaxEvent+1)}, linkpb.Code_TOO_LARGE,
			"event of 65537 bytes; the limit is 65536"},
		{"event not UTF-8", &linkpb.Publish{Topic: mine, Event: "\xc0"}, linkpb.Code_INVALID, "event is not UTF-8"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := s.connect(t, "gw-a")
			before := s.Stats()
			test.publish.Ref = 77
			g.send(linkpb.KindPublish, test.publish)
			rep := next[*linkpb.Reply](t, g)
			if rep.Ref != 77 || rep.Code != test.code || rep.Detail != test.detail || (rep.Position != nil) != (test.code == linkpb.Code_OK) {
				t.Errorf("publish: reply %v, want %v %q", rep, test.code, test.detail)
			}
			if test.publish.Payload == nil && test.publish.Event == "" {
				if rep := g.subscribe(t, test.publish.Topic); rep.Code != test.code || rep.Detail != test.detail {
					t.Errorf("subscribe: reply %v, want %v %q", rep, test.code, test.detail)
				}
			}
			if after := s.Stats(); test.code != linkpb.Code_OK && after != before {
				t.Errorf("a refused request changed the stats from %+v to %+v", before, after)
			}
		})
	}
}

var peerAddress = regexp.MustCompile(`\(127\.0\.0\.1:\d+\)`)

func TestRow40_41_HellosThatAreRefused(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*linkpb.Hello)
		code   linkpb.Code
		detail string
	}{
		{"later protocol", func(h *linkpb.Hello) { h.Protocol = 2 }, linkpb.Code_WRONG_PROTOCOL,
			`gateway speaks link protocol 2, topic server "ts-a" speaks 1`},
		{"no protocol", func(h *linkpb.Hello) { h.Protocol = 0 }, linkpb.Code_WRONG_PROTOCOL,
			`gateway speaks link protocol 0, topic server "ts-a" speaks 1`},
		{"another cluster", func(h *linkpb.Hello) { h.Cluster = "blue" }, linkpb.Code_WRONG_CLUSTER,
			`gateway "gw-a" (PEER) is of cluster "blue", topic server "ts-a" of cluster "green"`},
		{"no id", func(h *linkpb.Hello) { h.Gateway = "" }, linkpb.Code_INVALID,
			"hello with a gateway id of 0 bytes; want 1 to 255"},
		{"long id", func(h *linkpb.Hello) { h.Gateway = strings.Repeat("g", 256) }, linkpb.Code_INVALID,
			"hello with a gateway id of 256 bytes; want 1 to 255"},
		{"no lanes", func(h *linkpb.Hello) { h.Lanes = 0 }, linkpb.Code_INVALID, `hello of gateway "gw-a" for lane 0 of 0`},
		{"lane past the end", func(h *linkpb.Hello) { h.Lane = 2 }, linkpb.Code_INVALID, `hello of gateway "gw-a" for lane 2 of 2`},
		{"ring conflict", func(h *linkpb.Hello) { h.RingHash++ }, linkpb.Code_RING_CONFLICT,
			`ring v7 of gateway "gw-a" and of topic server "ts-a" differ in content`},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := start(t, Config{Config: daemon.Config{Cluster: "green"}})
			h := s.hello()
			test.change(h)
			g := s.dial(t, h)
			g.send(linkpb.KindSubscribe, &linkpb.Subscribe{Ref: 1, Topic: "t:a"}) // behind the Hello: ignored
			f := next[*linkpb.Refusal](t, g)
			if detail := peerAddress.ReplaceAllString(f.Detail, "(PEER)"); f.Code != test.code || detail != test.detail {
				t.Errorf("refusal %v, want %v %q", f, test.code, test.detail)
			}
			g.Close()
			s.stop()
			if n := s.logs.FilterMessage("refused a lane").Len(); n != 1 || s.logs.Len() != 3 { // and start and stop
				t.Errorf("log %v", s.logs.All())
			}
			if n := gauge(t, s, "ringcast_topic_refused_lanes_total"); n != 1 {
				t.Errorf("%v refused lanes counted", n)
			}
			if len(g.items) != 0 || s.Stats().Topics != 0 {
				t.Error("the server acted on an item of a refused lane")
			}
		})
	}
}

func TestWelcome(t *testing.T) {
	s := start(t, Config{Config: daemon.Config{Cluster: "green"}})
	for _, test := range []struct {
		name   string
		change func(*linkpb.Hello)
	}{
		{"same ring", func(*linkpb.Hello) {}},
		{"older ring", func(h *linkpb.Hello) { h.RingVersion, h.RingHash = 6, 1 }},
		{"newer ring", func(h *linkpb.Hello) { h.RingVersion, h.RingHash = 8, 1 }},
		{"same cluster", func(h *linkpb.Hello) { h.Cluster = "green" }},
		{"no cluster", func(h *linkpb.Hello) { h.Cluster = "" }},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := s.hello()
			test.change(h)
			w := next[*linkpb.Welcome](t, s.dial(t, h))
			if w.Server != "ts-a" || w.Instance != s.instance || w.RingVersion != 7 || w.RingHash != s.rings.Current().Hash() || w.Cluster != "green" {
				t.Errorf("welcome %v", w)
			}
		})
	}
}

// What breaks the protocol ends the lane, and that lane only.
func TestBrokenLanesEnd(t *testing.T) {
	s := start(t, Config{})
	bystander := s.connect(t, "gw-z")
	for _, test := range []struct {
		name string
		kind linkpb.Kind
		body string
	}{
		{"second hello", linkpb.KindHello, "\x08\x01"},
		{"torn hello", linkpb.KindHello, "\x12"},
		{"torn subscribe", linkpb.KindSubscribe, "\x12\x05ab"},
		{"torn unsubscribe", linkpb.KindUnsubscribe, "\x0a"},
		{"torn join", linkpb.KindJoin, "\x11\x00"},
		{"torn leave", linkpb.KindLeave, "\x11\x00"},
		{"torn publish", linkpb.KindPublish, "\x22\xff\xff"},
		{"torn ring", linkpb.KindUpRing, "\x12\x05ab"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := s.connect(t, "gw-a")
			g.send(test.kind, raw(test.body))
			if err := await(t, "the lane to end", g.ended); !errors.Is(err, io.EOF) {
				t.Errorf("lane ended with %v", err)
			}
			waitFor(t, "the server to forget it", func() bool { return s.Lanes() == 1 })
		})
	}
	bystander.publish(t, "t:a", "still here")
	closed := func() float64 { return labelled(t, s, "ringcast_topic_closed_lanes_total", "protocol") }
	waitFor(t, "all are counted", func() bool { return closed() == 8 })
	// Who goes has broken nothing.
	s.connect(t, "gw-a").Close()
	waitFor(t, "the server to forget it", func() bool { return s.Lanes() == 1 })
	waitFor(t, "the log line", func() bool { return s.logs.FilterMessage("lane ended").Len() == 9 })
	if n := closed(); n != 8 {
		t.Errorf("%v broken lanes counted", n)
	}
}

func TestItemBeforeTheHello(t *testing.T) {
	s := start(t, Config{})
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	frame := func(message uint64, kind drpcwire.Kind, data []byte) []byte {
		id := drpcwire.ID{Stream: 1, Message: message}
		return drpcwire.AppendFrame(nil, drpcwire.Frame{ID: id, Kind: kind, Done: true, Data: data})
	}
	publish := linkpb.AppendItem(nil, linkpb.KindPublish, &linkpb.Publish{Topic: "t:a"})
	_, err = nc.Write(append(frame(1, drpcwire.KindInvoke, []byte("/ringcast.link.v1.Links/Link")), frame(2, drpcwire.KindMessage, publish)...))
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := io.Copy(io.Discard, nc); n != 0 {
		t.Errorf("answered with %d bytes", n)
	}
	waitFor(t, "the log line", func() bool { return s.logs.FilterMessage("closed a connection that sent no hello").Len() == 1 })
	if n := labelled(t, s, "ringcast_topic_closed_lanes_total", "no_hello"); n != 1 {
		t.Errorf("%v strangers counted", n)
	}
	line := s.logs.FilterMessage("closed a connection that sent no hello").All()[0].ContextMap()
	if line["error"] != "item 6 before the hello" || s.Stats().Publishes != 0 {
		t.Errorf("log line %v, stats %+v", line, s.Stats())
	}
}

// raw is the body of an item, bad as it may be.
type raw string

func (r raw) SizeVT() int { return len(r) }

func (r raw) MarshalToSizedBufferVT(dst []byte) (int, error) { return copy(dst, r), nil }

func TestAPingIsAnswered(t *testing.T) {
	s := start(t, Config{})
	pong := make(chan struct{}, 1)
	lane, err := link.Dial(t.Context(), s.addr, unhurried, s.hello())
	if err != nil {
		t.Fatal(err)
	}
	lane.Append(linkpb.KindUpPing, &linkpb.Ping{})
	lane.Flush()
	ended := make(chan error, 1)
	go func() {
		ended <- lane.Receive(func(kind linkpb.Kind, _ []byte) error {
			lane.Greeted()
			if kind == linkpb.KindDownPing {
				pong <- struct{}{}
			}
			return nil
		}, func() {})
	}()
	await(t, "the answer", pong)
	lane.Close()
	await(t, "the lane to end", ended)
}

// Gateways are told now and then what they should have.
func TestDigestsAreSent(t *testing.T) {
	s := start(t, Config{DigestInterval: 10 * time.Millisecond})
	digests := make(chan *linkpb.Digest, 100)
	lane, err := link.Dial(t.Context(), s.addr, unhurried, s.hello())
	if err != nil {
		t.Fatal(err)
	}
	lane.Append(linkpb.KindSubscribe, &linkpb.Subscribe{Ref: 1, Topic: "t:a"})
	lane.Append(linkpb.KindPublish, &linkpb.Publish{Ref: 2, Topic: "t:a"})
	lane.Flush()
	ended := make(chan error, 1)
	go func() {
		ended <- lane.Receive(func(kind linkpb.Kind, body []byte) error {
			lane.Greeted()
			if kind != linkpb.KindDigest {
				return nil
			}
			d := new(linkpb.Digest)
			err := d.UnmarshalVT(body)
			digests <- d
			return err
		}, func() {})
	}()
	d := await(t, "a digest", digests)
	for d.Topic == "t:a" && d.Position.GetOffset() == 0 { // from before the publish
		d = await(t, "another digest", digests)
	}
	if d.Topic != "t:a" || d.Position.GetOffset() != 1 {
		t.Errorf("digest %v", d)
	}
	lane.Close()
	await(t, "the lane to end", ended)
}

// An item of a kind that a later protocol may have is no reason to end a lane.
func TestUnknownItemIsSkipped(t *testing.T) {
	s := start(t, Config{})
	g := s.connect(t, "gw-a")
	g.send(1000, raw("later"))
	g.publish(t, "t:a", "x")
}

// A batch that turns bad has been handled up to there: what it published reaches the others although the publisher's
// lane ends in the middle of it.
func TestBadItemDoesNotHoldBackOthers(t *testing.T) {
	s := start(t, Config{})
	a, b := s.connect(t, "gw-a"), s.connect(t, "gw-b")
	b.subscribe(t, "t:a")
	a.Append(linkpb.KindPublish, &linkpb.Publish{Ref: 1, Topic: "t:a", Payload: []byte("x")})
	a.Append(linkpb.KindSubscribe, raw("\x12\x05ab"))
	a.Flush()
	if m := next[*linkpb.Message](t, b); string(m.Payload) != "x" {
		t.Errorf("message %v", m)
	}
	await(t, "the lane to end", a.ended)
}

// A lane that dies takes all its subscribers along, on every topic.
func TestDeadLaneDropsItsSubscribers(t *testing.T) {
	s := start(t, Config{})
	a, b := s.connect(t, "gw-a"), s.connect(t, "gw-b")
	for _, g := range []*gateway{a, b} {
		for i := range 10 {
			g.subscribe(t, fmt.Sprint("t:", i))
			g.join(fmt.Sprint("t:", i), 1)
			g.join(fmt.Sprint("t:", i), 2)
		}
	}
	waitFor(t, "40 subscribers", func() bool { return s.Stats().Subscribers == 40 })
	a.Close()
	waitFor(t, "20 subscribers", func() bool { return s.Stats().Subscribers == 20 })
	for i := range 10 {
		for _, sub := range s.Subscribers(fmt.Sprint("t:", i)) {
			if sub.Gateway != "gw-b" {
				t.Errorf("topic %d still has %v", i, sub)
			}
		}
	}
	b.publish(t, "t:other", "")
	before := s.Stats().FanoutSends
	b.publish(t, "t:0", "x")
	if n := s.Stats().FanoutSends - before; n != 1 {
		t.Errorf("%d sends, want 1", n)
	}
	waitFor(t, "one lane to be left", func() bool { return s.Lanes() == 1 })
	next[*linkpb.Message](t, b)
}

// A gateway that redials before its old connection is found dead takes its place: the old subscriptions go, those of
// the new connection stay.
func TestRedialSupersedes(t *testing.T) {
	s := start(t, Config{})
	old := s.connect(t, "gw-a")
	old.subscribe(t, "t:old")
	old.subscribe(t, "t:both")
	old.join("t:both", 1)
	waitFor(t, "the old subscriber", func() bool { return s.Stats().Subscribers == 1 })

	renewed := s.connect(t, "gw-a")
	renewed.subscribe(t, "t:both")
	renewed.join("t:both", 2)
	if err := await(t, "the old lane to end", old.ended); !errors.Is(err, io.EOF) {
		t.Errorf("old lane ended with %v", err)
	}
	waitFor(t, "the new subscriber alone", func() bool {
		subs := s.Subscribers("t:both")
		return len(subs) == 1 && subs[0].ID == 2
	})
	waitFor(t, "the log line", func() bool { return s.logs.FilterMessage("lane ended").Len() == 1 })
	if why := s.logs.FilterMessage("lane ended").All()[0].ContextMap()["error"]; why != errSuperseded.Error() {
		t.Errorf("logged %v", why)
	}
	waitFor(t, "one lane to be left", func() bool { return s.Lanes() == 1 })
	before := s.Stats().FanoutSends
	renewed.publish(t, "t:old", "x")
	renewed.publish(t, "t:both", "y")
	next[*linkpb.Message](t, renewed)
	if n := s.Stats().FanoutSends - before; n != 1 {
		t.Errorf("%d sends, want 1", n)
	}
}

// Two gateways that were given the same id are two gateways; so are the lanes of one.
func TestSameIDOtherInstance(t *testing.T) {
	s := start(t, Config{})
	h1, h2, h3 := s.hello(), s.hello(), s.hello()
	h2.Instance = 2
	h3.Lane = 1
	gws := []*gateway{s.dial(t, h1), s.dial(t, h2), s.dial(t, h3)}
	for _, g := range gws {
		next[*linkpb.Welcome](t, g)
		g.subscribe(t, "t:a")
	}
	if s.Lanes() != 3 {
		t.Errorf("%d lanes, want 3", s.Lanes())
	}
	gws[0].publish(t, "t:a", "x")
	for _, g := range gws {
		next[*linkpb.Message](t, g)
	}
}

// A gateway that comes back hears who was revoked before any join of its clients is answered, over whichever lane.
func TestEveryLaneHasTheRevocations(t *testing.T) {
	s := start(t, Config{})
	a := s.connect(t, "gw-a")
	r := revoke.New(time.Now(), time.Hour)
	r.Target = &linkpb.Revoke_User{User: "neo"}
	a.send(linkpb.KindUpRevoke, r)
	next[*linkpb.Revoke](t, a) // it is noted
	var lanes []*gateway
	for lane := range uint32(2) {
		h := s.hello()
		h.Gateway, h.Lane = "gw-b", lane
		b := s.dial(t, h)
		b.send(linkpb.KindSubscribe, &linkpb.Subscribe{Ref: 1, Topic: "topics:matrix"})
		next[*linkpb.Welcome](t, b)
		if got := next[*linkpb.Revoke](t, b); got.GetUser() != "neo" {
			t.Errorf("lane %d: %v", lane, got)
		}
		next[*linkpb.Reply](t, b)
		lanes = append(lanes, b)
	}
	later := revoke.New(time.Now(), time.Hour)
	later.Target = &linkpb.Revoke_User{User: "smith"}
	a.send(linkpb.KindUpRevoke, later)
	for lane, b := range lanes {
		if got := next[*linkpb.Revoke](t, b); got.GetUser() != "smith" {
			t.Errorf("lane %d: %v", lane, got)
		}
	}
}

// A gateway that stops reading delays nobody, and is cut off when it leaves more unread than a lane may queue.
func TestFrozenGatewayDelaysNobody(t *testing.T) {
	s := start(t, Config{})
	thaw := make(chan struct{})
	frozen, err := link.Dial(t.Context(), s.addr, unhurried, s.hello())
	if err != nil {
		t.Fatal(err)
	}
	frozen.Append(linkpb.KindSubscribe, &linkpb.Subscribe{Ref: 1, Topic: "t:a"})
	frozen.Flush()
	defer ping(frozen)() // it stops reading, not working
	ended := make(chan error, 1)
	go func() {
		ended <- frozen.Receive(func(kind linkpb.Kind, _ []byte) error {
			frozen.Greeted()
			if kind == linkpb.KindMessage {
				<-thaw
			}
			return nil
		}, func() {})
	}()
	b := s.connect(t, "gw-b")
	b.subscribe(t, "t:a")
	waitFor(t, "both subscriptions", func() bool {
		b.publish(t, "t:a", "x")
		next[*linkpb.Message](t, b)
		return s.Stats().FanoutSends > s.Stats().Publishes
	})
	payload := strings.Repeat("x", 64<<10)
	for i := 0; s.Lanes() == 2; i++ {
		b.publish(t, "t:a", payload)
		if m := next[*linkpb.Message](t, b); len(m.Payload) != len(payload) {
			t.Fatalf("message of %d bytes", len(m.Payload))
		}
		if i > 1000 {
			t.Fatal("64 MiB wait for a gateway that does not read")
		}
	}
	waitFor(t, "the counter", func() bool { return gauge(t, s, "ringcast_topic_slow_lanes_total") == 1 })
	close(thaw)
	await(t, "the frozen gateway to notice", ended)
}

// FuzzUp feeds a batch to a lane that has been greeted. Whatever it holds, it does not harm another gateway.
func FuzzUp(f *testing.F) {
	pack := func(kind linkpb.Kind, m linkpb.Item) []byte { return linkpb.AppendItem(nil, kind, m) }
	f.Add(pack(linkpb.KindSubscribe, &linkpb.Subscribe{Ref: 1, Topic: "t:a"}))
	f.Add(pack(linkpb.KindUnsubscribe, &linkpb.Unsubscribe{Topic: "t:a"}))
	f.Add(pack(linkpb.KindJoin, &linkpb.Join{Topic: "t:a", Subscriber: 1}))
	f.Add(pack(linkpb.KindLeave, &linkpb.Leave{Topic: "t:a", Subscriber: 1}))
	f.Add(pack(linkpb.KindPublish, &linkpb.Publish{Ref: 1, Topic: "t:a", Event: "e", Payload: []byte(`{}`)}))
	f.Add(pack(linkpb.KindHello, &linkpb.Hello{Protocol: 1}))
	f.Add(pack(linkpb.KindUpPing, &linkpb.Ping{}))
	f.Add(pack(linkpb.KindUpRing, &linkpb.Ring{Version: 3, Servers: []*linkpb.RingServer{{Id: "ts-b", Addr: "127.0.0.1:1"}}}))
	f.Add(pack(linkpb.KindSubscribe, &linkpb.Subscribe{Ref: 1, Topic: "t:a", Since: []*linkpb.Position{{Epoch: 1, Offset: 1 << 63}, {}}}))
	f.Add(pack(linkpb.KindPublish, raw("\x22\xff\xff")))
	f.Add([]byte("\x0a\x02\x12\x05"))
	s := start(f, Config{HandoverTimeout: 10 * time.Millisecond}) // a batch may hold a ring
	bystander := s.connect(f, "gw-z")
	f.Fuzz(func(t *testing.T, batch []byte) {
		g := s.connect(t, "gw-a")
		g.AppendEncoded(batch)
		g.Flush()
		g.send(linkpb.KindPublish, &linkpb.Publish{Ref: 1 << 60, Topic: "t:last"})
		for done := false; !done; {
			select {
			case it := <-g.items:
				rep, ok := it.(*linkpb.Reply)
				done = ok && rep.Ref == 1<<60
			case <-g.ended:
				done = true
			}
		}
		bystander.ref++
		bystander.send(linkpb.KindPublish, &linkpb.Publish{Ref: bystander.ref, Topic: "t:other"})
		bystander.reply(t, bystander.ref)
	})
}
