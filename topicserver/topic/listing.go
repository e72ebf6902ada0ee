package topic

import (
	"slices"
	"strings"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// Subscriber is one subscriber of a topic.
type Subscriber struct {
	Gateway string // as it names itself
	ID      uint64 // of the client's socket, unique within the gateway's process
}

// Subscribers lists a topic's subscribers, sorted by gateway and id. A topic nobody uses has none.
func (r *Registry) Subscribers(name string) []Subscriber {
	var list []Subscriber
	for _, g := range r.Listing(name, -1).Gateways {
		slices.Sort(g.Subscribers)
		for _, id := range g.Subscribers {
			list = append(list, Subscriber{Gateway: g.Gateway, ID: id})
		}
	}
	return list
}

// Listing lists a topic's subscribers by gateway: counts of all, and the ids of at most limit of them, in no order; a
// limit below 0 means all. Gateways are sorted. A topic nobody uses has no subscribers.
func (r *Registry) Listing(name string, limit int) *linkpb.Listing {
	t := r.lock(name)
	if t == nil {
		return &linkpb.Listing{}
	}
	defer t.mu.Unlock()
	return t.listingLocked(limit)
}

func (t *Topic) listingLocked(limit int) *linkpb.Listing {
	l := &linkpb.Listing{}
	subs := slices.Clone(t.subs)
	slices.SortFunc(subs, func(a, b subscription) int { return strings.Compare(a.lane.Gateway, b.lane.Gateway) })
	for i := range subs {
		s := &subs[i]
		g := &linkpb.GatewaySubscribers{Gateway: s.lane.Gateway, Instance: s.lane.Instance, Count: uint64(len(s.subscribers))}
		l.Count += g.Count
		n := len(s.subscribers)
		if limit >= 0 {
			n = min(n, limit)
			limit -= n
		}
		if n > 0 {
			g.Subscribers = make([]uint64, 0, n)
			for id := range s.subscribers {
				if g.Subscribers = append(g.Subscribers, id); len(g.Subscribers) == n {
					break
				}
			}
		}
		l.Gateways = append(l.Gateways, g)
	}
	return l
}

// MaxListed is how many ids one List gets at most: with them, a Listing fits into a batch.
const MaxListed = 100_000

// List answers with a Listing. Nothing is made of a topic by it that nobody uses. It is called by the lane's receiver.
func (r *Registry) List(tn *Turn, lane *Lane, req *linkpb.List) {
	l := &linkpb.Listing{Ref: req.Ref}
	if t := r.lock(req.Topic); t != nil {
		l = t.listingLocked(int(min(req.Limit, MaxListed)))
		l.Ref = req.Ref
		if t.waiting {
			l.Code, l.Detail = linkpb.Code_UNAVAILABLE, "the topic is coming over from another server"
		}
		t.mu.Unlock()
	} else {
		s := r.shard(req.Topic)
		s.mu.Lock()
		claim := r.cfg.Claim(req.Topic)
		s.mu.Unlock()
		switch claim {
		case NotOurs:
			l.Code, l.Detail = linkpb.Code_NOT_OWNER, notOwnerDetail
		case OursLater:
			l.Code, l.Detail = linkpb.Code_UNAVAILABLE, "the topic may be coming over from another server"
		}
	}
	lane.Out.Append(linkpb.KindListing, l)
	tn.touch(lane)
}
