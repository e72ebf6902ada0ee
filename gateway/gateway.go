// Package gateway is the service that owns client sockets: it takes their handshakes, speaks their protocols, and
// keeps links to the topic servers. It holds no state that another gateway needs.
package gateway

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gofiber/fiber/v2"
	"go.uber.org/zap"

	"github.com/ringcast/ringcast/gateway/admission"
	"github.com/ringcast/ringcast/gateway/api"
	"github.com/ringcast/ringcast/gateway/auth"
	"github.com/ringcast/ringcast/gateway/ingest"
	"github.com/ringcast/ringcast/gateway/longpoll"
	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/gateway/session"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/shared/certs"
	"github.com/ringcast/ringcast/shared/daemon"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/revoke"
	"github.com/ringcast/ringcast/shared/ring"
	"github.com/ringcast/ringcast/shared/trace"
)

const (
	handshakeTimeout = 5 * time.Second
	maxHeaderBytes   = 4096
	restartReason    = "gateway restarts" // with code 1012: clients come back from it, not from 1000
)

// Gateway is one gateway. Any goroutine may call its methods.
type Gateway struct {
	// Static.
	cfg      Config
	origins  origins
	topics   session.Topics
	loops    *socket.Loops
	router   *router.Router
	sessions []*session.Sessions // by loop
	api      *api.API
	gate     *admission.Gate
	ingest   *ingest.Consumer // nil without AMQP_URL
	polls    *longpoll.Server
	app      *fiber.App
	identity *certs.Identity // on links; nil if they are in plain text
	tls      *certs.Pair     // for clients; nil if they come in plain text
	secret   string          // of long polls; "" for one that is made up
	keys     *api.Keys       // of the HTTP API; nil without keys
	auth     *auth.Verifier  // nil if clients need no tokens
	instance uint64          // drawn at start, as part of session ids
	revoked  revocations
	times    times
	answers  answers
	bodies   bodies
	overview overview
	tracer   *trace.Tracer
	log      *zap.Logger

	stopping   atomic.Bool
	turnedAway atomic.Int64 // connections of browsers that were not admitted and are not closed yet
	staleFile  atomic.Bool  // the ring in use came from a topic server and is newer than the file's
	ringFailed atomic.Bool  // the ring file is of no use
	accepts    acceptor     // has a listener once Serve is called
	reload     <-chan os.Signal
	panics     atomic.Uint64 // of HTTP handlers
	httpErrors errorCounts
}

// New returns a gateway that routes by the ring. The configuration is one that Validate accepts, but for the ring file,
// which New does not read: from the environment, or daemon.Defaults. Serve starts its work; it must be called, since it also ends the
// event loops that New starts. A configuration error wraps daemon.ErrConfig.
func New(cfg Config, rg *ring.Ring, d *daemon.Daemon) (*Gateway, error) {
	if cfg.ID == "" {
		host, _ := os.Hostname()
		cfg.ID = host + cfg.Addr
	}
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = connectionsFor(files())
	}
	g := &Gateway{cfg: cfg, log: d.Log.With(zap.String("gateway", cfg.ID)), times: newTimes(), instance: rand.Uint64()}
	g.answers.most = int64(cfg.queueBudget() / 2)
	g.bodies.most = int64(cfg.inputBudget())
	g.accepts.lingers = make(chan struct{}, maxLingers)
	g.revoked.waiting = make(map[revoke.ID]*unconfirmed)
	if err := g.readConfig(); err != nil {
		return nil, err
	}
	if err := g.build(rg); err != nil {
		g.abandon()
		return nil, err
	}
	g.app = g.newApp()
	g.register(d.Metrics)
	d.ReadyWhen("links", g.router.Ready)
	if g.auth != nil {
		d.ReadyWhen("auth", g.auth.Ready)
	}
	d.Admin.HandleFunc("GET /ring", g.serveRing)
	d.ServeStatus(g.status)
	d.Admin.HandleFunc("GET /debug/topic", g.serveTopic)
	return g, nil
}

// readConfig makes what stands in the configuration, and the files that it names, ready for use. It starts nothing.
func (g *Gateway) readConfig() (err error) {
	if g.topics, err = session.ParseTopics(g.cfg.Topics); err != nil {
		return daemon.ConfigError(fmt.Errorf("TOPICS: %w", err))
	}
	if g.origins, err = parseOrigins(g.cfg.AllowedOrigins); err != nil {
		return daemon.ConfigError(fmt.Errorf("ALLOWED_ORIGINS: %w", err))
	}
	if g.secret, err = g.cfg.longpollSecret(); err != nil {
		return daemon.ConfigError(err)
	}
	if g.auth, err = newAuth(&g.cfg, g.log); err != nil {
		return err
	}
	if g.keys, err = g.cfg.apiKeys(g.log); err != nil {
		return daemon.ConfigError(err)
	}
	if g.identity, err = g.cfg.Links.Load(); err != nil {
		return err
	}
	g.tls, err = newPair(&g.cfg)
	return err
}

