// Package ingest publishes what comes in over an AMQP 0-9-1 queue, as RabbitMQ has them.
//
// A message is acknowledged to the broker once the topic's owner has acknowledged it, so neither the loss of the broker,
// nor of the gateway, nor of a link loses one. What is delivered again is published once if it has a message id, which is
// its publish id. Messages that can never be published are rejected, for the queue's dead-letter exchange.
//
// All of a consumer belongs to the goroutine of Run. What event loops have to tell it goes through a channel with room
// for all that can be under way, so they never wait for it.
package ingest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/proto/linkpb"
)

// Config configures a Consumer. URL, Queue, Publish and Check are required.
type Config struct {
	URL     string // amqp:// or amqps://; it may hold a password and is never logged
	Queue   string // must exist unless Declare is set
	Gateway string // names the connection at the broker

	// Publish is router.Publish; Check says why a topic is not served.
	Publish func(p *linkpb.Publish, done func(router.Outcome))
	Check   func(topic string) error

	Prefetch   int           // messages under way at once; default 256
	Declare    bool          // make the queue, its dead-letter exchange and that one's queue
	MaxPayload int           // bytes; default 64 KiB
	RetryMin   time.Duration // before a publish or a connection is tried again, with jitter, doubling; default 100 ms
	RetryMax   time.Duration // default 10 s
	Drain      time.Duration // how long a stopping consumer waits for what is under way; default 5 s
	Log        *zap.Logger   // default none
}

// Consumer takes messages from one queue. Any goroutine may call Stats.
type Consumer struct {
	cfg Config

	connected                    atomic.Bool
	under                        atomic.Int64
	published, retried, rejected atomic.Uint64
	panics                       atomic.Uint64
}

// Stats counts what a consumer has done since its start.
type Stats struct {
	Connected bool   // now
	UnderWay  int64  // messages taken from the queue and neither acknowledged nor rejected, now
	Published uint64 // acknowledged
	Retried   uint64 // publishes tried again
	Rejected  uint64 // messages that cannot be published
	Panics    uint64 // each rejected one message
}

