package client

import (
	"encoding/json"
	"sync"
	"time"
)

// Message is one message of a topic.
type Message struct {
	Topic   string
	Event   string
	Payload json.RawMessage // the message's own bytes; nil when Binary is set
	Binary  []byte          // payload of a binary frame
	Ref     string          // "<epoch>:<offset>" when the channel asked for positions, else empty
}

// event is one thing for the callback goroutine to do.
type event struct {
	kind   eventKind
	ch     *Channel
	life   uint64 // of ch when the event arose: events of an earlier life are not told
	msg    Message
	change ChannelChange
	state  State
	err    error
	due    time.Time
}

type eventKind int

const (
	evMessage eventKind = iota // hand msg to ch's callbacks
	evChange                   // tell change to ch's callbacks
	evState                    // tell state and err to Config.OnState
	evRejoin                   // rejoin ch
	evTimer                    // look at the channels' timers at due
)

// eventQueue is what waits for the callback goroutine. Any goroutine adds, only that one takes.
//
// Only messages are counted against the bounds. The others bound themselves: a channel has at most one evRejoin in the
// queue and, as only the callback goroutine rejoins, a handful of changes and timers with it; repeated disconnects
// collapse into one.
type eventQueue struct {
	maxMessages, maxBytes int

	wake chan struct{} // has a token when events may be there

	mu       sync.Mutex
	events   []event // Invariant: events[:head] are taken and zero.
	head     int
	messages int // waiting
	bytes    int // of their payloads
}

func newEventQueue(maxMessages, maxBytes int) *eventQueue {
	return &eventQueue{maxMessages: maxMessages, maxBytes: maxBytes, wake: make(chan struct{}, 1)}
}

// add queues an event other than a message.
func (q *eventQueue) add(ev event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if last := len(q.events) - 1; last >= q.head && ev.kind == evState && q.events[last].kind == evState && q.events[last].state == ev.state {
		q.events[last] = ev
		return
	}
	q.events = append(q.events, ev)
	signal(q.wake)
}

// addMessage queues a message, or returns ErrSlowCallbacks when the queue is full. A message that alone exceeds maxBytes
// still passes through an empty queue.
func (q *eventQueue) addMessage(ch *Channel, life uint64, msg Message) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := payloadBytes(msg)
	if q.messages >= q.maxMessages || q.messages > 0 && q.bytes+n > q.maxBytes {
		return ErrSlowCallbacks
	}
	q.messages++
	q.bytes += n
	q.events = append(q.events, event{kind: evMessage, ch: ch, life: life, msg: msg})
	signal(q.wake)
	return nil
}

func (q *eventQueue) take() (event, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.head == len(q.events) {
		return event{}, false
	}
	ev := q.events[q.head]
	q.events[q.head] = event{}
	q.head++
	if ev.kind == evMessage {
		q.messages--
		q.bytes -= payloadBytes(ev.msg)
	}
	if q.head >= 64 && q.head*2 >= len(q.events) { // amortised: a queue that never empties must not grow
		kept := copy(q.events, q.events[q.head:])
		clear(q.events[kept:])
		q.events, q.head = q.events[:kept], 0
	}
	return ev, true
}

func payloadBytes(m Message) int { return len(m.Payload) + len(m.Binary) }

// signal leaves a token in wake, which has room for one.
func signal(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// runCallbacks is the callback goroutine: it alone runs the user's callbacks and the channels' timers, and evaluates
// the params of rejoins.
func (c *Client) runCallbacks() {
	var due time.Time // when timer fires; zero: not armed
	timer := time.NewTimer(0)
	timer.Stop()
	arm := func(at time.Time) {
		if !at.IsZero() && (due.IsZero() || at.Before(due)) {
			due = at
			timer.Reset(time.Until(at))
		}
	}
	for c.ctx.Err() == nil {
		select {
		case <-timer.C:
			due = time.Time{}
			arm(c.expire(time.Now()))
		default:
		}
		if ev, ok := c.events.take(); ok {
			if ev.kind == evTimer {
				arm(ev.due)
			} else {
				c.handle(ev)
			}
			continue
		}
		select {
		case <-timer.C:
			due = time.Time{}
			arm(c.expire(time.Now()))
		case <-c.events.wake:
		case <-c.ctx.Done():
		}
	}
	timer.Stop()
	if c.cfg.OnState != nil {
		c.cfg.OnState(StateClosed, nil)
	}
}

// handle does one event. No lock is held while a callback runs.
func (c *Client) handle(ev event) {
	switch ev.kind {
	case evState:
		if c.cfg.OnState != nil {
			c.cfg.OnState(ev.state, ev.err)
		}
	case evRejoin:
		c.rejoin(ev.ch, ev.life)
	case evMessage:
		for _, h := range c.handlersOf(ev) {
			if h.all || h.event == ev.msg.Event {
				h.fn(ev.msg)
			}
		}
	case evChange:
		for _, fn := range c.watchersOf(ev) {
			fn(ev.change)
		}
	}
}

// handlersOf and watchersOf return what is registered now, or nothing for an event of a life that is over. The slices
// only ever grow at their end, so they can be read without the lock.
func (c *Client) handlersOf(ev event) []handler {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ev.ch.life != ev.life {
		return nil
	}
	return ev.ch.handlers
}

func (c *Client) watchersOf(ev event) []func(ChannelChange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ev.ch.life != ev.life {
		return nil
	}
	return ev.ch.watchers
}
