package verify

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/ringcast/ringcast/cluster/verify/chaos"
)

// step is one fault of a plan.
type step struct {
	at, lasts time.Duration // from the start of the faults
	class     Class
	node      int           // index of the victim among the nodes that are candidates then
	peer      int           // the other end of a link, likewise
	link      chaos.Fault   // of a link
	count     int           // topic servers that a ring edit makes, or clients that do not read
	jump      time.Duration // of a clock
	how       string        // of clients' faults, of a conflict, and of a ring edit: what becomes of the salt
	share     float64       // of the clients that are hit
	seed      uint64        // of what is left to decide then
}

// String describes a step; what its node and peer are is known when it is taken.
func (s step) String() string {
	switch s.class {
	case Cut, Slow:
		return s.link.String()
	case Ring:
		return strings.TrimSuffix(fmt.Sprintf("%d topic servers, %s", s.count, s.how), ", ")
	case Churn:
		return fmt.Sprintf("%s %.0f %% of the clients", s.how, 100*s.share)
	case Stall:
		return fmt.Sprintf("%.0f %% of the subscribers", 100*s.share)
	case Memory:
		return fmt.Sprintf("%d clients that do not read", s.count)
	case Clock:
		return fmt.Sprintf("jumps by %v", s.jump)
	}
	return s.how
}

// plan decides all faults of a run. The same configuration gives the same plan.
func plan(cfg Config) []step {
	rng := rand.New(rand.NewPCG(cfg.Seed, 1))
	if sc, ok := scenarios[cfg.Scenario]; ok && sc.plan != nil {
		return sc.plan(rng)
	}
	if len(cfg.Faults) == 0 {
		return nil
	}
	var steps []step
	var round []Class // what is left of a round, in which each class has one turn
	servers := cfg.TopicServers
	at := jitter(rng, 200*time.Millisecond, 800*time.Millisecond)
	for misfits := 0; misfits < len(cfg.Faults); {
		if len(round) == 0 {
			round = slices.Clone(cfg.Faults)
			rng.Shuffle(len(round), func(i, j int) { round[i], round[j] = round[j], round[i] })
		}
		s := step{at: at, class: round[0], node: rng.IntN(1 << 30), peer: rng.IntN(1 << 30), seed: rng.Uint64()}
		round = round[1:]
		s.decide(rng, servers)
		if s.at+s.lasts > cfg.Duration {
			misfits++
			continue
		}
		if s.class == Ring {
			servers = s.count
		}
		misfits = 0
		steps = append(steps, s)
		at += jitter(rng, 300*time.Millisecond, 1500*time.Millisecond)
		if !cfg.Overlap {
			at += s.lasts
		}
	}
	return steps
}

func jitter(rng *rand.Rand, from, to time.Duration) time.Duration {
	return from + time.Duration(rng.Int64N(int64(to-from)))
}

// decide fills in what depends on the class.
func (s *step) decide(rng *rand.Rand, servers int) {
	switch s.class {
	case KillGateway, KillTopicServer:
		s.lasts = jitter(rng, 100*time.Millisecond, 2*time.Second) // until it is started again
	case PauseNode:
		s.lasts = jitter(rng, time.Second, 5*time.Second)
	case Cut:
		s.lasts = jitter(rng, 500*time.Millisecond, 5*time.Second)
		s.link.Mode = []chaos.Mode{chaos.Cut, chaos.Blackhole, chaos.Freeze}[rng.IntN(3)]
		s.oneWay(rng)
	case Slow:
		s.lasts = jitter(rng, time.Second, 5*time.Second)
		s.link = chaos.Fault{Mode: chaos.Slow, Delay: jitter(rng, 0, 300*time.Millisecond), BytesPerSecond: 10_000 + rng.IntN(200_000)}
		s.oneWay(rng)
	case Ring:
		// From a few to many and back, as clusters grow and shrink.
		s.lasts = 2 * time.Second
		for s.count = servers; s.count == servers; {
			s.count = 1 + rng.IntN(maxServers)
		}
		s.how = []string{"", "", newSalt, noSalt}[rng.IntN(4)]
	case Conflict:
		s.lasts = jitter(rng, time.Second, 3*time.Second)
		s.how = []string{"next version", "same version"}[rng.IntN(2)]
	case Churn:
		s.how = churns[rng.IntN(len(churns))]
		s.share = []float64{0.1, 0.5, 1}[rng.IntN(3)]
	case Stall:
		s.lasts = jitter(rng, time.Second, 5*time.Second)
		s.share = []float64{0.1, 0.3}[rng.IntN(2)]
	case Memory:
		s.lasts = jitter(rng, time.Second, 3*time.Second)
		s.count = 10 + rng.IntN(40)
	case FDs:
		s.lasts = jitter(rng, time.Second, 5*time.Second)
	case Clock:
		s.lasts = jitter(rng, time.Second, 4*time.Second)
		s.jump = jumps[rng.IntN(len(jumps))]
	}
}

// jumps are those of clocks: summer time, a wrong time zone, a battery that was empty, a year that was mistyped.
var jumps = []time.Duration{time.Hour, -time.Hour, 11 * time.Hour, -20 * 365 * 24 * time.Hour, 10 * 365 * 24 * time.Hour}

// oneWay restricts a link's fault to one direction, in one case of two.
func (s *step) oneWay(rng *rand.Rand) {
	switch rng.IntN(4) {
	case 0:
		s.link.Up = true
	case 1:
		s.link.Down = true
	}
}
