package router

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/ring"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for something that must happen.
const patience = time.Minute

// owner is a scripted topic server: it records what gateways send and answers what the test says.
type owner struct {
	t    *testing.T
	id   string
	gate *gate
	ups  chan up    // everything received, the hellos too
	busy sync.Mutex // held while the owner handles an item, and by a test that wants it to read nothing

	// greeting makes the first item of a lane; nil means a Welcome from id.
	greeting func() (linkpb.Kind, linkpb.Item)
	instance atomic.Uint64 // of the process that the owner plays
	mute     atomic.Bool   // pings are not answered
}

// gate is a listener that can be down: then it hangs up on whoever calls.
type gate struct {
	net.Listener
	down atomic.Bool
}

func (g *gate) Accept() (net.Conn, error) {
	for {
		nc, err := g.Listener.Accept()
		if err != nil || !g.down.Load() {
			return nc, err
		}
		_ = nc.Close()
	}
}

// up is one item that a gateway sent.
type up struct {
	t     *testing.T
	wire  *link.Lane
	index uint32 // of the lane
	kind  linkpb.Kind
	topic string
	ref   uint64
	id    [2]uint64 // of a publish
	since []*linkpb.Position
	text  string // all that matters of it
}

func newOwner(t *testing.T, id string) *owner {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &owner{t: t, id: id, gate: &gate{Listener: lis}, ups: make(chan up, 4096)}
	o.greeting = func() (linkpb.Kind, linkpb.Item) {
		return linkpb.KindWelcome, &linkpb.Welcome{Server: id, RingVersion: 1, Instance: o.instance.Load()}
	}
	o.instance.Store(1)
	return o
}

// serve runs the owner until the test ends.
func (o *owner) serve() {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		// The gateways of most tests do not ping, and a loaded machine takes its time.
		cfg := link.Config{Silence: time.Hour, HelloTimeout: time.Hour, WriteTimeout: time.Hour}
		if err := link.Serve(ctx, o.gate, link.ServeConfig{Config: cfg, Handle: o.handle}); err != nil {
			o.t.Error(err)
		}
	})
	o.t.Cleanup(func() { cancel(); wg.Wait() })
}

func (o *owner) handle(wire *link.Lane) {
	u := up{t: o.t, wire: wire}
	_ = wire.Receive(func(kind linkpb.Kind, body []byte) error {
		o.busy.Lock()
		defer o.busy.Unlock()
		if kind == linkpb.KindUpPing {
			if !o.mute.Load() {
				u.send(linkpb.KindDownPing, &linkpb.Ping{})
			}
			return nil
		}
		u.kind, u.ref, u.id, u.since = kind, 0, [2]uint64{}, nil
		if err := u.decode(body); err != nil {
			o.t.Errorf("owner %s: %v", o.id, err)
		}
		o.ups <- u
		if kind == linkpb.KindHello {
			wire.Greeted()
			u.send(o.greeting())
		}
		return nil
	}, func() {})
}

func (u *up) decode(body []byte) error {
	switch u.kind {
	case linkpb.KindHello:
		var m linkpb.Hello
		err := m.UnmarshalVT(body)
		u.index, u.topic = m.Lane, ""
		u.text = fmt.Sprintf("hello %s %d/%d", m.Gateway, m.Lane, m.Lanes)
		return err
	case linkpb.KindSubscribe:
		var m linkpb.Subscribe
		err := m.UnmarshalVT(body)
		u.topic, u.ref, u.text = m.Topic, m.Ref, "subscribe "+m.Topic
		slices.SortFunc(m.Since, func(a, b *linkpb.Position) int { return cmp.Compare(a.Epoch, b.Epoch) })
		u.since = m.Since
		for _, p := range m.Since {
			u.text += fmt.Sprintf(" since %d:%d", p.Epoch, p.Offset)
		}
		return err
	case linkpb.KindUnsubscribe:
		var m linkpb.Unsubscribe
		err := m.UnmarshalVT(body)
		u.topic, u.text = m.Topic, "unsubscribe "+m.Topic
		return err
	case linkpb.KindJoin:
		var m linkpb.Join
		err := m.UnmarshalVT(body)
		u.topic, u.text = m.Topic, fmt.Sprintf("join %s %x", m.Topic, m.Subscriber)
		return err
	case linkpb.KindLeave:
		var m linkpb.Leave
		err := m.UnmarshalVT(body)
		u.topic, u.text = m.Topic, fmt.Sprintf("leave %s %x", m.Topic, m.Subscriber)
		return err
	case linkpb.KindPublish:
		var m linkpb.Publish
		err := m.UnmarshalVT(body)
		u.topic, u.ref, u.text = m.Topic, m.Ref, fmt.Sprintf("publish %s %s %s", m.Topic, m.Event, m.Payload)
		u.id = [2]uint64{m.IdHigh, m.IdLow}
		if m.Name != nil {
			u.text = fmt.Sprintf("%s %s", m.Name.Op, m.Topic)
		}
		return err
	case linkpb.KindHistory:
		var m linkpb.History
		err := m.UnmarshalVT(body)
		u.topic, u.ref, u.text = m.Topic, m.Ref, fmt.Sprintf("history %s since %d:%d limit %d", m.Topic, m.Since.GetEpoch(), m.Since.GetOffset(), m.Limit)
		return err
	case linkpb.KindUpRing:
		var m linkpb.Ring
		err := m.UnmarshalVT(body)
		u.text = fmt.Sprintf("ring %d", m.Version)
		return err
	case linkpb.KindWatch:
		var m linkpb.Watch
		err := m.UnmarshalVT(body)
		u.topic, u.ref, u.text = m.Topic, m.Ref, "watch "+m.Topic
		return err
	case linkpb.KindTrack:
		var m linkpb.Track
		err := m.UnmarshalVT(body)
		u.topic, u.ref = m.Topic, m.Ref
		u.text = fmt.Sprintf("track %s %s ref %d again %v", m.Topic, m.Presence.GetKey(), m.Presence.GetRef(), m.Again)
		return err
	case linkpb.KindUnwatch, linkpb.KindUntrack:
		u.text = fmt.Sprintf("of presence: %d", u.kind)
		return nil
	}
	return fmt.Errorf("item of kind %d", u.kind)
}

