package api

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/proto/codec"
	"github.com/ringcast/ringcast/proto/linkpb"
)

// Error is an answer that is none of 2xx: one JSON object.
type Error struct {
	Status int    // of the response
	Code   string // "error": one word for programs
	Detail string // for people

	Offset    int // "offset" in the request's body, if HasOffset
	HasOffset bool
	PublishID string // "publish_id": the id to try again with
	Definite  bool   // "definite": nothing was published, and nothing will be

	RetryAfter time.Duration // in whole seconds, "Retry-After": when it is worth trying again; 0 if it says nothing
	Precisely  bool          // and "retry_after_ms" says it too
}

func (e *Error) Error() string { return e.Code + ": " + e.Detail }

// BadRequest is the answer to a request that makes no sense.
func BadRequest(format string, args ...any) *Error {
	return &Error{Status: fiber.StatusBadRequest, Code: "bad_request", Detail: fmt.Sprintf(format, args...)}
}

// append appends the error as JSON.
func (e *Error) append(b []byte) []byte {
	b = codec.AppendString(append(b, `{"error":`...), e.Code)
	if e.Detail != "" {
		b = codec.AppendString(append(b, `,"detail":`...), e.Detail)
	}
	if e.HasOffset {
		b = strconv.AppendInt(append(b, `,"offset":`...), int64(e.Offset), 10)
	}
	if e.PublishID != "" {
		b = codec.AppendString(append(b, `,"publish_id":`...), e.PublishID)
	}
	if e.Definite {
		b = append(b, `,"definite":true`...)
	}
	if e.Precisely {
		b = strconv.AppendInt(append(b, `,"retry_after_ms":`...), int64((e.RetryAfter+time.Millisecond-1)/time.Millisecond), 10)
	}
	return append(b, '}')
}

// Answer answers a request with the error. What is not an *Error, nor a fiber.Error or an InputError, is a bug.
func Answer(c *fiber.Ctx, err error) error {
	e := asError(err)
	if e.RetryAfter > 0 {
		c.Set(fiber.HeaderRetryAfter, strconv.Itoa(int((e.RetryAfter+time.Second-1)/time.Second)))
	}
	return send(c, e.Status, append(e.append(nil), '\n'))
}

// IsBug reports whether Answer has nothing better to say of an error than that.
func IsBug(err error) bool { return asError(err).Code == "internal" }

func asError(err error) *Error {
	var own *Error
	var input *codec.InputError
	var fe *fiber.Error
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &input):
		return &Error{
			Status: fiber.StatusBadRequest, Code: "bad_request", Detail: input.Reason, Offset: input.Offset, HasOffset: true,
		}
	case errors.As(err, &fe):
		return &Error{Status: fe.Code, Code: word(fe.Code), Detail: fe.Message}
	}
	return &Error{Status: fiber.StatusInternalServerError, Code: "internal", Detail: "a bug; the gateway's log has the rest"}
}

// word is the error code of a plain HTTP status: not_found, bad_gateway …
func word(status int) string {
	switch status {
	case fiber.StatusRequestEntityTooLarge:
		return "too_large"
	case fiber.StatusServiceUnavailable:
		return "unavailable"
	}
	return strings.ReplaceAll(strings.ToLower(http.StatusText(status)), " ", "_")
}

func send(c *fiber.Ctx, status int, body []byte) error {
	c.Set(fiber.HeaderContentType, fiber.MIMEApplicationJSON)
	c.Set(fiber.HeaderCacheControl, "no-store")
	return c.Status(status).Send(body)
}

// outcomeError is the answer to a publish that has not ended well; nil for one that has.
func outcomeError(o router.Outcome, publishID string) *Error {
	e := &Error{Detail: o.Detail, Definite: true}
	switch o.Code {
	case linkpb.Code_OK:
		return nil
	case linkpb.Code_OVERLOADED:
		e.Status, e.Code, e.RetryAfter = fiber.StatusTooManyRequests, "busy", time.Second
	case linkpb.Code_RATE_LIMITED:
		e.Status, e.Code = fiber.StatusTooManyRequests, "rate_limited"
		e.RetryAfter, e.Precisely = max(o.RetryAfter, time.Millisecond), true
	case linkpb.Code_TOO_LARGE:
		e.Status, e.Code = fiber.StatusRequestEntityTooLarge, "too_large"
	case linkpb.Code_INVALID:
		e.Status, e.Code = fiber.StatusBadRequest, "bad_request"
	case linkpb.Code_ID_REUSED:
		e.Status, e.Code, e.Detail = fiber.StatusConflict, "publish_id_reused", "the id was used with other content"
	case linkpb.Code_INTERNAL:
		e.Status, e.Code = fiber.StatusInternalServerError, "internal"
	case linkpb.Code_UNKNOWN_OUTCOME:
		e.Status, e.Code, e.Definite, e.PublishID = fiber.StatusGatewayTimeout, "unknown_outcome", false, publishID
	default:
		e.Status, e.Code, e.RetryAfter = fiber.StatusServiceUnavailable, "unavailable", time.Second
	}
	return e
}
