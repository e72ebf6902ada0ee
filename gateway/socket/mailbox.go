package socket

import (
	"fmt"
	"iter"
	"slices"
	"time"
)

// Mailbox is a connection without a socket, for a client that comes and asks: Deliver brings what the client says, and
// Poll takes away what is queued for it. To its Handler it is a Conn like any other, with the same bounds and close
// codes. Any goroutine but those of loops may call its methods: they wait for the loop.
//
// There is no closing handshake. Once the connection is closing, the next Poll takes what is queued, and with that the
// connection ends; without a Poll it ends after Config.CloseTimeout.
type Mailbox struct {
	// Static.
	conn *Conn
	cfg  MailboxConfig

	// Owned by the loop.
	//
	// Invariant: conn.blocked == (waiting == nil), so what is queued while nobody waits is the connection's own memory.
	waiting chan<- mail // of the Poll that waits, with room for its answer
}

// MailboxConfig describes a mailbox.
type MailboxConfig struct {
	Remote string        // what Conn.RemoteAddr gives
	Idle   time.Duration // since the last Poll began; then close 4408
	Ended  func()        // called once on the loop, before Handler.Closed; nil is allowed
}

// mail is what a Poll gets: frames, or how the connection has ended.
type mail struct {
	frames []byte
	err    error
}

// OpenMailbox makes a connection without a socket. open is called once, on the loop chosen, as by Adopt. The error is
// ErrClosed after Close, or a failure of open.
func (ls *Loops) OpenMailbox(cfg MailboxConfig, open func(*Conn) Handler) (*Mailbox, error) {
	l := ls.pick()
	b := &Mailbox{cfg: cfg}
	s := &stream{finished: make(chan struct{}), box: b}
	b.conn = &Conn{id: ls.lastID.Add(1), loop: l, stream: s, fd: -1}
	opened := make(chan error, 1)
	if !l.post(func() { opened <- l.adopt(b.conn, nil, open) }) {
		opened <- ErrClosed
	}
	if err := <-opened; err != nil {
		l.load.Add(-1)
		return nil, err
	}
	return b, nil
}

// ID gives the ID of the connection.
func (b *Mailbox) ID() uint64 { return b.conn.id }

// Poll takes everything that is queued, whole frames one behind the other, for Messages to read. If there is nothing it
// waits for something, and returns nil when that takes longer than wait, or when a later Poll takes its place. When the
// connection has ended there is an error, a *CloseError if it was closed; frames queued before that come with it.
func (b *Mailbox) Poll(wait time.Duration) (frames []byte, err error) {
	answer := make(chan mail, 1)
	if !b.conn.loop.post(func() { b.poll(answer) }) {
		return nil, ErrClosed
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case m := <-answer:
		return m.frames, m.err
	case <-timer.C:
	}
	b.conn.loop.post(func() { b.giveUp(answer) })
	m := <-answer // also if that was not posted: a loop answers all before it stops
	return m.frames, m.err
}

// poll runs on the loop.
func (b *Mailbox) poll(answer chan<- mail) {
	c := b.conn
	b.answer(mail{})
	if c.state == stateDead {
		answer <- mail{err: c.cause}
		return
	}
	c.last = c.loop.now
	b.waiting, c.blocked = answer, false
	c.loop.touch(c)
}

// giveUp ends a Poll whose time is over, if it still waits. It runs on the loop.
func (b *Mailbox) giveUp(answer chan<- mail) {
	if b.waiting == answer {
		b.answer(mail{})
	}
}

// answer ends the Poll that waits, if one does.
func (b *Mailbox) answer(m mail) {
	if b.waiting != nil {
		b.waiting <- m
		b.waiting, b.conn.blocked = nil, true
	}
}

// Deliver hands messages to the handler, in order, and returns when it has had them. A message over
// Config.MaxMessageBytes, or a text that is not UTF-8, closes the connection as it would a socket. The error is that of
// the connection if it has ended or is closing; messages behind the one that closed it were not handled. What data holds
// may be overwritten.
func (b *Mailbox) Deliver(messages iter.Seq2[Opcode, []byte]) error {
	done := make(chan error, 1)
	if !b.conn.loop.post(func() { done <- b.deliver(messages) }) {
		return ErrClosed
	}
	return <-done
}

func (b *Mailbox) deliver(messages iter.Seq2[Opcode, []byte]) error {
	c := b.conn
	c.handOver(messages)
	if c.state != stateOpen {
		return c.cause
	}
	return nil
}

// handOver is what received is for a socket.
func (c *Conn) handOver(messages iter.Seq2[Opcode, []byte]) {
	defer c.recoverMessage()
	for op, data := range messages {
		if c.state != stateOpen {
			return
		}
		c.loop.count.BytesIn += uint64(len(data))
		if limit := c.loop.cfg.MaxMessageBytes; len(data) > limit {
			c.reject(CloseTooBig, fmt.Sprintf("message over %d bytes", limit), EndTooBig)
			return
		}
		c.deliver(op, data)
	}
}

// flushBox gives what is queued to the Poll that waits. With that a closing connection ends.
func (c *Conn) flushBox() {
	b := c.stream.box
	if len(c.out) == 0 && c.state == stateOpen {
		return
	}
	var m mail
	if c.state != stateOpen {
		m.err = c.cause
	}
	m.frames = c.out
	if c.held != heldOwn {
		m.frames = slices.Clone(c.out)
	}
	c.loop.count.BytesOut += uint64(len(m.frames))
	c.dropQueue()
	b.answer(m)
	if c.state != stateOpen {
		c.die(nil, c.end)
	}
}

// ended tells the Poll that waits how the connection has ended, and the owner that it has.
func (b *Mailbox) ended() {
	if b.waiting != nil {
		b.answer(mail{err: b.conn.cause})
	}
	if b.cfg.Ended != nil {
		defer b.conn.loop.recovered("Ended")
		b.cfg.Ended()
	}
}

// Messages yields the messages in frames that a Poll has returned. Control frames are passed over.
func Messages(frames []byte) iter.Seq2[Opcode, []byte] {
	return func(yield func(Opcode, []byte) bool) {
		for len(frames) > 0 {
			frame := frames[:frameSize(frames)]
			frames = frames[len(frame):]
			op := Opcode(frame[0] & opcodeBits)
			if op.control() {
				continue
			}
			if !yield(op, frame[frameHeaderSize(frame):]) {
				return
			}
		}
	}
}

// frameHeaderSize gives the bytes of a server frame's header.
func frameHeaderSize(frame []byte) int {
	switch frame[1] & lengthBits {
	case length16:
		return 4
	case length64:
		return 10
	}
	return 2
}
