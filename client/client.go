// Package client is the Go client of ringcast: it speaks the Phoenix Channels protocol (version 2.0.0) over a WebSocket,
// and keeps its channels joined across lost connections. A whole program, which prints what is said in a room and says
// something itself:
//
//	package main
//
//	import (
//		"context"
//		"fmt"
//		"log"
//		"os"
//		"os/signal"
//
//		"github.com/ringcast/ringcast/client"
//	)
//
//	func main() {
//		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
//		defer stop()
//		c, err := client.Dial(ctx, "ws://localhost:4000/socket", client.Config{})
//		if err != nil {
//			log.Fatal(err)
//		}
//		defer c.Close()
//		room := c.Channel("room:1", nil)
//		room.On("say", func(m client.Message) { fmt.Println(string(m.Payload)) })
//		if err := room.Join(ctx); err != nil {
//			log.Fatal(err)
//		}
//		if err := room.Publish(ctx, "say", map[string]string{"text": "hello"}); err != nil {
//			log.Print(err)
//		}
//		<-ctx.Done()
//	}
//
// There is more: [NewPresence] for who is on a topic, [Client.Names] for messages and requests from one client to another,
// [Channel.PublishBinary], and [Channel.PublishOnce] for what must not be published twice.
//
// # Connections
//
// A lost connection is made again after a wait that is random and grows (Config.ReconnectMin, ReconnectMax), and every
// channel is joined again on it. Calls under way end with ErrUnknownOutcome; nothing is sent again by itself. Every call
// that waits takes a context.
//
// # Callbacks
//
// Every callback of a client (On, OnAny, OnSkipped, OnChange, Config.OnState, and a params function when a channel is joined
// again) runs on one goroutine, the callback goroutine, one at a time, in the order in which things came from the
// server. While one runs, what follows waits in a bounded queue; a client whose callbacks cannot keep up loses its
// connection with ErrSlowCallbacks and starts again.
//
// A callback may call Publish, Push, Join and Leave: what they wait for is done by other goroutines, and none of them
// waits for a rejoin. It must not call Close or WaitJoined, which wait for the callback goroutine: use
// go c.Close() there.
//
// # Resuming
//
// A channel joined with a "since" parameter gets the position of each message in Message.Ref. Params given as a function
// are evaluated again for each rejoin, after every message that came before has been through the callbacks, so no lock
// is needed around the position:
//
//	var since any // nil: from now on
//	ch := c.Channel("topics:matrix", func() any { return map[string]any{"since": since} })
//	ch.On("event", func(m client.Message) { since = m.Ref })
//
// Whether messages were missed nevertheless is in the reply to the join: see OnChange.
//
// # Slow clients
//
// The server closes a connection on which it cannot send as fast as messages come. A channel for which the newest messages
// count more than all of them joins with the parameter "slow": "drop_oldest" has the oldest of many skipped, "latest" all but
// the newest. [Channel.OnSkipped] is told which, in their place.
package client

// Lock order: Client.mu, then eventQueue.mu or outbox.mu. No lock is held across a network wait or a callback.
//
// Goroutines: the manager (run) connects and reads; a writer per connection, which the manager joins; the callback
// goroutine. Close joins them all.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// Client is one connection to a server, made again whenever it is lost, and the channels on it. All methods may be
// called from any goroutine.
type Client struct {
	// Static.
	address string // to dial
	shown   string // address for error texts
	cfg     Config
	own     *http.Transport // of the client made when Config.HTTPClient is nil
	ctx     context.Context // ends at Close
	stop    context.CancelFunc
	running sync.WaitGroup
	events  *eventQueue

	mu       sync.Mutex
	conn     *conn               // nil while there is none
	up       chan struct{}       // closed while there is a conn
	channels map[string]*Channel // by topic: those that are not ChannelClosed
	lastRef  uint64              // references are unique over the client's life
}

// Dial connects to a server and returns when the connection is up, or with an error when this first attempt fails, the
// ctx ends or the configuration is bad. A refusal by the server is a *HandshakeError. ctx matters only for Dial itself:
// the client lives until Close.
//
// The address is that of the socket, such as ws://localhost:4000/socket or wss://host/socket?token=…; http and https
// mean the same as ws and wss. "/websocket" is appended unless it is there, and the vsn parameter is set.
func Dial(ctx context.Context, address string, cfg Config) (*Client, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, up: make(chan struct{}), channels: make(map[string]*Channel)}
	if c.address, c.shown, err = endpoint(address); err != nil {
		return nil, err
	}
	if c.cfg.HTTPClient == nil {
		// A transport of its own, so that a refused handshake leaves no idle connection behind.
		c.own = &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
		c.cfg.HTTPClient = &http.Client{Transport: c.own}
	}
	if c.cfg.HTTPClient.CheckRedirect == nil {
		own := *c.cfg.HTTPClient
		own.CheckRedirect = checkRedirect
		c.cfg.HTTPClient = &own
	}
	c.events = newEventQueue(cfg.QueueMessages, cfg.QueueBytes)
	ws, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.running.Go(func() { c.run(ws) })
	c.running.Go(c.runCallbacks)
	return c, nil
}

