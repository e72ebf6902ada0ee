// Package router takes topics to their owners: it finds the owner of a topic, keeps the lanes to every topic server,
// holds this gateway's subscriptions, and hands what comes down a lane to the event loops that have subscribers.
//
// A Local is the router's face on one event loop and belongs to that loop. A lane's receive goroutine never waits for
// a loop, nor a loop for a lane.
//
// Lock order: shard.mu → lane.mu → link.Sender. No lock is held across a network wait.
package router

import (
	"context"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/ring"
)

const shards = 64

// Config configures a Router. The zero value of a field means its default, but for Gateway, Ring and Loops, which are
// required.
type Config struct {
	Gateway string // this gateway's id
	Ring    *ring.Ring
	Loops   *socket.Loops

	Lanes       int           // per link; default 2
	Linger      time.Duration // from the last leave to the unsubscribe; default 1 s
	JoinTimeout time.Duration // how long a join waits for the owner; default 5 s
	MaxPending  int           // publishes in flight per lane; default 16384
	MaxBacklog  int           // bytes queued per lane before publishes are refused; default 4 MiB
	// MaxLoopBacklog is how many bytes of messages may wait for an event loop that is too busy to deliver them. A
	// message over it ends the channels of its topic on that loop. Default 64 MiB.
	MaxLoopBacklog int
	Link           link.Config
	Log            *zap.Logger
}

func (c Config) withDefaults() Config {
	if c.Lanes <= 0 {
		c.Lanes = 2
	}
	if c.Linger <= 0 {
		c.Linger = time.Second
	}
	if c.JoinTimeout <= 0 {
		c.JoinTimeout = 5 * time.Second
	}
	if c.MaxPending <= 0 {
		c.MaxPending = 16384
	}
	if c.MaxBacklog <= 0 {
		c.MaxBacklog = 4 << 20
	}
	if c.MaxLoopBacklog <= 0 {
		c.MaxLoopBacklog = 64 << 20
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	return c
}

// Outcome is how a join or a publish ended. Position is set when Code is OK.
type Outcome struct {
	Code     linkpb.Code
	Detail   string
	Position hub.Position
}

// OK reports whether what was asked has happened.
func (o Outcome) OK() bool { return o.Code == linkpb.Code_OK }

// Router routes for one gateway. Any goroutine may call its methods.
type Router struct {
	// Static.
	cfg      Config
	instance uint64
	seed     maphash.Seed
	lanes    map[string][]*lane // by server id
	locals   []*Local
	log      *zap.Logger

	shards [shards]shard
	stats  counters
	linked atomic.Bool // there has been a link to every topic server
}

type counters struct {
	publishes  atomic.Uint64
	messages   atomic.Uint64
	deliveries atomic.Uint64
	gaps       atomic.Uint64
	overruns   atomic.Uint64
	stray      atomic.Uint64
	unfit      atomic.Uint64
}

// shard holds the subscriptions of some topics.
type shard struct {
	mu     sync.Mutex
	topics map[string]*subscription
	idle   map[string]time.Time // no loop wants them since then; unsubscribed after the linger
}

// subscription is this gateway's interest in one topic. Guarded by its shard's mutex.
//
// Which loops get a message is decided, under that mutex, by the goroutine that receives it. A loop puts its bit into
// live under the same mutex, so each message is either before that moment, and covered by the position that the loop
// gets, or after it, and posted to the loop. Positions tell the loop's hub which of the messages that it finds in its
// queue are which.
type subscription struct {
	name       string       // static
	lane       *lane        // static
	ref        uint64       // of the Subscribe sent over the lane's connection; 0 = none yet
	subscribed bool         // the Reply to that Subscribe is here; messages before it are of an older subscription
	live       uint64       // loops that have channels
	waiting    uint64       // loops that have joins waiting for the Reply
	last       hub.Position // of the last message, or of the Reply; not set before the first Reply
}

// New returns a router with no lanes open; Run opens them.
func New(cfg Config) (*Router, error) {
	cfg = cfg.withDefaults()
	if n := cfg.Loops.Len(); n > 64 {
		return nil, fmt.Errorf("router: %d event loops; 64 is the most", n)
	}
	r := &Router{
		cfg:      cfg,
		instance: rand.Uint64(),
		seed:     maphash.MakeSeed(),
		lanes:    make(map[string][]*lane),
		log:      cfg.Log,
	}
	for i := range r.shards {
		r.shards[i].topics = make(map[string]*subscription)
		r.shards[i].idle = make(map[string]time.Time)
	}
	for _, server := range cfg.Ring.Servers() {
		for i := range cfg.Lanes {
			r.lanes[server.ID] = append(r.lanes[server.ID], newLane(r, server, uint32(i)))
		}
	}
	for i := range cfg.Loops.Len() {
		r.locals = append(r.locals, newLocal(r, cfg.Loops.Loop(i)))
	}
	return r, nil
}

// Local returns the router's face on event loop i.
func (r *Router) Local(i int) *Local { return r.locals[i] }

// Run keeps the lanes open until ctx is canceled and returns when all of them have ended.
func (r *Router) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, lanes := range r.lanes {
		for _, l := range lanes {
			wg.Go(func() { l.run(ctx) })
		}
	}
	wg.Go(func() { r.housekeep(ctx) })
	wg.Wait()
}

