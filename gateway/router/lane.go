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
	server string // its id
	index  uint32
	log    *zap.Logger
	redial time.Duration // the shortest pause before the next dial
	kick   chan struct{} // ends the pause

	// Guarded by Router.runMu.
	stop   context.CancelFunc // nil until run is started
	unused bool               // it is retired, and nothing needed it when retire looked last

	// Owned by run.
	in       inbox
	instance uint64 // of the server process that the lane was live with last; 0 = none

	mu      sync.Mutex
	addr    string             // of the server, by the ring
	wire    *link.Lane         // nil unless live
	since   time.Time          // when the lane was lost, or made
	hold    time.Duration      // how long names outlive the lane, as its server has said last
	unnamed bool               // they were given up since the lane was lost
	lastRef uint64             // never starts anew: a ref names one request of the lane's whole life
	pending map[uint64]pending // requests that wait for their Reply
	flights int                // publishes among them,
	bytes   int                // and their size
	asks    int                // questions among them,
	fetches int                // and Subscribes
	late    bool               // notices wait for flushLate

	sealedNames map[string]bool // topics of names that the server has let go since announceSealed; nil while there are none

	// Guarded by Router.learnMu.
	building bool         // a ring that came over the lane is being built;
	newest   *linkpb.Ring // and this one has come meanwhile
}

// pending is a request on its way. All but publishes end with the connection.
type pending struct {
	topic   string
	publish *publish      // nil for another kind
	ask     chan<- answer // nil for another kind
	sent    bool          // the publish went over this connection or an earlier one: it may have been appended
	kind    pendingKind
	member  uint64           // of a Track,
	wanted  *linkpb.Presence // and what it asks for
}

// pendingKind is what a request that is neither publish nor question is.
type pendingKind uint8

const (
	pendingSubscribe pendingKind = iota
	pendingWatch
	pendingTrack
)

// defaultHold is how long names outlive a lane whose server has not been spoken to yet.
const defaultHold = 3 * time.Second

const (
	redialMin = 50 * time.Millisecond
	redialMax = 2 * time.Second
)

func newLane(r *Router, server ring.Server, index uint32) *lane {
	l := &lane{
		r: r, server: server.ID, addr: server.Addr, index: index,
		log:     r.log.With(zap.String("server", server.ID), zap.Uint32("lane", index)),
		redial:  redialMin,
		kick:    make(chan struct{}, 1),
		pending: make(map[uint64]pending),
		since:   time.Now(),
		hold:    defaultHold,
	}
	l.in.init(l)
	return l
}

// readdress makes the lane go to where the ring says that its server is now. What is on its way is sent again there.
func (l *lane) readdress(addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.addr == addr {
		return
	}
	l.addr = addr
	if l.wire != nil {
		l.wire.Close()
	}
	l.dialNow()
}

// dialNow ends the pause before the next dial, and makes the one after that short.
func (l *lane) dialNow() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

func (l *lane) address() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.addr
}

// run keeps the lane open until ctx is canceled.
func (l *lane) run(ctx context.Context) {
	pause := l.redial
	for attempt := 1; ctx.Err() == nil; attempt++ {
		wasLive, err := l.connect(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errPanicked): // which it may be again with what the server sends next
			l.log.Warn("link given up; dialing again", zap.Error(err))
		case wasLive:
			pause, attempt = l.redial, 0
			l.log.Warn("link lost; dialing again", zap.Error(err))
		case attempt == 1:
			l.log.Warn("no link to topic server; will keep trying", zap.String("addr", l.address()), zap.Error(err))
		default:
			l.log.Debug("dial failed", zap.Int("attempt", attempt), zap.Error(err))
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-l.kick:
			pause = l.redial
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, redialMax)
	}
}

