package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// closeWait bounds the WebSocket close handshake that Close makes.
const closeWait = 2 * time.Second

// conn is one connection's lifetime. The manager goroutine reads it, the writer goroutine writes it.
type conn struct {
	// Static.
	ws  *websocket.Conn
	ctx context.Context // ends with the connection; its cause says why
	end context.CancelCauseFunc
	out outbox

	// Guarded by Client.mu.
	pending   map[string]*call // by ref: sent or in out, and not answered
	heartbeat string           // ref of the unanswered heartbeat
}

// call is one frame to the server and, unless it is fire-and-forget, the wait for its reply.
type call struct {
	// Static.
	conn  *conn
	ref   string
	ch    *Channel
	event string
	kind  websocket.MessageType
	frame []byte

	// Guarded by conn.out.mu.
	sent bool // the writer has taken it: the server may see it

	// Written under Client.mu before done is closed, read after.
	reply json.RawMessage
	err   error
	done  chan struct{}
}

// outbox holds the frames that wait for the writer, in order. It needs no bound of its own: each frame belongs to a call
// somebody waits in, to a rejoin (one per channel) or to the leave that follows one of these.
type outbox struct {
	wake chan struct{} // has a token when frames may be there

	mu    sync.Mutex
	calls []*call
}

func (o *outbox) add(cl *call) {
	o.mu.Lock()
	o.calls = append(o.calls, cl)
	o.mu.Unlock()
	signal(o.wake)
}

// take removes the first call and marks it as sent. It leaves a token when there are more.
func (o *outbox) take() *call {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.calls) == 0 {
		return nil
	}
	cl := o.calls[0]
	cl.sent = true
	o.calls[0] = nil
	o.calls = o.calls[1:]
	if len(o.calls) > 0 {
		signal(o.wake)
	}
	return cl
}

// retract takes a call back unless the writer has it; it reports whether the call was sent.
func (o *outbox) retract(cl *call) (sent bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if i := slices.Index(o.calls, cl); i >= 0 {
		o.calls = slices.Delete(o.calls, i, i+1)
	}
	return cl.sent
}

// serve runs one connection until it ends and says why.
func (c *Client) serve(ws *websocket.Conn) error {
	cn := &conn{ws: ws, out: outbox{wake: make(chan struct{}, 1)}, pending: make(map[string]*call)}
	cn.ctx, cn.end = context.WithCancelCause(context.Background())
	ws.SetReadLimit(c.cfg.MaxMessageBytes)

	c.attach(cn)
	var writer sync.WaitGroup
	writer.Go(func() { cn.end(c.write(cn)) })
	readErr := c.read(cn)
	cn.end(readErr)
	writer.Wait()
	_ = ws.CloseNow() // the connection is over; how it closes tells nothing new

	why := context.Cause(cn.ctx)
	if c.ctx.Err() != nil {
		why = ErrClosed
	} else if closed, ok := errors.AsType[websocket.CloseError](readErr); ok {
		why = &CloseError{Code: int(closed.Code), Reason: closed.Reason} // says more than a failed write
	}
	c.detach(cn, why)
	return why
}

// write is the writer goroutine: it alone writes frames, one at a time, so that no caller's context can tear one.
func (c *Client) write(cn *conn) error {
	beat := time.NewTicker(c.cfg.HeartbeatInterval)
	defer beat.Stop()
	for {
		var err error
		select {
		case <-cn.ctx.Done():
			return nil
		case <-c.ctx.Done():
			stop := time.AfterFunc(closeWait, func() { cn.end(ErrClosed) })
			_ = cn.ws.Close(websocket.StatusNormalClosure, "") // the server may be gone; so are we
			stop.Stop()
			return ErrClosed
		case <-beat.C:
			err = c.beat(cn)
		case <-cn.out.wake:
			if cl := cn.out.take(); cl != nil {
				err = c.writeFrame(cn, cl.kind, cl.frame)
			}
		}
		if err != nil {
			return err
		}
	}
}

