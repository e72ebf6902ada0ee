package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// ChannelState is what a channel is doing.
//
//	ChannelClosed ──Join──▶ ChannelJoining ──ok──▶ ChannelJoined ──Leave, phx_close──▶ ChannelClosed
//	      ▲                     │      ▲                │
//	      └──── first refused ──┘      │     connection lost, phx_error
//	                          due, connected            ▼
//	                                   └──────── ChannelWaiting ◀── rejoin refused
type ChannelState int

// The states of a channel.
const (
	ChannelClosed  ChannelState = iota // not joined, and nothing will change that but Join
	ChannelJoining                     // a join is going on
	ChannelJoined                      // the server's ok is there
	ChannelWaiting                     // will be joined again: after reconnecting, or after a while
)

func (s ChannelState) String() string {
	switch s {
	case ChannelClosed:
		return "closed"
	case ChannelJoining:
		return "joining"
	case ChannelJoined:
		return "joined"
	case ChannelWaiting:
		return "waiting to rejoin"
	}
	return fmt.Sprintf("ChannelState(%d)", int(s))
}

// ChannelChange is told to OnChange callbacks.
type ChannelChange struct {
	State    ChannelState
	Rejoin   bool            // of ChannelJoined: the channel was joined before
	Response json.RawMessage // of ChannelJoined: the server's, such as {"since":"…","recovered":true}
	Err      error           // of ChannelWaiting and ChannelClosed: why
}

// Channel is the client's membership of one topic. All methods may be called from any goroutine.
type Channel struct {
	// Static.
	client *Client
	topic  string
	params any

	// Guarded by client.mu.
	state        ChannelState
	established  bool          // a join was ok: from now on the client, not a caller of Join, brings the channel back
	joinRef      string        // of the join that is going on or was ok last, on the present connection; else empty
	life         uint64        // raised by Leave
	changed      chan struct{} // closed and renewed at each change of state
	attempt      int           // rejoins in a row that failed
	due          time.Time     // ChannelWaiting: when to rejoin; rejoining: when to give up on the reply; zero: neither
	rejoinQueued bool          // an evRejoin waits
	joinCall     *call         // the last join
	handlers     []handler     // only appended to
	watchers     []func(ChannelChange)
	presence     *Presence // nil without
}

// handler is a callback for one event, or for all.
type handler struct {
	event string
	all   bool
	fn    func(Message)
}

// Topic returns the name the channel was made with.
func (ch *Channel) Topic() string { return ch.topic }

// State returns what the channel is doing. It may have changed by the time it is looked at.
func (ch *Channel) State() ChannelState {
	ch.client.mu.Lock()
	defer ch.client.mu.Unlock()
	return ch.state
}

// On has fn called, on the callback goroutine, for each message with this event, before or after joining. Callbacks for
// one message run in the order in which they were registered; they cannot be taken back. A callback must not block for
// long, as all others of the client wait for it, and must not modify the payload, which they share.
func (ch *Channel) On(event string, fn func(Message)) {
	ch.register(handler{event: event, fn: fn})
}

// OnAny is On for every event.
func (ch *Channel) OnAny(fn func(Message)) {
	ch.register(handler{all: true, fn: fn})
}

// Skipped says which messages the server has skipped for a channel that joined with the parameter "slow", in the place of
// the messages.
type Skipped struct {
	From  string `json:"from"`  // position of the first one
	To    string `json:"to"`    // position of the last one
	Count int    `json:"count"` // of those that were meant for the channel
}

// eventSkipped is the event of Skipped. Message.Ref of it is Skipped.To, if the channel gets positions.
const eventSkipped = "phx_skipped"

// OnSkipped has fn called, as by On, when messages were skipped: after what came before them, and before what comes next.
// OnAny callbacks get the same as a message of the event phx_skipped.
func (ch *Channel) OnSkipped(fn func(Skipped)) {
	ch.On(eventSkipped, func(m Message) {
		var s Skipped
		if json.Unmarshal(m.Payload, &s) == nil {
			fn(s)
		}
	})
}

func (ch *Channel) register(h handler) {
	ch.client.mu.Lock()
	defer ch.client.mu.Unlock()
	ch.handlers = append(ch.handlers, h)
}

// OnChange has fn called, on the callback goroutine, for each change of the channel's state, in order with its messages:
// those between one ChannelJoined and the next change came through that join. A Leave by the user is not told.
func (ch *Channel) OnChange(fn func(ChannelChange)) {
	ch.client.mu.Lock()
	defer ch.client.mu.Unlock()
	ch.watchers = append(ch.watchers, fn)
}

