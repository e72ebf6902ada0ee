package session

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ringcast/ringcast/gateway/auth"
	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
	"github.com/ringcast/ringcast/proto/linkpb"
)

// namesTopic is the topic on which Phoenix clients register names and get what is sent to them. It is no topic of the ring:
// joining it costs nothing elsewhere.
const namesTopic = "names"

const (
	maxNameBytes = 200
	maxFromBytes = 255
	maxIDBytes   = 255
)

// more is what few sessions have.
type more struct {
	west  *west  // nil but for WEST's clients
	plain *plain // nil but for plain clients
	names names
}

// names are a session's exclusive names and, for a Phoenix client, its membership of the topic names.
type names struct {
	joined  bool
	joinRef codec.Ref
	from    string  // the sender of what it sends
	held    []*name // or asked for
}

// name is one exclusive name of a session.
type name struct {
	router.Name
	text string
	held bool // the owner has said so
}

// extras returns what few sessions have; this one has it from now on.
func (s *Session) extras() *more {
	if s.more == nil {
		s.more = &more{}
	}
	return s.more
}

// checkName returns what is wrong with a name, "" if nothing is.
func checkName(text string) string {
	switch {
	case text == "" || len(text) > maxNameBytes:
		return "invalid name: want 1 to 200 bytes"
	case !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl):
		return "invalid name: want UTF-8 without control characters"
	}
	return ""
}

// allowed reports whether the client has a right on a topic by the token of its session.
func (s *Session) allowed(topic string, right auth.Right) bool {
	g := s.guard
	return g == nil || g.id != nil && g.id.May(topic)&right != 0
}

// What a client is told about names, besides the reasons that publishes have.
const (
	nameTaken      = "name_taken"
	nameRegistered = "already_registered"
	nameNotFound   = "not_registered"
	nameForbidden  = "forbidden"
	tooManyNames   = "too many names"
)

func (n *names) find(text string) *name {
	for _, one := range n.held {
		if one.text == text {
			return one
		}
	}
	return nil
}

func (n *names) remove(one *name) {
	for i := range n.held {
		if n.held[i] == one {
			last := len(n.held) - 1
			n.held[i], n.held[last] = n.held[last], nil
			n.held = n.held[:last]
			return
		}
	}
}

// register asks for a name and calls done with what came of it: "" if the session holds it now, else the reason why not.
func (s *Session) register(text string, done func(reason, detail string)) {
	own := &s.extras().names
	problem := checkName(text)
	switch {
	case problem != "":
	case own.find(text) != nil:
		problem = nameRegistered
	case len(own.held) >= s.ss.cfg.MaxChannels:
		problem = tooManyNames
	case !s.allowed(router.NameTopic(text), auth.Join):
		problem = nameForbidden
	}
	if problem != "" {
		done(problem, "")
		return
	}
	n := &name{text: text}
	n.Received = func(event string, payload []byte) { s.received(n, event, payload) }
	n.Lost = func() { s.nameLost(n) }
	own.held = append(own.held, n)
	s.ss.local.Register(text, &n.Name, func(o router.Outcome) {
		if n.held = o.OK(); !n.held {
			own.remove(n)
		}
		done(nameReason(o), o.Detail)
	})
}

// unregister gives a name up and calls done with "" when its owner has noted it.
func (s *Session) unregister(text string, done func(reason, detail string)) {
	own := &s.extras().names
	n := own.find(text)
	if n == nil || !n.held {
		done(nameNotFound, "")
		return
	}
	own.remove(n)
	s.ss.local.Release(&n.Name, func(o router.Outcome) {
		if o.Code == linkpb.Code_NAME_NOT_FOUND {
			o.Code = linkpb.Code_OK // it was gone already
		}
		done(nameReason(o), o.Detail)
	})
}

// sendTo sends a payload to the holder of a name and calls done with "" when it is on its way.
func (s *Session) sendTo(text, event string, payload []byte, done func(reason, detail string)) {
	switch {
	case checkName(text) != "":
		done(checkName(text), "")
	case !s.allowed(router.NameTopic(text), auth.Publish):
		done(nameForbidden, "")
	default:
		s.inFlight++
		s.ss.local.SendTo(text, event, payload, func(o router.Outcome) {
			s.inFlight--
			done(nameReason(o), o.Detail)
		})
	}
}

func nameReason(o router.Outcome) string {
	switch o.Code {
	case linkpb.Code_OK:
		return ""
	case linkpb.Code_NAME_TAKEN:
		return nameTaken
	case linkpb.Code_NAME_NOT_FOUND:
		return nameNotFound
	}
	return reason(o.Code)
}

// received hands a message for a name to the client.
func (s *Session) received(n *name, event string, payload []byte) {
	p := codec.Push{Topic: router.NameTopic(n.text), Event: event, Payload: payload}
	var joinRef codec.Ref
	if s.more.west == nil {
		p.Topic, joinRef = namesTopic, s.more.names.joinRef
	}
	s.pushTo(joinRef, &p)
}