// next returns the next item.
func (o *owner) next() up {
	o.t.Helper()
	select {
	case u := <-o.ups:
		return u
	case <-time.After(patience):
		o.t.Fatalf("owner %s: nothing comes", o.id)
		return up{}
	}
}

// expect wants these items next and returns the last.
func (o *owner) expect(texts ...string) (u up) {
	o.t.Helper()
	for _, want := range texts {
		if u = o.next(); u.text != want {
			o.t.Fatalf("owner %s got %q, want %q", o.id, u.text, want)
		}
	}
	return u
}

// send sends one item as a batch of its own.
func (u up) send(kind linkpb.Kind, item linkpb.Item) {
	u.wire.Append(kind, item)
	u.wire.Flush()
}

// accept answers a request with OK.
func (u up) accept(epoch, offset uint64) {
	u.send(linkpb.KindReply, &linkpb.Reply{Ref: u.ref, Position: &linkpb.Position{Epoch: epoch, Offset: offset}})
}

// recover answers a Subscribe with what follows an offset, up to top, in one batch.
func (u up) recover(epoch, from, top uint64) {
	u.wire.Append(linkpb.KindReply, u.answer(epoch, top, from, top-from))
	for offset := from + 1; offset <= top; offset++ {
		u.wire.Append(linkpb.KindMessage, messageItem(u.topic, epoch, offset))
	}
	u.wire.Flush()
}

// reply announces replayed messages that follow an offset, without sending them.
func (u up) reply(epoch, top, from, replayed uint64) {
	u.send(linkpb.KindReply, u.answer(epoch, top, from, replayed))
}

func (u up) answer(epoch, top, from, replayed uint64) *linkpb.Reply {
	return &linkpb.Reply{
		Ref: u.ref, Position: &linkpb.Position{Epoch: epoch, Offset: top},
		From: &linkpb.Position{Epoch: epoch, Offset: from}, Replayed: uint32(replayed),
	}
}

// digest tells where the request's topic is.
func (u up) digest(epoch, offset uint64) {
	u.send(linkpb.KindDigest, &linkpb.Digest{Topic: u.topic, Position: &linkpb.Position{Epoch: epoch, Offset: offset}})
}

// seal ends the request's topic at this owner.
func (u up) seal(epoch, offset uint64) {
	u.send(linkpb.KindSealed, &linkpb.Sealed{Topic: u.topic, Position: &linkpb.Position{Epoch: epoch, Offset: offset}})
}

func (u up) refuse(code linkpb.Code, detail string) {
	u.send(linkpb.KindReply, &linkpb.Reply{Ref: u.ref, Code: code, Detail: detail})
}

// fanOut sends messages of the request's topic, one batch each. Their payload is their offset.
func (u up) fanOut(epoch uint64, offsets ...uint64) {
	for _, offset := range offsets {
		u.send(linkpb.KindMessage, messageItem(u.topic, epoch, offset))
	}
}

func messageItem(topic string, epoch, offset uint64) *linkpb.Message {
	return &linkpb.Message{
		Topic: topic, Event: "e", Payload: fmt.Append(nil, offset),
		Position: &linkpb.Position{Epoch: epoch, Offset: offset},
	}
}

