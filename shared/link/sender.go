package link

import (
	"fmt"
	"sync"

	"storj.io/drpc"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// maxBatch closes a batch: the next item starts another. With MaxItem it keeps every batch below maxMessage.
const maxBatch = 256 << 10

// MaxItem is the largest payload that a message may carry, in bytes. Callers check it before they append.
const MaxItem = 1 << 20

// Sender is the outgoing side of a lane. Any goroutine may call its methods; none waits for the peer.
type Sender struct {
	stream drpc.Stream
	conn   *conn

	mu       sync.Mutex
	batches  []outbound // to be sent, in order; the last one is open
	spare    []outbound // sent, to be used again
	flushing bool       // a goroutine is in Flush and will send what is appended until it looks again
}

func (s *Sender) init(stream drpc.Stream, c *conn) { s.stream, s.conn = stream, c }

// Append puts an item at the end of what is to be sent. The order of Append calls is the order at the peer.
func (s *Sender) Append(kind linkpb.Kind, m linkpb.Item) {
	s.mu.Lock()
	b := s.openLocked()
	*b = linkpb.AppendItem(*b, kind, m)
	s.mu.Unlock()
}

// AppendEncoded is Append for an item, or several, that linkpb.AppendItem encoded already.
func (s *Sender) AppendEncoded(items []byte) {
	s.mu.Lock()
	b := s.openLocked()
	*b = append(*b, items...)
	s.mu.Unlock()
}

// openLocked returns the batch that takes the next item.
func (s *Sender) openLocked() *outbound {
	if n := len(s.batches); n > 0 && len(s.batches[n-1]) < maxBatch {
		return &s.batches[n-1]
	}
	var b outbound
	if n := len(s.spare); n > 0 {
		b, s.spare = s.spare[n-1], s.spare[:n-1]
	}
	s.batches = append(s.batches, b)
	return &s.batches[len(s.batches)-1]
}

// Flush sends everything appended so far. When another goroutine is in Flush already, that one sends it: order is
// kept, and nobody waits.
//
// The interleaving that matters: this goroutine appends while the other is between its last send and the lock. Either
// it takes the lock first, then the other sees the batch; or the other has cleared flushing, then this one sends.
func (s *Sender) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flushing {
		return
	}
	s.flushing = true
	for len(s.batches) > 0 {
		b := s.batches[0]
		s.batches = append(s.batches[:0], s.batches[1:]...)
		s.mu.Unlock()
		err := s.stream.MsgSend(&b, rawEncoding{})
		if err != nil {
			// The receive loop sees the closed connection and ends the lane.
			s.conn.fail(fmt.Errorf("link: send: %w", err))
		}
		s.mu.Lock()
		if cap(b) <= 2*maxBatch && len(s.spare) < 2 {
			s.spare = append(s.spare, b[:0])
		}
	}
	s.flushing = false
}

// Backlog returns how many bytes wait for a peer that does not read.
func (s *Sender) Backlog() int { return s.conn.backlog() }
