package link

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"storj.io/drpc/drpcwire"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// script is a net.Conn that gives what it is told, in pieces of the given lengths, then EOF.
type script struct {
	net.Conn
	data   []byte
	pieces []byte
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.data) == 0 {
		return 0, io.EOF
	}
	n := len(s.data)
	if len(s.pieces) > 0 {
		n, s.pieces = int(s.pieces[0])+1, s.pieces[1:]
	}
	n = copy(p, s.data[:min(n, len(s.data))])
	s.data = s.data[n:]
	return n, nil
}

func (s *script) Close() error                     { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// takeIn reads data through a conn whose lane is greeted. It returns the batches handed to the receiver, the bytes left
// to dRPC, and the error at the end.
func takeIn(data, pieces []byte) (batches []string, passed []byte, err error) {
	c := newConn(&script{data: bytes.Clone(data), pieces: pieces}, Config{}.withDefaults(), func() {})
	c.prove()
	items := 0
	in := &inbound{}
	in.item = func(_ linkpb.Kind, body []byte) error {
		items++
		batches = append(batches, string(body))
		return nil
	}
	in.batch = func() { batches = append(batches, "|") }
	c.intake.in = in
	buf := make([]byte, 100)
	for {
		n, err := c.Read(buf)
		passed = append(passed, buf[:n]...)
		if err != nil {
			return batches, passed, err
		}
	}
}

// upBatch encodes a batch of joins of topics with the names.
func upBatch(names ...string) []byte {
	var b []byte
	for _, name := range names {
		b = linkpb.AppendItem(b, linkpb.KindJoin, &linkpb.Join{Topic: name})
	}
	return b
}

// frames cuts a message into frames of at most n bytes.
func frames(message uint64, data []byte, n int) []byte {
	var b []byte
	for {
		cut := min(n, len(data))
		fr := drpcwire.Frame{
			Data: data[:cut], ID: drpcwire.ID{Stream: 1, Message: message}, Kind: drpcwire.KindMessage, Done: cut == len(data),
		}
		b, data = drpcwire.AppendFrame(b, fr), data[cut:]
		if fr.Done {
			return b
		}
	}
}

func control(kind drpcwire.Kind, message uint64) []byte {
	return drpcwire.AppendFrame(nil, drpcwire.Frame{ID: drpcwire.ID{Stream: 1, Message: message}, Kind: kind, Done: true})
}

// The lane's messages go to the receiver, all else to dRPC, whatever pieces the bytes come in.
func TestIntake(t *testing.T) {
	invoke := control(drpcwire.KindInvoke, 9)
	foreign := frames(10, upBatch("foreign"), 1000)
	for _, tt := range []struct {
		name    string
		data    []byte
		batches []string // without their tags
		passed  []byte
		err     error
	}{
		{"one message", frames(2, upBatch("a", "b"), 1000), []string{"a", "b", "|"}, nil, io.EOF},
		{"three messages", slices.Concat(frames(2, upBatch("a"), 1000), frames(3, upBatch("b"), 1000), frames(4, upBatch("c"), 1000)),
			[]string{"a", "|", "b", "|", "c", "|"}, nil, io.EOF},
		{"in many frames", slices.Concat(frames(2, upBatch("abcdefgh", "i"), 3), frames(3, upBatch("j"), 1)),
			[]string{"abcdefgh", "i", "|", "j", "|"}, nil, io.EOF},
		{"an empty batch", frames(2, nil, 1), []string{"|"}, nil, io.EOF},
		{"given up and begun anew", slices.Concat(frames(2, upBatch("lost"), 4)[:8], frames(3, upBatch("a"), 1000)),
			[]string{"a", "|"}, nil, io.EOF},
		{"the peer's last word", slices.Concat(frames(2, upBatch("a"), 1000), control(drpcwire.KindCloseSend, 3)),
			[]string{"a", "|"}, control(drpcwire.KindCloseSend, 3), io.EOF},
		{"another stream is dRPC's", slices.Concat(frames(2, upBatch("a"), 1000), invoke, foreign),
			[]string{"a", "|"}, slices.Concat(invoke, foreign), io.EOF},
		{"half a frame", frames(2, upBatch("a"), 1000)[:6], nil, nil, io.EOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, pieces := range [][]byte{nil, bytes.Repeat([]byte{0}, len(tt.data)), bytes.Repeat([]byte{4}, len(tt.data))} {
				batches, passed, err := takeIn(tt.data, pieces)
				for i, b := range batches {
					var j linkpb.Join
					if b == "|" {
						continue
					}
					if err := j.UnmarshalVT([]byte(b)); err != nil {
						t.Fatal(err)
					}
					batches[i] = j.Topic
				}
				if !slices.Equal(batches, tt.batches) || !bytes.Equal(passed, tt.passed) || !errors.Is(err, tt.err) {
					t.Errorf("handled %q, passed %q, then %v; want %q, %q, %v", batches, passed, err, tt.batches, tt.passed, tt.err)
				}
			}
		})
	}
}

// A peer of ours never sends more than maxMessage; one that does is cut off before the bytes pile up.
func TestIntakeIsBounded(t *testing.T) {
	huge := make([]byte, maxMessage+1000)
	for name, data := range map[string][]byte{
		"one frame":   frames(2, huge, len(huge)),
		"many frames": frames(2, huge, 64<<10),
	} {
		_, _, err := takeIn(data, nil)
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v; want an error that says it is too long", name, err)
		}
	}
}

// FuzzIntake: the way the bytes are cut changes nothing, and no byte is lost on the way to dRPC.
func FuzzIntake(f *testing.F) {
	f.Add(frames(2, upBatch("a", "b"), 3), []byte{0, 1, 2, 3})
	f.Add(slices.Concat(frames(2, upBatch("a"), 9), control(drpcwire.KindCloseSend, 3)), []byte{200})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, []byte{3})
	f.Fuzz(func(t *testing.T, data, pieces []byte) {
		b1, p1, err1 := takeIn(data, nil)
		b2, p2, err2 := takeIn(data, pieces)
		if !slices.Equal(b1, b2) || (err1 == nil) != (err2 == nil) {
			t.Fatalf("whole: %q %v; in pieces: %q %v", b1, err1, b2, err2)
		}
		// What is malformed goes to dRPC as far as it has come; it gives up there.
		if !bytes.HasPrefix(p1, p2) && !bytes.HasPrefix(p2, p1) {
			t.Fatalf("dRPC gets %q, in pieces %q", p1, p2)
		}
	})
}
