package router

import (
	"context"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// MaxListed is how many ids a listing has at most.
const MaxListed = 100_000

// Subscribers asks the topic's owner for its subscribers on all gateways: counts of all, and at most limit ids. It waits
// for the answer until ctx ends; so it is not for event loops. An outcome that is not OK comes without a listing.
func (r *Router) Subscribers(ctx context.Context, topic string, limit int) (*linkpb.Listing, Outcome) {
	req := &linkpb.List{Topic: topic, Limit: uint32(max(0, min(limit, MaxListed)))}
	a, o := r.ask(ctx, topic, linkpb.KindList, func(ref uint64) linkpb.Item {
		req.Ref = ref
		return req
	})
	m, _ := a.(*linkpb.Listing)
	return m, o
}
