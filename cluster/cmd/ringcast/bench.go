package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/ringcast/ringcast/cluster/bench"
)

func runBenchIdle(ctx context.Context, out io.Writer, args []string) error {
	return runBench(ctx, out, args, "idle")
}

func runBenchFanout(ctx context.Context, out io.Writer, args []string) error {
	return runBench(ctx, out, args, "fanout")
}

func runBenchFanoutWide(ctx context.Context, out io.Writer, args []string) error {
	return runBench(ctx, out, args, "fanout-wide")
}

func runBenchRooms(ctx context.Context, out io.Writer, args []string) error {
	return runBench(ctx, out, args, "rooms")
}

func runBenchFlood(ctx context.Context, out io.Writer, args []string) error {
	return runBench(ctx, out, args, "flood")
}

func runBenchStalled(ctx context.Context, out io.Writer, args []string) error {
	return runBench(ctx, out, args, "stalled")
}

func runBenchStorm(ctx context.Context, out io.Writer, args []string) error {
	return runBench(ctx, out, args, "storm")
}

func runBenchChurn(ctx context.Context, out io.Writer, args []string) error {
	return runBench(ctx, out, args, "churn")
}

func runBenchAll(ctx context.Context, out io.Writer, args []string) error {
	return runBench(ctx, out, args, "all")
}

// errBenchFaults ends a benchmark whose report says what is wrong.
var errBenchFaults = errors.New("bench: the servers lost, doubled or reordered messages, or refused something: see the report")

// runBench measures one load, or all of them.
func runBench(ctx context.Context, out io.Writer, args []string, name string) error {
	b := newBenchFlags(name)
	if err := parse(b.set, out, args, 0, 0, "[options]"); err != nil {
		return err
	}
	cfg, err := b.config()
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	for _, load := range b.loads {
		if err := load.Validate(); err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
	}
	if len(cfg.URLs) == 0 && cfg.BinDir == "" {
		fmt.Fprintln(cfg.Progress, "building the servers …")
		if cfg.BinDir, err = bench.Build(ctx); err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(cfg.BinDir) }()
	}
	var reports []*bench.Report
	var faults bool
	for _, load := range b.loads {
		cfg.Load = *load
		report, err := bench.Measure(ctx, cfg)
		if err != nil {
			return err
		}
		reports = append(reports, report)
		faults = faults || report.Faults().Any()
		if !b.json {
			if err := report.WriteText(out); err != nil {
				return err
			}
		}
	}
	if b.json {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(map[string]any{"reports": reports}); err != nil {
			return err
		}
	}
	if faults {
		return errBenchFaults
	}
	return nil
}

// benchFlags are the options of a bench command.
type benchFlags struct {
	set   *flag.FlagSet
	loads []*bench.Load

	runs, gateways, topicServers int
	bin, urls, pids              string
	floor, coalesce, json        bool
}

// newBenchFlags returns the options for the load with the name. Those that change the load itself are not there for
// "all".
func newBenchFlags(name string) *benchFlags {
	b := &benchFlags{set: flag.NewFlagSet("bench "+name, flag.ContinueOnError)}
	for _, load := range bench.Loads() {
		if name == "all" || load.Name == name {
			b.loads = append(b.loads, &load)
		}
	}
	b.set.IntVar(&b.runs, "runs", 1, "measure so often and print medians")
	b.set.StringVar(&b.bin, "bin", "", "directory of the binaries gateway and topicserver; default: build them")
	b.set.IntVar(&b.gateways, "gateways", 2, "gateways to start")
	b.set.IntVar(&b.topicServers, "topicservers", 2, "topic servers to start")
	b.set.StringVar(&b.urls, "url", "", "comma-separated ws:// URLs of running gateways to measure instead")
	b.set.StringVar(&b.pids, "pids", "", "with --url, comma-separated process ids of all gateways and topic servers")
	b.set.BoolVar(&b.floor, "floor", false, "also measure a relay that does the least a server can, and compare")
	b.set.BoolVar(&b.coalesce, "coalesce", false, "with --floor, the relay writes what one round has for a client at once")
	b.set.BoolVar(&b.json, "json", false, "print one JSON object")
	if len(b.loads) == 1 {
		b.loadFlags(b.loads[0])
	}
	return b
}

// loadFlags defines the options that change the load.
func (b *benchFlags) loadFlags(l *bench.Load) {
	b.set.IntVar(&l.Connections, "connections", l.Connections, "connections, over all topics and gateways; for churn those on their way at a time")
	b.set.IntVar(&l.Topics, "topics", l.Topics, "topics that the connections join in turn")
	b.set.DurationVar(&l.Duration, "duration", l.Duration, "how long to measure; for idle how long memory may take to settle")
	if l.Kind == bench.Storm {
		b.set.IntVar(&l.Established, "established", l.Established, "connections that are there when the others come, and whose messages are timed")
	}
	if l.Kind == bench.Stalled {
		b.set.IntVar(&l.Pairs, "pairs", l.Pairs, "phases with full sockets, each of --duration, and as many without")
	}
	if l.Kind == bench.Publish || l.Kind == bench.Stalled || l.Kind == bench.Storm {
		b.set.IntVar(&l.Publishers, "publishers", l.Publishers, "connections of each topic that publish")
		b.set.Float64Var(&l.Rate, "rate", l.Rate, "publishes per second in total; 0 means as fast as it goes")
		b.set.IntVar(&l.Window, "window", max(l.Window, 64), "with --rate 0, publishes that each publisher has unanswered")
		b.set.IntVar(&l.Payload, "payload", l.Payload, "bytes of payload")
	}
}

// config returns what the options say, but for the load.
func (b *benchFlags) config() (bench.Config, error) {
	cfg := bench.Config{
		Runs: b.runs, BinDir: b.bin, Gateways: b.gateways, TopicServers: b.topicServers, Progress: os.Stderr,
	}
	if b.runs < 1 {
		return cfg, fmt.Errorf("--runs %d: want at least 1", b.runs)
	}
	if b.urls != "" {
		cfg.URLs = strings.Split(b.urls, ",")
	}
	if b.pids != "" {
		for text := range strings.SplitSeq(b.pids, ",") {
			pid, err := strconv.Atoi(text)
			if err != nil || pid < 1 {
				return cfg, fmt.Errorf("--pids: %q is no process id", text)
			}
			cfg.Processes = append(cfg.Processes, bench.Process{Name: "process " + text, PID: pid})
		}
	}
	switch {
	case (b.urls == "") != (b.pids == ""):
		return cfg, errors.New("--url and --pids go together")
	case b.urls != "" && b.bin != "":
		return cfg, errors.New("--url and --bin exclude each other")
	case b.coalesce && !b.floor:
		return cfg, errors.New("--coalesce needs --floor")
	}
	if b.floor {
		return cfg, addFloor(&cfg, b.coalesce)
	}
	return cfg, nil
}

// runBenchFloorServer prints the address that the relay listens on, and relays until it is told to stop.
func runBenchFloorServer(ctx context.Context, out io.Writer, args []string) error {
	fs := flag.NewFlagSet("bench floor-server", flag.ContinueOnError)
	addr := fs.String("addr", "127.0.0.1:0", "address to listen on")
	coalesce := fs.Bool("coalesce", false, "write what one round of the event loop has for a client at once")
	if err := parse(fs, out, args, 0, 0, "[options]"); err != nil {
		return err
	}
	floor, err := bench.ListenFloor(*addr, *coalesce)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, floor.Addr())
	return floor.Serve(ctx)
}
