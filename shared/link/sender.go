package link

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"

	"storj.io/drpc"

	"github.com/ringcast/ringcast/proto/linkpb"
)

const (
	// MaxItem is the largest payload that a message may carry, in bytes. Callers check before they append.
	MaxItem = 1 << 20

	// MaxEvent is the longest event, in bytes. Callers check before they append.
	MaxEvent = 64 << 10

	// maxBatch closes a batch: the next item starts another. With MaxItem and MaxEvent it keeps every batch below
	// maxMessage.
	maxBatch = 256 << 10

	// maxRun is how many batches one call of Flush sends before a goroutine takes over.
	maxRun = 16
)

// Sender is the outgoing side of a lane. Any goroutine may call its methods; none waits for the peer.
type Sender struct {
	stream drpc.Stream
	conn   *conn

	// Owned by the goroutine that has set flushing.
	sending outbound

	mu       sync.Mutex
	batches  []outbound // to be sent, in order; the last one is open
	spare    []outbound // sent, to be used again
	flushing bool       // a goroutine sends, and will send what is appended until it looks again
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

// Flush sends everything appended so far. When another goroutine is sending already, that one sends it too: order is
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
	if !s.sendLocked(maxRun) {
		// Others append as fast as this goroutine sends. It has work of its own, a lane to receive from most likely.
		go func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.sendLocked(math.MaxInt)
		}()
	}
}

// sendLocked sends at most the given number of batches and reports whether nothing is left. Then flushing is over.
func (s *Sender) sendLocked(batches int) (done bool) {
	for ; len(s.batches) > 0; batches-- {
		if batches == 0 {
			return false
		}
		s.sending = s.batches[0]
		s.batches = slices.Delete(s.batches, 0, 1)
		s.mu.Unlock()
		s.send()
		s.mu.Lock()
		if cap(s.sending) <= 2*maxBatch && len(s.spare) < 2 {
			s.spare = append(s.spare, s.sending[:0])
		}
		s.sending = nil
	}
	s.flushing = false
	return true
}

// send sends one batch. When that fails, the receive loop sees the closed connection and ends the lane.
func (s *Sender) send() {
	if n := len(s.sending); n > maxMessage {
		// dRPC would tell nobody but the receiver.
		s.conn.fail(fmt.Errorf("link: send: batch of %d bytes; the limit is %d", n, maxMessage))
		return
	}
	err := s.stream.MsgSend(&s.sending, rawEncoding{})
	switch {
	case errors.Is(err, io.EOF):
		// dRPC's word for a stream that has ended, of which the receive loop learns the reason.
		_ = s.conn.Close()
	case err != nil:
		s.conn.fail(fmt.Errorf("link: send: %w", err))
	}
}

// Backlog returns how many bytes wait for a peer that does not read.
func (s *Sender) Backlog() int { return s.conn.backlog() }
