package topic

import (
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/mutant"
	"github.com/ringcast/ringcast/shared/rate"
	"github.com/ringcast/ringcast/shared/trace"
	"github.com/ringcast/ringcast/topicserver/history"
)

const shards = 64

// Config configures a Registry.
type Config struct {
	// Store remembers the topics' messages. Required.
	Store history.Store
	// IDs is how many publish ids a topic remembers, for IDTTL each; 0 is none.
	IDs   int
	IDTTL time.Duration
	// IDBytes is about what the publish ids of all topics may take; beyond it topics forget theirs sooner. 0 is any amount.
	IDBytes  int64
	Presence Presence // bounds and times of presence
	// Topics is how many topics there may be at a time; requests for others are refused as OVERLOADED. Those that other servers
	// hand over come in any case. 0 is any number.
	Topics int
	// NameGrace is how long a name is kept for a holder whose gateway has no link.
	NameGrace time.Duration
	// Publishes bounds the messages that are appended to one topic; the zero value does not.
	Publishes rate.Limit
	// Claim says whose a topic is that is not here, when one is asked for. It is called under a shard's lock: it must
	// not wait nor call back. Nil means that every topic is ours.
	Claim func(topic string) Claim
	// FanOutTime, if set, gets the time in seconds that one in sampleEvery publishes took, with its batch: from the batch's
	// arrival until all its messages were handed to the gateways' connections. PauseTime gets how long requests for a topic
	// had to wait for its state from another server.
	FanOutTime, PauseTime prometheus.Observer
	Tracer                *trace.Tracer // makes spans of messages that are traced; nil makes none
	Log                   *zap.Logger   // default none
}

// sampleEvery is of how many publishes the time of one is taken.
const sampleEvery = 16

// Claim is the answer to whose a topic is.
type Claim uint8

// Whose a topic is.
const (
	Ours      Claim = iota // and nobody else can have it
	OursLater              // another server may have it; its requests wait for Install or Abandon
	NotOurs
)

// Registry holds a topic server's topics. Any goroutine may call its methods.
type Registry struct {
	cfg    Config
	seed   maphash.Seed
	wheel  *wheel
	made   time.Time // the clock of the topics' rates begins here
	shards [shards]shard
	names  nameClock
	ids    idTotal
	failed link.LogLimit // logs publishes that fail
	moved  link.LogLimit // logs topics that do not come over as they should

	// Counted here because only the registry sees every change.
	topics      atomic.Int64
	subscribers atomic.Int64
	publishes   atomic.Uint64
	sends       atomic.Uint64
	repeats     atomic.Uint64
	rateLimited atomic.Uint64
	refused     atomic.Uint64

	presences     atomic.Int64
	presenceSends atomic.Uint64
	presencePaced atomic.Uint64

	parked        atomic.Int64 // bytes, of all topics
	changes       atomic.Int64 // that wait for topics
	parkedRefused atomic.Uint64

	panics atomic.Uint64 // met where no lane's receiver runs
}

type shard struct {
	mu      sync.Mutex
	topics  map[string]*Topic
	waiting []*Topic // for their state; and those that have waited since the last call of Waiting
}

