package codec

// phoenixV2 is Phoenix Channels with vsn 2.0.0: a text frame is the array [join_ref, ref, topic, event, payload];
// phoenix_v2_binary.go has the binary frames.
type phoenixV2 struct{}

func (phoenixV2) Kind() Kind { return PhoenixV2 }

// Decode parses a frame of either form. A text frame may have more than five elements; the rest is checked and
// dropped. It allocates only for escapes in topic and event, and for the refs of a binary frame.
func (phoenixV2) Decode(data []byte, binary bool) (Frame, error) {
	if binary {
		return decodeBinary(data)
	}
	f, err := decodeText(data)
	if err != nil {
		return Frame{}, err
	}
	return f, nil
}

// decodeText may return a part of a frame with its error.
func decodeText(data []byte) (f Frame, err error) {
	s := scanner{data: data, prefix: badFrame}
	if !s.accept('[') || s.peek() == ']' {
		return f, errFrameShape()
	}
	if f.JoinRef, err = s.ref("join_ref"); err != nil {
		return f, err
	}
	if err = s.comma(); err != nil {
		return f, err
	}
	if f.Ref, err = s.ref("ref"); err != nil {
		return f, err
	}
	if err = s.comma(); err != nil {
		return f, err
	}
	if f.Topic, err = s.name("topic"); err != nil {
		return f, err
	}
	if err = s.comma(); err != nil {
		return f, err
	}
	if f.Event, err = s.name("event"); err != nil {
		return f, err
	}
	if err = s.comma(); err != nil {
		return f, err
	}
	if f.Payload, err = s.payload(); err != nil {
		return f, err
	}
	for s.accept(',') {
		if err = s.value(0); err != nil {
			return f, err
		}
	}
	if !s.accept(']') {
		return f, s.unexpected()
	}
	return f, s.end()
}

func errFrameShape() error {
	return errorf("%s: want [join_ref, ref, topic, event, payload]", badFrame)
}

// comma accepts the comma before another of the five elements.
func (s *scanner) comma() error {
	if s.accept(',') {
		return nil
	}
	if s.peek() == ']' {
		return errFrameShape()
	}
	return s.unexpected()
}

// AppendReply appends a text frame, also if what it answers was binary.
func (phoenixV2) AppendReply(dst []byte, joinRef, ref Ref, topic, status string, response []byte) []byte {
	dst = appendRefs(dst, joinRef, ref)
	dst = AppendString(dst, topic)
	dst = append(dst, `,"`+eventReply+`",`...)
	dst = appendReplyPayload(dst, status, response)
	return append(dst, ']')
}

// AppendHead appends what stands before the topic. The head of a binary push has no place for ref: a subscriber does
// not learn the positions of binary messages.
func (phoenixV2) AppendHead(dst []byte, joinRef, ref Ref, p *Push) []byte {
	if p.Binary {
		return appendBinaryHead(dst, joinRef, p)
	}
	return appendRefs(dst, joinRef, ref)
}

func (phoenixV2) AppendBody(dst []byte, p *Push) []byte {
	if p.Binary {
		return appendBinaryBody(dst, p)
	}
	dst = AppendString(dst, p.Topic)
	dst = append(dst, ',')
	dst = AppendString(dst, p.Event)
	dst = append(dst, ',')
	dst = appendJSON(dst, p.Payload)
	return append(dst, ']')
}

func (phoenixV2) Binary(p *Push) bool { return p.Binary }

// appendRefs appends the start of a text frame, up to the topic.
func appendRefs(dst []byte, joinRef, ref Ref) []byte {
	dst = append(dst, '[')
	dst = appendRef(dst, joinRef)
	dst = append(dst, ',')
	dst = appendRef(dst, ref)
	return append(dst, ',')
}
