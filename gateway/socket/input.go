package socket

import (
	"fmt"
	"time"
	"unicode/utf8"
)

// torn is what a connection keeps of input that is not complete yet. It grows
// with the bytes received, never with a length that a header declares.
type torn struct {
	raw       []byte // masked bytes of a frame whose end has not come
	message   []byte // payload of the fragments so far, unmasked
	op        Opcode // of the fragmented message; opContinuation if there is none
	fragments int
	begun     time.Duration // when the first byte of the frame or message came, on the loop's clock
	counted   uint64        // bytes of its buffers in Stats.InputBytes
}

func (c *Conn) ensureTorn() *torn {
	if c.torn != nil {
		return c.torn
	}
	l := c.loop
	if n := len(l.freeTorn); n > 0 {
		c.torn = l.freeTorn[n-1]
		l.freeTorn = l.freeTorn[:n-1]
	} else {
		c.torn = new(torn)
	}
	c.torn.begun = l.now
	return c.torn
}

// releaseTorn gives the torn state back if nothing is partial any more.
func (c *Conn) releaseTorn() {
	t, l := c.torn, c.loop
	if t == nil || t.op != opContinuation || len(t.raw) > 0 {
		return
	}
	c.dropTorn()
	if len(l.freeTorn) < maxFreeTorn && cap(t.raw) <= maxTornBuffer && cap(t.message) <= maxTornBuffer {
		*t = torn{raw: t.raw[:0], message: t.message[:0]}
		l.freeTorn = append(l.freeTorn, t)
	}
}

// dropTorn takes the torn state, if there is one, from the connection.
func (c *Conn) dropTorn() {
	if t := c.torn; t != nil {
		c.loop.count.InputBytes -= t.counted
		t.counted = 0
		c.torn = nil
	}
}

// countTorn brings Stats.InputBytes up to date with what the connection keeps.
func (c *Conn) countTorn() {
	if t := c.torn; t != nil {
		n := uint64(cap(t.raw) + cap(t.message))
		c.loop.count.InputBytes += n - t.counted // wraps around for what is negative
		t.counted = n
	}
}

// received handles bytes from the peer. They are overwritten: unmasking and
// handlers work in place.
func (c *Conn) received(data []byte) {
	defer c.recoverMessage()
	c.last, c.pinged = c.loop.now, false
	c.loop.count.BytesIn += uint64(len(data))
	for len(data) > 0 && c.state < stateAnswered {
		data = c.step(data)
	}
	c.countTorn()
}

func (c *Conn) recoverMessage() {
	if r := recover(); r != nil {
		c.loop.countPanic("Message", r)
		c.fail(CloseInternal, "", EndPanic)
	}
}

// step takes bytes from the front of data, up to one frame, and gives the
// rest. How the input was cut makes no difference: a frame is judged when its
// header is complete and handled when its payload is.
func (c *Conn) step(data []byte) (rest []byte) {
	if c.skip > 0 {
		n := min(c.skip, uint64(len(data)))
		c.skip -= n
		return data[n:]
	}
	frame, fromTorn := data, false
	if t := c.torn; t != nil && len(t.raw) > 0 {
		n := min(missing(t.raw), len(data))
		t.raw = append(t.raw, data[:n]...)
		frame, data, fromTorn = t.raw, data[n:], true
	}
	h, whole, problem := parseHeader(frame)
	if problem != "" {
		c.fail(CloseProtocol, problem, EndProtocol)
		return nil
	}
	end := uint64(h.size) + h.length
	admitted := whole && c.admit(h)
	if whole && !admitted {
		return c.discard(frame, data, end, fromTorn)
	}
	if !whole || end > uint64(len(frame)) {
		if fromTorn {
			return data
		}
		t := c.ensureTorn()
		t.raw = append(t.raw[:0], frame...)
		return nil
	}
	c.handleFrame(h, frame[h.size:end])
	if fromTorn {
		c.torn.raw = c.torn.raw[:0]
	} else {
		data = data[end:]
	}
	c.releaseTorn()
	return data
}

// discard skips a frame that is not admitted, to come to the next one.
func (c *Conn) discard(frame, data []byte, end uint64, fromTorn bool) (rest []byte) {
	have := min(end, uint64(len(frame)))
	c.skip = end - have
	if !fromTorn {
		return data[have:]
	}
	c.torn.raw = c.torn.raw[:0]
	c.releaseTorn()
	return data
}

// admit judges a complete header in the light of the frames before. If it
// gives false, the connection is closing and the frame is to be discarded.
func (c *Conn) admit(h header) bool {
	if h.op.control() {
		return true
	}
	if c.state != stateOpen {
		return false
	}
	have := 0
	fragmented := c.torn != nil && c.torn.op != opContinuation
	switch {
	case h.op == opContinuation && !fragmented:
		c.fail(CloseProtocol, "continuation frame without a message", EndProtocol)
		return false
	case h.op != opContinuation && fragmented:
		c.fail(CloseProtocol, "new message within a fragmented one", EndProtocol)
		return false
	case fragmented:
		have = len(c.torn.message)
	}
	if limit := c.loop.cfg.MaxMessageBytes; h.length > uint64(limit-have) {
		c.reject(CloseTooBig, fmt.Sprintf("message over %d bytes", limit), EndTooBig)
		return false
	}
	return true
}

// handleFrame handles a complete frame that was admitted. A connection may
// have started to close since: then only control frames count.
func (c *Conn) handleFrame(h header, payload []byte) {
	unmask(payload, h.key)
	switch {
	case h.op == opClose:
		c.peerClosed(payload)
	case h.op == opPing:
		if !c.excess() {
			c.ponged(payload)
		}
	case c.state != stateOpen:
	case h.op == opPong:
		c.excess()
	case h.fin && h.op != opContinuation:
		c.deliver(h.op, payload)
	default:
		c.addFragment(h, payload)
	}
}

func (c *Conn) addFragment(h header, payload []byte) {
	t := c.ensureTorn()
	if h.op != opContinuation {
		t.op, t.fragments = h.op, 0
	}
	if t.fragments++; t.fragments > maxFragments {
		c.reject(CloseTooBig, fmt.Sprintf("message of more than %d fragments", maxFragments), EndTooBig)
		return
	}
	t.message = append(t.message, payload...)
	if !h.fin {
		c.excess()
		return
	}
	op, message := t.op, t.message
	t.op, t.message = opContinuation, nil
	c.deliver(op, message)
	t.message = message[:0]
}

func (c *Conn) deliver(op Opcode, message []byte) {
	if op == OpText && !utf8.Valid(message) {
		c.reject(CloseNotUTF8, "text is not UTF-8", EndProtocol)
		return
	}
	c.loop.count.Messages++
	c.handler.Message(c, op, message)
}

// ponged answers a ping. While the socket is full or the queue long, only the
// last ping gets an answer (RFC 6455, section 5.5.3), when the queue is empty
// again: so a flood of pings cannot fill it.
func (c *Conn) ponged(payload []byte) {
	if c.state != stateOpen {
		return
	}
	if n := c.queued() + 2 + len(payload); c.isFull() || n > c.loop.cfg.MaxQueueBytes/2 {
		c.pong = append(appendHeader(c.pong[:0], opPong, len(payload)), payload...)
		c.loop.touch(c)
		return
	}
	c.queueControl(opPong, payload)
}
