package codec

import (
	"encoding/base64"
	"strings"
	"unicode/utf8"
)

// WEST's three formats carry one record, {event, channel, from, id, data}. In the terms of this package: of a client's
// Frame, Event is the event, Topic the channel, Ref the id as text, and Payload the data, with Binary set. What the
// record does not have is nil. AppendReply takes a record's id as ref, its channel as topic, its event as status and its
// data as response; joinRef is not used. AppendHead appends nothing, AppendBody all of the record that carries a push.
//
// Subscribers of all kinds get messages with such a record's contents as JSON:
//
//	{"channel":"ps1","from":"u1","id":"7","data":"hello"}
//
// Data that is not UTF-8 is base64 there, and in WEST's JSON records, with "encoding":"base64" behind it.

// What a WEST client is answered that sends what it should not, word for word.
const (
	WestInvalidJSON   = "invalid_json"   // not JSON
	WestDecodingError = "decoding_error" // JSON, but no record
	WestBadRequest    = "bad_request"    // no Protobuf record
	WestBadEncoding   = "bad_encoding"   // the wrong kind of WebSocket message
)

// Events of WEST's records that the text format has sentences for.
const (
	WestEstablished = "connection_established"
	WestTimeout     = "timeout"
	WestPong        = "pong"
	// WestEcho is the event of a text message that is sent back as it is: that is its payload.
	WestEcho = "echo"
	// WestMessage is the event of a delivery.
	WestMessage = "new_message"
)

// maxWestText is the size in bytes of the longest id, channel or event of a record.
const maxWestText = 255

const base64Name = "base64"

// record is what a push or a reply is in WEST's terms. Empty is missing, but for data, where nil is.
type record struct {
	event, channel, from, id string
	data                     []byte
}

// westName returns the channel of a topic: what stands behind west: or reg:, or all of it.
func westName(topic string) string {
	for _, prefix := range [...]string{"west:", "reg:"} {
		if name, ok := strings.CutPrefix(topic, prefix); ok {
			return name
		}
	}
	return topic
}

// recordOf returns the record that carries a push. A payload that has data, and perhaps from and id, is taken apart;
// any other one is the data.
func recordOf(p *Push) record {
	r := record{event: p.Event, channel: westName(p.Topic), data: p.Payload}
	if p.Binary {
		return r
	}
	if r.data == nil {
		r.data = []byte(emptyObject)
	}
	m, err := scanWest(p.Payload)
	if err != nil || m.data == nil {
		return r
	}
	r.from, r.id = string(m.textOf(m.from)), string(m.textOf(m.id))
	if data, err := m.dataBytes(); err == nil {
		r.data = data
	} else {
		r.data = m.data // any other JSON value is its text
	}
	return r
}

// AppendWestPayload appends the payload of a message that has a WEST record's contents. Its first member is key, with the
// name; from and id are left out when empty.
func AppendWestPayload(dst []byte, key, name, from, id string, data []byte) []byte {
	dst = append(AppendString(append(dst, '{'), key), ':')
	dst = AppendString(dst, name)
	dst = appendMember(dst, "from", from)
	dst = appendMember(dst, "id", id)
	return append(appendData(append(dst, ','), data), '}')
}

// appendMember appends a comma and a member, unless its value is empty.
func appendMember(dst []byte, key, value string) []byte {
	if value == "" {
		return dst
	}
	dst = append(append(append(dst, `,"`...), key...), `":`...)
	return AppendString(dst, value)
}

// appendData appends the data member, and for data that is not UTF-8 its encoding.
func appendData(dst, data []byte) []byte {
	dst = append(dst, `"data":`...)
	if utf8.Valid(data) {
		return AppendString(dst, string(data))
	}
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, data)
	return append(dst, `","encoding":"`+base64Name+`"`...)
}

// westMembers are the values of a JSON record: well-formed JSON of any type, nil if missing. Null is missing.
type westMembers struct {
	event, channel, from, id, data, encoding []byte
}

// scanWest takes apart a JSON record. The error says WestInvalidJSON or WestDecodingError.
func scanWest(data []byte) (m westMembers, err error) {
	s := scanner{data: data}
	if !s.accept('{') {
		if s.value(0) != nil || s.end() != nil {
			return m, &Error{WestInvalidJSON}
		}
		return m, &Error{WestDecodingError}
	}
	for more := !s.accept('}'); more; {
		key, value, err := s.member()
		if err != nil {
			return m, &Error{WestInvalidJSON}
		}
		m.set(key, value)
		if more, err = s.more('}'); err != nil {
			return m, &Error{WestInvalidJSON}
		}
	}
	if s.end() != nil {
		return m, &Error{WestInvalidJSON}
	}
	return m, nil
}

func (m *westMembers) set(key, value []byte) {
	if string(value) == jsonNull {
		value = nil
	}
	switch string(key) {
	case "event":
		m.event = value
	case "channel":
		m.channel = value
	case "from":
		m.from = value
	case "id":
		m.id = value
	case "data":
		m.data = value
	case "encoding":
		m.encoding = value
	}
}

// textOf returns what a string means, nil for a value that is none.
func (m *westMembers) textOf(value []byte) []byte {
	if len(value) == 0 || value[0] != '"' {
		return nil
	}
	s := scanner{data: value}
	text, err := s.text()
	if err != nil {
		return nil // the value has been accepted, so there is none
	}
	return text
}

// dataBytes returns the data's bytes. The error says WestDecodingError: the data is no string, or not in its encoding.
func (m *westMembers) dataBytes() ([]byte, error) {
	text := m.textOf(m.data)
	switch {
	case text == nil:
	case m.encoding == nil:
		return text, nil
	case string(m.textOf(m.encoding)) == base64Name:
		if data, err := base64.StdEncoding.AppendDecode(make([]byte, 0, len(text)), text); err == nil {
			return data, nil
		}
	}
	return nil, &Error{WestDecodingError}
}

// checkWest tells whether the texts of a frame are good: UTF-8, and of a size to be kept.
func checkWest(f *Frame) bool {
	for _, text := range [...][]byte{f.Event, f.Topic, f.Ref} {
		if len(text) > maxWestText || !utf8.Valid(text) {
			return false
		}
	}
	return true
}