// checkRedirect is http.Client's own rule, which the WebSocket library takes away: it would follow redirects without an end.
func checkRedirect(_ *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	return nil
}

// Close closes the connection with status 1000 and returns once every goroutine of the client has ended: it waits for the
// callback that is running, for a last one (OnState with StateClosed), and two seconds for a server that does not answer, five for
// one that sends on.
// Calls in progress fail with ErrClosed; messages that wait for callbacks are dropped. Close may be called several times
// and always returns nil. It must not be called from a callback, for which it would wait: there, use go c.Close().
func (c *Client) Close() error {
	c.stop()
	c.running.Wait()
	if c.own != nil {
		c.own.CloseIdleConnections()
	}
	return nil
}

// Channel makes a channel for a topic, not yet joined, so that callbacks can be set before the first message comes.
// Params go to the server with each join: nil, anything encoding/json takes, or a func() any that returns it and is
// evaluated for each join: on the goroutine that calls Join, and on the callback goroutine for later rejoins.
func (c *Client) Channel(topic string, params any) *Channel {
	return &Channel{client: c, topic: topic, params: params, changed: make(chan struct{}), state: ChannelClosed}
}

// Join makes a channel and joins it: see Channel and Channel.Join. Messages that come before On is called on the
// returned channel pass unseen; a channel that must see all of them is made with Channel, given callbacks, then joined.
// Its errors are Channel.Join's, and there is no channel then.
func (c *Client) Join(ctx context.Context, topic string, params any) (*Channel, error) {
	ch := c.Channel(topic, params)
	if err := ch.Join(ctx); err != nil {
		return nil, err
	}
	return ch, nil
}

// run is the manager goroutine: one connection after the other.
func (c *Client) run(ws *websocket.Conn) {
	attempt := 0
	for ws != nil {
		began := time.Now()
		why := c.serve(ws)
		if c.ctx.Err() != nil {
			return
		}
		c.events.add(event{kind: evState, state: StateDisconnected, err: why})
		if time.Since(began) >= c.cfg.ReconnectMax {
			attempt = 0
		}
		ws, attempt = c.reconnect(attempt)
	}
}

// reconnect tries until there is a connection, nil once the client is closed.
func (c *Client) reconnect(attempt int) (*websocket.Conn, int) {
	var retryAfter time.Duration
	for {
		delay := time.NewTimer(retryAfter + backoff(c.cfg.ReconnectMin, c.cfg.ReconnectMax, attempt, rand.Float64()))
		select {
		case <-delay.C:
		case <-c.ctx.Done():
			delay.Stop()
			return nil, attempt
		}
		attempt++
		ws, err := c.connect(c.ctx)
		if err == nil {
			return ws, attempt
		}
		retryAfter = 0
		if refused, ok := errors.AsType[*HandshakeError](err); ok {
			retryAfter = refused.RetryAfter
		}
		if c.ctx.Err() == nil {
			c.events.add(event{kind: evState, state: StateDisconnected, err: err})
		}
	}
}

// backoff is the wait before attempt n (from 0): a random part, in [0, 1), of low·2ⁿ, which stops growing at high.
func backoff(low, high time.Duration, n int, random float64) time.Duration {
	ceiling := low
	for ; n > 0 && ceiling < high; n-- {
		ceiling = min(2*ceiling, high)
	}
	return time.Duration(random * float64(ceiling))
}

// connect does one handshake.
func (c *Client) connect(ctx context.Context) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.ConnectTimeout)
	defer cancel()
	//nolint:bodyclose // Dial closes the body, or has put what it read of it into memory
	ws, resp, err := websocket.Dial(ctx, c.address, &websocket.DialOptions{
		HTTPClient: c.cfg.HTTPClient,
		HTTPHeader: c.cfg.Header.Clone(),
	})
	if err == nil {
		return ws, nil
	}
	if resp != nil && resp.StatusCode != http.StatusSwitchingProtocols {
		err = handshakeError(resp)
	} else if inner, ok := errors.AsType[*url.Error](err); ok {
		err = inner.Err // without the address, which may carry a token
	}
	return nil, fmt.Errorf("client: connect %s: %w", c.shown, err)
}

// maxRetryAfter is the longest wait that a server can ask for.
const maxRetryAfter = 2 * time.Minute

func handshakeError(resp *http.Response) *HandshakeError {
	e := &HandshakeError{Status: resp.StatusCode}
	if n, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 16); err == nil {
		e.RetryAfter = min(time.Duration(n)*time.Second, maxRetryAfter)
	}
	if resp.Body != nil {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 256)) // a part will do, as it is for people
		e.Body = strings.TrimSpace(string(body))
	}
	return e
}

// waitUp waits for a connection.
func (c *Client) waitUp(ctx context.Context) error {
	c.mu.Lock()
	up := c.up
	c.mu.Unlock()
	if c.ctx.Err() != nil {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-up:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.ctx.Done():
		return ErrClosed
	}
}

// drop ends the connection, if there is one, for a reason. It is made again.
func (c *Client) drop(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.end(why)
	}
}

func (c *Client) nextRefLocked() string {
	c.lastRef++
	return strconv.FormatUint(c.lastRef, 10)
}
