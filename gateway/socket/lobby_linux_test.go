package socket

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// newTestLobby returns a lobby of two loops that do not run. It must be called in a bubble, whose clock it goes by.
func newTestLobby(door Door) *lobby {
	start := time.Now()
	ls := &Loops{loops: []*Loop{{start: start}, {start: start}}}
	return newLobby(&Listener{loops: ls, door: door, closed: make(chan struct{})})
}

// rate lets everybody go on whose turn it is, for a second, and returns how many that were.
func (b *lobby) rate() (n int) {
	for end := time.Now().Add(time.Second); time.Now().Before(end) && n < 100_000; {
		if wait := b.turn(); wait > 0 {
			time.Sleep(wait)
		} else {
			n++
		}
	}
	return n
}

// Two loops have two seconds a second. An eighth of that is what those who come may cost while messages are delivered.
func TestWhoComesGetsAShare(t *testing.T) {
	const pause = 5 * time.Millisecond
	tests := []struct {
		name        string
		delivered   time.Duration // ago; 0 for never
		greet, join time.Duration
		arriving    int64
		least, most int
	}{
		{"nothing is delivered", 0, time.Second, time.Second, 0, 100_000, 100_000},
		{"nothing was for long", deliveryMemory, time.Second, time.Second, 0, 100_000, 100_000},
		{"cheap", time.Millisecond, 60 * time.Microsecond, 40 * time.Microsecond, 0, 2490, 2520},
		{"some time ago", deliveryMemory - 2*time.Second, 60 * time.Microsecond, 40 * time.Microsecond, 0, 2490, 2520},
		{"dear", time.Millisecond, 600 * time.Microsecond, 400 * time.Microsecond, 0, 249, 252},
		{"so dear that nobody would come", time.Millisecond, time.Second, time.Second, 0, 199, 202},
		{"many are on their way", 0, 0, 0, 16, 199, 202},
		{"one is on its way less", 0, 0, 0, 15, 100_000, 100_000},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newTestLobby(Door{Most: 16, Pause: pause})
				loops := b.in.loops.loops
				time.Sleep(time.Minute)
				for _, l := range loops {
					l.greeting.ns.Store(int64(tt.greet))
					l.joining.ns.Store(int64(tt.join))
				}
				if tt.delivered > 0 {
					loops[1].delivered.Store(int64(time.Minute - tt.delivered))
				}
				loops[0].arriving.Store(tt.arriving)
				if n := b.rate(); n < tt.least || n > tt.most {
					t.Errorf("%d go on in a second, want %d to %d", n, tt.least, tt.most)
				}
			})
		})
	}
}

func TestEffort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e effort
		for range 200 {
			from := time.Now()
			time.Sleep(100 * time.Microsecond)
			e.since(from)
		}
		if got := e.mean(); got < 99*time.Microsecond || got > 100*time.Microsecond {
			t.Errorf("the mean of 100 µs each is %v", got)
		}
	})
}

// A full lobby accepts nobody. When the listener is closed, whoever was about to enter does not wait any more, and those
// who are inside are sent away.
func TestAFullLobby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestLobby(Door{Most: 2, Pause: time.Hour, Conns: 30})
		b.in.loops.loops[0].arriving.Store(2) // nobody may go on
		b.in.loops.loops[1].load.Store(10)
		entered := make(chan struct{})
		go func() {
			defer close(entered)
			defer close(b.queue)
			for range 21 {
				b.enter(-1)
			}
		}()
		time.Sleep(time.Second)
		if n := b.waiting.Load(); n != 20 {
			t.Errorf("%d wait, want 20: with those that are open 30", n)
		}
		close(b.in.closed)
		<-entered
		b.empty()
		if n := b.waiting.Load(); n != 0 {
			t.Errorf("%d wait, want none", n)
		}
	})
}

// Who has sent a request goes before all who are silent or trickle, and those go on all the same.
func TestWhoHasSpokenGoesFirst(t *testing.T) {
	b := newLobby(nil)
	ends := make(map[int]int) // the client's, by the server's
	enter := func(says string) int {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		if says == "bye" {
			closeFD(fds[1]) // the other one, the lobby closes
		} else {
			t.Cleanup(func() { closeFD(fds[0]); closeFD(fds[1]) })
			_, _ = writeFD(fds[1], []byte(says))
		}
		b.queue <- fds[0]
		ends[fds[0]] = fds[1]
		return fds[0]
	}
	const many = 300
	var quiet []int
	for i := range many {
		quiet = append(quiet, enter([]string{"", "GET /ws HTTP/1.1\r\n"}[i%2]))
	}
	first, second, gone := enter(request("/ws")), enter(request("/ws")), enter("bye")
	b.aside = append(b.aside, <-b.queue)
	came := make(map[int]int)
	choose := func() int {
		fd := b.choose()
		came[fd] = len(came)
		return fd
	}
	for range 40 {
		choose()
	}
	for name, fd := range map[string]int{"first": first, "second": second} {
		if _, ok := came[fd]; !ok {
			t.Errorf("the %s waits still", name)
		}
	}
	if came[first] > came[second] {
		t.Error("the second goes before the first")
	}
	if _, ok := came[quiet[0]]; !ok {
		t.Error("who has waited longest waits still")
	}
	// One who was silent speaks.
	late := quiet[many-2]
	if _, ok := came[late]; ok {
		t.Fatal("the last ones have gone on already")
	}
	_, _ = writeFD(ends[late], []byte(request("/ws")))
	for range 20 {
		choose()
	}
	if _, ok := came[late]; !ok {
		t.Error("who spoke later waits still")
	}
	for len(b.aside) > 0 {
		choose()
	}
	if _, ok := came[gone]; ok || len(came) != many+2 {
		t.Errorf("%d have gone on, want %d, each once, and not who has gone: %v", len(came), many+2, ok)
	}
}

