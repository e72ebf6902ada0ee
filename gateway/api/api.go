// Package api is the HTTP interface of a gateway for servers: publishing without a socket. It checks who may call it and
// reads requests strictly; what it publishes goes the way of every other publish, through the router.
//
// Its handlers run on the HTTP server's goroutines and hold no state between requests.
package api

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"

	"github.com/ringcast/ringcast/gateway/admission"
	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/gateway/session"
)

// MaxBatch is how many messages or topics one request may have.
const MaxBatch = 1000

// Config configures an API.
type Config struct {
	Router *router.Router // required
	Topics session.Topics // which topics there are
	// Keys say who may call. With nil nobody may, but for Open.
	Keys *Keys
	Open bool // everybody may call everything, whatever Keys has

	// Rate is how many requests, and messages in them, a key may have a second; 0 is any number. Who needs no key has no rate.
	Rate int
	// UserRate is the same for a user who comes with a token, where that will do.
	UserRate int

	Disconnect Disconnector // required
	// Gate admits publishes; nil admits all of them.
	Gate *admission.Gate

	MaxBody    int           // bytes of a request's body; default 1 MiB
	MaxMessage int           // bytes of one message's payload; default 64 KiB
	Timeout    time.Duration // how long to wait for outcomes that the router should have given; default 10 s
	Log        *zap.Logger   // default none
}

// API serves HTTP requests. Any goroutine may call its methods.
type API struct {
	cfg         Config
	keys, users *limits
}

// New returns an API.
func New(cfg Config) *API {
	if cfg.MaxBody <= 0 {
		cfg.MaxBody = 1 << 20
	}
	if cfg.MaxMessage <= 0 {
		cfg.MaxMessage = 64 << 10
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	return &API{cfg: cfg, keys: newLimits("key", cfg.Rate), users: newLimits("user", cfg.UserRate)}
}

// Prefix is what the paths of the API begin with.
const Prefix = "/api/"

// Owns reports whether a path is one of the API's, whether or not there is something.
func Owns(path string) bool {
	return strings.HasPrefix(path, Prefix) || strings.HasPrefix(path, RealtimePrefix)
}

// Register serves the API's own routes on r.
func (a *API) Register(r fiber.Router) {
	r.Post("/api/topics/:topic/publish", a.Need(Publish), a.admit, a.publish)
	r.Post("/api/publish", a.Need(Publish), a.admit, a.publishBatch)
	r.Post("/api/broadcast", a.Need(Publish), a.admit, a.broadcast)
	r.Post("/api/revoke", a.Need(Kick), a.revoke)
	r.Post("/api/topics/:topic/unsubscribe", a.Need(Kick), a.unsubscribe)
}

// admit turns publishes away while the gateway has too much to do, before they cost more than that.
func (a *API) admit(c *fiber.Ctx) error {
	if r := a.cfg.Gate.Publish(); r.Refused() {
		return &Error{
			Status: fiber.StatusServiceUnavailable, Code: r.Reason.String(), Definite: true, RetryAfter: r.After, Precisely: true,
			Detail: "the gateway has too much to do",
		}
	}
	return c.Next()
}

// Topic returns the topic that a request's path names, or the error to answer with.
func (a *API) Topic(c *fiber.Ctx) (string, error) {
	topic, err := url.PathUnescape(c.Params("topic"))
	if err != nil {
		return "", BadRequest("invalid topic: %v", err)
	}
	topic = strings.Clone(topic) // it may be part of the request, and goes on after it
	return topic, a.served(topic)
}

func (a *API) served(topic string) error {
	err := a.cfg.Topics.Check(topic)
	switch {
	case err == nil:
		return nil
	case err.Error() == "unmatched topic":
		return &Error{Status: fiber.StatusNotFound, Code: "unmatched_topic", Detail: "TOPICS has no pattern for it"}
	}
	return BadRequest("%s", err.Error())
}

// wait returns the context that outcomes are waited for with.
func (a *API) wait() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), a.cfg.Timeout)
}

// BodyLimit returns how many bytes the body of a request may have whose header has come, 0 for what the server allows to
// everybody. Only those who may call the API get more than that: others are refused before they have sent much.
func (a *API) BodyLimit(h *fasthttp.RequestHeader) int {
	if !h.IsPost() || !Owns(string(h.RequestURI())) {
		return 0
	}
	if a.cfg.Open {
		return a.cfg.MaxBody
	}
	if text, ok := bearer(h); ok && a.cfg.Keys != nil {
		if _, ok := a.cfg.Keys.find(text); ok {
			return a.cfg.MaxBody
		}
	}
	return 0
}

// TooLarge returns the answer to a request whose body is over its limit. Who may not call the API at all is told that instead;
// a key's scopes do not matter. The body is not read, but the request counts in the key's rate like any other.
func (a *API) TooLarge(c *fiber.Ctx) error {
	if !a.cfg.Open {
		k, err := a.caller(c)
		if err == nil {
			err = a.keys.take(k.name, time.Now())
		}
		if err != nil {
			return err
		}
	}
	return a.Oversized()
}

// Oversized returns the answer to a request with a body over the limit from somebody who may call the API.
func (a *API) Oversized() error {
	return &Error{
		Status: fiber.StatusRequestEntityTooLarge, Code: "too_large", Definite: true,
		Detail: "a request has at most " + strconv.Itoa(a.cfg.MaxBody) + " bytes",
	}
}
