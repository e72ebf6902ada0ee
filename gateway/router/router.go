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
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/ring"
	"github.com/ringcast/ringcast/shared/trace"
)

const shards = 64

// Config configures a Router. The zero value of a field means its default, but for Gateway, Ring and Loops, which are
// required.
type Config struct {
	Gateway  string        // this gateway's id
	Cluster  string        // name of the cluster that it is of; empty fits any
	Instance uint64        // of its process; default random
	Ring     *ring.Ring    // to begin with; Rings().Replace takes the next ones
	Loops    *socket.Loops // at most 64; they must outlive the router

	Lanes          int           // per link; default 2
	Linger         time.Duration // from the last leave to the unsubscribe; default 1 s
	JoinTimeout    time.Duration // how long a join waits for the owner; default 5 s
	PublishTimeout time.Duration // how long a publish waits for the owner, over link losses and ring changes; default 5 s
	Heartbeat      time.Duration // between pings on a lane; three without an answer end it; default 1 s
	MaxPending     int           // publishes in flight per lane; default 16384
	MaxBacklog     int           // bytes of publishes in flight per lane, or queued on it; default 4 MiB
	MaxLoopBacklog int           // bytes of messages that may wait for one loop; beyond it topics end there; default 64 MiB
	Link           link.Config
	// PublishTime and DeliveryTime, if set, get times in seconds, of one in sampleEvery publishes and batches: from a
	// publish to its owner's OK, and from a batch's receipt to the writes on the sockets it is for.
	PublishTime, DeliveryTime prometheus.Observer
	// Tracer makes spans of publishes and deliveries that are traced. Nil makes none; contexts are passed on all the same.
	Tracer *trace.Tracer
	// Adopted, if set, is told of a ring that was taken from a topic server. It must not wait.
	Adopted func(*ring.Ring)
	// Revoked, if set, is told of each revocation that a topic server sends. Revocations, if set, lists all that are to be
	// told to a topic server that is linked anew. Neither may wait, nor call the router but for Revoke.
	Revoked     func(server string, r *linkpb.Revoke)
	Revocations func() []*linkpb.Revoke
	Log         *zap.Logger
}

func (c Config) withDefaults() Config {
	if c.Instance == 0 {
		c.Instance = rand.Uint64()
	}
	number := func(v *int, def int) {
		if *v <= 0 {
			*v = def
		}
	}
	duration := func(v *time.Duration, def time.Duration) {
		if *v <= 0 {
			*v = def
		}
	}
	number(&c.Lanes, 2)
	duration(&c.Linger, time.Second)
	duration(&c.JoinTimeout, 5*time.Second)
	duration(&c.PublishTimeout, 5*time.Second)
	duration(&c.Heartbeat, time.Second)
	duration(&c.Link.Silence, 3*c.Heartbeat)
	number(&c.MaxPending, 16384)
	number(&c.MaxBacklog, 4<<20)
	number(&c.MaxLoopBacklog, 64<<20)
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	return c
}

// Outcome is how a join or a publish ended.
type Outcome struct {
	Code   linkpb.Code // OK, a definite error, or UNKNOWN_OUTCOME: it may have happened
	Detail string      // of an error, for people
	// Position is, when Code is OK, where a publish stands, or the place after which a channel gets every message.
	Position hub.Position
	// Recovered is true for a join with a Since place when everything behind that place reaches the channel.
	Recovered bool
	// RetryAfter is when to try again, with RATE_LIMITED.
	RetryAfter time.Duration
}

// OK reports whether what was asked has happened.
func (o Outcome) OK() bool { return o.Code == linkpb.Code_OK }

// Router routes for one gateway. Any goroutine may call its methods.
type Router struct {
	// Static.
	cfg      Config
	instance uint64
	seed     maphash.Seed
	rings    *ring.Keeper
	locals   []*Local
	log      *zap.Logger

	table  atomic.Pointer[table]
	shards [shards]shard
	stats  counters
	others others

	joinTimes joinTimes
	lastID    atomic.Uint64 // of publishes
	moving    atomic.Int64  // subscriptions with a move
	parked    atomic.Int64  // bytes of publishes that wait in flows
	linked    atomic.Bool   // there has been a link to every topic server
	refused   link.LogLimit // for members of presences that are refused: clients could have it log any number
	gapLog    link.LogLimit // for topics that have lost messages
	ringLog   link.LogLimit // for rings that are not taken

	learnMu  sync.Mutex
	learning uint64 // version of the ring that was last begun to be built; 0 when it is done

	runMu   sync.Mutex
	runCtx  context.Context // of Run; nil before
	running sync.WaitGroup  // lanes
	retired []*lane         // lanes to servers that are not in the ring any more; they end when nothing needs them
}

