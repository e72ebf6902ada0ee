package bench

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// Load is one kind of work for the servers.
type Load struct {
	Name string `json:"name"`
	Kind Kind   `json:"kind"`
	// Topics are joined by Connections in turn: each connection joins one. The connections of each topic are spread
	// over all gateways.
	Topics      int `json:"topics"`
	Connections int `json:"connections"` // for Churn, how many are on their way at any time
	// Publishers of each topic are the first ones of its connections.
	Publishers int     `json:"publishers,omitempty"`
	Rate       float64 `json:"rate,omitempty"`   // publishes per second, by all publishers together; 0 means as many as it goes
	Window     int     `json:"window,omitempty"` // with Rate 0, unanswered publishes that each publisher has out
	Payload    int     `json:"payload,omitempty"`
	// Pairs of phases of Duration has a Stalled load: one with full sockets, and one without.
	Pairs int `json:"pairs,omitempty"`
	// Established connections are there when those of a Storm come.
	Established int `json:"established,omitempty"`
	// Duration is how long publishers publish or connections come and go. For Idle it is how long at most the memory may
	// take to settle.
	Duration time.Duration `json:"duration_ns"`
}

// Kind is what the connections of a load do.
type Kind string

// The kinds of loads.
const (
	Idle    Kind = "idle"    // join and do nothing; the figure is memory
	Publish Kind = "publish" // join, some of them publish, all receive
	Stalled Kind = "stalled" // as Publish at a rate, in phases: now and then one connection of each topic does not read
	Storm   Kind = "storm"   // join, lose their gateway, and all come to another at once, where some are already
	Churn   Kind = "churn"   // connect, join, leave, close, and again
)

// Loads returns the loads with their usual figures, in the order in which they are best run.
func Loads() []Load {
	return []Load{
		{Name: "idle", Kind: Idle, Topics: 100, Connections: 9000, Duration: 30 * time.Second},
		{Name: "fanout", Kind: Publish, Topics: 1, Connections: 1000, Publishers: 1, Rate: 100, Payload: 128, Duration: 10 * time.Second},
		{Name: "fanout-wide", Kind: Publish, Topics: 1, Connections: 5000, Publishers: 1, Rate: 20, Payload: 128, Duration: 10 * time.Second},
		{Name: "rooms", Kind: Publish, Topics: 500, Connections: 5000, Publishers: 1, Rate: 2000, Payload: 128, Duration: 10 * time.Second},
		{Name: "flood", Kind: Publish, Topics: 1, Connections: 200, Publishers: 8, Window: 64, Payload: 128, Duration: 10 * time.Second},
		{Name: "stalled", Kind: Stalled, Topics: 100, Connections: 10000, Publishers: 1, Rate: 100, Payload: 128, Pairs: 7, Duration: 2 * time.Second},
		{Name: "storm", Kind: Storm, Topics: 100, Connections: 10000, Established: 200, Publishers: 1, Rate: 50, Payload: 128, Duration: 5 * time.Second},
		{Name: "churn", Kind: Churn, Topics: 100, Connections: 64, Duration: 10 * time.Second},
	}
}

// Validate reports every problem at once.
func (l Load) Validate() error {
	var errs []error
	check := func(name string, value, low, high int) {
		if value < low || value > high {
			errs = append(errs, fmt.Errorf("%s: %s is %d: want %d to %d", l.Name, name, value, low, high))
		}
	}
	check("topics", l.Topics, 1, 1_000_000)
	check("connections", l.Connections, 1, 1_000_000)
	if l.Duration < 10*time.Millisecond || l.Duration > time.Hour {
		errs = append(errs, fmt.Errorf("%s: duration is %s: want 10ms to 1h", l.Name, l.Duration))
	}
	switch l.Kind {
	case Idle, Churn:
	case Storm:
		check("established", l.Established, 1, 100_000)
		check("publishers", l.Publishers, 1, min(maxPublishers, l.Established))
		check("payload", l.Payload, minPayload, maxPayload)
		if !(l.Rate > 0 && l.Rate <= 1e6) {
			errs = append(errs, fmt.Errorf("%s: rate is %g: want one, up to 1000000", l.Name, l.Rate))
		}
	case Publish, Stalled:
		least := l.Topics
		if l.Kind == Stalled {
			check("pairs", l.Pairs, 1, 1000)
			least = 2 * l.Topics // besides the one that does not read
		}
		if l.Kind == Stalled && l.Rate == 0 {
			errs = append(errs, fmt.Errorf("%s: rate is 0: want one", l.Name))
		}
		if l.Connections < least {
			errs = append(errs, fmt.Errorf("%s: %d connections cannot join %d topics", l.Name, l.Connections, l.Topics))
			break
		}
		check("publishers", l.Publishers, 1, min(maxPublishers, l.Connections/l.Topics))
		check("payload", l.Payload, minPayload, maxPayload)
		if l.Rate == 0 {
			check("window", l.Window, 1, 1<<16)
		}
		if !(l.Rate >= 0 && l.Rate <= 1e6) {
			errs = append(errs, fmt.Errorf("%s: rate is %g: want 0 to 1000000", l.Name, l.Rate))
		}
	default:
		errs = append(errs, fmt.Errorf("%s: unknown kind %q", l.Name, l.Kind))
	}
	return errors.Join(errs...)
}

// Config says what to measure. Of the zero value, only Load and either BinDir or URLs are missing.
type Config struct {
	Load Load
	Runs int // default 1

	// BinDir holds the binaries gateway and topicserver; Build makes them. Each run starts its own servers from them
	// and ends them afterwards. The servers get this process's environment.
	BinDir       string
	Gateways     int // default 2
	TopicServers int // default 2

	// URLs name running gateways instead, such as ws://127.0.0.1:4000/socket, and Processes all processes whose CPU
	// time and memory count, topic servers too.
	URLs      []string
	Processes []Process

	// FloorCommand, if set, is the program and the arguments that run a Floor as a process of its own; it must print the
	// address it listens on as its first line. Each run then measures both, in alternating order.
	FloorCommand []string

	// Progress gets a line now and then; nil means none.
	Progress io.Writer
}

func (c *Config) setDefaults() error {
	if c.Runs == 0 {
		c.Runs = 1
	}
	if c.Gateways == 0 {
		c.Gateways = 2
	}
	if c.TopicServers == 0 {
		c.TopicServers = 2
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	errs := []error{c.Load.Validate()}
	for _, n := range []struct {
		name  string
		value int
	}{{"runs", c.Runs}, {"gateways", c.Gateways}, {"topic servers", c.TopicServers}} {
		if n.value < 1 || n.value > 100 {
			errs = append(errs, fmt.Errorf("%s: %d: want 1 to 100", n.name, n.value))
		}
	}
	switch {
	case len(c.URLs) == 0 && c.BinDir == "":
		errs = append(errs, errors.New("want either a directory of server binaries or the URLs of running gateways"))
	case len(c.URLs) > 0 && len(c.Processes) == 0:
		errs = append(errs, errors.New("with URLs of running gateways, want the ids of all server processes too"))
	}
	return errors.Join(errs...)
}