// Join joins the channel and returns when the server has answered: nil, or an *Error with its reason. From then on the
// channel is joined again whenever it or the connection breaks, until Leave or until the server closes it. While there
// is no connection, Join waits for one until ctx ends; once it has asked it waits for the reply, PushTimeout at most.
// After an error the channel is not joined, and Join may be called again. Joining a topic that another channel of
// the client holds, or a channel twice, is ErrTopicInUse.
func (ch *Channel) Join(ctx context.Context) error {
	c := ch.client
	if err := checkName("topic", ch.topic); err != nil {
		return outcome(eventJoin, ch.topic, false, err)
	}
	c.mu.Lock()
	if c.channels[ch.topic] != nil {
		c.mu.Unlock()
		return outcome(eventJoin, ch.topic, false, ErrTopicInUse)
	}
	c.channels[ch.topic] = ch
	c.changeLocked(ch, ChannelJoining, ChannelChange{})
	c.mu.Unlock()

	err := ch.tryJoin(ctx)
	for errors.Is(err, errConnectionLost) {
		err = ch.tryJoin(ctx)
	}
	if err != nil {
		c.mu.Lock()
		c.dropJoinLocked(ch)
		c.closeLocked(ch, err)
		c.mu.Unlock()
	}
	return err
}

// tryJoin is one attempt. errConnectionLost asks for another.
func (ch *Channel) tryJoin(ctx context.Context) error {
	c := ch.client
	if err := c.waitUp(ctx); err != nil {
		return outcome(eventJoin, ch.topic, false, err)
	}
	params, err := ch.encodeParams()
	if err != nil {
		return outcome(eventJoin, ch.topic, false, err)
	}
	c.mu.Lock()
	if c.conn == nil {
		c.mu.Unlock()
		return errConnectionLost
	}
	cl := c.startJoinLocked(ch, params)
	c.mu.Unlock()
	_, err = c.await(ctx, cl)
	return err
}

