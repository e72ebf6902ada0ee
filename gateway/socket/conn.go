package socket

import (
	"errors"
	"io"
	"time"

	"github.com/ringcast/ringcast/shared/rate"
)

// state is where a connection stands. It only goes forward.
//
//	          Close, limit, timeout            peer's close frame
//	open ───────────────────────────► closing ───────────────────► answered
//	 │  └──── peer's close frame, echoed ──────────────────────────►  │
//	 │                                   │ RFC 6455 broken            │ queue
//	 └──── RFC 6455 broken, panic ───────┴──────► failed              │ empty
//	                                                │                 │
//	   I/O error, EOF, CloseTimeout, Loops.Close    ▼                 ▼
//	 ──────────────────────────────────────────► dead: Handler.Closed, once
type state uint8

const (
	stateOpen     state = iota // messages go to the handler
	stateClosing               // our close frame is queued; input is parsed for the peer's only
	stateAnswered              // close frames both ways; ends when the queue is empty
	stateFailed                // our close frame is queued; input cannot be parsed any more and is dropped until EOF
	stateDead                  // finished in this turn, or when its goroutines let go

	stateArriving // before all others: accepted by the loop, and its handshake has not come; nobody else knows it
)

// traits are what holds for a connection's whole life, in one byte.
type traits uint8

const (
	pings    traits = 1 << iota // the client need not send anything but pongs
	sole                        // nobody else has a descriptor of the socket
	silent                      // it has said nothing for long; Loop.arriving does not count it any more
	refused                     // it has its answer and is to go
	newcomer                    // its first message has not come
)

// Conn is one WebSocket connection. Its methods may be called on its loop
// only (ID and Loop: anywhere), from its Handler or from tasks posted there.
// None of them calls the handler, and after Handler.Closed none of them does
// anything.
type Conn struct {
	// Static since adoption.
	id      uint64
	loop    *Loop
	handler Handler
	stream  *stream // nil if the loop reads and writes the descriptor itself
	fd      int32   // -1 with a stream
	slot    int32

	// The end, and what puts it off.
	state    state
	end      End
	traits   traits
	pinged   bool          // since bytes were last received
	extra    int32         // bytes of the queue that do not count; see MakeRoom
	cause    error         // what Handler.Closed will get; set on leaving stateOpen
	deadline time.Duration // of the arrival or of the closing handshake, on the loop's clock

	// Input.
	torn *torn         // partial frame or message, nil mostly
	skip uint64        // bytes of a discarded frame that are still to come
	last time.Duration // when bytes were last received; of a mailbox, when its last Poll began

	// How much has come, and how often it was too much.
	spent   rate.Meter
	strikes rate.Strikes

	// Output.
	//
	// Invariant: out is tail bytes of a frame that the peer has begun to get,
	// then whole frames. blocked means that out waits for the socket (armed,
	// with a descriptor), for the writer (with a stream) or for a Poll (of a
	// mailbox).
	out     []byte
	tail    int32
	aside   int32 // bytes held back for it elsewhere; see HoldBack
	held    held
	dirty   bool // in loop.dirty
	blocked bool
	armed   bool          // the poller watches for room
	ended   bool          // our side of the socket is shut down
	told    bool          // the loop's witness knows that it takes no more frames
	over    uint16        // sweeps in a row that have found the queue over Config.SoftQueueBytes
	full    time.Duration // when the full socket last took a byte
	pong    []byte        // frame answering the last ping that found the queue long
}

// Loop gives the loop that owns the connection.
func (c *Conn) Loop() *Loop { return c.loop }

// ID gives a number that no other connection of the same Loops has or had. It
// is never 0.
func (c *Conn) ID() uint64 { return c.id }

// Handler gives the connection's handler: nil before open has returned and
// after Handler.Closed.
func (c *Conn) Handler() Handler { return c.handler }

// Closing reports whether a close frame was queued or received or the
// connection is lost: nothing can be sent and no Message call will follow.
func (c *Conn) Closing() bool { return c.state != stateOpen }

