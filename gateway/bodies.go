package gateway

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"

	"github.com/ringcast/ringcast/gateway/api"
)

// firstBody is what the HTTP server reads of a body by itself, in bytes. It does not count: a connection has as much anyway.
const firstBody = 8 << 10

// bodies bounds the memory of requests' bodies, whole or not. The server itself would set aside for each what its header says,
// before a byte has come: a stranger with a thousand connections of 200 bytes would have gigabytes.
type bodies struct {
	most int64 // bytes
	held atomic.Int64
}

var errNoRoom = errors.New("no room for the body")

// read reads a body of n bytes. What is set aside for it at most doubles what has come. The caller must give its capacity to
// release, also after an error.
func (b *bodies) read(from io.Reader, n int) (body []byte, err error) {
	body = make([]byte, 0, min(n, firstBody))
	for len(body) < n {
		if len(body) == cap(body) {
			size := min(2*cap(body), n)
			more := int64(size - cap(body))
			if b.held.Add(more) > b.most {
				b.held.Add(-more)
				return body, errNoRoom
			}
			grown := make([]byte, len(body), size)
			copy(grown, body)
			body = grown
		}
		k, err := from.Read(body[len(body):cap(body)])
		body = body[:len(body)+k]
		if err != nil && len(body) < n {
			return body, err
		}
	}
	return body, nil
}

func (b *bodies) release(capacity int) { b.held.Add(-int64(max(capacity-firstBody, 0))) }

// receiveBody reads the body of a request for the handlers behind it. One that is not read to its end ends the connection, so that the
// rest is not taken for a request.
func (g *Gateway) receiveBody(c *fiber.Ctx) error {
	req := c.Request()
	stream, n := req.BodyStream(), req.Header.ContentLength()
	if stream == nil {
		return c.Next()
	}
	if n == unwanted {
		endUnread(c.Context())
		return fiber.ErrRequestEntityTooLarge
	}
	body, err := g.bodies.read(stream, n)
	defer g.bodies.release(cap(body))
	if err != nil {
		endUnread(c.Context())
		return unread(c, err)
	}
	req.SetBodyRaw(body)
	return c.Next()
}

// unread is what a request is answered whose body could not be read.
func unread(c *fiber.Ctx, err error) error {
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return fiber.ErrRequestTimeout
	case !errors.Is(err, errNoRoom):
		return fiber.NewError(fiber.StatusBadRequest, "the body is not whole")
	case api.Owns(c.Path()):
		return &api.Error{
			Status: fiber.StatusServiceUnavailable, Code: "overloaded", RetryAfter: time.Second, Precisely: true, Definite: true,
			Detail: "too much comes from all clients together",
		}
	}
	return fiber.NewError(fiber.StatusServiceUnavailable, "too much comes from all clients together")
}

// unwanted is the length that headerReceived gives a body that is not to be read. The server takes it for chunks, whose requests it
// hands to the handlers without waiting for any; checkFraming refuses those of clients.
const unwanted = -1

// headerReceived has the server read no more of a body than its beginning, and nothing of one that is too large or has a framing
// problem: those are refused before they are sent. A panic would end the process: it is called before anything that recovers.
func (g *Gateway) headerReceived(h *fasthttp.RequestHeader) (cfg fasthttp.RequestConfig) {
	defer func() {
		if p := recover(); p != nil {
			g.panics.Add(1)
			g.log.Error("HTTP header panicked", zap.Any("panic", p), zap.Stack("stack"))
			leaveBody(h)
			cfg.MaxRequestBodySize = 1
		}
	}()
	if n := h.ContentLength(); framingProblem(h) != "" || n > maxHeaderBytes && n > g.bodyLimit(h) {
		leaveBody(h)
	}
	return fasthttp.RequestConfig{MaxRequestBodySize: max(h.ContentLength(), 1)}
}

// leaveBody has the server not read a request's body, nor ask for it.
func leaveBody(h *fasthttp.RequestHeader) {
	h.SetContentLength(unwanted)
	h.Del(fiber.HeaderExpect)
}

// bodyLimit returns how large a request's body may be, in bytes. Only who may send a large one has more than little.
func (g *Gateway) bodyLimit(h *fasthttp.RequestHeader) int {
	return max(maxHeaderBytes, g.api.BodyLimit(h), g.polls.BodyLimit(h), g.broadcastLimit(h))
}
