package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/ringcast/ringcast/client"
)

// listener is a client that has joined all topics with positions, so that it resumes wherever it comes back.
type listener struct {
	name string
	t    *traffic

	// Owned by the goroutine of the commands.
	client *client.Client  // of the current connection
	first  *client.Channel // of the first topic

	// Guarded by traffic.mu.
	connected bool
	rejoins   int // since the last calm or back
	topics    map[string]*listened
	lines     map[int]int // how often each line was heard
}

// listened is where a listener is in one topic. Guarded by traffic.mu.
type listened struct {
	next   int // message expected next; 0 before the first
	since  any // position of the last one, as the server gave it
	joined bool
}

// listen connects a listener, or moves one to another gateway.
func (t *traffic) listen(ctx context.Context, name, url string) (string, error) {
	l := t.listeners[name]
	if l != nil {
		_ = l.client.Close() // and none of its callbacks runs any more
	} else {
		l = &listener{name: name, t: t, topics: make(map[string]*listened), lines: make(map[int]int)}
		for _, topic := range topics {
			l.topics[topic] = &listened{}
		}
	}
	cfg := config
	cfg.OnState = l.state
	c, err := client.Dial(ctx, url, cfg)
	if err != nil {
		return "", fmt.Errorf("listener %s: %w", name, err)
	}
	l.client, t.listeners[name] = c, l
	t.mu.Lock()
	l.connected, l.rejoins = true, 0
	t.mu.Unlock()
	for i, topic := range topics {
		at := l.topics[topic]
		ch := c.Channel(topic, func() any {
			t.mu.Lock()
			defer t.mu.Unlock()
			return map[string]any{"since": at.since}
		})
		ch.OnAny(func(m client.Message) { l.hear(at, m) })
		ch.OnChange(func(change client.ChannelChange) { l.change(at, topic, change) })
		if i == 0 {
			l.first = ch
		}
		if err := ch.Join(ctx); err != nil {
			return "", fmt.Errorf("listener %s: join %s: %w", name, topic, err)
		}
	}
	return fmt.Sprintf("%s listens to %d topics at %s", name, len(topics), url), nil
}

// state follows the connection.
func (l *listener) state(s client.State, _ error) {
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	l.connected = s == client.StateConnected
}

// hear checks one message.
func (l *listener) hear(at *listened, m client.Message) {
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	at.since = m.Ref
	var body struct{ N, Line int }
	if err := json.Unmarshal(m.Payload, &body); err != nil {
		l.t.failLocked("%s heard %s %s on %s: %w", l.name, m.Event, m.Payload, m.Topic, err)
		return
	}
	switch m.Event {
	case "line":
		if l.lines[body.Line]++; l.lines[body.Line] > 1 {
			l.t.failLocked("%s heard line %d %d times", l.name, body.Line, l.lines[body.Line])
		}
	case "n":
		if at.next != 0 && body.N != at.next {
			l.t.failLocked("%s heard message %d of %s, want %d", l.name, body.N, m.Topic, at.next)
		}
		at.next = body.N + 1
	}
}

// change follows a channel. One that resumes must be told that it missed nothing.
func (l *listener) change(at *listened, topic string, c client.ChannelChange) {
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	at.joined = c.State == client.ChannelJoined
	if !at.joined {
		return
	}
	var reply struct {
		Since     string
		Recovered bool
	}
	if err := json.Unmarshal(c.Response, &reply); err != nil {
		l.t.failLocked("%s: reply to the join of %s: %s: %w", l.name, topic, c.Response, err)
	}
	if at.since != nil && !reply.Recovered {
		l.t.failLocked("%s lost messages of %s: joined since %v, answered %s", l.name, topic, at.since, c.Response)
	}
	if at.since == nil {
		at.since = reply.Since
	}
	if c.Rejoin {
		l.rejoins++
	}
}

// say publishes a line through the listener's own connection.
func (t *traffic) say(ctx context.Context, name string) (string, error) {
	speaker, err := t.named([]string{name})
	if err != nil {
		return "", err
	}
	all, err := t.named(nil)
	if err != nil {
		return "", err
	}
	t.lines++
	line := t.lines
	ch := speaker[0].first
	if err := ch.Publish(ctx, "line", map[string]int{"line": line}); err != nil {
		return "", fmt.Errorf("%s says line %d: %w", name, line, err)
	}
	began := time.Now()
	err = t.until(ctx, "everybody to hear what "+name+" says", func() bool {
		for _, l := range all {
			if l.lines[line] == 0 {
				return false
			}
		}
		return true
	})
	return fmt.Sprintf("%d listeners heard it after %v", len(all), time.Since(began).Round(time.Millisecond)), err
}

// lost waits until a listener is without its connection.
func (t *traffic) lost(ctx context.Context, name string) (string, error) {
	l, err := t.named([]string{name})
	if err != nil {
		return "", err
	}
	err = t.until(ctx, name+" to lose its connection", func() bool { return !l[0].connected })
	return name + " has lost its connection", err
}

// back waits until a listener has joined all topics again.
func (t *traffic) back(ctx context.Context, name string) (string, error) {
	l, err := t.named([]string{name})
	if err != nil {
		return "", err
	}
	err = t.until(ctx, name+" to join again", func() bool {
		for _, at := range l[0].topics {
			if !at.joined {
				return false
			}
		}
		return l[0].connected && l[0].rejoins >= len(topics)
	})
	t.mu.Lock()
	defer t.mu.Unlock()
	l[0].rejoins = 0
	return fmt.Sprintf("%s has joined %d topics again and resumed", name, len(topics)), err
}

// calm tells whether anybody had to join again.
func (t *traffic) calm() (string, error) {
	all, err := t.named(nil)
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range all {
		if l.rejoins > 0 {
			t.failLocked("%s had to join again %d times", l.name, l.rejoins)
		}
	}
	return fmt.Sprintf("none of %d listeners had to join again", len(all)), nil
}
