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
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// nodesVariable lists the nodes' admin listeners for those who do not want to name them each time.
const nodesVariable = "RINGCAST_ADMIN"

// topicPage is what /debug/topic of any node says, as far as it is used here.
type topicPage struct {
	Server  string `json:"server"`  // of a topic server only
	Gateway string `json:"gateway"` // of a gateway only
	Owner   string `json:"owner"`

	Held    bool   `json:"held"`
	Epoch   string `json:"epoch"`
	Offset  uint64 `json:"offset"`
	History struct {
		First uint64 `json:"first"`
	} `json:"history"`
	Message *struct {
		Event  string `json:"event"`
		Bytes  int    `json:"bytes"`
		Binary bool   `json:"binary"`
	} `json:"message"`

	Subscription string       `json:"subscription"`
	Position     string       `json:"position"`
	Explain      *explanation `json:"explain"`
}

type explanation struct {
	Position    string         `json:"position"`
	Counts      map[string]int `json:"counts"`
	Subscribers []subscriber   `json:"subscribers"`
}

// subscriber is what became of the message on its way to one subscriber.
type subscriber struct {
	Session string     `json:"session"`
	Peer    string     `json:"peer"`
	JoinRef string     `json:"join_ref"`
	State   string     `json:"state"`
	Why     string     `json:"why"`
	Waiting int        `json:"waiting"`
	Gone    *time.Time `json:"gone"`
}

// errUnanswered ends the program with exit code 1 after what is known was printed.
var errUnanswered = errors.New("not all nodes have answered")

// runExplain asks every node what became of one message.
func runExplain(ctx context.Context, out io.Writer, args []string) error {
	fs := flag.NewFlagSet("explain", flag.ContinueOnError)
	timeout := fs.Duration("timeout", 2*time.Second, "how long to wait for a node")
	limit := fs.Int("limit", 20, "subscribers to list for each gateway, those first that have not got the message; the others are counted")
	epoch := fs.String("epoch", "", "the message's epoch, if it is not the owner's present one")
	if err := parse(fs, out, args, 2, -1, "[options] TOPIC OFFSET ADMIN-URL…\n"+
		"OFFSET is the part of a position behind the colon. Without URLs "+nodesVariable+" names the nodes, with commas between them."); err != nil {
		return err
	}
	offset, err := strconv.ParseUint(fs.Arg(1), 10, 64)
	if err != nil || offset == 0 {
		return fmt.Errorf("%w: offset %q: want a number from 1 on", errUsage, fs.Arg(1))
	}
	nodes := fs.Args()[2:]
	if len(nodes) == 0 {
		nodes = strings.FieldsFunc(os.Getenv(nodesVariable), func(r rune) bool { return r == ',' || r == ' ' })
	}
	if len(nodes) == 0 {
		return fmt.Errorf("%w: name the admin listeners of the nodes, or set %s", errUsage, nodesVariable)
	}
	query := url.Values{"name": {fs.Arg(0)}, "offset": {fs.Arg(1)}, "limit": {strconv.Itoa(*limit)}}
	if *epoch != "" {
		query.Set("epoch", *epoch)
	}
	return explain(ctx, out, nodes, query, *timeout)
}

