package session

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ringcast/ringcast/gateway/auth"
	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/ring"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for something that must happen.
const patience = time.Minute

// owner is a topic server that does what the names say: it accepts every subscription and publish, but
//
//	topics that end in "silent" are not answered until the test calls answer,
//	topics that end in "refused" are INVALID,
//	publishes of an event that is the name of a code, or to a topic that ends in one, end with that code,
//	publishes to topics that end in "held" are not answered until the test calls release,
//	publishes of the event "lost" end the lane, and the process behind it.
//
// It remembers all messages, but for the past of topics that it has lost messages of, and all publish ids.
type owner struct {
	mu          sync.Mutex
	wire        *link.Lane
	lanes       int // how many there have been
	offsets     map[string]uint64
	subscribed  map[string]bool
	subscribers map[string]map[uint64]bool
	unanswered  map[string]*linkpb.Subscribe
	held        []*linkpb.Publish
	history     map[string][]*linkpb.Message
	ids         map[[2]uint64]uint64 // offsets
	instance    uint64
}

func (o *owner) handle(wire *link.Lane) {
	o.mu.Lock()
	o.wire = wire
	o.lanes++
	o.subscribed, o.subscribers = map[string]bool{}, map[string]map[uint64]bool{}
	o.unanswered = map[string]*linkpb.Subscribe{}
	o.mu.Unlock()
	_ = wire.Receive(func(kind linkpb.Kind, body []byte) error {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.item(kind, body)
	}, wire.Flush)
}

func (o *owner) item(kind linkpb.Kind, body []byte) error {
	switch kind {
	case linkpb.KindHello:
		o.wire.Greeted()
		o.wire.Append(linkpb.KindWelcome, &linkpb.Welcome{Server: "ts", RingVersion: 1, Instance: o.instance})
	case linkpb.KindUpPing:
		o.wire.Append(linkpb.KindDownPing, &linkpb.Ping{})
	case linkpb.KindSubscribe:
		var m linkpb.Subscribe
		if err := m.UnmarshalVT(body); err != nil {
			return err
		}
		o.unanswered[m.Topic] = &m
		switch {
		case strings.HasSuffix(m.Topic, "refused"):
			o.reply(m.Ref, linkpb.Code_INVALID, nil)
		case !strings.HasSuffix(m.Topic, "silent"):
			o.accept(m.Topic)
		}
	case linkpb.KindUnsubscribe:
		var m linkpb.Unsubscribe
		if err := m.UnmarshalVT(body); err != nil {
			return err
		}
		delete(o.subscribed, m.Topic)
		delete(o.subscribers, m.Topic)
	case linkpb.KindJoin, linkpb.KindLeave:
		var m linkpb.Join // Leave has the same fields
		if err := m.UnmarshalVT(body); err != nil {
			return err
		}
		if o.subscribers[m.Topic] == nil {
			o.subscribers[m.Topic] = make(map[uint64]bool)
		}
		if delete(o.subscribers[m.Topic], m.Subscriber); kind == linkpb.KindJoin {
			o.subscribers[m.Topic][m.Subscriber] = true
		}
	case linkpb.KindPublish:
		var m linkpb.Publish
		if err := m.UnmarshalVT(body); err != nil {
			return err
		}
		if strings.HasSuffix(m.Topic, "held") {
			o.held = append(o.held, &m)
			return nil
		}
		return o.publish(&m)
	}
	return nil
}

// release accepts what was held of the publishes; it reports false while those are not n.
func (o *owner) release(n int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.held) != n {
		return false
	}
	for _, m := range o.held {
		_ = o.publish(m) // ends no lane
	}
	o.held = nil
	o.wire.Flush()
	return true
}

func (o *owner) publish(m *linkpb.Publish) error {
	if m.Event == "lost" {
		o.instance++
		return io.ErrUnexpectedEOF
	}
	code := linkpb.Code_value[m.Event]
	if _, name, ok := strings.Cut(m.Topic, "-"); ok {
		code = linkpb.Code_value[name]
	}
	if code != 0 {
		o.reply(m.Ref, linkpb.Code(code), nil)
		return nil
	}
	id := [2]uint64{m.IdHigh, m.IdLow}
	if offset := o.ids[id]; offset != 0 {
		o.reply(m.Ref, linkpb.Code_OK, &linkpb.Position{Epoch: 1, Offset: offset})
		return nil
	}
	o.offsets[m.Topic]++
	o.ids[id] = o.offsets[m.Topic]
	own := &linkpb.Message{
		Topic: m.Topic, Position: o.position(m.Topic), Event: m.Event, Payload: m.Payload, Binary: m.Binary,
	}
	o.history[m.Topic] = append(o.history[m.Topic], own)
	o.reply(m.Ref, linkpb.Code_OK, o.position(m.Topic))
	if o.subscribed[m.Topic] {
		o.wire.Append(linkpb.KindMessage, own)
	}
	return nil
}

