package router

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/ring"
)

// lane is the gateway's end of one lane to one topic server, over all its connections:
//
//	                 refused, cut, or dial failed
//	   ┌──────────── (pause with jitter) ◄────────────┐
//	   ▼                                              │
//	dialing ──connected──► greeting ──Welcome──► live ┘
//	   └────────── ctx canceled, anywhere ──► closed
//
// One goroutine, run, goes around; while live it is the one that receives. The subscription intents outlive the
// connections: each new one subscribes again what the gateway wants.
type lane struct {
	// Static.
	r      *Router
	server ring.Server
	index  uint32
	log    *zap.Logger

	// Owned by run.
	in inbox

	mu      sync.Mutex
	wire    *link.Lane         // nil unless live
	lastRef uint64             // never starts anew: a ref names one request of the lane's whole life
	pending map[uint64]pending // requests of this connection that wait for their Reply
	flights int                // publishes among them
}

// pending is a request on its way. A Subscribe has a topic, a Publish a done.
type pending struct {
	topic string
	local *Local // where done runs
	done  func(Outcome)
}

const (
	redialMin = 50 * time.Millisecond
	redialMax = 2 * time.Second
)

func newLane(r *Router, server ring.Server, index uint32) *lane {
	l := &lane{
		r: r, server: server, index: index,
		log:     r.log.With(zap.String("server", server.ID), zap.Uint32("lane", index)),
		pending: make(map[uint64]pending),
	}
	l.in.init(l)
	return l
}

// run keeps the lane open until ctx is canceled.
func (l *lane) run(ctx context.Context) {
	pause := redialMin
	for attempt := 1; ctx.Err() == nil; attempt++ {
		wasLive, err := l.connect(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case wasLive:
			pause, attempt = redialMin, 0
			l.log.Warn("link lost; dialing again", zap.Error(err))
		case attempt == 1:
			l.log.Warn("no link to topic server; will keep trying", zap.String("addr", l.server.Addr), zap.Error(err))
		default:
			l.log.Debug("dial failed", zap.Int("attempt", attempt), zap.Error(err))
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, redialMax)
	}
}

// connect dials, greets and receives until the connection ends. It reports whether the lane was live.
func (l *lane) connect(ctx context.Context) (wasLive bool, err error) {
	wire, err := link.Dial(ctx, l.server.Addr, l.r.cfg.Link, &linkpb.Hello{
		Protocol: link.Protocol, Gateway: l.r.cfg.Gateway, Instance: l.r.instance,
		Lane: l.index, Lanes: uint32(l.r.cfg.Lanes),
		RingVersion: l.r.cfg.Ring.Version(), RingHash: l.r.cfg.Ring.Hash(),
	})
	if err != nil {
		return false, err
	}
	defer wire.Close()
	err = wire.Receive(func(kind linkpb.Kind, body []byte) error {
		if wasLive {
			return l.in.item(kind, body)
		}
		if err := l.greeted(kind, body); err != nil {
			return err
		}
		wire.Greeted()
		wasLive = true
		l.open(wire)
		return nil
	}, l.in.flush)
	if wasLive {
		l.lost()
	}
	return wasLive, err
}

// greeted checks the server's answer to the hello.
func (l *lane) greeted(kind linkpb.Kind, body []byte) error {
	switch kind {
	case linkpb.KindWelcome:
		var w linkpb.Welcome
		if err := w.UnmarshalVT(body); err != nil {
			return err
		}
		if w.Server != l.server.ID {
			return fmt.Errorf("peer %s presents id %q, the ring says %q", l.server.Addr, w.Server, l.server.ID)
		}
		if w.RingVersion != l.r.cfg.Ring.Version() {
			l.log.Warn("ring versions differ", zap.Uint64("mine", l.r.cfg.Ring.Version()), zap.Uint64("theirs", w.RingVersion))
		}
		return nil
	case linkpb.KindRefusal:
		var f linkpb.Refusal
		if err := f.UnmarshalVT(body); err != nil {
			return err
		}
		l.log.Error("topic server refuses the link", zap.Stringer("code", f.Code), zap.String("detail", f.Detail))
		return fmt.Errorf("refused: %s: %s", f.Code, f.Detail)
	}
	return errors.New("first item is no welcome")
}