// table is what routes: a ring and the lanes to its servers. Immutable.
type table struct {
	ring  *ring.Ring
	lanes map[string][]*lane // by server id
}

type counters struct {
	publishes  atomic.Uint64
	messages   atomic.Uint64
	deliveries atomic.Uint64
	replayed   atomic.Uint64
	resyncs    atomic.Uint64
	moves      atomic.Uint64
	gaps       atomic.Uint64
	overruns   atomic.Uint64
	stray      atomic.Uint64
	unfit      atomic.Uint64
	conflicts  atomic.Uint64
	lanesLost  atomic.Uint64
	panics     atomic.Uint64
	names      atomic.Int64 // held now
	namesLost  atomic.Uint64

	presencesPostponed atomic.Uint64
	joinsPostponed     atomic.Uint64

	publishEnds [maxCode]atomic.Uint64 // publishes that have ended, by code
	joinEnds    [maxCode]atomic.Uint64 // joins that were answered, by code
}

// New returns a router with no lanes open; Run opens them. More than 64 loops are an error.
func New(cfg Config) (*Router, error) {
	cfg = cfg.withDefaults()
	if n := cfg.Loops.Len(); n > 64 {
		return nil, fmt.Errorf("router: %d event loops; 64 is the most", n)
	}
	r := &Router{cfg: cfg, instance: cfg.Instance, seed: maphash.MakeSeed(), log: cfg.Log, gapLog: link.LogLimit{PerSecond: 20}, ringLog: link.LogLimit{PerSecond: 20}}
	r.rings = ring.NewKeeper(cfg.Ring, ring.Hooks{Changed: r.ringChanged})
	for i := range r.shards {
		r.shards[i].topics = make(map[string]*subscription)
		r.shards[i].idle = make(map[string]time.Time)
	}
	r.table.Store(r.newTable(cfg.Ring, nil))
	for i := range cfg.Loops.Len() {
		r.locals = append(r.locals, newLocal(r, cfg.Loops.Loop(i)))
	}
	return r, nil
}

// SessionID names one of this gateway's client sockets, by its number, in the whole cluster.
func (r *Router) SessionID(conn uint64) string { return SessionID(r.instance, conn) }

// Rings holds the ring in use. Replacing it there moves topics to their new owners.
func (r *Router) Rings() *ring.Keeper { return r.rings }

// newTable makes the table of a ring. Lanes that exist are kept, retired ones too: a server takes one lane of each index
// from a gateway, and ends the one that it has for the next one that comes.
func (r *Router) newTable(rg *ring.Ring, existing []*lane) *table {
	t := &table{ring: rg, lanes: make(map[string][]*lane)}
	for _, server := range rg.Servers() {
		lanes := make([]*lane, r.cfg.Lanes)
		for _, l := range existing {
			if l.server == server.ID {
				lanes[l.index] = l
				l.readdress(server.Addr)
			}
		}
		for i := range lanes {
			if lanes[i] == nil {
				lanes[i] = newLane(r, server, uint32(i))
			}
		}
		t.lanes[server.ID] = lanes
	}
	return t
}

// Local returns the router's face on event loop i.
func (r *Router) Local(i int) *Local { return r.locals[i] }

// Run keeps the lanes open until ctx is canceled and returns when all of them have ended.
func (r *Router) Run(ctx context.Context) {
	r.runMu.Lock()
	r.runCtx = ctx
	r.startLocked(r.table.Load().all())
	r.runMu.Unlock()
	r.housekeep(ctx)
	// Whoever has the mutex now may start lanes; who gets it later finds ctx canceled. It is not held while waiting: a lane
	// that takes a ring needs it to end.
	r.runMu.Lock()
	r.runMu.Unlock() //nolint:staticcheck // see above
	r.running.Wait()
}

func (r *Router) startLocked(lanes []*lane) {
	if r.runCtx == nil || r.runCtx.Err() != nil {
		return
	}
	for _, l := range lanes {
		if l.stop == nil {
			ctx, stop := context.WithCancel(r.runCtx)
			l.stop = stop
			r.running.Go(func() { l.run(ctx) })
		}
	}
}

