package bench

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Floor is a relay in one process and one event loop that does the least a server could do for the loads of this
// package: it answers joins, leaves, heartbeats and publishes from templates, and writes each delivery, built once per
// message, to each subscriber of the topic. It trusts its clients: it knows only the frames that this package sends, one
// channel per connection, and it holds nobody back who reads slowly.
type Floor struct {
	listener *net.TCPListener
	coalesce bool

	// Owned by Serve.
	epoll, listenFD, wake int
	conns                 []*floorConn // by descriptor
	topics                map[string]*floorTopic
	touched               []*floorConn // that have frames to write at the end of the round
	buf, text, frame      []byte       // scratch
}

type floorConn struct {
	fd       int
	upgraded bool
	rest     []byte // the start of a request whose end has not arrived
	out      []byte // to be written at the end of the round, or when the socket takes more
	waiting  bool   // for the socket to take more
	touched  bool   // is in Floor.touched
	topic    *floorTopic
	index    int // in topic.members
}

type floorTopic struct {
	joined  []byte // the frame that answers a join
	left    []byte // the frames that answer a leave
	members []*floorConn
}

// ListenFloor listens on addr, host:port of IPv4. With coalesce, what one round of the event loop has for a connection
// goes out in one write; without it, each frame is a write of its own.
func ListenFloor(addr string, coalesce bool) (*Floor, error) {
	lis, err := net.Listen("tcp4", addr)
	if err != nil {
		return nil, err
	}
	f := &Floor{
		listener: lis.(*net.TCPListener), coalesce: coalesce,
		topics: make(map[string]*floorTopic), buf: make([]byte, 256<<10),
	}
	if f.wake, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		_ = lis.Close()
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return f, nil
}

// Addr returns the address that the relay listens on.
func (f *Floor) Addr() string { return f.listener.Addr().String() }

// Serve relays until ctx is canceled, then closes everything. It must be called exactly once.
func (f *Floor) Serve(ctx context.Context) error {
	defer func() { _ = unix.Close(f.wake) }()
	defer func() { _ = f.listener.Close() }()
	file, err := f.listener.File()
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	f.listenFD = int(file.Fd())
	if err := unix.SetNonblock(f.listenFD, true); err != nil {
		return err
	}
	if f.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	defer func() { _ = unix.Close(f.epoll) }()
	for _, fd := range []int{f.listenFD, f.wake} {
		if err := f.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN); err != nil {
			return err
		}
	}
	defer f.closeAll()
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_, _ = unix.Write(f.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	defer func() {
		// The descriptor must not be closed, and its number used again, under the write.
		if !stop() {
			<-woken
		}
	}()
	return f.run(ctx)
}

func (f *Floor) run(ctx context.Context) error {
	events := make([]unix.EpollEvent, 256)
	for ctx.Err() == nil {
		n, err := unix.EpollWait(f.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("epoll: %w", err)
		}
		for _, ev := range events[:max(n, 0)] {
			switch fd := int(ev.Fd); fd {
			case f.wake:
			case f.listenFD:
				f.accept()
			default:
				f.handle(f.conns[fd], ev.Events)
			}
		}
		for _, c := range f.touched {
			c.touched = false
			f.flush(c)
		}
		f.touched = f.touched[:0]
	}
	return nil
}

func (f *Floor) watch(op, fd int, events uint32) error {
	return unix.EpollCtl(f.epoll, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

func (f *Floor) closeAll() {
	for _, c := range f.conns {
		if c != nil {
			f.drop(c)
		}
	}
}

func (f *Floor) accept() {
	for {
		fd, _, err := unix.Accept4(f.listenFD, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return // nobody there, or no descriptor left; the client will notice
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if f.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN) != nil {
			_ = unix.Close(fd)
			continue
		}
		for len(f.conns) <= fd {
			f.conns = append(f.conns, nil)
		}
		f.conns[fd] = &floorConn{fd: fd}
	}
}

func (f *Floor) handle(c *floorConn, events uint32) {
	if c == nil {
		return
	}
	if events&unix.EPOLLOUT != 0 {
		f.flush(c)
	}
	if f.conns[c.fd] != c || events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
		return
	}
	have := copy(f.buf, c.rest)
	n, err := unix.Read(c.fd, f.buf[have:])
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return
	}
	if err != nil || n == 0 {
		f.drop(c)
		return
	}
	rest, ok := f.consume(c, f.buf[:have+n])
	if !ok {
		f.drop(c)
		return
	}
	if f.conns[c.fd] == c {
		c.rest = append(c.rest[:0], rest...)
	}
}

// consume handles all whole requests in data and returns what is left. It reports false if the connection must go.
func (f *Floor) consume(c *floorConn, data []byte) (rest []byte, ok bool) {
	if !c.upgraded {
		end := bytes.Index(data, []byte("\r\n\r\n"))
		if end < 0 {
			return data, len(data) < 16<<10
		}
		if !f.upgrade(c, data[:end]) {
			return nil, false
		}
		data = data[end+4:]
	}
	for {
		fr, size, err := parseFrame(data, true)
		if err != nil {
			return nil, false
		}
		if size == 0 {
			return data, true
		}
		switch fr.op {
		case opText:
			if !f.request(c, fr.payload) {
				return nil, false
			}
		case opClose:
			f.frame = appendServerFrame(f.frame[:0], opClose, fr.payload)
			f.write(c, f.frame)
			f.flush(c)
			return nil, false
		}
		data = data[size:]
	}
}

