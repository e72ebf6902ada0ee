// Package verify proves delivery: it runs a cluster, publishes and subscribes while it kills, pauses and cuts off nodes
// and edits the ring, records what every client saw, and checks the records against what ringcast promises.
//
// Subpackage record has the records, check the invariants, phx the client, chaos the proxy between gateways and topic
// servers. This package has the workload, the faults and the report.
package verify

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ringcast/ringcast/cluster/verify/check"
)

// Class is a class of faults.
type Class string

// The classes.
const (
	KillGateway     Class = "kill-gateway"     // SIGKILL, and a restart after a while
	KillTopicServer Class = "kill-topicserver" // the same; topics lose their past, and subscribers must be told
	PauseNode       Class = "pause"            // SIGSTOP for some seconds
	Cut             Class = "cut"              // a link is reset, swallows bytes or holds them, both ways or one way
	Slow            Class = "slow"             // a link gets slow
	Ring            Class = "ring"             // topic servers come and go
	Conflict        Class = "conflict"         // one node's ring file says something else than the others'
	Churn           Class = "churn"            // clients reconnect, leave and join, many at once
	Stall           Class = "stall"            // subscribers stop reading
	Memory          Class = "memory"           // clients that never read fill what a node may queue; see Config.MemoryLimit
	FDs             Class = "fds"              // a node has no file descriptor left for anything new
	Clock           Class = "clock"            // the wall clock of one node jumps, and jumps back
)

// Classes are all classes.
var classes = []Class{KillGateway, KillTopicServer, PauseNode, Cut, Slow, Ring, Conflict, Churn, Stall, Memory, FDs, Clock}

// ofClients are the classes that need nothing of the nodes.
var ofClients = []Class{Churn, Stall}

