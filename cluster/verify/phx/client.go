// Package phx is a small client of Phoenix Channels V2 that behaves like an unmodified phoenix.js: it evaluates the
// join parameters anew at each join, connects again after any close but 1000, joins again after phx_error, drops frames of
// an older join, and breaks the connection when a heartbeat stays unanswered, with phoenix.js's waits. It keeps nothing
// and retries nothing else: what it tells its caller is what came over the wire.
package phx

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// The waits of phoenix.js, before Config.Scale.
var (
	reconnectAfter = []time.Duration{10, 50, 100, 150, 200, 250, 500, 1000, 2000, 5000} // ms
	rejoinAfter    = []time.Duration{1000, 2000, 5000, 10000}                           // ms
)

const (
	pushTimeout       = 10 * time.Second
	heartbeatInterval = 30 * time.Second
	connectTimeout    = 10 * time.Second
	// maxFrame bounds one frame of the server, in bytes.
	maxFrame = 4 << 20
	// abnormal is the close code of a socket that ended without a close frame.
	abnormal = 1006
)

// Config says where a client connects and whom it tells. Callbacks run on the client's loop.
type Config struct {
	URLs  []string   // sockets such as ws://127.0.0.1:4000/socket; each connection goes to one at random. Required
	Rand  *rand.Rand // the client's own. Required
	Scale float64    // multiplies all of phoenix.js's waits; default 1
	// ReadBuffer is the size of the receive buffer, in bytes, that the system is asked for. Default 16 KiB: little, so that the
	// server feels a reader that stalls. With frames that are larger TCP would creep.
	ReadBuffer int

	OnClose func(code int, reason string) // a connection has ended
	OnBad   func(err error)               // the server sent what is no frame
	// Tamper, if set, sees every frame of the server that is no reply and says which ones arrive in its place.
	Tamper func(Frame) []Frame
}

// Client is one socket, connected again and again, and its channels. Run is its loop; all methods but Do and Stall are
// for the loop only, that is for callbacks and for functions given to Do.
type Client struct {
	// Static.
	cfg Config

	mu    sync.Mutex
	tasks []func()
	wake  chan struct{} // has a token when tasks may be there

	// Owned by the loop.
	ctx       context.Context
	ws        *websocket.Conn // nil while not connected
	end       func(error)     // ends the connection
	byUs      bool            // Disconnect has begun a close handshake
	closing   sync.WaitGroup
	closeCode int // of a close handshake of ours that the server answered; owned by closing, then by the loop
	lastRef   int
	attempt   int // to connect, without success
	heartbeat string
	channels  map[string]*Channel
	pushes    map[string]*push // by ref
}

// New returns a client. It does nothing before Run.
func New(cfg Config) *Client {
	if cfg.Scale <= 0 {
		cfg.Scale = 1
	}
	if cfg.ReadBuffer <= 0 {
		cfg.ReadBuffer = 16 << 10
	}
	return &Client{cfg: cfg, wake: make(chan struct{}, 1), channels: make(map[string]*Channel), pushes: make(map[string]*push)}
}

// Do has the loop call f. Any goroutine may call it; it does not wait.
func (c *Client) Do(f func()) {
	c.mu.Lock()
	c.tasks = append(c.tasks, f)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Stall stops the loop for a while, like a browser tab that hangs: nothing is read. Any goroutine may call it; it does
// not wait.
func (c *Client) Stall(d time.Duration) { c.Do(func() { sleep(c.ctx, d) }) }

// Connected reports whether there is a connection.
func (c *Client) Connected() bool { return c.ws != nil }

// Disconnect ends the connection; the client connects again. With code 0 the TCP connection just ends. Otherwise a close
// handshake begins, which ends the connection when the server answers or after some seconds; what comes meanwhile
// is received.
func (c *Client) Disconnect(code int, reason string) {
	switch ws := c.ws; {
	case ws == nil:
	case code == 0:
		c.end(errors.New(reason))
	default:
		c.byUs = true
		c.closing.Go(func() {
			if ws.Close(websocket.StatusCode(code), reason) == nil {
				c.closeCode = code
			}
		})
	}
}

// Run connects and serves until ctx ends.
func (c *Client) Run(ctx context.Context) {
	c.ctx = ctx
	for ctx.Err() == nil {
		if err := c.connect(); err != nil {
			c.pause(c.wait(reconnectAfter, c.attempt))
			c.attempt++
			continue
		}
		if code := c.serve(); code == int(websocket.StatusNormalClosure) && !c.byUs {
			c.pause(time.Hour * 24 * 365) // so does phoenix.js: the server said that it was done
		}
		c.pause(c.wait(reconnectAfter, 0))
	}
	for _, ch := range c.channels {
		ch.stopTimer()
	}
}

// wait is the n-th wait of a list, counted from 0.
func (c *Client) wait(list []time.Duration, n int) time.Duration {
	return c.scaled(list[min(n, len(list)-1)] * time.Millisecond)
}

func (c *Client) scaled(d time.Duration) time.Duration {
	return time.Duration(float64(d) * c.cfg.Scale)
}

// pause lets time pass on the loop.
func (c *Client) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-timer.C:
			return
		case <-c.wake:
			c.work()
		}
	}
}