// build makes the parts from the sockets inward. After an error abandon ends those that there are.
func (g *Gateway) build(rg *ring.Ring) (err error) {
	g.tracer, err = trace.New(trace.Config{
		Endpoint: g.cfg.TraceURL, Service: "ringcast-gateway", Instance: g.cfg.ID, Sample: g.cfg.TraceSample, Log: g.log,
	})
	if err != nil {
		return daemon.ConfigError(fmt.Errorf("OTEL_EXPORTER_OTLP_ENDPOINT: %w", err))
	}
	g.loops, err = socket.New(socket.Config{
		Loops: g.cfg.Loops, MaxMessageBytes: g.cfg.MaxMessage, MaxQueueBytes: g.cfg.MaxQueue, IdleTimeout: g.cfg.IdleTimeout,
		SoftQueueBytes: g.cfg.SoftQueue, SoftQueueTime: g.cfg.SoftQueueTime, QueueBudget: g.cfg.queueBudget(), InputBudget: g.cfg.inputBudget(),
		MessageTimeout: g.cfg.MessageTimeout, Frames: perSession(g.cfg.Limits.Frames), Log: g.log,
	})
	if err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	g.router, err = router.New(router.Config{
		Gateway: g.cfg.ID, Cluster: g.cfg.Cluster, Instance: g.instance, Ring: rg, Loops: g.loops, Lanes: g.cfg.Lanes, Linger: g.cfg.Linger, JoinTimeout: g.cfg.JoinTimeout,
		PublishTimeout: g.cfg.PublishTimeout, Heartbeat: g.cfg.Heartbeat, Adopted: g.adopted,
		Link:    link.Config{Identity: g.identity, Insecure: g.cfg.Links.InsecureLinks},
		Revoked: g.heard, Revocations: g.revoked.table.All, Log: g.log,
		PublishTime: g.times.publish, DeliveryTime: g.times.delivery, Tracer: g.tracer,
	})
	if err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	g.gate = g.newGate()
	g.openSessions()
	g.openAPI()
	g.openPolls()
	g.ingest, err = g.newIngest()
	return err
}

// abandon ends what build has started, for a gateway that is not to be.
func (g *Gateway) abandon() {
	if g.loops != nil {
		g.loops.Close()
	}
	if g.tracer != nil {
		g.tracer.Close()
	}
}

// openSessions makes the sessions of each event loop.
func (g *Gateway) openSessions() {
	for i := range g.loops.Len() {
		g.sessions = append(g.sessions, session.New(session.Config{
			Topics: g.topics, MaxChannels: g.cfg.MaxChannels, Auth: g.auth, Revoked: g.isRevoked,
			Rates: g.cfg.Limits.rates(), MaxInFlight: g.cfg.Limits.InFlight, Gate: g.gate,
		}, g.router.Local(i)))
		g.loops.Loop(i).OnTick(g.sessions[i].Tick)
	}
}

func (g *Gateway) openAPI() {
	g.api = api.New(api.Config{
		Router: g.router, Topics: g.topics, Keys: g.keys, Open: g.cfg.APIOpen, Rate: g.cfg.APIRate, UserRate: g.cfg.Limits.Publishes, MaxBody: g.cfg.APIMaxBody, MaxMessage: g.cfg.MaxMessage,
		Timeout: 2*g.cfg.PublishTimeout + time.Second, Disconnect: g.disconnect, Gate: g.gate, Log: g.log,
	})
}

func (g *Gateway) openPolls() {
	var peers *tls.Config
	if g.tls != nil {
		peers = g.tls.PeerConfig()
	}
	g.polls = longpoll.New(longpoll.Config{
		Loops: g.loops, Allow: g.allowOrigin, Open: g.openPolled, Window: g.cfg.LongpollWindow, MaxMessage: g.cfg.MaxMessage,
		Key: []byte(g.secret), Home: g.cfg.advertised(), Peers: peers, Full: g.answers.full, Log: g.log,
	})
	if g.secret == "" {
		g.log.Info("no LONGPOLL_SECRET: a long poll session works only while its requests come to this gateway")
	}
}

