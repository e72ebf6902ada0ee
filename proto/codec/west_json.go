package codec

// westJSON is WEST's record as a JSON object in a text message. Its members are strings.
type westJSON struct{}

func (westJSON) Kind() Kind { return WestJSON }

// Decode parses a record. Members may come in any order; unknown ones are ignored, null is the same as missing, and of
// members with the same key the last one counts.
func (westJSON) Decode(data []byte, binary bool) (Frame, error) {
	if binary {
		return Frame{}, &Error{WestBadEncoding}
	}
	m, err := scanWest(data)
	if err != nil {
		return Frame{}, err
	}
	f := Frame{Event: m.textOf(m.event), Topic: m.textOf(m.channel), Ref: m.textOf(m.id), Binary: true}
	for _, one := range [...]struct{ text, value []byte }{{f.Event, m.event}, {f.Topic, m.channel}, {f.Ref, m.id}} {
		if one.text == nil && one.value != nil {
			return Frame{}, &Error{WestDecodingError}
		}
	}
	if f.Event == nil || !checkWest(&f) {
		return Frame{}, &Error{WestDecodingError}
	}
	if m.data != nil {
		if f.Payload, err = m.dataBytes(); err != nil {
			return Frame{}, err
		}
	}
	return f, nil
}

// AppendReply appends a record from the service. A timeout has no sender.
func (westJSON) AppendReply(dst []byte, _, id Ref, channel, event string, data []byte) []byte {
	r := record{event: event, channel: channel, from: westSender(event), id: string(id), data: data}
	return r.appendJSON(dst)
}

func (westJSON) AppendHead(dst []byte, _, _ Ref, _ *Push) []byte { return dst }

func (westJSON) AppendBody(dst []byte, p *Push) []byte {
	r := recordOf(p)
	return r.appendJSON(dst)
}

func (westJSON) Binary(*Push) bool { return false }

func (r *record) appendJSON(dst []byte) []byte {
	dst = AppendString(append(dst, `{"event":`...), r.event)
	dst = appendMember(dst, "channel", r.channel)
	dst = appendMember(dst, "from", r.from)
	dst = appendMember(dst, "id", r.id)
	if r.data != nil {
		dst = appendData(append(dst, ','), r.data)
	}
	return append(dst, '}')
}

// westSender is the from of the service's own records.
func westSender(event string) string {
	if event == WestTimeout {
		return ""
	}
	return "west"
}
