package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/ringcast/ringcast/client"
)

func runSub(ctx context.Context, out io.Writer, args []string) error {
	fs := flag.NewFlagSet("sub", flag.ContinueOnError)
	count := fs.Int("n", 0, "end after so many messages; 0 means never")
	if err := parse(fs, out, args, 2, 2, "[-n COUNT] URL TOPIC"); err != nil {
		return err
	}
	c, err := client.Dial(ctx, fs.Arg(0), client.Config{OnState: func(s client.State, err error) {
		if s == client.StateDisconnected {
			fmt.Fprintln(stderr, "ringcast: connection lost; reconnecting:", err)
		}
	}})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()

	enough := make(chan struct{})
	seen := 0
	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)
	ch := c.Channel(fs.Arg(1), nil)
	ch.OnAny(func(m client.Message) {
		if seen++; *count > 0 && seen > *count {
			return
		}
		_ = lines.Encode(struct {
			Topic   string          `json:"topic"`
			Event   string          `json:"event"`
			Payload json.RawMessage `json:"payload"`
		}{m.Topic, m.Event, m.Payload})
		if seen == *count {
			close(enough)
		}
	})
	if err := ch.Join(ctx); err != nil {
		return err
	}
	fmt.Fprintln(stderr, "ringcast: joined", fs.Arg(1))
	select {
	case <-ctx.Done():
	case <-enough:
	}
	return nil
}

func runPub(ctx context.Context, out io.Writer, args []string) error {
	fs := flag.NewFlagSet("pub", flag.ContinueOnError)
	timeout := fs.Duration("timeout", 10*time.Second, "give up after this long")
	if err := parse(fs, out, args, 4, 4, "[-timeout DURATION] URL TOPIC EVENT JSON"); err != nil {
		return err
	}
	payload := json.RawMessage(fs.Arg(3))
	if !json.Valid(payload) {
		return fmt.Errorf("%w: %q is not JSON", errUsage, payload)
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	c, err := client.Dial(ctx, fs.Arg(0), client.Config{})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	// A publish goes through a channel, so the topic is joined for the moment.
	ch, err := c.Join(ctx, fs.Arg(1), nil)
	if err != nil {
		return err
	}
	return ch.Publish(ctx, fs.Arg(2), payload)
}
