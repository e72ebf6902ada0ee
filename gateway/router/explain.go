package router

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ringcast/ringcast/gateway/hub"
)

// What became of a message on its way to a subscriber.
const (
	Written = "written" // the kernel has taken it, or begun to
	Queued  = "queued"  // it waits for a client that reads slowly
	Coming  = "coming"  // it has not come to the subscriber's event loop yet
	Skipped = "skipped" // the subscriber does not get it over this channel
)

// Question asks what became of one message.
type Question struct {
	Topic string
	// Position is the message's. Epoch 0 stands for the epoch in which the gateway has the topic.
	Position hub.Position
	// Binary says that it is a binary message, which not every client's protocol carries.
	Binary bool
	// Limit is how many subscribers are listed; the others are counted only.
	Limit int
}

// Fate is what became of a message on its way to one subscriber.
type Fate struct {
	Session string     `json:"session"`        // as Router.SessionID names it
	Peer    string     `json:"peer,omitempty"` // of the client's socket, while it is open
	JoinRef string     `json:"join_ref,omitempty"`
	State   string     `json:"state"`          // one of those above
	Why     string     `json:"why,omitempty"`  // for people: what the state alone does not tell
	From    string     `json:"from"`           // position after which the channel got the topic's messages
	Last    string     `json:"last"`           // of the last one that it was given
	Waiting int        `json:"waiting"`        // bytes that wait for the client, whatever they are
	Gone    *time.Time `json:"gone,omitempty"` // when the channel ended
}

// Explanation is the answer to a Question: how many subscribers have which fate, and the list of them, those first that
// have not got the message. Channels that have ended are part of it, as far back as each event loop remembers the last
// 1024 of them.
type Explanation struct {
	Position    string         `json:"position"`
	Counts      map[string]int `json:"counts"`      // of all subscribers, by state
	Subscribers []Fate         `json:"subscribers"` // at most Question.Limit
}

// Explain asks every event loop what became of a message. Any goroutine may call it; an error is ctx's.
func (r *Router) Explain(ctx context.Context, q Question) (*Explanation, error) {
	if q.Position.Epoch == 0 {
		q.Position.Epoch = r.epoch(q.Topic)
	}
	answers := make(chan []Fate, len(r.locals))
	for _, l := range r.locals {
		l.loop.Post(func() { answers <- l.explain(&q) })
	}
	e := &Explanation{Position: q.Position.String(), Counts: make(map[string]int), Subscribers: []Fate{}}
	for range r.locals {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("an event loop does not answer: %w", ctx.Err())
		case fates := <-answers:
			e.Subscribers = append(e.Subscribers, fates...)
		}
	}
	for i := range e.Subscribers {
		e.Counts[e.Subscribers[i].State]++
	}
	order := []string{Queued, Skipped, Coming, Written}
	slices.SortStableFunc(e.Subscribers, func(a, b Fate) int {
		return slices.Index(order, a.State) - slices.Index(order, b.State)
	})
	e.Subscribers = e.Subscribers[:min(len(e.Subscribers), q.Limit)]
	return e, nil
}

// epoch returns the epoch in which this gateway has a topic, 0 if it has none.
func (r *Router) epoch(topic string) uint64 {
	s := r.shard(topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub := s.topics[topic]; sub != nil && sub.known {
		return sub.last.Epoch
	}
	return 0
}

// explain answers for the loop's channels, those that have ended included.
func (l *Local) explain(q *Question) (fates []Fate) {
	for c := range l.hub.ChannelsOf(q.Topic) {
		if c.Conn.Closing() {
			continue // it is among those that have ended
		}
		last := l.hub.Staged(c)
		f := Fate{
			Session: l.r.SessionID(c.Conn.ID()), Peer: c.Conn.RemoteAddr(), JoinRef: string(c.JoinRef), Waiting: c.Conn.Waiting(),
			From: hub.Position{Epoch: last.Epoch, Offset: c.From}.String(), Last: last.String(),
		}
		f.State, f.Why = fate(q, c.From, last)
		queued := uint64(queuedMessages(c.Conn, c.Codec, c.JoinRef, q.Topic))
		switch {
		case f.State == Skipped:
		case q.Binary && !c.Codec.CarriesBinary():
			f.State, f.Why = Skipped, "its protocol has no place for binary messages"
		case isSkipped(l.hub.Skipped(c), q.Position):
			f.State, f.Why = Skipped, skippedWhy
		case l.hub.Waits(c, q.Position):
			f.State, f.Why = Queued, "the client reads slowly: it waits aside, and may be skipped"
		case f.State == Written && q.Position.Offset > last.Offset-queued:
			f.State = Queued
			f.Why = fmt.Sprintf("the client reads slowly: %d messages of the topic wait for it", queued)
		}
		fates = append(fates, f)
	}
	for i := range l.gone.list {
		if g := &l.gone.list[i]; g.topic == q.Topic && g.last.Epoch == q.Position.Epoch {
			fates = append(fates, g.explain(q, l.r.SessionID(g.conn.ID())))
		}
	}
	if w := l.joins[q.Topic]; w != nil {
		for _, j := range w.joins {
			fates = append(fates, Fate{
				Session: l.r.SessionID(j.channel.Conn.ID()), Peer: j.channel.Conn.RemoteAddr(), JoinRef: string(j.channel.JoinRef),
				State: Skipped, Why: "its join is not answered yet",
			})
		}
	}
	return fates
}

// fate tells what follows from where a channel began and how far it was served.
func fate(q *Question, from uint64, last hub.Position) (state, why string) {
	switch {
	case q.Position.Epoch != last.Epoch:
		return Skipped, "the topic is in another epoch: its past was lost"
	case q.Position.Offset <= from:
		return Skipped, fmt.Sprintf("joined later, behind offset %d", from)
	case q.Position.Offset > last.Offset:
		return Coming, "not received yet"
	}
	return Written, ""
}

// skippedWhy is why a channel that chose so did not get a message.
const skippedWhy = "the client reads slowly and chose to skip messages; it was told which"

func isSkipped(ranges []hub.Range, p hub.Position) bool {
	return slices.ContainsFunc(ranges, func(r hub.Range) bool { return r.Has(p) })
}

// explain tells the fate of a message at a channel that has ended.
func (g *gone) explain(q *Question, session string) Fate {
	f := Fate{
		Session: session, JoinRef: string(g.joinRef), Waiting: g.conn.Waiting(), Gone: &g.at,
		From: hub.Position{Epoch: g.last.Epoch, Offset: g.from}.String(), Last: g.last.String(),
	}
	f.State, f.Why = fate(q, g.from, g.last)
	queued := uint64(queuedMessages(g.conn, g.codec, g.joinRef, g.topic))
	switch {
	case f.State == Skipped:
		f.Why += "; gone since: " + g.reason
	case f.State == Coming:
		f.State, f.Why = Skipped, fmt.Sprintf("gone before it, behind offset %d: %s", g.last.Offset, g.reason)
	case q.Binary && !g.codec.CarriesBinary():
		f.State, f.Why = Skipped, "its protocol has no place for binary messages"
	case isSkipped(g.skipped, q.Position):
		f.State, f.Why = Skipped, skippedWhy
	case q.Position.Offset > g.last.Offset-min(g.last.Offset, g.unsent):
		f.State, f.Why = Skipped, fmt.Sprintf("%s: %d messages of the topic waited and were dropped", g.reason, g.unsent)
	case q.Position.Offset > g.last.Offset-min(g.last.Offset, queued):
		f.State, f.Why = Queued, "its socket is closing: "+g.reason
	default:
		f.Why = "gone since: " + g.reason
	}
	return f
}
