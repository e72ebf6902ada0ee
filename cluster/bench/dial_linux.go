package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// open begins to connect c, which is new or gone. Its slot, addr and topic are set. source is the address to connect
// from, or nil for any.
func (l *loop) open(c *conn, source net.IP) error {
	family, to := sockaddr(c.addr.IP, c.addr.Port)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	c.fd, c.state, c.began = fd, connecting, l.now
	if c.smallBuffer {
		// So that it is full soon when nobody reads. The server's end has room for so many segments: small ones.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 2<<10)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, 536)
	}
	if err := connect(fd, to, source); err != nil {
		l.drop(c)
		return fmt.Errorf("connect to %s: %w", c.addr, err)
	}
	if err := l.watch(unix.EPOLL_CTL_ADD, fd, c.slot, unix.EPOLLIN|unix.EPOLLOUT); err != nil {
		l.drop(c)
		return err
	}
	return nil
}

func connect(fd int, to unix.Sockaddr, source net.IP) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	if source != nil {
		// The kernel picks the port with the destination in view: a source address has its ports once per destination.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
			return err
		}
		_, from := sockaddr(source, 0)
		if err := unix.Bind(fd, from); err != nil {
			return err
		}
	}
	if err := unix.Connect(fd, to); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	return nil
}

func sockaddr(ip net.IP, port int) (family int, addr unix.Sockaddr) {
	if v4 := ip.To4(); v4 != nil {
		return unix.AF_INET, &unix.SockaddrInet4{Port: port, Addr: [4]byte(v4)}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: port, Addr: [16]byte(ip.To16())}
}

// connected takes note of how connecting ended, and sends the handshake.
func (l *loop) connected(c *conn) error {
	code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	if err != nil {
		return l.fail(c, err)
	}
	c.state = upgrading
	if err := l.watch(unix.EPOLL_CTL_MOD, c.fd, c.slot, unix.EPOLLIN); err != nil {
		return err
	}
	text, ok := l.handshakes[c.host]
	if !ok {
		text = handshake(c.host, l.path)
		l.handshakes[c.host] = text
	}
	if err := l.send(c, text); err != nil {
		return l.fail(c, err)
	}
	return nil
}

// sourceAddress returns the n-th address of 127.0.0.0/8 to connect from, from 127.0.1.1 on, or nil if the server is
// not on a loopback address of that kind.
func sourceAddress(server net.IP, n int) net.IP {
	v4 := server.To4()
	if v4 == nil || !v4.IsLoopback() {
		return nil
	}
	const perNet = 250
	ip := make(net.IP, 4)
	binary.BigEndian.PutUint32(ip, 127<<24|uint32(1+n/perNet%perNet)<<8|uint32(1+n%perNet))
	return ip
}
