package gateway

import (
	"bytes"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
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
		endUnread(c.Context())
		return fiber.NewError(fiber.StatusBadRequest, problem)
	}
	return c.Next()
}
