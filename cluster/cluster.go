// Package cluster runs a whole ringcast cluster in one process: topic servers, gateways, and the links between them
// over real sockets. `ringcast dev` is one; end-to-end tests start theirs.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ringcast/ringcast/gateway"
	"github.com/ringcast/ringcast/shared/daemon"
	"github.com/ringcast/ringcast/shared/ring"
	"github.com/ringcast/ringcast/topicserver"
)

// Config says what to start. The zero value is one topic server and one gateway on free ports of 127.0.0.1.
type Config struct {
	TopicServers int // default 1; named ts-a, ts-b, …
	Gateways     int // default 1; named gw-a, gw-b, …
	// TopicServerAddrs and GatewayAddrs give addresses to listen on; nodes without one get a free port.
	TopicServerAddrs, GatewayAddrs []string
	// Gateway and TopicServer, if set, adjust the configuration of every node, which has its defaults, its id and its
	// address by then.
	Gateway     func(*gateway.Config)
	TopicServer func(*topicserver.Config)
	Log         *zap.Logger // default none
}

// Cluster is a running cluster. Any goroutine may call its methods.
type Cluster struct {
	Ring         *ring.Ring // that it was started with
	TopicServers []*TopicServer
	Gateways     []*Gateway

	failed chan error // the first node that ended by itself
}

// node is what topic servers and gateways have in common here: they run until stopped.
type node struct {
	ID, Addr string
	Metrics  *prometheus.Registry // what the node's /metrics would show of it

	cancel context.CancelFunc
	done   chan struct{}
	err    error // of Serve; set before done is closed
}

// TopicServer is one running topic server.
type TopicServer struct {
	node
	*topicserver.Server
}

// Gateway is one running gateway.
type Gateway struct {
	node
	*gateway.Gateway
}

// URL is where clients of a Phoenix library connect; such libraries append /websocket themselves.
func (g *Gateway) URL() string { return "ws://" + g.Addr + "/socket" }

// WebSocketURL is where everybody else connects.
func (g *Gateway) WebSocketURL() string { return g.URL() + "/websocket?vsn=2.0.0" }

// Start starts a cluster and returns when every gateway has its links. The caller must Stop it. If a node does not start, or
// ctx is canceled before, it returns the error and nothing runs.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	topicListeners, err := listen(max(cfg.TopicServers, 1), cfg.TopicServerAddrs)
	if err != nil {
		return nil, err
	}
	gatewayListeners, err := listen(max(cfg.Gateways, 1), cfg.GatewayAddrs)
	if err != nil {
		closeAll(topicListeners)
		return nil, err
	}
	c := &Cluster{failed: make(chan error, len(topicListeners)+len(gatewayListeners))}
	if err := c.start(cfg, topicListeners, gatewayListeners); err != nil {
		closeAll(topicListeners)
		closeAll(gatewayListeners)
		return nil, errors.Join(err, c.Stop())
	}
	if err := c.waitReady(ctx); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

