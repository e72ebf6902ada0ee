package gateway

import (
	"context"
	"fmt"
	"strconv"

	"github.com/gofiber/fiber/v2"

	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/proto/linkpb"
)

// defaultListed is how many subscribers a request without a limit gets.
const defaultListed = 1000

// subscriberList is the answer to GET /api/topics/:topic/subscribers.
type subscriberList struct {
	Topic       string              `json:"topic"`
	Count       uint64              `json:"count"`
	Gateways    []gatewaySubscriber `json:"gateways"`
	Subscribers []subscriber        `json:"subscribers"`
}

type gatewaySubscriber struct {
	Gateway string `json:"gateway"`
	Count   uint64 `json:"count"`
}

// subscriber is one client socket that has joined the topic; the id names it in the whole cluster, as SessionID does.
type subscriber struct {
	ID      string `json:"id"`
	Gateway string `json:"gateway"`
}

// topicSubscribers answers who has joined a topic, on all gateways: the count, and up to ?limit= subscribers. With
// ?count=true it answers with the count alone.
func (g *Gateway) topicSubscribers(c *fiber.Ctx) error {
	topic, err := g.api.Topic(c)
	if err != nil {
		return err
	}
	limit := defaultListed
	if text := c.Query("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 0 || limit > router.MaxListed {
			return fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf("invalid limit: want 0 to %d", router.MaxListed))
		}
	}
	countOnly := false
	if text := c.Query("count"); text != "" {
		if countOnly, err = strconv.ParseBool(text); err != nil {
			return fiber.NewError(fiber.StatusBadRequest, "invalid count: want true or false")
		}
	}
	if countOnly {
		return g.answerCount(c, topic)
	}
	listing, err := g.listing(c, topic, limit)
	if err != nil {
		return err
	}
	return c.JSON(listSubscribers(topic, listing))
}

// topicCount answers how many have joined a topic, on all gateways.
func (g *Gateway) topicCount(c *fiber.Ctx) error {
	topic, err := g.api.Topic(c)
	if err != nil {
		return err
	}
	return g.answerCount(c, topic)
}

func (g *Gateway) answerCount(c *fiber.Ctx, topic string) error {
	listing, err := g.listing(c, topic, 0)
	if err != nil {
		return err
	}
	return c.JSON(struct {
		Topic string `json:"topic"`
		Count uint64 `json:"count"`
	}{topic, listing.Count})
}

// listing asks the topic's owner, for the answer to c.
func (g *Gateway) listing(c *fiber.Ctx, topic string, limit int) (*linkpb.Listing, error) {
	ctx, cancel := context.WithTimeout(context.Background(), g.cfg.JoinTimeout)
	defer cancel()
	l, o := g.router.Subscribers(ctx, topic, limit)
	c.Set(fiber.HeaderCacheControl, "no-store")
	return l, historyError(c, o)
}

// listSubscribers turns the owner's answer into the client's.
func listSubscribers(topic string, l *linkpb.Listing) subscriberList {
	answer := subscriberList{Topic: topic, Count: l.Count, Gateways: []gatewaySubscriber{}, Subscribers: []subscriber{}}
	for _, gw := range l.Gateways {
		answer.Gateways = append(answer.Gateways, gatewaySubscriber{gw.Gateway, gw.Count})
		for _, id := range gw.Subscribers {
			answer.Subscribers = append(answer.Subscribers, subscriber{router.SessionID(gw.Instance, id), gw.Gateway})
		}
	}
	return answer
}
