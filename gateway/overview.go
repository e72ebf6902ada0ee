package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/ringcast/ringcast/gateway/api"
	"github.com/ringcast/ringcast/gateway/auth"
	"github.com/ringcast/ringcast/shared/ring"
)

const (
	busiestListed = 10
	busiestEvery  = 2 * time.Second // however many look
	busiestWait   = time.Second     // for the event loops and the owners
)

// overview is what GET /api/cluster shows that takes work to find out. It is made anew when somebody looks and it is old.
type overview struct {
	mu       sync.Mutex
	at       time.Time
	topics   int
	counted  time.Time // the topics
	busiest  []busyTopic
	complete bool
	shares   map[string]float64 // of the topics, by server
	ring     *ring.Ring         // that the shares are of
}

// busyTopic is a topic with many subscribers. Which topics those are is this gateway's view; the count of all comes from the
// topic's owner.
type busyTopic struct {
	Topic       string  `json:"topic"`
	Owner       string  `json:"owner"`
	Here        int     `json:"here"`                  // channels on this gateway
	Subscribers *uint64 `json:"subscribers,omitempty"` // on all gateways; absent if the owner does not say
}

type serverView struct {
	ID     string  `json:"id"`
	Weight int     `json:"weight"`
	Share  float64 `json:"share"` // of the topics, estimated
}

// clusterAnswer is the answer to GET /api/cluster. Counts are this gateway's, since its start.
type clusterAnswer struct {
	Gateway      string       `json:"gateway"`
	Ready        bool         `json:"ready"`
	Sessions     int          `json:"sessions"`
	Channels     int          `json:"channels"`
	Topics       int          `json:"topics"`
	Publishes    uint64       `json:"publishes"`
	Messages     uint64       `json:"messages"`
	Deliveries   uint64       `json:"deliveries"`
	RingVersion  uint64       `json:"ring_version"`
	LanesUp      int          `json:"lanes_up"`
	Lanes        int          `json:"lanes"`
	TopicServers []serverView `json:"topic_servers"`
	Owner        string       `json:"owner,omitempty"`
	Busiest      []busyTopic  `json:"busiest,omitzero"`
	Complete     *bool        `json:"busiest_of_all,omitempty"`
}

// clusterView answers with what this gateway knows of the cluster, as JSON; with a topic parameter also with its owner.
// It names topic servers but not their addresses: whoever may connect to the gateway may see it. Topics are named to those
// only who may read them.
func (g *Gateway) clusterView(c *fiber.Ctx) error {
	rg := g.router.Rings().Current()
	stats := g.router.Stats()
	a := clusterAnswer{
		Gateway: g.cfg.ID, Ready: g.Ready() == nil, Sessions: g.loops.Conns(), Channels: stats.Channels, Topics: g.countTopics(),
		Publishes: stats.Publishes, Messages: stats.Messages, Deliveries: stats.Deliveries, RingVersion: rg.Version(), LanesUp: stats.LanesUp,
	}
	shares := g.overview.sharesOf(rg)
	for _, s := range rg.Servers() {
		a.TopicServers = append(a.TopicServers, serverView{s.ID, s.Weight, shares[s.ID]})
	}
	a.Lanes = len(a.TopicServers) * g.cfg.Lanes
	if topic := c.Query("topic"); topic != "" {
		a.Owner = rg.Owner(topic).ID
	}
	if reads := g.reader(c); reads != nil {
		a.Busiest, a.Complete = g.busiest(reads)
	}
	c.Set(fiber.HeaderCacheControl, "no-store")
	return c.JSON(a)
}

// reader returns what says which topics the request may read, nil if none: with an API key for reading or an open API all of
// them, with a token those that it allows to join.
func (g *Gateway) reader(c *fiber.Ctx) func(topic string) bool {
	if g.auth != nil && !g.api.Known(c) {
		id, err := g.bearer(c)
		if err != nil || id == nil {
			return nil
		}
		return func(topic string) bool { return id.May(topic)&auth.Join != 0 }
	}
	if g.api.Allowed(c, api.Read) != nil {
		c.Response().Header.Del(fiber.HeaderWWWAuthenticate) // the answer is a good one all the same
		return nil
	}
	return func(string) bool { return true }
}

// busiest returns the topics with the most subscribers, those that may be read.
func (g *Gateway) busiest(reads func(topic string) bool) (list []busyTopic, complete *bool) {
	o := &g.overview
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.at) >= busiestEvery {
		o.busiest, o.complete = g.lookForBusiest()
		o.at = time.Now()
	}
	list = []busyTopic{}
	for _, b := range o.busiest {
		if reads(b.Topic) {
			list = append(list, b)
		}
	}
	all := o.complete
	return list, &all
}

func (g *Gateway) lookForBusiest() (list []busyTopic, complete bool) {
	ctx, cancel := context.WithTimeout(context.Background(), busiestWait)
	defer cancel()
	top, complete, err := g.router.Busiest(ctx, busiestListed)
	if err != nil {
		return nil, false
	}
	rg := g.router.Rings().Current()
	for _, t := range top {
		b := busyTopic{Topic: t.Topic, Owner: rg.Owner(t.Topic).ID, Here: t.Channels}
		if listing, o := g.router.Subscribers(ctx, t.Topic, 0); o.OK() {
			b.Subscribers = &listing.Count
		}
		list = append(list, b)
	}
	return list, complete
}

// countTopics returns how many topics have channels here. With very many of them that takes a while.
func (g *Gateway) countTopics() int {
	o := &g.overview
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.counted) >= busiestEvery {
		o.topics, o.counted = g.router.Topics(), time.Now()
	}
	return o.topics
}

// sharesOf returns the servers' shares of the topics. They take a millisecond to estimate, and change with the ring alone.
func (o *overview) sharesOf(rg *ring.Ring) map[string]float64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ring != rg {
		o.ring, o.shares = rg, rg.Shares()
	}
	return o.shares
}