func (c *Cluster) start(cfg Config, topicListeners, gatewayListeners []net.Listener) error {
	var servers []ring.Server
	for i, lis := range topicListeners {
		servers = append(servers, ring.Server{ID: name("ts", i), Addr: lis.Addr().String(), Weight: 1})
	}
	rg, err := ring.New(1, servers)
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	c.Ring = rg
	for i, lis := range topicListeners {
		nodeCfg := daemon.Defaults[topicserver.Config]()
		nodeCfg.ID, nodeCfg.Addr = servers[i].ID, servers[i].Addr
		if cfg.TopicServer != nil {
			cfg.TopicServer(&nodeCfg)
		}
		d := daemon.New(cfg.Log)
		s, err := topicserver.New(nodeCfg, rg, d)
		if err != nil {
			return fmt.Errorf("cluster: %w", err)
		}
		ts := &TopicServer{node: node{ID: nodeCfg.ID, Addr: nodeCfg.Addr, Metrics: d.Metrics}, Server: s}
		c.TopicServers = append(c.TopicServers, ts)
		c.run(&ts.node, lis, s.Serve)
	}
	for i, lis := range gatewayListeners {
		nodeCfg := daemon.Defaults[gateway.Config]()
		nodeCfg.ID, nodeCfg.Addr = name("gw", i), lis.Addr().String()
		nodeCfg.APIOpen = true // it is there to try things out
		if cfg.Gateway != nil {
			cfg.Gateway(&nodeCfg)
		}
		nodeCfg.APIOpen = nodeCfg.APIOpen && !nodeCfg.Auth.AuthRequired
		d := daemon.New(cfg.Log)
		s, err := gateway.New(nodeCfg, rg, d)
		if err != nil {
			return fmt.Errorf("cluster: %w", err)
		}
		gw := &Gateway{node: node{ID: nodeCfg.ID, Addr: nodeCfg.Addr, Metrics: d.Metrics}, Gateway: s}
		c.Gateways = append(c.Gateways, gw)
		c.run(&gw.node, lis, s.Serve)
	}
	return nil
}

// run serves a node on a goroutine of its own until the node is stopped.
func (c *Cluster) run(n *node, lis net.Listener, serve func(context.Context, net.Listener) error) {
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel, n.done = cancel, make(chan struct{})
	go func() {
		defer close(n.done)
		if n.err = serve(ctx, lis); n.err != nil {
			c.failed <- fmt.Errorf("%s: %w", n.ID, n.err)
		}
	}()
}

// waitReady returns when every gateway is ready.
func (c *Cluster) waitReady(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var missing error
		for _, g := range c.Gateways {
			if err := g.Ready(); err != nil {
				missing = fmt.Errorf("cluster: gateway %s: %w", g.ID, err)
			}
		}
		if missing == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(missing, ctx.Err())
		case err := <-c.failed:
			return err
		case <-tick.C:
		}
	}
}

// Failed delivers the error of a node that ended without being stopped.
func (c *Cluster) Failed() <-chan error { return c.failed }

// Stop stops the gateways, then the topic servers, and returns when all have ended, with the errors that they ended with.
func (c *Cluster) Stop() error {
	var errs []error
	var wg sync.WaitGroup
	for _, g := range c.Gateways {
		wg.Go(func() { _ = g.Stop() })
	}
	wg.Wait()
	for _, g := range c.Gateways {
		errs = append(errs, g.err)
	}
	for _, t := range c.TopicServers {
		errs = append(errs, t.Stop())
	}
	return errors.Join(errs...)
}

// Stop stops the node and returns when it has ended, with the error it ended with.
func (n *node) Stop() error {
	n.cancel()
	<-n.done
	return n.err
}

// Owner returns the topic server that owns the topic.
func (c *Cluster) Owner(topic string) *TopicServer {
	id := c.Ring.Owner(topic).ID
	for _, t := range c.TopicServers {
		if t.ID == id {
			return t
		}
	}
	panic("cluster: the ring names a server that was not started: " + id)
}

// name gives the i-th node of a kind its id: ts-a, ts-b, … ts-z, ts-27, …
func name(kind string, i int) string {
	if i < 26 {
		return kind + "-" + string(rune('a'+i))
	}
	return fmt.Sprintf("%s-%d", kind, i+1)
}

// listen opens n listeners, on addrs as far as they go and on free ports of 127.0.0.1 after that.
func listen(n int, addrs []string) ([]net.Listener, error) {
	var listeners []net.Listener
	for i := range n {
		addr := "127.0.0.1:0"
		if i < len(addrs) {
			addr = addrs[i]
		}
		lis, err := net.Listen("tcp", addr)
		if err != nil {
			closeAll(listeners)
			return nil, fmt.Errorf("cluster: %w", err)
		}
		listeners = append(listeners, lis)
	}
	return listeners, nil
}

func closeAll(listeners []net.Listener) {
	for _, lis := range listeners {
		_ = lis.Close()
	}
}