// ringChanged routes by the new ring: every server is told it ahead of anything that is sent because of it, lanes to new
// servers open, and the topics that have another owner move.
func (r *Router) ringChanged(old, next *ring.Ring) {
	r.log.Info("ring changed", zap.Uint64("from", old.Version()), zap.Uint64("to", next.Version()),
		zap.Int("servers", len(next.Servers())))
	r.runMu.Lock()
	existing := r.everyLaneLocked()
	m := link.EncodeRing(next)
	for _, l := range existing {
		l.tell(linkpb.KindUpRing, m)
	}
	t := r.newTable(next, existing)
	r.table.Store(t)
	used := t.all()
	r.retired = nil
	for _, l := range existing {
		if !slices.Contains(used, l) {
			l.unused = false
			r.retired = append(r.retired, l)
		}
	}
	r.startLocked(used)
	r.runMu.Unlock()

	touched := make(map[*lane]bool)
	for _, l := range existing {
		touched[l] = true
	}
	touch := func(l *lane) { touched[l] = true }
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		for _, sub := range s.topics {
			sub.reroute(r, touch)
		}
		for _, p := range s.presences {
			p.reroute(r, touch)
		}
		s.mu.Unlock()
	}
	for l := range touched {
		l.flush()
	}
	for _, l := range r.locals {
		l.loop.Post(func() {
			l.announceNames(func(topic string) bool { return old.Owner(topic).ID != next.Owner(topic).ID })
		})
	}
}

// Revoke tells a revocation to every topic server that there is a link to. Config.Revocations must list it by now, so that the
// others are told when they are linked.
func (r *Router) Revoke(rev *linkpb.Revoke) {
	for _, l := range r.everyLane() {
		if l.index == 0 {
			l.tell(linkpb.KindUpRevoke, rev)
			l.flush()
		}
	}
}

func (t *table) all() []*lane {
	var all []*lane
	for _, lanes := range t.lanes {
		all = append(all, lanes...)
	}
	return all
}

