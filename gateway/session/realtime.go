package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"

	"github.com/ringcast/ringcast/gateway/auth"
	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
	"github.com/ringcast/ringcast/proto/linkpb"
)

// eventPresence is what a client of @supabase/realtime-js tracks and untracks itself with.
const eventPresence = "presence"

// OpenRealtime is Open for a client of @supabase/realtime-js, which speaks PhoenixV1 or Realtime.
func (ss *Sessions) OpenRealtime(conn *socket.Conn, kind codec.Kind, id *auth.Identity) *Session {
	s := ss.Open(conn, kind, id)
	s.realtime = true
	return s
}

// realtimeConfig is what a join of realtime-js asks for. What is not there is not asked for.
type realtimeConfig struct {
	noEcho, noAck bool // the channel does not want its own broadcasts, nor answers to them
	presence      bool // it is told who is there from the start
	key           string
}

// parseRealtime reads a join's params. Their values may be of any type; what is of the wrong one is not set.
func parseRealtime(params []byte) (realtimeConfig, error) {
	var p struct {
		Config struct {
			Broadcast struct {
				Self bool `json:"self"`
				Ack  bool `json:"ack"`
			} `json:"broadcast"`
			Presence struct {
				Key     string `json:"key"`
				Enabled bool   `json:"enabled"`
			} `json:"presence"`
		} `json:"config"`
	}
	_ = json.Unmarshal(params, &p)
	c := realtimeConfig{
		noEcho: !p.Config.Broadcast.Self, noAck: !p.Config.Broadcast.Ack, presence: p.Config.Presence.Enabled, key: p.Config.Presence.Key,
	}
	if c.key == "" {
		return c, nil
	}
	return c, judgePresenceKey(c.key)
}

// configure makes a joining channel what its client of realtime-js wants.
func (s *Session) configure(c *channel, params *joinParams) {
	cfg := params.realtime
	c.NoEcho, c.NoAck = cfg.noEcho, cfg.noAck
	switch {
	case params.presence != nil: // it has asked as other clients do
	case cfg.presence:
		params.presence = &presenceParams{key: cfg.key}
	case cfg.key != "":
		if s.ss.keys == nil {
			s.ss.keys = make(map[*channel]string)
		}
		s.ss.keys[c] = cfg.key
	}
}

// track handles the event presence of a client of realtime-js: {"event":"track","payload":{…}} makes the channel present
// with the payload as its meta, or changes that, and {"event":"untrack"} ends it. A channel that joined without presence is
// told who is there from then on.
func (s *Session) track(c *channel, f *codec.Frame) {
	var p struct {
		Event   string          `json:"event"`
		Payload json.RawMessage `json:"payload"`
	}
	if c.joining != nil {
		s.refuse(c.JoinRef, f.Ref, c.topic, "not joined yet")
		return
	}
	if f.Binary || json.Unmarshal(f.Payload, &p) != nil {
		s.refuse(c.JoinRef, f.Ref, c.topic, `invalid presence: want {"event":"track","payload":{…}}`)
		return
	}
	a := s.ss.attending[c]
	switch {
	case strings.EqualFold(p.Event, "track"):
		if p.Payload == nil {
			p.Payload = json.RawMessage("{}")
		}
		meta, err := compactMeta(p.Payload)
		if err != nil {
			s.refuse(c.JoinRef, f.Ref, c.topic, err.Error())
			return
		}
		s.trackMeta(c, a, meta, bytes.Clone(f.Ref))
	case strings.EqualFold(p.Event, "untrack"):
		if a != nil {
			a.Untrack(false)
		}
		s.acknowledge(c, f.Ref)
	default:
		s.refuse(c.JoinRef, f.Ref, c.topic, errPresenceEvent.Error())
	}
}

var errPresenceEvent = errors.New("invalid presence: event: want track or untrack")

// trackMeta makes the channel present with the meta. One that it is present with already changes nothing.
func (s *Session) trackMeta(c *channel, a *attendance, meta []byte, ref codec.Ref) {
	if a != nil && a.Has(meta) {
		s.acknowledge(c, ref)
		return
	}
	begins := a == nil
	if begins {
		a = s.begin(c, s.ss.keys[c])
	}
	a.Track(a.key, meta, func(o router.Outcome) {
		s.tracked(c, ref, o)
		switch {
		case o.OK():
			a.show()
		case begins && o.Code != linkpb.Code_UNKNOWN_OUTCOME: // else another track goes on with it
			s.unattend(c, false)
		}
	})
}
