package gateway

import (
	"bytes"
	"errors"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"
)

const noChunks = "want Content-Length, no Transfer-Encoding"

// framingProblem says what is wrong with a request that two servers in a row could understand differently: one with two
// Host lines, with two lengths, or with chunks (RFC 9112, 3.2, 6.3 and 7.1), which this HTTP server reads too leniently.
// No client needs chunks for the bodies that a gateway takes.
func framingProblem(h *fasthttp.RequestHeader) string {
	var hosts, lengths, encodings int
	for line := range bytes.Lines(h.RawHeaders()) {
		name, _, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(name, []byte(fiber.HeaderHost)):
			hosts++
		case bytes.EqualFold(name, []byte(fiber.HeaderContentLength)):
			lengths++
		case bytes.EqualFold(name, []byte(fiber.HeaderTransferEncoding)):
			encodings++
		}
	}
	switch {
	case hosts > 1:
		return "want one Host"
	case encodings > 0:
		return noChunks
	case lengths > 1:
		return "want one Content-Length"
	}
	return ""
}

// checkFraming refuses requests with a framing problem. Their connection ends, so that nothing behind them is taken for a
// request.
func checkFraming(c *fiber.Ctx) error {
	if problem := framingProblem(&c.Request().Header); problem != "" {
		c.Context().SetConnectionClose()
		return fiber.NewError(fiber.StatusBadRequest, problem)
	}
	return c.Next()
}

// unframed turns the error that a request with a framing problem ended with, as a body that is too large, into what it is.
func unframed(c *fiber.Ctx, err error) error {
	if !errors.Is(err, fiber.ErrRequestEntityTooLarge) {
		return err
	}
	problem := framingProblem(&c.Request().Header)
	if len(c.Request().Header.RawHeaders()) == 0 {
		problem = noChunks // the server forgets the header of a chunked request that it refuses, and of no other
	}
	if problem == "" {
		return err
	}
	return fiber.NewError(fiber.StatusBadRequest, problem)
}

// headerReceived says how large a request's body may be, before it is read. One with a framing problem is as good as not
// read at all. A panic would end the process: it is called before anything that recovers.
func (g *Gateway) headerReceived(h *fasthttp.RequestHeader) (cfg fasthttp.RequestConfig) {
	defer func() {
		if p := recover(); p != nil {
			g.panics.Add(1)
			g.log.Error("HTTP header panicked", zap.Any("panic", p), zap.Stack("stack"))
			cfg.MaxRequestBodySize = 1
		}
	}()
	if framingProblem(h) != "" {
		return fasthttp.RequestConfig{MaxRequestBodySize: 1}
	}
	return fasthttp.RequestConfig{MaxRequestBodySize: max(g.api.BodyLimit(h), g.polls.BodyLimit(h), g.broadcastLimit(h))}
}
