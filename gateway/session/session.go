// Package session is one client's conversation: it decodes what the client sends, keeps its channels, and answers.
//
// A session belongs to its connection's event loop: all its methods run there, so it has no locks.
package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ringcast/ringcast/gateway/admission"
	"github.com/ringcast/ringcast/gateway/auth"
	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/trace"
)

// closeBadFrame is the close code for what no client of the protocol sends.
const closeBadFrame = 4400

// maxEventBytes is the length of the longest event name.
const maxEventBytes = 64

// DefaultMaxChannels is how many channels a session may have, as in Phoenix.
const DefaultMaxChannels = 100

// Config says what sessions may do. MaxChannels 0 means the default.
type Config struct {
	Topics      Topics
	MaxChannels int
	// Auth verifies the tokens of clients; nil means that they need none. Revoked reports tokens that are good and do not
	// count all the same; it may be nil, and any loop may call it.
	Auth    *auth.Verifier
	Revoked func(*auth.Identity) bool
	Rates   Rates
	// MaxInFlight is how many publishes of one session may have no answer yet; 0 is any number. Plain WebSockets, whose clients
	// get no answers that they could wait for, are bounded by their rate alone.
	MaxInFlight int
	Gate        *admission.Gate // nil admits everything
}

// Sessions makes the sessions of one event loop and holds what they share.
type Sessions struct {
	// Static.
	cfg   Config
	local *router.Local

	now func() time.Time

	// Owned by the loop.
	buf       []byte                   // the reply being encoded
	publish   linkpb.Publish           // the publish being handed over
	watched   watched                  // sessions whose tokens end some time
	ticked    int64                    // when Tick was called last, in Unix seconds
	attending map[*channel]*attendance // the channels that take part in presence; nil until one does
	keys      map[*channel]string      // what channels that do not yet will be present under; nil until one has one
}

// New returns the sessions of the loop that local belongs to. The router tells them through local when it ends a
// channel.
func New(cfg Config, local *router.Local) *Sessions {
	if cfg.MaxChannels <= 0 {
		cfg.MaxChannels = DefaultMaxChannels
	}
	ss := &Sessions{cfg: cfg, local: local, now: time.Now}
	local.Ended = func(c *hub.Channel) { c.Conn.Handler().(*Session).ended(c) }
	local.Witness(ss.witness)
	return ss
}

// witness notes the ends of a connection's channels while its queue can still be looked at.
func (ss *Sessions) witness(conn *socket.Conn, end socket.End, unsent bool) {
	s, ok := conn.Handler().(*Session)
	if !ok {
		return // it ends before it was opened
	}
	for _, c := range s.channels {
		ss.local.Departing(&c.Channel, "socket closed: "+end.String(), unsent)
	}
}

// Open returns the session of a new connection, whose handshake had the token of id, nil for none. Called on the loop. It
// closes the connection if id may not go on.
func (ss *Sessions) Open(conn *socket.Conn, kind codec.Kind, id *auth.Identity) *Session {
	s := &Session{ss: ss, conn: conn, codec: kind}
	s.protect(id)
	return s
}

// Session is one client's conversation. It implements socket.Handler.
type Session struct {
	// Static.
	ss    *Sessions
	conn  *socket.Conn
	codec codec.Kind
	// realtime is set for clients of @supabase/realtime-js, of either version.
	realtime bool

	// Owned by the loop.
	closed   bool
	inFlight int32      // publishes that have no answer yet
	channels []*channel // few: a scan beats a map, in memory by far
	guard    *guard     // nil where clients need no tokens
	more     *more      // nil for most
}

// channel is a session's membership of a topic, joined or on its way there.
type channel struct {
	hub.Channel
	topic   string
	joining *joining // nil once joined
}

// joining is what a join needs until its answer.
type joining struct {
	ref codec.Ref
	old *channel // joined; ends with this join's answer, nil if there is none
}

