//go:build !linux

package socket

import (
	"net"
	"os"
	"time"
)

// wakeSlot marks the event of a wake.
const wakeSlot = -1

// poller makes a loop wait for posted tasks only: every connection here is a
// stream connection, so no descriptor ever reaches it. Only wake may be
// called from other goroutines.
type poller struct {
	woken chan struct{}
	timer *time.Timer
}

func newPoller() (*poller, error) {
	return &poller{woken: make(chan struct{}, 1), timer: time.NewTimer(time.Second)}, nil
}

func (p *poller) close() { p.timer.Stop() }

func (p *poller) alarm(at time.Time) error {
	p.timer.Reset(time.Until(at))
	return nil
}

func (p *poller) wait(block bool) (int, error) {
	if block {
		select {
		case <-p.woken:
		case <-p.timer.C:
		}
	}
	return 0, nil
}

func (p *poller) wake() {
	select {
	case p.woken <- struct{}{}:
	default:
	}
}

func (p *poller) stale() bool { return false }

func (p *poller) event(int) (slot int, readable, writable, broken bool) {
	return wakeSlot, false, false, false
}

func (p *poller) add(int, int) error                 { return errNotPollable }
func (p *poller) watchWritable(int, int, bool) error { return errNotPollable }
func (p *poller) release(int, bool)                  {}
func (p *poller) forget(int)                         {}
func (p *poller) remove(int)                         {}

func readFD(int, []byte) (int, error)  { return 0, errNotPollable }
func peekFD(int, []byte) (int, error)  { return 0, errNotPollable }
func writeFD(int, []byte) (int, error) { return 0, errNotPollable }
func pendingError(int) error           { return errNotPollable }
func closeWriteFD(int)                 {}
func closeFD(int)                      {}
func peerAddr(int) string              { return "" }
func remoteAddr(int) net.Addr          { return nil }
func localAddr(int) net.Addr           { return nil }
func acceptFD(int) (int, error)        { return -1, errNotPollable }
func isNobody(error) bool              { return true }
func isLack(error) bool                { return false }

func listenFile(*net.TCPListener) (*os.File, error) { return nil, errNotPollable }

func dupSocket(net.Conn) (int, error) { return -1, errNotPollable }
