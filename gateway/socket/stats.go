package socket

// End says why a connection ended, for counting.
type End uint8

// The ways a connection ends.
const (
	EndPeer           End = iota // the peer sent a close frame first
	EndLocal                     // Conn.Close
	EndDrain                     // Loops.CloseAll, CloseSome
	EndProtocol                  // the peer broke RFC 6455: close 1002 or 1007
	EndTooBig                    // message over a limit: close 1009
	EndSlow                      // queue over its bound: close 4008
	EndSlowLong                  // queue over its soft bound for too long: close 4008
	EndInputBudget               // among those with most of a message that is not whole, when all together were over their bound: close 1013
	EndBudget                    // among the longest queues when all together were over their bound: close 4008
	EndIdle                      // nothing received: close 4408
	EndMessageTimeout            // a message was begun and not ended: close 4408
	EndRate                      // over a rate again and again: close 4429
	EndPanic                     // its handler panicked: close 1011
	EndWriteTimeout              // full socket took nothing
	EndError                     // read or write error, or EOF without a close frame
	EndStopped                   // Loops.Close
	NumEnds           = iota
)

var endNames = [NumEnds]string{
	"peer", "local", "drain", "protocol", "too_big", "slow", "slow_long", "input_budget", "budget", "idle", "message_timeout", "rate", "panic", "write_timeout", "error", "stopped",
}

// String gives a short name, fit for a metric label.
func (e End) String() string { return endNames[e] }

// Stats counts what the loops did since New; Open, QueueBytes and Waiting are the
// state now. Each loop publishes its part at the end of a turn.
type Stats struct {
	Open       uint64 // connections
	QueueBytes uint64 // outbound bytes that no kernel has taken yet, those held back included
	InputBytes uint64 // buffers of messages that are not whole yet

	Accepted uint64          // connections whose handler was opened
	Ended    [NumEnds]uint64 // connections, by End
	Messages uint64          // handed to handlers
	Frames   uint64          // data frames queued for peers
	BytesIn  uint64
	BytesOut uint64 // taken by the kernel
	Reads    uint64 // read calls
	Writes   uint64 // write calls
	Excess   uint64 // frames over Config.Frames
	Panics   uint64 // of handlers and of posted tasks

	AcceptFailed uint64 // accepts that failed for want of descriptors or memory
	Waiting      uint64 // accepted connections whose turn it is not yet
	Unserved     uint64 // connections closed without an answer: no request in time, or too many wait for the HTTP server
}

func (s *Stats) add(o *Stats) {
	s.Open += o.Open
	s.QueueBytes += o.QueueBytes
	s.InputBytes += o.InputBytes
	s.Accepted += o.Accepted
	for i, n := range o.Ended {
		s.Ended[i] += n
	}
	s.Messages += o.Messages
	s.Frames += o.Frames
	s.BytesIn += o.BytesIn
	s.BytesOut += o.BytesOut
	s.Reads += o.Reads
	s.Writes += o.Writes
	s.Excess += o.Excess
	s.Panics += o.Panics
	s.Unserved += o.Unserved
}

// Stats sums the counters of all loops.
func (ls *Loops) Stats() Stats {
	var sum Stats
	for _, l := range ls.loops {
		l.statsMu.Lock()
		sum.add(&l.published)
		l.statsMu.Unlock()
	}
	if in := ls.listener.Load(); in != nil {
		sum.AcceptFailed = in.shortage.Failed()
		sum.Waiting = uint64(in.lobby.waiting.Load())
		sum.Unserved += in.overflow.Load()
	}
	return sum
}
