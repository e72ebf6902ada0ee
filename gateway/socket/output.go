package socket

import (
	"math"
	"slices"
)

// held says whose memory Conn.out is.
type held uint8

const (
	heldNone   held = iota // out is empty
	heldStaged             // a staging buffer of the loop
	heldShared             // a frame given to SendFramed, not to be written to
	heldOwn                // the connection's own, until the queue is empty
)

// maxHeader is the bytes of the longest header that a frame here has.
const maxHeader = 10

// Send copies one message, the parts one after the other, as one frame into
// the connection's queue. It goes out at the end of the turn. On a closing
// connection it does nothing. If the queue is over Config.MaxQueueBytes, even
// after a write in between, what the peer has not begun to get is dropped and
// the connection closes with 4008: see Room.
func (c *Conn) Send(op Opcode, parts ...[]byte) {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	size := serverHeaderSize(n) + n
	if !c.Room(size) {
		return
	}
	c.grow(size)
	c.out = appendHeader(c.out, op, n)
	for _, p := range parts {
		c.out = append(c.out, p...)
	}
	c.loop.count.Frames++
}

// SendFramed is Send for a frame made by AppendFrame, which many connections
// may share. It must not change until the end of the loop's turn. If nothing
// is queued it goes to the kernel from where it stands, without a copy.
func (c *Conn) SendFramed(frame []byte) { c.SendFrames(frame, 1) }

// writeShared is how much of shared frames is worth a write of its own when
// more follows in the turn, rather than a copy.
const writeShared = 16 << 10

// SendFrames is SendFramed for several frames that stand one behind the other.
func (c *Conn) SendFrames(frames []byte, count int) {
	if len(frames) == 0 || !c.Room(len(frames)) {
		return
	}
	if c.held == heldShared && len(c.out) >= writeShared {
		c.flush()
		if c.state != stateOpen {
			return
		}
	}
	c.loop.count.Frames += uint64(count)
	if c.held != heldNone || c.blocked {
		c.grow(len(frames))
		c.out = append(c.out, frames...)
		return
	}
	c.out, c.held = frames, heldShared
	c.loop.count.QueueBytes += uint64(len(frames))
	c.loop.touch(c)
}

// queued gives the bytes that count against Config.MaxQueueBytes. It is below 0
// between MakeRoom and the sending of a long message.
func (c *Conn) queued() int { return c.Waiting() - int(c.extra) }

// MakeRoom reports whether a message of n bytes may be sent now. It may if it
// fits into the queue with no bound passed, were it for long, or, however long
// it is, if nothing else waits; then it does not count against the bounds: what
// waits behind it does.
func (c *Conn) MakeRoom(n int) bool {
	if !c.HasRoom(0, n) {
		return false
	}
	if c.state == stateOpen && !c.fitsBounds(n) {
		c.extra = int32(n + maxHeader)
	}
	return true
}

// SendRun calls send, which sends messages of n bytes in all, if MakeRoom would
// find room for one of that length, and reports whether. Bounds do not count
// meanwhile, and what is queued in the end of a run that is too long for them
// does not count against them: what waits behind it does. The loop may flush
// during the run, so its queue may become empty while most of it is to come.
// What else send sends has room if MakeRoom finds some beside all of the run.
func (c *Conn) SendRun(n int, send func()) bool {
	if !c.HasRoom(0, n) {
		return false
	}
	l, long := c.loop, !c.fitsBounds(n)
	l.sender, l.sending = c, n
	defer func() {
		l.sender = nil
		if long && c.state == stateOpen {
			c.extra = int32(min(c.Waiting(), math.MaxInt32))
		}
	}()
	send()
	return true
}

