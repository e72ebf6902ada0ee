package codec

// What the two versions of Phoenix Channels have in common: the types of what a frame has, and the payload of a reply.

const (
	badFrame    = "bad frame"
	eventReply  = "phx_reply"
	emptyObject = "{}"
	jsonNull    = "null"
)

// ref accepts a string, a number or null, and returns its token; nil for null.
func (s *scanner) ref(name string) (Ref, error) {
	c := s.peek()
	start := s.pos
	var err error
	switch {
	case c == 'n':
		return nil, s.literal(jsonNull)
	case c == '"':
		_, _, err = s.str()
	case c == '-' || c >= '0' && c <= '9':
		err = s.number()
	default:
		err = s.wantElse(name + ": want string, number or null")
	}
	if err != nil {
		return nil, err
	}
	if s.pos-start > MaxRef {
		return nil, errorf("%s: %s over %d bytes", badFrame, name, MaxRef)
	}
	return Ref(s.data[start:s.pos:s.pos]), nil
}

// name accepts a topic or an event.
func (s *scanner) name(name string) ([]byte, error) {
	if s.peek() != '"' {
		return nil, s.wantElse(name + ": want a string")
	}
	return s.text()
}

// appendReplyPayload appends the payload of a phx_reply.
func appendReplyPayload(dst []byte, status string, response []byte) []byte {
	dst = append(dst, `{"response":`...)
	dst = appendJSON(dst, response)
	dst = append(dst, `,"status":`...)
	dst = AppendString(dst, status)
	return append(dst, '}')
}

func appendRef(dst []byte, ref Ref) []byte {
	if len(ref) == 0 {
		return append(dst, jsonNull...)
	}
	return append(dst, ref...)
}

func appendJSON(dst, text []byte) []byte {
	if len(text) == 0 {
		return append(dst, emptyObject...)
	}
	return append(dst, text...)
}
