package codec

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
)

// str accepts the string whose opening quote is next. It returns what stands between the quotes, and whether there
// are escapes in it.
func (s *scanner) str() (body []byte, escaped bool, err error) {
	s.pos++
	start := s.pos
	for {
		s.pos += plain(s.data[s.pos:])
		if s.pos >= len(s.data) {
			return nil, false, s.unexpected()
		}
		switch c := s.data[s.pos]; {
		case c == '"':
			s.pos++
			return s.data[start : s.pos-1 : s.pos-1], escaped, nil
		case c == '\\':
			escaped = true
			if err := s.escape(); err != nil {
				return nil, false, err
			}
		case c < ' ':
			return nil, false, s.fail("control character in a string")
		default:
			r, size := utf8.DecodeRune(s.data[s.pos:])
			if r == utf8.RuneError && size == 1 {
				return nil, false, s.fail("not UTF-8")
			}
			s.pos += size
		}
	}
}

// escape accepts the escape whose backslash is next.
func (s *scanner) escape() error {
	s.pos++
	if s.pos >= len(s.data) {
		return s.unexpected()
	}
	switch s.data[s.pos] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.pos++
		return nil
	case 'u':
		s.pos++
	default:
		return s.fail("unknown escape")
	}
	for range 4 {
		if s.pos >= len(s.data) {
			return s.unexpected()
		}
		if unhex(s.data[s.pos]) < 0 {
			return s.fail("want four hex digits after \\u")
		}
		s.pos++
	}
	return nil
}

// text accepts a string and returns it without escapes: a slice of data if it had none, a copy otherwise. The escape
// of a lone surrogate comes out as U+FFFD.
func (s *scanner) text() ([]byte, error) {
	body, escaped, err := s.str()
	if err != nil || !escaped {
		return body, err
	}
	return appendUnescaped(make([]byte, 0, len(body)), body), nil
}

const (
	lsb = 0x0101010101010101 // 1 in each byte
	msb = 0x8080808080808080 // the high bit of each byte
)

// plain returns how many bytes at the start of b stand for themselves in a JSON string: ASCII other than control
// characters, the quote and the backslash.
//
// It looks at eight bytes at a time. Each of the three terms has the high bit set in the first byte that it is for:
// one below 0x20, a quote, a backslash; a byte of 0x80 and above keeps its high bit in at least one of the last two.
// What a subtraction borrows spoils only bytes after the first hit, and those are not looked at.
func plain(b []byte) int {
	n := 0
	for len(b)-n >= 8 {
		x := binary.LittleEndian.Uint64(b[n:])
		hits := ((x - lsb*' ') | ((x ^ lsb*'"') - lsb) | ((x ^ lsb*'\\') - lsb)) & msb
		if hits != 0 {
			return n + bits.TrailingZeros64(hits)/8
		}
		n += 8
	}
	for n < len(b) && b[n] >= ' ' && b[n] < 0x80 && b[n] != '"' && b[n] != '\\' {
		n++
	}
	return n
}

// unhex returns the value of a hex digit, or -1.
func unhex(c byte) rune {
	switch {
	case c >= '0' && c <= '9':
		return rune(c - '0')
	case c >= 'a' && c <= 'f':
		return rune(c - 'a' + 10)
	case c >= 'A' && c <= 'F':
		return rune(c - 'A' + 10)
	}
	return -1
}

// unhex4 returns the code unit of the escape \uXXXX at the start of b, or -1 if there is no such escape.
func unhex4(b []byte) rune {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return -1
	}
	return unhex(b[2])<<12 | unhex(b[3])<<8 | unhex(b[4])<<4 | unhex(b[5])
}

// appendUnescaped appends what a string with that body means. The body has passed scanner.str.
func appendUnescaped(dst, body []byte) []byte {
	for i := 0; i < len(body); {
		if body[i] != '\\' {
			dst = append(dst, body[i])
			i++
			continue
		}
		if r := unhex4(body[i:]); r >= 0 {
			i += 6
			if utf16.IsSurrogate(r) {
				r = utf16.DecodeRune(r, unhex4(body[i:]))
				if r != utf8.RuneError {
					i += 6
				}
			}
			dst = utf8.AppendRune(dst, r)
			continue
		}
		c := body[i+1]
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		}
		dst = append(dst, c)
		i += 2
	}
	return dst
}

// AppendString appends s as a JSON string. It escapes only what JSON wants escaped, and puts U+FFFD for each byte
// that is not UTF-8.
func AppendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0 // s[:start] is in dst
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				dst = append(dst, s[start:i]...)
				dst = utf8.AppendRune(dst, utf8.RuneError)
				start = i + 1
			}
			i += size
			continue
		}
		i++
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[start:i-1]...)
		start = i
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}
