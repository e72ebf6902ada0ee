package codec

// scanner walks over JSON text once, from left to right, and checks it against RFC 8259 as it goes. Beyond the RFC's
// grammar it wants valid UTF-8. Like the RFC's grammar it accepts escapes of lone surrogates and repeated keys.
//
// Invariant: data[:pos] has been accepted.
type scanner struct {
	data   []byte
	pos    int
	prefix string // how an error starts, `bad frame`
}

// fail returns the error that the bytes at pos are no good.
func (s *scanner) fail(what string) error {
	return errorf("%s: offset %d: %s", s.prefix, s.pos, what)
}

// unexpected returns the error that the grammar has no place for the byte at pos, or for an end there.
func (s *scanner) unexpected() error {
	if s.pos >= len(s.data) {
		return s.fail("unexpected end")
	}
	if c := s.data[s.pos]; c > ' ' && c < 0x7f {
		return s.fail("unexpected " + string(rune(c)))
	}
	return errorf("%s: offset %d: unexpected byte 0x%02x", s.prefix, s.pos, s.data[s.pos])
}

// wantElse returns the error that the value at pos is not of the type that belongs there.
func (s *scanner) wantElse(want string) error {
	if s.pos >= len(s.data) {
		return s.unexpected()
	}
	return errorf("%s: %s", s.prefix, want)
}

// peek skips white space and returns the byte after it, which stays the next one; 0 at the end. No JSON token starts
// with a 0.
func (s *scanner) peek() byte {
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; c {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

// accept skips white space and then c; false, if something else is there.
func (s *scanner) accept(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.pos++
	return true
}

// end checks that nothing but white space is left.
func (s *scanner) end() error {
	s.peek()
	if s.pos < len(s.data) {
		return s.fail("data after the end")
	}
	return nil
}

// payload accepts a value and returns its text without the white space around it.
func (s *scanner) payload() ([]byte, error) {
	s.peek()
	start := s.pos
	if err := s.value(0); err != nil {
		return nil, err
	}
	return s.data[start:s.pos:s.pos], nil
}

// value accepts a value inside of depth arrays and objects.
func (s *scanner) value(depth int) error {
	switch c := s.peek(); c {
	case '"':
		_, _, err := s.str()
		return err
	case '{':
		return s.object(depth + 1)
	case '[':
		return s.array(depth + 1)
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	default:
		return s.number()
	}
}

// object accepts an object that is the depth-th array or object around its members.
func (s *scanner) object(depth int) error {
	if depth > MaxDepth {
		return s.tooDeep()
	}
	s.pos++
	if s.accept('}') {
		return nil
	}
	for {
		if _, _, err := s.key(); err != nil {
			return err
		}
		if err := s.value(depth); err != nil {
			return err
		}
		if more, err := s.more('}'); !more {
			return err
		}
	}
}

// member accepts a member of an object whose values may be a payload. The key is what its escapes stand for.
func (s *scanner) member() (key, value []byte, err error) {
	key, escaped, err := s.key()
	if err != nil {
		return nil, nil, err
	}
	if escaped {
		key = appendUnescaped(nil, key)
	}
	value, err = s.payload()
	return key, value, err
}

// key accepts the key of a member and the colon after it. It returns what str does.
func (s *scanner) key() (body []byte, escaped bool, err error) {
	if s.peek() != '"' {
		return nil, false, s.unexpected()
	}
	if body, escaped, err = s.str(); err != nil {
		return nil, false, err
	}
	if !s.accept(':') {
		return nil, false, s.unexpected()
	}
	return body, escaped, nil
}

// more accepts what stands after a member or an element: a comma, and there is more, or the closing bracket.
func (s *scanner) more(closing byte) (bool, error) {
	if s.accept(',') {
		return true, nil
	}
	if s.accept(closing) {
		return false, nil
	}
	return false, s.unexpected()
}

// array accepts an array that is the depth-th array or object around its elements.
func (s *scanner) array(depth int) error {
	if depth > MaxDepth {
		return s.tooDeep()
	}
	s.pos++
	if s.accept(']') {
		return nil
	}
	for {
		if err := s.value(depth); err != nil {
			return err
		}
		if more, err := s.more(']'); !more {
			return err
		}
	}
}

func (s *scanner) tooDeep() error {
	return errorf("%s: depth > %d", s.prefix, MaxDepth)
}

func (s *scanner) literal(word string) error {
	for i := range len(word) {
		if s.pos >= len(s.data) || s.data[s.pos] != word[i] {
			return s.unexpected()
		}
		s.pos++
	}
	return nil
}

// number accepts `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`.
func (s *scanner) number() error {
	s.take('-', '-')
	if !s.take('0', '0') && !s.digits() {
		return s.unexpected()
	}
	if s.take('.', '.') && !s.digits() {
		return s.unexpected()
	}
	if s.take('e', 'E') {
		s.take('+', '-')
		if !s.digits() {
			return s.unexpected()
		}
	}
	return nil
}

// take skips the next byte if it is a or b.
func (s *scanner) take(a, b byte) bool {
	if s.pos < len(s.data) && (s.data[s.pos] == a || s.data[s.pos] == b) {
		s.pos++
		return true
	}
	return false
}

// digits skips digits; false, if there are none.
func (s *scanner) digits() bool {
	start := s.pos
	for s.pos < len(s.data) && s.data[s.pos]-'0' <= 9 {
		s.pos++
	}
	return s.pos > start
}

// IsObject tells whether well-formed JSON text is an object.
func IsObject(payload []byte) bool {
	s := scanner{data: payload}
	return s.peek() == '{'
}
