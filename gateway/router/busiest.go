package router

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
)

// maxLooked is how many of its topics an event loop looks at for Busiest: what may be done between two messages.
const maxLooked = 10_000

// TopicCount is how many channels a topic has on this gateway.
type TopicCount struct {
	Topic    string
	Channels int
}

// Busiest returns the topics with the most channels on this gateway, most first, at most n. Of loops with very many topics
// only some are looked at; all says whether it were all. Any goroutine may call it; an error is ctx's.
func (r *Router) Busiest(ctx context.Context, n int) (top []TopicCount, all bool, err error) {
	type look struct {
		counts []TopicCount
		all    bool
	}
	looks := make(chan look, len(r.locals))
	for _, l := range r.locals {
		l.loop.Post(func() {
			k := look{counts: make([]TopicCount, 0, min(l.hub.Topics(), maxLooked)), all: l.hub.Topics() <= maxLooked}
			for topic, channels := range l.hub.Some(maxLooked) {
				k.counts = append(k.counts, TopicCount{topic, channels})
			}
			looks <- k
		})
	}
	sum := make(map[string]int)
	all = true
	for range r.locals {
		select {
		case <-ctx.Done():
			return nil, false, fmt.Errorf("an event loop does not answer: %w", ctx.Err())
		case k := <-looks:
			all = all && k.all
			for _, c := range k.counts {
				sum[c.Topic] += c.Channels
			}
		}
	}
	for topic, channels := range sum {
		top = append(top, TopicCount{topic, channels})
	}
	slices.SortFunc(top, func(a, b TopicCount) int {
		return cmp.Or(cmp.Compare(b.Channels, a.Channels), strings.Compare(a.Topic, b.Topic))
	})
	return top[:min(n, len(top))], all, nil
}