// Over a closed listener nobody waits for a turn: the clients that do are sent away, and its goroutines end.
func TestAClosedListenerEmptiesItsLobby(t *testing.T) {
	ls := start(t, Config{Loops: 2})
	unswept(t, ls) // else the first one would count no more after a second
	in, addr := listen(t, ls, Door{Most: 1, Pause: time.Hour, Conns: 100, Timeout: time.Hour, Late: func() bool { return false }})
	clients := []net.Conn{dial(t, addr)}
	eventually(t, "the first one is on its way", func() bool { return ls.Arriving() == 1 })
	for range 3 {
		clients = append(clients, dial(t, addr))
	}
	eventually(t, "the others wait", func() bool { return ls.Stats().Waiting == 3 })
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	for _, nc := range clients[1:] {
		wantEnd(t, nc)
	}
	eventually(t, "nobody waits", func() bool { return ls.Stats().Waiting == 0 })
	ls.Close()
	wantEnd(t, clients[0])
}

// What the HTTP server does not take waits up to a bound; who is beyond it is sent away.
func TestTooManyForTheHTTPServer(t *testing.T) {
	ls := start(t, Config{Loops: 2})
	in, addr := listen(t, ls, Door{Most: 2 * maxPassed, Conns: 2 * maxPassed, Timeout: time.Hour, Late: func() bool { return true }})
	for range maxPassed {
		dial(t, addr)
	}
	eventually(t, "they wait", func() bool { return in.waiting.Load() == maxPassed })
	wantEnd(t, dial(t, addr))
	if n := ls.Stats().Unserved; n != 1 {
		t.Errorf("%d counted", n)
	}
	nc, err := in.Accept()
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	dial(t, addr)
	eventually(t, "another one takes the place", func() bool { return in.waiting.Load() == maxPassed })
}

// Who says nothing keeps nobody out after a second; it is served all the same when it speaks.
func TestSilentArrivalsCountForASecond(t *testing.T) {
	h := newHouse(t, Config{Loops: 2, MaxMessageBytes: 1 << 20, WriteTimeout: 40 * time.Millisecond}, time.Hour)
	from := time.Now()
	p := h.dial()
	h.eventually("it is there", func() bool { return h.arriving() == 1 })
	h.eventually("it does not count", func() bool { return h.loops.Arriving() == 0 })
	if took := time.Since(from); took < silence {
		t.Errorf("it counted for %v, want %v", took, silence)
	}
	p.write([]byte(request("/ws")))
	p.answer(101)
	p.talks()
	if n := h.loops.Arriving(); n != 0 {
		t.Errorf("%d arriving, want 0", n)
	}
}

// The second half of a request has what the first half has left of the time.
func TestAFirstRequestInPiecesHasOneDeadline(t *testing.T) {
	t.Run("until the answer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			from := time.Now()
			client, server := net.Pipe()
			defer client.Close()
			c, err := newReadConn(server, passed{until: from.Add(5 * time.Second)})
			if err != nil {
				t.Fatal(err)
			}
			read := func(want time.Duration) {
				t.Helper()
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(from) != want {
					t.Errorf("read: %v after %v, want the deadline after %v", err, time.Since(from), want)
				}
			}
			time.Sleep(3 * time.Second)
			if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil { // as the HTTP server does
				t.Fatal(err)
			}
			read(5 * time.Second)
			go io.ReadFull(client, make([]byte, 2))
			if _, err := c.Write([]byte("ok")); err != nil {
				t.Fatal(err)
			}
			read(8 * time.Second)
			if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			read(13 * time.Second)
		})
	})
	t.Run("over a socket", func(t *testing.T) {
		h := newHouse(t, Config{Loops: 2}, 300*time.Millisecond) // its HTTP server has no timeout
		p := h.dial()
		p.write([]byte("GET /page HTTP/1.1\r\n"))
		p.nc.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.ReadAll(p.br); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("it was not cut")
		}
	})
}

func listen(t *testing.T, ls *Loops, door Door) (*Listener, string) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	in, err := ls.Listen(lis, door)
	if err != nil {
		t.Fatal(err)
	}
	return in.(*Listener), in.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return nc
}

// wantEnd wants the server to have ended a connection without a word.
func wantEnd(t *testing.T, nc net.Conn) {
	t.Helper()
	nc.SetReadDeadline(time.Now().Add(patience))
	if n, err := nc.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %d bytes, %v; want the end", n, err)
	}
}
