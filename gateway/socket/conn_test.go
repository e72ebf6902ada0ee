package socket

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// An idle connection is this and the handler's own memory.
func TestConnSize(t *testing.T) {
	if n := unsafe.Sizeof(Conn{}); n > 192 {
		t.Fatalf("Conn takes %d bytes, want 192 at most, a size that the allocator has", n)
	}
}

func TestCloseFromHere(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		ls := start(t, Config{Loops: 1})
		h := newProbe(func(*Conn, Opcode, []byte) { t.Error("message on a closing connection") })
		p, c := connect(t, ls, server, h)
		onLoop(t, c.Loop(), func() {
			c.Send(OpText, []byte("queued "), []byte("before"))
			c.Close(4403, "forbidden")
			if !c.Closing() {
				t.Error("not closing")
			}
			c.Close(1000, "too late")
			c.Send(OpText, []byte("too late"))
			c.SendFramed(AppendFrame(nil, OpText, nil, []byte("too late")))
		})
		p.want(OpText, "queued before")
		p.wantClosed(4403, "forbidden")
		// What the peer still sends before its close frame is dropped, whatever
		// its size; pings get no answer any more.
		p.write(text("late"), clientFrame(0x01, "late"), clientFrame(0x89, "ping"), binMsg(strings.Repeat("x", 100<<10)))
		p.write(closeFrame(4403, ""))
		p.wantEOF()
		h.wantClose(t, CloseError{Code: 4403, Reason: "forbidden"})
		eventually(t, "counted", func() bool { return ls.Stats().Ended[EndLocal] == 1 })
	})
}

func TestCloseNotAnswered(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		ls := start(t, Config{Loops: 1, CloseTimeout: time.Minute})
		h := newProbe(nil)
		p, c := connect(t, ls, server, h)
		onLoop(t, c.Loop(), func() { c.Close(1000, "") })
		p.wantClosed(1000, "")
		later(t, c.Loop(), time.Minute)
		p.wantEOF()
		h.wantClose(t, CloseError{Code: 1000})
	})
}

func TestCloseByPeer(t *testing.T) {
	tests := []struct {
		name  string
		frame []byte
		reply string
		want  CloseError
	}{
		{"no code", clientFrame(0x88, ""), "", CloseError{Code: CloseNoStatus, Remote: true}},
		{"normal", closeFrame(1000, "bye"), "\x03\xe8bye", CloseError{Code: 1000, Reason: "bye", Remote: true}},
		{"own code", closeFrame(4999, ""), "\x13\x87", CloseError{Code: 4999, Remote: true}},
	}
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		ls := start(t, Config{Loops: 1})
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				h := newProbe(echo)
				p, _ := connect(t, ls, server, h)
				p.write(raw(text("first"), test.frame, text("not any more")))
				p.want(OpText, "first")
				p.want(opClose, test.reply)
				h.wantClose(t, test.want)
			})
		}
	})
}

func TestConnectionLost(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		ls := start(t, Config{Loops: 1})
		t.Run("EOF", func(t *testing.T) {
			h := newProbe(echo)
			p, _ := connect(t, ls, server, h)
			p.write(text("a"), clientFrame(0x81, "torn")[:7])
			p.want(OpText, "a")
			p.nc.Close()
			if err := h.end(t); err != io.ErrUnexpectedEOF {
				t.Fatalf("Closed(%v)", err)
			}
		})
		t.Run("reset", func(t *testing.T) {
			h := newProbe(echo)
			p, _ := connect(t, ls, server, h)
			p.nc.(*net.TCPConn).SetLinger(0)
			p.nc.Close()
			if err := h.end(t); !errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("Closed(%v)", err)
			}
		})
		eventually(t, "counted", func() bool { return ls.Stats().Ended[EndError] == 2 })
	})
}

// Nobody but the panicking connection notices, and its peer learns nothing.
func TestRow22_APanicInAHandlerCloses1011(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		core, logs := observer.New(zap.ErrorLevel)
		ls := start(t, Config{Loops: 1, Log: zap.New(core)})
		other, _ := connect(t, ls, server, newProbe(echo))
		h := newProbe(func(*Conn, Opcode, []byte) { panic("secret") })
		p, _ := connect(t, ls, server, h)
		p.write(text("x"), text("y"))
		p.want(opClose, "\x03\xf3")
		p.nc.Close()
		h.wantClose(t, CloseError{Code: CloseInternal})
		other.write(text("alive"))
		other.want(OpText, "alive")
		if s := ls.Stats(); s.Panics != 1 || logs.Len() != 1 {
			t.Fatalf("%d panics counted, %d logged", s.Panics, logs.Len())
		}
		if entry := logs.All()[0].ContextMap(); entry["panic"] != "secret" || !strings.Contains(entry["stack"].(string), "conn_test.go") {
			t.Fatalf("logged %v", entry)
		}
	})
}