// HasRoom reports whether MakeRoom would find room for a message of n bytes behind others of ahead bytes in all.
func (c *Conn) HasRoom(ahead, n int) bool {
	if c.state != stateOpen || c.fitsBounds(ahead+n) {
		return true
	}
	c.flushNow()
	return c.state != stateOpen || c.fitsBounds(ahead+n) ||
		ahead+c.Waiting() == 0 && c.loop.sender != c && n <= math.MaxInt32-maxHeader
}

// fitsBounds reports whether n bytes more pass no bound of the queue, were it for long.
func (c *Conn) fitsBounds(n int) bool {
	limit := c.loop.cfg.MaxQueueBytes
	if soft := c.loop.cfg.SoftQueueBytes; soft > 0 {
		limit = min(limit, soft)
	}
	if c.loop.sender == c {
		n += c.loop.sending
	}
	return c.queued()+n+maxHeader <= limit
}

// Waiting gives the bytes that are queued for the peer or held back for it, and
// not yet taken by the kernel.
func (c *Conn) Waiting() int {
	n := len(c.out) + int(c.aside)
	if c.stream != nil {
		n += c.stream.inFlight
	}
	return n
}

// Queued yields the messages that wait for the peer, oldest first, as they were
// sent. A frame that the peer has begun to get is not among them. The payloads
// are read-only and valid during the call. It is for looking into a queue now
// and then: it walks over all of it.
func (c *Conn) Queued(yield func(op Opcode, payload []byte) bool) {
	queues := [2][]byte{nil, c.out[c.tail:]}
	if c.stream != nil {
		queues[0] = c.stream.sending // how far its writer is, only that knows
	}
	for _, rest := range queues {
		for len(rest) > 0 {
			n := frameSize(rest)
			head := 2
			switch rest[1] & lengthBits {
			case length16:
				head = 4
			case length64:
				head = 10
			}
			if op := Opcode(rest[0] &^ finBit); !op.control() && !yield(op, rest[head:n]) {
				return
			}
			rest = rest[n:]
		}
	}
}

// Room reports whether n more bytes may be queued, and closes with 4008 if not.
// A long turn may fill the queue of a peer that reads well, so the socket is
// tried before the peer is called slow.
func (c *Conn) Room(n int) bool {
	if c.state != stateOpen {
		return false
	}
	limit := c.loop.cfg.MaxQueueBytes
	if c.queued()+n <= limit || c.loop.sender == c {
		return true
	}
	c.flushNow()
	if c.state == stateOpen && c.queued()+n > limit {
		c.overflow(EndSlow)
	}
	return c.state == stateOpen
}

// slowReasons are what a slow peer's close frame says, by End.
var slowReasons = map[End]string{
	EndSlow:     "slow",
	EndSlowLong: "slow: too much has waited for too long",
	EndBudget:   "slow: too much waits for all clients together",
}

// overflow drops all frames but the rest of one that is begun, so that the
// close frame stands where a frame may start.
func (c *Conn) overflow(end End) {
	if s := c.stream; s != nil {
		sending := s.sending // the writer goes on with that
		s.sending = nil
		defer func() { s.sending = sending }()
	}
	c.tell(end, true)
	rest := slices.Clone(c.out[:c.tail])
	c.dropQueue()
	if len(rest) > 0 {
		c.out, c.held, c.tail = rest, heldOwn, int32(len(rest))
		c.loop.count.QueueBytes += uint64(len(rest))
	}
	c.closeWith(&CloseError{Code: CloseSlow, Reason: slowReasons[end]}, end)
}

// queueControl queues a control frame, whatever the queue's length.
func (c *Conn) queueControl(op Opcode, payload []byte) {
	c.grow(2 + len(payload))
	c.out = append(appendHeader(c.out, op, len(payload)), payload...)
}