// Message handles one client frame.
func (s *Session) Message(conn *socket.Conn, op socket.Opcode, data []byte) {
	if m := s.more; m != nil && m.west != nil {
		m.west.message(op, data)
		return
	} else if m != nil && m.plain != nil {
		m.plain.message(op, data)
		return
	}
	f, err := codec.ForKind(s.codec).Decode(data, op == socket.OpBinary)
	if err != nil {
		conn.Close(closeBadFrame, err.Error())
		return
	}
	if s.limited(&f) {
		return
	}
	if string(f.Topic) == namesTopic {
		s.namesFrame(&f)
		return
	}
	switch string(f.Event) {
	case "heartbeat":
		if string(f.Topic) == "phoenix" {
			s.reply(f.JoinRef, f.Ref, "phoenix", "ok", nil)
			return
		}
		s.push(&f)
	case "phx_join":
		s.join(&f)
	case "phx_leave":
		s.leave(&f)
	case "access_token":
		s.refresh(&f)
	default:
		s.push(&f)
	}
}

// Closed leaves all channels.
func (s *Session) Closed(*socket.Conn, error) {
	s.closed = true
	for _, c := range s.channels {
		s.ss.local.Leave(c.topic, &c.Channel)
		s.unattend(c, true)
	}
	s.channels = nil
	s.unprotect()
	s.releaseNames()
	if s.more != nil && s.more.west != nil {
		s.more.west.stop()
	}
}

func (s *Session) find(topic []byte) *channel {
	for _, c := range s.channels {
		if c.topic == string(topic) {
			return c
		}
	}
	return nil
}

func (s *Session) remove(c *channel) {
	if s.guard != nil {
		s.guard.drop(c)
	}
	for i, other := range s.channels {
		if other == c {
			last := len(s.channels) - 1
			s.channels[i], s.channels[last] = s.channels[last], nil
			s.channels = s.channels[:last]
			return
		}
	}
}

// join handles phx_join. A topic that the session has joined already is joined anew: the old channel ends, and the
// client is told so after the reply to the new join, as Phoenix does.
func (s *Session) join(f *codec.Frame) {
	topic := string(f.Topic)
	if topic == "phoenix" {
		s.refuse(f.JoinRef, f.Ref, topic, "reserved event")
		return
	}
	switch v, text := s.ss.cfg.Topics.judge(topic); v {
	case invalid:
		s.refuse(f.JoinRef, f.Ref, topic, text)
		return
	case invalidSeedName:
		s.reply(f.JoinRef, f.Ref, topic, "error", codec.AppendString(nil, text))
		return
	case unmatched:
		s.refuse(nil, f.Ref, topic, "unmatched topic")
		return
	}
	own, reason, detail := s.authorize(topic, f.Payload)
	if reason != "" {
		s.refuseDetail(f.JoinRef, f.Ref, topic, reason, detail)
		return
	}
	params, err := s.parseJoin(f.Payload)
	if err != nil {
		s.refuse(f.JoinRef, f.Ref, topic, err.Error())
		return
	}
	c := &channel{topic: topic, joining: &joining{ref: bytes.Clone(f.Ref)}}
	c.Conn, c.JoinRef, c.Codec, c.Positions, c.Slow = s.conn, bytes.Clone(f.JoinRef), s.codec, params.positions, params.slow
	if old := s.find(f.Topic); old != nil {
		s.replace(old, c)
	} else if len(s.channels) >= s.ss.cfg.MaxChannels {
		s.refuse(f.JoinRef, f.Ref, topic, "too many channels joined")
		return
	}
	if s.realtime {
		s.configure(c, &params)
	}
	s.channels = append(s.channels, c)
	s.adopt(c, own)
	if params.presence == nil {
		s.ss.local.Join(topic, &c.Channel, params.place, func(o router.Outcome) { s.joined(c, o) })
		return
	}
	// Present first, so that a topic with too many refuses the join.
	s.attend(c, params.presence, func(o router.Outcome) {
		if !o.OK() {
			s.joined(c, o)
			return
		}
		s.ss.local.Join(topic, &c.Channel, params.place, func(o router.Outcome) { s.joined(c, o) })
	})
}

// replace ends old in favour of c. A join that still waits for its answer gets one now, so that every join has one and
// the channel it was to replace is told its end by c instead.
func (s *Session) replace(old, c *channel) {
	s.remove(old)
	s.ss.local.Leave(old.topic, &old.Channel)
	s.unattend(old, true)
	if old.joining == nil {
		c.joining.old = old
		return
	}
	c.joining.old = old.joining.old
	s.refuse(old.JoinRef, old.joining.ref, old.topic, "superseded by a later join")
}