// RemoteAddr gives the peer's address as host:port. It asks the socket each
// time. After Handler.Closed it is empty.
func (c *Conn) RemoteAddr() string {
	if b := c.box(); b != nil {
		return b.cfg.Remote
	}
	if s := c.stream; s != nil {
		return s.nc.RemoteAddr().String()
	}
	return peerAddr(int(c.fd))
}

// box gives the mailbox of a connection that is one.
func (c *Conn) box() *Mailbox {
	if c.stream == nil {
		return nil
	}
	return c.stream.box
}

// Close starts the closing handshake: a close frame goes behind what is
// queued, later Send calls do nothing and the handler gets no more messages.
// The connection ends when the peer has answered, or after Config.CloseTimeout.
// The reason is cut to 123 bytes; a code that must not be sent (1005, 1006,
// below 1000 and the like) gives a close frame without code and reason. Only
// the first Close counts.
func (c *Conn) Close(code int, reason string) {
	c.closeWith(&CloseError{Code: code, Reason: reason}, EndLocal)
}

// closeWith queues the close frame before it leaves stateOpen: queueing may
// flush, and a flush must not find a connection that seems to have nothing
// more to say.
func (c *Conn) closeWith(cause *CloseError, end End) {
	if c.state != stateOpen {
		return
	}
	c.tell(end, false)
	c.queueControl(opClose, closePayload(cause.Code, cause.Reason))
	if c.state != stateOpen {
		return // that flush failed
	}
	c.state, c.cause, c.end = stateClosing, cause, end
	c.deadline = c.loop.now + c.loop.cfg.CloseTimeout
	c.pong = nil
	if t := c.torn; t != nil {
		t.op, t.message = opContinuation, nil
		c.countTorn()
	}
}

// reject closes an open connection for a message it does not take; frames can
// still be told apart.
func (c *Conn) reject(code int, reason string, end End) {
	c.closeWith(&CloseError{Code: code, Reason: reason}, end)
}

// fail closes a connection whose input makes no sense any more.
func (c *Conn) fail(code int, reason string, end End) {
	c.closeWith(&CloseError{Code: code, Reason: reason}, end)
	if c.state < stateFailed {
		c.state = stateFailed
		c.loop.touch(c)
	}
}

// peerClosed handles the payload of the peer's close frame.
func (c *Conn) peerClosed(payload []byte) {
	code, reason, bad, problem := parseClose(payload)
	if bad != 0 {
		c.fail(bad, problem, EndProtocol)
		return
	}
	c.closeWith(&CloseError{Code: code, Reason: reason, Remote: true}, EndPeer)
	if c.state == stateClosing {
		c.state = stateAnswered
		c.loop.touch(c)
	}
}

// Ping sends a ping, which every WebSocket client answers.
func (c *Conn) Ping() {
	if c.state == stateOpen {
		c.pinged = true
		c.queueControl(opPing, nil)
	}
}

// Answered reports whether bytes were received since the last Ping, or there was none.
func (c *Conn) Answered() bool { return !c.pinged }

// KeepAlive makes the connection ping its peer when half of Config.IdleTimeout has passed in silence. So a client that
// has nothing to say is not taken for a dead one.
func (c *Conn) KeepAlive() { c.traits |= pings }

// Silence gives the time since bytes were last received.
func (c *Conn) Silence() time.Duration { return c.loop.now - c.last }

// maxStrikes is for how many seconds in a row a peer may be over a limit.
const maxStrikes = 3

// Take counts an event of the peer against a limit and returns 0, or how long the peer should wait if that is over the
// limit; then the event is not to have any effect, and Strike is to be called when the peer has been told. All limits of
// one connection share one meter.
func (c *Conn) Take(l rate.Limit) (wait time.Duration) { return c.spent.Take(l, c.loop.now) }

// Strike notes that the peer was over a limit. Who is in three seconds in a row is closed with 4429.
func (c *Conn) Strike() {
	if c.strikes.Add(c.loop.now) >= maxStrikes {
		c.CloseOverRate("rate limited")
	}
}

