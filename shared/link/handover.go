package link

import (
	"context"
	"fmt"

	"storj.io/drpc/drpcconn"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/certs"
)

// Handover is the giving end of a handover between two topic servers, on a connection of its own. One goroutine sends
// and one receives.
type Handover struct {
	stream linkpb.DRPCLinks_HandoverStream
	conn   *conn
}

// Greeted lifts the bounds that hold before the peer has introduced itself. The receiving goroutine calls it after the
// first Receive.
func (h *Handover) Greeted() { h.conn.prove() }

// Receive waits for the next message. An error means that the handover has ended, by whomever; a peer that is silent or a
// stranger ends it within the times of Config.
func (h *Handover) Receive() (*linkpb.Wants, error) {
	m, err := h.stream.Recv()
	return m, h.conn.ended(err)
}

// Send sends a message. It does not wait for the peer: nil means that the message is queued, not that it has come. An error
// means that the handover has ended. The peer may be silent for Config.Silence from then on: it had to listen.
func (h *Handover) Send(m *linkpb.Gives) error {
	h.Await()
	return h.conn.ended(h.stream.Send(m))
}

// Await lets the peer be silent for Config.Silence from now on. It is for a giver that has the peer wait.
func (h *Handover) Await() { h.conn.await() }

// Backlog returns how many bytes wait for a peer that does not read. More than Config.MaxQueued end the handover.
func (h *Handover) Backlog() int { return h.conn.backlog() }

// Peer is whom the peer's certificate names, nil on a connection in plain text.
func (h *Handover) Peer() *certs.Peer { return h.conn.peer }

// Context ends with the handover.
func (h *Handover) Context() context.Context { return h.stream.Context() }

// MaxWants bounds the encoded size of the first message of a Take, in bytes: a giver reads no more from a stranger.
const MaxWants = helloBytes - 1<<10

// MaxState bounds the encoded size of a message of a handover but its first one, in bytes.
const MaxState = maxMessage - 1<<10

// Taking is the taking end of a handover. One goroutine sends and one receives.
type Taking struct {
	stream linkpb.DRPCLinks_HandoverClient
	conn   *conn
	dialed *drpcconn.Conn
}

// Take opens a handover to another topic server and sends the first message. The handover ends unless Greeted is called
// within HelloTimeout, or when ctx is canceled. Take waits for the connection and its TLS handshake only.
func Take(ctx context.Context, addr string, cfg Config, first *linkpb.Wants) (*Taking, error) {
	cfg = cfg.withDefaults()
	nc, err := connect(ctx, addr, cfg.HelloTimeout)
	if err != nil {
		return nil, fmt.Errorf("link: dial topic server: %w", err)
	}
	if cfg.Connected != nil {
		cfg.Connected()
	}
	ctx, cancel := context.WithCancel(ctx)
	c := newConn(nc, cfg, cancel)
	c.unproven.Store(maxMessage) // it lists topics; the peer is one of the ring
	if err := c.secureDialed(ctx, cfg); err != nil {
		_ = c.Close()
		return nil, err
	}
	dc := drpcconn.NewWithOptions(c, drpcconn.Options{Manager: managerOptions()})
	stream, err := linkpb.NewDRPCLinksClient(dc).Handover(ctx)
	if err == nil {
		err = stream.Send(first)
	}
	if err != nil {
		err = c.ended(err)
		_ = c.Close()
		_ = dc.Close()
		return nil, fmt.Errorf("link: open handover: %w", err)
	}
	return &Taking{stream: stream, conn: c, dialed: dc}, nil
}

// Greeted is Handover.Greeted.
func (t *Taking) Greeted() { t.conn.prove() }

// Receive is Handover.Receive.
func (t *Taking) Receive() (*linkpb.Gives, error) {
	m, err := t.stream.Recv()
	return m, t.conn.ended(err)
}

// Send is Handover.Send.
func (t *Taking) Send(m *linkpb.Wants) error { return t.conn.ended(t.stream.Send(m)) }

// End ends the handover for a reason, which Receive and Send return from then on. Any goroutine may call it; it does not wait.
func (t *Taking) End(why error) { t.conn.fail(why) }

// Close ends the handover and waits for its goroutines, not for the peer. It may be called again.
func (t *Taking) Close() {
	_ = t.conn.Close()
	_ = t.dialed.Close()
	t.conn.drains.Wait()
}
