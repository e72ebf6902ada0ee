package bench

import (
	"bytes"
	"fmt"
	"strings"
)

// The payload of every message is one JSON object with all its values at fixed places:
//
//	{"p":"07","n":"0000000042","t":"0000012345678901234","x":"..."}
//
// p is the publisher within its topic, n the sequence number of that publisher, from 0, and t the time of sending on
// the monotonic clock in nanoseconds. x fills the payload up to its size.
const (
	payloadHead = `{"p":"00","n":"0000000000","t":"0000000000000000000","x":"`
	payloadTail = `"}`

	publisherAt, publisherDigits = len(`{"p":"`), 2
	sequenceAt, sequenceDigits   = publisherAt + publisherDigits + len(`","n":"`), 10
	timeAt, timeDigits           = sequenceAt + sequenceDigits + len(`","t":"`), 19

	minPayload    = len(payloadHead) + len(payloadTail)
	maxPayload    = 32 << 10
	maxPublishers = 100 // of a topic
)

// event is the name of every published event that counts, and fillEvent that of those that only fill sockets.
const (
	event     = "m"
	fillEvent = "f"
)

const fillPayload = 30 << 10

// fillFrame publishes what counts nowhere. Its answer is taken for a heartbeat's.
func fillFrame(topic string) []byte {
	text := fmt.Appendf(nil, `["1","%s","%s","publish",["%s",`, beatRef, topic, fillEvent)
	return appendClientFrame(nil, opText, append(append(text, newPayload(fillPayload)...), "]]"...))
}

// newPayload returns a payload of size bytes with zeros in its fields.
func newPayload(size int) []byte {
	return []byte(payloadHead + strings.Repeat("x", size-minPayload) + payloadTail)
}

// stamp is what a payload says.
type stamp struct {
	publisher int
	sequence  uint32
	time      int64 // monotonic, nanoseconds
}

// readStamp reads the fields of a payload, and reports whether they are there.
func readStamp(payload []byte) (stamp, bool) {
	if len(payload) < minPayload {
		return stamp{}, false
	}
	p, ok1 := digits(payload[publisherAt : publisherAt+publisherDigits])
	n, ok2 := digits(payload[sequenceAt : sequenceAt+sequenceDigits])
	t, ok3 := digits(payload[timeAt : timeAt+timeDigits])
	ok := ok1 && ok2 && ok3 && n < 1<<32 && t < 1<<63
	return stamp{publisher: int(p), sequence: uint32(n), time: int64(t)}, ok
}

// digits parses a decimal number of at most 19 digits.
func digits(b []byte) (uint64, bool) {
	var v uint64
	for _, c := range b {
		d := uint64(c - '0')
		if c < '0' || d > 9 {
			return 0, false
		}
		v = v*10 + d
	}
	return v, true
}

// publishFrame is a publisher's frame, built and masked once; only the digits change.
type publishFrame struct {
	bytes []byte
	text  int // where the masked text starts
	refAt int // all three relative to text
	seqAt int
	at    int
}

func newPublishFrame(topic string, publisher, size int) *publishFrame {
	payload := newPayload(size)
	copy(payload[publisherAt:], fmt.Sprintf("%0*d", publisherDigits, publisher))
	text := fmt.Appendf(nil, `["1","%0*d","%s","publish",["%s",`, sequenceDigits, 0, topic, event)
	start := len(text)
	text = append(append(text, payload...), "]]"...)
	f := &publishFrame{bytes: appendClientFrame(nil, opText, text)}
	f.text = len(f.bytes) - len(text)
	f.refAt, f.seqAt, f.at = len(`["1","`), start+sequenceAt, start+timeAt
	return f
}

// stamp writes sequence number and time into the frame and returns it. The result is valid until the next call.
func (f *publishFrame) stamp(sequence uint32, now int64) []byte {
	f.put(f.refAt, sequenceDigits, uint64(sequence))
	f.put(f.seqAt, sequenceDigits, uint64(sequence))
	f.put(f.at, timeDigits, uint64(now))
	return f.bytes
}

func (f *publishFrame) put(at, width int, v uint64) {
	for i := at + width - 1; i >= at; i-- {
		f.bytes[f.text+i] = byte('0'+v%10) ^ maskKey[i%4]
		v /= 10
	}
}

// deliveryHead is the start of every delivery of a topic; the payload and a closing bracket follow.
func deliveryHead(topic, event string) []byte {
	return fmt.Appendf(nil, `["1",null,"%s","%s",`, topic, event)
}

// delivery is how subscribers of a topic tell a delivery from other frames.
type delivery struct {
	head   []byte
	size   int // of the whole text
	filler []byte
}

func newDelivery(topic string, payload int) delivery {
	head := deliveryHead(topic, event)
	return delivery{head: head, size: len(head) + payload + 1, filler: deliveryHead(topic, fillEvent)}
}

// fills reports whether text is the delivery of a fillFrame.
func (d *delivery) fills(text []byte) bool { return bytes.HasPrefix(text, d.filler) }

// payload returns the payload of a delivery, or nil if the text is something else.
func (d *delivery) payload(text []byte) []byte {
	if len(text) != d.size || !bytes.HasPrefix(text, d.head) {
		return nil
	}
	return text[len(d.head) : len(text)-1]
}