// work does what Do was given.
func (c *Client) work() {
	c.mu.Lock()
	tasks := c.tasks
	c.tasks = nil
	c.mu.Unlock()
	for _, f := range tasks {
		f()
	}
}

func (c *Client) connect() error {
	ctx, cancel := context.WithTimeout(c.ctx, max(c.scaled(connectTimeout), time.Second))
	defer cancel()
	url := c.cfg.URLs[c.cfg.Rand.IntN(len(c.cfg.URLs))]
	// A transport of its own: no connection is shared.
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetReadBuffer(c.cfg.ReadBuffer) // a wish
		}
		return conn, err
	}}
	ws, resp, err := websocket.Dial(ctx, url+"/websocket?vsn=2.0.0", &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		if resp != nil && resp.Body != nil {
			_ = resp.Body.Close()
		}
		return err
	}
	ws.SetReadLimit(maxFrame)
	c.ws = ws
	return nil
}

// serve runs one connection until it ends, and returns its close code.
func (c *Client) serve() int {
	ctx, cancel := context.WithCancelCause(c.ctx)
	c.end, c.attempt, c.heartbeat, c.byUs, c.closeCode = cancel, 0, "", false, 0
	frames := make(chan []byte)
	var reader sync.WaitGroup
	var ended error // set by the reader before frames is closed
	ws := c.ws
	reader.Go(func() {
		defer close(frames)
		for {
			var data []byte
			if _, data, ended = ws.Read(ctx); ended != nil {
				return
			}
			select {
			case frames <- data:
			case <-ctx.Done():
				ended = context.Cause(ctx)
				return
			}
		}
	})
	for _, ch := range c.channels {
		c.opened(ch)
	}
	c.loop(ctx, frames)
	_ = ws.CloseNow()
	cancel(nil)
	reader.Wait()
	c.closing.Wait()
	c.ws = nil
	code, reason := closeCode(ended), "no close frame"
	if c.closeCode != 0 {
		code, reason = c.closeCode, "closed by the client"
	} else if code != abnormal {
		reason = ended.Error()
	} else if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		reason = cause.Error()
	}
	c.closed(code, reason)
	return code
}

func closeCode(err error) int {
	if code := websocket.CloseStatus(err); code > 0 {
		return int(code)
	}
	return abnormal
}

// loop serves the connection until ctx or frames ends.
func (c *Client) loop(ctx context.Context, frames <-chan []byte) {
	beat := time.NewTicker(c.scaled(heartbeatInterval))
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
			c.work()
		case <-beat.C:
			if c.heartbeat != "" {
				c.end(errors.New("heartbeat unanswered"))
				return
			}
			c.heartbeat = c.ref()
			c.send(Frame{Ref: c.heartbeat, Topic: "phoenix", Event: "heartbeat", Payload: []byte("{}")})
		case data, ok := <-frames:
			if !ok {
				return
			}
			f, err := ParseFrame(data)
			if err != nil {
				c.bad(fmt.Errorf("%.200q: %w", data, err))
				return
			}
			c.receive(f)
		}
	}
}

// bad ends the connection for what the server sent.
func (c *Client) bad(err error) {
	if c.cfg.OnBad != nil {
		c.cfg.OnBad(err)
	}
	c.end(err)
}

// ref is a new reference: strings of digits, as phoenix.js has them.
func (c *Client) ref() string {
	c.lastRef++
	return strconv.Itoa(c.lastRef)
}

// send writes a frame. A frame that cannot be written ends the connection.
func (c *Client) send(f Frame) {
	if c.ws == nil {
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, max(c.scaled(pushTimeout), time.Second))
	defer cancel()
	if err := c.ws.Write(ctx, websocket.MessageText, f.Append(nil)); err != nil {
		c.end(fmt.Errorf("write: %w", err))
	}
}

// closed tells everybody that the connection has ended.
func (c *Client) closed(code int, reason string) {
	if c.cfg.OnClose != nil {
		c.cfg.OnClose(code, reason)
	}
	for _, ch := range c.channels {
		if ch.state != closed {
			ch.state = errored
		}
		ch.stopTimer()
	}
	c.unanswered(nil, "the connection ended")
}

func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
