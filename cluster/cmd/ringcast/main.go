// Command ringcast runs, uses and inspects ringcast clusters.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// errUsage ends the program with exit code 2.
var errUsage = errors.New("usage")

// command is one subcommand. Its run gets what stands behind its name, and a context that the first interrupt cancels.
type command struct {
	name, args, help string
	run              func(ctx context.Context, out io.Writer, args []string) error
}

var commands = []command{
	{"dev", "", "run a cluster of 2 topic servers and 2 gateways in this process", runDev},
	{"sub", "URL TOPIC", "join a topic and print its messages, one JSON object a line", runSub},
	{"pub", "URL TOPIC EVENT JSON", "publish one message", runPub},
	{"explain", "TOPIC OFFSET ADMIN-URL…", "tell what became of a message at each subscriber", runExplain},
	{"status", "ADMIN-URL…", "print version, ring, links, topics and sessions of each node", runStatus},
	{"top", "ADMIN-URL…", "print what the nodes do, again and again, the busiest first", runTop},
	{"ping", "ADMIN-URL", "ask a node whether it runs", runPing},
	{"subscribers", "URL TOPIC [-limit N]", "print who has joined a topic, on all gateways, one gateway and id a line", runSubscribers},
	{"ring ready", "ADMIN-URL…", "ask all nodes whether they use the same ring", runRingReady},
	{"ring check", "FILE", "check a ring file", runRingCheck},
	{"ring owner", "FILE TOPIC…", "print the owner of each topic", runRingOwner},
	{"ring add", "FILE ID ADDR [-weight N]", "add a server to a ring file", runRingAdd},
	{"ring remove", "FILE ID [-force]", "remove a server from a ring file", runRingRemove},
	{"ring salt", "FILE [-force]", "put a new secret salt into a ring file: nearly all topics move", runRingSalt},
	{"certs", "DIR [-id ID]… [-host NAME]…", "make a certificate authority for links, and certificates", runCerts},
	{"verify", "", "run a cluster under faults and prove that nothing is lost in silence", runVerify},
	{"bench idle", "", "measure the memory of idle joined connections", runBenchIdle},
	{"bench fanout", "", "measure deliveries of one topic to many subscribers", runBenchFanout},
	{"bench fanout-wide", "", "the same with more subscribers and fewer messages", runBenchFanoutWide},
	{"bench rooms", "", "measure deliveries of many small topics", runBenchRooms},
	{"bench flood", "", "measure deliveries of one topic, published to as fast as it goes", runBenchFlood},
	{"bench stalled", "", "measure what a client that does not read costs the others", runBenchStalled},
	{"bench storm", "", "measure ten thousand clients that come all at once", runBenchStorm},
	{"bench churn", "", "measure connections that come, join, leave and go", runBenchChurn},
	{"bench all", "", "run all of these", runBenchAll},
	{"bench goals", "", "run those that have goals beside the floor, and say which are met: seven minutes", runBenchGoals},
	{"bench floor-server", "", "run the relay that --floor compares with", runBenchFloorServer},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks, the second one kills.
	context.AfterFunc(ctx, stop)
	err := run(ctx, printer{os.Stdout}, os.Args[1:])
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		fmt.Fprintln(stderr, "ringcast:", err)
		os.Exit(2)
	default:
		fmt.Fprintln(stderr, "ringcast:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, args []string) error {
	if len(args) == 0 || slices.Contains([]string{"help", "-h", "-help", "--help"}, args[0]) {
		usage(out)
		return nil
	}
	for _, c := range commands {
		words := strings.Fields(c.name)
		if len(args) >= len(words) && slices.Equal(args[:len(words)], words) {
			return c.run(ctx, out, args[len(words):])
		}
	}
	return fmt.Errorf("%w: no command %q; see ringcast help", errUsage, strings.Join(args, " "))
}

func usage(out io.Writer) {
	fmt.Fprintln(out, "usage: ringcast COMMAND [options] [arguments]")
	fmt.Fprintln(out)
	for _, c := range commands {
		fmt.Fprintf(out, "  %-32s %s\n", strings.TrimSpace(c.name+" "+c.args), c.help)
	}
	fmt.Fprintln(out, "\nURL is a gateway's socket, such as ws://127.0.0.1:4000/socket. COMMAND -h shows its options.")
}

// parse parses the options of a command and checks the number of arguments; max < 0 means any number.
func parse(fs *flag.FlagSet, out io.Writer, args []string, min, max int, shape string) error {
	fs.SetOutput(out)
	fs.Usage = func() {
		fmt.Fprintf(out, "usage: ringcast %s %s\n", fs.Name(), shape)
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if n := fs.NArg(); n < min || max >= 0 && n > max {
		return fmt.Errorf("%w: ringcast %s %s", errUsage, fs.Name(), shape)
	}
	return nil
}
