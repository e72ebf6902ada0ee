// Package topicserver is the service that owns topics: it accepts links from gateways, gives every message of its
// topics a position, and fans it out, one send per gateway that has a subscriber.
package topicserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/ringcast/ringcast/shared/certs"
	"github.com/ringcast/ringcast/shared/daemon"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/rate"
	"github.com/ringcast/ringcast/shared/revoke"
	"github.com/ringcast/ringcast/shared/ring"
	"github.com/ringcast/ringcast/shared/trace"
	"github.com/ringcast/ringcast/topicserver/history"
	"github.com/ringcast/ringcast/topicserver/topic"
)

// Server is one topic server. Any goroutine may call its methods.
type Server struct {
	// Static.
	cfg      Config
	rings    *ring.Keeper
	instance uint64          // drawn at start: tells a restarted server from a link that was merely cut
	identity *certs.Identity // nil if links are in plain text
	links    link.Config
	store    history.Store
	topics   *topic.Registry
	take     *take
	give     *give
	log      *zap.Logger

	serving    atomic.Bool
	refused    atomic.Uint64 // lanes that were answered with a Refusal
	refusals   link.LogLimit // logs those
	ringLog    link.LogLimit // logs rings of peers that are not taken
	stateLog   link.LogLimit // logs states of topics that cannot be
	slowLanes  atomic.Uint64 // lanes that ended because the gateway did not read
	badLanes   atomic.Uint64 // lanes that ended because of what the gateway sent
	closed     link.Closed
	panics     atomic.Uint64 // met elsewhere than on lanes
	conflicts  atomic.Uint64 // rings of peers with the version of ours and other content
	building   atomic.Int64  // lanes with rings that learnLater has begun and not finished with
	moves      moves
	times      times
	tracer     *trace.Tracer
	staleFile  atomic.Bool    // the ring in use came from a peer and is newer than the file's
	ringFailed atomic.Bool    // the ring file is of no use
	look       chan os.Signal // asks for a look at the ring file

	revoked  revoke.Table   // for gateways that are linked later
	learning sync.WaitGroup // learnLater
	learnMu  sync.Mutex     // held while a peer's ring is judged and built

	mu    sync.Mutex
	lanes map[laneKey]*lane
}

// laneKey names a lane. A gateway that redials before its old connection is found dead takes its place.
type laneKey struct {
	gateway  string
	instance uint64
	lane     uint32
}

// lane is a greeted lane: its connection and its place in the topics.
type lane struct {
	wire *link.Lane
	subs *topic.Lane
	load atomic.Pointer[heardLoad] // of the gateway, told on its lane 0; nil if it has told none
}

// New returns a topic server that owns what the ring gives to cfg.ID. It registers metrics and a readiness check with
// d, so it takes a Daemon of its own. The error is a daemon.ErrConfig.
func New(cfg Config, rg *ring.Ring, d *daemon.Daemon) (*Server, error) {
	cfg = cfg.withDefaults()
	if _, ok := rg.Server(cfg.ID); !ok {
		return nil, daemon.ConfigError(fmt.Errorf("id %q not in ring v%d", cfg.ID, rg.Version()))
	}
	identity, err := cfg.Links.Load()
	if err != nil {
		return nil, err
	}
	s := &Server{
		identity: identity,
		links:    cfg.link(identity),
		cfg:      cfg,
		instance: rand.Uint64(),
		refusals: link.LogLimit{PerSecond: 20}, // each lane of some gateways
		ringLog:  link.LogLimit{PerSecond: 20},
		stateLog: link.LogLimit{PerSecond: 20},
		store:    history.NewMemory(cfg.history()),
		log:      d.Log.With(zap.String("server", cfg.ID)),
		lanes:    make(map[laneKey]*lane),
		look:     make(chan os.Signal, 1),
		times:    newTimes(),
	}
	s.moves.time = newHandoverTime()
	s.tracer, err = trace.New(trace.Config{Endpoint: cfg.TraceURL, Service: "ringcast-topicserver", Instance: cfg.ID, Log: s.log})
	if err != nil {
		return nil, daemon.ConfigError(fmt.Errorf("OTEL_EXPORTER_OTLP_ENDPOINT: %w", err))
	}
	s.take, s.give = newTake(s), newGive(s)
	s.rings = ring.NewKeeper(rg, ring.Hooks{Changing: s.take.begin, Changed: s.ringChanged})
	s.topics = topic.NewRegistry(topic.Config{
		Store: s.store, IDs: cfg.HistoryIDs, IDTTL: cfg.HistoryTTL, IDBytes: cfg.HistoryTotal / 4, NameGrace: cfg.NameGrace, Claim: s.claim, Log: s.log,
		Tracer: s.tracer, FanOutTime: s.times.fanOut, PauseTime: s.times.pause,
		Topics: cfg.MaxTopics, Publishes: rate.PerSecond(cfg.MaxPublishes, 2*cfg.MaxPublishes),
		Presence: topic.Presence{Interval: cfg.PresenceInterval, Grace: cfg.PresenceGrace, Max: cfg.MaxPresences},
	})
	// Gateways whose link was lost before this process started have announced their names by then, or given them up.
	s.topics.Doubt(time.Now().Add(cfg.NameGrace / 2))
	s.take.begin(s.rings.Known())
	s.register(d.Metrics)
	d.ReadyWhen("links", s.Ready)
	d.Admin.HandleFunc("GET /ring", s.serveRing)
	d.ServeStatus(s.status)
	d.Admin.HandleFunc("GET /debug/topic", s.serveTopic)
	return s, nil
}

