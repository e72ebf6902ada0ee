package socket

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ringcast/ringcast/shared/nonblock"
)

// wakeSlot marks the event of the wake descriptor.
const wakeSlot = -1

// poller is the epoll set of one loop. wake may be called from any goroutine,
// and while one waits, the loop's owner may call all but wait and event.
//
// It waits through Go's own network poller: the epoll descriptor is a
// pollable file, so a sleeping loop is a parked goroutine and holds no thread.
// On a two-core machine, woken 4000 times a second, that costs 16 µs of CPU
// per wake-up; a goroutine blocked in epoll_wait costs 52 µs, and an echo
// 29 µs against 20. Moving the read deadline instead of writing to an eventfd
// is no cheaper.
//
// No readiness is lost between the two pollers: the loop parks only after
// epoll_wait found nothing, and what becomes ready after that is a new edge
// of the epoll descriptor.
type poller struct {
	file  *os.File // owns the epoll descriptor
	raw   syscall.RawConn
	epfd  int
	waker int // eventfd, edge-triggered: written, never read

	removed atomic.Uint64 // descriptors taken out so far; counted when it is done
	seen    uint64        // removed before the last peek

	ready  [256]unix.EpollEvent
	n      int
	err    error
	peekFn func(fd uintptr) bool // peek, made once
}

// wakeCount is what a wake adds to the eventfd. The counter is never read; it
// lasts for 2^64 wakes.
var wakeCount = binary.NativeEndian.AppendUint64(nil, 1)

func newPoller() (*poller, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("socket: epoll_create1: %w", err)
	}
	if err := unix.SetNonblock(epfd, true); err != nil {
		_ = unix.Close(epfd)
		return nil, fmt.Errorf("socket: epoll descriptor: %w", err)
	}
	waker, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		_ = unix.Close(epfd)
		return nil, fmt.Errorf("socket: eventfd: %w", err)
	}
	p := &poller{file: os.NewFile(uintptr(epfd), "epoll"), epfd: epfd, waker: waker}
	p.peekFn = p.peek
	err = unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, waker, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: wakeSlot})
	if err == nil {
		p.raw, err = p.file.SyscallConn()
	}
	if err == nil {
		err = p.alarm(time.Now().Add(time.Second)) // fails if the file is not pollable
	}
	if err != nil {
		p.close()
		return nil, fmt.Errorf("socket: epoll set: %w", err)
	}
	return p, nil
}

func (p *poller) close() {
	_ = p.file.Close()
	_ = unix.Close(p.waker)
}

// alarm ends a wait at the given time. It holds until it is set again.
func (p *poller) alarm(at time.Time) error { return p.file.SetReadDeadline(at) }

// wait collects what is ready; if it may block, it returns when something is,
// or on wake, or at the alarm.
func (p *poller) wait(block bool) (int, error) {
	if !block {
		p.peek(0)
		return p.n, p.err
	}
	p.n, p.err = 0, nil
	if err := p.raw.Read(p.peekFn); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, fmt.Errorf("socket: wait for epoll: %w", err)
	}
	return p.n, p.err
}

// peek collects what is ready now and reports whether the wait is over.
func (p *poller) peek(uintptr) bool {
	p.seen = p.removed.Load()
	for {
		// With timeout 0 it does not block, so the scheduler need not know; see package nonblock.
		n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epfd), uintptr(unsafe.Pointer(&p.ready)), uintptr(len(p.ready)), 0, 0, 0)
		switch errno {
		case 0:
			p.n, p.err = int(n), nil
			return n > 0
		case unix.EINTR:
		default:
			p.n, p.err = 0, fmt.Errorf("socket: epoll_wait: %w", errno)
			return true
		}
	}
}

// stale reports whether a descriptor was removed since the last wait, so that
// its results may be about one that is no more.
func (p *poller) stale() bool { return p.removed.Load() != p.seen }

// event gives the i-th result of the last wait. slot is wakeSlot for a wake.
// broken means that the kernel reported an error or hang-up, so that a read
// will find it.
func (p *poller) event(i int) (slot int, readable, writable, broken bool) {
	e := &p.ready[i]
	broken = e.Events&(unix.EPOLLERR|unix.EPOLLHUP) != 0
	return int(e.Fd), broken || e.Events&unix.EPOLLIN != 0, e.Events&unix.EPOLLOUT != 0, broken
}

// wake ends the present or the next blocking wait.
func (p *poller) wake() {
	_, _ = nonblock.Write(p.waker, wakeCount) // EAGAIN: the counter is full, so a wake is pending
}

func (p *poller) add(fd, slot int) error {
	return p.control(unix.EPOLL_CTL_ADD, fd, slot, unix.EPOLLIN)
}

// control is epoll_ctl. It does not block, so the scheduler need not know; see package nonblock.
func (p *poller) control(op, fd, slot int, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(slot)}
	_, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(p.epfd), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(&ev)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// watchWritable turns waiting for room in the socket on or off.
func (p *poller) watchWritable(fd, slot int, on bool) error {
	events := uint32(unix.EPOLLIN)
	if on {
		events |= unix.EPOLLOUT
	}
	return p.control(unix.EPOLL_CTL_MOD, fd, slot, events)
}

// release ends the connection and closes the descriptor. If that is not the
// sole one, the HTTP server may still hold its own of the same socket: without
// the shutdown the peer would wait for that one.
func (p *poller) release(fd int, sole bool) {
	if !sole {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR)
	}
	p.remove(fd)
}

