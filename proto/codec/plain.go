package codec

// bare is the format of clients that know nothing of topics and events: a message is its payload and nothing else.
//
// The topics carry JSON objects, which is what everybody else publishes. A client's text that is one is carried as it is;
// any other text as a JSON string. So plain clients get the very bytes that a plain client has sent, and Phoenix clients
// get an object or a string.
type bare struct{}

func (bare) Kind() Kind { return Plain }

// Decode never fails: every text and every binary message is a payload.
func (bare) Decode(data []byte, binary bool) (Frame, error) {
	if binary {
		return Frame{Payload: data, Binary: true}, nil
	}
	if v, err := ParseValue(data); err == nil {
		if _, err := v.Payload(); err == nil {
			return Frame{Payload: data}, nil
		}
	}
	return Frame{Payload: AppendString(make([]byte, 0, len(data)+2), string(data))}, nil
}

// AppendReply appends nothing: there are no replies.
func (bare) AppendReply(dst []byte, _, _ Ref, _, _ string, _ []byte) []byte { return dst }

func (bare) AppendHead(dst []byte, _, _ Ref, _ *Push) []byte { return dst }

func (bare) AppendBody(dst []byte, p *Push) []byte {
	if p.Binary {
		return append(dst, p.Payload...)
	}
	s := scanner{data: p.Payload}
	if s.peek() == '"' {
		if text, err := s.text(); err == nil {
			return append(dst, text...)
		}
	}
	return appendJSON(dst, p.Payload)
}

func (bare) Binary(p *Push) bool { return p.Binary }
