package socket

import (
	"encoding/binary"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Opcode is the kind of a WebSocket frame (RFC 6455, section 5.2). Handlers
// see only OpText and OpBinary; control frames are handled in this package.
type Opcode byte

// The kinds of message that handlers receive and send.
const (
	OpText   Opcode = 1
	OpBinary Opcode = 2
)

const (
	opContinuation Opcode = 0
	opClose        Opcode = 8
	opPing         Opcode = 9
	opPong         Opcode = 10
)

func (op Opcode) control() bool { return op >= opClose }

const (
	maxControl     = 125 // payload of a control frame
	maxCloseReason = maxControl - 2
	maxFragments   = 1024 // frames of one message, empty ones included
)

const (
	finBit     = 0x80
	rsvBits    = 0x70
	opcodeBits = 0x0f
	maskBit    = 0x80
	lengthBits = 0x7f
	length16   = 126
	length64   = 127
)

// header is the header of one client frame.
type header struct {
	fin    bool
	op     Opcode
	key    uint32 // little-endian, as the bytes stand on the wire
	size   int    // bytes of the header itself
	length uint64 // bytes of payload, below 1<<63
}

// headerSize gives the bytes of a client frame's header from its second byte.
func headerSize(second byte) int {
	switch second & lengthBits {
	case length16:
		return 2 + 2 + 4
	case length64:
		return 2 + 8 + 4
	}
	return 2 + 4
}

// parseHeader reads the client frame header at the front of b. ok is false
// while bytes of it are missing. A non-empty problem says which rule of RFC
// 6455 the header breaks. The problem found does not depend on how the bytes
// were cut: the first two bytes are judged alone, the rest when complete.
func parseHeader(b []byte) (h header, ok bool, problem string) {
	if len(b) < 2 {
		return h, false, ""
	}
	h.fin = b[0]&finBit != 0
	h.op = Opcode(b[0] & opcodeBits)
	short := b[1] & lengthBits
	switch {
	case b[0]&rsvBits != 0:
		return h, false, "reserved bits set"
	case h.op > OpBinary && h.op < opClose || h.op > opPong:
		return h, false, "unknown opcode " + strconv.Itoa(int(h.op))
	case b[1]&maskBit == 0:
		return h, false, "unmasked frame"
	case h.op.control() && !h.fin:
		return h, false, "fragmented control frame"
	case h.op.control() && short > maxControl:
		return h, false, "control frame longer than 125 bytes"
	}
	h.size = headerSize(b[1])
	if len(b) < h.size {
		return h, false, ""
	}
	switch short {
	case length16:
		h.length = uint64(binary.BigEndian.Uint16(b[2:]))
	case length64:
		h.length = binary.BigEndian.Uint64(b[2:])
	default:
		h.length = uint64(short)
	}
	switch {
	case h.length>>63 != 0:
		return h, false, "frame length with the top bit set"
	case short == length16 && h.length < length16, short == length64 && h.length <= 0xffff:
		return h, false, "frame length not in its shortest form"
	}
	h.key = binary.LittleEndian.Uint32(b[h.size-4:])
	return h, true, ""
}

// missing gives how many bytes to add to the torn frame raw before it can be
// judged again: up to the end of the next part of the header, then up to the
// end of the frame. It is positive for every torn frame that was admitted.
func missing(raw []byte) int {
	if len(raw) < 2 {
		return 2 - len(raw)
	}
	if n := headerSize(raw[1]); len(raw) < n {
		return n - len(raw)
	}
	h, _, _ := parseHeader(raw)
	return h.size + int(h.length) - len(raw)
}

// unmask removes the masking key from a payload, in place.
func unmask(p []byte, key uint32) {
	wide := uint64(key)<<32 | uint64(key)
	for len(p) >= 32 {
		q := p[:32:32]
		binary.LittleEndian.PutUint64(q[0:], binary.LittleEndian.Uint64(q[0:])^wide)
		binary.LittleEndian.PutUint64(q[8:], binary.LittleEndian.Uint64(q[8:])^wide)
		binary.LittleEndian.PutUint64(q[16:], binary.LittleEndian.Uint64(q[16:])^wide)
		binary.LittleEndian.PutUint64(q[24:], binary.LittleEndian.Uint64(q[24:])^wide)
		p = p[32:]
	}
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^wide)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= byte(wide >> (8 * i))
	}
}

// serverHeaderSize gives the bytes of an unmasked header for n bytes of payload.
func serverHeaderSize(n int) int {
	switch {
	case n < length16:
		return 2
	case n <= 0xffff:
		return 4
	}
	return 10
}

func appendHeader(dst []byte, op Opcode, n int) []byte {
	first := finBit | byte(op)
	switch serverHeaderSize(n) {
	case 2:
		return append(dst, first, byte(n))
	case 4:
		return binary.BigEndian.AppendUint16(append(dst, first, length16), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, first, length64), uint64(n))
}

// AppendFrame appends to dst one unmasked, unfragmented server frame whose
// payload is head followed by body, and returns the extended slice. The
// result is what Conn.SendFramed takes.
func AppendFrame(dst []byte, op Opcode, head, body []byte) []byte {
	dst = appendHeader(dst, op, len(head)+len(body))
	dst = append(dst, head...)
	return append(dst, body...)
}

// frameSize gives the bytes of the complete server frame at the front of b.
func frameSize(b []byte) int {
	switch short := b[1] & lengthBits; short {
	case length16:
		return 4 + int(binary.BigEndian.Uint16(b[2:]))
	case length64:
		return 10 + int(binary.BigEndian.Uint64(b[2:]))
	default:
		return 2 + int(short)
	}
}

// frameTail gives how many bytes of a begun frame remain after the first n
// bytes of out are gone.
//
// Invariant: out is tail bytes of a begun frame, then whole frames only.
func frameTail(out []byte, tail, n int) int {
	pos := tail
	for pos < n {
		pos += frameSize(out[pos:])
	}
	return pos - n
}

// closePayload builds the payload of a close frame. A code that must not
// stand on the wire gives an empty payload. The reason is made valid UTF-8
// and cut to 123 bytes at a rune boundary.
func closePayload(code int, reason string) []byte {
	if !wireCode(code) {
		return nil
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(code)), cutReason(reason)...)
}

func cutReason(reason string) string {
	reason = strings.ToValidUTF8(reason, "\uFFFD")
	if len(reason) <= maxCloseReason {
		return reason
	}
	n := maxCloseReason
	for !utf8.RuneStart(reason[n]) {
		n--
	}
	return reason[:n]
}

// parseClose judges the payload of a peer's close frame. A non-zero bad is
// the code to fail the connection with.
func parseClose(p []byte) (code int, reason string, bad int, problem string) {
	if len(p) == 0 {
		return CloseNoStatus, "", 0, ""
	}
	if len(p) == 1 {
		return 0, "", CloseProtocol, "close frame of one byte"
	}
	code = int(binary.BigEndian.Uint16(p))
	if !wireCode(code) {
		return 0, "", CloseProtocol, "invalid close code " + strconv.Itoa(code)
	}
	if !utf8.Valid(p[2:]) {
		return 0, "", CloseNotUTF8, "close reason is not UTF-8"
	}
	return code, string(p[2:]), 0, ""
}

// wireCode reports whether a close frame may carry the code (RFC 6455,
// section 7.4, and the codes registered since).
func wireCode(code int) bool {
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014:
		return true
	}
	return code >= 3000 && code <= 4999
}
