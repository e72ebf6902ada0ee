package link

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"storj.io/drpc/drpcwire"
)

const (
	intakeMin = 4 << 10   // the first buffer
	intakeMax = 64 << 10  // one read of a busy lane
	keptBytes = 512 << 10 // a buffer that is worth keeping
)

// intake is the receiving side of a conn. It cuts what the peer sends into dRPC's frames and gives them to dRPC, but
// for the messages of a greeted lane: those it hands to the lane's receiver itself.
//
// It runs on dRPC's reader goroutine, inside Read. dRPC would hand each message to the goroutine inside MsgRecv, and
// wait until that is done with it: three goroutine switches for each batch, and as many wake-ups of threads where
// there is an idle processor (rooms: 50 → 40 s of CPU time per million deliveries).
//
// Nothing overtakes anything: dRPC calls Read only when it has no whole frame left, and frames reach it one by one, so
// all that it was given has been handled by then.
type intake struct {
	in *inbound // set by Greeted, while dRPC's reader waits for it; nil: all frames are dRPC's

	// Owned by the caller of Read.
	buf      []byte
	from, to int    // buf[from:to] was read and not handled
	pass     []byte // the rest of a frame for dRPC; in buf, before from
	packet   []byte // of a message that comes in several frames
	id       drpcwire.ID
}

// Read gives dRPC whole frames, within the bytes allowed before prove. Its failure closes the connection: dRPC would
// report the peer's end as a canceled context.
func (c *conn) Read(p []byte) (int, error) {
	t := &c.intake
	for {
		if n := copy(p, t.pass); n > 0 {
			t.pass = t.pass[n:]
			return n, nil
		}
		found, err := t.next()
		if err == nil && !found {
			err = c.fill()
		}
		if err != nil {
			c.fail(err)
			return 0, err
		}
	}
}

// next takes the next frame out of the buffer, if it is there as a whole.
func (t *intake) next() (found bool, err error) {
	have := t.buf[t.from:t.to]
	rest, fr, whole, err := drpcwire.ParseFrame(have)
	if err != nil {
		t.pass, t.from = have, t.to // dRPC says what is wrong with it
		return true, nil            //nolint:nilerr // found is what dRPC is to refuse
	}
	if !whole {
		if len(have) > maxMessage+64 {
			return false, fmt.Errorf("link: frame over %d bytes", maxMessage)
		}
		return false, nil
	}
	size := len(have) - len(rest)
	t.from += size
	switch {
	case t.in != nil && fr.Kind == drpcwire.KindMessage && !fr.Control:
		return true, t.message(fr)
	case fr.Kind == drpcwire.KindInvoke:
		t.in = nil // another stream: dRPC ends the one that was
	}
	t.pass = have[:size]
	return true, nil
}

// message handles a frame of a message.
func (t *intake) message(fr drpcwire.Frame) error {
	if fr.ID.Less(t.id) {
		return fmt.Errorf("link: message id %v after %v", fr.ID, t.id)
	}
	if fr.ID != t.id {
		t.id, t.packet = fr.ID, t.packet[:0] // what was begun before was given up
	}
	data := fr.Data
	if len(t.packet) > 0 || !fr.Done {
		if len(t.packet)+len(data) > maxMessage {
			return fmt.Errorf("link: message over %d bytes", maxMessage)
		}
		t.packet = append(t.packet, data...)
		data = t.packet
	}
	if !fr.Done {
		return nil
	}
	t.id.Message++ // the least that may come
	err := t.in.take(data)
	t.packet = t.packet[:0]
	if cap(t.packet) > keptBytes {
		t.packet = nil
	}
	return err
}

// fill reads once.
func (c *conn) fill() error {
	left := c.unproven.Load()
	if left == 0 {
		return fmt.Errorf("%w within %d bytes", ErrNotGreeted, helloBytes)
	}
	room := c.intake.room()
	if left > 0 {
		room = room[:min(int64(len(room)), left)]
	} else {
		_ = c.SetReadDeadline(time.Now().Add(c.silence))
	}
	n, err := c.readPlain(room)
	c.intake.to += n
	if left > 0 {
		c.unproven.Add(int64(-n)) // below zero it stays there, whatever is taken off
	}
	if n > 0 && !c.spoken {
		c.spoken = true
		if problem := c.foreign(room[:n]); problem != nil {
			return problem
		}
	}
	switch {
	case n > 0 || err == nil:
		return nil // an error comes again
	case errors.Is(err, io.EOF) && c.dialing && !c.spoken && c.tls != nil:
		return fmt.Errorf("link: peer closed the connection before it said anything; its log may say why: %w", err)
	case errors.Is(err, io.EOF) && c.dialing && !c.spoken:
		return fmt.Errorf("link: peer closed the connection before it said anything; perhaps one end wants TLS and the other does not: %w", err)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("link: peer closed the connection: %w", err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w for %v", ErrSilentPeer, c.silence)
	}
	return err
}

// room returns where the next bytes go. The buffer grows with the bytes that came, never with a length that a peer
// declares.
func (t *intake) room() []byte {
	if t.from == t.to {
		if t.to == len(t.buf) && len(t.buf) < intakeMax || len(t.buf) > keptBytes {
			t.buf = make([]byte, min(max(2*len(t.buf), intakeMin), intakeMax))
		}
		t.from, t.to = 0, 0
	}
	if t.to == len(t.buf) {
		old := t.buf[t.from:t.to]
		if t.from == 0 {
			t.buf = make([]byte, 2*len(t.buf))
		}
		t.from, t.to = 0, copy(t.buf, old)
	}
	return t.buf[t.to:]
}

// readPlain reads what the peer has written, decrypted if it is not plain text.
func (c *conn) readPlain(p []byte) (int, error) {
	if c.tls != nil {
		return c.tls.Read(p)
	}
	return c.readSocket(p)
}

// readSocket waits until there is something to read, and reads once.
func (c *conn) readSocket(p []byte) (int, error) {
	if c.raw == nil {
		return c.Conn.Read(p)
	}
	a := &c.reading
	a.p = p
	err := c.raw.Read(a.do)
	a.p = nil
	if err != nil {
		return 0, err
	}
	return a.n, a.err
}
