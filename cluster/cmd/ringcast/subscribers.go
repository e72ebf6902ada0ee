package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"time"
)

// runSubscribers asks a gateway who has joined a topic.
func runSubscribers(ctx context.Context, out io.Writer, args []string) error {
	fs := flag.NewFlagSet("subscribers", flag.ContinueOnError)
	limit := fs.Int("limit", 1000, "print so many at most")
	count := fs.Bool("count", false, "print only how many there are")
	timeout := fs.Duration("timeout", 10*time.Second, "give up after this long")
	if err := parse(fs, out, optionsFirst(fs, args), 2, 2, "URL TOPIC [-limit N] [-count]"); err != nil {
		return err
	}
	host, path, err := subscribersPage(fs.Arg(0), fs.Arg(1), *limit, *count)
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	var list struct {
		Count       uint64
		Subscribers []struct{ ID, Gateway string }
	}
	if err := getJSON(ctx, host, path, *timeout, &list); err != nil {
		return err
	}
	if *count {
		fmt.Fprintln(out, list.Count)
		return nil
	}
	for _, s := range list.Subscribers {
		fmt.Fprintf(out, "%s\t%s\n", s.Gateway, s.ID)
	}
	if shown := uint64(len(list.Subscribers)); shown < list.Count {
		fmt.Fprintf(out, "… %d of %d\n", shown, list.Count)
	}
	return nil
}

// subscribersPage is where the gateway with that socket URL lists the topic's subscribers.
func subscribersPage(socket, topic string, limit int, count bool) (host, path string, err error) {
	u, err := url.Parse(socket)
	if err != nil {
		return "", "", err
	}
	scheme, ok := map[string]string{"ws": "http", "wss": "https", "http": "http", "https": "https"}[u.Scheme]
	switch {
	case !ok || u.Host == "":
		return "", "", fmt.Errorf("%q: want a gateway's socket, such as ws://127.0.0.1:4000/socket", socket)
	case limit < 0:
		return "", "", errors.New("limit below 0")
	}
	query := fmt.Sprintf("limit=%d", limit)
	if count {
		query = "count=true"
	}
	return scheme + "://" + u.Host, fmt.Sprintf("/api/topics/%s/subscribers?%s", url.PathEscape(topic), query), nil
}