type closedPanics struct{ probe }

func (h *closedPanics) Closed(c *Conn, err error) {
	h.probe.Closed(c, err)
	panic("in Closed")
}

func TestPanicInClosed(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	h := &closedPanics{*newProbe(nil)}
	p, _ := connect(t, ls, transports[0].server, h)
	p.nc.Close()
	h.end(t)
	eventually(t, "connection gone", func() bool { return ls.Conns() == 0 && ls.Stats().Panics == 1 })
}

// A handler's last call may send to others; that goes out in the same turn.
func TestSendFromClosed(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	p, c := connect(t, ls, transports[0].server, newProbe(nil))
	leaving, _ := connect(t, ls, transports[0].server, &farewell{to: c})
	leaving.nc.Close()
	p.want(OpText, "gone")
}

type farewell struct{ to *Conn }

func (*farewell) Message(*Conn, Opcode, []byte) {}
func (f *farewell) Closed(c *Conn, _ error) {
	c.Send(OpText, []byte("to the dead"))
	c.Close(1000, "")
	f.to.Send(OpText, []byte("gone"))
}

// A connection that is kept alive lasts as long as its peer answers pings.
func TestKeepAlive(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		ls := start(t, Config{Loops: 1, IdleTimeout: time.Hour})
		h := newProbe(echo)
		p, c := connect(t, ls, server, h)
		onLoop(t, c.Loop(), c.KeepAlive)
		for range 4 {
			later(t, c.Loop(), 40*time.Minute)
			p.want(opPing, "")
			p.write(clientFrame(0x8a, ""))
			eventually(t, "the answer is there", func() (there bool) {
				onLoop(t, c.Loop(), func() { there = !c.pinged })
				return there
			})
		}
		later(t, c.Loop(), 40*time.Minute)
		p.want(opPing, "")
		later(t, c.Loop(), 40*time.Minute)
		p.wantClosed(CloseIdleTimeout, "idle timeout")
		p.write(closeFrame(CloseIdleTimeout, ""))
		p.wantEOF()
		h.wantClose(t, CloseError{Code: CloseIdleTimeout, Reason: "idle timeout"})
	})
}

func TestIdleTimeout(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		ls := start(t, Config{Loops: 1, IdleTimeout: 30 * time.Millisecond})
		h := newProbe(nil)
		p, _ := connect(t, ls, server, h)
		p.wantClosed(CloseIdleTimeout, "idle timeout")
		p.write(closeFrame(CloseIdleTimeout, ""))
		p.wantEOF()
		h.wantClose(t, CloseError{Code: CloseIdleTimeout, Reason: "idle timeout"})
	})
}

// The exact times, on a clock of our own.
func TestExpire(t *testing.T) {
	const second = time.Second
	fragment := clientFrame(0x01, "a")
	from3s := func(pieces ...[]byte) func(*Conn) { // one a second
		return func(c *Conn) {
			for i, piece := range pieces {
				c.loop.now = time.Duration(3+i) * second
				c.received(bytes.Clone(piece))
			}
		}
	}
	tests := []struct {
		name    string
		idle    time.Duration // of the configuration
		prepare func(c *Conn)
		at      time.Duration
		want    state
		end     End
	}{
		{"idle, before", 60 * second, func(c *Conn) { c.last = 10 * second }, 70*second - 1, stateOpen, 0},
		{"idle, after", 60 * second, func(c *Conn) { c.last = 10 * second }, 70 * second, stateClosing, EndIdle},
		{"no idle timeout", -1, func(c *Conn) {}, 1000 * second, stateOpen, 0},
		{"message, before", -1, from3s(fragment), 33*second - 1, stateOpen, 0},
		{"message, after", -1, from3s(fragment), 33 * second, stateClosing, EndMessageTimeout},
		{"message with pings, after", -1, from3s(fragment, clientFrame(0x89, ""), fragment[:3]), 33 * second, stateClosing, EndMessageTimeout},
		{"message, complete", -1, from3s(fragment, clientFrame(0x80, "b")), 100 * second, stateOpen, 0},
		{"frame, after", -1, from3s([]byte("\x81")), 33 * second, stateClosing, EndMessageTimeout},
		{"next frame, before", -1, from3s(text("a")[:3], text("a")[3:], text("b")[:2]), 34*second - 1, stateOpen, 0},
		{"next frame, after", -1, from3s(text("a")[:3], text("a")[3:], text("b")[:2]), 35 * second, stateClosing, EndMessageTimeout},
		{"full, before", -1, func(c *Conn) { c.armed, c.full = true, 5*second }, 15*second - 1, stateOpen, 0},
		{"full, after", -1, func(c *Conn) { c.armed, c.full = true, 5*second }, 15 * second, stateDead, EndWriteTimeout},
		{"closing, before", -1, func(c *Conn) { c.loop.now = 7 * second; c.Close(1000, "") }, 12*second - 1, stateClosing, EndLocal},
		{"closing, after", -1, func(c *Conn) { c.loop.now = 7 * second; c.Close(1000, "") }, 12 * second, stateDead, EndLocal},
		{"failed, after", -1, func(c *Conn) { c.received([]byte("garbage")) }, 5 * second, stateDead, EndProtocol},
		{"full and closing", -1, func(c *Conn) { c.Close(1000, ""); c.armed = true }, 5 * second, stateDead, EndLocal},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := parked(newProbe(nil))
			*c.loop.cfg, _ = Config{IdleTimeout: test.idle}.withDefaults()
			test.prepare(c)
			c.expire(test.at)
			if c.state != test.want || c.end != test.end {
				t.Fatalf("state %d, end %v; want %d, %v", c.state, c.end, test.want, test.end)
			}
		})
	}
}