func (o *owner) position(topic string) *linkpb.Position {
	return &linkpb.Position{Epoch: 1, Offset: o.offsets[topic]}
}

func (o *owner) reply(ref uint64, code linkpb.Code, p *linkpb.Position) {
	rep := &linkpb.Reply{Ref: ref, Code: code, Detail: "the owner's detail", Position: p}
	if code == linkpb.Code_OK {
		rep.Detail = ""
	}
	if code == linkpb.Code_RATE_LIMITED {
		rep.RetryAfterMs = 250
	}
	o.wire.Append(linkpb.KindReply, rep)
}

func (o *owner) accept(topic string) {
	o.subscribed[topic] = true
	m := o.unanswered[topic]
	delete(o.unanswered, topic)
	rep := &linkpb.Reply{Ref: m.Ref, Position: o.position(topic)}
	var past []*linkpb.Message
	for _, since := range m.Since {
		missed := int(o.offsets[topic] - since.Offset)
		if since.Epoch != 1 || missed < len(past) || missed > len(o.history[topic]) {
			continue
		}
		past = o.history[topic][len(o.history[topic])-missed:]
		rep.From, rep.Replayed = since, uint32(missed)
	}
	o.wire.Append(linkpb.KindReply, rep)
	for _, m := range past {
		o.wire.Append(linkpb.KindMessage, m)
	}
}

// answer accepts the subscription of a silent topic; it reports false until there is one.
func (o *owner) answer(topic string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.unanswered[topic] == nil {
		return false
	}
	o.accept(topic)
	o.wire.Flush()
	return true
}

// lose makes the gateway lose a message of the topic for good, and its link. It returns how many links there have been.
func (o *owner) lose(topic string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.offsets[topic]++
	o.history[topic] = nil
	o.wire.Close()
	return o.lanes
}

// cut makes the gateway lose its link, and miss a message of the topic that is remembered.
func (o *owner) cut(topic string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.offsets[topic]++
	o.history[topic] = append(o.history[topic], &linkpb.Message{
		Topic: topic, Position: o.position(topic), Event: "missed", Payload: []byte("{}"),
	})
	o.wire.Close()
	return o.lanes
}

func (o *owner) lanesSoFar() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lanes
}

// present returns how many subscribers the topic has.
func (o *owner) present(topic string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.subscribers[topic])
}

// house is a router with its sessions, on one loop, in front of an owner.
type house struct {
	t        testing.TB
	owner    *owner
	loops    *socket.Loops
	router   *router.Router
	sessions *Sessions
}

func newHouse(t testing.TB, topics string, maxChannels int) *house {
	t.Helper()
	return newHouseWith(t, topics, Config{MaxChannels: maxChannels})
}

// newHouseWith is newHouse with more of a configuration.
func newHouseWith(t testing.TB, topics string, cfg Config, adjust ...func(*router.Config)) *house {
	t.Helper()
	served, err := ParseTopics(topics)
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, owner: &owner{
		offsets: make(map[string]uint64), history: make(map[string][]*linkpb.Message), ids: make(map[[2]uint64]uint64),
	}}
	rg, err := ring.New(1, []ring.Server{{ID: "ts", Addr: lis.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	if h.loops, err = socket.New(socket.Config{Loops: 1, IdleTimeout: -1, WriteTimeout: time.Hour}); err != nil {
		t.Fatal(err)
	}
	routed := router.Config{
		Gateway: "gw", Ring: rg, Loops: h.loops, Lanes: 1, Linger: 20 * time.Millisecond,
		// A loaded machine takes its time, and is not to be taken for an owner that does not answer.
		JoinTimeout: time.Hour, PublishTimeout: time.Hour, Heartbeat: time.Hour,
	}
	for _, f := range adjust {
		f(&routed)
	}
	if h.router, err = router.New(routed); err != nil {
		t.Fatal(err)
	}
	cfg.Topics = served
	h.sessions = New(cfg, h.router.Local(0))

	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = link.Serve(ctx, lis, link.ServeConfig{Config: link.Config{Silence: time.Hour, HelloTimeout: time.Hour}, Handle: h.owner.handle})
	})
	wg.Go(func() { h.router.Run(ctx) })
	t.Cleanup(func() { h.loops.Close(); cancel(); wg.Wait() })
	h.eventually("the link is up", func() bool { return h.router.Ready() == nil })
	return h
}

func (h *house) eventually(what string, cond func() bool) {
	h.t.Helper()
	h.within(patience, what, cond)
}

// within is eventually for what takes its time.
func (h *house) within(patience time.Duration, what string, cond func() bool) {
	h.t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("never: %s", what)
		}
	}
}

// client speaks frames over a plain socket.
type client struct {
	t    testing.TB
	nc   net.Conn
	br   *bufio.Reader
	text bool // every frame is text
}

func (h *house) connect(t testing.TB, k codec.Kind) *client {
	t.Helper()
	return h.connectAs(t, k, nil)
}