// forget takes the descriptor out and leaves it open.
func (p *poller) forget(fd int) {
	_ = p.control(unix.EPOLL_CTL_DEL, fd, 0, 0)
	p.removed.Add(1) // not sooner: a wait between the two would find the descriptor and not be stale
}

// remove closes the descriptor, and nothing else of the socket. As long as
// another descriptor of it is open, closing alone would leave it in the set,
// with the slot that the next connection gets. The process need not have
// another one to know of: a child that it starts has them all for a moment.
func (p *poller) remove(fd int) {
	p.forget(fd)
	nonblock.Close(fd)
}

// readFD reads once. The count is 0 without an error if nothing is there now;
// the peer's end is io.EOF.
func readFD(fd int, buf []byte) (int, error) {
	n, err := nonblock.Read(fd, buf)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return 0, nil
	case err != nil && !errors.Is(err, io.EOF):
		return 0, os.NewSyscallError("read", err)
	}
	return n, err
}

// writeFD writes once and gives what the kernel took, which may be nothing.
func writeFD(fd int, buf []byte) (int, error) {
	n, err := nonblock.Write(fd, buf)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return 0, nil
	case err != nil:
		return 0, os.NewSyscallError("write", err)
	}
	return n, nil
}

// peekFD is readFD of what stays to be read.
func peekFD(fd int, buf []byte) (int, error) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
		return 0, nil
	case errno != 0:
		return 0, os.NewSyscallError("recvfrom", errno)
	case n == 0:
		return 0, io.EOF
	}
	return int(n), nil
}

// pendingError gives the error that the kernel holds for the socket.
func pendingError(fd int) error {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && n != 0 {
		err = unix.Errno(n)
	}
	if err == nil {
		err = unix.ECONNRESET
	}
	return os.NewSyscallError("socket", err)
}

func closeWriteFD(fd int) { _ = unix.Shutdown(fd, unix.SHUT_WR) }

func closeFD(fd int) { _ = unix.Close(fd) }

func peerAddr(fd int) string {
	if addr := remoteAddr(fd); addr != nil {
		return addr.String()
	}
	return ""
}

// remoteAddr gives the peer's address, nil if it is gone.
func remoteAddr(fd int) net.Addr { return netAddr(syscall.Getpeername(fd)) }

func localAddr(fd int) net.Addr { return netAddr(syscall.Getsockname(fd)) }

func netAddr(sa syscall.Sockaddr, err error) net.Addr {
	if err != nil {
		return nil
	}
	switch sa := sa.(type) {
	case *syscall.SockaddrInet4:
		return &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}
	case *syscall.SockaddrInet6:
		addr := net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}
		if sa.ZoneId != 0 {
			if ifi, err := net.InterfaceByIndex(int(sa.ZoneId)); err == nil {
				addr.Zone = ifi.Name
			}
		}
		return &addr
	case *syscall.SockaddrUnix:
		return &net.UnixAddr{Name: "unix:" + sa.Name, Net: "unix"}
	}
	return nil
}

// keepAlive is how the kernel looks for dead clients, in seconds, as the net
// package does.
const (
	keepAliveIdle  = 15
	keepAliveEvery = 15
	keepAliveCount = 9
)

// listenFile gives a file of our own for a listening socket. What it sets
// there, accepted sockets have from the start: six system calls less for each.
func listenFile(lis *net.TCPListener) (*os.File, error) {
	raw, err := lis.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var failed error
	err = raw.Control(func(orig uintptr) {
		for _, o := range []struct{ level, name, value int }{
			{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepAliveIdle},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, keepAliveEvery},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveCount},
		} {
			failed = errors.Join(failed, os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(orig), o.level, o.name, o.value)))
		}
		if failed == nil {
			fd, failed = unix.FcntlInt(orig, unix.F_DUPFD_CLOEXEC, 0)
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "listener"), nil
}

// acceptFD accepts a connection from a listening socket that does not block.
func acceptFD(fd int) (int, error) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}

// isNobody reports whether err, of acceptFD, says that nobody waits, or that
// asking makes no sense.
func isNobody(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EBADF) || errors.Is(err, unix.EINVAL)
}

// isLack reports whether err says that the process or the system has too
// little of something to accept anybody.
func isLack(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM)
}

// dupSocket gives a descriptor of our own for a plain socket, so that nc can
// be closed by whoever owns it. Anything else is errNotPollable.
func dupSocket(nc net.Conn) (int, error) {
	var sc syscall.Conn
	switch nc := nc.(type) {
	case *net.TCPConn:
		if err := nc.SetNoDelay(true); err != nil {
			return -1, fmt.Errorf("socket: adopt: %w", err)
		}
		sc = nc
	case *net.UnixConn:
		sc = nc
	default:
		return -1, errNotPollable
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("socket: adopt: %w", err)
	}
	fd := -1
	var dupErr error
	err = raw.Control(func(orig uintptr) {
		if fd, dupErr = unix.FcntlInt(orig, unix.F_DUPFD_CLOEXEC, 0); dupErr == nil {
			dupErr = unix.SetNonblock(fd, true)
		}
	})
	if err = errors.Join(err, dupErr); err != nil {
		if fd >= 0 {
			closeFD(fd)
		}
		return -1, fmt.Errorf("socket: adopt: duplicate descriptor: %w", err)
	}
	return fd, nil
}