// Slow peers keep no connection: whatever they let trickle in, a message ends in its time or the connection does.
func TestSlowloris(t *testing.T) {
	drip := func(b []byte) [][]byte { // byte by byte
		var pieces [][]byte
		for i := range b {
			pieces = append(pieces, b[i:i+1])
		}
		return pieces
	}
	long := binMsg(strings.Repeat("x", 60000))
	empty, ping := clientFrame(0x00, ""), clientFrame(0x89, "")
	tests := []struct {
		name  string
		first []byte
		then  [][]byte // in turns, until the connection is closed
	}{
		{"half a header, then nothing", long[:1], nil},
		{"header", nil, drip(long[:8])},
		{"payload", long[:8], drip(long[8:1000])},
		{"a ping that does not end", ping[:3], nil},
		{"empty fragments", clientFrame(0x01, ""), [][]byte{empty}},
		{"pings between fragments", clientFrame(0x01, "a"), [][]byte{ping, empty, clientFrame(0x8a, "")}},
	}
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				ls := start(t, Config{Loops: 1, MessageTimeout: 150 * time.Millisecond})
				h := newProbe(echo)
				p, _ := connect(t, ls, server, h)
				p.write(test.first)
				stop := make(chan struct{})
				var dripping sync.WaitGroup
				dripping.Go(func() {
					pace := time.NewTicker(20 * time.Millisecond)
					defer pace.Stop()
					for i := 0; len(test.then) > 0; i++ {
						select {
						case <-stop:
							return
						case <-pace.C:
						}
						if _, err := p.nc.Write(test.then[i%len(test.then)]); err != nil {
							return
						}
					}
				})
				op, payload := p.read()
				for op == opPong {
					op, payload = p.read()
				}
				close(stop)
				dripping.Wait()
				if want := string(closePayload(CloseIdleTimeout, "message not complete in time")); op != opClose || payload != want {
					t.Fatalf("got frame %d %q, want close %q", op, payload, want)
				}
				p.nc.Close()
				h.wantClose(t, CloseError{Code: CloseIdleTimeout, Reason: "message not complete in time"})
				eventually(t, "counted", func() bool { return ls.Stats().Ended[EndMessageTimeout] == 1 })
			})
		}
	})
}

// Each message has its own time: one that is cut into many pieces goes on for longer than that.
func TestCutMessagesAreNoSlowloris(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	p, c := connect(t, ls, transports[0].server, newProbe(echo))
	var begun []time.Duration
	for range 3 {
		m := text("hello")
		p.write(m[:4])
		eventually(t, "torn", func() (torn bool) {
			onLoop(t, c.Loop(), func() {
				if torn = c.torn != nil; torn {
					begun = append(begun, c.torn.begun)
				}
			})
			return torn
		})
		p.write(m[4:])
		p.want(OpText, "hello")
	}
	if !(begun[0] < begun[1] && begun[1] < begun[2]) {
		t.Errorf("messages begun at %v", begun)
	}
}

// With the defaults, a peer that is not there any more keeps its connection for no longer than this.
func TestRow20_HalfOpenConnectionsEndWithin75Seconds(t *testing.T) {
	c := parked(newProbe(nil))
	*c.loop.cfg, _ = Config{}.withDefaults()
	c.received(text("the last word"))
	var closed time.Duration
	for c.state != stateDead && c.loop.now < time.Hour {
		c.loop.now += c.loop.cfg.tick()
		if c.expire(c.loop.now); c.state != stateOpen && closed == 0 {
			closed = c.loop.now
		}
	}
	if closed != 60*time.Second || c.loop.now > 75*time.Second || c.end != EndIdle {
		t.Errorf("closed after %v, dead after %v, end %v", closed, c.loop.now, c.end)
	}
}

