package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"github.com/ringcast/ringcast/cluster/verify/phx"
	"github.com/ringcast/ringcast/cluster/verify/record"
)

// broker is a server of the protocol with positions, small enough to be seen to be right: one lock, no bounds. It has
// mishaps as a cluster under faults has them, and bugs on demand.
type broker struct {
	bug      string // see TestBugsAreFound
	lossless bool   // no topic loses its past

	mu     sync.Mutex
	topics map[string]*brokerTopic
	epochs int
	count  int // of publishes and deliveries
	calm   bool
}

type brokerTopic struct {
	epoch string
	log   []brokerMessage // the first has offset 1
	ids   map[string]record.Position
	subs  map[*brokerSub]struct{}
	hole  uint64 // an offset that was left out; 0: none
}

type brokerMessage struct {
	pos  record.Position
	body json.RawMessage
}

type brokerSub struct {
	conn    *brokerConn
	joinRef string
}

type brokerConn struct {
	ws   *websocket.Conn
	out  chan []byte
	subs map[string]*brokerSub
	held *phx.Frame // a publish that the next one of its topic overtakes
}

func newBroker(t *testing.T, bug string) (*broker, *deployment) {
	b := &broker{bug: bug, topics: make(map[string]*brokerTopic)}
	srv := httptest.NewServer(b)
	t.Cleanup(srv.Close)
	return b, &deployment{urls: []string{"ws" + strings.TrimPrefix(srv.URL, "http") + "/socket"}}
}

func (b *broker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	c := &brokerConn{ws: ws, out: make(chan []byte, 1<<14), subs: make(map[string]*brokerSub)}
	ctx, cancel := context.WithCancel(r.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case data := <-c.out:
				if ws.Write(ctx, websocket.MessageText, data) != nil {
					return
				}
			}
		}
	})
	for {
		_, data, err := ws.Read(ctx)
		if err != nil {
			break
		}
		f, err := phx.ParseFrame(data)
		if err != nil {
			break
		}
		b.frame(c, f)
	}
	cancel()
	writer.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	for topic, sub := range c.subs {
		delete(b.topics[topic].subs, sub)
	}
}

func (b *broker) frame(c *brokerConn, f phx.Frame) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.topics[f.Topic]
	if t == nil {
		t = &brokerTopic{subs: make(map[*brokerSub]struct{})}
		b.reborn(t)
		b.topics[f.Topic] = t
	}
	sub := c.subs[f.Topic]
	switch f.Event {
	case "heartbeat":
		c.reply(f, "ok", `{}`)
	case "phx_join":
		b.join(c, t, f)
	case "phx_leave":
		c.reply(f, "ok", `{}`)
		if sub != nil {
			b.end(t, f.Topic, sub, "phx_close")
		}
	case "publish":
		if sub == nil || sub.joinRef != f.JoinRef {
			f.JoinRef = ""
			c.reply(f, "error", `{"reason":"unmatched topic"}`)
			return
		}
		if b.bug == "lets one overtake" && c.held == nil && b.turn(11) {
			c.held = &f
			return
		}
		b.publish(c, t, f)
		if late := c.held; late != nil && late.Topic == f.Topic && sub.joinRef == late.JoinRef {
			c.held = nil
			b.publish(c, t, *late)
		}
	}
}

func (c *brokerConn) send(f phx.Frame) {
	select {
	case c.out <- f.Append(nil):
	default:
		c.ws.CloseNow()
	}
}

func (c *brokerConn) reply(f phx.Frame, status, response string) {
	c.send(phx.Frame{JoinRef: f.JoinRef, Ref: f.Ref, Topic: f.Topic, Event: "phx_reply",
		Payload: fmt.Appendf(nil, `{"status":%q,"response":%s}`, status, response)})
}

// reborn gives a topic a new epoch.
func (b *broker) reborn(t *brokerTopic) {
	b.epochs++
	if b.bug != "reuses positions" || t.epoch == "" {
		t.epoch = fmt.Sprintf("epoch%d", b.epochs)
	}
	t.log, t.ids, t.hole = nil, make(map[string]record.Position), 0
}

func (b *broker) end(t *brokerTopic, topic string, sub *brokerSub, event string) {
	delete(t.subs, sub)
	if sub.conn.subs[topic] == sub {
		delete(sub.conn.subs, topic)
	}
	sub.conn.send(phx.Frame{JoinRef: sub.joinRef, Ref: sub.joinRef, Topic: topic, Event: event, Payload: []byte("{}")})
}

