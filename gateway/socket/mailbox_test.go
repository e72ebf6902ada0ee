package socket

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"
)

const never = time.Hour // for a Poll that something else must end

func openBox(t testing.TB, ls *Loops, idle time.Duration, h Handler) *Mailbox {
	t.Helper()
	b, err := ls.OpenMailbox(MailboxConfig{Remote: "192.0.2.1:5", Idle: idle}, func(*Conn) Handler { return h })
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// say is what Deliver takes: texts, and binary messages that begin with a zero.
func say(messages ...string) iter.Seq2[Opcode, []byte] {
	return func(yield func(Opcode, []byte) bool) {
		for _, m := range messages {
			op := OpText
			if strings.HasPrefix(m, "\x00") {
				op = OpBinary
			}
			if !yield(op, []byte(m)) {
				return
			}
		}
	}
}

func deliver(t testing.TB, b *Mailbox, messages ...string) {
	t.Helper()
	if err := b.Deliver(say(messages...)); err != nil {
		t.Fatal(err)
	}
}

// polled gives what a Poll brings, as "op:data" for each message.
func polled(b *Mailbox, wait time.Duration) ([]string, error) {
	frames, err := b.Poll(wait)
	var got []string
	for op, data := range Messages(frames) {
		got = append(got, fmt.Sprintf("%d:%s", op, data))
	}
	return got, err
}

func wantPoll(t testing.TB, b *Mailbox, want ...string) {
	t.Helper()
	if got, err := polled(b, never); err != nil || !slices.Equal(got, want) {
		t.Fatalf("polled %.200q, %v; want %.200q", got, err, want)
	}
}

func wantPollEnds(t testing.TB, b *Mailbox, want CloseError, messages ...string) {
	t.Helper()
	got, err := polled(b, never)
	var ce *CloseError
	if !errors.As(err, &ce) || *ce != want || !slices.Equal(got, messages) {
		t.Fatalf("polled %.200q, %v; want %q and %v", got, err, messages, &want)
	}
}

func TestMailboxKeepsMessagesApart(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	h := newProbe(echo)
	b := openBox(t, ls, never, h)
	long, longer := strings.Repeat("l", 200), "\x00"+strings.Repeat("b", 60_000)
	deliver(t, b, "[1]", "\x00\x01\x02", long, longer)
	deliver(t, b, "[2]")
	wantPoll(t, b, "1:[1]", "2:\x00\x01\x02", "1:"+long, "2:"+longer, "1:[2]")
	eventually(t, "nothing is queued", func() bool { return ls.Stats().QueueBytes == 0 })
}

func TestMailboxPollWaits(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	b := openBox(t, ls, never, newProbe(echo))
	if got, err := polled(b, time.Millisecond); got != nil || err != nil {
		t.Fatalf("an empty mailbox: %q, %v", got, err)
	}
	answers := make(chan error, 1)
	go func() {
		got, err := polled(b, never)
		if err == nil && !slices.Equal(got, []string{"1:a"}) {
			err = fmt.Errorf("polled %q", got)
		}
		answers <- err
	}()
	eventually(t, "the poll waits", func() bool { return waits(t, b) })
	deliver(t, b, "a")
	if err := <-answers; err != nil {
		t.Error(err)
	}
	deliver(t, b, "b", "c")
	wantPoll(t, b, "1:b", "1:c")
}

func waits(t testing.TB, b *Mailbox) (waiting bool) {
	t.Helper()
	onLoop(t, b.conn.loop, func() { waiting = b.waiting != nil })
	return waiting
}

func TestMailboxALaterPollTakesThePlace(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	b := openBox(t, ls, never, newProbe(echo))
	first := make(chan error, 1)
	go func() {
		got, err := polled(b, never)
		if got != nil {
			err = fmt.Errorf("polled %q", got)
		}
		first <- err
	}()
	eventually(t, "the first poll waits", func() bool { return waits(t, b) })
	second := make(chan []string, 1)
	go func() {
		got, _ := polled(b, never)
		second <- got
	}()
	if err := <-first; err != nil {
		t.Errorf("the first poll: %v", err)
	}
	eventually(t, "the second poll waits", func() bool { return waits(t, b) })
	deliver(t, b, "a")
	if got := <-second; !slices.Equal(got, []string{"1:a"}) {
		t.Errorf("the second poll: %q", got)
	}
}

// A frame that connections share is lent until the end of the turn only.
func TestMailboxCopiesSharedFrames(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	b := openBox(t, ls, never, newProbe(nil))
	frame := AppendFrame(nil, OpText, []byte("sh"), []byte("ared"))
	send := func() {
		onLoop(t, b.conn.loop, func() { b.conn.SendFramed(frame) })
		onLoop(t, b.conn.loop, func() { copy(frame[2:], "gone..") })
	}
	send()
	wantPoll(t, b, "1:shared")
	copy(frame[2:], "shared")
	answer := make(chan []string, 1)
	go func() {
		got, _ := polled(b, never)
		answer <- got
	}()
	eventually(t, "the poll waits", func() bool { return waits(t, b) })
	send()
	if got := <-answer; !slices.Equal(got, []string{"1:shared"}) {
		t.Errorf("polled %q", got)
	}
}

func TestMailboxOverflowCloses4008(t *testing.T) {
	ls := start(t, Config{Loops: 1, MaxQueueBytes: 1000})
	h := newProbe(func(c *Conn, _ Opcode, data []byte) {
		for range 20 {
			c.Send(OpText, data)
		}
	})
	b := openBox(t, ls, never, h)
	if err := b.Deliver(say(strings.Repeat("x", 100))); err == nil {
		t.Error("no error from the delivery that filled the queue")
	}
	wantPollEnds(t, b, CloseError{Code: CloseSlow, Reason: "slow"})
	h.wantClose(t, CloseError{Code: CloseSlow, Reason: "slow"})
	wantPollEnds(t, b, CloseError{Code: CloseSlow, Reason: "slow"})
	eventually(t, "it has gone", func() bool { return ls.Conns() == 0 })
}

func TestMailboxCloseComesBehindWhatIsQueued(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	h := newProbe(func(c *Conn, op Opcode, data []byte) {
		c.Send(op, data)
		if string(data) == "bye" {
			c.Close(4400, "enough")
		}
	})
	b := openBox(t, ls, never, h)
	err := b.Deliver(say("a", "bye", "late"))
	var ce *CloseError
	if !errors.As(err, &ce) || ce.Code != 4400 {
		t.Errorf("delivered: %v", err)
	}
	wantPollEnds(t, b, CloseError{Code: 4400, Reason: "enough"}, "1:a", "1:bye")
	h.wantClose(t, CloseError{Code: 4400, Reason: "enough"})
	if err := b.Deliver(say("too late")); !errors.As(err, &ce) || ce.Code != 4400 {
		t.Errorf("delivered to a closed one: %v", err)
	}
}

func TestMailboxClosesWithoutAPoll(t *testing.T) {
	ls := start(t, Config{Loops: 1, CloseTimeout: 20 * time.Millisecond})
	h := newProbe(nil)
	ended := make(chan bool, 2)
	b, err := ls.OpenMailbox(MailboxConfig{Idle: never, Ended: func() { ended <- len(h.closed) == 0 }}, func(*Conn) Handler { return h })
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if len(ended) != 1 || !<-ended {
			t.Error("Ended was not called once, before Closed")
		}
	}()
	ls.CloseAll(1012, "gateway restarts")
	h.wantClose(t, CloseError{Code: 1012, Reason: "gateway restarts"})
	wantPollEnds(t, b, CloseError{Code: 1012, Reason: "gateway restarts"})
}

