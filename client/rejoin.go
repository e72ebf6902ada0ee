package client

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

var errNoJoinReply = errors.New("no reply to the join")

// A channel's states and what moves them. Each function here runs under Client.mu unless it says otherwise.

// changeLocked moves a channel to a state and tells it.
func (c *Client) changeLocked(ch *Channel, state ChannelState, change ChannelChange) {
	ch.state = state
	close(ch.changed)
	ch.changed = make(chan struct{})
	change.State = state
	c.events.add(event{kind: evChange, ch: ch, life: ch.life, change: change})
}

// closeLocked ends a channel: it stays closed until the user joins it again.
func (c *Client) closeLocked(ch *Channel, why error) {
	delete(c.channels, ch.topic)
	ch.established, ch.joinRef, ch.attempt, ch.due = false, "", 0, time.Time{}
	c.changeLocked(ch, ChannelClosed, ChannelChange{Err: why})
}

// waitLocked has a channel joined again after a while. There is a connection; detach does without.
func (c *Client) waitLocked(ch *Channel, why error) {
	ch.joinRef = ""
	c.changeLocked(ch, ChannelWaiting, ChannelChange{Err: why})
	c.timerLocked(ch, backoff(c.cfg.RejoinMin, c.cfg.RejoinMax, ch.attempt, rand.Float64()))
	ch.attempt++
}

// timerLocked has expire look at the channel after d.
func (c *Client) timerLocked(ch *Channel, d time.Duration) {
	ch.due = time.Now().Add(d)
	c.events.add(event{kind: evTimer, due: ch.due})
}

// queueRejoinLocked puts a rejoin behind all that waits for the callback goroutine: a params function then sees the
// effects of every message that came before the channel broke.
func (c *Client) queueRejoinLocked(ch *Channel) {
	if !ch.rejoinQueued {
		ch.rejoinQueued = true
		c.events.add(event{kind: evRejoin, ch: ch, life: ch.life})
	}
}

// startJoinLocked sends a join. Its ref becomes the channel's join_ref.
func (c *Client) startJoinLocked(ch *Channel, params []byte) *call {
	ch.joinRef = c.nextRefLocked()
	ch.joinCall = c.startLocked(ch, ch.joinRef, eventJoin, encodeFrame, params, true)
	return ch.joinCall
}

// joinRepliedLocked follows the reply to a join, before any frame behind it is looked at. A refused first join is left
// to the caller of Join.
func (c *Client) joinRepliedLocked(cl *call) {
	ch := cl.ch
	if ch.joinRef != cl.ref {
		return
	}
	ch.due = time.Time{}
	if cl.err == nil {
		again := ch.established
		ch.established, ch.attempt = true, 0
		c.changeLocked(ch, ChannelJoined, ChannelChange{Rejoin: again, Response: cl.reply})
	} else if ch.established {
		c.waitLocked(ch, cl.err)
	}
}

// dropJoinLocked gives up on a join without reply. The server may have done it or be about to, so it is told.
func (c *Client) dropJoinLocked(ch *Channel) {
	cl := ch.joinCall
	if cl == nil || ch.joinRef != cl.ref || cl.conn != c.conn {
		return
	}
	if c.pendingLocked(cl) {
		c.finishLocked(cl, nil, errNoJoinReply)
	}
	if _, refused := errors.AsType[*Error](cl.err); !refused && cl.conn.out.retract(cl) {
		c.startLocked(ch, c.nextRefLocked(), eventLeave, encodeFrame, []byte("{}"), false)
	}
}

// brokenLocked follows a phx_error: the channel died at the server and is joined again.
func (c *Client) brokenLocked(ch *Channel, f frame) {
	why := c.failCallsLocked(ch, f)
	if ch.established {
		c.waitLocked(ch, why)
	}
}

// endedLocked follows a phx_close: the server is done with the channel.
func (c *Client) endedLocked(ch *Channel, f frame) {
	why := c.failCallsLocked(ch, f)
	if ch.established {
		c.closeLocked(ch, why)
	}
}

// failCallsLocked ends the calls of a channel that the server ended by f. For a join that is an answer; for a push it
// tells nothing about the outcome.
func (c *Client) failCallsLocked(ch *Channel, f frame) *Error {
	why := &Error{Topic: ch.topic, Event: f.event, Reason: reasonOf(f.payload), Response: f.payload}
	for _, cl := range c.conn.pending {
		switch {
		case cl.ch != ch:
		case cl.event == eventJoin:
			c.finishLocked(cl, nil, why)
		default:
			c.finishLocked(cl, nil, fmt.Errorf("channel broke: %s %s", f.event, why.Reason))
		}
	}
	return why
}

// expire looks at the channels' timers and returns when to look again; zero: when told. Callback goroutine, no lock.
func (c *Client) expire(now time.Time) (next time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range c.channels {
		switch {
		case ch.due.IsZero():
		case ch.due.After(now):
			if next.IsZero() || ch.due.Before(next) {
				next = ch.due
			}
		case ch.state == ChannelWaiting:
			ch.due = time.Time{}
			c.queueRejoinLocked(ch)
		default:
			ch.due = time.Time{}
			c.dropJoinLocked(ch)
			c.waitLocked(ch, outcome(eventJoin, ch.topic, true, errNoJoinReply))
		}
	}
	return next
}

// rejoin sends the join of a channel that waits, if it still does. Callback goroutine, no lock.
func (c *Client) rejoin(ch *Channel, life uint64) {
	waitingLocked := func() bool { return ch.life == life && ch.state == ChannelWaiting && c.conn != nil }
	c.mu.Lock()
	if ch.life == life {
		ch.rejoinQueued = false
	}
	due := waitingLocked()
	c.mu.Unlock()
	if !due {
		return
	}
	params, err := ch.encodeParams()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !waitingLocked() { // broken again meanwhile: another rejoin is queued or will be
		return
	}
	if err != nil {
		c.waitLocked(ch, outcome(eventJoin, ch.topic, false, err))
		return
	}
	c.changeLocked(ch, ChannelJoining, ChannelChange{})
	c.startJoinLocked(ch, params)
	c.timerLocked(ch, c.cfg.PushTimeout)
}