// CloseOverRate is Close with 4429, for a peer that is over a limit.
func (c *Conn) CloseOverRate(reason string) {
	c.closeWith(&CloseError{Code: CloseRate, Reason: reason}, EndRate)
}

// excess counts a frame that no handler sees, and reports whether it is over the limit.
func (c *Conn) excess() bool {
	if c.Take(c.loop.cfg.Frames) == 0 {
		return false
	}
	c.loop.count.Excess++
	c.Strike()
	return true
}

// inputEnded handles EOF and read errors.
func (c *Conn) inputEnded(err error) {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // no close frame came before it
	}
	c.die(err, EndError)
}

// die marks the connection to be finished in this turn. If a close frame was
// queued or received, that stays the cause.
func (c *Conn) die(err error, end End) {
	if c.state == stateDead {
		return
	}
	if c.state == stateOpen {
		c.tell(end, false)
		c.cause, c.end = err, end
	}
	c.state = stateDead
	if c.stream != nil {
		c.stream.kick()
	}
	c.loop.dying = append(c.loop.dying, c)
}

// finish tells the handler and gives everything back. A stream connection
// comes here again when its goroutines have let go, maybe twice in one turn.
func (c *Conn) finish() {
	l, s := c.loop, c.stream
	if l.slots[c.slot] != c || s != nil && (s.reading || s.writing) {
		return
	}
	if len(c.out) > 0 || s != nil && len(s.sending) > 0 {
		c.tell(c.end, true)
	}
	c.dropQueue()
	c.dropTorn()
	if b := c.box(); b != nil {
		b.ended()
	}
	c.callClosed()
	c.handler, c.stream = nil, nil
	if s != nil {
		close(s.finished)
	} else {
		l.poll.release(int(c.fd), c.traits&sole != 0)
		c.fd = -1
	}
	l.count.Open--
	l.count.Ended[c.end]++
	l.leave(c)
}

// tell tells the loop's witness of the end, once, and of unsent frames.
func (c *Conn) tell(end End, unsent bool) {
	if f := c.loop.witness; f != nil && (unsent || !c.told) {
		defer c.loop.recovered("Witness")
		c.told = true
		f(c, end, unsent)
	}
}

func (c *Conn) callClosed() {
	defer c.loop.recovered("Closed")
	c.handler.Closed(c, c.cause)
}

// trickles reports whether the full socket takes some bytes after all. The kernel tells of room only when a third of its
// buffer is free, which takes long where the client reads slowly, but steadily.
func (c *Conn) trickles() bool {
	before := len(c.out)
	c.blocked = false
	c.flushNow()
	return len(c.out) < before
}

// expire enforces the timeouts at the loop's time now.
func (c *Conn) expire(now time.Duration) {
	cfg := c.loop.cfg
	idle := cfg.IdleTimeout
	if b := c.box(); b != nil {
		idle = b.cfg.Idle
	}
	slowLong := c.slowLong()
	switch {
	case c.state != stateOpen && now >= c.deadline:
		c.die(nil, c.end)
	case c.armed && now-c.full >= cfg.WriteTimeout && !c.trickles():
		c.die(ErrWriteTimeout, EndWriteTimeout)
	case slowLong:
		c.overflow(EndSlowLong)
	case c.state == stateOpen && idle > 0 && now-c.last >= idle:
		c.closeWith(&CloseError{Code: CloseIdleTimeout, Reason: "idle timeout"}, EndIdle)
	case c.state == stateOpen && c.torn != nil && now-c.torn.begun >= cfg.MessageTimeout:
		// Bytes that trickle in, and pings between fragments, put off the idle timeout but not this.
		c.closeWith(&CloseError{Code: CloseIdleTimeout, Reason: "message not complete in time"}, EndMessageTimeout)
	case c.traits&pings != 0 && !c.pinged && cfg.IdleTimeout > 0 && now-c.last >= cfg.IdleTimeout/2:
		c.Ping()
	}
}
