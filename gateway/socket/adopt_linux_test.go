package socket

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// Without a free descriptor Adopt says so, the caller still has its
// connection, and the next one works.
func TestAdoptNoDescriptors(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	_, accepted := tcpPair(t)
	defer accepted.Close()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	err := ls.Adopt(accepted, func(*Conn) Handler { t.Error("opened"); return nil })
	if restore := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); restore != nil {
		t.Fatal(restore)
	}
	if !errors.Is(err, unix.EMFILE) {
		t.Fatalf("Adopt without descriptors: %v", err)
	}
	if ls.Conns() != 0 {
		t.Fatalf("%d connections", ls.Conns())
	}
	p, _ := connect(t, ls, transports[0].server, newProbe(echo))
	p.write(text("works"))
	p.want(OpText, "works")
}

// Every connection's descriptor is closed at its end.
func TestNoDescriptorLeft(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	h := newProbe(nil)
	p, c := connect(t, ls, transports[0].server, h)
	fd := 0
	onLoop(t, c.Loop(), func() { fd = int(c.fd) })
	p.nc.Close()
	h.end(t)
	onLoop(t, c.Loop(), func() {
		if c.fd != -1 {
			t.Errorf("descriptor %d kept", c.fd)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != unix.EBADF {
			t.Errorf("descriptor %d still open: %v", fd, err)
		}
	})
}

// Wakes that nobody waited for cost one empty turn, not more.
func TestWakeIsConsumed(t *testing.T) {
	p, err := newPoller()
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	for range 300 {
		p.wake()
	}
	n, err := p.wait(true)
	if n != 1 || err != nil {
		t.Fatalf("wait after wakes: %d events, %v", n, err)
	}
	if slot, _, _, _ := p.event(0); slot != wakeSlot {
		t.Fatalf("event of slot %d", slot)
	}
	if n, err := p.wait(false); n != 0 || err != nil {
		t.Fatalf("wake reported again: %d events, %v", n, err)
	}
}
