package session

import (
	"strconv"
	"time"

	"github.com/ringcast/ringcast/gateway/admission"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
	"github.com/ringcast/ringcast/shared/rate"
)

// Rates bound what one session does in a second. They share the session's time: a client that joins half of what it may
// has half a second left for everything else. The zero value bounds nothing.
type Rates struct {
	Publishes rate.Limit // and what else topic servers pass on: messages to names, changes of presence
	Joins     rate.Limit // and registrations of names
	Frames    rate.Limit // everything else: heartbeats, leaves, tokens
}

// busyPause is when a client is told to try again what was refused because too much is in flight. Answers come in a moment, or,
// if the owner cannot be reached, not for a while.
const busyPause = 100 * time.Millisecond

// admit asks whether a client may go on with something: by the rate of its session and what it has in flight, then by the state of
// the gateway. What it may not is to be answered, and then refused.
func (s *Session) admit(what admission.What) admission.Refusal {
	cfg := &s.ss.cfg
	limit := cfg.Rates.Frames
	switch what {
	case admission.Publish:
		limit = cfg.Rates.Publishes
	case admission.Join:
		limit = cfg.Rates.Joins
	}
	if wait := s.conn.Take(limit); wait > 0 {
		cfg.Gate.Count(what, admission.RateLimited)
		return admission.Refusal{Reason: admission.RateLimited, After: wait, Own: true}
	}
	if what == admission.Publish && cfg.MaxInFlight > 0 && int(s.inFlight) >= cfg.MaxInFlight {
		cfg.Gate.Count(what, admission.Busy)
		return admission.Refusal{Reason: admission.Busy, After: busyPause}
	}
	switch what {
	case admission.Publish:
		return cfg.Gate.Publish()
	case admission.Join:
		return cfg.Gate.Join(s.conn.Loop().Now())
	}
	return admission.Refusal{}
}

// refused is called when the client has been told of a refusal. One that is for its own rate brings it nearer to being
// sent away.
func (s *Session) refused(r admission.Refusal) {
	if r.Own {
		s.conn.Strike()
	}
}

// limited answers a frame that the client may not go on with, and reports whether that was so.
func (s *Session) limited(f *codec.Frame) bool {
	r := s.admit(kindOf(f))
	if !r.Refused() {
		return false
	}
	s.reply(f.JoinRef, f.Ref, string(f.Topic), "error", refusalResponse(r.Reason.String(), r.After, ""))
	s.refused(r)
	return true
}

// kindOf says what a Phoenix frame asks for.
func kindOf(f *codec.Frame) admission.What {
	names := string(f.Topic) == namesTopic
	switch event := string(f.Event); {
	case event == "phx_join", names && event == "register":
		return admission.Join
	case event == "phx_leave", event == "access_token", event == "heartbeat" && string(f.Topic) == "phoenix", names && event != "send":
		return admission.Frame
	}
	return admission.Publish
}

// refusalResponse is the response of an error reply that says when to try again, and perhaps more for people to read.
func refusalResponse(reason string, after time.Duration, detail string) []byte {
	response := codec.AppendString([]byte(`{"reason":`), reason)
	response = strconv.AppendInt(append(response, `,"retry_after_ms":`...), max(1, admission.Refusal{After: after}.Millis()), 10)
	if detail != "" {
		response = codec.AppendString(append(response, `,"detail":`...), detail)
	}
	return append(response, '}')
}

// limited closes the socket of a plain client that may not go on with something, and reports whether that was so. There is
// no other way to tell it.
func (p *plain) limited(what admission.What) bool {
	r := p.admit(what)
	switch {
	case !r.Refused():
		return false
	case r.Own:
		p.conn.CloseOverRate(r.String())
	default:
		p.conn.Close(socket.CloseTryAgain, r.String())
	}
	return true
}

// limited answers a command that the client may not go on with, and reports whether that was so.
func (w *west) limited(f *codec.Frame) bool {
	what := admission.Frame
	switch string(f.Event) {
	case "subscribe", "register":
		what = admission.Join
	case "publish", "send":
		what = admission.Publish
	}
	r := w.admit(what)
	if !r.Refused() {
		return false
	}
	w.replyRefused(f.Ref, string(f.Topic), r.Reason.String(), r.After)
	w.refused(r)
	return true
}

// replyRefused says why a command was not followed, and in its data how many milliseconds to wait.
func (w *west) replyRefused(id codec.Ref, channel, reason string, after time.Duration) {
	w.replyData(id, channel, reason, strconv.AppendInt(nil, max(1, admission.Refusal{After: after}.Millis()), 10))
}
