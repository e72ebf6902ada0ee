package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"storj.io/drpc/drpcctx"
	"storj.io/drpc/drpcmux"
	"storj.io/drpc/drpcserver"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// ServeConfig configures Serve. The zero value of a field means its default.
type ServeConfig struct {
	Config
	// MaxLanes is how many connections may be open; more are closed as they come. Default 4096.
	MaxLanes int
	// Handle serves one lane: it calls lane.Receive and returns when that does. The first item must be a Hello, upon
	// which it calls lane.Greeted or lane.Refuse. A panic in it is logged and ends the lane only. Required.
	Handle func(lane *Lane)
	// Handover serves one handover to another topic server. Nil refuses them.
	Handover func(*Handover) error
	Log      *zap.Logger // default none
	Closed   *Closed     // counts what Serve closes; default nobody looks
}

// Closed counts the connections that Serve has closed of its own accord, by why. Any goroutine may read it.
type Closed struct {
	TooMany atomic.Uint64 // over MaxLanes
	NoHello atomic.Uint64 // the peer did not introduce itself, in time and as it has to
	Panics  atomic.Uint64 // Handle or Handover panicked
}

// Serve accepts lanes on lis until ctx is canceled, then closes them and returns when every Handle has returned. It
// closes lis. It returns an error only when lis fails.
func Serve(ctx context.Context, lis net.Listener, cfg ServeConfig) error {
	s, err := newServer(cfg)
	if err != nil {
		return err
	}
	return s.accept(ctx, lis)
}

type server struct {
	linkpb.DRPCLinksUnimplementedServer // for what is no lane

	cfg     ServeConfig
	rpc     *drpcserver.Server
	lanes   atomic.Int64
	refused LogLimit
	ended   LogLimit // handovers
}

func newServer(cfg ServeConfig) (*server, error) {
	cfg.Config = cfg.Config.withDefaults()
	if cfg.MaxLanes <= 0 {
		cfg.MaxLanes = 4096
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.Closed == nil {
		cfg.Closed = new(Closed)
	}
	s := &server{cfg: cfg, ended: LogLimit{PerSecond: 20}} // each server of a ring
	mux := drpcmux.New()
	if err := linkpb.DRPCRegisterLinks(mux, s); err != nil {
		return nil, fmt.Errorf("link: register: %w", err)
	}
	s.rpc = drpcserver.NewWithOptions(mux, drpcserver.Options{Manager: managerOptions()})
	return s, nil
}

func (s *server) accept(ctx context.Context, lis net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var open sync.WaitGroup
	defer open.Wait()
	defer cancel()
	defer func() { _ = lis.Close() }()
	defer context.AfterFunc(ctx, func() { _ = lis.Close() })()

	for {
		nc, err := lis.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = nc.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("link: accept: %w", err)
		case err != nil:
			// Out of file descriptors, most likely: wait for lanes to end rather than spin.
			s.refused.Log(s.cfg.Log, zap.WarnLevel, "accept failed", zap.Error(err))
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		case s.lanes.Load() >= int64(s.cfg.MaxLanes):
			s.refused.Log(s.cfg.Log, zap.WarnLevel, "too many lanes", zap.Int("max", s.cfg.MaxLanes), zap.Stringer("peer", nc.RemoteAddr()))
			s.cfg.Closed.TooMany.Add(1)
			_ = nc.Close()
			continue
		}
		s.lanes.Add(1)
		open.Go(func() {
			defer s.lanes.Add(-1)
			s.serveConn(ctx, nc)
		})
	}
}

// serveConn serves the one stream of a connection.
func (s *server) serveConn(ctx context.Context, nc net.Conn) {
	// Closing the connection cancels ctx, since dRPC may be waiting for something else than the connection.
	serving, cancel := context.WithCancel(ctx)
	c := newConn(nc, s.cfg.Config, cancel)
	defer c.drains.Wait()
	defer func() { _ = c.Close() }()
	defer func() {
		// dRPC has no recover of its own: a bug met on one lane must not end the others.
		if p := recover(); p != nil {
			s.cfg.Closed.Panics.Add(1)
			LogPanic(s.cfg.Log, p)
		}
	}()
	err := c.secureAccepted(serving, s.cfg.Config)
	if err == nil {
		err = s.rpc.ServeOne(serving, c)
	}
	if c.unproven.Load() < 0 || c.refused || ctx.Err() != nil {
		return
	}
	if why := c.reason(); why != nil && !errors.Is(err, errHandshake) {
		err = why
	}
	s.cfg.Closed.NoHello.Add(1)
	s.refused.Log(s.cfg.Log, zap.WarnLevel, "closed a connection that sent no hello",
		zap.Stringer("peer", nc.RemoteAddr()), zap.String("error", err.Error()))
}

// Guard calls f, in which something is done about what peers have sent, and reports whether it returned. A panic is counted
// and logged, and ends nothing but f: f gives back its locks by defer.
func Guard(log *zap.Logger, panics *atomic.Uint64, f func()) (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			panics.Add(1)
			LogPanic(log, p)
		}
	}()
	f()
	return true
}

// LogPanic logs what recover has returned of a panic that went through Receive, with the stack of where it began.
func LogPanic(log *zap.Logger, p any) {
	stack := debug.Stack()
	if hp, ok := p.(*handlerPanic); ok {
		p, stack = hp.value, hp.stack
	}
	log.Error("lane handler panicked", zap.Any("panic", p), zap.ByteString("stack", stack))
}

// Link implements linkpb.DRPCLinksServer.
func (s *server) Link(stream linkpb.DRPCLinks_LinkStream) error {
	tr, _ := drpcctx.Transport(stream.Context())
	c, ok := tr.(*conn)
	if !ok {
		return errors.New("link: stream has no connection of ours")
	}
	if c.served {
		// A peer that begins another stream ends the first. dRPC may offer the second before it sees the connection
		// closed.
		return errors.New("link: second stream on one connection")
	}
	c.served = true
	lane := &Lane{stream: stream, conn: c}
	lane.init(stream, c)
	s.cfg.Handle(lane)
	// One stream is the whole life of a connection, and what a handler returns would go to the peer as text.
	lane.Close()
	return nil
}

// Handover implements linkpb.DRPCLinksServer.
func (s *server) Handover(stream linkpb.DRPCLinks_HandoverStream) error {
	tr, _ := drpcctx.Transport(stream.Context())
	c, ok := tr.(*conn)
	if !ok || c.served || s.cfg.Handover == nil {
		return errors.New("link: no handovers here")
	}
	c.served = true
	err := s.cfg.Handover(&Handover{stream: stream, conn: c})
	if err != nil && stream.Context().Err() == nil {
		s.ended.Log(s.cfg.Log, zap.WarnLevel, "handover ended", zap.Stringer("peer", c.RemoteAddr()), zap.Error(err))
	}
	_ = c.Close()
	return nil
}