func TestCloseAll(t *testing.T) {
	ls := start(t, Config{Loops: 2})
	var peers []*peer
	var probes []*probe
	for i := range 6 {
		h := newProbe(echo)
		p, _ := connect(t, ls, transports[i%2].server, h)
		peers, probes = append(peers, p), append(probes, h)
	}
	ls.CloseAll(CloseRestart, "restart")
	for i, p := range peers {
		p.wantClosed(CloseRestart, "restart")
		p.write(closeFrame(CloseRestart, ""))
		p.wantEOF()
		probes[i].wantClose(t, CloseError{Code: CloseRestart, Reason: "restart"})
	}
	eventually(t, "counted", func() bool { return ls.Stats().Ended[EndDrain] == 6 && ls.Conns() == 0 })
}

func TestCloseSome(t *testing.T) {
	ls := start(t, Config{Loops: 2})
	var peers []*peer
	for i := range 10 {
		p, _ := connect(t, ls, transports[i%2].server, newProbe(echo))
		peers = append(peers, p)
	}
	closing := func() (n int) {
		for i := range ls.Len() {
			l := ls.Loop(i)
			onLoop(t, l, func() {
				for _, c := range l.slots {
					if c != nil && c.Closing() {
						n++
					}
				}
			})
		}
		return n
	}
	for _, want := range []int{4, 8, 10, 10} {
		ls.CloseSome(2, CloseRestart, "restart")
		if got := closing(); got != want {
			t.Fatalf("%d of 10 connections are closing, want %d", got, want)
		}
	}
	for _, p := range peers {
		p.wantClosed(CloseRestart, "restart")
	}
}

func TestCloseSomeBeginsAnywhere(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	for range 50 {
		connect(t, ls, transports[0].server, newProbe(echo))
	}
	for range 12 {
		ls.CloseSome(1, CloseRestart, "restart")
	}
	l, closing, last := ls.Loop(0), 0, 0
	onLoop(t, l, func() {
		for i, c := range l.slots {
			if c != nil && c.Closing() {
				closing, last = closing+1, i
			}
		}
	})
	if closing != 12 || last == 11 {
		t.Errorf("%d are closing, the last one in slot %d", closing, last)
	}
}

func TestRemoteAddr(t *testing.T) {
	onTransports(t, func(t *testing.T, server func(net.Conn) net.Conn) {
		ls := start(t, Config{Loops: 1})
		h := newProbe(nil)
		p, c := connect(t, ls, server, h)
		onLoop(t, c.Loop(), func() {
			if got, want := c.RemoteAddr(), p.nc.LocalAddr().String(); got != want {
				t.Errorf("RemoteAddr = %q, want %q", got, want)
			}
		})
		p.nc.Close()
		h.end(t)
		onLoop(t, c.Loop(), func() {
			if got := c.RemoteAddr(); got != "" {
				t.Errorf("RemoteAddr after the end = %q", got)
			}
		})
	})
}

func TestIDs(t *testing.T) {
	ls := start(t, Config{Loops: 2})
	seen := map[uint64]bool{0: true}
	for range 20 {
		h := newProbe(nil)
		p, c := connect(t, ls, transports[0].server, h)
		if seen[c.ID()] {
			t.Fatalf("ID %d again", c.ID())
		}
		seen[c.ID()] = true
		p.nc.Close()
		h.end(t)
	}
}

func TestHandlerOf(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	h := newProbe(nil)
	p, c := connect(t, ls, transports[0].server, h)
	onLoop(t, c.Loop(), func() {
		if c.Handler() != h {
			t.Errorf("Handler = %v", c.Handler())
		}
	})
	p.nc.Close()
	h.end(t)
	onLoop(t, c.Loop(), func() {
		if c.Handler() != nil {
			t.Error("handler kept after the end")
		}
	})
}

// Any byte counts as a sign of life, a torn frame's too.
func TestLastReceived(t *testing.T) {
	c := parked(newProbe(nil))
	c.loop.now = 5 * time.Second
	c.received(text("x")[:1])
	if c.last != 5*time.Second {
		t.Fatalf("last received at %v", c.last)
	}
}

// A writer that comes after the kick does not wait for its own deadline.
func TestKickedStreamWritesNothing(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	s := newStream(server)
	s.kick()
	if n, err := s.write([]byte("x"), time.Hour); n != 0 || err != ErrClosed {
		t.Fatalf("wrote %d bytes, %v", n, err)
	}
}
