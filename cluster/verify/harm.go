package verify

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/ringcast/ringcast/cluster/verify/chaos"
)

// recoverTime is how soon a node that has file descriptors again must take clients.
const recoverTime = 2 * time.Second

// starve leaves a node without a file descriptor for anything new. A gateway must take nobody then, lose nobody that it has, and
// take clients again soon after. A topic server loses a link meanwhile, and must take that back.
func (n *nemesis) starve(ctx context.Context, s step, node *node) error {
	restore, err := starve(node.pid())
	if err != nil {
		return err
	}
	url := "ws://" + node.addr + "/socket/websocket?vsn=2.0.0"
	gateway := n.r.cluster.isGateway(node)
	if gateway {
		bounded, cancel := context.WithTimeout(ctx, s.lasts)
		err = handshake(bounded, url)
		if err == nil {
			err = fmt.Errorf("%s took a client without a file descriptor", node.id)
		} else {
			err = nil
		}
		<-bounded.Done()
		cancel()
	} else {
		peer := n.r.cluster.gateways[s.peer%len(n.r.cluster.gateways)].id
		n.r.cluster.proxies[node.id].Set(peer, chaos.Fault{Mode: chaos.Cut})
		sleep(ctx, 100*time.Millisecond)
		n.r.cluster.proxies[node.id].Set(peer, chaos.Fault{})
		sleep(ctx, s.lasts)
	}
	if err := errors.Join(err, restore()); err != nil || !gateway {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, recoverTime)
	defer cancel()
	if err := handshake(bounded, url); err != nil {
		return fmt.Errorf("%s takes no client %v after it has file descriptors again: %w", node.id, recoverTime, err)
	}
	return nil
}

// handshake connects a client, and has it go at once.
func handshake(ctx context.Context, url string) error {
	ws, err := dial(ctx, url)
	if err == nil {
		_ = ws.CloseNow()
	}
	return err
}

// dial connects a client whose receive buffer is small.
func dial(ctx context.Context, url string) (*websocket.Conn, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetReadBuffer(4 << 10) // a wish
		}
		return conn, err
	}}
	ws, resp, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
	if err != nil && resp != nil && resp.Body != nil {
		_ = resp.Body.Close()
	}
	return ws, err
}

// jumpClock has the wall clock of a node jump, and jump back.
func jumpClock(ctx context.Context, s step, node *node) error {
	if err := shiftClock(node.pid(), s.jump); err != nil {
		return err
	}
	sleep(ctx, s.lasts)
	return shiftClock(node.pid(), 0)
}

// crowd has many clients of each gateway join all topics and never read, so that all that may be queued for clients is.
// Who is sent away comes back.
func (n *nemesis) crowd(ctx context.Context, s step) {
	n.begin(s, "")
	defer n.over(s)
	bounded, cancel := context.WithTimeout(ctx, s.lasts)
	defer cancel()
	var all sync.WaitGroup
	defer all.Wait()
	for i := range s.count {
		url := n.r.cluster.urls[i%len(n.r.cluster.urls)] + "/websocket?vsn=2.0.0"
		all.Go(func() {
			for bounded.Err() == nil {
				n.sloth(bounded, url)
				sleep(bounded, 100*time.Millisecond)
			}
		})
	}
}

// sloth is one client that joins and does not read, for a while.
func (n *nemesis) sloth(ctx context.Context, url string) {
	ws, err := dial(ctx, url)
	if err != nil {
		return
	}
	defer func() { _ = ws.CloseNow() }()
	for i, topic := range n.r.topics {
		if ws.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `["%d","%d",%q,"phx_join",{}]`, i+1, i+1, topic)) != nil {
			return
		}
	}
	sleep(ctx, 2*time.Second)
}
