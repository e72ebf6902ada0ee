package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/coder/websocket"
)

// Events of the protocol itself.
const (
	eventJoin      = "phx_join"
	eventLeave     = "phx_leave"
	eventReply     = "phx_reply"
	eventClose     = "phx_close"
	eventError     = "phx_error"
	eventHeartbeat = "heartbeat"
	eventPublish   = "publish"

	heartbeatTopic = "phoenix"
)

// frame is one decoded server frame. A reference is empty when it was null or, in a binary frame, empty.
type frame struct {
	joinRef, ref string
	topic, event string
	payload      json.RawMessage // of replies only the response
	binary       []byte          // in binary pushes and broadcasts, instead of payload
	status       string          // of replies
}

var errFrameShape = errors.New("bad frame: want [join_ref, ref, topic, event, payload]")

// decodeText parses a text frame. The frame shares no memory with data.
func decodeText(data []byte) (frame, error) {
	var parts []json.RawMessage
	if err := json.Unmarshal(data, &parts); err != nil {
		return frame{}, fmt.Errorf("bad frame: %w", err)
	}
	if len(parts) < 5 {
		return frame{}, errFrameShape
	}
	var f frame
	var err error
	if f.joinRef, err = reference(parts[0]); err != nil {
		return frame{}, err
	}
	if f.ref, err = reference(parts[1]); err != nil {
		return frame{}, err
	}
	if parts[2][0] != '"' || parts[3][0] != '"' {
		return frame{}, errFrameShape
	}
	if err := errors.Join(json.Unmarshal(parts[2], &f.topic), json.Unmarshal(parts[3], &f.event)); err != nil {
		return frame{}, fmt.Errorf("bad frame: %w", err)
	}
	f.payload = parts[4]
	if f.event != eventReply {
		return f, nil
	}
	var reply struct {
		Status   string          `json:"status"`
		Response json.RawMessage `json:"response"`
	}
	if json.Unmarshal(f.payload, &reply) != nil || reply.Status == "" {
		return frame{}, errors.New(`bad frame: the payload of a reply wants {"status", "response"}`)
	}
	f.status, f.payload = reply.Status, reply.Response
	return f, nil
}

// reference reads a join_ref or ref: a string, a number (kept as it is written) or null.
func reference(raw json.RawMessage) (string, error) {
	switch c := raw[0]; {
	case c == 'n':
		return "", nil
	case c == '"':
		var s string
		return s, json.Unmarshal(raw, &s)
	case c == '-' || c >= '0' && c <= '9':
		return string(raw), nil
	}
	return "", fmt.Errorf("bad frame: %.20s is no reference", raw)
}

// Kinds of binary frames. Each begins with its kind and the lengths, one byte each, of the parts that follow; the
// payload is the rest.
const (
	binaryPush      = 0 // join_ref topic event
	binaryReply     = 1 // join_ref ref topic status
	binaryBroadcast = 2 // topic event
)

// decodeBinary parses a binary frame. The payload is a part of data.
func decodeBinary(data []byte) (frame, error) {
	if len(data) == 0 {
		return frame{}, errors.New("bad binary frame: empty")
	}
	var f frame
	var parts []*string
	switch data[0] {
	case binaryPush:
		parts = []*string{&f.joinRef, &f.topic, &f.event}
	case binaryReply:
		f.event = eventReply
		parts = []*string{&f.joinRef, &f.ref, &f.topic, &f.status}
	case binaryBroadcast:
		parts = []*string{&f.topic, &f.event}
	default:
		return frame{}, fmt.Errorf("bad binary frame: unknown kind %d", data[0])
	}
	if len(data) < 1+len(parts) {
		return frame{}, errors.New("bad binary frame: torn header")
	}
	lengths, rest := data[1:1+len(parts)], data[1+len(parts):]
	for i, part := range parts {
		n := int(lengths[i])
		if n > len(rest) {
			return frame{}, errors.New("bad binary frame: lengths past its end")
		}
		*part, rest = string(rest[:n]), rest[n:]
	}
	if f.event == eventReply {
		f.payload = rest
	} else {
		f.binary = rest
	}
	return f, nil
}

// encoder builds the frame of an event to the server.
type encoder func(joinRef, ref, topic, event string, payload []byte) (websocket.MessageType, []byte)

// maxBinaryPart is how long the parts of a binary frame's header may be.
const maxBinaryPart = 255

// encodeBinary builds a binary frame: a push to the server has a ref, other than one from it. No part is too long.
func encodeBinary(joinRef, ref, topic, event string, payload []byte) (websocket.MessageType, []byte) {
	b := []byte{binaryPush, byte(len(joinRef)), byte(len(ref)), byte(len(topic)), byte(len(event))}
	for _, part := range []string{joinRef, ref, topic, event} {
		b = append(b, part...)
	}
	return websocket.MessageBinary, append(b, payload...)
}

// encodeFrame builds a text frame. An empty joinRef is null; payload is JSON already.
func encodeFrame(joinRef, ref, topic, event string, payload []byte) (websocket.MessageType, []byte) {
	b := make([]byte, 0, 24+len(joinRef)+len(ref)+len(topic)+len(event)+len(payload))
	b = append(b, '[')
	if joinRef == "" {
		b = append(b, "null"...)
	} else {
		b = appendString(b, joinRef)
	}
	for _, s := range []string{ref, topic, event} {
		b = append(b, ',')
		b = appendString(b, s)
	}
	b = append(b, ',')
	b = append(b, payload...)
	return websocket.MessageText, append(b, ']')
}

func appendString(b []byte, s string) []byte {
	quoted, _ := json.Marshal(s) // a string always has a JSON form
	return append(b, quoted...)
}

// encodePayload makes JSON of a payload; nil becomes the empty object, which is what the protocol wants there.
func encodePayload(v any) (json.RawMessage, error) {
	if v == nil {
		return json.RawMessage("{}"), nil
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // <, > and & reach subscribers as they were written
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// checkName refuses topics and events that would not come back from the server as they are.
func checkName(what, name string) error {
	if name == "" {
		return fmt.Errorf("empty %s", what)
	}
	if !utf8.ValidString(name) {
		return fmt.Errorf("%s %q is not UTF-8", what, name)
	}
	return nil
}

// checkPushEvent also refuses the events by which the protocol runs the channel.
func checkPushEvent(event string) error {
	if strings.HasPrefix(event, "phx_") {
		return fmt.Errorf("reserved event %q", event)
	}
	return checkName("event", event)
}