// pushTo sends one push to this client alone.
func (s *Session) pushTo(joinRef codec.Ref, p *codec.Push) {
	op := socket.OpText
	cd := codec.ForKind(s.codec)
	if cd.Binary(p) {
		op = socket.OpBinary
	}
	s.ss.buf = cd.AppendBody(cd.AppendHead(s.ss.buf[:0], joinRef, nil, p), p)
	s.conn.Send(op, s.ss.buf)
}

// nameLost tells the client that a name is not its own any more.
func (s *Session) nameLost(n *name) {
	s.more.names.remove(n)
	if w := s.more.west; w != nil {
		w.reply(nil, n.text, "registration_lost")
		return
	}
	payload := append(codec.AppendString([]byte(`{"name":`), n.text), '}')
	s.pushTo(s.more.names.joinRef, &codec.Push{Topic: namesTopic, Event: "lost", Payload: payload})
}

// releaseNames gives all names up.
func (s *Session) releaseNames() {
	if s.more == nil {
		return
	}
	for _, n := range s.more.names.held {
		s.ss.local.Release(&n.Name, nil)
	}
	s.more.names.held = nil
}

// namesFrame handles a Phoenix client's frame on the topic names.
func (s *Session) namesFrame(f *codec.Frame) {
	own := &s.extras().names
	switch event := string(f.Event); {
	case event == "phx_join":
		s.joinNames(f)
	case event == "phx_leave":
		joined, joinRef := own.joined, own.joinRef
		if joined && f.JoinRef != nil && !bytes.Equal(f.JoinRef, joinRef) {
			return
		}
		s.releaseNames()
		own.joined = false
		s.reply(f.JoinRef, f.Ref, namesTopic, "ok", nil)
		if joined {
			s.namesControl(joinRef, "phx_close")
		}
	case event == "access_token":
		s.refresh(f)
	case !own.joined:
		s.refuse(nil, f.Ref, namesTopic, "unmatched topic")
	case f.JoinRef != nil && !bytes.Equal(f.JoinRef, own.joinRef):
	default:
		s.namesPush(f, event)
	}
}

// joinNames joins the topic names. The names that a session has stay with it when it joins anew.
func (s *Session) joinNames(f *codec.Frame) {
	own := &s.extras().names
	var params struct {
		From string `json:"from"`
	}
	if err := json.Unmarshal(f.Payload, &params); err != nil || len(params.From) > maxFromBytes {
		s.refuse(f.JoinRef, f.Ref, namesTopic, "invalid from: want a string of at most 255 bytes")
		return
	}
	if s.guard != nil && s.guard.id == nil {
		s.refuse(f.JoinRef, f.Ref, namesTopic, "unauthorized")
		return
	}
	again, joinRef := own.joined, own.joinRef
	own.joined, own.joinRef, own.from = true, bytes.Clone(f.JoinRef), params.From
	s.reply(f.JoinRef, f.Ref, namesTopic, "ok", nil)
	if again {
		s.namesControl(joinRef, "phx_close")
	}
}

func (s *Session) namesControl(joinRef codec.Ref, event string) {
	s.ss.buf = codec.AppendControl(s.ss.buf[:0], codec.ForKind(s.codec), joinRef, namesTopic, event)
	s.conn.Send(socket.OpText, s.ss.buf)
}

// namesPush handles register, unregister and send.
func (s *Session) namesPush(f *codec.Frame, event string) {
	joinRef, ref := s.more.names.joinRef, bytes.Clone(f.Ref)
	done := func(reason, detail string) {
		switch {
		case s.closed || ref == nil:
		case reason == "":
			s.reply(joinRef, ref, namesTopic, "ok", nil)
		case detail == "":
			s.refuse(joinRef, ref, namesTopic, reason)
		default:
			s.refuseDetail(joinRef, ref, namesTopic, reason, detail)
		}
	}
	var p struct {
		Name     *string         `json:"name"`
		ID       string          `json:"id"`
		Data     json.RawMessage `json:"data"`
		Encoding string          `json:"encoding"`
	}
	if f.Binary || json.Unmarshal(f.Payload, &p) != nil || p.Name == nil || len(p.ID) > maxIDBytes {
		done(`invalid payload: want {"name": "…"}, to send also "data", and perhaps "id"`, "")
		return
	}
	switch event {
	case "register":
		s.register(*p.Name, done)
	case "unregister":
		s.unregister(*p.Name, done)
	case "send":
		if len(p.Data) == 0 {
			done("no data", "")
			return
		}
		s.sendTo(*p.Name, codec.WestMessage, appendNamePayload(*p.Name, s.more.names.from, p.ID, p.Encoding, p.Data), done)
	default:
		done("unknown event: want register, unregister or send", "")
	}
}

// appendNamePayload returns the payload of a message to a name whose data is JSON already.
func appendNamePayload(name, from, id, encoding string, data []byte) []byte {
	dst := codec.AppendString([]byte(`{"name":`), name)
	for _, m := range [...]struct{ key, value string }{{"from", from}, {"id", id}} {
		if m.value != "" {
			dst = codec.AppendString(append(append(append(dst, `,"`...), m.key...), `":`...), m.value)
		}
	}
	dst = append(append(dst, `,"data":`...), data...)
	if encoding != "" {
		dst = codec.AppendString(append(dst, `,"encoding":`...), encoding)
	}
	return append(dst, '}')
}
