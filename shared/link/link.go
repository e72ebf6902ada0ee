// Package link is one lane between a gateway and a topic server: an ordered, batched, bounded exchange of items over
// one dRPC stream of its own TCP connection.
//
// Sending is two steps. Append puts an item into the open batch; Flush sends what is there as one dRPC message from
// the caller's goroutine and never waits for the peer. Whoever handles a batch of input appends all its output first
// and flushes each lane it touched once, so batches form under load and nothing is delayed when it is quiet.
//
// Receiving is one goroutine that is always inside Receive, since dRPC notices the peer's end nowhere else. Items are
// handed over in the order in which they were appended.
//
// A greeted lane lives as long as its peer sends something now and then. Nothing here does so by itself: those who use a
// lane ping and answer pings.
//
// Lock order: Sender.mu, then conn.mu. Neither is held while a callback runs or a peer is waited for.
package link

import (
	"context"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"storj.io/drpc"
	"storj.io/drpc/drpcconn"
	"storj.io/drpc/drpcmanager"
	"storj.io/drpc/drpcstream"
	"storj.io/drpc/drpcwire"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/certs"
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
	// Silence ends a greeted lane whose peer sends nothing for so long. Gateways ping, topic servers answer. Default 3 s.
	Silence time.Duration
	// HelloTimeout ends a lane that is not greeted for so long. Default 5 s.
	HelloTimeout time.Duration
	// Identity encrypts links, and proves to each end who the other one is. Nil means plain text, which only peers on the
	// same host may use unless Insecure is set.
	Identity *certs.Identity
	Insecure bool // plain text is allowed between hosts; it means nothing beside an Identity
	// Server is, for those who dial, the id that the peer's certificate must have.
	Server string
	// Connected, if set, is called by Take when there is a connection, of which nothing is known but that. With an Identity the
	// peer has still to prove who it is.
	Connected func()
}

func (c Config) withDefaults() Config {
	if c.MaxQueued <= 0 {
		c.MaxQueued = 8 << 20
	}
	if c.WriteTimeout <= 0 {
		c.WriteTimeout = 5 * time.Second
	}
	if c.Silence <= 0 {
		c.Silence = 3 * time.Second
	}
	if c.HelloTimeout <= 0 {
		c.HelloTimeout = 5 * time.Second
	}
	return c
}

// SameCluster reports whether processes with these names for their cluster may link. Without a name a process fits any, as those do
// that were built before there were names.
func SameCluster(a, b string) bool { return a == "" || b == "" || a == b }

// SilenceAllowed returns for how long nothing was heard of a peer when its lane ends with ErrSilentPeer.
func (c Config) SilenceAllowed() time.Duration { return c.withDefaults().Silence }

// managerOptions leaves ManualFlush alone: a stream that both ends use at once deadlocks with it, since its MsgRecv
// flushes first. Batches spare the same system calls.
func managerOptions() drpcmanager.Options {
	return drpcmanager.Options{
		WriterBufferSize: 16 << 10,
		Reader:           drpcwire.ReaderOptions{MaximumBufferSize: maxMessage},
		Stream:           drpcstream.Options{MaximumBufferSize: 2 * maxBatch},
	}
}

// Lane is one end of a lane.
type Lane struct {
	Sender

	stream drpc.Stream
	conn   *conn
	dialed *drpcconn.Conn // nil at the accepting end, where Serve has its part

	in *inbound // of Receive
}

// Dial opens a lane to a topic server and sends the hello. The first item received is the server's Welcome or
// Refusal; the lane ends unless Greeted is called within HelloTimeout. Canceling ctx ends the lane. Dial waits for
// the connection and its TLS handshake only, within HelloTimeout each. The caller calls Receive, or Close if it does not want to.
func Dial(ctx context.Context, addr string, cfg Config, hello *linkpb.Hello) (*Lane, error) {
	cfg = cfg.withDefaults()
	nc, err := connect(ctx, addr, cfg.HelloTimeout)
	if err != nil {
		return nil, fmt.Errorf("link: dial topic server: %w", err)
	}
	return open(ctx, nc, cfg, hello)
}

func open(ctx context.Context, nc net.Conn, cfg Config, hello *linkpb.Hello) (*Lane, error) {
	ctx, cancel := context.WithCancel(ctx)
	c := newConn(nc, cfg, cancel)
	if err := c.secureDialed(ctx, cfg); err != nil {
		_ = c.Close()
		return nil, err
	}
	dc := drpcconn.NewWithOptions(c, drpcconn.Options{Manager: managerOptions()})
	rpc, err := linkpb.NewDRPCLinksClient(dc).Link(ctx)
	if err != nil {
		_ = dc.Close()
		if why := c.reason(); why != nil {
			err = why
		}
		return nil, fmt.Errorf("link: open lane: %w", err)
	}
	l := &Lane{stream: rpc, conn: c, dialed: dc}
	l.init(rpc, c)
	l.Append(linkpb.KindHello, hello)
	l.Flush()
	return l, nil
}

