package gateway

import (
	"context"
	"fmt"
	"net/url"
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

// subscriber is one channel on the topic; the id is unique within the gateway's process.
type subscriber struct {
	ID      string `json:"id"`
	Gateway string `json:"gateway"`
}

// topicSubscribers answers who has joined a topic, on all gateways: the count, and up to ?limit= subscribers. With
// ?count=true it answers with the count alone.
func (g *Gateway) topicSubscribers(c *fiber.Ctx) error {
	topic, err := url.PathUnescape(c.Params("topic"))
	if err == nil {
		err = g.topics.Check(topic)
	}
	if err != nil {
		return fiber.NewError(fiber.StatusBadRequest, err.Error())
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
		limit = 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), g.cfg.JoinTimeout)
	defer cancel()
	listing, o := g.router.Subscribers(ctx, topic, limit)
	if err := historyError(c, o); err != nil {
		return err
	}
	c.Set(fiber.HeaderCacheControl, "no-store")
	if countOnly {
		return c.JSON(struct {
			Topic string `json:"topic"`
			Count uint64 `json:"count"`
		}{topic, listing.Count})
	}
	return c.JSON(listSubscribers(topic, listing))
}

// listSubscribers turns the owner's answer into the client's.
func listSubscribers(topic string, l *linkpb.Listing) subscriberList {
	answer := subscriberList{Topic: topic, Count: l.Count, Gateways: []gatewaySubscriber{}, Subscribers: []subscriber{}}
	for _, gw := range l.Gateways {
		answer.Gateways = append(answer.Gateways, gatewaySubscriber{gw.Gateway, gw.Count})
		for _, id := range gw.Subscribers {
			answer.Subscribers = append(answer.Subscribers, subscriber{fmt.Sprintf("%016x", id), gw.Gateway})
		}
	}
	return answer
}
