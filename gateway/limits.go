package gateway

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringcast/ringcast/gateway/admission"
	"github.com/ringcast/ringcast/gateway/session"
	"github.com/ringcast/ringcast/shared/daemon"
	"github.com/ringcast/ringcast/shared/rate"
)

// Limits are the rates of a gateway's configuration, and when it takes on no more. A session may do at once what it may do
// in two seconds.
type Limits struct {
	Publishes       int           `env:"MAX_PUBLISHES_PER_SECOND" envDefault:"1000" help:"publishes, messages to names and changes of presence a second of one client socket, twice as many at once; more are refused as rate_limited, and after three such seconds the socket closes with 4429; 0 means any number"`
	SessionJoins    int           `env:"MAX_SESSION_JOINS_PER_SECOND" envDefault:"100" help:"likewise joins of one client socket; more than twice so many channels cannot be joined at once"`
	InFlight        int           `env:"MAX_PUBLISHES_IN_FLIGHT" envDefault:"64" help:"publishes of one client socket that are not answered yet; more are refused as busy; 0 means any number"`
	Frames          int           `env:"MAX_FRAMES_PER_SECOND" envDefault:"2000" help:"likewise heartbeats, leaves, pings, fragments and other frames of one client socket"`
	Joins           int           `env:"MAX_JOINS_PER_SECOND" envDefault:"0" help:"joins a second over all client sockets, twice as many at once; 0 means any number"`
	Connects        int           `env:"MAX_CONNECTS_PER_SECOND" envDefault:"0" help:"new client sockets a second, twice as many at once; more are told to come later; 0 means any number"`
	Handshakes      int           `env:"MAX_HANDSHAKES" envDefault:"0" help:"client connections that are on their way through their handshakes at a time; others wait for their turn; 0 means 16, and 128 with TLS_CERT_FILE, where each takes a round trip or two"`
	DrainJoin       time.Duration `env:"DRAIN_JOIN_TIME" envDefault:"500ms" help:"a stopping gateway sends no more clients away while joins at the others take longer than that"`
	AdmissionMemory float64       `env:"ADMISSION_MEMORY" envDefault:"0.8" help:"share of GOMEMLIMIT in use from which new clients are refused, then joins, then publishes; 0 means never"`
	AdmissionLag    time.Duration `env:"ADMISSION_LAG" envDefault:"250ms" help:"how late an event loop may be before new clients are refused; twice as late, joins, and four times, publishes; 0s means any time"`
}

// Validate reports every problem at once.
func (l *Limits) Validate() error {
	const most = 10_000_000
	return errors.Join(
		daemon.CheckRange("MAX_PUBLISHES_PER_SECOND", l.Publishes, 0, most),
		daemon.CheckRange("MAX_PUBLISHES_IN_FLIGHT", l.InFlight, 0, most),
		daemon.CheckRange("MAX_SESSION_JOINS_PER_SECOND", l.SessionJoins, 0, most),
		daemon.CheckRange("MAX_FRAMES_PER_SECOND", l.Frames, 0, most),
		daemon.CheckRange("MAX_JOINS_PER_SECOND", l.Joins, 0, most),
		daemon.CheckRange("MAX_CONNECTS_PER_SECOND", l.Connects, 0, most),
		daemon.CheckRange("MAX_HANDSHAKES", l.Handshakes, 0, 1_000_000),
		daemon.CheckRange("DRAIN_JOIN_TIME", l.DrainJoin, time.Millisecond, time.Minute),
		daemon.CheckRange("ADMISSION_MEMORY", l.AdmissionMemory, 0, 1),
		daemon.CheckRange("ADMISSION_LAG", l.AdmissionLag, 0, time.Minute),
	)
}

// handshakes returns how many may be under way at a time. Few do: a client's request comes with its connection, and who takes
// up the processor with many makes everybody else wait.
func (g *Gateway) handshakes() int {
	switch n := g.cfg.Limits.Handshakes; {
	case n > 0:
		return n
	case g.tls != nil:
		return 128
	}
	return 16
}

// perSession returns the limit of n events a second of one session.
func perSession(n int) rate.Limit { return rate.PerSecond(n, 2*n) }

func (l *Limits) rates() session.Rates {
	return session.Rates{Publishes: perSession(l.Publishes), Joins: perSession(l.SessionJoins), Frames: perSession(l.Frames)}
}

// newGate returns what admits clients, joins and publishes.
func (g *Gateway) newGate() *admission.Gate {
	cfg := admission.Config{
		Memory: g.cfg.Limits.AdmissionMemory, Lag: g.cfg.Limits.AdmissionLag,
		Connects: g.cfg.Limits.Connects, Joins: g.cfg.Limits.Joins, Log: g.log,
	}
	for i := range g.loops.Len() {
		cfg.Posts = append(cfg.Posts, g.loops.Loop(i).Post)
	}
	return admission.New(cfg)
}

// registerAdmission exposes the state of the gate and what was refused.
func (g *Gateway) registerAdmission(reg *prometheus.Registry, gauge func(name, help string, value func() float64)) {
	gauge("admission_level", "What is refused now: 0 nothing, 1 connections, 2 joins too, 3 publishes too.",
		func() float64 { return float64(g.gate.Level()) })
	gauge("loop_lag_seconds", "How late the slowest event loop is, now.", func() float64 { return g.gate.Stats().Lag.Seconds() })
	gauge("memory_used_ratio", "Share of the memory limit in use that cannot be collected, now; 0 without a limit.",
		func() float64 { return g.gate.Stats().Used })
	gauge("turned_away", "Sockets of browsers that were not admitted and are not closed yet, now.",
		func() float64 { return float64(g.turnedAway.Load()) })
	admission.EachCount(func(what admission.What, why admission.Reason) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "ringcast_gateway_refused_total", Help: "What was not admitted, by what and reason.",
			ConstLabels: prometheus.Labels{"what": what.String(), "reason": why.String()},
		}, func() float64 {
			n := g.gate.Stats().Refused[what][why]
			if what == admission.Frame {
				n += g.loops.Stats().Excess
			}
			return float64(n)
		}))
	})
}
