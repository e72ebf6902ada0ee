package codec

// phoenixV1 is Phoenix Channels with vsn 1.0.0, and what a client speaks that names no vsn: a frame is the object
// {"topic", "event", "payload", "ref"}, its members in any order. There are no binary frames.
type phoenixV1 struct{}

func (phoenixV1) Kind() Kind { return PhoenixV1 }

// Decode parses a frame, the same in a text and in a binary message. A client may add join_ref; other members are
// checked and dropped. Of members with the same key the last one counts. It allocates only for escapes in keys, topic
// and event.
func (phoenixV1) Decode(data []byte, _ bool) (Frame, error) {
	m, err := scanMembers(data)
	if err != nil {
		return Frame{}, err
	}
	f, err := m.frame()
	if err != nil {
		return Frame{}, err
	}
	return f, nil
}

// members are the values of a V1 frame: well-formed JSON of any type, without white space around it. Nil is a member
// that is missing.
type members struct {
	topic, event, payload, ref, joinRef []byte
}

// scanMembers takes apart an object. Types wait until all of it is read, as a later member may replace a wrong one.
func scanMembers(data []byte) (m members, err error) {
	s := scanner{data: data, prefix: badFrame}
	if !s.accept('{') || s.peek() == '}' {
		return m, errMembers()
	}
	for more := true; more; {
		key, value, err := s.member()
		if err != nil {
			return m, err
		}
		m.set(key, value)
		if more, err = s.more('}'); err != nil {
			return m, err
		}
	}
	return m, s.end()
}

func (m *members) set(key, value []byte) {
	switch string(key) {
	case "topic":
		m.topic = value
	case "event":
		m.event = value
	case "payload":
		m.payload = value
	case "ref":
		m.ref = value
	case "join_ref":
		m.joinRef = value
	}
}

// frame checks which members there are, and their types. It may return a part of a frame with its error.
func (m *members) frame() (f Frame, err error) {
	if m.topic == nil || m.event == nil || m.payload == nil || m.ref == nil {
		return f, errMembers()
	}
	f.Payload = m.payload
	if m.joinRef != nil {
		s := scanner{data: m.joinRef, prefix: badFrame}
		if f.JoinRef, err = s.ref("join_ref"); err != nil {
			return f, err
		}
	}
	s := scanner{data: m.ref, prefix: badFrame}
	if f.Ref, err = s.ref("ref"); err != nil {
		return f, err
	}
	s = scanner{data: m.topic, prefix: badFrame}
	if f.Topic, err = s.name("topic"); err != nil {
		return f, err
	}
	s = scanner{data: m.event, prefix: badFrame}
	f.Event, err = s.name("event")
	return f, err
}

func errMembers() error {
	return errorf(`%s: want {"topic", "event", "payload", "ref"}`, badFrame)
}

// AppendReply leaves joinRef out: a V1 server never sends one.
func (phoenixV1) AppendReply(dst []byte, _, ref Ref, topic, status string, response []byte) []byte {
	dst = append(dst, `{"event":"`+eventReply+`","payload":`...)
	dst = appendReplyPayload(dst, status, response)
	dst = append(dst, `,"ref":`...)
	dst = appendRef(dst, ref)
	dst = append(dst, `,"topic":`...)
	dst = AppendString(dst, topic)
	return append(dst, '}')
}

// AppendHead appends the ref, the one member that differs between subscribers.
func (phoenixV1) AppendHead(dst []byte, _, ref Ref, _ *Push) []byte {
	dst = append(dst, `{"ref":`...)
	dst = appendRef(dst, ref)
	return append(dst, ',')
}

// AppendBody puts null where the bytes of a push would be that Kind.Carries refuses, so that the frame is well formed
// whatever happens.
func (phoenixV1) AppendBody(dst []byte, p *Push) []byte {
	dst = append(dst, `"topic":`...)
	dst = AppendString(dst, p.Topic)
	dst = append(dst, `,"event":`...)
	dst = AppendString(dst, p.Event)
	dst = append(dst, `,"payload":`...)
	if p.Binary {
		dst = append(dst, jsonNull...)
	} else {
		dst = appendJSON(dst, p.Payload)
	}
	return append(dst, '}')
}

func (phoenixV1) Binary(*Push) bool { return false }
