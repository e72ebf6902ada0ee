// Package check judges what the actors of a verification recorded against what a ringcast cluster promises. It is a
// function of the records alone: the same records give the same report.
//
// The invariants, by number and name:
//
//	I1   order       a position of a topic is one message, the same to all who saw it
//	I2   nonmonotonic what a client receives goes forward, and comes once
//	I3   skip        while a channel is joined it misses nothing, and between two joins nothing that it was not told of
//	I4   lost write  an acknowledged publish reaches everybody who should have it
//	I5   phantom     nothing is received that was not published, byte for byte
//	I6   undead      nothing is received that was refused for good
//	I7   duplicate   a publish has one position, however often it was tried
//	I8   real time   what was acknowledged before another was begun stands before it
//	I9   fifo        what one publisher sent first stands first
//	I10  stuck       after the last fault publishing works, and all subscribers arrive at the same position
//	I11  resources   a node uses no more when all is over than before it began, and its queues kept their bounds
//	I12  pause       how long publishes of a topic were not acknowledged
//	node died        a process ended by itself, or did not do what it was told
//
// Without positions (Options.Positions false) the order that subscribers saw takes their place: I1 then says that there
// is one order which all of them saw parts of, and I3 that no message of a publisher is missing between two others.
package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ringcast/ringcast/cluster/verify/record"
)

// The invariants as anomalies name them.
const (
	Order     = "I1 order"
	Forward   = "I2 nonmonotonic"
	Skip      = "I3 skip"
	LostWrite = "I4 lost write"
	Phantom   = "I5 phantom"
	Undead    = "I6 undead"
	Duplicate = "I7 duplicate"
	RealTime  = "I8 real time"
	FIFO      = "I9 fifo"
	Stuck     = "I10 stuck"
	Resources = "I11 resources"
	Pause     = "I12 pause"
	NodeDied  = "node died"
)

// Options say what was promised. The zero value is the weakest promise: no positions, and histories may be lost.
type Options struct {
	// Positions says that channels joined with a since key.
	Positions bool
	// Lossless says that no fault may cost a topic its past: then a client that is told of a gap is an anomaly too.
	Lossless bool
	// Retained is how many messages of a topic its history keeps for sure: who missed more may be told of a gap in any case.
	// 0 means all.
	Retained uint64
	// HealWithin bounds the time from heal to a publish that succeeds, on every topic. Default 10 s.
	HealWithin time.Duration
	// MaxPause, if set, is the longest time that publishes of a topic may go unacknowledged between two that are.
	MaxPause time.Duration
	// BackWithin, if set, bounds the time from the end of a fault of class BackFrom to a publish that succeeds, on every topic.
	BackWithin time.Duration
	BackFrom   string
	// NoErrors says that no channel may end with phx_error.
	NoErrors bool
	// Bounds say how much more than before a node may use at the end. Nil: it is only measured.
	Bounds *Bounds
}

// Anomaly is a broken invariant.
type Anomaly struct {
	Invariant string // one of the constants
	Text      string // what was seen, with the actor and the topic
	Records   []record.Record
}

// String is the anomaly with its records, one a line.
func (a Anomaly) String() string {
	var b strings.Builder
	b.WriteString(a.Invariant + ": " + a.Text)
	for _, r := range a.Records {
		b.WriteString("\n    " + r.String())
	}
	return b.String()
}

// Counts says how much evidence there was.
type Counts struct {
	Topics, Faults                  int
	Published, Acked, Failed        int
	Unknown                         int // publishes without a definite end
	Retried                         int // publishes that were sent more than once
	Reapplied                       int // publishes that stand in two epochs: retried after the first one's end
	Deliveries                      int
	Joins, Resumed, Gaps            int // joins; of them those that resumed, and those that were told of a gap
	PhxErrors, Closes, Epochs       int // Epochs counts those after a topic's first
	Probed                          int // topics on which a publish succeeded after the heal
	Subscribers, FinalPositionsSeen int // memberships at the end, and those that had arrived at the topic's last position
}

// Report is the outcome of a check.
type Report struct {
	Anomalies []Anomaly
	Counts    Counts
	Pauses    []PauseStats
	Nodes     []NodeUsage // of nodes that were asked, by their ids
}

// Check checks records, which must be in the order of their times.
func Check(records []record.Record, opts Options) *Report {
	if opts.HealWithin <= 0 {
		opts.HealWithin = 10 * time.Second
	}
	c := &checker{opts: opts, ops: make(map[string]*op), topics: make(map[string]*topic), actors: make(map[string][]*stream)}
	for i := range records {
		c.index(&records[i])
	}
	names := slices.Sorted(maps.Keys(c.topics))
	for _, name := range names {
		c.checkOps(c.topics[name])
	}
	c.countOps()
	for _, name := range names {
		t := c.topics[name]
		if opts.Positions {
			c.checkPositions(t)
			c.checkRealTime(t)
			c.checkFIFO(t)
		} else {
			c.checkSequences(t)
		}
		c.checkHealed(t)
	}
	c.checkPauses(names)
	c.checkBack(names)
	nodes := c.checkResources()
	c.counts.Topics = len(c.topics)
	return &Report{Anomalies: c.anomalies, Counts: c.counts, Pauses: c.pauses, Nodes: nodes}
}