// joined ends a join.
func (s *Session) joined(c *channel, o router.Outcome) {
	a := s.ss.attending[c]
	if o.OK() {
		s.reply(c.JoinRef, c.joining.ref, c.topic, "ok", c.joinResponse(o, a))
	} else {
		s.remove(c)
		s.unattend(c, false)
		s.refuseOutcome(c.JoinRef, c.joining.ref, c.topic, o)
	}
	s.endReplaced(c)
	if a != nil && o.OK() {
		a.show()
	}
}

// joinResponse tells a channel with positions where it begins, and one with presence the key that was made for it.
func (c *channel) joinResponse(o router.Outcome, a *attendance) (response []byte) {
	if c.Positions {
		response = o.Position.AppendRef([]byte(`{"since":`))
		response = append(response, `,"recovered":`...)
		response = strconv.AppendBool(response, o.Recovered)
	}
	if a != nil && a.made {
		sep := byte(',')
		if response == nil {
			sep = '{'
		}
		response = codec.AppendString(append(append(response, sep), `"presence":{"key":`...), a.key)
		response = append(response, '}')
	}
	if response == nil {
		return nil
	}
	return append(response, '}')
}

// endReplaced tells the client the end of the channel that c has replaced, and makes c a joined one.
func (s *Session) endReplaced(c *channel) {
	if c.joining != nil && c.joining.old != nil {
		s.control(c.joining.old, "phx_close")
	}
	c.joining = nil
}

// leave handles phx_leave. Leaving what is not joined is no error; a leave of an older join of the topic is ignored.
func (s *Session) leave(f *codec.Frame) {
	c := s.find(f.Topic)
	if c != nil && stale(f, c) {
		return
	}
	s.reply(f.JoinRef, f.Ref, string(f.Topic), "ok", nil)
	if c != nil {
		s.remove(c)
		s.ss.local.Leave(c.topic, &c.Channel)
		s.unattend(c, false)
		s.endReplaced(c)
		s.control(c, "phx_close")
	}
}

// stale reports whether a frame is for an older join of the topic. A frame without join_ref is for the current one.
func stale(f *codec.Frame, c *channel) bool {
	return f.JoinRef != nil && !bytes.Equal(f.JoinRef, c.JoinRef)
}

// push handles every event that is none of the protocol's own: it is a publish.
func (s *Session) push(f *codec.Frame) {
	c := s.find(f.Topic)
	switch {
	case c == nil:
		s.refuse(nil, f.Ref, string(f.Topic), "unmatched topic")
		return
	case stale(f, c) || s.presenceEvent(c, f):
		return
	case !s.may(c, auth.Publish):
		s.refuseDetail(c.JoinRef, f.Ref, c.topic, "forbidden", "the token does not allow to publish to this topic")
		return
	}
	event, payload := f.Event, f.Payload
	p := &s.ss.publish
	p.IdHigh, p.IdLow, p.Trace = 0, 0, nil
	if string(event) == "publish" && !f.Binary {
		var options []byte
		var err error
		if event, payload, options, err = codec.SplitPublish(f.Payload); err == nil && options != nil {
			err = parseOptions(options, p)
		}
		if err != nil {
			s.refuse(c.JoinRef, f.Ref, c.topic, err.Error())
			return
		}
	}
	if problem := judgePublish(string(event), payload, f.Binary); problem != "" {
		s.refuse(c.JoinRef, f.Ref, c.topic, problem)
		return
	}
	p.Topic, p.Event, p.Payload, p.Binary = c.topic, string(event), payload, f.Binary
	ref := bytes.Clone(f.Ref)
	s.inFlight++
	s.ss.local.Publish(p, func(o router.Outcome) { s.published(c, ref, o) })
	p.Payload = nil // it aliases the loop's read buffer
}

// parseOptions reads the options of a publish: its id, and the trace context that it is a part of.
func parseOptions(options []byte, p *linkpb.Publish) (err error) {
	var o struct {
		ID          *string `json:"id"`
		Traceparent *string `json:"traceparent"`
	}
	if err := json.Unmarshal(options, &o); err != nil || o.ID == nil && o.Traceparent == nil {
		return errors.New(`bad publish: options: want {"id": "…"}`)
	}
	if o.Traceparent != nil {
		p.Trace = trace.Parse(*o.Traceparent)
	}
	if o.ID != nil {
		if p.IdHigh, p.IdLow, err = router.PublishID(*o.ID); err != nil {
			return fmt.Errorf("bad publish: id: %w", err)
		}
	}
	return nil
}

