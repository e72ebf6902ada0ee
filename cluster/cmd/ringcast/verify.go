package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ringcast/ringcast/cluster/verify"
	"github.com/ringcast/ringcast/cluster/verify/check"
)

// verifyOptions are those options of verify that are no fields of its configuration as they stand.
type verifyOptions struct {
	faults    string
	memory    int // MiB
	positions bool
	seed      uint64
	seeds     int
	quiet     bool
}

func runVerify(ctx context.Context, out io.Writer, args []string) error {
	fs := flag.NewFlagSet("verify", flag.ContinueOnError)
	var cfg verify.Config
	var opts verifyOptions
	verifyFlags(fs, &cfg)
	opts.flags(fs)
	if err := parse(fs, out, args, 0, 0, "[options]"); err != nil {
		return err
	}
	if err := opts.apply(fs, &cfg); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if err := leaveOut(out, &cfg, opts.faults == "all"); err != nil {
		return err
	}
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if !opts.quiet {
		cfg.Log = out
	}
	if opts.seed == 0 {
		opts.seed = rand.Uint64N(1_000_000) + 1
	}
	return verifySeeds(ctx, out, cfg, opts.seed, opts.seeds, func(seed uint64) string { return repeat(fs, seed) })
}

// verifyFlags defines the options that are fields of the configuration.
func verifyFlags(fs *flag.FlagSet, cfg *verify.Config) {
	fs.DurationVar(&cfg.Duration, "duration", 30*time.Second, "how long to publish, and to do harm")
	fs.IntVar(&cfg.Gateways, "gateways", 2, "gateways")
	fs.IntVar(&cfg.TopicServers, "topicservers", 2, "topic servers at the start")
	fs.IntVar(&cfg.Topics, "topics", 10, "topics")
	fs.IntVar(&cfg.Publishers, "publishers", 4, "clients that publish")
	fs.IntVar(&cfg.Subscribers, "subscribers", 12, "clients that subscribe")
	fs.IntVar(&cfg.Window, "window", 4, "publishes of one publisher to one topic that may be unanswered")
	fs.Float64Var(&cfg.Rate, "rate", 200, "publishes per second, all publishers together")
	fs.Float64Var(&cfg.Scale, "scale", 0.2, "multiplies the waits of the clients, which are those of phoenix.js")
	fs.DurationVar(&cfg.HealWithin, "heal", 10*time.Second, "how long recovery from the last fault may take")
	fs.DurationVar(&cfg.MaxPause, "max-pause", 0, "how long publishes of a topic may go unacknowledged; 0: only measured")
	fs.BoolVar(&cfg.Overlap, "overlap", false, "let faults begin before others have ended")
	fs.BoolVar(&cfg.InProcess, "in-process", false, "run the nodes in this process; faults are churn and stall then")
	fs.StringVar(&cfg.Bin, "bin", "", "directory of the binaries gateway and topicserver; default beside this one, else built from source")
	fs.StringVar(&cfg.Dir, "out", "", "directory for logs, and for records on an anomaly; default a temporary one, kept on an anomaly")
	fs.StringVar(&cfg.Tamper, "tamper", "", "falsify what subscribers receive, to see it found: drop, double or swap")
	fs.IntVar(&cfg.TamperEvery, "tamper-every", 1000, "one message in so many")
	fs.IntVar(&cfg.Joins, "joins", 0, "topics that each subscriber joins; 0: about two thirds")
	fs.DurationVar(&cfg.RingPauseP99, "ring-pause-p99", 0, "99th percentile of the pauses of topics that ring edits move, over all seeds; 0: only measured")
	fs.DurationVar(&cfg.BackWithin, "back", 0, "how long publishing may take to succeed once a killed topic server is back; 0: not bounded")
	fs.BoolVar(&cfg.NoErrors, "no-errors", false, "no channel may end with phx_error")
	fs.StringVar(&cfg.Scenario, "scenario", "", "one of "+strings.Join(verify.Scenarios(), ", ")+": sets faults, their times and what is promised; other options override")
	fs.DurationVar(&cfg.WarmUp, "warm-up", 0, "publish without faults for so long first, and see that nodes use no more afterwards than then; 0: do not look")
	fs.DurationVar(&cfg.SettleWithin, "settle", 90*time.Second, "how long it may take until they do")
	fs.IntVar(&cfg.PayloadBytes, "payload", 0, "bytes of the largest payload, all sizes being as likely; 0: most are small")
	fs.IntVar(&cfg.HistorySize, "history", 100_000, "messages remembered per topic, within 2 MiB")
	fs.IntVar(&cfg.HistoryIDs, "ids", 30_000, "publish ids remembered per topic")
}