// connect dials, greets and receives until the connection ends. It reports whether the lane was live.
func (l *lane) connect(ctx context.Context) (wasLive bool, err error) {
	rg, addr := l.r.rings.Current(), l.address()
	cfg := l.r.cfg.Link
	cfg.Server = l.server
	wire, err := link.Dial(ctx, addr, cfg, &linkpb.Hello{
		Protocol: link.Protocol, Gateway: l.r.cfg.Gateway, Instance: l.r.instance,
		Lane: l.index, Lanes: uint32(l.r.cfg.Lanes),
		RingVersion: rg.Version(), RingHash: rg.Hash(), Cluster: l.r.cfg.Cluster,
	})
	if err != nil {
		return false, err
	}
	defer wire.Close()
	err = l.receive(wire, func(kind linkpb.Kind, body []byte) error {
		if wasLive {
			return l.in.item(kind, body)
		}
		welcome, err := l.greeted(addr, kind, body)
		if err != nil {
			return err
		}
		wire.Greeted()
		if wasLive = l.open(wire, addr, welcome); !wasLive {
			return fmt.Errorf("the ring has the server at another address than %s by now", addr)
		}
		return nil
	})
	if wasLive {
		l.lost()
	}
	return wasLive, err
}

// errPanicked ends a connection over which something came that this gateway has a bug with.
var errPanicked = errors.New("a bug was met; the log has it")

// receive receives until the connection ends. A panic ends it too, and nothing else: what one server sends must not take the
// other servers' clients down.
func (l *lane) receive(wire *link.Lane, item func(linkpb.Kind, []byte) error) (err error) {
	err = errPanicked
	link.Guard(l.log, &l.r.stats.panics, func() { err = wire.Receive(item, l.in.flush) })
	return err
}

// greeted checks the server's answer to the hello.
func (l *lane) greeted(addr string, kind linkpb.Kind, body []byte) (*linkpb.Welcome, error) {
	switch kind {
	case linkpb.KindWelcome:
		w := new(linkpb.Welcome)
		if err := w.UnmarshalVT(body); err != nil {
			return nil, err
		}
		if w.Server != l.server {
			return nil, fmt.Errorf("peer %s presents id %q, the ring says %q", addr, w.Server, l.server)
		}
		if !link.SameCluster(w.Cluster, l.r.cfg.Cluster) {
			return nil, fmt.Errorf("topic server %q (%s) is of cluster %.64q, gateway %q of cluster %q", w.Server, addr, w.Cluster, l.r.cfg.Gateway, l.r.cfg.Cluster)
		}
		return w, nil
	case linkpb.KindRefusal:
		var f linkpb.Refusal
		if err := f.UnmarshalVT(body); err != nil {
			return nil, err
		}
		l.log.Error("topic server refuses the link", zap.Stringer("code", f.Code), zap.String("detail", f.Detail))
		return nil, fmt.Errorf("refused: %s: %s", f.Code, f.Detail)
	}
	return nil, errors.New("first item is no welcome")
}

// open makes the lane live. It tells the server the ring if that is newer here, sends again the publishes that were not
// answered, and resumes all topics that the gateway wants: those that somebody waits for at once, the others a few at a time. It reports false, and does nothing, when the server has moved to
// another address.
func (l *lane) open(wire *link.Lane, addr string, welcome *linkpb.Welcome) bool {
	l.mu.Lock()
	if l.addr != addr {
		l.mu.Unlock()
		return false
	}
	l.wire = wire
	l.hold, l.unnamed = time.Duration(welcome.NameGraceMs)*time.Millisecond/2, false
	// A ring that comes after this look is told by ringChanged, which finds the lane live.
	if rg := l.r.rings.Current(); rg.Version() > welcome.RingVersion {
		wire.Append(linkpb.KindUpRing, link.EncodeRing(rg))
	}
	if l.index == 0 && l.r.cfg.Revocations != nil {
		for _, rev := range l.r.cfg.Revocations() {
			wire.Append(linkpb.KindUpRevoke, rev)
		}
	}
	unknown := l.resendLocked(welcome.Instance == l.instance)
	l.instance = welcome.Instance
	away := time.Since(l.since)
	l.mu.Unlock()
	l.r.serverIsBack(l, away)
	topics := 0
	for i := range l.r.shards {
		s := &l.r.shards[i]
		s.mu.Lock()
		for _, sub := range s.topics {
			// A join since the lane went live has subscribed its topic already; the other subscribers are still to be announced.
			if sub.lane == l && sub.wanted {
				if topics++; sub.fetch.ref != 0 || sub.awaited() {
					l.in.resume(sub)
				} else {
					l.in.again = append(l.in.again, sub)
				}
			}
			if sub.next != nil && sub.next.lane == l {
				sub.ask(l.r, false)
			}
		}
		s.mu.Unlock()
	}
	l.r.eachPresence(func(p *presence) {
		if p.lane == l {
			p.announce()
		}
	})
	for _, local := range l.r.locals {
		local.loop.Post(func() { local.announceNames(func(topic string) bool { return l.r.route(topic) == l }) })
	}
	for _, p := range unknown {
		l.in.landed(p, refusal(linkpb.Code_UNKNOWN_OUTCOME))
	}
	l.in.resumeSome(resubscribes)
	l.flush()
	l.log.Info("link is live", zap.String("addr", addr), zap.Int("topics", topics))
	return true
}

