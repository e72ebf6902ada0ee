package codec

import "fmt"

// Value is one value of a JSON text that a request carried, and where it stands in it. A text is read strictly: besides
// what the scanner wants, keys do not repeat in objects whose members are asked for.
type Value struct {
	Text   []byte // without white space around it
	Offset int    // of Text in the request's body
}

// InputError says what is wrong with a JSON text, and at which byte.
type InputError struct {
	Offset int
	Reason string // for people; it names the offset too
}

func (e *InputError) Error() string { return e.Reason }

// envelope is how many arrays and objects may stand around a payload.
const envelope = 3

// ParseValue checks that data is one well-formed value and nothing behind it. It allocates nothing. The error is an
// *InputError, here and in the methods of Value.
func ParseValue(data []byte) (Value, error) {
	s := scanner{data: data, prefix: "bad JSON"}
	s.peek()
	start := s.pos
	err := s.value(-envelope)
	end := s.pos
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return Value{}, &InputError{Offset: s.pos, Reason: err.Error()}
	}
	return Value{Text: data[start:end:end], Offset: start}, nil
}

// Errorf returns an error about the value.
func (v Value) Errorf(format string, args ...any) error {
	return &InputError{Offset: v.Offset, Reason: fmt.Sprintf("offset %d: ", v.Offset) + fmt.Sprintf(format, args...)}
}

// Members calls each with every member of an object, in their order. A key that comes twice is an error, and so is
// whatever each returns.
func (v Value) Members(each func(key string, member Value) error) error {
	s := scanner{data: v.Text}
	if !s.accept('{') {
		return v.Errorf("want an object")
	}
	seen := make(map[string]bool)
	for s.peek() != '}' {
		at := s.pos
		name, err := s.text()
		if err != nil {
			return v.Errorf("%v", err) // never, for ParseValue has been here
		}
		key := string(name)
		if seen[key] {
			return Value{Offset: v.Offset + at}.Errorf("duplicate key %.64q", key)
		}
		seen[key] = true
		s.accept(':')
		if err := each(key, v.next(&s)); err != nil {
			return err
		}
		s.accept(',')
	}
	return nil
}

// Elements calls each with every element of an array, in their order. It counts them first: more than most is an error
// before anything is done with any of them.
func (v Value) Elements(most int, each func(i int, element Value) error) error {
	s := scanner{data: v.Text}
	if !s.accept('[') {
		return v.Errorf("want an array")
	}
	first := s
	n := 0
	for ; s.peek() != ']'; n++ {
		if n == most {
			return v.Errorf("batch > %d", most)
		}
		v.next(&s)
		s.accept(',')
	}
	s = first
	for i := range n {
		if err := each(i, v.next(&s)); err != nil {
			return err
		}
		s.accept(',')
	}
	return nil
}

// next takes the value that s, which walks over v, has before it.
func (v Value) next(s *scanner) Value {
	s.peek()
	start := s.pos
	_ = s.value(-envelope) // ParseValue has found it well formed
	return Value{Text: s.data[start:s.pos:s.pos], Offset: v.Offset + start}
}

// String returns what a JSON string means, without its escapes. The error, for any other value, is an *InputError.
func (v Value) String() (string, error) {
	if v.Text[0] != '"' {
		return "", v.Errorf("want a string")
	}
	s := scanner{data: v.Text}
	text, err := s.text()
	if err != nil {
		return "", v.Errorf("%v", err)
	}
	return string(text), nil
}

// Payload returns the text of a value that may be a message's payload: an object that nests no deeper than MaxDepth. The
// error, for any other value, is an *InputError. The text aliases what was parsed.
func (v Value) Payload() ([]byte, error) {
	if !IsObject(v.Text) {
		return nil, v.Errorf("payload must be an object")
	}
	s := scanner{data: v.Text}
	if s.value(0) != nil {
		return nil, v.Errorf("payload: depth > %d", MaxDepth)
	}
	return v.Text, nil
}
