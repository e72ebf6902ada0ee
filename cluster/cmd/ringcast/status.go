package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/ringcast/ringcast/shared/daemon"
)

// errDown ends the program with exit code 1 after it was printed which nodes are not running.
var errDown = errors.New("not all nodes are running")

// node is a node's status, or why there is none.
type node struct {
	URL string `json:"url"`
	*daemon.Status
	Error string `json:"error,omitempty"`
}

// nodeURLs returns the admin listeners that a command is about: its arguments, or those of the environment.
func nodeURLs(args []string) ([]string, error) {
	if len(args) == 0 {
		args = strings.FieldsFunc(os.Getenv(nodesVariable), func(r rune) bool { return r == ',' || r == ' ' })
	}
	if len(args) == 0 {
		return nil, fmt.Errorf("%w: name the admin listeners of the nodes, or set %s", errUsage, nodesVariable)
	}
	return args, nil
}

// askStatus asks all nodes at once. The answers stand in the order of the URLs.
func askStatus(ctx context.Context, urls []string, timeout time.Duration) (nodes []node, down int) {
	nodes = make([]node, len(urls))
	var all sync.WaitGroup
	for i, url := range urls {
		all.Go(func() {
			status := new(daemon.Status)
			err := getJSON(ctx, url, "/status", timeout, status)
			if err == nil {
				err = checkNode(&status.Ring)
			}
			if err != nil {
				nodes[i] = node{URL: url, Error: err.Error()}
				return
			}
			nodes[i] = node{URL: url, Status: status}
		})
	}
	all.Wait()
	for _, n := range nodes {
		if n.Status == nil {
			down++
		}
	}
	return nodes, down
}

// runStatus prints what each node says of itself. It fails if a node does not answer.
func runStatus(ctx context.Context, out io.Writer, args []string) error {
	fs := flag.NewFlagSet("status", flag.ContinueOnError)
	timeout := fs.Duration("timeout", 2*time.Second, "how long to wait for a node")
	asJSON := fs.Bool("json", false, "print an array of JSON objects instead of a table")
	if err := parse(fs, out, optionsFirst(fs, args), 0, -1, "[options] ADMIN-URL…"); err != nil {
		return err
	}
	urls, err := nodeURLs(fs.Args())
	if err != nil {
		return err
	}
	nodes, down := askStatus(ctx, urls, *timeout)
	if *asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		err = enc.Encode(nodes)
	} else {
		err = printStatus(out, nodes)
	}
	if err == nil && down > 0 {
		err = errDown
	}
	return err
}

func printStatus(out io.Writer, nodes []node) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NODE\tROLE\tREADY\tRING\tLANES\tTOPICS\tSESSIONS\tSUBSCRIBERS\tBUILD")
	for _, n := range nodes {
		if n.Status == nil {
			fmt.Fprintf(table, "%s\tNode is not running! (%s)\n", n.URL, n.Error)
			continue
		}
		ready, sessions := "yes", "-"
		if !n.Ready {
			ready = "no: " + strings.ReplaceAll(n.Why, "\n", "; ")
		}
		if n.Ring.Role == "gateway" {
			sessions = fmt.Sprint(n.Sessions)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\tv%d %s\t%d\t%d\t%s\t%d\t%s\n",
			n.Ring.ID, n.Ring.Role, ready, n.Ring.Version, ringNotes(&n), n.Lanes, n.Topics, sessions, n.Subscribers, n.Build)
	}
	return table.Flush()
}

// ringNotes says what an operator should know of a node's ring: that it is well, or not.
func ringNotes(n *node) string {
	var notes []string
	if n.Ring.FileFailed {
		notes = append(notes, "file failed")
	}
	if n.Ring.FileStale {
		notes = append(notes, "file stale")
	}
	if n.Ring.Pending > 0 {
		notes = append(notes, fmt.Sprintf("%d topics on their way", n.Ring.Pending))
	}
	if len(notes) == 0 {
		return "ok"
	}
	return strings.Join(notes, ", ")
}

// runPing asks one node whether it runs.
func runPing(ctx context.Context, out io.Writer, args []string) error {
	fs := flag.NewFlagSet("ping", flag.ContinueOnError)
	timeout := fs.Duration("timeout", 2*time.Second, "how long to wait for the node")
	if err := parse(fs, out, optionsFirst(fs, args), 1, 1, "[-timeout DURATION] ADMIN-URL"); err != nil {
		return err
	}
	if _, down := askStatus(ctx, fs.Args(), *timeout); down > 0 {
		fmt.Fprintln(out, "Node is not running!")
		return errDown
	}
	fmt.Fprintln(out, "pong")
	return nil
}

// runTop prints the nodes again and again with what they do each second, the busiest first.
func runTop(ctx context.Context, out io.Writer, args []string) error {
	fs := flag.NewFlagSet("top", flag.ContinueOnError)
	every := fs.Duration("every", 2*time.Second, "between two looks")
	times := fs.Int("n", 0, "end after so many looks; 0 is never")
	if err := parse(fs, out, optionsFirst(fs, args), 0, -1, "[options] ADMIN-URL…"); err != nil {
		return err
	}
	if *every < 100*time.Millisecond {
		return fmt.Errorf("%w: -every %v: want at least 100ms", errUsage, *every)
	}
	urls, err := nodeURLs(fs.Args())
	if err != nil {
		return err
	}
	tick := time.NewTicker(*every)
	defer tick.Stop()
	before, _ := askStatus(ctx, urls, *every)
	last := time.Now()
	for look := 1; ; look++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, _ := askStatus(ctx, urls, *every)
		if err := printTop(out, rank(before, now, time.Since(last))); err != nil || look == *times {
			return err
		}
		before, last = now, time.Now()
	}
}
