package phx

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"
)

type state int

const (
	closed  state = iota // never joined, left, or ended by phx_close
	joining              // phx_join is sent, or will be with the next connection
	joined
	errored // will be joined again
)

// Channel is one topic of a client. Its fields are set before Join; callbacks run on the client's loop.
type Channel struct {
	Topic     string
	Params    func() []byte                                    // JSON; evaluated at each join
	OnJoin    func(response json.RawMessage)                   // joined, for the first time or again
	OnMessage func(event, ref string, payload json.RawMessage) // payload is the channel's to keep
	OnEnd     func(event string)                               // phx_error or phx_close ended the membership
	OnRefused func(reply Reply)                                // a join was refused; it will be tried again
	state     state
	joinRef   string
	attempt   int
	timer     *time.Timer
	timerLife int // tells a timer that was stopped too late
}

// Joined reports whether the channel is joined.
func (ch *Channel) Joined() bool { return ch.state == joined }

// Result is the end of a push.
type Result struct {
	Reply             // zero if there was none
	Unanswered string // why there is no reply, "" if there is
}

type push struct {
	ch    *Channel
	ref   string
	done  func(Result)
	timer *time.Timer
}

// Join joins a channel, and again whenever need be. Joining what is joined replaces the membership.
func (c *Client) Join(ch *Channel) {
	c.channels[ch.Topic] = ch
	ch.state, ch.attempt = joining, 0
	c.opened(ch)
}

// Leave leaves a channel. Nothing comes of it any more.
func (c *Client) Leave(ch *Channel) {
	delete(c.channels, ch.Topic)
	ch.stopTimer()
	if ch.state == joined || ch.state == joining {
		c.send(Frame{JoinRef: ch.joinRef, Ref: c.ref(), Topic: ch.Topic, Event: "phx_leave", Payload: []byte("{}")})
	}
	ch.state = closed
	c.unanswered(ch, "the channel was left")
}

// Push sends an event and calls done with its reply, once, on the loop. It returns false, and does nothing, if the
// channel is not joined.
func (c *Client) Push(ch *Channel, event string, payload []byte, done func(Result)) bool {
	if ch.state != joined || c.ws == nil {
		return false
	}
	p := &push{ch: ch, ref: c.ref(), done: done}
	p.timer = c.after(pushTimeout, func() { c.finish(p, Result{Unanswered: "timeout"}) })
	c.pushes[p.ref] = p
	c.send(Frame{JoinRef: ch.joinRef, Ref: p.ref, Topic: ch.Topic, Event: event, Payload: payload})
	return true
}

// after has the loop call f when a wait of phoenix.js is over.
func (c *Client) after(d time.Duration, f func()) *time.Timer {
	return time.AfterFunc(c.scaled(d), func() { c.Do(f) })
}

// finish ends a push, unless it has ended.
func (c *Client) finish(p *push, r Result) {
	if c.pushes[p.ref] != p {
		return
	}
	delete(c.pushes, p.ref)
	p.timer.Stop()
	p.done(r)
}

// unanswered ends the pushes of a channel, or of all, that no reply can come to any more, in the order they were sent.
func (c *Client) unanswered(ch *Channel, why string) {
	var over []*push
	for _, p := range c.pushes {
		if ch == nil || p.ch == ch {
			over = append(over, p)
		}
	}
	slices.SortFunc(over, func(a, b *push) int {
		m, _ := strconv.Atoi(a.ref)
		n, _ := strconv.Atoi(b.ref)
		return cmp.Compare(m, n)
	})
	for _, p := range over {
		c.finish(p, Result{Unanswered: why})
	}
}

// opened joins a channel that wants to be, if there is a connection.
func (c *Client) opened(ch *Channel) {
	if c.ws == nil || ch.state == closed {
		return
	}
	ch.stopTimer()
	ch.state = joining
	ref := c.ref()
	ch.joinRef = ref
	c.unanswered(ch, "the channel was joined again")
	c.send(Frame{JoinRef: ref, Ref: ref, Topic: ch.Topic, Event: "phx_join", Payload: ch.Params()})
	c.schedule(ch, pushTimeout, func() {
		// phoenix.js leaves a join that was not answered, in case that it took place.
		c.send(Frame{JoinRef: ref, Ref: c.ref(), Topic: ch.Topic, Event: "phx_leave", Payload: []byte("{}")})
		ch.joinRef = "" // the phx_close that may come of it is nobody's
		c.rejoin(ch)
	})
}

// rejoin joins the channel again after a while.
func (c *Client) rejoin(ch *Channel) {
	ch.state = errored
	wait := rejoinAfter[min(ch.attempt, len(rejoinAfter)-1)] * time.Millisecond
	ch.attempt++
	c.schedule(ch, wait, func() { c.opened(ch) })
}

// schedule sets the channel's one timer.
func (c *Client) schedule(ch *Channel, d time.Duration, f func()) {
	ch.stopTimer()
	life := ch.timerLife
	ch.timer = c.after(d, func() {
		if ch.timerLife == life {
			f()
		}
	})
}

func (ch *Channel) stopTimer() {
	ch.timerLife++
	if ch.timer != nil {
		ch.timer.Stop()
	}
}

// receive handles one frame of the server.
func (c *Client) receive(f Frame) {
	if f.Topic == "phoenix" {
		if f.Ref == c.heartbeat {
			c.heartbeat = ""
		}
		return
	}
	ch := c.member(f)
	if ch == nil {
		return
	}
	if f.Event == "phx_reply" {
		c.replied(ch, f)
		return
	}
	arrived := []Frame{f}
	if c.cfg.Tamper != nil {
		arrived = c.cfg.Tamper(f)
	}
	for _, f := range arrived {
		if ch := c.member(f); ch != nil {
			c.pushed(ch, f)
		}
	}
}

// member is the channel that a frame is for; nil if it is for none, or for a membership that is over.
func (c *Client) member(f Frame) *Channel {
	ch := c.channels[f.Topic]
	if ch == nil || f.JoinRef != "" && f.JoinRef != ch.joinRef {
		return nil
	}
	return ch
}

// pushed handles what the server says unasked.
func (c *Client) pushed(ch *Channel, f Frame) {
	switch f.Event {
	case "phx_error", "phx_close":
		c.unanswered(ch, f.Event)
		if ch.OnEnd != nil {
			ch.OnEnd(f.Event)
		}
		if f.Event == "phx_error" {
			if ch.state == joining {
				ch.joinRef = ""
			}
			c.rejoin(ch)
			return
		}
		ch.stopTimer()
		ch.state = closed
	default:
		if ch.OnMessage != nil {
			ch.OnMessage(f.Event, f.Ref, f.Payload)
		}
	}
}

func (c *Client) replied(ch *Channel, f Frame) {
	var r Reply
	if err := json.Unmarshal(f.Payload, &r); err != nil || r.Status == "" {
		c.bad(fmt.Errorf("reply %.200q: want {status, response}", f.Payload))
		return
	}
	if p := c.pushes[f.Ref]; p != nil && p.ch == ch {
		c.finish(p, Result{Reply: r})
		return
	}
	if f.Ref != ch.joinRef || ch.state != joining {
		return
	}
	ch.stopTimer()
	if r.Status != "ok" {
		if ch.OnRefused != nil {
			ch.OnRefused(r)
		}
		c.rejoin(ch)
		return
	}
	ch.state, ch.attempt = joined, 0
	if ch.OnJoin != nil {
		ch.OnJoin(r.Response)
	}
}