// grow makes out a buffer to which the caller now appends n bytes. When much
// is staged already, it flushes first: so a turn that touches very many
// connections does not hold a buffer for each of them.
func (c *Conn) grow(n int) {
	l := c.loop
	if l.staged >= maxStaged {
		l.flushDirty()
	}
	switch {
	case c.held == heldNone && c.blocked:
		c.held = heldOwn // it may wait long, so it takes no buffer from the loop
	case c.held == heldNone:
		c.out, c.held = l.takeBuffer(n), heldStaged
		l.staged += max(n, stagingSize)
	case c.held == heldShared:
		shared := c.out
		c.out, c.held = append(l.takeBuffer(len(shared)+n), shared...), heldStaged
		l.staged += max(len(shared)+n, stagingSize)
	case c.held == heldStaged:
		l.staged += n
	}
	l.count.QueueBytes += uint64(n)
	l.touch(c)
}

// flush writes out once. What the kernel does not take waits until the poller
// reports room. It calls no handlers.
func (c *Conn) flush() {
	if c.stream != nil {
		c.flushStream()
		return
	}
	l := c.loop
	for c.state != stateDead && !c.blocked && c.fill() {
		n, err := writeFD(int(c.fd), c.out)
		l.count.Writes++
		if err != nil {
			c.die(err, EndError)
			return
		}
		c.taken(n)
	}
	if c.state != stateDead && !c.blocked {
		c.drained()
	}
}

// flushNow is flush out of the turn's order. What is held back for the connection gets its chance when all are flushed:
// no event may follow that would bring it.
func (c *Conn) flushNow() {
	c.flush()
	if c.aside > 0 && c.state == stateOpen {
		c.loop.touch(c)
	}
}

// fill reports whether there is something to write: the queue, or else the
// pong that waited for its end.
func (c *Conn) fill() bool {
	if len(c.out) == 0 && c.pong != nil {
		c.out, c.held, c.pong = c.pong, heldOwn, nil
		c.loop.count.QueueBytes += uint64(len(c.out))
	}
	return len(c.out) > 0
}

// taken notes that the kernel took the first n bytes of out.
func (c *Conn) taken(n int) {
	l := c.loop
	l.count.BytesOut += uint64(n)
	if n == len(c.out) {
		c.dropQueue()
		c.watch(false)
		return
	}
	if n > 0 || !c.armed {
		c.full = l.now
	}
	c.extraTaken(n)
	tail, rest := frameTail(c.out, int(c.tail), n), c.out[n:]
	if len(rest) <= l.cfg.SoftQueueBytes {
		c.over = 0
	}
	if c.held != heldOwn {
		rest = slices.Clone(rest)
		c.giveStaged()
	}
	l.count.QueueBytes -= uint64(n)
	c.out, c.held, c.tail = rest, heldOwn, int32(tail)
	c.blocked = true
	c.watch(true)
}

// extraTaken notes that n bytes of the queue went: those of the message that MakeRoom made room for come first.
func (c *Conn) extraTaken(n int) { c.extra = int32(max(0, int(c.extra)-n)) }

// watch turns waiting for room on or off.
func (c *Conn) watch(on bool) {
	if c.armed == on {
		return
	}
	c.armed = on
	if err := c.loop.poll.watchWritable(int(c.fd), int(c.slot), on); err != nil {
		c.die(err, EndError)
	}
}

// drained goes on with closing when the queue is empty.
func (c *Conn) drained() {
	switch {
	case c.state == stateAnswered:
		c.die(nil, c.end)
	case c.state == stateFailed && !c.ended && c.stream == nil:
		// Closing now, with input unread, would reset the connection and might
		// take the close frame from the peer. So our side ends first.
		c.ended = true
		closeWriteFD(int(c.fd))
	}
}

// dropQueue empties out and gives its memory back.
func (c *Conn) dropQueue() {
	c.loop.count.QueueBytes -= uint64(len(c.out))
	c.giveStaged()
	c.out, c.held, c.tail, c.extra, c.over = nil, heldNone, 0, 0, 0
}

func (c *Conn) giveStaged() {
	if c.held == heldStaged {
		c.loop.giveBuffer(c.out)
	}
}