// judgePublish returns what is wrong with a publish, "" if nothing is.
func judgePublish(event string, payload []byte, binary bool) string {
	switch {
	case event == "":
		return "invalid event: empty"
	case len(event) > maxEventBytes:
		return "invalid event: more than 64 bytes"
	case strings.HasPrefix(event, "phx_"), event == eventPresenceState, event == eventPresenceDiff:
		return "reserved event"
	case !binary && !codec.IsObject(payload):
		return "payload must be an object"
	}
	return ""
}

// published ends a publish.
func (s *Session) published(c *channel, ref codec.Ref, o router.Outcome) {
	s.inFlight--
	if o.OK() && c.NoEcho {
		s.ss.local.Own(&c.Channel, o.Position)
	}
	switch {
	case s.closed || ref == nil || o.OK() && c.NoAck:
	case o.OK() && c.Positions:
		s.reply(c.JoinRef, ref, c.topic, "ok", append(o.Position.AppendRef([]byte(`{"position":`)), '}'))
	case o.OK():
		s.reply(c.JoinRef, ref, c.topic, "ok", nil)
	default:
		s.refuseOutcome(c.JoinRef, ref, c.topic, o)
	}
}

// ended tells the client that the router has ended a channel. Its library joins again.
func (s *Session) ended(hc *hub.Channel) {
	for _, c := range s.channels {
		if &c.Channel == hc {
			s.remove(c)
			s.unattend(c, true)
			if s.more != nil && s.more.west != nil {
				s.more.west.lost(c)
				return
			}
			s.control(c, "phx_error")
			return
		}
	}
}

// reply sends a phx_reply.
func (s *Session) reply(joinRef, ref codec.Ref, topic, status string, response []byte) {
	ss := s.ss
	ss.buf = codec.ForKind(s.codec).AppendReply(ss.buf[:0], joinRef, ref, topic, status, response)
	s.conn.Send(socket.OpText, ss.buf, nil)
}

// refuse sends an error reply with a reason.
func (s *Session) refuse(joinRef, ref codec.Ref, topic, reason string) {
	response := append(codec.AppendString([]byte(`{"reason":`), reason), '}')
	s.reply(joinRef, ref, topic, "error", response)
}

// refuseDetail is refuse with more for people to read.
func (s *Session) refuseDetail(joinRef, ref codec.Ref, topic, reason, detail string) {
	response := codec.AppendString([]byte(`{"reason":`), reason)
	response = codec.AppendString(append(response, `,"detail":`...), detail)
	s.reply(joinRef, ref, topic, "error", append(response, '}'))
}

// refuseOutcome sends the error reply for a router's outcome.
func (s *Session) refuseOutcome(joinRef, ref codec.Ref, topic string, o router.Outcome) {
	switch o.Code {
	case linkpb.Code_RATE_LIMITED:
		s.reply(joinRef, ref, topic, "error", refusalResponse(reason(o.Code), o.RetryAfter, ""))
		return
	case linkpb.Code_OVERLOADED:
		s.reply(joinRef, ref, topic, "error", refusalResponse(reason(o.Code), busyPause, o.Detail))
		return
	}
	s.refuseDetail(joinRef, ref, topic, reason(o.Code), o.Detail)
}

// control sends phx_close or phx_error for a channel.
func (s *Session) control(c *channel, event string) {
	if s.more != nil && s.more.plain != nil {
		s.more.plain.lost(c)
		return
	}
	ss := s.ss
	ss.buf = codec.AppendControl(ss.buf[:0], codec.ForKind(s.codec), c.JoinRef, c.topic, event)
	s.conn.Send(socket.OpText, ss.buf, nil)
}

// reason is the word that Phoenix clients get for an error code. Only unknown_outcome leaves open whether the message
// was published.
func reason(code linkpb.Code) string {
	switch code {
	case linkpb.Code_OVERLOADED:
		return "busy"
	case linkpb.Code_RATE_LIMITED:
		return "rate_limited"
	case linkpb.Code_TOO_LARGE:
		return "too_large"
	case linkpb.Code_INVALID:
		return "invalid"
	case linkpb.Code_TOO_MANY:
		return "too many presences"
	case linkpb.Code_ID_REUSED:
		return "publish_id reused with different content"
	case linkpb.Code_UNKNOWN_OUTCOME:
		return "unknown_outcome"
	case linkpb.Code_INTERNAL:
		return "internal"
	default:
		return "unavailable"
	}
}