// resendLocked sends the unanswered publishes over a new connection, in their order. To another process than before
// those that may have been appended by the one before are not sent: it has forgotten their ids, and they would be
// published twice. They are returned.
func (l *lane) resendLocked(sameProcess bool) (unknown []*publish) {
	for _, ref := range slices.Sorted(maps.Keys(l.pending)) {
		p := l.pending[ref]
		if p.sent && !sameProcess {
			unknown = append(unknown, p.publish)
			l.dropLocked(ref)
			continue
		}
		p.sent = true
		l.pending[ref] = p
		l.wire.Append(linkpb.KindPublish, &p.publish.req)
	}
	return unknown
}

// lost ends what belonged to the connection. Publishes wait for the next one.
func (l *lane) lost() {
	l.r.stats.lanesLost.Add(1)
	l.in.again, l.in.resuming, l.in.stalled = nil, 0, false
	l.mu.Lock()
	l.wire, l.since = nil, time.Now()
	for ref, p := range l.pending {
		if p.publish == nil {
			l.dropLocked(ref)
		}
		if p.ask != nil {
			p.ask <- nil
		}
	}
	l.mu.Unlock()
	for i := range l.r.shards {
		l.r.shards[i].do(func(s *shard) {
			for _, sub := range s.topics {
				l.r.guard(func() { l.lostTopic(sub) })
			}
		})
	}
	l.r.eachPresence(func(p *presence) {
		if p.lane == l {
			p.disconnected()
		}
	})
	l.r.guard(l.in.flush)
}

// lostTopic is lost for one topic. Called under its shard's lock.
func (l *lane) lostTopic(sub *subscription) {
	if sub.lane == l {
		sub.fetch.forget()
		sub.flowing = false
		if sub.next != nil && sub.ask(l.r, true) {
			l.in.touch(sub.next.lane)
		}
		l.in.arrive(sub)
	}
	if sub.next != nil && sub.next.lane == l {
		sub.next.fetch.forget()
		sub.next.buffer, sub.next.bytes = nil, 0
	}
}

// expire ends the publishes that have waited too long.
func (l *lane) expire(now time.Time) {
	late := make(map[uint64]pending)
	l.mu.Lock()
	for ref, p := range l.pending {
		if p.publish != nil && now.Sub(p.publish.since) >= l.r.cfg.PublishTimeout {
			late[ref] = p
			l.dropLocked(ref)
		}
	}
	l.mu.Unlock()
	for _, ref := range slices.Sorted(maps.Keys(late)) {
		p := late[ref]
		o := refusal(linkpb.Code_UNAVAILABLE)
		if p.sent {
			o = refusal(linkpb.Code_UNKNOWN_OUTCOME)
		}
		l.r.landedLate(p.publish)
		p.publish.finish(o)
	}
}

// landedLate takes a publish that nobody waits for any more out of its flow. What waited for it goes on.
func (r *Router) landedLate(p *publish) {
	r.landed(p, false).flush()
}

// landed takes a publish that has its outcome, or was sent to the wrong server, out of its flow, and returns the lane over which
// what waited for it goes on.
func (r *Router) landed(p *publish, bounced bool) *lane {
	s := r.shard(p.req.Topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.topics[p.req.Topic] // there while its flow is busy
	sub.flow.landed(p, bounced)
	return sub.flow.lane
}

// busy reports whether publishes wait for their answers.
func (l *lane) busy() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flights > 0
}

func (l *lane) live() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wire != nil
}

// queued returns the bytes that the peer of a live lane has not taken.
func (l *lane) queued() (bytes int, live bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wire == nil {
		return 0, false
	}
	return l.wire.Backlog(), true
}

// subscribe sends a subscription's fetch if the lane is live; open does it otherwise. Called under the shard's lock.
func (l *lane) subscribe(sub *subscription) { l.subscribeTo(sub, &sub.fetch) }

