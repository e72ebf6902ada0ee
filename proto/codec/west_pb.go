package codec

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/ringcast/ringcast/proto/westpb"
)

// westPB is WEST's record as a Protobuf message in a binary message; see west.proto.
type westPB struct{}

func (westPB) Kind() Kind { return WestPB }

// Decode parses a record.
func (westPB) Decode(data []byte, binary bool) (Frame, error) {
	if !binary {
		return Frame{}, &Error{WestBadEncoding}
	}
	var m westpb.Message
	if err := m.UnmarshalVT(data); err != nil || m.Event == nil {
		return Frame{}, &Error{WestBadRequest}
	}
	f := Frame{Event: []byte(*m.Event), Payload: m.Data, Binary: true}
	if m.Channel != nil {
		f.Topic = []byte(*m.Channel)
	}
	if m.Id != nil {
		f.Ref = Ref(*m.Id)
	}
	if !checkWest(&f) {
		return Frame{}, &Error{WestBadRequest}
	}
	return f, nil
}

// AppendReply appends a record from the service, which goes out in a binary message.
func (westPB) AppendReply(dst []byte, _, id Ref, channel, event string, data []byte) []byte {
	r := record{event: event, channel: channel, from: westSender(event), id: string(id), data: data}
	return r.appendPB(dst)
}

func (westPB) AppendHead(dst []byte, _, _ Ref, _ *Push) []byte { return dst }

func (westPB) AppendBody(dst []byte, p *Push) []byte {
	r := recordOf(p)
	return r.appendPB(dst)
}

func (westPB) Binary(*Push) bool { return true }

func (r *record) appendPB(dst []byte) []byte {
	m := westpb.Message{Event: proto.String(r.event), Data: r.data}
	for _, one := range [...]struct {
		field **string
		value string
	}{{&m.Channel, r.channel}, {&m.From, r.from}, {&m.Id, r.id}} {
		if one.value != "" {
			*one.field = &one.value
		}
	}
	n := m.SizeVT()
	start := len(dst)
	dst = slices.Grow(dst, n)[:start+n]
	if _, err := m.MarshalToSizedBufferVT(dst[start:]); err != nil {
		return dst[:start] // the event, which alone is required, is there
	}
	return dst
}