func TestMailboxCloseEndsTheWaitingPoll(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	h := newProbe(nil)
	b := openBox(t, ls, never, h)
	answer := make(chan error, 1)
	go func() {
		_, err := b.Poll(never)
		answer <- err
	}()
	eventually(t, "the poll waits", func() bool { return waits(t, b) })
	ls.CloseAll(1012, "gateway restarts")
	var ce *CloseError
	if err := <-answer; !errors.As(err, &ce) || ce.Code != 1012 {
		t.Errorf("polled: %v", err)
	}
	h.wantClose(t, CloseError{Code: 1012, Reason: "gateway restarts"})
}

func TestMailboxInputBounds(t *testing.T) {
	ls := start(t, Config{Loops: 1, MaxMessageBytes: 10})
	for _, tt := range []struct {
		name, message string
		want          CloseError
	}{
		{"too big", strings.Repeat("x", 11), CloseError{Code: CloseTooBig, Reason: "message over 10 bytes"}},
		{"not UTF-8", "[\xff]", CloseError{Code: CloseNotUTF8, Reason: "text is not UTF-8"}},
		{"panic", "panic", CloseError{Code: CloseInternal}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newProbe(func(c *Conn, op Opcode, data []byte) {
				if string(data) == "panic" {
					panic("on purpose")
				}
				c.Send(op, data)
			})
			b := openBox(t, ls, never, h)
			var ce *CloseError
			if err := b.Deliver(say("0123456789", tt.message, "late")); !errors.As(err, &ce) || *ce != tt.want {
				t.Errorf("delivered: %v", err)
			}
			wantPollEnds(t, b, tt.want, "1:0123456789")
			h.wantClose(t, tt.want)
		})
	}
}