func (b *broker) join(c *brokerConn, t *brokerTopic, f phx.Frame) {
	var params struct{ Since *string }
	_ = json.Unmarshal(f.Payload, &params)
	at := record.Position{Epoch: t.epoch, Offset: uint64(len(t.log))}
	recovered := false
	var missed []brokerMessage
	if params.Since != nil {
		since, _ := record.ParsePosition(*params.Since)
		if since.Epoch == t.epoch && since.Offset <= uint64(len(t.log)) {
			recovered, at, missed = true, since, t.log[since.Offset:]
		} else if b.bug == "denies loss" {
			recovered, at = true, since
		}
	}
	if b.bug == "recovers nothing" {
		missed = nil
	}
	if old := c.subs[f.Topic]; old != nil {
		b.end(t, f.Topic, old, "phx_close")
	}
	sub := &brokerSub{conn: c, joinRef: f.JoinRef}
	c.subs[f.Topic], t.subs[sub] = sub, struct{}{}
	c.reply(f, "ok", fmt.Sprintf(`{"since":%q,"recovered":%t}`, at, recovered))
	for _, m := range missed {
		c.deliver(sub, f.Topic, m)
	}
}

func (c *brokerConn) deliver(sub *brokerSub, topic string, m brokerMessage) {
	c.send(phx.Frame{JoinRef: sub.joinRef, Ref: m.pos.String(), Topic: topic, Event: eventName, Payload: m.body})
}

// turn is true at one call in so many, of all calls.
func (b *broker) turn(every int) bool {
	b.count++
	return !b.calm && b.count%every == 0
}

// rest ends all mishaps, for who has to come back from the last ones may be slow.
func (b *broker) rest() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calm = true
}

// turns is how often turn was called.
func (b *broker) turns() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count
}

func (b *broker) publish(c *brokerConn, t *brokerTopic, f phx.Frame) {
	var parts []json.RawMessage
	var opts struct{ ID string }
	if json.Unmarshal(f.Payload, &parts) != nil || len(parts) != 3 || json.Unmarshal(parts[2], &opts) != nil {
		c.reply(f, "error", `{"reason":"bad publish"}`)
		return
	}
	if b.turn(13) && b.bug != "applies what it refuses" {
		c.reply(f, "error", `{"reason":"busy"}`)
		return
	}
	pos, known := t.ids[opts.ID]
	if !known || b.bug == "forgets ids" {
		pos = record.Position{Epoch: t.epoch, Offset: uint64(len(t.log) + 1)}
		// Some publishes later, so that whoever fills the hole has begun after the one behind it was answered.
		late := t.hole > 0 && uint64(len(t.log)) >= t.hole+4
		if late {
			pos.Offset, t.hole = t.hole, 0
		} else if b.bug == "fills holes later" && t.hole == 0 && b.turn(11) {
			t.hole = pos.Offset
			t.log = append(t.log, brokerMessage{pos, parts[1]})
			pos.Offset++
		}
		if b.bug == "acknowledges before it commits" && b.turn(11) {
			c.reply(f, "ok", fmt.Sprintf(`{"position":%q}`, pos))
			return
		}
		m := brokerMessage{pos, parts[1]}
		if b.bug == "encodes anew" {
			var v any
			_ = json.Unmarshal(m.body, &v)
			m.body, _ = json.Marshal(v)
		}
		if t.ids[opts.ID] = pos; late {
			t.log[pos.Offset-1] = m
		} else {
			t.log = append(t.log, m)
		}
		for sub := range t.subs {
			if b.bug != "skips a subscriber" || !b.turn(23) {
				sub.conn.deliver(sub, f.Topic, m)
			}
		}
	}
	switch {
	case b.bug == "applies what it refuses" && b.turn(11):
		c.reply(f, "error", `{"reason":"busy"}`)
	case b.turn(17):
		c.ws.CloseNow() // applied, and nobody knows
	case b.turn(19):
		c.reply(f, "error", `{"reason":"unknown_outcome"}`)
	default:
		c.reply(f, "ok", fmt.Sprintf(`{"position":%q}`, pos))
	}
	// A probe comes when everything is healed: from then on a loss would be no mishap but a bug.
	if !b.lossless && !strings.HasPrefix(opts.ID, "probe-") && b.turn(37) {
		b.reborn(t)
		for sub := range t.subs {
			if b.bug != "loses in silence" {
				b.end(t, f.Topic, sub, "phx_error")
			}
		}
	}
}
