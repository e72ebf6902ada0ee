package gateway

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/ringcast/ringcast/gateway/ingest"
	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/daemon"
)

// amqpURL returns the URL of the broker to take messages from, "" if there is none. Its errors do not repeat it.
func (c *Config) amqpURL() (string, error) {
	url := c.AMQPURL
	switch {
	case url != "" && c.AMQPURLFile != "":
		return "", errors.New("AMQP_URL: AMQP_URL_FILE is set too: want one of them")
	case c.AMQPURLFile != "":
		text, err := daemon.ReadPrivateFile("AMQP_URL_FILE", c.AMQPURLFile)
		if err != nil {
			return "", err
		}
		if url = strings.TrimSpace(string(text)); url == "" {
			return "", errors.New("AMQP_URL_FILE: the file is empty")
		}
	}
	switch {
	case url == "" && c.AMQPQueue != "":
		return "", errors.New("AMQP_QUEUE: AMQP_URL or AMQP_URL_FILE is not set")
	case url != "" && c.AMQPQueue == "":
		return "", errors.New("AMQP_QUEUE is required with AMQP_URL")
	}
	if url != "" {
		if _, err := ingest.New(ingest.Config{URL: url}); err != nil {
			return "", fmt.Errorf("AMQP_URL: %w", err)
		}
	}
	return url, nil
}

// newIngest returns what takes messages from a broker, nil if there is none.
func (g *Gateway) newIngest() (*ingest.Consumer, error) {
	url, err := g.cfg.amqpURL()
	if err != nil || url == "" {
		return nil, daemon.ConfigError(err)
	}
	return ingest.New(ingest.Config{
		URL: url, Queue: g.cfg.AMQPQueue, Gateway: g.cfg.ID, Publish: g.publishIngested, Check: g.topics.Check,
		Prefetch: g.cfg.AMQPPrefetch, Declare: g.cfg.AMQPDeclare, MaxPayload: g.cfg.MaxMessage, Drain: g.cfg.StopTimeout, Log: g.log,
	})
}

// publishIngested publishes a message of the broker's. One that is not admitted now is tried again later, like one whose
// owner is busy; since only so many are under way at once, that stops the queue for a while and loses nothing.
func (g *Gateway) publishIngested(p *linkpb.Publish, done func(router.Outcome)) {
	if r := g.gate.Publish(); r.Refused() {
		done(router.Outcome{Code: linkpb.Code_OVERLOADED, Detail: r.String()})
		return
	}
	g.router.Publish(p, done)
}

// startIngest begins to take messages from the broker, if there is one. stop ends that and returns when what is under way
// has its outcomes, which the links are needed for; it may be called again.
func (g *Gateway) startIngest(ctx context.Context) (stop func()) {
	if g.ingest == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { g.ingest.Run(ctx) })
	return func() {
		cancel()
		wg.Wait()
	}
}

// ingestStats returns the counts of the consumer, zeros if there is none.
func (g *Gateway) ingestStats() ingest.Stats {
	if g.ingest == nil {
		return ingest.Stats{}
	}
	return g.ingest.Stats()
}

// registerIngest exposes the counts of the consumer.
func (g *Gateway) registerIngest(gauge, counter func(name, help string, value func() float64)) {
	gauge("ingest_connected", "1 while messages are taken from the AMQP broker.", func() float64 {
		if g.ingestStats().Connected {
			return 1
		}
		return 0
	})
	gauge("ingest_under_way", "Messages of the AMQP queue that are being published, now.",
		func() float64 { return float64(g.ingestStats().UnderWay) })
	counter("ingest_published_total", "Messages of the AMQP queue published and acknowledged.",
		func() float64 { return float64(g.ingestStats().Published) })
	counter("ingest_retried_total", "Publishes of messages of the AMQP queue that were tried again.",
		func() float64 { return float64(g.ingestStats().Retried) })
	counter("ingest_rejected_total", "Messages of the AMQP queue rejected, for its dead-letter exchange.",
		func() float64 { return float64(g.ingestStats().Rejected) })
}