// Run loads the ring file, listens, and serves until ctx is canceled. A ring file, address or certificate that is of no use
// is a daemon.ErrConfig; any other error is Serve's.
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
	lis, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return daemon.ConfigError(fmt.Errorf("GATEWAY_ADDR: %w", err))
	}
	if cfg.Advertise == "" {
		cfg.Advertise = advertise(lis.Addr().String()) // GATEWAY_ADDR may have left the port open
	}
	g, err := New(*cfg, rg, d)
	if err != nil {
		_ = lis.Close()
		return err
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	g.reload = hangup
	return g.Serve(ctx, lis)
}

// Serve serves clients on lis until ctx is canceled; then it closes their sockets with 1012, spread over cfg.Drain, and
// returns nil when they are closed or cfg.StopTimeout is over after that. It closes lis. The error is that it could not begin, or
// that the HTTP server has ended by itself. It is to be called once.
func (g *Gateway) Serve(ctx context.Context, lis net.Listener) error {
	// The links outlive the clients, so that what clients sent before their close still gets its answer.
	links, cutLinks := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { g.router.Run(links) })
	wg.Go(func() { g.gate.Run(links) })
	wg.Go(func() { g.tellLoad(links) })
	if g.cfg.RingFile != "" {
		wg.Go(func() { g.watchRing(links) })
	}
	if g.auth != nil {
		wg.Go(func() { g.auth.Run(links) })
	}
	if g.identity != nil {
		wg.Go(func() { g.identity.Run(links, g.log) })
	}
	if g.tls != nil {
		wg.Go(func() { g.tls.Run(links, g.log) })
	}
	wg.Go(func() { g.sweepRevocations(links) })
	defer g.tracer.Close()
	defer wg.Wait()
	defer cutLinks()
	defer g.loops.Close()

	stopIngest := g.startIngest(ctx)
	defer stopIngest()
	g.accepts.log, g.accepts.slots = g.log, make(chan struct{}, g.handshakes())
	g.accepts.ctx = links
	clients, err := g.listener(lis)
	if err != nil {
		_ = lis.Close()
		return fmt.Errorf("gateway: %w", err)
	}
	failed := make(chan error, 1)
	wg.Go(func() { failed <- g.app.Listener(clients) })
	g.log.Info("serving clients", zap.Stringer("addr", lis.Addr()))

	select {
	case err := <-failed:
		return fmt.Errorf("gateway: serve: %w", err)
	case <-ctx.Done():
	}
	stopIngest()
	g.stop()
	_ = clients.Close() // a stop that comes before the HTTP server has the listener does not close it
	g.log.Info("stopped serving clients")
	return nil
}

// listener returns what the HTTP server is to listen on. The event loops take handshakes before it; those of TLS, it makes.
func (g *Gateway) listener(lis net.Listener) (net.Listener, error) {
	if g.tls != nil {
		g.accepts.Listener = lis
		return tls.NewListener(&g.accepts, g.tls.ServerConfig()), nil
	}
	g.app.Handler() // else the routes are made ready by app.Listener, when the first handshakes may be here
	rest, err := g.loops.Listen(lis, socket.Door{
		Quick: quick, Serve: g.app.Server().ServeConn, Timeout: g.app.Server().ReadTimeout,
		Most: g.handshakes(), Pause: handshakePause, Conns: g.cfg.MaxConnections,
		Late: func() bool { return g.gate.Level() > admission.Open },
	})
	g.accepts.Listener = rest
	return &g.accepts, err
}

// stop turns new clients away and the present ones out, a few at a time: clients that all come back at once would be a storm
// for the other gateways.
func (g *Gateway) stop() {
	g.stopping.Store(true)
	total := g.loops.Conns()
	held := g.newDrain().run()
	g.polls.Close()
	// Not sooner: clients by long polls are told their end in the answer to a request.
	if err := g.app.ShutdownWithTimeout(g.cfg.StopTimeout); err != nil {
		g.log.Warn("HTTP server did not stop in time", zap.Error(err))
	}
	deadline := time.Now().Add(g.cfg.StopTimeout)
	for g.loops.Conns() > 0 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if n := g.loops.Conns(); n > 0 {
		g.log.Warn("cut client sockets that did not close in time", zap.Int("sockets", n))
	}
	g.log.Info("sent clients away", zap.Int("sockets", total), zap.Duration("held", held))
}

// Ready returns nil when the gateway has links to its topic servers, else an error that names one it has none to; see
// router.Router.Ready. Any goroutine may call it.
func (g *Gateway) Ready() error { return g.router.Ready() }

// Stats returns the counts of the sockets and of the router.
func (g *Gateway) Stats() (socket.Stats, router.Stats) { return g.loops.Stats(), g.router.Stats() }
