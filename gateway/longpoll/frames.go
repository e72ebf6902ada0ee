package longpoll

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"iter"

	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
)

// maxBatch is how many frames one POST may carry; phoenix.js sends no more.
const maxBatch = 100

// message is one frame of a POST.
type message struct {
	op   socket.Opcode
	data []byte
}

// splitBody takes a POST's body apart: lines, if it is a batch, else one frame. What begins as JSON does is text, the rest
// is binary in base64. What is neither is handed on as text: it is for the session to say what is wrong with it.
func splitBody(body []byte, batch bool) ([]message, error) {
	lines := [][]byte{body}
	if batch {
		if lines = bytes.SplitN(body, []byte("\n"), maxBatch+2); len(lines) == maxBatch+2 {
			return nil, fmt.Errorf("more than %d frames", maxBatch)
		}
	}
	messages := make([]message, 0, len(lines))
	for _, line := range lines {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		m := message{socket.OpText, line}
		if line[0] != '[' && line[0] != '{' {
			if data, err := base64.StdEncoding.DecodeString(string(line)); err == nil {
				m = message{socket.OpBinary, data}
			}
		}
		messages = append(messages, m)
	}
	switch {
	case len(messages) == 0:
		return nil, fmt.Errorf("no frame")
	case len(messages) > maxBatch:
		return nil, fmt.Errorf("more than %d frames", maxBatch)
	}
	return messages, nil
}

// each yields the messages as a mailbox takes them.
func each(messages []message) iter.Seq2[socket.Opcode, []byte] {
	return func(yield func(socket.Opcode, []byte) bool) {
		for _, m := range messages {
			if !yield(m.op, m.data) {
				return
			}
		}
	}
}

// appendMessages appends the frames that a mailbox gave as an array of strings, and returns how many those were. Text is
// a string as it is, binary is in base64, which begins with no character that text begins with.
func appendMessages(dst, frames []byte) ([]byte, int) {
	n := 0
	dst = append(dst, '[')
	for op, data := range socket.Messages(frames) {
		if n > 0 {
			dst = append(dst, ',')
		}
		n++
		if op == socket.OpText {
			dst = codec.AppendString(dst, string(data))
			continue
		}
		dst = append(dst, '"')
		dst = base64.StdEncoding.AppendEncode(dst, data)
		dst = append(dst, '"')
	}
	return append(dst, ']'), n
}