// world is a router between scripted owners and members.
type world struct {
	t      *testing.T
	owners []*owner
	loops  *socket.Loops
	r      *Router
	logs   *observer.ObservedLogs
}

// newWorld makes a router with one loop and one lane to each owner. It does not linger, nor give up a join or a publish,
// unless adjust says so. Nothing runs yet.
func newWorld(t *testing.T, owners int, adjust ...func(*Config)) *world {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	w := &world{t: t, logs: logs}
	var servers []ring.Server
	for i := range owners {
		o := newOwner(t, fmt.Sprint("ts-", i+1))
		w.owners = append(w.owners, o)
		servers = append(servers, ring.Server{ID: o.id, Addr: o.gate.Addr().String()})
	}
	rg, err := ring.New(1, servers)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Gateway: "gw", Ring: rg, Lanes: 1, Linger: 15 * time.Millisecond, Log: zap.New(core)}
	// No pings either: they flush their lane, and so would hide what is appended and not flushed.
	cfg.JoinTimeout, cfg.PublishTimeout, cfg.Heartbeat = time.Hour, time.Hour, time.Hour
	cfg.Link.HelloTimeout, cfg.Link.WriteTimeout = time.Hour, time.Hour
	for _, f := range adjust {
		f(&cfg)
	}
	if cfg.Loops == nil {
		cfg.Loops = newLoops(t, 1)
	}
	w.loops = cfg.Loops
	if w.r, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	for i := range w.loops.Len() {
		w.r.Local(i).Ended = func(c *hub.Channel) { close(c.Conn.Handler().(*member).ended) }
	}
	return w
}

func newLoops(t *testing.T, n int) *socket.Loops {
	t.Helper()
	loops, err := socket.New(socket.Config{Loops: n, IdleTimeout: -1, WriteTimeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(loops.Close)
	return loops
}

func twoLoops(t *testing.T) func(*Config) {
	return func(c *Config) { c.Loops = newLoops(t, 2) }
}

// run starts owners and router.
func (w *world) run() {
	w.t.Helper()
	for _, o := range w.owners {
		o.serve()
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { w.r.Run(ctx) })
	w.t.Cleanup(func() { cancel(); wg.Wait() })
}

// start is run, and waits for the links.
func (w *world) start() *owner {
	w.t.Helper()
	w.run()
	for _, o := range w.owners {
		for i := range w.r.cfg.Lanes {
			hello := o.next()
			if !strings.HasPrefix(hello.text, "hello gw") {
				w.t.Fatalf("owner %s: lane %d: got %q", o.id, i, hello.text)
			}
		}
	}
	w.eventually("all links are up", func() bool { return w.r.Ready() == nil })
	return w.owners[0]
}

func (w *world) eventually(what string, cond func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("never: %s", what)
		}
	}
}

// on runs f on loop i and waits for it.
func (w *world) on(i int, f func()) {
	w.t.Helper()
	do, release := w.hold(i)
	do(f)
	release()
}

// hold keeps loop i busy: tasks posted from now on wait until release, and do runs its argument on the loop meanwhile.
func (w *world) hold(i int) (do func(f func()), release func()) {
	w.t.Helper()
	work, done := make(chan func()), make(chan struct{})
	var busy func()
	busy = func() {
		if bytes.Contains(debug.Stack(), []byte("socket.(*Loop).run(")) {
			w.loops.Loop(i).Post(busy) // a lane's receiver has borrowed the loop, and is not to be held
			return
		}
		for f := range work {
			f()
			done <- struct{}{}
		}
	}
	w.loops.Loop(i).Post(busy)
	do = func(f func()) {
		w.t.Helper()
		select {
		case work <- f:
			<-done
		case <-time.After(patience):
			w.t.Fatal("loop does not come")
		}
	}
	do(func() {})
	return do, sync.OnceFunc(func() { close(work) })
}

// member is a client with one channel.
type member struct {
	t        *testing.T
	w        *world
	conn     *socket.Conn
	local    *Local
	topic    string
	channel  hub.Channel
	outcomes chan Outcome
	ended    chan struct{}
	nc       net.Conn
	br       *bufio.Reader
}

func (m *member) Message(*socket.Conn, socket.Opcode, []byte) {}
func (m *member) Closed(*socket.Conn, error)                  {}

