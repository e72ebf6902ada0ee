// Package record keeps what the actors of a verification did and saw, in memory while it runs and as JSON lines in one
// file per actor when it is kept.
package record

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Kind says what a Record is about.
type Kind string

// What publishers record. Every publish begins with Invoke and ends with one of OK, Fail and Info, or with nothing if
// the run was over first.
const (
	Invoke Kind = "pub.invoke" // Topic, ID, SHA; before the first byte is sent
	Retry  Kind = "pub.retry"  // Topic, ID; the same publish is sent again
	OK     Kind = "pub.ok"     // Topic, ID, Position; Tries
	Fail   Kind = "pub.fail"   // Topic, ID, Reason: every try was refused by a definite error
	Info   Kind = "pub.info"   // Topic, ID, Reason: it may have been published
)

// What subscribers record. A membership of a topic begins with Join and ends with Left, Error or Close.
const (
	Join  Kind = "join"  // Topic, Asked, Position (the reply's since), Recovered
	Recv  Kind = "recv"  // Topic, Position, ID, SHA
	Left  Kind = "left"  // Topic: the client left
	Error Kind = "error" // Topic: phx_error
	Close Kind = "close" // Code, Reason: the socket ended, and with it every membership

	Refused Kind = "refused" // Topic, Reason: a join was refused; the client tries again
	Bad     Kind = "bad"     // Reason: the server sent what is no frame of the protocol
)

// What the one who runs the verification records.
const (
	FaultBegin Kind = "fault.begin" // ID, Reason: class and detail; Topics that it hits, if that is known
	FaultEnd   Kind = "fault.end"   // ID, Reason
	Died       Kind = "died"        // ID, Reason: a node ended by itself, or did not do what it was told
	Heal       Kind = "heal"        // the last fault is over and all nodes run
	End        Kind = "end"         // what has not arrived by now counts as lost
	Used       Kind = "used"        // ID, Reason (one of the phases), Usage: what a node uses
)

// The phases in which nodes are asked what they use.
const (
	Before = "before" // warm, without load and before the first fault
	During = "during"
	After  = "after" // healed, and without load
)

// Usage is what one node uses.
type Usage struct {
	RSS        int64 `json:"rss"`  // bytes
	Heap       int64 `json:"heap"` // bytes that live after a collection; 0 under load
	Goroutines int   `json:"goroutines"`
	FDs        int   `json:"fds"`
	Clients    int   `json:"clients"` // of a gateway; each has one of the FDs
	Queued     int64 `json:"queued"`  // bytes that wait in a gateway for its clients, or are remembered by a topic server,
	Bound      int64 `json:"bound"`   // and how many may be; 0: not known
}

// Position is a place in a topic's order as clients see it: an opaque epoch, and an offset. The zero value is no
// position at all.
type Position struct {
	Epoch  string `json:"epoch,omitempty"`
	Offset uint64 `json:"offset,omitempty"`
}

// ParsePosition parses "<epoch>:<offset>".
func ParsePosition(text string) (Position, error) {
	epoch, offset, ok := cutLast(text, ":")
	n, err := strconv.ParseUint(offset, 10, 64)
	if !ok || epoch == "" || err != nil || strconv.FormatUint(n, 10) != offset {
		return Position{}, fmt.Errorf("position %q: want <epoch>:<offset>", text)
	}
	return Position{Epoch: epoch, Offset: n}, nil
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// IsZero reports whether p is no position.
func (p Position) IsZero() bool { return p == Position{} }

// String is the form that clients get; "none" for no position.
func (p Position) String() string {
	if p.IsZero() {
		return "none"
	}
	return p.Epoch + ":" + strconv.FormatUint(p.Offset, 10)
}

// Record is one thing that one actor did or saw.
type Record struct {
	T         int64    `json:"t"` // ns since the start of the run, monotonic, the same clock for all actors
	Actor     string   `json:"actor"`
	Kind      Kind     `json:"kind"`
	Topic     string   `json:"topic,omitempty"`
	ID        string   `json:"id,omitempty"`
	SHA       string   `json:"sha,omitempty"` // of the payload's bytes
	Position  Position `json:"position,omitzero"`
	Asked     Position `json:"asked,omitzero"`
	Recovered bool     `json:"recovered,omitempty"`
	Tries     int      `json:"tries,omitempty"`
	Code      int      `json:"code,omitempty"`
	Reason    string   `json:"reason,omitempty"`
	Topics    string   `json:"topics,omitempty"` // separated by commas
	Usage     *Usage   `json:"usage,omitempty"`
}

// String is one line for people.
func (r Record) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%10.6fs %-9s %-10s", float64(r.T)/1e9, r.Actor, r.Kind)
	for _, field := range []struct{ name, value string }{
		{"", r.Topic}, {"id", r.ID}, {"sha", r.SHA}, {"reason", r.Reason},
	} {
		if field.name != "" && field.value != "" {
			field.value = field.name + "=" + field.value
		}
		if field.value != "" {
			b.WriteString(" " + field.value)
		}
	}
	if r.Kind == Join {
		fmt.Fprintf(&b, " asked=%v recovered=%t", r.Asked, r.Recovered)
	}
	if !r.Position.IsZero() {
		fmt.Fprintf(&b, " position=%v", r.Position)
	}
	if r.Tries > 1 {
		fmt.Fprintf(&b, " tries=%d", r.Tries)
	}
	if r.Code != 0 {
		fmt.Fprintf(&b, " code=%d", r.Code)
	}
	if r.Usage != nil {
		fmt.Fprintf(&b, " %+v", *r.Usage)
	}
	return b.String()
}

// Log holds the records of one run. Any goroutine may call its methods.
type Log struct {
	start time.Time

	mu     sync.Mutex
	actors []*Actor
}

// NewLog starts a run's clock.
func NewLog() *Log { return &Log{start: time.Now()} }

// Now is the time on the run's clock.
func (l *Log) Now() time.Duration { return time.Since(l.start) }

// Actor adds an actor. Its name must be new, and good for a file name.
func (l *Log) Actor(name string) *Actor {
	a := &Actor{log: l, name: name}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.actors = append(l.actors, a)
	return a
}

// Actor is one source of records.
type Actor struct {
	// Static.
	log  *Log
	name string

	mu      sync.Mutex
	records []Record
}

// Name is the actor's name.
func (a *Actor) Name() string { return a.name }

// Add appends a record, with the actor's name and the time now. Any goroutine may call it.
func (a *Actor) Add(r Record) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r.T, r.Actor = int64(a.log.Now()), a.name // under the lock: an actor's records are in the order of their times
	a.records = append(a.records, r)
}

// Records returns all records so far, in the order of their times; those of one actor stay in their order.
func (l *Log) Records() []Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []Record
	for _, a := range l.actors {
		a.mu.Lock()
		all = append(all, a.records...)
		a.mu.Unlock()
	}
	Sort(all)
	return all
}

// Sort puts records in the order of their times.
func Sort(records []Record) {
	slices.SortStableFunc(records, func(a, b Record) int {
		switch {
		case a.T < b.T:
			return -1
		case a.T > b.T:
			return 1
		}
		return 0
	})
}
