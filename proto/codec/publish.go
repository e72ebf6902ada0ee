package codec

const badPublish = "bad publish"

// SplitPublish takes apart the payload of a publish, `[event, object]` or `[event, object, options]`. The event comes
// without JSON escapes and may be empty; object and options, which is nil if there is none, are the JSON text of
// objects, without white space around it. All alias the payload, but for an event that had escapes. The payload is
// checked in full, with the depth of a payload. The error is an *Error.
func SplitPublish(payload []byte) (event, object, options []byte, err error) {
	s := scanner{data: payload, prefix: badPublish}
	if !s.accept('[') {
		return nil, nil, nil, errPublishShape()
	}
	if c := s.peek(); c == ']' {
		return nil, nil, nil, errPublishShape()
	} else if c != '"' {
		return nil, nil, nil, s.wantElse("event: want a string")
	}
	if event, err = s.text(); err != nil {
		return nil, nil, nil, err
	}
	if s.peek() == ']' {
		return nil, nil, nil, errPublishShape()
	}
	if !s.accept(',') {
		return nil, nil, nil, s.unexpected()
	}
	if s.peek() != '{' {
		return nil, nil, nil, s.wantElse("payload: want an object")
	}
	start := s.pos
	if err = s.object(2); err != nil {
		return nil, nil, nil, err
	}
	object = payload[start:s.pos:s.pos]
	if s.accept(',') {
		if s.peek() != '{' {
			return nil, nil, nil, s.wantElse("options: want an object")
		}
		start = s.pos
		if err = s.object(2); err != nil {
			return nil, nil, nil, err
		}
		options = payload[start:s.pos:s.pos]
		if s.peek() == ',' {
			return nil, nil, nil, errPublishShape()
		}
	}
	if !s.accept(']') {
		return nil, nil, nil, s.unexpected()
	}
	if err = s.end(); err != nil {
		return nil, nil, nil, err
	}
	return event, object, options, nil
}

func errPublishShape() error {
	return errorf("%s: want [event, object]", badPublish)
}
