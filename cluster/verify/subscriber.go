package verify

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"sync"

	"github.com/ringcast/ringcast/cluster/verify/phx"
	"github.com/ringcast/ringcast/cluster/verify/record"
)

// client is one recorded client: its socket and its memberships.
type client struct {
	// Static.
	actor     *record.Actor
	socket    *phx.Client
	positions bool
	done      chan struct{} // closed when the loop has ended

	// Owned by the loop.
	members map[string]*member

	mu   sync.Mutex
	seen map[string]progress // by topic
}

// progress is how far a client has come on one topic.
type progress struct {
	joined bool
	last   string          // id of the last message received
	at     record.Position // of it, or of the last join
}

// member is a client's membership of one topic.
type member struct {
	channel *phx.Channel

	// Owned by the loop.
	since, asked record.Position // the last one seen, and the one the current join asked for
	joined       func()          // after each join; may be nil
}

// clientConfig says how a client behaves.
type clientConfig struct {
	urls      []string
	scale     float64
	positions bool
	rng       *rand.Rand
	tamper    string
	every     int // one message in so many
	buffer    int // for what is received; 0: the default of phx
}

// newClient returns a client that is not running yet.
func newClient(log *record.Log, name string, cfg clientConfig) *client {
	c := &client{
		actor: log.Actor(name), positions: cfg.positions, done: make(chan struct{}),
		members: make(map[string]*member), seen: make(map[string]progress),
	}
	socket := phx.Config{
		URLs: cfg.urls, Rand: cfg.rng, Scale: cfg.scale, ReadBuffer: cfg.buffer,
		OnClose: c.closed,
		OnBad:   func(err error) { c.actor.Add(record.Record{Kind: record.Bad, Reason: err.Error()}) },
	}
	if cfg.tamper != "" {
		socket.Tamper = tamperer(cfg.tamper, cfg.every, cfg.rng)
	}
	c.socket = phx.New(socket)
	return c
}

// tamperer is a phx.Config.Tamper that does what it is named after to one message in so many.
func tamperer(what string, every int, rng *rand.Rand) func(phx.Frame) []phx.Frame {
	var held *phx.Frame // a message that the next one of its topic overtakes
	return func(f phx.Frame) []phx.Frame {
		if held != nil && held.Topic == f.Topic {
			late := *held
			held = nil
			return []phx.Frame{f, late}
		}
		if f.Event != eventName || held != nil || rng.IntN(every) > 0 {
			return []phx.Frame{f}
		}
		switch what {
		case "double":
			return []phx.Frame{f, f}
		case "swap":
			held = &f
		}
		return nil
	}
}

// run runs the client until ctx ends. It does not wait.
func (c *client) run(ctx context.Context) {
	go func() {
		defer close(c.done)
		c.socket.Run(ctx)
	}()
}

// join has the client join a topic, from since if that is a position and from now otherwise. Called before run, or on
// the loop.
func (c *client) join(topic string, since record.Position) *member {
	m := &member{since: since}
	m.channel = &phx.Channel{
		Topic:     topic,
		Params:    func() []byte { return c.params(m) },
		OnJoin:    func(response json.RawMessage) { c.joined(m, response) },
		OnMessage: func(_, ref string, payload json.RawMessage) { c.received(m, ref, payload) },
		OnEnd: func(event string) {
			c.progress(topic, func(p *progress) { p.joined = false })
			c.actor.Add(record.Record{Kind: record.Error, Topic: topic, Reason: event})
		},
		OnRefused: func(r phx.Reply) {
			c.actor.Add(record.Record{Kind: record.Refused, Topic: topic, Reason: r.Reason()})
		},
	}
	c.members[topic] = m
	c.progress(topic, func(*progress) {})
	c.socket.Join(m.channel)
	return m
}

// leave has the client leave a topic. Called on the loop.
func (c *client) leave(m *member) {
	if m.channel.Joined() {
		c.actor.Add(record.Record{Kind: record.Left, Topic: m.channel.Topic})
	}
	c.progress(m.channel.Topic, func(p *progress) { p.joined = false })
	c.socket.Leave(m.channel)
}

// params is what phoenix.js's params function would return.
func (c *client) params(m *member) []byte {
	m.asked = m.since
	switch {
	case !c.positions:
		return []byte(`{}`)
	case m.since.IsZero():
		return []byte(`{"since":null}`)
	}
	text, _ := json.Marshal(map[string]string{"since": m.since.String()}) // strings always can be
	return text
}

func (c *client) joined(m *member, response json.RawMessage) {
	topic := m.channel.Topic
	var reply struct {
		Since     string `json:"since"`
		Recovered bool   `json:"recovered"`
	}
	_ = json.Unmarshal(response, &reply) // what is missing in it the check will miss
	r := record.Record{Kind: record.Join, Topic: topic, Recovered: reply.Recovered}
	if c.positions {
		r.Asked = m.asked
		r.Position, _ = record.ParsePosition(reply.Since)
		if !r.Position.IsZero() {
			m.since = r.Position
		}
	}
	c.actor.Add(r)
	c.progress(topic, func(p *progress) { p.joined, p.at = true, r.Position })
	if m.joined != nil {
		m.joined()
	}
}

func (c *client) received(m *member, ref string, payload json.RawMessage) {
	topic := m.channel.Topic
	var body struct {
		ID string `json:"id"`
	}
	_ = json.Unmarshal(payload, &body) // without an id it is a phantom
	r := record.Record{Kind: record.Recv, Topic: topic, ID: body.ID, SHA: sum(payload)}
	if c.positions {
		r.Position, _ = record.ParsePosition(ref)
		if !r.Position.IsZero() {
			m.since = r.Position
		}
	}
	c.actor.Add(r)
	c.progress(topic, func(p *progress) { p.last, p.at = body.ID, r.Position })
}

// sum is the hash that stands for a payload in records.
func sum(payload []byte) string {
	h := sha256.Sum256(payload)
	return hex.EncodeToString(h[:8])
}

func (c *client) closed(code int, reason string) {
	c.actor.Add(record.Record{Kind: record.Close, Code: code, Reason: reason})
	c.mu.Lock()
	defer c.mu.Unlock()
	for topic, p := range c.seen {
		p.joined = false
		c.seen[topic] = p
	}
}

func (c *client) progress(topic string, change func(*progress)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.seen[topic]
	change(&p)
	c.seen[topic] = p
}

// all reports whether ok holds for every topic of the client. Any goroutine may call it.
func (c *client) all(ok func(topic string, p progress) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for topic, p := range c.seen {
		if !ok(topic, p) {
			return false
		}
	}
	return true
}

// The ways in which clients churn.
var churns = []string{"drop", "close", "leave", "replace"}

// churn has the client do what clients do. Any goroutine may call it; it does not wait.
func (c *client) churn(how string) {
	c.socket.Do(func() {
		switch how {
		case "drop":
			c.socket.Disconnect(0, "churn: dropped")
		case "close":
			c.socket.Disconnect(1000, "churn: closed")
		case "leave": // and join again, from where it was
			for topic, m := range c.members {
				c.leave(m)
				c.join(topic, m.since).joined = m.joined
			}
		case "replace":
			for _, m := range c.members {
				if m.channel.Joined() {
					c.socket.Join(m.channel)
				}
			}
		}
	})
}