// subscribeTo is subscribe for either of the subscription's fetches. It asks for what follows the places that joins
// want, and for what live channels have missed or may miss.
func (l *lane) subscribeTo(sub *subscription, f *fetch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wire == nil {
		return
	}
	l.lastRef++
	l.pending[l.lastRef] = pending{topic: sub.name}
	l.fetches++
	f.ref = l.lastRef
	req := linkpb.Subscribe{Ref: l.lastRef, Topic: sub.name}
	var places []hub.Position
	if sub.known && sub.live != 0 {
		places = append(places, sub.last)
	}
	for _, p := range f.wants {
		places = want(places, p)
	}
	for _, p := range places {
		req.Since = append(req.Since, &linkpb.Position{Epoch: p.Epoch, Offset: p.Offset})
	}
	l.wire.Append(linkpb.KindSubscribe, &req)
}

// request sends a request that ends with the connection, and returns its ref: 0 when the lane is not live.
func (l *lane) request(p pending, item func(ref uint64) (linkpb.Kind, linkpb.Item)) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wire == nil {
		return 0
	}
	l.lastRef++
	l.pending[l.lastRef] = p
	l.wire.Append(item(l.lastRef))
	return l.lastRef
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

// noticeDelay is how long what the owner is told of a topic's subscribers may wait for company. Nobody waits for it, and
// a client that comes and goes causes two such items: with a batch for each turn of a loop they were an eighth of a
// gateway's CPU time when clients come and go, and nearly all of a topic server's (churn: 0.27 → 0.18
// CPU-s per 1000 cycles).
const noticeDelay = 10 * time.Millisecond

// notice is tell for an item that may wait. It goes out with whatever is flushed next, in its place.
func (l *lane) notice(kind linkpb.Kind, item linkpb.Item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wire == nil {
		return
	}
	l.wire.Append(kind, item)
	if !l.late {
		l.late = true
		time.AfterFunc(noticeDelay, l.flushLate)
	}
}

func (l *lane) flushLate() {
	l.mu.Lock()
	l.late = false
	l.mu.Unlock()
	l.flush()
}

// publish sends a publish, or keeps it for the next connection if the last one was lost just now. Anything but OK is a
// definite error, and the publish is not on its way.
func (l *lane) publish(p *publish) linkpb.Code {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.wire == nil && time.Since(l.since) > l.r.cfg.PublishTimeout/2:
		return linkpb.Code_UNAVAILABLE
	case l.flights >= l.r.cfg.MaxPending, l.bytes >= l.r.cfg.MaxBacklog:
		return linkpb.Code_OVERLOADED
	case l.wire != nil && l.wire.Backlog() >= l.r.cfg.MaxBacklog:
		return linkpb.Code_OVERLOADED
	}
	l.lastRef++
	p.req.Ref = l.lastRef
	l.pending[l.lastRef] = pending{publish: p, sent: l.wire != nil}
	l.flights++
	l.bytes += p.size()
	if l.wire != nil {
		l.wire.Append(linkpb.KindPublish, &p.req)
	}
	p.timed = l.r.stats.publishes.Add(1)%sampleEvery == 1
	return linkpb.Code_OK
}

// take returns the request that a Reply ends.
func (l *lane) take(ref uint64) (pending, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.pending[ref]
	if ok {
		l.dropLocked(ref)
	}
	return p, ok
}

// giveUp forgets a request that nobody wants the Reply to any more, as far as it has none yet: a server that does not answer
// must not have the gateway remember all that it was ever asked.
func (l *lane) giveUp(ref uint64) {
	if ref != 0 {
		l.take(ref)
	}
}

// dropLocked takes a request out of those that wait.
func (l *lane) dropLocked(ref uint64) {
	p := l.pending[ref]
	delete(l.pending, ref)
	if p.publish != nil {
		l.flights--
		l.bytes -= p.publish.size()
	}
	if p.ask != nil {
		l.asks--
	}
	if p.publish == nil && p.ask == nil && p.kind == pendingSubscribe {
		l.fetches--
	}
}

// hasRoom reports whether the lane's server has few Subscribes to answer.
func (l *lane) hasRoom() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fetches < resubscribes
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
		o.Detail = "the topic's owner did not answer"
	}
	return o
}