// open makes the lane live: it subscribes all that the gateway wants, and has the loops announce their subscribers.
func (l *lane) open(wire *link.Lane) {
	l.mu.Lock()
	l.wire = wire
	l.mu.Unlock()
	topics := 0
	for i := range l.r.shards {
		s := &l.r.shards[i]
		s.mu.Lock()
		for _, sub := range s.topics {
			// A subscription made since the lane went live has been sent already.
			if sub.lane == l && sub.ref == 0 {
				l.subscribe(sub)
				topics++
			}
		}
		s.mu.Unlock()
	}
	for _, local := range l.r.locals {
		local.loop.Post(func() { local.announce(l) })
	}
	l.flush()
	l.log.Info("link is live", zap.String("addr", l.server.Addr), zap.Int("topics", topics))
}

// lost ends what was in flight. A publish that was sent may or may not have happened.
func (l *lane) lost() {
	l.mu.Lock()
	l.wire = nil
	inFlight := l.pending
	l.pending, l.flights = make(map[uint64]pending), 0
	l.mu.Unlock()
	for i := range l.r.shards {
		s := &l.r.shards[i]
		s.mu.Lock()
		for _, sub := range s.topics {
			if sub.lane == l {
				sub.ref, sub.subscribed = 0, false
			}
		}
		s.mu.Unlock()
	}
	for _, ref := range slices.Sorted(maps.Keys(inFlight)) {
		if p := inFlight[ref]; p.done != nil {
			l.in.done(p, refusal(linkpb.Code_UNKNOWN_OUTCOME))
		}
	}
	l.in.flush()
}

func (l *lane) live() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wire != nil
}

// subscribe sends a Subscribe if the lane is live; open does it otherwise. Called under the shard's lock.
func (l *lane) subscribe(sub *subscription) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wire == nil {
		return
	}
	l.lastRef++
	l.pending[l.lastRef] = pending{topic: sub.name}
	sub.ref = l.lastRef
	l.wire.Append(linkpb.KindSubscribe, &linkpb.Subscribe{Ref: l.lastRef, Topic: sub.name})
}

// tell sends an item that has no reply. It does nothing when the lane is not live: the next connection begins with
// the whole state.
func (l *lane) tell(kind linkpb.Kind, item linkpb.Item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wire != nil {
		l.wire.Append(kind, item)
	}
}

// publish appends a Publish. Anything but OK is a definite error, and done will not be called.
func (l *lane) publish(p *linkpb.Publish, local *Local, done func(Outcome)) linkpb.Code {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.wire == nil:
		return linkpb.Code_UNAVAILABLE
	case len(p.Payload) > link.MaxItem:
		return linkpb.Code_TOO_LARGE
	case l.flights >= l.r.cfg.MaxPending, l.wire.Backlog() >= l.r.cfg.MaxBacklog:
		return linkpb.Code_OVERLOADED
	}
	l.lastRef++
	p.Ref = l.lastRef
	l.pending[p.Ref] = pending{local: local, done: done}
	l.flights++
	l.wire.Append(linkpb.KindPublish, p)
	l.r.stats.publishes.Add(1)
	return linkpb.Code_OK
}

// take returns the request that a Reply ends.
func (l *lane) take(ref uint64) (pending, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.pending[ref]
	delete(l.pending, ref)
	if p.done != nil {
		l.flights--
	}
	return p, ok
}

// flush sends what was appended.
func (l *lane) flush() {
	l.mu.Lock()
	wire := l.wire
	l.mu.Unlock()
	if wire != nil {
		wire.Flush()
	}
}

// refusal is the outcome of a request that the gateway itself ends.
func refusal(code linkpb.Code) Outcome {
	o := Outcome{Code: code}
	switch code {
	case linkpb.Code_UNAVAILABLE:
		o.Detail = "no link to the topic's owner"
	case linkpb.Code_OVERLOADED:
		o.Detail = "too much in flight to the topic's owner"
	case linkpb.Code_TOO_LARGE:
		o.Detail = fmt.Sprintf("a message carries at most %d bytes", link.MaxItem)
	case linkpb.Code_UNKNOWN_OUTCOME:
		o.Detail = "the link to the topic's owner was lost before it answered"
	}
	return o
}

// inbox handles what comes down the lane: it decides which loops get it and posts one task to each loop per batch.
// Owned by the lane's run goroutine.
type inbox struct {
	lane    *lane
	loops   [][]event // collected for each loop in this batch
	reply   linkpb.Reply
	message linkpb.Message
}

func (in *inbox) init(l *lane) {
	in.lane = l
	in.loops = make([][]event, l.r.cfg.Loops.Len())
}

