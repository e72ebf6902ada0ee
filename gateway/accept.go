package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"

	"github.com/ringcast/ringcast/gateway/socket"
)

// acceptor is the listener for clients. fasthttp ends a server whose Accept fails; here it goes on, see socket.Shortage.
//
// It also keeps a crowd that comes all at once from taking the processor away from the clients that are there: only so many
// connections are on their way through their handshakes at a time, the others wait in the system's queue, where they cost
// nothing. Those that the event loops serve, they bound alike.
type acceptor struct {
	net.Listener
	shortage socket.Shortage
	log      *zap.Logger
	slots    chan struct{}   // holds one for each handshake under way; nil: any number may be
	lingers  chan struct{}   // holds one for each connection that lingers
	linger   time.Duration   // how long a connection may; default lingerTime
	ctx      context.Context // ends all lingering
}

// handshakePause is how long a full acceptor waits before it accepts one more all the same. So strangers that connect and say
// nothing slow others down and do not lock them out.
const handshakePause = 5 * time.Millisecond

// Accept returns an error only when the listener is closed. While none can be accepted, clients wait in the system's queue.
func (a *acceptor) Accept() (net.Conn, error) {
	slot := a.takeSlot()
	for {
		conn, err := a.Listener.Accept()
		if err == nil {
			arrived := &arrival{Conn: conn, acceptor: a}
			arrived.over.Store(!slot)
			return arrived, nil
		}
		if errors.Is(err, net.ErrClosed) {
			if slot {
				<-a.slots
			}
			return nil, err
		}
		a.shortage.Wait(a.log, err)
	}
}

// takeSlot waits for room for another handshake, and reports whether there is.
func (a *acceptor) takeSlot() bool {
	if a.slots == nil {
		return false
	}
	select {
	case a.slots <- struct{}{}:
		return true
	default:
	}
	timer := time.NewTimer(handshakePause)
	defer timer.Stop()
	select {
	case a.slots <- struct{}{}:
		return true
	case <-timer.C:
		return false
	}
}

// arrival is a connection that holds a slot, if there was one, until its handshake is over: until the HTTP server closes it, which
// it does once an event loop has the socket, or has read a request that is none.
type arrival struct {
	net.Conn
	acceptor *acceptor
	over     atomic.Bool
	unread   atomic.Bool // a request was refused before its end
}

// Close implements net.Conn. It may linger first.
func (c *arrival) Close() error {
	c.done()
	if c.unread.Load() {
		c.linger()
	}
	return c.Conn.Close()
}

const (
	// lingerBytes is how much more a client may send whose request was refused before its end.
	lingerBytes = 8 << 20
	// lingerTime is how long it may take for that, and to go.
	lingerTime = 2 * time.Second
	// maxLingers is how many of them there are at a time: the connections of others are closed at once.
	maxLingers = 256
)

// linger ends the answer, and reads on without keeping anything until the client has gone, or one of the bounds is reached. Were the
// connection closed while bytes come, the client's system would be told that it is reset, and might throw the answer away unread.
func (c *arrival) linger() {
	a := c.acceptor
	select {
	case a.lingers <- struct{}{}:
		defer func() { <-a.lingers }()
	default:
		return
	}
	nc := c.Conn
	if below, ok := nc.(interface{ UnsafeConn() net.Conn }); ok {
		nc = below.UnsafeConn()
	}
	tcp, ok := nc.(*net.TCPConn)
	if !ok || tcp.CloseWrite() != nil || tcp.SetReadDeadline(time.Now().Add(cmp.Or(a.linger, lingerTime))) != nil {
		return
	}
	defer context.AfterFunc(a.ctx, func() { _ = tcp.SetReadDeadline(time.Unix(1, 0)) })()
	_, _ = io.CopyN(io.Discard, tcp, lingerBytes)
}

// endUnread ends the connection behind the answer to a request that is not read to its end, so that the rest is not taken for a
// request. The client may still be sending that.
func endUnread(c *fasthttp.RequestCtx) {
	c.SetConnectionClose()
	if a, _ := arrivalOf(c.Conn()); a != nil {
		a.unread.Store(true)
	}
}

// arrivalOf returns the arrival that is, or is below, a connection of the HTTP server, nil if there is none, and whether there is TLS
// above it.
func arrivalOf(conn net.Conn) (a *arrival, secret bool) {
	if over, ok := conn.(*tls.Conn); ok {
		conn, secret = over.NetConn(), true
	}
	a, _ = conn.(*arrival)
	return a, secret
}

// UnsafeConn gives the socket to those who take it over.
func (c *arrival) UnsafeConn() net.Conn { return c.Conn }

func (c *arrival) done() {
	if !c.over.Swap(true) {
		<-c.acceptor.slots
	}
}

// arrived ends the handshake of a connection that the HTTP server keeps for longer: its request is none for a socket, or was
// refused, or came through TLS, which the server goes on to read.
func arrived(c *fiber.Ctx) error {
	conn := c.Context().Conn()
	if _, ok := socket.Arrived(conn); ok {
		return arrivedOnLoop(c)
	}
	a, secret := arrivalOf(conn)
	if a == nil {
		return c.Next()
	}
	if secret || !hasToken(c.Get(fiber.HeaderConnection), "upgrade") {
		a.done()
	}
	err := c.Next()
	if err != nil || c.Response().StatusCode() != fiber.StatusSwitchingProtocols {
		a.done()
	}
	return err
}

// arrivedOnLoop serves a handshake on an event loop, which ends the connection if it is refused.
func arrivedOnLoop(c *fiber.Ctx) error {
	err := c.Next()
	if err != nil || c.Response().StatusCode() != fiber.StatusSwitchingProtocols {
		if upgrade := c.GetRespHeader(fiber.HeaderConnection); upgrade != "" {
			c.Set(fiber.HeaderConnection, upgrade+", close")
		} else {
			c.Context().SetConnectionClose()
		}
	}
	return err
}
