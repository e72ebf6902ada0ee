package gateway

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// outOfFiles is a listener that has no file descriptor left for some accepts, and is closed then.
type outOfFiles struct {
	net.Listener
	left atomic.Int64
}

func (l *outOfFiles) Accept() (net.Conn, error) {
	if l.left.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return nil, &net.OpError{Op: "accept", Net: "tcp", Err: net.ErrClosed}
}

// A gateway without a file descriptor left keeps its listener, and says so without filling its log.
func TestAcceptGoesOnWithoutFileDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.WarnLevel)
		lis := new(outOfFiles)
		lis.left.Store(120)
		a := &acceptor{Listener: lis, log: zap.New(core)}
		if _, err := a.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v, want the end of the listener", err)
		}
		if n := a.failed.Load(); n != 120 {
			t.Errorf("%d failures counted, want 120", n)
		}
		if n := logs.Len(); n != 3 {
			t.Errorf("%d lines logged in 12 s, want 3", n)
		}
	})
}