// connectAs is connect with the identity of a handshake.
func (h *house) connectAs(t testing.TB, k codec.Kind, id *auth.Identity) *client {
	t.Helper()
	return h.connectTo(t, func(c *socket.Conn) socket.Handler { return h.sessions.Open(c, k, id) })
}

// connectWest connects a WEST client, which is greeted.
func (h *house) connectWest(t testing.TB, k codec.Kind, opts WestOptions) *client {
	t.Helper()
	c := h.connectTo(t, func(c *socket.Conn) socket.Handler { return h.sessions.OpenWest(c, k, opts, nil) })
	c.text = true
	return c
}

func (h *house) connectTo(t testing.TB, open func(*socket.Conn) socket.Handler) *client {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	nc, err := net.Dial("tcp", lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	server, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if err := h.loops.Adopt(server, open); err != nil {
		t.Fatal(err)
	}
	return &client{t: t, nc: nc, br: bufio.NewReader(nc)}
}

// say sends frames in one write. One that does not start as JSON does is binary.
func (c *client) say(frames ...string) {
	c.t.Helper()
	var b []byte
	for _, f := range frames {
		first := byte(0x81)
		if !c.text && !strings.ContainsAny(f[:1], "[{") {
			first = 0x82
		}
		b = append(b, first)
		if len(f) < 126 {
			b = append(b, 0x80|byte(len(f)))
		} else {
			b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(len(f)))
		}
		b = append(append(b, 0, 0, 0, 0), f...) // a mask of zeros
	}
	if _, err := c.nc.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

// hear returns the next frame: its payload, or "close <code> <reason>".
func (c *client) hear() string {
	c.t.Helper()
	_ = c.nc.SetReadDeadline(time.Now().Add(patience))
	head := make([]byte, 4)
	_, err := io.ReadFull(c.br, head[:2])
	n := int(head[1])
	if err == nil && n == 126 {
		_, err = io.ReadFull(c.br, head[2:])
		n = int(binary.BigEndian.Uint16(head[2:]))
	}
	body := make([]byte, n)
	if err == nil {
		_, err = io.ReadFull(c.br, body)
	}
	if err != nil {
		c.t.Fatalf("hear: %v", err)
	}
	if head[0] == 0x88 {
		return fmt.Sprintf("close %d %s", binary.BigEndian.Uint16(body), body[2:])
	}
	return string(body)
}

func (c *client) expect(frames ...string) {
	c.t.Helper()
	for _, want := range frames {
		if got := c.hear(); got != want {
			c.t.Fatalf("heard %s\n want %s", got, want)
		}
	}
}

// play runs a transcript. Its lines are:
//
//	> FRAME        the client says
//	< FRAME        the client hears next, or "close CODE REASON"
//	answer TOPIC   the owner accepts the subscription of a silent topic
//	lose TOPIC     the gateway loses a message of the topic for good, and its link, and has another
//	cut TOPIC      the same, but the message, of the event "missed", is remembered
//	relinked       the link is live again
//
// After the last line the client hears nothing more, which a heartbeat shows.
func (h *house) play(t testing.TB, k codec.Kind, script string) {
	t.Helper()
	var c *client
	switch k {
	case codec.WestJSON, codec.WestText:
		c = h.connectWest(t, k, WestOptions{Key: "u1"})
	default:
		c = h.connect(t, k)
	}
	for line := range strings.Lines(strings.TrimSpace(script)) {
		verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch verb {
		case ">":
			c.say(rest)
		case "<":
			c.expect(rest)
		case "answer":
			h.eventually("the owner is asked for "+rest, func() bool { return h.owner.answer(rest) })
		case "lose":
			lost := h.owner.lose(rest)
			h.eventually("there is another link", func() bool { return h.owner.lanesSoFar() > lost })
		case "cut":
			lost := h.owner.cut(rest)
			h.eventually("there is another link", func() bool { return h.owner.lanesSoFar() > lost })
		case "relinked":
			h.eventually("the link is up", func() bool { return h.router.Ready() == nil })
		default:
			t.Fatalf("bad line in the transcript: %q", line)
		}
		if strings.HasPrefix(rest, "close") {
			return
		}
	}
	last := map[codec.Kind][2]string{
		codec.PhoenixV1: {
			`{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"hb"}`,
			`{"event":"phx_reply","payload":{"response":{},"status":"ok"},"ref":"hb","topic":"phoenix"}`,
		},
		codec.PhoenixV2: {`[null,"hb","phoenix","heartbeat",{}]`, `[null,"hb","phoenix","phx_reply",{"response":{},"status":"ok"}]`},
		codec.WestJSON:  {`{"event":"ping","id":"last"}`, `{"event":"pong","from":"west","id":"last"}`},
		codec.WestText:  {`ping`, `west pong`},
	}[k]
	c.say(last[0])
	c.expect(last[1])
}
