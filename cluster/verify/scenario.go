package verify

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ringcast/ringcast/cluster/verify/chaos"
)

// scenario is a run that proves one promise with faults of its own.
type scenario struct {
	config Config
	plan   func(rng *rand.Rand) []step
}

// reconnectRounds times all clients of the scenario reconnects make more than 10,000 reconnects.
const reconnectRounds = 100

var scenarios = map[string]scenario{
	// 10,000 reconnects of clients at 1000 messages a second.
	"reconnects": {
		config: Config{
			Faults: []Class{Churn}, Rate: 1000, Duration: (reconnectRounds + 2) * time.Second, Subscribers: 100, Joins: 1,
			NoErrors: true,
		},
		plan: func(rng *rand.Rand) (steps []step) {
			for i := range reconnectRounds {
				at := time.Duration(i)*time.Second + jitter(rng, 500*time.Millisecond, 1500*time.Millisecond)
				steps = append(steps, step{at: at, class: Churn, how: "drop", share: 1, seed: rng.Uint64()})
			}
			slices.SortFunc(steps, func(a, b step) int { return int(a.at - b.at) })
			return steps
		},
	},
	// The ring grows from two servers to five and shrinks to three, at 1000 messages a second.
	"rings": {
		config: Config{
			Faults: []Class{Ring}, Rate: 1000, Duration: 9 * time.Second, TopicServers: 2, Topics: 30, Joins: 5, Overlap: true,
			NoErrors: true, RingPauseP99: 250 * time.Millisecond,
		},
		plan: func(rng *rand.Rand) []step {
			first := jitter(rng, time.Second, 2*time.Second)
			second := first + jitter(rng, time.Second, 5*time.Second)
			return []step{
				{at: first, class: Ring, count: 5, seed: rng.Uint64()},
				{at: second, class: Ring, count: 3, seed: rng.Uint64()},
			}
		},
	},
	// The ring gets a salt, another one, and none again, at 1000 messages a second. Each time most topics move.
	"salt": {
		config: Config{
			Faults: []Class{Ring}, Rate: 1000, Duration: 12 * time.Second, TopicServers: 3, Topics: 30, Joins: 5, NoErrors: true,
			RingPauseP99: 250 * time.Millisecond,
		},
		plan: func(rng *rand.Rand) (steps []step) {
			for i, how := range []string{newSalt, newSalt, noSalt} {
				at := time.Duration(1+3*i)*time.Second + jitter(rng, 0, time.Second)
				steps = append(steps, step{at: at, class: Ring, count: 3, how: how, seed: rng.Uint64()})
			}
			return steps
		},
	},
	// The link between one gateway and one topic server is cut for five seconds, in each of the ways there are.
	"cut": {
		config: Config{Faults: []Class{Cut}, Rate: 500, Duration: 40 * time.Second, NoErrors: true},
		plan: func(rng *rand.Rand) (steps []step) {
			for i, mode := range []chaos.Mode{chaos.Cut, chaos.Blackhole, chaos.Freeze} {
				steps = append(steps, step{
					at:    time.Second + time.Duration(i)*12*time.Second + jitter(rng, 0, time.Second),
					lasts: 5 * time.Second, class: Cut, node: rng.IntN(2), peer: 1 + rng.IntN(2), link: chaos.Fault{Mode: mode},
				})
			}
			return steps
		},
	},
	// A gateway is killed every five seconds for two minutes.
	"gateway-kills": {
		config: Config{Faults: []Class{KillGateway}, Rate: 300, Duration: 125 * time.Second, NoErrors: true},
		plan: func(rng *rand.Rand) (steps []step) {
			for i := range 24 {
				steps = append(steps, step{
					at: time.Duration(i) * 5 * time.Second, class: KillGateway, node: rng.IntN(1 << 20),
					lasts: jitter(rng, 500*time.Millisecond, 2*time.Second),
				})
			}
			return steps
		},
	},
	// A topic server is killed and comes back without its memory.
	"owner-restart": {
		config: Config{Faults: []Class{KillTopicServer}, Rate: 300, Duration: 45 * time.Second, BackWithin: 2 * time.Second},
		plan: func(rng *rand.Rand) (steps []step) {
			for i, down := range []time.Duration{200 * time.Millisecond, time.Second, 4 * time.Second, 9 * time.Second} {
				steps = append(steps, step{
					at: time.Duration(1+8*i) * time.Second, class: KillTopicServer, node: rng.IntN(2), lasts: down,
				})
			}
			return steps
		},
	},
	// A topic server, then a gateway stands still for a while.
	"pauses": {
		config: Config{Faults: []Class{PauseNode}, Rate: 300, Duration: 110 * time.Second, BackWithin: 5 * time.Second},
		plan: func(rng *rand.Rand) (steps []step) {
			at := time.Second
			for _, lasts := range []time.Duration{time.Second, 5 * time.Second, 30 * time.Second} {
				for _, first := range []int{0, 2} { // of the running nodes, two topic servers and two gateways
					steps = append(steps, step{at: at, class: PauseNode, node: first + rng.IntN(2), lasts: lasts})
					at += lasts + 4*time.Second
				}
			}
			return steps
		},
	},
	// A gateway, then a topic server has no file descriptor left, while clients reconnect.
	"fds": {
		config: Config{Faults: []Class{FDs, Churn}, Rate: 500, Duration: 40 * time.Second, NoErrors: true, Overlap: true},
		plan: func(rng *rand.Rand) (steps []step) {
			for i, node := range []int{2, 3, 0, 1} {
				at := time.Duration(1+9*i) * time.Second
				steps = append(steps,
					step{at: at, class: FDs, node: node, peer: rng.IntN(2), lasts: 5 * time.Second},
					step{at: at + time.Second, class: Churn, how: "drop", share: 0.5, seed: rng.Uint64()})
			}
			return steps
		},
	},
	// Histories and the queues of clients that never read fill what memory they may have.
	"memory": {
		config: Config{
			Faults: []Class{Memory, Stall}, Rate: 250, Duration: 40 * time.Second, Topics: 60, Publishers: 2, Subscribers: 8, Joins: 9,
			Overlap: true, PayloadBytes: 32 << 10, MemoryLimit: 64 << 20,
		},
		plan: func(rng *rand.Rand) (steps []step) {
			for i := range 3 {
				at := time.Duration(5+11*i) * time.Second
				steps = append(steps,
					step{at: at, class: Memory, count: 80, lasts: 7 * time.Second},
					step{at: at + time.Second, class: Stall, share: 0.3, lasts: 3 * time.Second, seed: rng.Uint64()})
			}
			return steps
		},
	},
	// The wall clock of each node jumps ahead, back and far, while presence, names, histories and links count their times.
	"clock": {
		config: Config{Faults: []Class{Clock}, Rate: 500, Duration: 35 * time.Second, NoErrors: true, MaxPause: 2 * time.Second},
		plan: func(rng *rand.Rand) (steps []step) {
			for i := range 8 {
				steps = append(steps, step{
					at: time.Duration(1+4*i) * time.Second, class: Clock, node: i % 4, jump: jumps[(i+rng.IntN(2))%len(jumps)],
					lasts: 3 * time.Second,
				})
			}
			return steps
		},
	},
	// Load and every kind of fault for long; afterwards no node may use more than before.
	"soak": {
		config: Config{
			Faults: classes, Rate: 200, Duration: 10 * time.Minute, WarmUp: time.Minute, Topics: 4, Subscribers: 8, HistorySize: 2000, HistoryIDs: 2000,
		},
	},
}

// Scenarios names the scenarios.
func Scenarios() []string { return slices.Sorted(maps.Keys(scenarios)) }

// ScenarioConfig is the configuration of a scenario.
func ScenarioConfig(name string) (Config, error) {
	sc, ok := scenarios[name]
	if !ok {
		return Config{}, fmt.Errorf("no scenario %q: there are %v", name, Scenarios())
	}
	cfg := sc.config
	cfg.Scenario = name
	return cfg, nil
}
