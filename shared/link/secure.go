package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/ringcast/ringcast/shared/certs"
)

// ErrPlainText refuses a link in plain text with another host.
var ErrPlainText = errors.New("link: plain text with another host is not allowed: set LINK_CERT_FILE, LINK_KEY_FILE and LINK_CA_FILE, or INSECURE_LINKS=true")

// errHandshake is what a connection failed with before it was encrypted.
var errHandshake = errors.New("link: TLS handshake")

var (
	errPeerTLS   = errors.New("link: peer speaks TLS, and links are in plain text here")
	errPeerPlain = errors.New("peer speaks plain text, and links want TLS here")
)

// The encryption of a lane stands between what dRPC sees of its conn and the part of it that never waits. So an encrypted
// lane sends inline too, from whoever has something to send, and a peer that does not read is found in the same way; and what
// cuts the input into messages sees plain text.
//
//	dRPC ─► conn.Read, conn.Write ─► tls.Conn ─► wire ─► TCP

// wire is the conn as its tls.Conn uses it.
type wire struct{ *conn }

// Read reads what came over the wire.
func (w wire) Read(p []byte) (int, error) { return w.readSocket(p) }

// Write never waits.
func (w wire) Write(p []byte) (int, error) { return w.write(p) }

// secureDialed encrypts a connection that was dialed, or else checks that it need not be. It is called before anything else
// is read or written.
func (c *conn) secureDialed(ctx context.Context, cfg Config) error {
	c.dialing = true
	if cfg.Identity == nil {
		return c.allowPlain(cfg)
	}
	tc := tls.Client(wire{c}, cfg.Identity.ClientConfig(cfg.Server))
	err := tc.HandshakeContext(ctx)
	var wrong *certs.PeerError
	switch {
	case err == nil:
		c.tls, c.peer = tc, certs.PeerOf(tc.ConnectionState())
		return nil
	case errors.As(err, &wrong):
		return fmt.Errorf("link: peer %s (%s) presents id %s", wrong.Want, c.RemoteAddr(), wrong.Have)
	}
	return fmt.Errorf("%w with topic server %s (%s): %w", errHandshake, cfg.Server, c.RemoteAddr(), c.explain(err))
}

// secureAccepted is secureDialed for a connection that was accepted.
func (c *conn) secureAccepted(ctx context.Context, cfg Config) error {
	if cfg.Identity == nil {
		return c.allowPlain(cfg)
	}
	tc := tls.Server(wire{c}, cfg.Identity.ServerConfig())
	if err := tc.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("%w: %w", errHandshake, c.explain(err))
	}
	c.tls, c.peer = tc, certs.PeerOf(tc.ConnectionState())
	return nil
}

// explain says what a failed handshake means.
func (c *conn) explain(err error) error {
	var record tls.RecordHeaderError
	var alert *net.OpError
	switch {
	case errors.As(err, &record):
		return errPeerPlain
	case errors.As(err, &alert) && alert.Op == "remote error":
		return fmt.Errorf("peer does not accept this certificate: %w", alert.Err)
	}
	why := c.reason()
	switch {
	case errors.Is(why, ErrNotGreeted):
		return why
	case errors.Is(err, io.EOF), why != nil && errors.Is(why, io.EOF):
		return errors.New("peer closed the connection; perhaps links are in plain text there")
	case why != nil:
		return why
	}
	return err
}

// allowPlain refuses plain text with another host unless that is allowed.
func (c *conn) allowPlain(cfg Config) error {
	tcp, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok || cfg.Insecure || tcp.IP.IsLoopback() {
		return nil
	}
	return ErrPlainText
}

// foreign recognises TLS where plain text is spoken, by the first bytes of the peer: a ClientHello at the accepting end, an
// alert at the other.
func (c *conn) foreign(first []byte) error {
	if c.tls != nil || len(first) < 2 || first[1] != 3 || first[0] != 0x15 && first[0] != 0x16 {
		return nil
	}
	return errPeerTLS
}
