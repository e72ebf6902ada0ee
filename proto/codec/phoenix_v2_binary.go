package codec

import "unicode/utf8"

// The binary frames of Phoenix V2, a byte for each length:
//
//	client push  0 | len join_ref | len ref | len topic | len event | join_ref ref topic event data
//	server push  0 | len join_ref | len topic | len event | join_ref topic event data
//
// Phoenix has two more from the server, a reply (1) and a broadcast (2). Replies go out as text here, and every push
// has the join_ref of its subscriber.
const (
	badBinaryFrame   = "bad binary frame"
	binaryPush       = 0
	clientPushHeader = 5
)

// decodeBinary parses a client push. Its refs are bare text; in the Frame they are JSON strings, as in the text
// frames of the same client, and nil if empty. Refs, topic and event must be UTF-8, the data is any bytes.
func decodeBinary(data []byte) (Frame, error) {
	if len(data) == 0 {
		return Frame{}, errorf("%s: empty", badBinaryFrame)
	}
	if data[0] != binaryPush {
		return Frame{}, errorf("%s: kind %d: want %d, a push", badBinaryFrame, data[0], binaryPush)
	}
	if len(data) < clientPushHeader {
		return Frame{}, errorf("%s: %d bytes: the header has %d", badBinaryFrame, len(data), clientPushHeader)
	}
	var texts [4][]byte
	end := clientPushHeader
	for i, name := range [...]string{"join_ref", "ref", "topic", "event"} {
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
	f := Frame{Topic: texts[2], Event: texts[3], Payload: data[end:], Binary: true}
	f.JoinRef, f.Ref = quoteRef(texts[0]), quoteRef(texts[1])
	if len(f.JoinRef) > MaxRef {
		return Frame{}, errorf("%s: join_ref over %d bytes", badBinaryFrame, MaxRef)
	}
	if len(f.Ref) > MaxRef {
		return Frame{}, errorf("%s: ref over %d bytes", badBinaryFrame, MaxRef)
	}
	return f, nil
}

// quoteRef returns the ref that a text frame would have for a bare one.
func quoteRef(bare []byte) Ref {
	if len(bare) == 0 {
		return nil
	}
	return AppendString(make([]byte, 0, len(bare)+2), string(bare))
}

// appendBinaryHead appends the kind, the lengths and the join_ref of a server push.
func appendBinaryHead(dst []byte, joinRef Ref, p *Push) []byte {
	at := len(dst)
	dst = append(dst, binaryPush, 0, byte(len(clip(p.Topic))), byte(len(clip(p.Event))))
	refAt := len(dst)
	dst = appendBareRef(dst, joinRef)
	dst = dst[:min(len(dst), refAt+MaxBinaryText)]
	dst[at+1] = byte(len(dst) - refAt)
	return dst
}

func appendBinaryBody(dst []byte, p *Push) []byte {
	dst = append(dst, clip(p.Topic)...)
	dst = append(dst, clip(p.Event)...)
	return append(dst, p.Payload...)
}

// appendBareRef appends the text of a ref: nothing for null, the digits of a number, a string without its quotes and
// escapes.
func appendBareRef(dst []byte, ref Ref) []byte {
	if n := len(ref); n >= 2 && ref[0] == '"' {
		return appendUnescaped(dst, ref[1:n-1])
	}
	return append(dst, ref...)
}

// clip cuts a text that Push.Validate would have refused, so that the lengths in a head are right whatever happens.
func clip(text string) string {
	return text[:min(len(text), MaxBinaryText)]
}
