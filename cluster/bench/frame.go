package bench

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// WebSocket opcodes (RFC 6455, 5.2).
const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

// maxFrame is the longest frame that either end of a measurement takes, in bytes of payload.
const maxFrame = 40 << 10

// maskKey masks every client frame. A fixed key is as good as a fresh one here: the servers must unmask all the same.
var maskKey = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// frame is one whole WebSocket frame. Its payload aliases the buffer it was parsed from.
type frame struct {
	op      byte
	payload []byte
}

// parseFrame parses the frame at the start of data, and unmasks it in place if it is masked. The size is that of the
// frame with its header; 0 means that the frame is not there as a whole yet.
func parseFrame(data []byte, masked bool) (f frame, size int, err error) {
	if len(data) < 2 {
		return f, 0, nil
	}
	if data[0]&0x80 == 0 || data[0]&0x0f == 0 {
		return f, 0, errors.New("fragmented frame")
	}
	if data[0]&0x70 != 0 {
		return f, 0, fmt.Errorf("reserved bits in frame byte %#x", data[0])
	}
	if data[1]&0x80 != 0 != masked {
		return f, 0, fmt.Errorf("frame masked: %t, want %t", !masked, masked)
	}
	length, head := uint64(data[1]&0x7f), 2
	switch length {
	case 126:
		if len(data) < 4 {
			return f, 0, nil
		}
		length, head = uint64(binary.BigEndian.Uint16(data[2:])), 4
	case 127:
		if len(data) < 10 {
			return f, 0, nil
		}
		length, head = binary.BigEndian.Uint64(data[2:]), 10
	}
	if length > maxFrame {
		return f, 0, fmt.Errorf("frame of %d bytes, at most %d are expected", length, maxFrame)
	}
	var key []byte
	if masked {
		head += 4
		key = data[min(head-4, len(data)):min(head, len(data))]
	}
	size = head + int(length)
	if len(data) < size {
		return f, 0, nil
	}
	f = frame{op: data[0] & 0x0f, payload: data[head:size:size]}
	if masked {
		mask(f.payload, key)
	}
	return f, size, nil
}

// mask masks or unmasks in place.
func mask(b, key []byte) {
	for i := range b {
		b[i] ^= key[i%4]
	}
}

// appendClientFrame appends a masked frame.
func appendClientFrame(dst []byte, op byte, payload []byte) []byte {
	dst = appendHeader(dst, op, len(payload), 0x80)
	dst = append(dst, maskKey[:]...)
	start := len(dst)
	dst = append(dst, payload...)
	mask(dst[start:], maskKey[:])
	return dst
}

// appendServerFrame appends a frame that is not masked.
func appendServerFrame(dst []byte, op byte, payload []byte) []byte {
	return append(appendHeader(dst, op, len(payload), 0), payload...)
}

func appendHeader(dst []byte, op byte, length int, maskBit byte) []byte {
	dst = append(dst, 0x80|op)
	switch {
	case length < 126:
		return append(dst, maskBit|byte(length))
	case length < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, maskBit|126), uint16(length))
	default:
		return binary.BigEndian.AppendUint64(append(dst, maskBit|127), uint64(length))
	}
}

// closeFrame says goodbye with status 1000.
func closeFrame() []byte { return appendClientFrame(nil, opClose, []byte{0x03, 0xe8}) }

// closeText describes the payload of a close frame.
func closeText(payload []byte) string {
	if len(payload) < 2 {
		return "close frame without a status"
	}
	return strings.TrimSpace(fmt.Sprintf("close %d %s", binary.BigEndian.Uint16(payload), payload[2:]))
}

// The refs of the client's requests. A publish has its sequence number as its ref, in sequenceDigits digits.
const (
	joinRef  = "1"
	leaveRef = "2"
	beatRef  = "h"
)

// request returns the frame of a request on the topic.
func request(joined, ref, topic, event string) []byte {
	return appendClientFrame(nil, opText, fmt.Appendf(nil, `[%s,"%s","%s","%s",{}]`, joined, ref, topic, event))
}

func joinFrame(topic string) []byte  { return request(`"1"`, joinRef, topic, "phx_join") }
func leaveFrame(topic string) []byte { return request(`"1"`, leaveRef, topic, "phx_leave") }
func beatFrame() []byte              { return request("null", beatRef, "phoenix", "heartbeat") }

// reply is a phx_reply.
type reply struct {
	ref []byte
	ok  bool
}

// parseReply takes apart a phx_reply, [join_ref,"ref","topic","phx_reply",{…}]. It reports whether text is one.
func parseReply(text []byte) (reply, bool) {
	_, rest, ok := bytes.Cut(text, []byte(`,"`))
	if !ok {
		return reply{}, false
	}
	ref, rest, ok := bytes.Cut(rest, []byte(`","`))
	if !ok {
		return reply{}, false
	}
	_, payload, ok := bytes.Cut(rest, []byte(`","phx_reply",`))
	if !ok {
		return reply{}, false
	}
	return reply{ref: ref, ok: bytes.Contains(payload, []byte(`"status":"ok"`))}, true
}

// isControl reports whether text is the server's phx_close or phx_error of a channel, and whether it is an error.
func isControl(text []byte) (control, failed bool) {
	failed = bytes.Contains(text, []byte(`","phx_error",`))
	return failed || bytes.Contains(text, []byte(`","phx_close",`)), failed
}

// Every handshake has the key of the example in RFC 6455, 1.3, and must get its answer.
const (
	handshakeKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	handshakeAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// handshake returns the request that upgrades a connection; path includes the query.
func handshake(host, path string) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n", path, host, handshakeKey)
}

// parseUpgrade checks the response to a handshake. The size is 0 while the response is not there as a whole.
func parseUpgrade(data []byte) (size int, err error) {
	end := bytes.Index(data, []byte("\r\n\r\n"))
	if end < 0 {
		if len(data) > 4<<10 {
			return 0, errors.New("handshake response has no end within 4 KiB")
		}
		return 0, nil
	}
	status, _, _ := strings.Cut(string(data[:end]), "\r\n")
	if !strings.HasPrefix(status, "HTTP/1.1 101") {
		body := data[end+4:]
		return 0, fmt.Errorf("handshake refused: %s: %.80q", status, body)
	}
	if !bytes.Contains(data[:end], []byte(handshakeAccept)) {
		return 0, errors.New("handshake response lacks the right Sec-WebSocket-Accept")
	}
	return end + 4, nil
}