// Greeted lifts the bounds that hold before the peer has introduced itself. It may only be called from within
// Receive.
func (l *Lane) Greeted() {
	l.conn.prove()
	l.conn.intake.in = l.in
}

// Refuse answers a Hello with a Refusal. The lane is not closed at once, which could take the Refusal from the peer:
// the peer closes it when it has read that, and the bounds that hold before Greeted close it otherwise. The caller
// ignores whatever item still comes. It may only be called from within Receive, at the accepting end.
func (l *Lane) Refuse(code linkpb.Code, detail string) {
	l.conn.refused = true
	l.Append(linkpb.KindRefusal, &linkpb.Refusal{Code: code, Detail: detail})
	l.Flush()
}

// Receive hands every item to item until the lane ends, and calls batch after the last item of each batch. The body
// of an item is valid during the call only. Both run one after the other, on the caller's goroutine until Greeted and
// on dRPC's afterwards, always within Receive; the peer waits while they do. An error of item ends the lane, and batch
// is not called for that batch.
//
// Receive returns why the lane ended, never nil: the error of item, ErrSlowPeer, ErrNotGreeted, io.EOF if the peer
// closed the lane, net.ErrClosed after Close, ctx's error if the ctx of Dial or Serve was canceled, each perhaps
// wrapped; or whatever else befell the connection. A panic of item or batch ends the lane and goes on in the caller of Receive.
func (l *Lane) Receive(item func(kind linkpb.Kind, body []byte) error, batch func()) error {
	in := &inbound{item: item, batch: batch}
	l.in = in
	for {
		err := l.stream.MsgRecv(in, rawEncoding{})
		if err == nil {
			continue
		}
		l.conn.fail(err) // an earlier reason stays
		if why := l.conn.reason(); why != nil {
			err = why
		}
		l.Close()
		in.end()
		l.join()
		if in.panicked != nil {
			panic(in.panicked)
		}
		return err
	}
}

// Close ends the lane at once. What is queued is lost. Any goroutine may call it, more than once; it does not wait.
func (l *Lane) Close() { l.conn.fail(errClosed) }

var errClosed = fmt.Errorf("link: lane closed: %w", net.ErrClosed)

// join waits for the goroutines of a closed lane. They may wait for the receiver, so it is for the receiver to call.
func (l *Lane) join() {
	if l.dialed != nil {
		_ = l.dialed.Close()
	}
	l.conn.drains.Wait()
}

// RemoteAddr is the peer's network address.
func (l *Lane) RemoteAddr() string { return l.conn.RemoteAddr().String() }

// Peer is whom the peer's certificate names, nil on a lane in plain text. At the accepting end only.
func (l *Lane) Peer() *certs.Peer { return l.conn.peer }

// inbound is the message that MsgRecv decodes into, and what takes the messages that pass it by: it handles each batch
// where it was read, with no copy.
type inbound struct {
	item  func(kind linkpb.Kind, body []byte) error
	batch func()

	mu       sync.Mutex // held while a batch is handled
	ended    bool
	panicked *handlerPanic
}

// take handles one batch on dRPC's reader goroutine. Receive may be on its way out meanwhile: then it either waits for
// this batch or this batch is not handled.
func (in *inbound) take(buf []byte) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.ended {
		return errClosed
	}
	return in.handle(buf)
}

// end returns when no batch is being handled, and none will be.
func (in *inbound) end() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.ended = true
}

// handlerPanic carries a panic past dRPC.
type handlerPanic struct {
	value any
	stack []byte
}

func (p *handlerPanic) Error() string { return fmt.Sprintf("%v\n\n%s", p.value, p.stack) }

// handle handles one batch. dRPC waits for ever for a decoder that panics, and so would everybody who waits for the
// lane to end: the panic is caught here and goes on when MsgRecv has returned.
func (in *inbound) handle(buf []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			in.panicked = &handlerPanic{value: p, stack: debug.Stack()}
			err = fmt.Errorf("link: handler panicked: %v", p)
		}
	}()
	if err := linkpb.EachItem(buf, in.item); err != nil {
		return err
	}
	in.batch()
	return nil
}

// outbound is the message that MsgSend encodes: a batch that is encoded already.
type outbound []byte

// rawEncoding passes encoded batches through dRPC. The bytes are those of linkpb.Up and linkpb.Down.
type rawEncoding struct{}

func (rawEncoding) Marshal(msg drpc.Message) ([]byte, error) { return *msg.(*outbound), nil }

func (rawEncoding) MarshalAppend(buf []byte, msg drpc.Message) ([]byte, error) {
	return append(buf, *msg.(*outbound)...), nil
}

func (rawEncoding) Unmarshal(buf []byte, msg drpc.Message) error { return msg.(*inbound).handle(buf) }