func (f *Floor) upgrade(c *floorConn, head []byte) bool {
	_, after, ok := bytes.Cut(head, []byte("Sec-WebSocket-Key: "))
	if !ok {
		return false
	}
	key, _, _ := bytes.Cut(after, []byte("\r\n"))
	sum := sha1.Sum(append(bytes.Clone(key), "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...))
	c.upgraded = true
	f.write(c, fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:])))
	return true
}

// request handles [join_ref,"ref","topic","event",payload]. It reports whether text is one.
func (f *Floor) request(c *floorConn, text []byte) bool {
	jr, rest, ok1 := bytes.Cut(text, []byte(`,"`))
	ref, rest, ok2 := bytes.Cut(rest, []byte(`","`))
	name, rest, ok3 := bytes.Cut(rest, []byte(`","`))
	ev, payload, ok4 := bytes.Cut(rest, []byte(`",`))
	if !ok1 || !ok2 || !ok3 || !ok4 || len(jr) < 2 {
		return false
	}
	switch string(ev) {
	case "phx_join":
		f.join(c, string(name))
		f.write(c, c.topic.joined)
	case "phx_leave":
		if c.topic != nil {
			f.write(c, c.topic.left)
			f.leave(c)
		}
	case "publish":
		f.ack(c, jr[1:], ref, name)
		return f.relay(name, payload)
	default:
		f.ack(c, jr[1:], ref, name)
	}
	return true
}

// ack answers a request with ok.
func (f *Floor) ack(c *floorConn, jr, ref, name []byte) {
	t := append(append(f.text[:0], '['), jr...)
	t = append(append(t, `,"`...), ref...)
	t = append(append(t, `","`...), name...)
	t = append(t, `","phx_reply",{"response":{},"status":"ok"}]`...)
	f.text = t
	f.frame = appendServerFrame(f.frame[:0], opText, f.text)
	f.write(c, f.frame)
}

// relay delivers ["event",payload]] to all members of the topic.
func (f *Floor) relay(name, publish []byte) bool {
	inner, ok := bytes.CutSuffix(publish, []byte("]]"))
	if !ok || len(inner) == 0 {
		return false
	}
	t := append(append(f.text[:0], `["1",null,"`...), name...)
	t = append(append(t, `",`...), inner[1:]...)
	t = append(t, ']')
	f.text = t
	f.frame = appendServerFrame(f.frame[:0], opText, f.text)
	if topic := f.topics[string(name)]; topic != nil {
		for _, c := range topic.members {
			f.write(c, f.frame)
		}
	}
	return true
}

func (f *Floor) join(c *floorConn, name string) {
	f.leave(c)
	t := f.topics[name]
	if t == nil {
		const ok = `["1","%s","%s","phx_reply",{"response":{},"status":"ok"}]`
		t = &floorTopic{
			joined: appendServerFrame(nil, opText, fmt.Appendf(nil, ok, joinRef, name)),
			left:   appendServerFrame(nil, opText, fmt.Appendf(nil, ok, leaveRef, name)),
		}
		t.left = appendServerFrame(t.left, opText, fmt.Appendf(nil, `["1","1","%s","phx_close",{}]`, name))
		f.topics[name] = t
	}
	c.topic, c.index = t, len(t.members)
	t.members = append(t.members, c)
}

func (f *Floor) leave(c *floorConn) {
	if c.topic == nil {
		return
	}
	m := c.topic.members
	last := m[len(m)-1]
	m[c.index], last.index = last, c.index
	m[len(m)-1] = nil
	c.topic.members, c.topic = m[:len(m)-1], nil
}

// write writes a frame now, or leaves it to the end of the round. It never drops the connection.
func (f *Floor) write(c *floorConn, frame []byte) {
	if f.coalesce || len(c.out) > 0 {
		c.out = append(c.out, frame...)
		if !c.touched && !c.waiting {
			c.touched = true
			f.touched = append(f.touched, c)
		}
		return
	}
	n, err := unix.Write(c.fd, frame)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		n = 0 // a dead peer: reading will tell
	}
	if n = max(n, 0); n < len(frame) {
		c.out = append(c.out, frame[n:]...)
		f.await(c)
	}
}

// await has flush called when the socket takes more.
func (f *Floor) await(c *floorConn) {
	if !c.waiting {
		c.waiting = f.watch(unix.EPOLL_CTL_MOD, c.fd, unix.EPOLLIN|unix.EPOLLOUT) == nil
	}
}

// flush writes what is left to write.
func (f *Floor) flush(c *floorConn) {
	if len(c.out) == 0 || f.conns[c.fd] != c {
		return
	}
	n, err := unix.Write(c.fd, c.out)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		f.drop(c)
		return
	}
	c.out = append(c.out[:0], c.out[max(n, 0):]...)
	switch {
	case len(c.out) > 0:
		f.await(c)
	case c.waiting:
		c.waiting = false
		_ = f.watch(unix.EPOLL_CTL_MOD, c.fd, unix.EPOLLIN)
	}
}

func (f *Floor) drop(c *floorConn) {
	if f.conns[c.fd] != c {
		return
	}
	f.leave(c)
	f.conns[c.fd] = nil
	_ = unix.Close(c.fd)
}