// New returns a consumer; Run starts its work. A URL that is none is an error, which does not repeat it; a broker that cannot
// be reached is not: Run tries again.
func New(cfg Config) (*Consumer, error) {
	if _, err := amqp.ParseURI(cfg.URL); err != nil {
		return nil, errors.New("want a URL like amqp://user:password@host:5672/vhost")
	}
	if cfg.Prefetch <= 0 {
		cfg.Prefetch = 256
	}
	if cfg.MaxPayload <= 0 {
		cfg.MaxPayload = 64 << 10
	}
	if cfg.RetryMin <= 0 {
		cfg.RetryMin = 100 * time.Millisecond
	}
	if cfg.RetryMax <= 0 {
		cfg.RetryMax = 10 * time.Second
	}
	if cfg.Drain <= 0 {
		cfg.Drain = 5 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	return &Consumer{cfg: cfg}, nil
}

// Stats returns the current counts.
func (c *Consumer) Stats() Stats {
	return Stats{
		Connected: c.connected.Load(), UnderWay: c.under.Load(), Published: c.published.Load(), Retried: c.retried.Load(), Rejected: c.rejected.Load(),
		Panics: c.panics.Load(),
	}
}

// Run consumes until ctx is canceled, over as many connections as it takes. Then it takes no more messages, and returns when
// those under way have their outcomes, or after Config.Drain: the broker delivers the rest again, to whoever consumes.
func (c *Consumer) Run(ctx context.Context) {
	pause := c.cfg.RetryMin
	for ctx.Err() == nil {
		consumed, err := c.connect(ctx)
		if ctx.Err() != nil {
			return
		}
		if consumed {
			pause = c.cfg.RetryMin
		}
		c.cfg.Log.Warn("no connection to the message broker; will keep trying", zap.String("queue", c.cfg.Queue), zap.Error(err))
		select {
		case <-time.After(jitter(pause)):
		case <-ctx.Done():
		}
		pause = min(2*pause, c.cfg.RetryMax)
	}
}

// jitter returns a time around d, so that gateways do not all try again at once.
func jitter(d time.Duration) time.Duration { return d/2 + mathrand.N(d) }

const dialTimeout = 5 * time.Second

// answerTimeout is how long the broker may take for all that is asked before messages come.
const answerTimeout = 30 * time.Second

// dial opens a connection whose library sees what wire lets through. nc is the connection to the broker: closing it ends all that
// waits for the broker.
func (c *Consumer) dial(ctx context.Context) (conn *amqp.Connection, nc net.Conn, err error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	plain, encrypted, err := plainURL(c.cfg.URL)
	if err != nil {
		return nil, nil, err
	}
	conn, err = amqp.DialConfig(plain, amqp.Config{
		Heartbeat: 5 * time.Second, FrameSize: maxFrame,
		Properties: amqp.Table{"connection_name": "ringcast gateway " + c.cfg.Gateway, "product": "ringcast"},
		Dial: func(network, addr string) (net.Conn, error) {
			var err error
			if nc, err = dialer.DialContext(ctx, network, addr); err != nil {
				return nil, err
			}
			if err := nc.SetDeadline(time.Now().Add(dialTimeout)); err != nil { // of the handshake; the library lifts it
				return nil, err
			}
			if encrypted != nil {
				return newWire(tls.Client(nc, encrypted), c.cfg.MaxPayload), nil
			}
			return newWire(nc, c.cfg.MaxPayload), nil
		},
	})
	return conn, nc, err
}

// connect consumes over one connection until it ends. It reports whether messages could come.
func (c *Consumer) connect(ctx context.Context) (consumed bool, err error) {
	conn, nc, err := c.dial(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.CloseDeadline(time.Now().Add(time.Second)) }()
	// The library waits for answers without an end.
	asking, answered := context.WithTimeout(ctx, answerTimeout)
	defer answered()
	unanswered := context.AfterFunc(asking, func() { _ = nc.Close() })
	ch, err := conn.Channel()
	if err != nil {
		return false, err
	}
	if c.cfg.Declare {
		if err := declare(ch, c.cfg.Queue); err != nil {
			return false, err
		}
	}
	if err := ch.Qos(c.cfg.Prefetch, 0, false); err != nil {
		return false, err
	}
	tag := "ringcast-" + c.cfg.Gateway
	deliveries, err := ch.Consume(c.cfg.Queue, tag, false, false, false, false, nil)
	if err != nil {
		return false, err
	}
	if !unanswered() {
		return false, errUnanswered
	}
	c.cfg.Log.Info("consuming from the message broker", zap.String("queue", c.cfg.Queue))
	c.connected.Store(true)
	defer c.connected.Store(false)
	r := &run{
		c: c, nc: nc, ch: ch, ctx: ctx, deliveries: deliveries,
		closed:  ch.NotifyClose(make(chan *amqp.Error, 1)),
		settled: make(chan settled, c.cfg.Prefetch),
		ended:   make(chan struct{}),
	}
	defer c.under.Store(0)
	defer close(r.ended)
	return true, r.consume(tag)
}

// declare makes what a queue needs for nothing to be lost: it survives the broker, it is consumed by one gateway at a time,
// which keeps its order, and what is rejected goes to the queue with .dead behind its name.
func declare(ch *amqp.Channel, queue string) error {
	dead := queue + ".dead"
	if err := ch.ExchangeDeclare(dead, amqp.ExchangeFanout, true, false, false, false, nil); err != nil {
		return fmt.Errorf("declare exchange %s: %w", dead, err)
	}
	if _, err := ch.QueueDeclare(dead, true, false, false, false, nil); err != nil {
		return fmt.Errorf("declare queue %s: %w", dead, err)
	}
	if err := ch.QueueBind(dead, "", dead, false, nil); err != nil {
		return fmt.Errorf("bind queue %s: %w", dead, err)
	}
	_, err := ch.QueueDeclare(queue, true, false, false, false, amqp.Table{
		"x-dead-letter-exchange": dead, "x-single-active-consumer": true,
	})
	if err != nil {
		return fmt.Errorf("declare queue %s (AMQP_DECLARE=false takes one that is there as it is): %w", queue, err)
	}
	return nil
}

// run is the consumption over one connection.
type run struct {
	c          *Consumer
	nc         net.Conn
	ch         *amqp.Channel
	ctx        context.Context
	deliveries <-chan amqp.Delivery
	closed     chan *amqp.Error
	settled    chan settled  // has room for all that is unacknowledged, which Prefetch bounds
	ended      chan struct{} // closed when the connection has ended: nothing is tried again then

	under int // way: messages neither acknowledged nor rejected
}

// settled is a message that has its outcome.
type settled struct {
	delivery amqp.Delivery
	problem  error // why it can never be published; nil if it was
}

// errUnanswered ends a connection over which the broker does not answer.
var errUnanswered = errors.New("the broker does not answer")

// errPrefetch ends a connection over which the broker delivers more at once than it was told to: settled has room for no more, and
// event loops would wait for it.
var errPrefetch = errors.New("the broker delivers more messages at once than the prefetch that it was given")

// consume handles deliveries until the connection ends, or ctx is canceled and nothing is under way.
func (r *run) consume(tag string) error {
	stop := r.ctx.Done()
	var late <-chan time.Time
	for {
		select {
		case d, ok := <-r.deliveries:
			if !ok && stop != nil {
				return r.why()
			}
			if !ok {
				r.deliveries = nil // canceled here; what is under way goes on
				continue
			}
			if r.under == r.c.cfg.Prefetch {
				return errPrefetch
			}
			r.under++
			r.c.under.Store(int64(r.under))
			r.take(d)
		case s := <-r.settled:
			if err := r.settle(s); err != nil {
				return err
			}
			if stop == nil && r.under == 0 {
				return nil
			}
		case err := <-r.closed:
			if err == nil {
				return errors.New("the connection was closed")
			}
			return err
		case <-stop:
			stop = nil
			late = time.After(r.c.cfg.Drain)
			// Canceling, and acknowledging, wait for the broker.
			defer time.AfterFunc(r.c.cfg.Drain+time.Second, func() { _ = r.nc.Close() }).Stop()
			if err := r.ch.Cancel(tag, false); err != nil || r.under == 0 {
				return err
			}
		case <-late:
			return nil
		}
	}
}

// why says why no deliveries come any more.
func (r *run) why() error {
	select {
	case err := <-r.closed:
		if err != nil {
			return err
		}
	default:
	}
	return errors.New("the broker has ended the consumption: connection lost, or queue deleted")
}

// take begins to publish a delivery.
func (r *run) take(d amqp.Delivery) {
	p, err := r.c.judge(&d)
	if err != nil {
		r.settled <- settled{d, err}
		return
	}
	r.publish(&d, p, r.c.cfg.RetryMin)
}

// publish publishes a message, again and again while it is not clear that it can never be. The publish id is the same
// each time.
func (r *run) publish(d *amqp.Delivery, p *linkpb.Publish, pause time.Duration) {
	r.c.cfg.Publish(p, func(o router.Outcome) {
		switch o.Code {
		case linkpb.Code_OK:
			r.settled <- settled{delivery: *d}
		case linkpb.Code_INVALID, linkpb.Code_TOO_LARGE, linkpb.Code_ID_REUSED, linkpb.Code_INTERNAL:
			r.settled <- settled{*d, fmt.Errorf("%s: %s", o.Code, o.Detail)}
		default:
			time.AfterFunc(jitter(pause), func() {
				select {
				case <-r.ended:
				default:
					r.c.retried.Add(1)
					r.publish(d, p, min(2*pause, r.c.cfg.RetryMax))
				}
			})
		}
	})
}

// settle tells the broker what became of a message.
func (r *run) settle(s settled) error {
	r.under--
	r.c.under.Store(int64(r.under))
	if s.problem == nil {
		r.c.published.Add(1)
		return s.delivery.Ack(false)
	}
	r.c.rejected.Add(1)
	r.c.cfg.Log.Warn("message rejected", zap.String("queue", r.c.cfg.Queue), zap.Error(s.problem))
	return s.delivery.Reject(false)
}

// newID makes a publish id up for a message that has none: it holds while the message is tried again over this connection.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
