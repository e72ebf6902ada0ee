package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ringcast/ringcast/cluster/verify/phx"
	"github.com/ringcast/ringcast/cluster/verify/record"
)

const (
	eventName = "event"
	// retryFor is how long a publish of unknown outcome is tried again, from its first try.
	retryFor = 15 * time.Second
	// retryPause is the wait before a try that follows a definite error.
	retryPause = 100 * time.Millisecond
)

// publisher is a client that publishes. It receives what it publishes, too.
type publisher struct {
	*client

	// Static.
	rng   *rand.Rand
	bytes int // of the largest payload, all sizes being as likely; 0: most are small
	// ended, if set, is called on the loop with the record of every publish that has ended.
	ended func(record.Record)

	inFlight atomic.Int64 // publishes that have begun and not ended

	// Owned by the loop.
	count   int
	busy    map[string]int // publishes that have begun and not ended, by topic
	waiting []*publish     // for a try, in the order they were begun
}

// publish is one publish on its way.
type publish struct {
	topic, id string
	payload   []byte // of the push
	begun     time.Time
	tries     int
	unknown   bool // a try may have been applied
}

// newPublisher returns a publisher of topics that is not running yet.
func newPublisher(log *record.Log, name string, cfg clientConfig, topics []string) *publisher {
	p := &publisher{client: newClient(log, name, cfg), rng: cfg.rng, busy: make(map[string]int)}
	for _, topic := range topics {
		p.join(topic, record.Position{}).joined = p.work
	}
	return p
}

// publishAt publishes at a rate to topics at random until ctx ends, with at most window publishes to a topic
// unanswered, so that a topic that is stuck does not hold up the others. What cannot be begun when its time has come is
// left out.
func (p *publisher) publishAt(ctx context.Context, rate float64, window int, topics []string) {
	tick := time.NewTicker(max(time.Duration(float64(time.Second)/rate), 100*time.Microsecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			p.socket.Do(func() {
				p.work() // gives up what has waited for too long
				if topic := topics[p.rng.IntN(len(topics))]; p.busy[topic] < window {
					p.begin(topic)
				}
			})
		}
	}
}

// begin publishes to a topic if that is joined. Called on the loop.
func (p *publisher) begin(topic string) bool {
	if !p.members[topic].channel.Joined() {
		return false
	}
	p.count++
	pub := &publish{topic: topic, id: fmt.Sprintf("%s-%d", p.actor.Name(), p.count), begun: time.Now()}
	body := p.body(pub.id)
	pub.payload = fmt.Appendf(nil, `[%q,%s]`, eventName, body)
	if p.positions {
		pub.payload = fmt.Appendf(nil, `[%q,%s,{"id":%q}]`, eventName, body, pub.id)
	}
	p.actor.Add(record.Record{Kind: record.Invoke, Topic: topic, ID: pub.id, SHA: sum(body)})
	p.inFlight.Add(1)
	p.busy[topic]++
	p.try(pub)
	return true
}

// body makes a payload: mostly short, sometimes long, and with what a server that encodes it anew would change.
func (p *publisher) body(id string) []byte {
	size := p.rng.IntN(500)
	switch {
	case p.bytes > 0:
		size = p.rng.IntN(p.bytes)
	case p.rng.IntN(50) == 0:
		size = 8 << 10
	}
	return fmt.Appendf(nil, `{"id":%q, "n":1.0,"s":"\u0041<é","pad":"%s"}`, id, strings.Repeat("x", size))
}

// try sends a publish, or has it wait until its topic is joined.
func (p *publisher) try(pub *publish) {
	pub.tries++
	if pub.tries > 1 {
		p.actor.Add(record.Record{Kind: record.Retry, Topic: pub.topic, ID: pub.id})
	}
	if !p.socket.Push(p.members[pub.topic].channel, "publish", pub.payload, func(r phx.Result) { p.result(pub, r) }) {
		pub.tries--
		p.waiting = append(p.waiting, pub)
	}
}

// work tries what waits and can be tried, and gives up what has waited for too long.
func (p *publisher) work() {
	waiting := p.waiting
	p.waiting = nil
	for _, pub := range waiting {
		switch {
		case time.Since(pub.begun) > retryFor:
			p.end(pub, record.Record{Kind: record.Info, Reason: "gave up"})
		case p.members[pub.topic].channel.Joined():
			p.try(pub)
		default:
			p.waiting = append(p.waiting, pub)
		}
	}
}

// result handles the end of one try. What is definite about a try is definite about the publish only if no other try
// may have been applied.
func (p *publisher) result(pub *publish, r phx.Result) {
	reason := r.Unanswered
	if r.Status == "error" {
		reason = r.Reason()
	}
	definite := r.Status == "error" && reason != "unknown_outcome"
	switch {
	case r.Status == "ok":
		var response struct {
			Position string `json:"position"`
		}
		_ = json.Unmarshal(r.Response, &response) // what is missing in it the check will miss
		rec := record.Record{Kind: record.OK}
		if p.positions {
			rec.Position, _ = record.ParsePosition(response.Position)
		}
		p.end(pub, rec)
	case definite && !pub.unknown:
		p.end(pub, record.Record{Kind: record.Fail, Reason: reason})
	case !p.positions:
		p.end(pub, record.Record{Kind: record.Info, Reason: reason})
	default:
		pub.unknown = true
		p.waiting = append(p.waiting, pub)
		time.AfterFunc(retryPause, func() { p.socket.Do(p.work) })
	}
}

func (p *publisher) end(pub *publish, rec record.Record) {
	rec.Topic, rec.ID, rec.Tries = pub.topic, pub.id, pub.tries
	p.actor.Add(rec)
	p.inFlight.Add(-1)
	p.busy[pub.topic]--
	if p.ended != nil {
		p.ended(rec)
	}
}

// newProbe returns a publisher that publishes to each topic until one publish has succeeded there. acked gets the record
// of each, and has room for all.
func newProbe(log *record.Log, name string, cfg clientConfig, topics []string, acked chan<- record.Record) *publisher {
	p := newPublisher(log, name, cfg, topics)
	var missing []string
	p.ended = func(end record.Record) {
		if end.Kind == record.OK {
			acked <- end
			return
		}
		time.AfterFunc(retryPause, func() { p.socket.Do(func() { missing = retake(p, append(missing, end.Topic)) }) })
	}
	missing = slices.Clone(topics)
	for _, topic := range topics {
		p.members[topic].joined = func() {
			missing = retake(p, missing)
			p.work()
		}
	}
	return p
}

// retake begins a publish to each topic that is joined, and returns the others.
func retake(p *publisher, topics []string) (rest []string) {
	for _, topic := range topics {
		if !p.begin(topic) {
			rest = append(rest, topic)
		}
	}
	return rest
}
