package gateway

import (
	"errors"
	"net"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// acceptPause is the wait after an accept that failed.
const acceptPause = 100 * time.Millisecond

// acceptor is the listener for clients. fasthttp ends a server whose Accept fails; but the usual reason, no file descriptor
// left, is over when a client goes or the limit is raised, and must not cost all the other clients their sockets.
type acceptor struct {
	net.Listener
	failed atomic.Uint64
	log    *zap.Logger
}

// Accept returns an error only when the listener is closed. While none can be accepted, clients wait in the system's queue.
func (a *acceptor) Accept() (net.Conn, error) {
	for tries := 0; ; tries++ {
		conn, err := a.Listener.Accept()
		if err == nil || errors.Is(err, net.ErrClosed) {
			return conn, err
		}
		a.failed.Add(1)
		if tries%50 == 0 { // one line in five seconds
			a.log.Warn("cannot accept clients now", zap.Error(err))
		}
		time.Sleep(acceptPause)
	}
}
