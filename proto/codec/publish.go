package codec

const badPublish = "bad publish"

// SplitPublish takes apart the payload of a publish, `[event, object]`. The event comes without JSON escapes and may
// be empty; the object is its JSON text without white space around it. Both alias the payload, but for an event that
// had escapes. The payload is checked in full, with the depth of a payload. The error is an *Error.
func SplitPublish(payload []byte) (event, object []byte, err error) {
	s := scanner{data: payload, prefix: badPublish}
	if !s.accept('[') {
		return nil, nil, errPublishShape()
	}
	if c := s.peek(); c == ']' {
		return nil, nil, errPublishShape()
	} else if c != '"' {
		return nil, nil, s.wantElse("event: want a string")
	}
	if event, err = s.text(); err != nil {
		return nil, nil, err
	}
	if s.peek() == ']' {
		return nil, nil, errPublishShape()
	}
	if !s.accept(',') {
		return nil, nil, s.unexpected()
	}
	if s.peek() != '{' {
		return nil, nil, s.wantElse("payload: want an object")
	}
	start := s.pos
	if err = s.object(2); err != nil {
		return nil, nil, err
	}
	object = payload[start:s.pos:s.pos]
	if s.peek() == ',' {
		return nil, nil, errPublishShape()
	}
	if !s.accept(']') {
		return nil, nil, s.unexpected()
	}
	if err = s.end(); err != nil {
		return nil, nil, err
	}
	return event, object, nil
}

func errPublishShape() error {
	return errorf("%s: want [event, object]", badPublish)
}
