package phx

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Frame is one frame of Phoenix Channels V2, as text. JoinRef and Ref are "" for null.
type Frame struct {
	JoinRef, Ref, Topic, Event string
	Payload                    json.RawMessage
}

// errShape says what a frame should have been.
var errShape = errors.New("want [join_ref, ref, topic, event, payload]")

// ParseFrame parses what a server sent. References must be strings or null, since this client sends no others.
func ParseFrame(data []byte) (Frame, error) {
	var parts []json.RawMessage
	if err := json.Unmarshal(data, &parts); err != nil {
		return Frame{}, fmt.Errorf("%w: %w", errShape, err)
	}
	if len(parts) != 5 {
		return Frame{}, fmt.Errorf("%w, found %d elements", errShape, len(parts))
	}
	f := Frame{Payload: parts[4]}
	for i, field := range []struct {
		name     string
		to       *string
		optional bool
	}{{"join_ref", &f.JoinRef, true}, {"ref", &f.Ref, true}, {"topic", &f.Topic, false}, {"event", &f.Event, false}} {
		var text *string
		if err := json.Unmarshal(parts[i], &text); err != nil {
			return Frame{}, fmt.Errorf("%s: %w", field.name, err)
		}
		switch {
		case text != nil:
			*field.to = *text
		case !field.optional:
			return Frame{}, fmt.Errorf("%s is null", field.name)
		}
	}
	return f, nil
}

// Append appends the frame as it goes over the wire.
func (f Frame) Append(buf []byte) []byte {
	buf = append(buf, '[')
	for _, ref := range []string{f.JoinRef, f.Ref} {
		if ref == "" {
			buf = append(buf, "null,"...)
			continue
		}
		buf = append(appendString(buf, ref), ',')
	}
	buf = append(appendString(buf, f.Topic), ',')
	buf = append(appendString(buf, f.Event), ',')
	return append(append(buf, f.Payload...), ']')
}

func appendString(buf []byte, s string) []byte {
	text, _ := json.Marshal(s) // a string always can be
	return append(buf, text...)
}

// Reply is the payload of a phx_reply.
type Reply struct {
	Status   string          `json:"status"`
	Response json.RawMessage `json:"response"`
}

// Reason is the word of an error reply, or its whole response if that is no object with a reason.
func (r Reply) Reason() string {
	var object struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal(r.Response, &object) != nil || object.Reason == "" {
		return string(r.Response)
	}
	return object.Reason
}
