package codec

import (
	"bytes"
	"unicode/utf8"
)

// westText is WEST's commands as lines of text: `send r1 "hello world"`. Records have no id here. A delivery is
// `u1 r1:new_message hello world`, in a binary message if its data is not UTF-8.
type westText struct{}

func (westText) Kind() Kind { return WestText }

// command is one of the words that a line may begin with, and how many more there may be.
type command struct {
	event string
	words int
}

func westCommand(word string) (command, bool) {
	switch word {
	case "ping", "bye":
		return command{word, 0}, true
	case "reg":
		return command{"register", 1}, true
	case "unreg":
		return command{"unregister", 1}, true
	case "sub":
		return command{"subscribe", 1}, true
	case "unsub":
		return command{"unsubscribe", 1}, true
	case "send":
		return command{"send", 2}, true
	case "pub":
		return command{"publish", 2}, true
	}
	return command{}, false
}

// Decode parses a line. Words are separated by spaces; one that contains spaces is put between quotes and is the last
// one. A line with more than one part between quotes is WestEcho. What is no command comes out as the event that it
// begins with, which none has.
func (westText) Decode(data []byte, binary bool) (Frame, error) {
	if binary {
		return Frame{}, &Error{WestBadEncoding}
	}
	parts := tokens(data, '"', 3)
	if len(parts) > 2 {
		return Frame{Event: []byte(WestEcho), Payload: data, Binary: true}, nil
	}
	var words [][]byte
	if len(parts) > 0 {
		words = tokens(parts[0], ' ', 4)
	}
	if len(parts) == 2 {
		words = append(words, parts[1])
	}
	if len(words) == 0 {
		return Frame{Binary: true}, nil
	}
	c, ok := westCommand(string(words[0]))
	if !ok || len(words)-1 > c.words {
		return Frame{Event: data, Binary: true}, nil
	}
	f := Frame{Event: []byte(c.event), Binary: true}
	if len(words) > 1 {
		f.Topic = words[1]
	}
	if len(words) > 2 {
		f.Payload = words[2]
	}
	if len(f.Topic) > maxWestText {
		return Frame{Event: data, Binary: true}, nil
	}
	return f, nil
}

// tokens splits text at each separator and leaves out what is empty. It stops after max parts.
func tokens(text []byte, separator byte, max int) [][]byte {
	var parts [][]byte
	for len(text) > 0 && len(parts) < max {
		i := bytes.IndexByte(text, separator)
		if i < 0 {
			return append(parts, text)
		}
		if i > 0 {
			parts = append(parts, text[:i:i])
		}
		text = text[i+1:]
	}
	return parts
}

// AppendReply appends a line from the service. It has no place for id and data.
func (westText) AppendReply(dst []byte, _, _ Ref, channel, event string, _ []byte) []byte {
	switch {
	case event == WestEstablished:
		return append(dst, "Welcome !"...)
	case event == WestTimeout:
		return append(dst, "Anybody Else ?"...)
	case event == WestPong:
		return append(dst, "west pong"...)
	case channel == "":
		return append(append(dst, "west:"...), event...)
	}
	return append(append(append(append(dst, "west "...), channel...), ':'), event...)
}

func (westText) AppendHead(dst []byte, _, _ Ref, _ *Push) []byte { return dst }

// AppendBody leaves the sender out if there is none.
func (westText) AppendBody(dst []byte, p *Push) []byte {
	r := recordOf(p)
	if r.from != "" {
		dst = append(append(dst, r.from...), ' ')
	}
	dst = append(append(append(dst, r.channel...), ':'), r.event...)
	if r.data != nil {
		dst = append(append(dst, ' '), r.data...)
	}
	return dst
}

// Binary tells whether the data is not UTF-8.
func (westText) Binary(p *Push) bool {
	r := recordOf(p)
	return !utf8.Valid(r.data)
}