// Run loads the ring file, listens, and serves until ctx is canceled. A ring file, id, address or certificate that is of no
// use is a daemon.ErrConfig; any other error is Serve's.
func Run(ctx context.Context, d *daemon.Daemon, cfg *Config) error {
	rg, err := ring.Load(cfg.RingFile)
	if err != nil {
		return daemon.ConfigError(err)
	}
	if err := cfg.Links.CheckRing(rg); err != nil {
		return daemon.ConfigError(err)
	}
	if problem := ring.Exposed(cfg.RingFile); problem != "" {
		d.Log.Warn("ring file is not safe", zap.String("detail", problem))
	}
	s, err := New(*cfg, rg, d)
	if err != nil {
		return err
	}
	lis, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return daemon.ConfigError(fmt.Errorf("TOPICSERVER_ADDR: %w", err))
	}
	signal.Notify(s.look, syscall.SIGHUP)
	defer signal.Stop(s.look)
	return s.Serve(ctx, lis)
}

// Serve accepts links on lis until ctx is canceled, then ends them and returns when all have ended. It closes lis. A
// server that the ring does not have any more hands its topics over first, until none has gone for HandoverTimeout.
func (s *Server) Serve(ctx context.Context, lis net.Listener) error {
	s.log.Info("serving topics", zap.Stringer("addr", lis.Addr()),
		zap.Uint64("ring_version", s.rings.Current().Version()), zap.Int("servers", len(s.rings.Current().Servers())))
	var wg sync.WaitGroup
	defer s.tracer.Close()
	defer wg.Wait()
	defer s.learning.Wait() // the lanes have ended by then
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		s.serving.Store(false)
		s.waitHandedOver(inner)
		cancel()
	})()
	wg.Go(func() { s.take.run(inner) })
	wg.Go(func() { s.housekeep(inner) })
	wg.Go(func() { s.tickPresence(inner) })
	if s.identity != nil {
		wg.Go(func() { s.identity.Run(inner, s.log) })
	}
	if s.cfg.RingFile != "" {
		wg.Go(func() { s.watchRing(inner) })
	}
	s.serving.Store(true)
	defer s.serving.Store(false)
	err := link.Serve(inner, lis, link.ServeConfig{
		Config: s.links, MaxLanes: s.cfg.MaxLanes, Handle: s.serveLane, Handover: s.give.serve, Log: s.log, Closed: &s.closed,
	})
	if err != nil {
		return fmt.Errorf("topicserver: %w", err)
	}
	s.log.Info("stopped serving topics")
	return nil
}

// waitHandedOver returns at once unless the ring has dropped this server; then it gives the others time to take over, as
// long as they do.
func (s *Server) waitHandedOver(ctx context.Context) {
	if _, in := s.rings.Current().Server(s.cfg.ID); in {
		return
	}
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	left, deadline := s.give.pending(), time.Now().Add(s.cfg.HandoverTimeout)
	for left > 0 && time.Now().Before(deadline) {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		if n := s.give.pending(); n < left {
			left, deadline = n, time.Now().Add(s.cfg.HandoverTimeout)
		}
	}
	if left > 0 {
		s.log.Error("stopping with topics that nobody took over", zap.Int("topics", left))
	}
}

// housekeep forgets unused topics and tells gateways the positions that have moved, until ctx is canceled.
func (s *Server) housekeep(ctx context.Context) {
	sweep := time.NewTicker(s.cfg.TopicIdle / 4)
	defer sweep.Stop()
	digest := time.NewTicker(s.cfg.DigestInterval)
	defer digest.Stop()
	// A topic is not forgotten while its past may still be asked for.
	idle := max(s.cfg.TopicIdle, s.cfg.HistoryTTL)
	names := time.NewTicker(max(s.cfg.NameGrace/50, 10*time.Millisecond))
	defer names.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			if n := s.topics.Sweep(idle); n > 0 {
				s.log.Debug("forgot unused topics", zap.Int("topics", n))
			}
			s.give.expire()
			s.revoked.Sweep(time.Now())
		case now := <-names.C:
			s.topics.SettleNames(now)
		case <-digest.C:
			for _, l := range s.openLanes() {
				l.subs.Digest()
			}
		}
	}
}

func (s *Server) lanesByKey() map[laneKey]*lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.lanes)
}

// tickPresence sends the changes of presences until ctx is canceled.
func (s *Server) tickPresence(ctx context.Context) {
	tick := time.NewTicker(s.cfg.PresenceInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			s.topics.TickPresence(now)
		}
	}
}

func (s *Server) openLanes() []*lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	lanes := make([]*lane, 0, len(s.lanes))
	for _, l := range s.lanes {
		lanes = append(lanes, l)
	}
	return lanes
}

// Ready returns nil while the server accepts links: from the start of Serve until its ctx is canceled.
func (s *Server) Ready() error {
	if !s.serving.Load() {
		return errors.New("not accepting links from gateways")
	}
	return nil
}

// Subscribers lists the subscribers of a topic, sorted by gateway and id.
func (s *Server) Subscribers(name string) []topic.Subscriber { return s.topics.Subscribers(name) }

// Names returns how many exclusive names of this server somebody holds.
func (s *Server) Names() int64 { return s.topics.Names() }

// Stats returns the server's counts.
func (s *Server) Stats() topic.Stats { return s.topics.Stats() }

// Lanes returns the number of greeted lanes.
func (s *Server) Lanes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.lanes)
}

// panicked counts and logs what recover has returned, and gives it as an error.
func (s *Server) panicked(p any) error {
	s.panics.Add(1)
	link.LogPanic(s.log, p)
	return errPanicked
}

var (
	errSuperseded = errors.New("superseded by a newer connection of the same gateway")
	errPanicked   = errors.New("the handler panicked")
)
