package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"unicode/utf8"

	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/proto/codec"
)

const (
	// maxPresenceKey is the length of the longest key that a channel is present under.
	maxPresenceKey = 255
	// maxPresenceMeta is the size of the largest meta, in bytes without white space.
	maxPresenceMeta = 4 << 10
)

// The events of presence. Two are a client's requests, two are sent by gateways only.
const (
	eventPresenceUpdate = "presence_update"
	eventPresenceLeave  = "presence_leave"
	eventPresenceState  = "presence_state"
	eventPresenceDiff   = "presence_diff"
)

// attendance is a channel's part in presence.
type attendance struct {
	*router.Attendance
	key   string
	made  bool // the key was made up here; the client is told it
	shows bool // show was called
}

// show begins to tell the channel who is there.
func (a *attendance) show() {
	if !a.shows {
		a.shows = true
		a.Show()
	}
}

// presenceParams are what a join says about presence.
type presenceParams struct {
	key  string // "" if the gateway is to make one up
	meta []byte // nil if the channel is not to be present yet
}

// parsePresence reads the presence key of a join's params; nil without one.
func parsePresence(value json.RawMessage) (*presenceParams, error) {
	if value == nil || string(value) == "null" {
		return nil, nil
	}
	var p struct {
		Key  *string         `json:"key"`
		Meta json.RawMessage `json:"meta"`
	}
	if !codec.IsObject(value) || json.Unmarshal(value, &p) != nil {
		return nil, errors.New(`invalid presence: want {"key": "…", "meta": {…}}`)
	}
	params := &presenceParams{meta: []byte("{}")}
	if p.Key != nil {
		if err := judgePresenceKey(*p.Key); err != nil {
			return nil, err
		}
		params.key = *p.Key
	}
	var err error
	switch {
	case string(p.Meta) == "null":
		params.meta = nil
	case p.Meta != nil:
		params.meta, err = compactMeta(p.Meta)
	}
	return params, err
}

// judgePresenceKey returns what is wrong with a key, nil if nothing is.
func judgePresenceKey(key string) error {
	switch {
	case key == "":
		return errors.New("invalid presence key: empty")
	case len(key) > maxPresenceKey:
		return fmt.Errorf("invalid presence key: %d bytes, at most %d are allowed", len(key), maxPresenceKey)
	case !utf8.ValidString(key):
		return errors.New("invalid presence key: not UTF-8")
	}
	switch key {
	// Clients keep presences in plain JavaScript objects, in which these keys find something else.
	case "__proto__", "prototype", "constructor", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable", "toLocaleString",
		"toString", "valueOf", "__defineGetter__", "__defineSetter__", "__lookupGetter__", "__lookupSetter__":
		return errors.New("invalid presence key: reserved")
	}
	return nil
}

// compactMeta checks a meta and returns a copy of it without white space.
func compactMeta(meta []byte) ([]byte, error) {
	if !codec.IsObject(meta) {
		return nil, errors.New("invalid presence meta: want an object")
	}
	var buf bytes.Buffer
	if err := json.Compact(&buf, meta); err != nil {
		return nil, errors.New("invalid presence meta: want an object")
	}
	if n := buf.Len(); n > maxPresenceMeta {
		return nil, fmt.Errorf("invalid presence meta: %d bytes, at most %d are allowed", n, maxPresenceMeta)
	}
	if bytes.Contains(meta, []byte("phx")) || bytes.ContainsRune(meta, '\\') {
		var keys map[string]json.RawMessage
		_ = json.Unmarshal(meta, &keys)
		for _, key := range []string{"phx_ref", "phx_ref_prev"} {
			if _, ok := keys[key]; ok {
				return nil, fmt.Errorf("invalid presence meta: %s is reserved", key)
			}
		}
	}
	return buf.Bytes(), nil
}

// attend begins a joining channel's part in presence and calls then when the channel is present, or was not to be, or
// its join was refused.
func (s *Session) attend(c *channel, p *presenceParams, then func(router.Outcome)) {
	a := s.begin(c, p.key)
	if p.meta == nil {
		then(router.Outcome{})
		return
	}
	a.Track(a.key, p.meta, then)
}

// begin makes the channel take part in presence, under a key; "" is one made up here.
func (s *Session) begin(c *channel, key string) *attendance {
	a := &attendance{Attendance: s.ss.local.Attend(c.topic, &c.Channel), key: key, made: key == ""}
	if a.made {
		a.key = strconv.FormatUint(rand.Uint64(), 36)
	}
	if s.ss.attending == nil {
		s.ss.attending = make(map[*channel]*attendance)
	}
	s.ss.attending[c] = a
	return a
}

// unattend ends a channel's part in presence, if it has one. With grace, the client may come back unnoticed.
func (s *Session) unattend(c *channel, grace bool) {
	delete(s.ss.keys, c)
	if a := s.ss.attending[c]; a != nil {
		delete(s.ss.attending, c)
		a.End(grace)
	}
}

// presenceEvent handles the events that are about presence. It reports false for all others.
func (s *Session) presenceEvent(c *channel, f *codec.Frame) bool {
	event := string(f.Event)
	switch event {
	case eventPresence:
		if s.realtime {
			s.track(c, f)
		}
		return s.realtime
	case eventPresenceUpdate, eventPresenceLeave:
	case eventPresenceState, eventPresenceDiff:
		s.refuse(c.JoinRef, f.Ref, c.topic, "reserved event")
		return true
	default:
		return false
	}
	a := s.ss.attending[c]
	if a == nil || c.joining != nil {
		s.refuse(c.JoinRef, f.Ref, c.topic, "joined without presence")
		return true
	}
	if event == eventPresenceLeave {
		a.Untrack(false)
		s.acknowledge(c, f.Ref)
		return true
	}
	meta, err := compactMeta(f.Payload)
	if f.Binary {
		err = errors.New("invalid presence meta: want an object")
	}
	if err != nil {
		s.refuse(c.JoinRef, f.Ref, c.topic, err.Error())
		return true
	}
	ref := bytes.Clone(f.Ref)
	a.Track(a.key, meta, func(o router.Outcome) { s.tracked(c, ref, o) })
	return true
}

// tracked answers a change of a channel's presence, if the client wants a reply.
func (s *Session) tracked(c *channel, ref codec.Ref, o router.Outcome) {
	switch {
	case s.closed || ref == nil:
	case o.OK():
		s.acknowledge(c, ref)
	default:
		s.refuseOutcome(c.JoinRef, ref, c.topic, o)
	}
}

// acknowledge replies ok, if the client wants a reply.
func (s *Session) acknowledge(c *channel, ref codec.Ref) {
	if ref != nil {
		s.reply(c.JoinRef, ref, c.topic, "ok", nil)
	}
}
