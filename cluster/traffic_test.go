package cluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringcast/ringcast/client"
)

// listener is a client of the SDK on some topics; it notes what it hears.
type listener struct {
	name   string
	client *client.Client

	mu    sync.Mutex
	heard map[string][]int // by topic: the numbers of the messages, -1 for each time it had to join again
}

const rejoined = -1

// listen connects a client that joins topics and comes back by itself.
func listenTo(t *testing.T, name, url string, topics ...string) *listener {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := client.Dial(ctx, url, quickClient)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	l := &listener{name: name, client: c, heard: make(map[string][]int)}
	for _, topic := range topics {
		ch := c.Channel(topic, nil)
		ch.OnAny(func(m client.Message) {
			var body struct{ N int }
			if err := json.Unmarshal(m.Payload, &body); err != nil || m.Event != "n" {
				t.Errorf("%s heard %s %s", name, m.Event, m.Payload)
			}
			l.note(topic, body.N)
		})
		ch.OnChange(func(change client.ChannelChange) {
			if change.State == client.ChannelJoined && change.Rejoin {
				l.note(topic, rejoined)
			}
		})
		if err := ch.Join(ctx); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return l
}

// quickClient comes back soon.
var quickClient = client.Config{
	ReconnectMin: 10 * time.Millisecond, ReconnectMax: 100 * time.Millisecond,
	RejoinMin: 10 * time.Millisecond, RejoinMax: 100 * time.Millisecond,
	PushTimeout: patience,
}

func (l *listener) note(topic string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard[topic] = append(l.heard[topic], n)
}

func (l *listener) notes(topic string) []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]int(nil), l.heard[topic]...)
}

// hears waits until a message has come, that one or a later one.
func (l *listener) hears(t *testing.T, topic string, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s hears message %d of %s", l.name, n, topic), func() bool {
		notes := l.notes(topic)
		return len(notes) > 0 && notes[len(notes)-1] >= n
	})
}

// rejoins waits until the client has joined the topic again.
func (l *listener) rejoins(t *testing.T, topic string) {
	t.Helper()
	eventually(t, l.name+" has joined "+topic+" again", func() bool {
		for _, n := range l.notes(topic) {
			if n == rejoined {
				return true
			}
		}
		return false
	})
}

// check wants the messages from first to last in order, each once, with holes only where the client joined again, which
// it has done so often.
func (l *listener) check(t *testing.T, topic string, first, last, rejoins int) {
	t.Helper()
	notes := l.notes(topic)
	next, found, hole := first, 0, false
	for i, n := range notes {
		switch {
		case n == rejoined:
			found, hole = found+1, true
		case n == next, hole && n > next:
			next, hole = n+1, false
		default:
			t.Fatalf("%s on %s: note %d is message %d, want %d; all: %v", l.name, topic, i, n, next, notes)
		}
	}
	if next != last+1 || found != rejoins {
		t.Errorf("%s on %s: heard all up to %d and joined again %d times; want %d and %d", l.name, topic, next-1, found, last, rejoins)
	}
}

// publisher publishes numbered messages to a topic, some hundred a second, until stopped. Every publish must succeed.
type publisher struct {
	published atomic.Int64 // messages 1 to this one are acknowledged
	stop      func() int   // returns how many there were
}

func publish(t *testing.T, url, topic string) *publisher {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c, err := client.Dial(ctx, url, quickClient)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	ch, err := c.Join(ctx, topic, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &publisher{}
	var running sync.WaitGroup
	p.stop = func() int {
		cancel()
		running.Wait()
		return int(p.published.Load())
	}
	running.Go(func() {
		pace := time.NewTicker(3 * time.Millisecond)
		defer pace.Stop()
		for n := int64(1); ctx.Err() == nil; n++ {
			// What has begun is to end as it ends.
			if err := ch.Publish(context.WithoutCancel(ctx), "n", map[string]int64{"n": n}); err != nil {
				t.Errorf("publish %d to %s: %v", n, topic, err)
				return
			}
			p.published.Store(n)
			select {
			case <-pace.C:
			case <-ctx.Done():
			}
		}
	})
	t.Cleanup(func() { p.stop() })
	return p
}

// more waits until so many more messages are published.
func (p *publisher) more(t *testing.T, n int64) {
	t.Helper()
	until := p.published.Load() + n
	eventually(t, fmt.Sprintf("%d more publishes", n), func() bool { return p.published.Load() >= until })
}

// hammer publishes to a topic from several goroutines at once, as fast as it is answered, until the end of the test. Each
// publish has to end soon, in a way that tells what has become of it.
type hammer struct {
	mu       sync.Mutex
	outcomes map[outcome]int
}

type outcome string

const (
	done        outcome = "ok"
	notDone     outcome = "unavailable"
	maybeDone   outcome = "unknown_outcome"
	notSent     outcome = "not sent" // the channel was not joined, or ended before the frame was written
	unexplained outcome = "unexplained"
)

// outcomeOf sorts the end of a publish. That the client itself gave up waiting is no explanation.
func outcomeOf(err error) outcome {
	var refused *client.Error
	switch {
	case err == nil:
		return done
	case errors.Is(err, client.ErrNotJoined),
		errors.Is(err, client.ErrNotSent) && strings.Contains(err.Error(), "channel broke: phx_error"):
		return notSent
	case errors.As(err, &refused) && refused.Reason == string(notDone):
		return notDone
	case errors.As(err, &refused) && refused.Reason == string(maybeDone):
		return maybeDone
	case errors.Is(err, client.ErrUnknownOutcome) && strings.Contains(err.Error(), "channel broke: phx_error"):
		return maybeDone
	}
	return unexplained
}

func pound(t *testing.T, url, topic string) *hammer {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c, err := client.Dial(ctx, url, quickClient)
	if err != nil {
		t.Fatal(err)
	}
	ch, err := c.Join(ctx, topic, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := &hammer{outcomes: make(map[outcome]int)}
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			pace := time.NewTicker(time.Millisecond)
			defer pace.Stop()
			for ctx.Err() == nil {
				began := time.Now()
				err := ch.Publish(context.WithoutCancel(ctx), "n", nil)
				end := outcomeOf(err)
				if took := time.Since(began); end == unexplained || took > patience/4 {
					t.Errorf("publish ended after %v with: %v", took, err)
				}
				h.count(end, 1)
				<-pace.C
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		running.Wait()
		_ = c.Close()
	})
	return h
}

// count adds to the number of publishes that ended in this way and returns it.
func (h *hammer) count(o outcome, add int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.outcomes[o] += add
	return h.outcomes[o]
}

// more waits until so many more publishes have ended in this way.
func (h *hammer) more(t *testing.T, o outcome, n int) {
	t.Helper()
	until := h.count(o, 0) + n
	eventually(t, fmt.Sprintf("%d more publishes end %s", n, o), func() bool { return h.count(o, 0) >= until })
}