// ParseClasses parses a comma-separated list: names of classes, all, or none.
func ParseClasses(text string) ([]Class, error) {
	var list []Class
	for _, word := range strings.Split(text, ",") {
		switch c := Class(strings.TrimSpace(word)); {
		case c == "all":
			list = append(list, classes...)
		case c == "none" || c == "":
		case slices.Contains(classes, c):
			list = append(list, c)
		default:
			return nil, fmt.Errorf("no class of faults %q: there are all, none, %s", c, join(classes))
		}
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

func join(list []Class) string {
	if len(list) == 0 {
		return "none"
	}
	words := make([]string, len(list))
	for i, c := range list {
		words[i] = string(c)
	}
	return strings.Join(words, ",")
}

// Config says what to run. Of a zero field the default written beside it is taken.
type Config struct {
	Seed     uint64        // decides the faults, their times and their victims
	Duration time.Duration // of publishing and faults; default 30 s
	Faults   []Class       // default none
	Overlap  bool          // faults may begin before others have ended
	Scenario string        // a name of Scenarios, whose faults take the place of drawn ones; default none

	Gateways     int     // default 2
	TopicServers int     // at the start; default 2
	Topics       int     // default 10, at most 100
	Publishers   int     // default 4
	Subscribers  int     // default 12
	Joins        int     // topics that each subscriber joins; default about two thirds of them
	Rate         float64 // publishes per second by all publishers together; default 200
	Window       int     // publishes of one publisher to one topic that may be unanswered; default 4

	// NoPositions has channels join without a since key, and publishers neither give ids nor retry.
	NoPositions bool
	// Scale multiplies the waits of phoenix.js: reconnect, rejoin, timeouts, heartbeats. Default 0.2.
	Scale float64
	// HealWithin bounds how long publishing may take to succeed, and subscribers to arrive, after the last fault.
	// Default 10 s.
	HealWithin time.Duration
	// MaxPause, if set, bounds how long publishes of a topic may go unacknowledged.
	MaxPause time.Duration
	// RingPauseP99, if set, bounds the 99th percentile of the pauses of topics that a ring edit moves.
	RingPauseP99 time.Duration
	// BackWithin, if set, bounds how long after the return of a killed topic server a publish to each topic takes to
	// succeed.
	BackWithin time.Duration
	// NoErrors says that no channel may end with phx_error.
	NoErrors bool
	// WarmUp, if set, is how long to publish without faults first. What each node uses then is the baseline to which it must
	// come back when all faults are over.
	WarmUp time.Duration
	// SettleWithin bounds how long that may take. Default 90 s.
	SettleWithin time.Duration
	// MemoryLimit, if set, is how much memory a node may have, in bytes: a cgroup kills the node that takes more. Where there
	// is no cgroup for us, GOMEMLIMIT has to do and a node that has taken more is an anomaly. Histories get a quarter of it.
	MemoryLimit int64
	// HistorySize and HistoryIDs are how many messages and publish ids of a topic are remembered. Default 100,000 and 30,000.
	HistorySize, HistoryIDs int
	// PayloadBytes is the size of the largest payload, if all sizes up to it are to be as likely. Default 0: most are small.
	PayloadBytes int
	// Tamper falsifies what subscribers receive, to see the verification fail: drop, double or swap. Default none.
	Tamper      string
	TamperEvery int // one message in so many; default 1000

	// InProcess runs the nodes in this process. There are faults of clients only then.
	InProcess bool
	// Bin is a directory with the binaries gateway and topicserver. Default: beside this program, else built from source.
	Bin string
	// Dir is where nodes' files and logs go, and records on an anomaly. Default a temporary directory, which is removed
	// when there was no anomaly.
	Dir string
	// Log gets a line for each step and fault. Default none.
	Log io.Writer
}

// memoryLimit is the MemoryLimit of faults that need one, in bytes.
const memoryLimit = 256 << 20

// maxServers is how many topic servers a ring edit makes at most, at any time.
const maxServers = 5

// Validate reports everything that is wrong with the configuration at once.
func (cfg Config) Validate() error {
	_, err := cfg.withDefaults()
	return err
}

// withDefaults returns the configuration with every default in place, or everything that is wrong with it.
func (cfg Config) withDefaults() (Config, error) {
	def := func(p *int, value int) {
		if *p == 0 {
			*p = value
		}
	}
	def(&cfg.Gateways, 2)
	def(&cfg.TopicServers, 2)
	def(&cfg.Topics, 10)
	def(&cfg.Publishers, 4)
	def(&cfg.Subscribers, 12)
	def(&cfg.Window, 4)
	def(&cfg.TamperEvery, 1000)
	def(&cfg.HistorySize, 100_000)
	def(&cfg.HistoryIDs, 30_000)
	if cfg.MemoryLimit == 0 && slices.Contains(cfg.Faults, Memory) {
		cfg.MemoryLimit = memoryLimit
	}
	if cfg.Duration == 0 {
		cfg.Duration = 30 * time.Second
	}
	if cfg.HealWithin == 0 {
		cfg.HealWithin = 10 * time.Second
	}
	if cfg.SettleWithin == 0 {
		cfg.SettleWithin = 90 * time.Second
	}
	if cfg.Rate == 0 {
		cfg.Rate = 200
	}
	if cfg.Scale == 0 {
		cfg.Scale = 0.2
	}
	if cfg.Log == nil {
		cfg.Log = io.Discard
	}
	return cfg, cfg.problems()
}

func (cfg *Config) problems() error {
	var errs []error
	for _, n := range []struct {
		name            string
		value, min, max int
	}{
		{"gateways", cfg.Gateways, 1, 16}, {"topicservers", cfg.TopicServers, 1, maxServers}, {"topics", cfg.Topics, 1, 100},
		{"publishers", cfg.Publishers, 1, 1000}, {"subscribers", cfg.Subscribers, 1, 10000}, {"window", cfg.Window, 1, 1000},
		{"tamper-every", cfg.TamperEvery, 1, math.MaxInt32}, {"history", cfg.HistorySize, 1, 1_000_000}, {"ids", cfg.HistoryIDs, 1, 1_000_000},
		{"payload", cfg.PayloadBytes, 0, 60_000},
	} {
		if n.value < n.min || n.value > n.max {
			errs = append(errs, fmt.Errorf("%s is %d: must be %d to %d", n.name, n.value, n.min, n.max))
		}
	}
	for _, x := range []struct {
		name            string
		value, min, max float64
	}{
		{"rate", cfg.Rate, 0.1, 100_000}, {"scale", cfg.Scale, 0.001, 10},
		{"duration", cfg.Duration.Seconds(), 0.1, 7 * 24 * 3600}, {"heal", cfg.HealWithin.Seconds(), 0.1, 3600},
		{"warm-up", cfg.WarmUp.Seconds(), 0, 24 * 3600}, {"settle", cfg.SettleWithin.Seconds(), 0.1, 3600},
	} {
		if math.IsNaN(x.value) || x.value < x.min || x.value > x.max {
			errs = append(errs, fmt.Errorf("%s is %v: must be %v to %v", x.name, x.value, x.min, x.max))
		}
	}
	for _, c := range cfg.Faults {
		if cfg.InProcess && !slices.Contains(ofClients, c) {
			errs = append(errs, fmt.Errorf("faults of class %s need nodes in processes of their own; in one process there are %s", c, join(ofClients)))
		}
	}
	if cfg.InProcess && (cfg.MemoryLimit != 0 || cfg.WarmUp != 0) {
		errs = append(errs, errors.New("what nodes use can be told apart, and bounded, in processes of their own only"))
	}
	if cfg.MemoryLimit != 0 && cfg.MemoryLimit < 32<<20 {
		errs = append(errs, fmt.Errorf("a memory limit of %d bytes is too little: 32 MiB is the least", cfg.MemoryLimit))
	}
	if cfg.Joins < 0 || cfg.Joins > cfg.Topics {
		errs = append(errs, fmt.Errorf("joins is %d: must be 1 to %d, the number of topics", cfg.Joins, cfg.Topics))
	}
	if _, ok := scenarios[cfg.Scenario]; !ok && cfg.Scenario != "" {
		errs = append(errs, fmt.Errorf("no scenario %q: there are %s", cfg.Scenario, strings.Join(Scenarios(), ", ")))
	}
	if !slices.Contains([]string{"", "drop", "double", "swap"}, cfg.Tamper) {
		errs = append(errs, fmt.Errorf("tamper is %q: must be drop, double or swap", cfg.Tamper))
	}
	return errors.Join(errs...)
}

// options are what may be expected under the configured faults. A killed topic server takes its topics' past with it, and
// so does a hand-over for which the old owner cannot be reached; one that may have little memory forgets sooner. Under all
// other faults nobody may be told of a gap.
func (cfg *Config) options() check.Options {
	has := func(c Class) bool { return slices.Contains(cfg.Faults, c) }
	unreachable := has(Cut) || has(PauseNode) || has(Slow)
	moves := has(Ring) || has(Conflict)
	opts := check.Options{
		Positions:  !cfg.NoPositions,
		Lossless:   !has(KillTopicServer) && !(moves && (unreachable || has(FDs))) && cfg.MemoryLimit == 0,
		Retained:   retained,
		HealWithin: cfg.HealWithin,
		MaxPause:   cfg.MaxPause,
		NoErrors:   cfg.NoErrors,
		BackWithin: cfg.BackWithin,
		BackFrom:   string(KillTopicServer),
	}
	if has(PauseNode) && !has(KillTopicServer) {
		opts.BackFrom = string(PauseNode)
	}
	if cfg.WarmUp > 0 {
		opts.Bounds = &bounds
	}
	return opts
}

// Unsupported says why this machine cannot do a class of faults; nil if it can.
func Unsupported(c Class) error {
	switch c {
	case FDs:
		restore, err := starve(os.Getpid())
		if err != nil {
			return err
		}
		return restore()
	case Clock:
		_, _, err := wallClock(os.Getpid())
		return err
	}
	return nil
}

// Supported are the classes of a list that this machine can do. The others are told to out.
func Supported(list []Class, out io.Writer) []Class {
	return slices.DeleteFunc(slices.Clone(list), func(c Class) bool {
		err := Unsupported(c)
		if err != nil {
			fmt.Fprintf(out, "LEFT OUT: faults of class %s: %v\n", c, err)
		}
		return err != nil
	})
}

// topics names the topics.
func (cfg *Config) topics() []string {
	names := make([]string, cfg.Topics)
	for i := range names {
		names[i] = fmt.Sprintf("topics:verify%02d", i)
	}
	return names
}