func TestMailboxIdles(t *testing.T) {
	ls := start(t, Config{Loops: 1, IdleTimeout: -1, CloseTimeout: 20 * time.Millisecond})
	h := newProbe(echo)
	b := openBox(t, ls, 50*time.Millisecond, h)
	h.wantClose(t, CloseError{Code: CloseIdleTimeout, Reason: "idle timeout"})
	wantPollEnds(t, b, CloseError{Code: CloseIdleTimeout, Reason: "idle timeout"})
}

func TestMailboxOnLoopsThatClose(t *testing.T) {
	ls := start(t, Config{Loops: 2})
	h := newProbe(nil)
	b := openBox(t, ls, never, h)
	answer := make(chan error, 1)
	go func() {
		_, err := b.Poll(never)
		answer <- err
	}()
	eventually(t, "the poll waits", func() bool { return waits(t, b) })
	ls.Close()
	if err := <-answer; !errors.Is(err, ErrClosed) {
		t.Errorf("the waiting poll: %v", err)
	}
	if err := h.end(t); !errors.Is(err, ErrClosed) {
		t.Errorf("Closed(%v)", err)
	}
	if _, err := b.Poll(never); !errors.Is(err, ErrClosed) {
		t.Errorf("a later poll: %v", err)
	}
	if err := b.Deliver(say("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("a later delivery: %v", err)
	}
	if _, err := ls.OpenMailbox(MailboxConfig{Idle: never}, func(*Conn) Handler { return h }); !errors.Is(err, ErrClosed) {
		t.Errorf("a later mailbox: %v", err)
	}
}

func TestMailboxIsCountedAndNamed(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	b := openBox(t, ls, never, newProbe(func(c *Conn, _ Opcode, _ []byte) { c.Send(OpText, []byte(c.RemoteAddr())) }))
	deliver(t, b, "where from?")
	wantPoll(t, b, "1:192.0.2.1:5")
	if n := ls.Conns(); n != 1 || b.ID() == 0 {
		t.Errorf("%d connections, ID %d", n, b.ID())
	}
	if _, err := ls.OpenMailbox(MailboxConfig{Idle: never}, func(*Conn) Handler { return nil }); err == nil || ls.Conns() != 1 {
		t.Errorf("without a handler: %v, %d connections", err, ls.Conns())
	}
	eventually(t, "counted", func() bool { s := ls.Stats(); return s.Accepted == 1 && s.Messages == 1 && s.Frames == 1 })
}

// What the handler closes in open stands in the first Poll.
func TestMailboxClosedInOpen(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	h := newProbe(nil)
	b, err := ls.OpenMailbox(MailboxConfig{Idle: never}, func(c *Conn) Handler {
		c.Send(OpText, []byte("hello"))
		c.Close(1012, "gateway restarts")
		return h
	})
	if err != nil {
		t.Fatal(err)
	}
	wantPollEnds(t, b, CloseError{Code: 1012, Reason: "gateway restarts"}, "1:hello")
	h.wantClose(t, CloseError{Code: 1012, Reason: "gateway restarts"})
}

// Any bytes that were framed by AppendFrame come out of Messages as they went in.
func FuzzMessages(f *testing.F) {
	f.Add([]byte("[1]"), []byte{0, 1}, uint16(0))
	f.Add([]byte(""), []byte("x"), uint16(126))
	f.Add([]byte("é"), []byte{}, uint16(65535))
	f.Fuzz(func(t *testing.T, a, b []byte, pad uint16) {
		long := append(slices.Clone(b), make([]byte, pad)...)
		frames := AppendFrame(nil, OpText, nil, a)
		frames = AppendFrame(frames, opPong, nil, []byte("p"))
		frames = AppendFrame(frames, OpBinary, b, make([]byte, pad))
		frames = append(appendHeader(frames, opClose, 2), 3, 0xe8)
		var ops []Opcode
		var got [][]byte
		for op, data := range Messages(frames) {
			ops, got = append(ops, op), append(got, data)
		}
		if !slices.Equal(ops, []Opcode{OpText, OpBinary}) || string(got[0]) != string(a) || string(got[1]) != string(long) {
			t.Errorf("got %v %q", ops, got)
		}
	})
}