// member connects a client that wants the topic. The first is on loop 0, the next on loop 1 if there is one, and so on.
func (w *world) member(topic string) *member {
	w.t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	defer lis.Close()
	nc, err := net.Dial("tcp", lis.Addr().String())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { nc.Close() })
	server, err := lis.Accept()
	if err != nil {
		w.t.Fatal(err)
	}
	defer server.Close()
	m := &member{
		t: w.t, w: w, topic: topic, outcomes: make(chan Outcome, 4), ended: make(chan struct{}),
		nc: nc, br: bufio.NewReader(nc),
	}
	err = w.loops.Adopt(server, func(c *socket.Conn) socket.Handler {
		m.conn, m.local = c, w.r.Local(c.Loop().Index())
		m.channel = hub.Channel{Conn: c, JoinRef: codec.Ref(`"1"`)}
		return m
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

// resume joins with a place, on the member's loop.
func (m *member) resume(epoch, offset uint64) {
	m.t.Helper()
	m.onLoop(func() { m.local.Join(m.topic, &m.channel, &hub.Position{Epoch: epoch, Offset: offset}, m.done) })
}

// wantRecovered wants a join to resume at its place.
func (m *member) wantRecovered(epoch, offset uint64) {
	m.t.Helper()
	want := Outcome{Position: hub.Position{Epoch: epoch, Offset: offset}, Recovered: true}
	if got := m.outcome(); got != want {
		m.t.Fatalf("outcome %+v, want %+v", got, want)
	}
}

// join and leave run on the member's loop already.
func (m *member) join()  { m.local.Join(m.topic, &m.channel, nil, m.done) }
func (m *member) leave() { m.local.Leave(m.topic, &m.channel) }

func (m *member) done(o Outcome) { m.outcomes <- o }

func (m *member) onLoop(f func()) { m.t.Helper(); m.w.on(m.local.loop.Index(), f) }

func (m *member) publish(payload string) {
	p := linkpb.Publish{Topic: m.topic, Event: "e", Payload: []byte(payload)}
	m.local.Publish(&p, m.done)
}

// outcome waits for the end of what the member has asked for.
func (m *member) outcome() Outcome {
	m.t.Helper()
	select {
	case o := <-m.outcomes:
		return o
	case <-time.After(patience):
		m.t.Fatal("no outcome")
		return Outcome{}
	}
}

func (m *member) wantOK(epoch, offset uint64) {
	m.t.Helper()
	if got, want := m.outcome(), (Outcome{Position: hub.Position{Epoch: epoch, Offset: offset}}); got != want {
		m.t.Fatalf("outcome %+v, want %+v", got, want)
	}
}

func (m *member) wantCode(code linkpb.Code) Outcome {
	m.t.Helper()
	o := m.outcome()
	if o.Code != code || o.Detail == "" {
		m.t.Fatalf("outcome %+v, want %v with a detail", o, code)
	}
	return o
}

func (m *member) wantEnded() {
	m.t.Helper()
	select {
	case <-m.ended:
	case <-time.After(patience):
		m.t.Fatal("channel was not ended")
	}
}

// hears wants the messages with these offsets next.
func (m *member) hears(offsets ...uint64) {
	m.t.Helper()
	for _, offset := range offsets {
		want := fmt.Sprintf(`["1",null,%q,"e",%d]`, m.topic, offset)
		if got := m.read(); got != want {
			m.t.Fatalf("member got %s, want %s", got, want)
		}
	}
}

// read returns the payload of the next frame, which is a short one.
func (m *member) read() string {
	m.t.Helper()
	_ = m.nc.SetReadDeadline(time.Now().Add(patience))
	var head [2]byte
	_, err := io.ReadFull(m.br, head[:])
	body := make([]byte, head[1])
	if err == nil {
		_, err = io.ReadFull(m.br, body)
	}
	if err != nil {
		m.t.Fatalf("member reads: %v", err)
	}
	return string(body)
}

// joined connects a member and has it join, with the owner's answer if the gateway asks for one.
func (w *world) joined(o *owner, topic string, epoch, offset uint64) (*member, up) {
	w.t.Helper()
	m := w.member(topic)
	m.onLoop(m.join)
	sub := o.expect("subscribe " + topic)
	sub.accept(epoch, offset)
	m.wantOK(epoch, offset)
	o.expect(fmt.Sprintf("join %s %x", topic, m.channel.Subscriber()))
	return m, sub
}

// joins wants the announcement of the members' channels next, in any order.
func (o *owner) joins(members ...*member) {
	o.t.Helper()
	want := make(map[string]bool)
	for _, m := range members {
		want[fmt.Sprintf("join %s %x", m.topic, m.channel.Subscriber())] = true
	}
	for range members {
		if u := o.next(); !want[u.text] {
			o.t.Fatalf("owner %s got %q, want one of %v", o.id, u.text, want)
		} else {
			delete(want, u.text)
		}
	}
}

// cut ends the lane that u came over.
func (u up) cut() { u.wire.Close() }
