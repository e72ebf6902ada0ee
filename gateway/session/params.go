package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ringcast/ringcast/gateway/hub"
)

// joinParams are what a client asks for with its join.
type joinParams struct {
	positions bool            // the channel gets positions,
	place     *hub.Position   // and resumes here; nil means from now on
	presence  *presenceParams // nil if the channel has no part in presence
	slow      hub.Slow        // what is done with messages that the client does not take
	realtime  realtimeConfig  // of clients of realtime-js
}

// parseJoin reads a join's params.
func (s *Session) parseJoin(params []byte) (joinParams, error) {
	j, err := parseJoin(params)
	if err == nil && s.realtime {
		j.realtime, err = parseRealtime(params)
	}
	return j, err
}

// parseJoin reads a join's params. Most have none of the keys.
func parseJoin(params []byte) (j joinParams, err error) {
	if !bytes.Contains(params, []byte("since")) && !bytes.Contains(params, []byte("presence")) && !bytes.Contains(params, []byte("slow")) && !bytes.ContainsRune(params, '\\') {
		return j, nil
	}
	var keys map[string]json.RawMessage
	_ = json.Unmarshal(params, &keys) // params that are no object have no keys
	if since, ok := keys["since"]; ok {
		if j.place, err = parseSince(since); err != nil {
			return j, err
		}
		j.positions = true
	}
	if slow, ok := keys["slow"]; ok {
		if j.slow, err = parseSlow(slow); err != nil {
			return j, err
		}
	}
	j.presence, err = parsePresence(keys["presence"])
	return j, err
}

func parseSlow(slow json.RawMessage) (s hub.Slow, err error) {
	var name string
	_ = json.Unmarshal(slow, &name) // what is no string has no name
	if s, err = hub.ParseSlow(name); err != nil {
		err = fmt.Errorf("invalid slow: %w", err)
	}
	return s, err
}

// parseSince reads a position or null.
func parseSince(since json.RawMessage) (*hub.Position, error) {
	var text *string
	if err := json.Unmarshal(since, &text); err != nil {
		return nil, errors.New("invalid since: want a position or null")
	}
	if text == nil {
		return nil, nil
	}
	p, err := hub.ParsePosition(*text)
	if err != nil {
		return nil, fmt.Errorf("invalid since: %w", err)
	}
	return &p, nil
}
