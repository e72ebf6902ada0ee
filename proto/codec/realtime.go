package codec

import "unicode/utf8"

// realtime is Phoenix Channels with vsn 2.0.0 as @supabase/realtime-js has them. Broadcasts have two binary frames more,
// with a byte for each length and one that says what the data is:
//
//	client  3 | len join_ref | len ref | len topic | len event | len meta | encoding | join_ref ref topic event meta data
//	server  4 | len topic | len event | len meta | encoding | topic event meta data
//
// The event is the user's own. In text frames, where the event is broadcast, it stands in the payload:
// {"type":"broadcast","event":E,"payload":{…}}. A client's broadcast of JSON comes out of Decode in that form, which all
// formats carry; one of bytes comes out as a binary push of the user's event. To a client, a binary push of whatever
// event is a broadcast of bytes.
type realtime struct{ phoenixV2 }

const (
	broadcastPush       = 3
	broadcast           = 4
	broadcastPushHeader = 7
	encodingBinary      = 0
	encodingJSON        = 1
)

func (realtime) Kind() Kind { return Realtime }

// Decode parses a frame of Phoenix V2 or a broadcast.
func (r realtime) Decode(data []byte, binary bool) (Frame, error) {
	if binary && len(data) > 0 && data[0] == broadcastPush {
		return decodeBroadcast(data)
	}
	return r.phoenixV2.Decode(data, binary)
}

// decodeBroadcast parses a client's broadcast. Its meta is dropped: it is for servers that store messages.
func decodeBroadcast(data []byte) (Frame, error) {
	if len(data) < broadcastPushHeader {
		return Frame{}, errorf("%s: %d bytes: the header has %d", badBinaryFrame, len(data), broadcastPushHeader)
	}
	var texts [5][]byte
	end := broadcastPushHeader
	for i, name := range [...]string{"join_ref", "ref", "topic", "event", "meta"} {
		start := end
		end += int(data[1+i])
		if end > len(data) {
			return Frame{}, errorf("%s: %s ends at byte %d of %d", badBinaryFrame, name, end, len(data))
		}
		texts[i] = data[start:end:end]
		if !utf8.Valid(texts[i]) {
			return Frame{}, errorf("%s: %s: not UTF-8", badBinaryFrame, name)
		}
	}
	f := Frame{JoinRef: quoteRef(texts[0]), Ref: quoteRef(texts[1]), Topic: texts[2]}
	switch {
	case len(f.JoinRef) > MaxRef:
		return Frame{}, errorf("%s: join_ref over %d bytes", badBinaryFrame, MaxRef)
	case len(f.Ref) > MaxRef:
		return Frame{}, errorf("%s: ref over %d bytes", badBinaryFrame, MaxRef)
	}
	switch encoding := data[broadcastPushHeader-1]; encoding {
	case encodingBinary:
		f.Event, f.Payload, f.Binary = texts[3], data[end:], true
		return f, nil
	case encodingJSON:
		payload, err := broadcastPayload(texts[3], data[end:])
		if err != nil {
			return Frame{}, err
		}
		f.Event, f.Payload = []byte("broadcast"), payload
		return f, nil
	default:
		return Frame{}, errorf("%s: encoding %d: want %d, binary, or %d, JSON", badBinaryFrame, encoding, encodingBinary, encodingJSON)
	}
}

// broadcastPayload returns the payload that a text frame would have, checked in full.
func broadcastPayload(event, data []byte) ([]byte, error) {
	s := scanner{data: data, prefix: badBinaryFrame}
	s.peek()
	value, err := s.payload()
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return nil, err
	}
	payload := make([]byte, 0, len(value)+len(event)+48)
	payload = AppendString(append(payload, `{"type":"broadcast","event":`...), string(event))
	payload = append(append(payload, `,"payload":`...), value...)
	payload = append(payload, '}')
	whole := scanner{data: payload, prefix: badBinaryFrame}
	_, err = whole.payload() // it is one level deeper than what it has in it
	return payload, err
}

// AppendHead has no place for the join_ref of a binary push.
func (r realtime) AppendHead(dst []byte, joinRef, ref Ref, p *Push) []byte {
	if !p.Binary {
		return r.phoenixV2.AppendHead(dst, joinRef, ref, p)
	}
	return append(dst, broadcast, byte(len(clip(p.Topic))), byte(len(clip(p.Event))), 0, encodingBinary)
}
