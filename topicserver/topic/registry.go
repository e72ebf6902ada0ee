package topic

import (
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
)

const shards = 64

// Registry holds a topic server's topics. Topics come into being when they are first used and are forgotten when
// nobody has used them for a while. Any goroutine may call its methods.
type Registry struct {
	seed   maphash.Seed
	shards [shards]shard

	// Counted here because only the registry sees every change.
	topics      atomic.Int64
	subscribers atomic.Int64
	publishes   atomic.Uint64
	sends       atomic.Uint64
}

type shard struct {
	mu     sync.Mutex
	topics map[string]*Topic
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry {
	r := &Registry{seed: maphash.MakeSeed()}
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
	FanoutSends uint64 // messages sent to gateways since the start: one per publish and gateway that subscribes
}

// Stats returns the current counts.
func (r *Registry) Stats() Stats {
	return Stats{
		Topics:      r.topics.Load(),
		Subscribers: r.subscribers.Load(),
		Publishes:   r.publishes.Load(),
		FanoutSends: r.sends.Load(),
	}
}

func (r *Registry) shard(name string) *shard {
	return &r.shards[maphash.String(r.seed, name)%shards]
}

// lock returns the topic with its mutex held; one that does not exist is made if create is set and nil otherwise.
//
// The interleaving that matters: Sweep forgets the topic between the look-up and the lock. Then gone is set under the
// topic's own mutex, and the second look-up makes a new one.
func (r *Registry) lock(name string, create bool) *Topic {
	s := r.shard(name)
	for {
		s.mu.Lock()
		t := s.topics[name]
		if t == nil && !create {
			s.mu.Unlock()
			return nil
		}
		if t == nil {
			// The name aliases the lane's input buffer.
			t = &Topic{name: strings.Clone(name), epoch: rand.Uint64() | 1, used: time.Now()}
			s.topics[t.name] = t
			r.topics.Add(1)
		}
		s.mu.Unlock()
		t.mu.Lock()
		if !t.gone {
			return t
		}
		t.mu.Unlock()
	}
}

// Subscribe makes every later message of the topic go to the lane, and replies with the position it starts after.
// Doing it again changes nothing and replies with the position now. It is called by the lane's receiver.
func (r *Registry) Subscribe(tn *Turn, lane *Lane, req *linkpb.Subscribe) {
	t := r.lock(req.Topic, true)
	defer t.mu.Unlock()
	if t.subscriptionLocked(lane) == nil {
		t.subs = append(t.subs, subscription{lane: lane})
		lane.topics[t] = struct{}{}
	}
	tn.Reply(lane, req.Ref, linkpb.Code_OK, "", t.positionLocked())
}

// Unsubscribe ends the lane's interest in a topic. It is called by the lane's receiver.
func (r *Registry) Unsubscribe(lane *Lane, name string) {
	r.forget(lane, name, time.Now())
}

func (r *Registry) forget(lane *Lane, name string, now time.Time) {
	t := r.lock(name, false)
	if t == nil {
		return
	}
	defer t.mu.Unlock()
	r.subscribers.Add(-int64(t.dropLocked(lane, now)))
	delete(lane.topics, t)
}

// Drop ends all of a lane's subscriptions. It is called once the lane's receiver has returned.
func (r *Registry) Drop(lane *Lane) {
	now := time.Now()
	for t := range lane.topics {
		r.forget(lane, t.name, now)
	}
}

// Join adds a subscriber to those that the lane's gateway has on a topic. A gateway that has not subscribed the topic
// has no subscribers on it, so its joins are ignored. It is called by the lane's receiver.
func (r *Registry) Join(lane *Lane, req *linkpb.Join) {
	t := r.lock(req.Topic, false)
	if t == nil {
		return
	}
	defer t.mu.Unlock()
	sub := t.subscriptionLocked(lane)
	if sub == nil {
		return
	}
	if sub.subscribers == nil {
		sub.subscribers = make(map[uint64]struct{}, 1)
	}
	if _, ok := sub.subscribers[req.Subscriber]; !ok {
		sub.subscribers[req.Subscriber] = struct{}{}
		r.subscribers.Add(1)
	}
}

// Leave takes a subscriber away. It is called by the lane's receiver.
func (r *Registry) Leave(lane *Lane, req *linkpb.Leave) {
	t := r.lock(req.Topic, false)
	if t == nil {
		return
	}
	defer t.mu.Unlock()
	sub := t.subscriptionLocked(lane)
	if sub == nil {
		return
	}
	if _, ok := sub.subscribers[req.Subscriber]; ok {
		delete(sub.subscribers, req.Subscriber)
		r.subscribers.Add(-1)
	}
}

// Publish appends a message, replies to the publisher's lane, and fans the message out: one send per subscribed
// gateway. The reply stands before the publisher's own copy, and every lane sees the topic's messages in one order,
// since both are appended under the topic's lock. It is called by the receiver of from.
func (r *Registry) Publish(tn *Turn, from *Lane, req *linkpb.Publish) {
	t := r.lock(req.Topic, true)
	defer t.mu.Unlock()
	t.offset++
	tn.pos.Epoch, tn.pos.Offset = t.epoch, t.offset
	tn.Reply(from, req.Ref, linkpb.Code_OK, "", &tn.pos)
	r.publishes.Add(1)
	if len(t.subs) == 0 {
		t.used = time.Now()
		return
	}
	m := &tn.message
	m.Topic, m.Position, m.Event, m.Payload, m.Binary = req.Topic, &tn.pos, req.Event, req.Payload, req.Binary
	tn.encoded = linkpb.AppendItem(tn.encoded[:0], linkpb.KindMessage, m)
	m.Topic, m.Event, m.Payload = "", "", nil // they alias the lane's input buffer
	for i := range t.subs {
		lane := t.subs[i].lane
		lane.Out.AppendEncoded(tn.encoded)
		tn.touch(lane)
	}
	r.sends.Add(uint64(len(t.subs)))
}

// Sweep forgets the topics that no gateway subscribes and nobody has published to since before idle ago. A topic
// that comes back after that has a new epoch. It returns how many it forgot.
func (r *Registry) Sweep(idle time.Duration) int {
	before := time.Now().Add(-idle)
	n := 0
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		for name, t := range s.topics {
			t.mu.Lock()
			if len(t.subs) == 0 && t.used.Before(before) {
				t.gone = true
				delete(s.topics, name)
				n++
			}
			t.mu.Unlock()
		}
		s.mu.Unlock()
	}
	r.topics.Add(-int64(n))
	return n
}

// Subscriber is one subscriber of a topic: ID is unique within the gateway.
type Subscriber struct {
	Gateway string
	ID      uint64
}

// Subscribers lists a topic's subscribers, sorted by gateway and id. A topic nobody uses has none.
func (r *Registry) Subscribers(name string) []Subscriber {
	t := r.lock(name, false)
	if t == nil {
		return nil
	}
	var list []Subscriber
	for _, sub := range t.subs {
		for id := range sub.subscribers {
			list = append(list, Subscriber{Gateway: sub.lane.Gateway, ID: id})
		}
	}
	t.mu.Unlock()
	slices.SortFunc(list, func(a, b Subscriber) int {
		if c := strings.Compare(a.Gateway, b.Gateway); c != 0 {
			return c
		}
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return list
}