// NewRegistry returns an empty registry.
func NewRegistry(cfg Config) *Registry {
	if cfg.Claim == nil {
		cfg.Claim = func(string) Claim { return Ours }
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	cfg.Presence = cfg.Presence.withDefaults()
	r := &Registry{cfg: cfg, seed: maphash.MakeSeed(), wheel: newWheel(cfg.Presence.Interval), made: time.Now()}
	r.ids.max = cfg.IDBytes / idCost
	r.names.start = r.made
	for i := range r.shards {
		r.shards[i].topics = make(map[string]*Topic)
	}
	return r
}

// Stats counts what a registry holds and has done.
type Stats struct {
	Topics      int64  // now
	Subscribers int64  // now, over all topics and gateways
	Publishes   uint64 // appended since the start
	Repeats     uint64 // publishes since the start that were appended before and not again
	RateLimited uint64 // publishes since the start that were over their topic's rate
	IDs         int64  // publish ids remembered now, over all topics
	IDsEvicted  uint64 // of those that were forgotten since the start, how many were because all topics had too many
	Refused     uint64 // requests since the start for one topic more than there may be
	FanoutSends uint64 // messages sent to gateways since the start: one per publish and gateway that subscribes
	Presences   int64  // members now, over all topics
	// PresenceSends counts changes of presences sent to gateways since the start: one per topic, interval and gateway.
	PresenceSends uint64
	Panics        uint64 // since the start, met where no lane's receiver runs
	ParkedRefused uint64 // requests since the start that found too many waiting for their topic's state, or for their name
	PresencePaced uint64 // diffs since the start that had to wait because of the bytes of those before
	History       history.Stats
}

// Stats returns the current counts.
func (r *Registry) Stats() Stats {
	return Stats{
		Topics:      r.topics.Load(),
		Subscribers: r.subscribers.Load(),
		Publishes:   r.publishes.Load(),
		Repeats:     r.repeats.Load(),
		RateLimited: r.rateLimited.Load(),
		Refused:     r.refused.Load(),
		IDs:         r.ids.count.Load(),
		IDsEvicted:  r.ids.evicted.Load(),
		FanoutSends: r.sends.Load(),
		Presences:   r.presences.Load(),

		PresenceSends: r.presenceSends.Load(),
		PresencePaced: r.presencePaced.Load(),
		ParkedRefused: r.parkedRefused.Load(),
		Panics:        r.panics.Load(),
		History:       r.cfg.Store.Stats(),
	}
}

func (r *Registry) shard(name string) *shard {
	return &r.shards[maphash.String(r.seed, name)%shards]
}

// lock returns the topic with its mutex held, nil if there is none.
func (r *Registry) lock(name string) *Topic {
	t, _ := r.find(name, false)
	return t
}

// need is lock for requests that make the topic if it does not exist. Without one the code says why: it is not ours, or there are
// as many as there may be.
func (r *Registry) need(name string) (*Topic, linkpb.Code) { return r.find(name, true) }

// find is lock, and need if create is set.
//
// Two interleavings matter. Sweep or Seal takes the topic out between the look-up and the lock: then gone is set under
// the topic's own mutex, and the second look-up finds what came after. And a ring change between the claim and the
// making of the topic would leave a topic here that nobody offers to its new owner: so Claim is asked under the shard's
// lock, and Foreign, which lists the topics after the change, takes that lock too.
func (r *Registry) find(name string, create bool) (*Topic, linkpb.Code) {
	s := r.shard(name)
	for {
		code := linkpb.Code_NOT_OWNER
		s.mu.Lock()
		t := s.topics[name]
		if t == nil && create {
			switch claim := r.cfg.Claim(name); {
			case claim == NotOurs:
			case r.cfg.Topics > 0 && r.topics.Load() >= int64(r.cfg.Topics):
				r.refused.Add(1)
				code = linkpb.Code_OVERLOADED
			default:
				t = r.newTopic(name)
				s.topics[t.name] = t
				if claim == OursLater {
					s.waitLocked(t)
				}
			}
		}
		s.mu.Unlock()
		if t == nil {
			return nil, code
		}
		t.mu.Lock()
		if !t.gone {
			return t, linkpb.Code_OK
		}
		t.mu.Unlock()
	}
}

// waitLocked makes a new topic wait for its state.
func (s *shard) waitLocked(t *Topic) {
	t.waiting = true
	s.waiting = append(s.waiting, t)
}

func (r *Registry) newTopic(name string) *Topic {
	r.topics.Add(1)
	// The name may alias a lane's input buffer.
	epoch := rand.Uint64() | 1
	if mutant.Is(mutant.ReuseOffset) {
		epoch = 1
	}
	return &Topic{name: strings.Clone(name), epoch: epoch, used: time.Now(), ids: idWindow{all: &r.ids}}
}

// Subscribe makes every later message of the topic go to the lane, and replies with the position it starts after,
// preceded, in the topic's order, by what is remembered since one of the places that req names. Doing it again is fine.
// It is called by the lane's receiver.
func (r *Registry) Subscribe(tn *Turn, lane *Lane, req *linkpb.Subscribe) {
	t, code := r.need(req.Topic)
	if t == nil {
		r.absent(tn, lane, req.Ref, code)
		return
	}
	defer t.mu.Unlock()
	if t.waiting {
		own := &linkpb.Subscribe{Ref: req.Ref, Since: req.Since}
		size := len(own.Since) * parkedCost
		r.park(tn, t, size, lane, req.Ref, func(tn *Turn) { r.subscribeLocked(tn, t, lane, own) }, subscriptionOf(lane))
		return
	}
	r.subscribeLocked(tn, t, lane, req)
}

func (r *Registry) subscribeLocked(tn *Turn, t *Topic, lane *Lane, req *linkpb.Subscribe) {
	t.enterLocked(lane)
	var past []history.Message
	var from *linkpb.Position
	for _, since := range req.Since {
		if since.Epoch == t.epoch && (from == nil || since.Offset < from.Offset) {
			from = since
		}
	}
	if from != nil {
		var complete bool
		since, top := history.Position{Epoch: from.Epoch, Offset: from.Offset}, history.Position{Epoch: t.epoch, Offset: t.offset}
		if past, complete = r.cfg.Store.After(t.name, since, top, tn.Now()); !complete {
			from, past = nil, nil
		}
	}
	rep := &tn.reply
	rep.Ref, rep.Code, rep.Detail = req.Ref, linkpb.Code_OK, ""
	rep.Position, rep.From, rep.Replayed = t.positionLocked(), from, uint32(len(past))
	tn.send(lane)
	for _, m := range past {
		lane.Out.AppendEncoded(m.Item)
	}
}

// Unsubscribe ends the lane's interest in a topic. It is called by the lane's receiver.
func (r *Registry) Unsubscribe(tn *Turn, lane *Lane, name string) {
	t := r.lock(name)
	if t == nil {
		return
	}
	defer t.mu.Unlock()
	if t.waiting {
		t.parkEnd(subscriptionOf(lane), func(tn *Turn) { r.dropLocked(t, lane, tn.Now()) })
		return
	}
	r.dropLocked(t, lane, tn.Now())
}

func (r *Registry) dropLocked(t *Topic, lane *Lane, now time.Time) {
	r.subscribers.Add(-int64(t.dropLocked(lane, now)))
}

// Drop ends all of a lane's subscriptions, and makes its members orphans. Silence is for how long nothing was heard of the
// gateway by then. It is called once the lane's receiver has returned.
func (r *Registry) Drop(lane *Lane, silence time.Duration) { r.drop(lane, time.Now(), silence) }

func (r *Registry) drop(lane *Lane, now time.Time, silence time.Duration) {
	lane.mu.Lock()
	lane.closed = true
	topics := make([]*Topic, 0, len(lane.topics))
	for t := range lane.topics {
		topics = append(topics, t)
	}
	attached := slices.Collect(maps.Keys(lane.attached))
	names := slices.Collect(maps.Keys(lane.names))
	lane.mu.Unlock()
	for _, t := range names {
		t.mu.Lock()
		r.detachNameLocked(t, lane, now)
		t.mu.Unlock()
	}
	for _, t := range topics {
		t.mu.Lock()
		r.dropLocked(t, lane, now)
		t.mu.Unlock()
	}
	for _, t := range attached {
		t.mu.Lock()
		r.detachLocked(t, lane, now, silence)
		t.mu.Unlock()
	}
}

// Join adds a subscriber to those that the lane's gateway has on a topic. A gateway that has not subscribed the topic
// has no subscribers on it, so its joins are ignored. It is called by the lane's receiver.
func (r *Registry) Join(lane *Lane, req *linkpb.Join) {
	r.member(lane, req.Topic, req.Subscriber, func(t *Topic, id uint64) {
		sub := t.subscriptionLocked(lane)
		if sub == nil {
			return
		}
		if sub.subscribers == nil {
			sub.subscribers = make(map[uint64]struct{}, 1)
		}
		if _, ok := sub.subscribers[id]; !ok {
			sub.subscribers[id] = struct{}{}
			r.subscribers.Add(1)
		}
	})
}

// Leave takes a subscriber away. It is called by the lane's receiver.
func (r *Registry) Leave(lane *Lane, req *linkpb.Leave) {
	r.member(lane, req.Topic, req.Subscriber, func(t *Topic, id uint64) {
		sub := t.subscriptionLocked(lane)
		if sub == nil {
			return
		}
		if _, ok := sub.subscribers[id]; ok {
			delete(sub.subscribers, id)
			r.subscribers.Add(-1)
		}
	})
}

// member runs change under the topic's lock, now or when the topic's state is here.
func (r *Registry) member(lane *Lane, name string, id uint64, change func(t *Topic, id uint64)) {
	t := r.lock(name)
	if t == nil {
		return
	}
	defer t.mu.Unlock()
	if t.waiting {
		r.parkChange(t, subscriptionOf(lane), func(*Turn) { change(t, id) })
		return
	}
	change(t, id)
}

// Publish appends a message, replies to the publisher's lane, and fans the message out: one send per subscribed
// gateway. A publish whose id is known is answered as before and not appended again. It is called by the receiver of
// from.
func (r *Registry) Publish(tn *Turn, from *Lane, req *linkpb.Publish) {
	t, code := r.need(req.Topic)
	if t == nil {
		r.absent(tn, from, req.Ref, code)
		return
	}
	defer t.mu.Unlock()
	if t.waiting {
		own := &linkpb.Publish{
			Ref: req.Ref, Event: strings.Clone(req.Event), Payload: slices.Clone(req.Payload), Binary: req.Binary,
			IdHigh: req.IdHigh, IdLow: req.IdLow, Trace: slices.Clone(req.Trace),
		}
		size := len(own.Event) + len(own.Payload)
		r.park(tn, t, size, from, req.Ref, func(tn *Turn) { r.publishLocked(tn, t, from, own) })
		return
	}
	r.publishLocked(tn, t, from, req)
}

// itemFrame is room for what linkpb.AppendItem puts around a message.
const itemFrame = 12

// publishLocked gives the message its position, remembers it, acknowledges it and fans it out, in this order: what is
// acknowledged or seen is remembered. The reply stands before the publisher's own copy, and every lane sees the
// topic's messages in one order, since all of it happens under the topic's lock.
func (r *Registry) publishLocked(tn *Turn, t *Topic, from *Lane, req *linkpb.Publish) {
	id := publishID{req.IdHigh, req.IdLow}
	var content uint64
	if id != (publishID{}) {
		content = contentHash(req.Event, req.Payload)
		if e, ok := t.ids.find(id, tn.Now(), r.cfg.IDTTL); ok {
			r.repeated(tn, t, from, req.Ref, e, content)
			return
		}
	}
	if !r.cfg.Publishes.Unlimited() && r.limited(tn, t, from, req.Ref) {
		return
	}
	pos, m := &tn.pos, &tn.message
	pos.Epoch, pos.Offset = t.epoch, t.offset+1
	if mutant.Is(mutant.AckFirst) && pos.Offset%20 == 0 && rand.N(2) == 0 {
		tn.Reply(from, req.Ref, linkpb.Code_OK, "", pos)
		return
	}
	if mutant.Is(mutant.Leak) && pos.Offset%20 == 0 {
		go func() { select {} }()
	}
	m.Topic, m.Position, m.Event, m.Payload, m.Binary = t.name, pos, req.Event, req.Payload, req.Binary
	span := r.beginSpan(tn, t, req)
	m.Trace = span.Context(req.Trace)
	item := linkpb.AppendItem(make([]byte, 0, m.SizeVT()+itemFrame), linkpb.KindMessage, m)
	m.Event, m.Payload, m.Trace = "", nil, nil // they alias the lane's input buffer
	err := r.cfg.Store.Append(t.name, history.Message{
		Position: history.Position{Epoch: pos.Epoch, Offset: pos.Offset}, Item: item,
	}, tn.Now())
	if err != nil {
		r.failed.Log(r.cfg.Log, zap.ErrorLevel, "publish not appended", zap.String("topic", t.name), zap.Error(err))
		tn.Reply(from, req.Ref, linkpb.Code_INTERNAL, "not appended", nil)
		span.Fail("not appended")
		span.End(time.Now())
		return
	}
	t.offset++
	if id != (publishID{}) {
		t.ids.add(id, idEntry{content: content, offset: t.offset, at: tn.Now()}, r.cfg.IDs)
	}
	tn.Reply(from, req.Ref, linkpb.Code_OK, "", pos)
	t.fanOutLocked(tn, item)
	if span != nil {
		tn.endSpan(span, t)
	}
	if len(t.subs) == 0 {
		t.used = tn.Now()
	}
	if r.publishes.Add(1)%sampleEvery == 1 {
		tn.timed = r.cfg.FanOutTime
	}
	r.sends.Add(uint64(len(t.subs)))
}

// limited counts a publish against its topic's rate, and answers it if that is over the limit. Repeats do not count: they
// append nothing.
func (r *Registry) limited(tn *Turn, t *Topic, from *Lane, ref uint64) bool {
	wait := t.rate.Take(r.cfg.Publishes, tn.Now().Sub(r.made))
	if wait == 0 {
		return false
	}
	r.rateLimited.Add(1)
	rep := &tn.reply
	*rep = linkpb.Reply{
		Ref: ref, Code: linkpb.Code_RATE_LIMITED, Detail: rateLimitedDetail, RetryAfterMs: uint32((wait + time.Millisecond - 1) / time.Millisecond),
	}
	tn.send(from)
	rep.RetryAfterMs = 0 // the next Reply is made in the same place
	return true
}

// repeated answers a publish that was appended before.
func (r *Registry) repeated(tn *Turn, t *Topic, from *Lane, ref uint64, e idEntry, content uint64) {
	if e.content != content {
		tn.Reply(from, ref, linkpb.Code_ID_REUSED, "publish_id reused with different content", nil)
		return
	}
	r.repeats.Add(1)
	tn.pos.Epoch, tn.pos.Offset = t.epoch, e.offset
	tn.Reply(from, ref, linkpb.Code_OK, "", &tn.pos)
}

const (
	notOwnerDetail    = "the ring gives the topic to another server"
	rateLimitedDetail = "more is published to the topic than it may"
	tooManyWait       = "too many requests wait for the topic to come over"
	tooManyTopics     = "the topic's owner has as many topics as it may have"
)

// absentDetail explains the code that need gives.
func absentDetail(code linkpb.Code) string {
	if code == linkpb.Code_OVERLOADED {
		return tooManyTopics
	}
	return notOwnerDetail
}

// absent answers a request for a topic that need has not.
func (r *Registry) absent(tn *Turn, lane *Lane, ref uint64, code linkpb.Code) {
	tn.Reply(lane, ref, code, absentDetail(code), nil)
}

func (r *Registry) notOwner(tn *Turn, lane *Lane, ref uint64) {
	r.absent(tn, lane, ref, linkpb.Code_NOT_OWNER)
}

// Sweep forgets the topics that no gateway subscribes, nobody has published to since idle ago, and whose history is
// too old to serve. A topic that comes back after that has a new epoch. It returns how many it forgot.
func (r *Registry) Sweep(idle time.Duration) int {
	now := time.Now()
	r.cfg.Store.Sweep(now)
	n := 0
	for i := range r.shards {
		r.guard(func() { n += r.sweepShard(&r.shards[i], now, idle) })
	}
	return n
}

func (r *Registry) sweepShard(s *shard, now time.Time, idle time.Duration) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.topics {
		func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.ids.rest(now, r.cfg.IDTTL)
			if len(t.subs) == 0 && t.presence == nil && !t.waiting && !t.namedLocked() && now.Sub(t.used) > idle {
				r.removeLocked(s, t)
				n++
			}
		}()
	}
	return n
}

// guard calls f where no lane's receiver runs, which would end with a panic: f gives back its locks by defer.
func (r *Registry) guard(f func()) { link.Guard(r.cfg.Log, &r.panics, f) }

// removeLocked takes a topic out. Both locks are held.
func (r *Registry) removeLocked(s *shard, t *Topic) {
	t.gone = true
	delete(s.topics, t.name)
	r.cfg.Store.Forget(t.name)
	t.ids.clear()
	r.topics.Add(-1)
}
