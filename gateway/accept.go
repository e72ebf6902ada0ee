package gateway

import (
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
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
	slots    chan struct{} // holds one for each handshake under way; nil: any number may be
}

// handshakePause is how long a full acceptor waits before it accepts one more all the same. So strangers that connect and say
// nothing slow others down and do not lock them out.
const handshakePause = 5 * time.Millisecond

// Accept returns an error only when the listener is closed. While none can be accepted, clients wait in the system's queue.
func (a *acceptor) Accept() (net.Conn, error) {
	slot := a.takeSlot()
	for {
		conn, err := a.Listener.Accept()
		if err == nil && slot {
			return &arrival{Conn: conn, acceptor: a}, nil
		}
		if err == nil || errors.Is(err, net.ErrClosed) {
			if slot {
				<-a.slots
			}
			return conn, err
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

// arrival is a connection that holds a slot until its handshake is over: until the HTTP server closes it, which it does once
// an event loop has the socket, or has read a request that is none.
type arrival struct {
	net.Conn
	acceptor *acceptor
	over     atomic.Bool
}

// Close implements net.Conn.
func (c *arrival) Close() error {
	c.done()
	return c.Conn.Close()
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
	secret, isSecret := conn.(*tls.Conn)
	if isSecret {
		conn = secret.NetConn()
	}
	if _, ok := socket.Arrived(conn); ok {
		return arrivedOnLoop(c)
	}
	a, ok := conn.(*arrival)
	if !ok {
		return c.Next()
	}
	if isSecret || !hasToken(c.Get(fiber.HeaderConnection), "upgrade") {
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
