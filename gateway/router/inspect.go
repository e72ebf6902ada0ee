package router

import (
	"context"
	"fmt"
	"time"
)

// TopicView is what a gateway knows of a topic, for operators.
type TopicView struct {
	Topic       string `json:"topic"`
	RingVersion uint64 `json:"ring_version"` // in use here
	Owner       string `json:"owner"`        // by the ring in use
	Lane        uint32 `json:"lane"`         // that the topic goes over: its index among the owner's
	LaneLive    bool   `json:"lane_live"`    // it is connected and greeted

	// Subscription is none, asking (the owner has not answered yet), flowing, fetching (what was missed), refused, or moving.
	Subscription string `json:"subscription"`
	SubscribedAt string `json:"subscribed_at,omitempty"` // the server that messages come from
	MovingTo     string `json:"moving_to,omitempty"`     // the server that the ring gives the topic to
	Position     string `json:"position,omitempty"`      // of the last message handed to event loops
	Lingering    string `json:"lingering,omitempty"`     // for how long, since the last leave

	Channels []int `json:"channels"`            // joined, by event loop
	Joining  int   `json:"joining"`             // waiting for the owner's answer
	InFlight int   `json:"publishes_in_flight"` // likewise
	Parked   int   `json:"publishes_parked"`    // wait for a new owner
}

// Inspect tells what this gateway knows of a topic. Any goroutine may call it; an error is ctx's.
func (r *Router) Inspect(ctx context.Context, topic string) (*TopicView, error) {
	target := r.route(topic)
	v := &TopicView{
		Topic: topic, RingVersion: r.rings.Current().Version(), Owner: target.server, Lane: target.index, LaneLive: target.live(),
		Subscription: "none", Channels: make([]int, len(r.locals)),
	}
	r.inspectSubscription(v)
	type count struct{ loop, channels, joining int }
	counts := make(chan count, len(r.locals))
	for _, l := range r.locals {
		l.loop.Post(func() {
			c := count{loop: l.loop.Index(), channels: l.hub.Channels(topic)}
			if w := l.joins[topic]; w != nil {
				c.joining = len(w.joins)
			}
			counts <- c
		})
	}
	for range r.locals {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("an event loop does not answer: %w", ctx.Err())
		case c := <-counts:
			v.Channels[c.loop] = c.channels
			v.Joining += c.joining
		}
	}
	return v, nil
}

func (r *Router) inspectSubscription(v *TopicView) {
	s := r.shard(v.Topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.topics[v.Topic]
	if sub == nil {
		return
	}
	v.InFlight, v.Parked = sub.flow.flights, len(sub.flow.bounced)+len(sub.flow.parked)
	if !sub.wanted {
		return
	}
	v.SubscribedAt = sub.lane.server
	if sub.known {
		v.Position = sub.last.String()
	}
	if since, ok := s.idle[v.Topic]; ok {
		v.Lingering = time.Since(since).Round(time.Millisecond).String()
	}
	switch {
	case sub.next != nil:
		v.Subscription, v.MovingTo = "moving", sub.next.lane.server
	case sub.flowing:
		v.Subscription = "flowing"
	case !sub.troubled.IsZero():
		v.Subscription = "refused"
	case sub.known:
		v.Subscription = "fetching"
	default:
		v.Subscription = "asking"
	}
}
