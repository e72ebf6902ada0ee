package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// keyVariable names the environment variable with the API key, or the client's token, that gateways want.
const keyVariable = "RINGCAST_KEY"

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
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	if err := getWithKey(ctx, host+path, os.Getenv(keyVariable), &list); err != nil {
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

// getWithKey decodes what a GET answers. An answer that is not 200 is an error with its text.
func getWithKey(ctx context.Context, target, key string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody)
	if err != nil {
		return err
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(text)))
	}
	return json.NewDecoder(io.LimitReader(resp.Body, 16<<20)).Decode(into)
}
