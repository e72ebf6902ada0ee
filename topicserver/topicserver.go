// Package topicserver is the service that owns topics: it accepts links from gateways, gives every message of its
// topics a position, and fans it out, one send per gateway that has a subscriber.
package topicserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/ringcast/ringcast/shared/daemon"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/ring"
	"github.com/ringcast/ringcast/topicserver/topic"
)

// Server is one topic server. Any goroutine may call its methods.
type Server struct {
	// Static.
	cfg      Config
	ring     *ring.Ring
	instance uint64 // drawn at start: tells a restarted server from a link that was merely cut
	topics   *topic.Registry
	log      *zap.Logger

	serving   atomic.Bool
	refused   atomic.Uint64 // lanes that were answered with a Refusal
	slowLanes atomic.Uint64 // lanes that ended because the gateway did not read

	mu    sync.Mutex
	lanes map[laneKey]*link.Lane
}

// laneKey names a lane. A gateway that redials before its old connection is found dead takes its place.
type laneKey struct {
	gateway  string
	instance uint64
	lane     uint32
}

// New returns a topic server that owns what the ring gives to cfg.ID. It registers metrics and a readiness check with
// d, so it takes a Daemon of its own. The error is a daemon.ErrConfig.
func New(cfg Config, rg *ring.Ring, d *daemon.Daemon) (*Server, error) {
	if _, ok := rg.Server(cfg.ID); !ok {
		return nil, daemon.ConfigError(fmt.Errorf("id %q not in ring v%d", cfg.ID, rg.Version()))
	}
	s := &Server{
		cfg:      cfg,
		ring:     rg,
		instance: rand.Uint64(),
		topics:   topic.NewRegistry(),
		log:      d.Log.With(zap.String("server", cfg.ID)),
		lanes:    make(map[laneKey]*link.Lane),
	}
	s.register(d.Metrics)
	d.ReadyWhen("links", s.Ready)
	return s, nil
}

// Run loads the ring file, listens, and serves until ctx is canceled.
func Run(ctx context.Context, d *daemon.Daemon, cfg *Config) error {
	rg, err := ring.Load(cfg.RingFile)
	if err != nil {
		return daemon.ConfigError(err)
	}
	s, err := New(*cfg, rg, d)
	if err != nil {
		return err
	}
	lis, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return daemon.ConfigError(fmt.Errorf("TOPICSERVER_ADDR: %w", err))
	}
	return s.Serve(ctx, lis)
}

// Serve accepts links on lis until ctx is canceled, then ends them and returns when all have ended. It closes lis.
func (s *Server) Serve(ctx context.Context, lis net.Listener) error {
	s.log.Info("serving topics", zap.Stringer("addr", lis.Addr()),
		zap.Uint64("ring_version", s.ring.Version()), zap.Int("servers", len(s.ring.Servers())))
	var sweeper sync.WaitGroup
	defer sweeper.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sweeper.Go(func() { s.sweep(ctx) })

	s.serving.Store(true)
	defer s.serving.Store(false)
	err := link.Serve(ctx, lis, link.ServeConfig{MaxLanes: s.cfg.MaxLanes, Handle: s.serveLane, Log: s.log})
	if err != nil {
		return fmt.Errorf("topicserver: %w", err)
	}
	s.log.Info("stopped serving topics")
	return nil
}

// sweep forgets unused topics until ctx is canceled.
func (s *Server) sweep(ctx context.Context) {
	idle := s.cfg.TopicIdle
	if idle <= 0 {
		idle = time.Minute
	}
	tick := time.NewTicker(idle / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if n := s.topics.Sweep(idle); n > 0 {
				s.log.Debug("forgot unused topics", zap.Int("topics", n))
			}
		}
	}
}

// Ready returns nil while the server accepts links.
func (s *Server) Ready() error {
	if !s.serving.Load() {
		return errors.New("not accepting links from gateways")
	}
	return nil
}

// Subscribers lists the subscribers of a topic, sorted by gateway and id.
func (s *Server) Subscribers(name string) []topic.Subscriber { return s.topics.Subscribers(name) }

// Stats returns the server's counts.
func (s *Server) Stats() topic.Stats { return s.topics.Stats() }

// Lanes returns the number of greeted lanes.
func (s *Server) Lanes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.lanes)
}

var (
	errSuperseded = errors.New("superseded by a newer connection of the same gateway")
	errPanicked   = errors.New("the handler panicked")
)