// Ready returns nil once there has been a link to every topic server of the ring, and from then on while there is one
// to any: a gateway that has lost one server still serves the topics of the others, and the loss of a server must not
// take all gateways out of service.
func (r *Router) Ready() error {
	t := r.table.Load()
	var missing error
	up := 0
	for _, server := range t.ring.Servers() {
		for _, l := range t.lanes[server.ID] {
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
	Replayed   uint64 // messages handed to channels that came from a topic's history
	Resyncs    uint64 // subscriptions that asked for what they had missed
	Moves      uint64 // subscriptions that went over to another owner
	Gaps       uint64 // subscriptions that have missed messages for good; their channels were told
	Overruns   uint64 // messages that ended their topic on loops too busy to deliver them
	Stray      uint64 // messages received that no subscription waits for
	Unfit      uint64 // binary messages not handed to channels whose protocol has no place for them
	Conflicts  uint64 // rings of topic servers that have the version of the one in use and other content
	LanesLost  uint64 // connections to topic servers that had been greeted and ended
	Panics     uint64 // each ended a connection to a topic server
	NamesLost  uint64 // exclusive names that sessions have lost without releasing them
	Names      int    // exclusive names that sessions hold, now
	LanesUp    int    // now
	Channels   int    // in hubs, now
	Moving     int    // subscriptions on their way to another owner, now
	Backlog    int    // bytes of messages that wait for event loops, now
	Parked     int    // bytes of publishes that wait for a topic's new owner, now
	LaneQueue  int    // bytes that lanes' peers have not taken, now
	Lagging    int    // channels that may skip messages and for which some wait, now

	JoinsPostponed     uint64 // answers to joins that their clients had no room for; their owners were asked again
	PresencesPostponed uint64 // changes of presences that a slow client was not told, but is shown in a later state

	Skipped [hub.NumSlow]uint64 // messages that channels did not get, as they chose; they were told
}

// Stats returns the current counts.
func (r *Router) Stats() Stats {
	s := Stats{
		Publishes:  r.stats.publishes.Load(),
		Messages:   r.stats.messages.Load(),
		Deliveries: r.stats.deliveries.Load(),
		Replayed:   r.stats.replayed.Load(),
		Resyncs:    r.stats.resyncs.Load(),
		Moves:      r.stats.moves.Load(),
		Gaps:       r.stats.gaps.Load(),
		Overruns:   r.stats.overruns.Load(),
		Stray:      r.stats.stray.Load(),
		Unfit:      r.stats.unfit.Load(),
		NamesLost:  r.stats.namesLost.Load(),
		Names:      int(r.stats.names.Load()),
		Conflicts:  r.stats.conflicts.Load(),
		LanesLost:  r.stats.lanesLost.Load(),
		Panics:     r.stats.panics.Load(),
		Moving:     int(r.moving.Load()),
		Parked:     int(r.parked.Load()),

		PresencesPostponed: r.stats.presencesPostponed.Load(),
		JoinsPostponed:     r.stats.joinsPostponed.Load(),
	}
	for _, l := range r.locals {
		s.Channels += int(l.channels.Load())
		s.Backlog += int(l.backlog.Load())
		skips := l.hub.Skips()
		s.Lagging += int(skips.Lagging.Load())
		for i := range skips.Skipped {
			s.Skipped[i] += skips.Skipped[i].Load()
		}
	}
	for _, l := range r.table.Load().all() {
		if n, live := l.queued(); live {
			s.LanesUp++
			s.LaneQueue += n
		}
	}
	return s
}

func (r *Router) hash(topic string) uint64 { return maphash.String(r.seed, topic) }

func (r *Router) shard(topic string) *shard { return &r.shards[r.hash(topic)%shards] }

// route asks the ring which lane carries the topic.
func (r *Router) route(topic string) *lane {
	t := r.table.Load()
	lanes := t.lanes[t.ring.Owner(topic).ID]
	return lanes[(r.hash(topic)/shards)%uint64(len(lanes))]
}

// guard calls f where no lane receives, which would end with a panic: f gives back its locks by defer.
func (r *Router) guard(f func()) { link.Guard(r.log, &r.stats.panics, f) }

// housekeep unsubscribes what has lingered, ends what waited too long, tries again what was refused, and pings.
func (r *Router) housekeep(ctx context.Context) {
	tick := time.NewTicker(min(r.cfg.Linger, r.cfg.JoinTimeout, r.cfg.PublishTimeout, r.cfg.Heartbeat) / 4)
	defer tick.Stop()
	pinged := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			r.guard(func() { r.unsubscribeIdle(now) })
			r.guard(func() { r.retry(now) })
			r.guard(func() { r.tickPresence(now) })
			r.retire()
			for _, l := range r.locals {
				if l.waits.Load() > 0 {
					l.loop.Post(func() { l.expire(now) })
				}
			}
			ping := now.Sub(pinged) >= r.cfg.Heartbeat
			if ping {
				pinged = now
			}
			for _, l := range r.everyLane() {
				l.expire(now)
				l.announceSealed()
				if l.namesOverdue(now) {
					r.giveUpNames(l)
				}
				if ping {
					l.tell(linkpb.KindUpPing, &linkpb.Ping{})
					l.flush()
				}
			}
		}
	}
}

// serverIsBack has a server's other lanes dial when one of them is live that was away: their topics would wait for pauses of up to
// some seconds. After a short while the pauses are short, and lanes that are lost again and again must not drive each other.
func (r *Router) serverIsBack(live *lane, away time.Duration) {
	if away < redialMax/4 {
		return
	}
	for _, l := range r.table.Load().lanes[live.server] {
		if l != live && !l.live() {
			l.dialNow()
		}
	}
}

// everyLane lists the lanes of the ring and the retired ones.
func (r *Router) everyLane() []*lane {
	r.runMu.Lock()
	defer r.runMu.Unlock()
	return r.everyLaneLocked()
}

func (r *Router) everyLaneLocked() []*lane { return append(r.table.Load().all(), r.retired...) }

// retire ends the retired lanes that no subscription and no request needs any more. Whoever needed one last may still have to
// flush it, so retire does that, and ends it the next time.
func (r *Router) retire() {
	r.runMu.Lock()
	defer r.runMu.Unlock()
	if len(r.retired) == 0 {
		return
	}
	used := make(map[*lane]bool)
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		for _, sub := range s.topics {
			used[sub.lane] = true
			if sub.next != nil {
				used[sub.next.lane] = true
			}
			used[sub.flow.lane] = true
		}
		s.mu.Unlock()
	}
	kept := r.retired[:0]
	for _, l := range r.retired {
		switch needed := used[l] || l.busy(); {
		case needed || !l.unused:
			if l.unused = !needed; l.unused {
				l.flush()
			}
			kept = append(kept, l)
		case l.stop != nil:
			l.stop()
		}
	}
	clear(r.retired[len(kept):])
	r.retired = kept
}