func (c *Client) writeFrame(cn *conn, kind websocket.MessageType, data []byte) error {
	ctx, cancel := context.WithTimeout(cn.ctx, c.cfg.PushTimeout)
	defer cancel()
	if err := cn.ws.Write(ctx, kind, data); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// beat sends a heartbeat, if the one before was answered.
func (c *Client) beat(cn *conn) error {
	c.mu.Lock()
	if cn.heartbeat != "" {
		c.mu.Unlock()
		return ErrNoHeartbeat
	}
	ref := c.nextRefLocked()
	cn.heartbeat = ref
	c.mu.Unlock()
	kind, data := encodeFrame("", ref, heartbeatTopic, eventHeartbeat, []byte("{}"))
	return c.writeFrame(cn, kind, data)
}

// read receives frames until the connection ends. It never waits for callbacks: replies must get through while a
// callback waits for one.
func (c *Client) read(cn *conn) error {
	for {
		kind, data, err := cn.ws.Read(cn.ctx)
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		decode := decodeText
		if kind == websocket.MessageBinary {
			decode = decodeBinary
		}
		f, err := decode(data)
		if err == nil {
			err = c.receive(cn, f)
		}
		if err != nil {
			return err
		}
	}
}

// receive routes one frame.
func (c *Client) receive(cn *conn, f frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.event == eventReply {
		c.repliedLocked(cn, f)
		return nil
	}
	// A frame without join_ref is a broadcast. One with another join_ref belongs to a membership that is over: its
	// channel has been left, or has been joined again since.
	ch := c.channels[f.topic]
	if ch == nil || ch.joinRef == "" || f.joinRef != "" && f.joinRef != ch.joinRef || f.joinRef == "" && ch.state != ChannelJoined {
		return nil
	}
	switch f.event {
	case eventError:
		c.brokenLocked(ch, f)
	case eventClose:
		c.endedLocked(ch, f)
	default:
		msg := Message{Topic: f.topic, Event: f.event, Payload: f.payload, Binary: f.binary, Ref: f.ref}
		return c.events.addMessage(ch, ch.life, msg)
	}
	return nil
}

// repliedLocked hands a reply to its call. References are never used twice, so a reply that comes too late finds none.
func (c *Client) repliedLocked(cn *conn, f frame) {
	if f.ref == "" {
		return
	}
	if f.ref == cn.heartbeat {
		cn.heartbeat = ""
		return
	}
	cl := cn.pending[f.ref]
	if cl == nil {
		return
	}
	var err error
	if f.status != "ok" {
		err = &Error{Topic: cl.ch.topic, Event: cl.event, Status: f.status, Reason: reasonOf(f.payload), Response: f.payload}
	}
	c.finishLocked(cl, f.payload, err)
	if cl.event == eventJoin {
		c.joinRepliedLocked(cl)
	}
}

// attach makes cn the client's connection and has the channels rejoined behind everything that waits for callbacks.
func (c *Client) attach(cn *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = cn
	close(c.up)
	c.events.add(event{kind: evState, state: StateConnected})
	for _, ch := range c.channels {
		if ch.state == ChannelWaiting {
			ch.attempt = 0
			c.queueRejoinLocked(ch)
		}
	}
}

// detach undoes attach, fails the calls in progress and leaves the channels to the next attach. The writer has ended.
func (c *Client) detach(cn *conn, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = nil
	c.up = make(chan struct{})
	lost := fmt.Errorf("%w: %w", errConnectionLost, why)
	for _, cl := range cn.pending {
		c.finishLocked(cl, nil, lost)
	}
	for _, ch := range c.channels {
		if ch.established {
			ch.due = time.Time{}
			if ch.state != ChannelWaiting {
				c.changeLocked(ch, ChannelWaiting, ChannelChange{Err: lost})
			}
		}
		ch.joinRef = ""
	}
}

// startLocked queues a frame for the connection; with wait, its reply will finish the call.
func (c *Client) startLocked(ch *Channel, ref, eventName string, encode encoder, payload []byte, wait bool) *call {
	cl := &call{conn: c.conn, ref: ref, ch: ch, event: eventName, done: make(chan struct{})}
	cl.kind, cl.frame = encode(ch.joinRef, ref, ch.topic, eventName, payload)
	if wait {
		c.conn.pending[ref] = cl
	}
	c.conn.out.add(cl)
	return cl
}

// finishLocked ends a call that is pending.
func (c *Client) finishLocked(cl *call, reply json.RawMessage, err error) {
	delete(cl.conn.pending, cl.ref)
	cl.reply, cl.err = reply, err
	close(cl.done)
}

// abandon ends a call for its caller's reason, unless it has ended already.
func (c *Client) abandon(cl *call, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pendingLocked(cl) {
		c.finishLocked(cl, nil, why)
	}
}

func (c *Client) pendingLocked(cl *call) bool { return cl.conn.pending[cl.ref] == cl }

// await waits for the end of a call. An error that is no *Error says whether the frame went out.
func (c *Client) await(ctx context.Context, cl *call) (json.RawMessage, error) {
	timer := time.NewTimer(c.cfg.PushTimeout)
	defer timer.Stop()
	select {
	case <-cl.done:
	case <-ctx.Done():
		c.abandon(cl, ctx.Err())
	case <-timer.C:
		c.abandon(cl, fmt.Errorf("no reply within %v", c.cfg.PushTimeout))
	case <-c.ctx.Done():
		c.abandon(cl, ErrClosed)
	}
	<-cl.done
	if cl.err == nil {
		return cl.reply, nil
	}
	if _, refused := errors.AsType[*Error](cl.err); refused {
		return nil, cl.err
	}
	return nil, outcome(cl.event, cl.ch.topic, cl.conn.out.retract(cl), cl.err)
}