// explain asks twice: the owner's answer says what the gateways are asked.
func explain(ctx context.Context, out io.Writer, nodes []string, query url.Values, timeout time.Duration) error {
	pages, failed := askAll(ctx, nodes, query, timeout)
	topic, offset := query.Get("name"), query.Get("offset")
	if owner := findOwner(pages); owner != nil {
		printOwner(out, owner, topic, offset)
		if !query.Has("epoch") {
			query.Set("epoch", owner.Epoch)
		}
		if owner.Message != nil {
			query.Set("binary", strconv.FormatBool(owner.Message.Binary))
		}
		var gateways []string
		for node, page := range pages {
			if page.Gateway != "" {
				gateways = append(gateways, node)
			}
		}
		var again map[string]error
		pages, again = askAll(ctx, gateways, query, timeout)
		for node, err := range again {
			failed[node] = err
		}
	} else {
		fmt.Fprintf(out, "the owner of %s is not among the nodes that answered, or does not have the topic\n", topic)
	}
	for _, node := range sortedKeys(pages) {
		printGateway(out, pages[node])
	}
	for _, node := range sortedKeys(failed) {
		fmt.Fprintf(out, "%s does not answer: %v\n", node, failed[node])
	}
	if len(failed) > 0 {
		return errUnanswered
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// findOwner returns the page of the topic server that owns the topic and has it.
func findOwner(pages map[string]*topicPage) *topicPage {
	for _, page := range pages {
		if page.Server != "" && page.Server == page.Owner && page.Held && page.Epoch != "" {
			return page
		}
	}
	return nil
}

func printOwner(out io.Writer, owner *topicPage, topic, offset string) {
	n, _ := strconv.ParseUint(offset, 10, 64)
	fmt.Fprintf(out, "%s owns %s, which is at %s:%d\n", owner.Server, topic, owner.Epoch, owner.Offset)
	switch m := owner.Message; {
	case n > owner.Offset:
		fmt.Fprintf(out, "message %s has not been published\n", offset)
	case m == nil:
		fmt.Fprintf(out, "message %s is not remembered any more\n", offset)
	default:
		fmt.Fprintf(out, "message %s: event %q, %d bytes\n", offset, m.Event, m.Bytes)
	}
}

func printGateway(out io.Writer, page *topicPage) {
	if page.Gateway == "" || page.Explain == nil {
		return
	}
	var counts []string
	total := 0
	for _, state := range []string{"written", "queued", "coming", "skipped"} {
		if n := page.Explain.Counts[state]; n > 0 {
			total += n
			counts = append(counts, fmt.Sprintf("%d %s", n, state))
		}
	}
	if total == 0 {
		fmt.Fprintf(out, "%s: no subscribers, subscription %s\n", page.Gateway, page.Subscription)
		return
	}
	fmt.Fprintf(out, "%s: %s\n", page.Gateway, strings.Join(counts, ", "))
	for _, s := range page.Explain.Subscribers {
		fmt.Fprintf(out, "  session %s", s.Session)
		if s.Peer != "" {
			fmt.Fprintf(out, " %s", s.Peer)
		}
		if s.JoinRef != "" {
			fmt.Fprintf(out, " join_ref %s", s.JoinRef)
		}
		fmt.Fprintf(out, ": %s", s.State)
		if s.Why != "" {
			fmt.Fprintf(out, ": %s", s.Why)
		}
		if s.Waiting > 0 {
			fmt.Fprintf(out, "; %d bytes wait for the client", s.Waiting)
		}
		if s.Gone != nil {
			fmt.Fprintf(out, " (%s)", s.Gone.UTC().Format(time.RFC3339))
		}
		fmt.Fprintln(out)
	}
	if more := total - len(page.Explain.Subscribers); more > 0 {
		fmt.Fprintf(out, "  and %d more\n", more)
	}
}

// askAll asks nodes at once. Each is in one of the results.
func askAll(ctx context.Context, nodes []string, query url.Values, timeout time.Duration) (pages map[string]*topicPage, failed map[string]error) {
	pages, failed = make(map[string]*topicPage), make(map[string]error)
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, node := range nodes {
		all.Go(func() {
			page := new(topicPage)
			err := getJSON(ctx, node, "/debug/topic?"+query.Encode(), timeout, page)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[node] = err
				return
			}
			pages[node] = page
		})
	}
	all.Wait()
	return pages, failed
}

// getJSON gets a page of an admin listener.
func getJSON(ctx context.Context, node, path string, timeout time.Duration, page any) error {
	if !strings.Contains(node, "://") {
		node = "http://" + node
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(node, "/")+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
		return fmt.Errorf("status %d %s", resp.StatusCode, strings.TrimSpace(string(text)))
	}
	return json.NewDecoder(io.LimitReader(resp.Body, 16<<20)).Decode(page)
}
