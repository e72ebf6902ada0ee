package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// How a call that failed may have ended. A failed Publish or Push matches exactly one of *Error (refused: not applied),
// ErrNotSent (not applied) and ErrUnknownOutcome (may have been applied), except that an *Error by which the server
// itself says that it does not know matches ErrUnknownOutcome too.
var (
	// ErrNotSent says that nothing went out; the call can be repeated safely. The error names the reason and wraps it:
	// ErrNotJoined, ErrClosed, the context's error.
	ErrNotSent = errors.New("not sent")

	// ErrUnknownOutcome says that the frame went out and no answer came back: the connection or the channel broke, the
	// time was up, or the client was closed.
	ErrUnknownOutcome = errors.New("unknown outcome")
)

var (
	// ErrNotJoined says that the channel is not joined at the moment.
	ErrNotJoined = errors.New("channel is not joined")

	// ErrTopicInUse says that the client already has a channel on this topic.
	ErrTopicInUse = errors.New("topic is already in use on this client")

	// ErrClosed says that Close was called.
	ErrClosed = errors.New("client is closed")

	// ErrSlowCallbacks is why a connection was given up when more messages waited for callbacks than Config allows.
	ErrSlowCallbacks = errors.New("callbacks are too slow: message queue is full")

	// ErrPresenceTooLarge is why a connection was given up when a server told of more members than a Presence keeps.
	ErrPresenceTooLarge = errors.New("more than may be kept")

	// ErrNoHeartbeat is why a connection was given up when a heartbeat stayed unanswered.
	ErrNoHeartbeat = errors.New("no heartbeat reply")
)

// errConnectionLost is how calls in progress learn of the end of their connection.
var errConnectionLost = errors.New("connection lost")

// Error is a definite refusal by the server.
type Error struct {
	Topic    string
	Event    string          // what was asked: "phx_join", "publish", …; "phx_error" or "phx_close" when the server ended the channel
	Status   string          // of the reply, as a rule "error"; empty when the server ended the channel
	Reason   string          // the server's words: the response if it is a string, else its "reason", else all of it
	Response json.RawMessage // as it came
}

func (e *Error) Error() string {
	what := "refused"
	if e.Status == "" {
		what = "ended by the server"
	}
	if e.Reason == "" {
		return fmt.Sprintf("client: %s %s: %s", e.Event, e.Topic, what)
	}
	return fmt.Sprintf("client: %s %s: %s: %s", e.Event, e.Topic, what, e.Reason)
}

// Is makes a refusal whose reason is "unknown_outcome" match ErrUnknownOutcome, and those of names theirs.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrNameTaken:
		return e.Topic == namesTopic && e.Reason == "name_taken"
	case ErrNameRegistered:
		return e.Topic == namesTopic && e.Reason == "already_registered"
	case ErrNameNotFound:
		return e.Topic == namesTopic && e.Reason == "not_registered"
	}
	return target == ErrUnknownOutcome && strings.ReplaceAll(e.Reason, "_", " ") == ErrUnknownOutcome.Error()
}

// reasonOf finds the words in a response.
func reasonOf(response json.RawMessage) string {
	var text string
	if json.Unmarshal(response, &text) == nil && text != "" {
		return text
	}
	var object struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal(response, &object) == nil && object.Reason != "" {
		return object.Reason
	}
	if s := string(response); s != "{}" && s != "null" {
		return s
	}
	return ""
}

// HandshakeError is a connection refused over HTTP.
type HandshakeError struct {
	Status     int           // HTTP status code
	RetryAfter time.Duration // from the server's header; 0 if it sent none
	Body       string        // the beginning of the answer
}

func (e *HandshakeError) Error() string {
	text := fmt.Sprintf("server answered %d %s", e.Status, http.StatusText(e.Status))
	if e.Body != "" {
		text += ": " + e.Body
	}
	return text
}

// CloseError is a connection that the server closed.
type CloseError struct {
	Code   int // WebSocket status code
	Reason string
}

func (e *CloseError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("server closed the connection: %d", e.Code)
	}
	return fmt.Sprintf("server closed the connection: %d %s", e.Code, e.Reason)
}

// outcome is the error of a call that ended without a reply.
func outcome(event, topic string, sent bool, cause error) error {
	class := ErrNotSent
	if sent {
		class = ErrUnknownOutcome
	}
	return fmt.Errorf("client: %s %s: %w: %w", event, topic, class, cause)
}
