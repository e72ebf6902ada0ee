//go:build unix

package nonblock

import (
	"bytes"
	"errors"
	"io"
	"syscall"
	"testing"
)

// pair returns both ends of a connected socket.
func pair(t *testing.T) (a, b int) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if err := syscall.SetNonblock(fd, true); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = syscall.Close(fds[0]) }) // the other end is the test's to close
	return fds[0], fds[1]
}

func TestReadGivesWhatIsThereThenEAGAINThenEOF(t *testing.T) {
	a, b := pair(t)
	buf := make([]byte, 16)
	if n, err := Read(a, buf); n != 0 || !errors.Is(err, syscall.EAGAIN) {
		t.Fatalf("Read of an empty socket = %d, %v; want EAGAIN", n, err)
	}
	if n, err := Write(b, []byte("hello")); n != 5 || err != nil {
		t.Fatalf("Write = %d, %v; want all 5 bytes", n, err)
	}
	if n, err := Read(a, buf); err != nil || string(buf[:n]) != "hello" {
		t.Fatalf("Read = %q, %v", buf[:n], err)
	}
	if err := syscall.Close(b); err != nil {
		t.Fatal(err)
	}
	if n, err := Read(a, buf); n != 0 || err != io.EOF {
		t.Fatalf("Read behind the end = %d, %v; want io.EOF", n, err)
	}
}

func TestWriteTakesWhatThereIsRoomFor(t *testing.T) {
	a, b := pair(t)
	defer func() { _ = syscall.Close(b) }()
	sent := 0
	for chunk := bytes.Repeat([]byte{7}, 64<<10); ; {
		n, err := Write(b, chunk)
		if errors.Is(err, syscall.EAGAIN) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		sent += n
	}
	got := 0
	for buf := make([]byte, 64<<10); got < sent; {
		n, err := Read(a, buf)
		if err != nil {
			t.Fatalf("after %d of %d bytes: %v", got, sent, err)
		}
		if bytes.ContainsFunc(buf[:n], func(r rune) bool { return r != 7 }) {
			t.Fatal("other bytes than were written")
		}
		got += n
	}
}

func TestBrokenSockets(t *testing.T) {
	a, b := pair(t)
	if err := syscall.Close(b); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(a, []byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Write to a socket without a peer: %v; want EPIPE", err)
	}
	if _, err := Read(-1, make([]byte, 1)); !errors.Is(err, syscall.EBADF) {
		t.Errorf("Read of no descriptor: %v; want EBADF", err)
	}
	if n, err := Write(a, nil); n != 0 || err != nil && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Write of nothing: %d, %v", n, err)
	}
}
