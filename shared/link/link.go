// Package link is one lane between a gateway and a topic server: an ordered, batched, bounded exchange of items over
// one dRPC stream of its own TCP connection.
//
// Sending is two steps. Append puts an item into the open batch; Flush sends what is there as one dRPC message from
// the caller's goroutine and never waits for the peer. Whoever handles a batch of input appends all its output first
// and flushes each lane it touched once, so batches form under load and nothing is delayed when it is quiet.
//
// Receiving is one goroutine that is always inside Receive, since dRPC notices the peer's end nowhere else. It hands
// over items in the order in which they were appended.
//
// Lock order: Sender.mu is innermost; no callback runs under it.
package link

import (
	"context"
	"fmt"
	"net"
	"time"

	"storj.io/drpc"
	"storj.io/drpc/drpcconn"
	"storj.io/drpc/drpcmanager"
	"storj.io/drpc/drpcwire"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// Protocol is the version of the link protocol that this build speaks.
const Protocol = 1

// maxMessage is the largest dRPC message that a side accepts. dRPC tells the sender of a larger one nothing, so
// batches stay below it by construction.
const maxMessage = 4 << 20

// Config bounds a lane. The zero value means the defaults.
type Config struct {
	// MaxQueued is how many bytes may wait for a peer that reads slowly; one more byte ends the lane. Default 8 MiB.
	MaxQueued int
	// WriteTimeout ends a lane whose peer takes no byte for so long. Default 5 s.
	WriteTimeout time.Duration
	// HelloTimeout ends a lane that is not greeted for so long. Default 5 s.
	HelloTimeout time.Duration
}

func (c Config) withDefaults() Config {
	if c.MaxQueued <= 0 {
		c.MaxQueued = 8 << 20
	}
	if c.WriteTimeout <= 0 {
		c.WriteTimeout = 5 * time.Second
	}
	if c.HelloTimeout <= 0 {
		c.HelloTimeout = 5 * time.Second
	}
	return c
}

func managerOptions() drpcmanager.Options {
	return drpcmanager.Options{
		WriterBufferSize: 16 << 10,
		Reader:           drpcwire.ReaderOptions{MaximumBufferSize: maxMessage},
	}
}

// Lane is one end of a lane.
type Lane struct {
	Sender

	stream drpc.Stream
	conn   *conn
	dialed *drpcconn.Conn // nil at the accepting end
}

// Dial opens a lane to a topic server and sends the hello. The first item received is the server's Welcome or
// Refusal; the lane ends unless Greeted is called within HelloTimeout. Canceling ctx ends the lane. Dial waits for
// the TCP connection only.
func Dial(ctx context.Context, addr string, cfg Config, hello *linkpb.Hello) (*Lane, error) {
	cfg = cfg.withDefaults()
	dialer := net.Dialer{Timeout: cfg.HelloTimeout, KeepAlive: 5 * time.Second}
	nc, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("link: dial topic server: %w", err)
	}
	return open(ctx, nc, cfg, hello)
}

func open(ctx context.Context, nc net.Conn, cfg Config, hello *linkpb.Hello) (*Lane, error) {
	c := newConn(nc, cfg)
	c.expectHello(cfg.HelloTimeout)
	dc := drpcconn.NewWithOptions(c, drpcconn.Options{Manager: managerOptions()})
	rpc, err := linkpb.NewDRPCLinksClient(dc).Link(ctx)
	if err != nil {
		_ = dc.Close()
		return nil, fmt.Errorf("link: open stream: %w", err)
	}
	l := &Lane{stream: rpc, conn: c, dialed: dc}
	l.init(rpc, c)
	l.Append(linkpb.KindHello, hello)
	l.Flush()
	return l, nil
}

// Greeted lifts the bounds that hold before the peer has introduced itself. It may only be called from within
// Receive.
func (l *Lane) Greeted() { l.conn.prove() }

// Receive hands every item to item until the lane ends, and calls batch after the last item of each batch. The body
// of an item is valid during the call only. Both run on the caller's goroutine, one after the other; the peer waits
// while they do. An error of item ends the lane. Receive returns why the lane ended, never nil.
func (l *Lane) Receive(item func(kind linkpb.Kind, body []byte) error, batch func()) error {
	in := &inbound{item: item, batch: batch}
	for {
		err := l.stream.MsgRecv(in, rawEncoding{})
		if err == nil {
			continue
		}
		if why := l.conn.reason(); why != nil {
			err = why
		}
		l.Close()
		return err
	}
}

// Close ends the lane at once. What is queued is lost. Any goroutine may call it, more than once.
func (l *Lane) Close() {
	_ = l.conn.Close()
	if l.dialed != nil {
		_ = l.dialed.Close()
	}
}

// RemoteAddr is the peer's network address.
func (l *Lane) RemoteAddr() string { return l.conn.RemoteAddr().String() }

// inbound is the message that MsgRecv decodes into: it handles the batch where dRPC holds it, with no copy.
type inbound struct {
	item  func(kind linkpb.Kind, body []byte) error
	batch func()
}

// outbound is the message that MsgSend encodes: a batch that is encoded already.
type outbound []byte

// rawEncoding passes encoded batches through dRPC. The bytes are those of linkpb.Up and linkpb.Down.
type rawEncoding struct{}

func (rawEncoding) Marshal(msg drpc.Message) ([]byte, error) { return *msg.(*outbound), nil }

func (rawEncoding) MarshalAppend(buf []byte, msg drpc.Message) ([]byte, error) {
	return append(buf, *msg.(*outbound)...), nil
}

func (rawEncoding) Unmarshal(buf []byte, msg drpc.Message) error {
	in := msg.(*inbound)
	if err := linkpb.EachItem(buf, in.item); err != nil {
		return err
	}
	in.batch()
	return nil
}
