package gateway

import (
	"bytes"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/ringcast/ringcast/gateway/api"
)

const (
	// answerTimeout is how long a client may take to take the answer to an HTTP request.
	answerTimeout = 30 * time.Second

	// smallAnswer is the size from which an answer counts, in bytes. Smaller ones are no more than what a connection has anyway.
	smallAnswer = 16 << 10
)

// answers bounds the memory of answers to HTTP requests that their clients have not taken yet: what is remembered of a topic,
// who has joined it, the frames of a long poll. One of them may have some MiB, a client may ask for many, and not read.
//
// Reads are refused while there is no room. Long polls are refused before they take anything out of a session's queue, so
// that nothing is lost: what they have taken counts, and waits, in any case.
type answers struct {
	most int64 // bytes
	held atomic.Int64
}

// full reports whether there is no room for another answer.
func (a *answers) full() bool { return a.held.Load() >= a.most }

// bound counts what the handlers behind it answer until it is written, or cannot be.
func (a *answers) bound(c *fiber.Ctx) error {
	if err := c.Next(); err != nil {
		return err
	}
	resp := c.Response()
	body := resp.Body()
	if resp.IsBodyStream() || len(body) < smallAnswer {
		return nil
	}
	n := int64(len(body))
	if a.held.Add(n) > a.most && c.Method() == fiber.MethodGet && api.Owns(c.Path()) {
		a.held.Add(-n)
		resp.ResetBody()
		return &api.Error{
			Status: fiber.StatusServiceUnavailable, Code: "overloaded", RetryAfter: time.Second, Precisely: true,
			Detail: "too many answers wait for their clients",
		}
	}
	resp.SwapBody(nil) // the memory is ours now, and the server's buffers stay small
	resp.SetBodyStream(&answer{Reader: bytes.NewReader(body), done: func() { a.held.Add(-n) }}, len(body))
	return nil
}

// answer is a body that says when it is not needed any more: the server closes it once, written or not.
type answer struct {
	*bytes.Reader
	done func()
}

// Close implements io.Closer.
func (a *answer) Close() error {
	a.done()
	return nil
}
