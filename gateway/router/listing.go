package router

import (
	"context"
	"strconv"
	"strings"

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

// SessionID names a client socket in the whole cluster: the instance of its gateway, and its number there.
func SessionID(instance, conn uint64) string {
	return strconv.FormatUint(instance, 36) + "-" + strconv.FormatUint(conn, 36)
}

// ParseSessionID takes a SessionID apart.
func ParseSessionID(name string) (instance, conn uint64, ok bool) {
	first, second, ok := strings.Cut(name, "-")
	instance, err1 := strconv.ParseUint(first, 36, 64)
	conn, err2 := strconv.ParseUint(second, 36, 64)
	return instance, conn, ok && err1 == nil && err2 == nil
}