// Ready returns nil once there has been a link to every topic server of the ring, and from then on while there is one
// to any: a gateway that has lost one server still serves the topics of the others, and the loss of a server must not
// take all gateways out of service.
func (r *Router) Ready() error {
	var missing error
	up := 0
	for _, server := range r.cfg.Ring.Servers() {
		for _, l := range r.lanes[server.ID] {
			if l.live() {
				up++
			} else if missing == nil {
				missing = fmt.Errorf("no link to topic server %q at %s", server.ID, server.Addr)
			}
		}
	}
	if missing == nil {
		r.linked.Store(true)
	}
	if r.linked.Load() && up > 0 {
		return nil
	}
	return missing
}

// Stats counts what a router has done since its start.
type Stats struct {
	Publishes  uint64 // handed to a lane
	Messages   uint64 // received for a topic that has subscribers here
	Deliveries uint64 // messages handed to channels
	Gaps       uint64 // subscriptions that came back from a lost link with messages missing
	Overruns   uint64 // messages that ended their topic on loops too busy to deliver them
	Stray      uint64 // messages received for a topic that is not subscribed any more
	Unfit      uint64 // binary messages not handed to channels whose protocol has no place for them
	LanesUp    int    // now
}

// Stats returns the current counts.
func (r *Router) Stats() Stats {
	s := Stats{
		Publishes:  r.stats.publishes.Load(),
		Messages:   r.stats.messages.Load(),
		Deliveries: r.stats.deliveries.Load(),
		Gaps:       r.stats.gaps.Load(),
		Overruns:   r.stats.overruns.Load(),
		Stray:      r.stats.stray.Load(),
		Unfit:      r.stats.unfit.Load(),
	}
	for _, lanes := range r.lanes {
		for _, l := range lanes {
			if l.live() {
				s.LanesUp++
			}
		}
	}
	return s
}

func (r *Router) hash(topic string) uint64 { return maphash.String(r.seed, topic) }

func (r *Router) shard(topic string) *shard { return &r.shards[r.hash(topic)%shards] }

// lane returns the lane that carries the topic.
func (r *Router) lane(topic string) *lane {
	s := r.shard(topic)
	s.mu.Lock()
	sub := s.topics[topic]
	s.mu.Unlock()
	if sub != nil {
		return sub.lane
	}
	return r.route(topic)
}

// route asks the ring.
func (r *Router) route(topic string) *lane {
	lanes := r.lanes[r.cfg.Ring.Owner(topic).ID]
	return lanes[(r.hash(topic)/shards)%uint64(len(lanes))]
}

// subscribe registers a loop's interest in a topic. It reports true when messages flow already: then the loop gets
// everything after the returned position, and perhaps older messages that wait in its task queue. Otherwise
// Local.subscribed is called with the subscription.
func (r *Router) subscribe(topic string, loop int) (*subscription, hub.Position, bool) {
	s := r.shard(topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.idle, topic)
	sub := s.topics[topic]
	if sub == nil {
		sub = &subscription{name: topic, lane: r.route(topic)}
		s.topics[topic] = sub
		sub.lane.subscribe(sub)
	}
	if sub.subscribed {
		sub.live |= 1 << loop
		return sub, sub.last, true
	}
	sub.waiting |= 1 << loop
	return sub, hub.Position{}, false
}

// release ends a loop's interest. The gateway stays subscribed for the linger.
func (r *Router) release(topic string, loop int) {
	s := r.shard(topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.topics[topic]
	if sub == nil {
		return
	}
	sub.live &^= 1 << loop
	sub.waiting &^= 1 << loop
	if sub.live|sub.waiting == 0 {
		s.idle[topic] = time.Now()
	}
}

// housekeep unsubscribes what has lingered and ends joins that waited too long.
func (r *Router) housekeep(ctx context.Context) {
	tick := time.NewTicker(min(r.cfg.Linger, r.cfg.JoinTimeout) / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			r.unsubscribeIdle(now)
			for _, l := range r.locals {
				if l.waits.Load() > 0 {
					l.loop.Post(func() { l.expire(now) })
				}
			}
		}
	}
}

func (r *Router) unsubscribeIdle(now time.Time) {
	touched := make(map[*lane]bool)
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		for topic, since := range s.idle {
			if now.Sub(since) < r.cfg.Linger {
				continue
			}
			sub := s.topics[topic]
			delete(s.idle, topic)
			delete(s.topics, topic)
			// Under the shard's lock, so that a later subscribe of the topic follows it on the lane.
			sub.lane.tell(linkpb.KindUnsubscribe, &linkpb.Unsubscribe{Topic: topic})
			touched[sub.lane] = true
		}
		s.mu.Unlock()
	}
	for l := range touched {
		l.flush()
	}
}