func (o *verifyOptions) flags(fs *flag.FlagSet) {
	fs.IntVar(&o.memory, "memory-limit", 0, "MiB that a node may have; 0: without the fault memory, as much as it likes")
	fs.StringVar(&o.faults, "faults", "", "comma-separated: kill-gateway, kill-topicserver, pause, cut, slow, ring, conflict, churn, stall, memory, fds, clock; all; none (default all, of clients with --in-process)")
	fs.BoolVar(&o.positions, "positions", true, "join with a since key, so that clients resume; false: plain Phoenix")
	fs.Uint64Var(&o.seed, "seed", 0, "decides the faults; 0: draw one")
	fs.IntVar(&o.seeds, "seeds", 1, "run so many times, with successive seeds")
	fs.BoolVar(&o.quiet, "q", false, "no line for each fault")
}

// apply completes the configuration: by the scenario, if there is one, which the command line overrides.
func (o *verifyOptions) apply(fs *flag.FlagSet, cfg *verify.Config) (err error) {
	switch {
	case cfg.Scenario != "":
		if err := useScenario(fs, cfg); err != nil {
			return err
		}
	case o.faults == "" && cfg.InProcess:
		o.faults = "churn,stall"
	case o.faults == "":
		o.faults = "all"
	}
	if o.faults != "" {
		if cfg.Faults, err = verify.ParseClasses(o.faults); err != nil {
			return err
		}
	}
	if o.memory != 0 {
		cfg.MemoryLimit = int64(o.memory) << 20
	}
	cfg.NoPositions = !o.positions
	if o.seeds < 1 {
		return fmt.Errorf("seeds is %d: must be 1 or more", o.seeds)
	}
	return nil
}

// leaveOut leaves out the faults that this machine cannot do, loudly, when all there are were asked for. Else they are an error.
func leaveOut(out io.Writer, cfg *verify.Config, all bool) error {
	if all || cfg.Scenario == "soak" {
		cfg.Faults = verify.Supported(cfg.Faults, out)
		return nil
	}
	for _, c := range cfg.Faults {
		if err := verify.Unsupported(c); err != nil {
			return fmt.Errorf("verify: faults of class %s: %w", c, err)
		}
	}
	return nil
}

// useScenario takes a scenario's configuration and sets again what the command line sets.
func useScenario(fs *flag.FlagSet, cfg *verify.Config) error {
	given := make(map[string]string)
	fs.Visit(func(f *flag.Flag) { given[f.Name] = f.Value.String() })
	var err error
	if *cfg, err = verify.ScenarioConfig(cfg.Scenario); err != nil {
		return err
	}
	if given["faults"] != "" {
		return errors.New("a scenario has faults of its own")
	}
	for name, value := range given {
		if err := fs.Set(name, value); err != nil {
			return err
		}
	}
	return nil
}

// verifySeeds runs one verification after the other. Command is what repeats the one with a seed.
func verifySeeds(ctx context.Context, out io.Writer, cfg verify.Config, seed uint64, seeds int, command func(seed uint64) string) error {
	bad, dir := 0, cfg.Dir
	var pauses []time.Duration // of topics that ring edits moved
	for i := range seeds {
		cfg.Seed = seed + uint64(i)
		if seeds > 1 && dir != "" {
			cfg.Dir = filepath.Join(dir, fmt.Sprint("seed-", cfg.Seed))
		}
		fmt.Fprintln(out, command(cfg.Seed))
		res, err := verify.Run(ctx, cfg)
		if err != nil {
			return err
		}
		res.Print(out, command(cfg.Seed))
		if len(res.Anomalies) > 0 {
			bad++
		}
		for _, p := range res.Pauses {
			if p.Class == string(verify.Ring) {
				pauses = append(pauses, p.Times...)
			}
		}
	}
	if err := boundPauses(out, pauses, cfg.RingPauseP99); err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("verify: anomalies with %d of %d seeds", bad, seeds)
	}
	return nil
}

// boundPauses says how long the topics that ring edits moved have paused over all runs, and whether that was too long.
func boundPauses(out io.Writer, pauses []time.Duration, bound time.Duration) error {
	if bound == 0 || len(pauses) == 0 {
		return nil
	}
	slices.Sort(pauses)
	all := check.PauseStats{Times: pauses}
	p99 := all.Quantile(0.99).Round(time.Millisecond)
	fmt.Fprintf(out, "pauses of %d moves: p50 %v, p99 %v, max %v\n", len(pauses), all.Quantile(0.5).Round(time.Millisecond), p99,
		all.Quantile(1).Round(time.Millisecond))
	if p99 > bound {
		return fmt.Errorf("verify: the pauses of moved topics have a 99th percentile of %v, want at most %v", p99, bound)
	}
	return nil
}

// repeat is the command that repeats a run.
func repeat(fs *flag.FlagSet, seed uint64) string {
	words := []string{"ringcast verify", fmt.Sprintf("--seed %d", seed)}
	fs.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "seed", "seeds", "q", "out":
		default:
			words = append(words, fmt.Sprintf("--%s=%s", f.Name, f.Value))
		}
	})
	return strings.Join(words, " ")
}