// checker is one check at work.
type checker struct {
	opts   Options
	ops    map[string]*op       // by id
	topics map[string]*topic    // by name
	actors map[string][]*stream // by actor: a closed socket ends all its memberships
	faults []window
	used   []*record.Record

	heal, end *record.Record

	anomalies []Anomaly
	counts    Counts
	pauses    []PauseStats
}

// op is one publish.
type op struct {
	invoke *record.Record // nil for a phantom
	end    *record.Record // ok, fail or info; nil if the run was over first
	first  *record.Record // the first delivery
	tries  int
	number int  // among the publishes of its publisher to its topic
	twice  bool // stands in two epochs
}

func (o *op) acked() bool { return o.end != nil && o.end.Kind == record.OK }

// steady reports whether the publish was sent once and acknowledged, so that its place among those of its publisher is
// known.
func (o *op) steady() bool { return o.acked() && o.tries == 1 }

// position is where the publish stands as far as anybody knows.
func (o *op) position() record.Position {
	if o.acked() && !o.end.Position.IsZero() {
		return o.end.Position
	}
	if o.first != nil {
		return o.first.Position
	}
	return record.Position{}
}

// topic is what was recorded of one topic.
type topic struct {
	name    string
	ops     []*op // by the time of their invocation
	acks    []*op // by the time of their acknowledgment
	streams []*stream
	epochs  map[string]int // by the time they were first heard of
	// holders is who was first to say what stands at a position.
	holders map[record.Position]*record.Record
}

// stream is all that one client recorded of one topic.
type stream struct {
	actor   string
	records []*record.Record
}

func (c *checker) report(invariant string, records []*record.Record, format string, args ...any) {
	a := Anomaly{Invariant: invariant, Text: fmt.Sprintf(format, args...)}
	for _, r := range records {
		if r != nil {
			a.Records = append(a.Records, *r)
		}
	}
	c.anomalies = append(c.anomalies, a)
}

// index files one record.
func (c *checker) index(r *record.Record) {
	switch r.Kind {
	case record.Invoke, record.Retry, record.OK, record.Fail, record.Info:
		c.indexOp(r)
	case record.Join, record.Recv, record.Left, record.Error:
		s := c.stream(r.Actor, r.Topic)
		s.records = append(s.records, r)
		c.count(r)
	case record.Close:
		if c.end == nil {
			c.counts.Closes++
		}
		for _, s := range c.actors[r.Actor] {
			s.records = append(s.records, r)
		}
	case record.FaultBegin:
		c.counts.Faults++
		c.faults = append(c.faults, window{class: r.ID, begin: r.T, end: r.T, topics: topicsOf(r)})
	case record.FaultEnd:
		for i := len(c.faults) - 1; i >= 0; i-- {
			if c.faults[i].class == r.ID {
				c.faults[i].end = r.T
				break
			}
		}
	case record.Heal:
		c.heal = r
	case record.End:
		c.end = r
	case record.Used:
		c.used = append(c.used, r)
	case record.Bad:
		c.report(Phantom, []*record.Record{r}, "%s received what is no frame: %s", r.Actor, r.Reason)
	case record.Died:
		c.report(NodeDied, []*record.Record{r}, "%s: %s", r.ID, r.Reason)
	}
}

func (c *checker) count(r *record.Record) {
	switch r.Kind {
	case record.Recv:
		c.counts.Deliveries++
	case record.Error:
		if c.counts.PhxErrors++; c.opts.NoErrors {
			c.report(Skip, []*record.Record{r}, "%s's channel on %s ended with phx_error", r.Actor, r.Topic)
		}
	case record.Join:
		c.counts.Joins++
		if r.Asked.IsZero() {
			return
		}
		if r.Recovered {
			c.counts.Resumed++
		} else {
			c.counts.Gaps++
		}
	}
}

func (c *checker) indexOp(r *record.Record) {
	o := c.op(r.ID)
	switch r.Kind {
	case record.Invoke:
		if o.invoke != nil {
			c.report(Duplicate, []*record.Record{o.invoke, r}, "the publisher used id %s twice: the records are useless", r.ID)
			return
		}
		o.invoke, o.tries = r, 1
		t := c.topic(r.Topic)
		for _, earlier := range slices.Backward(t.ops) {
			if earlier.invoke.Actor == r.Actor {
				o.number = earlier.number + 1
				break
			}
		}
		t.ops = append(t.ops, o)
		c.counts.Published++
	case record.Retry:
		o.tries++
	default:
		o.end = r
		if r.Kind == record.OK {
			t := c.topic(r.Topic)
			t.acks = append(t.acks, o)
		}
	}
}

func (c *checker) op(id string) *op {
	o := c.ops[id]
	if o == nil {
		o = &op{}
		c.ops[id] = o
	}
	return o
}

func (c *checker) topic(name string) *topic {
	t := c.topics[name]
	if t == nil {
		t = &topic{name: name, epochs: make(map[string]int), holders: make(map[record.Position]*record.Record)}
		c.topics[name] = t
	}
	return t
}

func (c *checker) stream(actor, name string) *stream {
	t := c.topic(name)
	for _, s := range t.streams {
		if s.actor == actor {
			return s
		}
	}
	s := &stream{actor: actor}
	t.streams = append(t.streams, s)
	c.actors[actor] = append(c.actors[actor], s)
	return s
}
