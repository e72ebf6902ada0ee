package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ringcast/ringcast/shared/ring"
)

// errNotReady ends the program with exit code 1 after the verdict was printed.
var errNotReady = errors.New("the nodes do not agree")

// runRingReady asks each node, by the URL of its admin listener, which ring it uses.
func runRingReady(ctx context.Context, out io.Writer, args []string) error {
	fs := flag.NewFlagSet("ring ready", flag.ContinueOnError)
	timeout := fs.Duration("timeout", 5*time.Second, "how long to wait for a node")
	if err := parse(fs, out, args, 1, -1, "[-timeout DURATION] ADMIN-URL…"); err != nil {
		return err
	}
	var nodes []ring.Status
	var down []string
	for _, url := range fs.Args() {
		status, err := ringStatus(ctx, url, *timeout)
		if err != nil {
			down = append(down, fmt.Sprintf("%s (%v)", url, err))
			continue
		}
		nodes = append(nodes, status)
	}
	verdict, ok := judgeRings(nodes, down)
	fmt.Fprintln(out, verdict)
	if !ok {
		return errNotReady
	}
	return nil
}

func ringStatus(ctx context.Context, url string, timeout time.Duration) (status ring.Status, err error) {
	if err := getJSON(ctx, url, "/ring", timeout, &status); err != nil {
		return status, err
	}
	return status, checkNode(&status)
}

// checkNode returns an error for an answer that is JSON and none of a node: of another program at that address, most likely, which
// must not pass for a node that agrees.
func checkNode(s *ring.Status) error {
	if s.ID == "" || s.Version == 0 {
		return errors.New("what answers is no node of ringcast")
	}
	return nil
}

// judgeRings says whether all nodes use one ring and no topic is on its way any more, in the words of WEST's ringready and
// what there is to add to them.
func judgeRings(nodes []ring.Status, down []string) (verdict string, ok bool) {
	switch {
	case len(nodes) == 0 && len(down) == 1:
		return "Node is not running! " + down[0], false
	case len(down) > 0:
		return fmt.Sprintf("FALSE [%s] down.  All nodes need to be up to check.", strings.Join(down, ", ")), false
	}
	first := nodes[0]
	for _, n := range nodes[1:] {
		if n.Version != first.Version || n.Content != first.Content {
			return fmt.Sprintf("FALSE Node %s and %s list different partition owners: ring v%d (%s) and ring v%d (%s)",
				first.ID, n.ID, first.Version, first.Content, n.Version, n.Content), false
		}
	}
	for _, n := range nodes {
		if n.Pending > 0 {
			return fmt.Sprintf("FALSE Node %s has %d topics that ring v%d gives to others", n.ID, n.Pending, n.Version), false
		}
	}
	return fmt.Sprintf("TRUE All nodes agree on the ring [%s] v%d", strings.Join(first.Servers, ", "), first.Version), true
}
