package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/ringcast/ringcast/cluster/bench"
)

// errBenchGoals ends the command when its table says so.
var errBenchGoals = errors.New("bench: not all goals are met")

// runBenchGoals measures every load that has goals beside the floor, and ends with a table of all goals. It takes about
// seven minutes with the usual options.
func runBenchGoals(ctx context.Context, out io.Writer, args []string) error {
	fs := flag.NewFlagSet("bench goals", flag.ContinueOnError)
	runs := fs.Int("runs", 3, "measure so often and print medians; idle and stalled once")
	duration := fs.Duration("duration", 5*time.Second, "how long to measure in each run; idle and stalled have their own")
	bin := fs.String("bin", "", "directory of the binaries gateway and topicserver; default: build them")
	if err := parse(fs, out, args, 0, 0, "[options]"); err != nil {
		return err
	}
	if *runs < 1 || *duration < time.Second || *duration > time.Minute {
		return fmt.Errorf("%w: want at least 1 run and 1s to 1m", errUsage)
	}
	if *bin == "" {
		fmt.Fprintln(os.Stderr, "building the servers …")
		var err error
		if *bin, err = bench.Build(ctx); err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(*bin) }()
	}
	var reports []*bench.Report
	for _, load := range bench.Loads() {
		if !hasGoals(load.Name) {
			continue
		}
		cfg, err := goalConfig(load, *runs, *duration)
		if err != nil {
			return err
		}
		cfg.BinDir = *bin
		report, err := bench.Measure(ctx, cfg)
		if err != nil {
			return err
		}
		if err := report.WriteText(out); err != nil {
			return err
		}
		reports = append(reports, report)
	}
	if met, err := bench.WriteGoals(out, reports); err != nil || met {
		return err
	}
	return errBenchGoals
}

func hasGoals(load string) bool {
	for _, g := range bench.Goals() {
		if g.Load == load {
			return true
		}
	}
	return false
}

// goalConfig says how a load is measured against its goals.
func goalConfig(load bench.Load, runs int, duration time.Duration) (bench.Config, error) {
	cfg := bench.Config{Load: load, Runs: runs, Progress: os.Stderr}
	switch load.Kind {
	case bench.Stalled: // is compared with itself, often enough to tell a millisecond from chance
		cfg.Runs, cfg.Load.Pairs = 1, 20
		return cfg, nil
	case bench.Idle:
		cfg.Runs, cfg.Load.Duration = 1, 10*time.Second
	default:
		cfg.Load.Duration = duration
	}
	// In the closed loop the floor may write at once what one round has for a client, as the gateway does.
	err := addFloor(&cfg, load.Kind == bench.Publish && load.Rate == 0)
	return cfg, err
}

// addFloor has this program run the floor.
func addFloor(cfg *bench.Config, coalesce bool) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cfg.FloorCommand = []string{self, "bench", "floor-server"}
	if coalesce {
		cfg.FloorCommand = append(cfg.FloorCommand, "--coalesce")
	}
	return nil
}