// item handles one item of a Down.
func (in *inbox) item(kind linkpb.Kind, body []byte) error {
	switch kind {
	case linkpb.KindReply:
		in.reply = linkpb.Reply{}
		if err := in.reply.UnmarshalVT(body); err != nil {
			return err
		}
		in.replied(&in.reply)
	case linkpb.KindMessage:
		// The one copy of the message on this gateway: loops deliver from it after the lane's buffer is reused.
		own := append([]byte(nil), body...)
		in.message = linkpb.Message{}
		if err := in.message.UnmarshalVTUnsafe(own); err != nil {
			return err
		}
		in.deliver(&in.message)
	}
	return nil
}

func (in *inbox) replied(rep *linkpb.Reply) {
	p, ok := in.lane.take(rep.Ref)
	if !ok {
		return
	}
	o := Outcome{Code: rep.Code, Detail: rep.Detail, Position: position(rep.Position)}
	if p.done != nil {
		in.done(p, o)
		return
	}
	in.subscribed(p.topic, rep.Ref, o)
}

func (in *inbox) done(p pending, o Outcome) {
	if p.local == nil {
		p.done(o)
		return
	}
	in.post(p.local.loop.Index(), event{kind: eventDone, done: p.done, outcome: o})
}

// subscribed handles the Reply to a Subscribe. A subscription that has been given up since, and perhaps made again,
// has another ref: the old Reply must not open the new one, which has no message between the two.
func (in *inbox) subscribed(topic string, ref uint64, o Outcome) {
	r := in.lane.r
	s := r.shard(topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.topics[topic]
	if sub == nil || sub.ref != ref || sub.lane != in.lane {
		return
	}
	// Channels that were live before the link was lost have missed what lies between last and the position now.
	if sub.live != 0 && (sub.last != o.Position || !o.OK()) {
		r.stats.gaps.Add(1)
		in.lane.log.Warn("messages were lost with the link", zap.String("topic", topic), zap.Stringer("code", o.Code),
			zap.Uint64("from", sub.last.Offset), zap.Uint64("to", o.Position.Offset))
		in.postMask(sub.live, event{kind: eventEnd, sub: sub, outcome: o})
	}
	in.postMask(sub.waiting, event{kind: eventSubscribed, sub: sub, outcome: o})
	if !o.OK() {
		// Forgotten at once: the next join asks anew.
		delete(s.topics, topic)
		delete(s.idle, topic)
		return
	}
	sub.live, sub.waiting = sub.live|sub.waiting, 0
	sub.last, sub.subscribed = o.Position, true
}

// deliver hands a message to the loops that have subscribers.
func (in *inbox) deliver(m *linkpb.Message) {
	r := in.lane.r
	s := r.shard(m.Topic)
	s.mu.Lock()
	sub := s.topics[m.Topic]
	if sub == nil || !sub.subscribed || sub.lane != in.lane {
		s.mu.Unlock()
		r.stats.stray.Add(1)
		return
	}
	sub.last = position(m.Position)
	behind := in.behind(sub.live)
	sub.live &^= behind
	loops, last := sub.live, sub.last
	s.mu.Unlock()
	if behind != 0 {
		r.stats.overruns.Add(1)
		in.postMask(behind, event{kind: eventEnd, sub: sub, outcome: Outcome{Position: last}})
	}
	if loops == 0 {
		return
	}
	r.stats.messages.Add(1)
	in.postMask(loops, event{kind: eventMessage, message: hub.NewMessage(sub.name, m)})
}

// behind returns those of the loops that have more messages waiting than they may have. The topic that has one more
// ends there: its clients are told, and join again when they find the time.
func (in *inbox) behind(loops uint64) (behind uint64) {
	for i, local := range in.lane.r.locals {
		if loops&(1<<i) != 0 && local.backlog.Load() > int64(in.lane.r.cfg.MaxLoopBacklog) {
			behind |= 1 << i
		}
	}
	return behind
}

func (in *inbox) postMask(loops uint64, e event) {
	for i := range in.loops {
		if loops&(1<<i) != 0 {
			in.post(i, e)
		}
	}
}

func (in *inbox) post(loop int, e event) { in.loops[loop] = append(in.loops[loop], e) }

// flush ends a batch: one task for each loop that has something to do.
func (in *inbox) flush() {
	for i, events := range in.loops {
		if len(events) == 0 {
			continue
		}
		in.loops[i] = nil
		size := int64(0)
		for j := range events {
			size += events[j].size()
		}
		local := in.lane.r.locals[i]
		local.backlog.Add(size)
		local.loop.Post(func() {
			local.backlog.Add(-size)
			local.handle(events)
		})
	}
}

func position(p *linkpb.Position) hub.Position {
	return hub.Position{Epoch: p.GetEpoch(), Offset: p.GetOffset()}
}