func (ch *Channel) encodeParams() (json.RawMessage, error) {
	params := ch.params
	if fn, ok := params.(func() any); ok {
		params = fn()
	}
	b, err := encodePayload(params)
	if err == nil {
		ch.client.mu.Lock()
		presence := ch.presence
		ch.client.mu.Unlock()
		if presence != nil {
			b, err = presence.params(b)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("params: %w", err)
	}
	return b, nil
}

// WaitJoined returns nil as soon as the channel is joined, and an error when it is closed, the client is closed or ctx
// ends. It must not be called from a callback: rejoins wait for the callback goroutine.
func (ch *Channel) WaitJoined(ctx context.Context) error {
	c := ch.client
	for {
		c.mu.Lock()
		state, changed := ch.state, ch.changed
		c.mu.Unlock()
		switch {
		case c.ctx.Err() != nil:
			return ErrClosed
		case state == ChannelJoined:
			return nil
		case state == ChannelClosed:
			return ErrNotJoined
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ctx.Done():
		}
	}
}

// Publish publishes a message to everybody who has joined the topic, this channel included. It returns nil only when
// the server has said that the message is published, normally before the channel's own copy comes. The payload is
// anything encoding/json takes (json.RawMessage passes as it is); servers want an object, and nil means {}.
//
// Publish never waits for a channel to come back: on one that is not joined it fails at once with ErrNotSent and
// ErrNotJoined (see WaitJoined). Other failures are an *Error, ErrNotSent, or ErrUnknownOutcome when the connection or
// the channel broke, ctx or PushTimeout ended, or the client was closed after the frame had gone out. Calls made one
// after the other arrive in that order. A server that refuses it because too much is in flight is asked again, within ctx and
// PushTimeout; only then is that the *Error, with the Reason busy.
func (ch *Channel) Publish(ctx context.Context, event string, payload any) error {
	if err := checkPushEvent(event); err != nil {
		return outcome(eventPublish, ch.topic, false, err)
	}
	body, err := encodePayload(payload)
	if err != nil {
		return outcome(eventPublish, ch.topic, false, fmt.Errorf("payload: %w", err))
	}
	both := append(appendString([]byte{'['}, event), ',')
	both = append(append(both, body...), ']')
	_, err = ch.push(ctx, eventPublish, both)
	return err
}

// PublishOnce is Publish with a publish id of the caller's choice, 1 to 128 bytes. Published again with the same id, on any
// connection, within the server's window of ids, the message is not published twice; so after ErrUnknownOutcome it can simply
// be called again. The same id with another event or payload is an *Error.
func (ch *Channel) PublishOnce(ctx context.Context, id, event string, payload any) error {
	if err := checkPushEvent(event); err != nil {
		return outcome(eventPublish, ch.topic, false, err)
	}
	body, err := encodePayload([]any{event, orEmpty(payload), map[string]string{"id": id}})
	if err != nil {
		return outcome(eventPublish, ch.topic, false, fmt.Errorf("payload: %w", err))
	}
	_, err = ch.push(ctx, eventPublish, body)
	return err
}

func orEmpty(payload any) any {
	if payload == nil {
		return struct{}{}
	}
	return payload
}

// PublishBinary is Publish with a payload of any bytes, which arrives as Message.Binary. Topic and event have at most 255
// bytes then. Clients of a protocol that has no place for bytes do not get the message. Its errors are Publish's.
func (ch *Channel) PublishBinary(ctx context.Context, event string, payload []byte) error {
	err := checkPushEvent(event)
	if err == nil && max(len(event), len(ch.topic)) > maxBinaryPart {
		err = fmt.Errorf("topic or event of more than %d bytes", maxBinaryPart)
	}
	if err != nil {
		return outcome(event, ch.topic, false, err)
	}
	_, err = ch.send(ctx, event, encodeBinary, payload)
	return err
}

// Push sends an event to the server and returns the response of its reply. It fails as Publish does; an event to which
// the server does not reply ends in ErrUnknownOutcome after PushTimeout. The response to a binary reply is those bytes,
// not JSON.
func (ch *Channel) Push(ctx context.Context, event string, payload any) (json.RawMessage, error) {
	if err := checkPushEvent(event); err != nil {
		return nil, outcome(event, ch.topic, false, err)
	}
	body, err := encodePayload(payload)
	if err != nil {
		return nil, outcome(event, ch.topic, false, fmt.Errorf("payload: %w", err))
	}
	return ch.push(ctx, event, body)
}

func (ch *Channel) push(ctx context.Context, event string, payload []byte) (json.RawMessage, error) {
	return ch.send(ctx, event, encodeFrame, payload)
}

// send asks the server and returns what it answers. While the server is busy, and PushTimeout is not over, it asks again.
func (ch *Channel) send(ctx context.Context, event string, encode encoder, payload []byte) (json.RawMessage, error) {
	c := ch.client
	began := time.Now()
	for {
		response, err := ch.sendOnce(ctx, event, encode, payload)
		wait := busyFor(err)
		if wait == 0 || time.Since(began)+wait > c.cfg.PushTimeout {
			return response, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, err
		case <-c.ctx.Done():
			return nil, err
		}
	}
}

// busyFor returns when to ask again if err says that the server has too much in flight, else 0. Those that are told so at the same
// time come again one after the other.
func busyFor(err error) time.Duration {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Reason != "busy" {
		return 0
	}
	var response struct {
		Millis int64 `json:"retry_after_ms"`
	}
	if json.Unmarshal(e.Response, &response) != nil || response.Millis <= 0 || response.Millis > 60_000 {
		return 0
	}
	least := time.Duration(response.Millis) * time.Millisecond
	return least + rand.N(least)
}

func (ch *Channel) sendOnce(ctx context.Context, event string, encode encoder, payload []byte) (json.RawMessage, error) {
	c := ch.client
	if err := ctx.Err(); err != nil {
		return nil, outcome(event, ch.topic, false, err)
	}
	c.mu.Lock()
	if c.ctx.Err() != nil {
		c.mu.Unlock()
		return nil, outcome(event, ch.topic, false, ErrClosed)
	}
	if ch.state != ChannelJoined {
		c.mu.Unlock()
		return nil, outcome(event, ch.topic, false, ErrNotJoined)
	}
	cl := c.startLocked(ch, c.nextRefLocked(), event, encode, payload, true)
	c.mu.Unlock()
	return c.await(ctx, cl)
}

// Leave leaves the channel and returns when the server has confirmed it; without a connection there is nothing to
// confirm. The channel is closed at once, whatever Leave returns: no callback of it begins any more, and its topic can
// be joined again. ErrUnknownOutcome means that no confirmation came. Leaving a closed channel does nothing; one whose
// first Join is still going on cannot be left (end the context of Join), which is ErrNotJoined.
func (ch *Channel) Leave(ctx context.Context) error {
	c := ch.client
	c.mu.Lock()
	if ch.state == ChannelClosed {
		c.mu.Unlock()
		return nil
	}
	if !ch.established {
		c.mu.Unlock()
		return outcome(eventLeave, ch.topic, false, ErrNotJoined)
	}
	var cl *call
	if ch.joinRef != "" && c.ctx.Err() == nil {
		cl = c.startLocked(ch, c.nextRefLocked(), eventLeave, encodeFrame, []byte("{}"), true)
	}
	c.closeLocked(ch, nil)
	ch.life++
	ch.rejoinQueued = false // the one in the queue, if any, is of the life before
	c.mu.Unlock()
	if cl == nil {
		return nil
	}
	_, err := c.await(ctx, cl)
	if errors.Is(err, errConnectionLost) || errors.Is(err, ErrClosed) {
		return nil // the server forgets a connection's channels with it
	}
	return err
}
