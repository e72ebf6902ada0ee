package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ringcast/ringcast/client"
)

// topics are as many as it takes for any server of a ring of three to own some.
var topics = []string{"room:1", "room:2", "room:3", "room:4", "room:5", "room:6", "room:7", "room:8"}

// config is for clients that come back soon.
var config = client.Config{
	ReconnectMin: 50 * time.Millisecond, ReconnectMax: time.Second,
	RejoinMin: 50 * time.Millisecond, RejoinMax: time.Second,
}

// traffic is all that is going on. Commands come one at a time, from one goroutine.
type traffic struct {
	// Static.
	ctx         context.Context
	pace, limit time.Duration

	// Owned by the goroutine of the commands.
	publisher *client.Client
	listeners map[string]*listener
	quit      chan struct{} // closed to stop publishing
	running   sync.WaitGroup
	lines     int // said so far

	mu        sync.Mutex
	faults    []error
	published map[string]int // by topic: messages 1 to this are acknowledged
}

func newTraffic(ctx context.Context, pace, limit time.Duration) *traffic {
	return &traffic{
		ctx: ctx, pace: pace, limit: limit, quit: make(chan struct{}),
		published: make(map[string]int), listeners: make(map[string]*listener),
	}
}

// close ends everything without looking at it any more.
func (t *traffic) close() {
	t.stopPublishing()
	for _, l := range t.listeners {
		_ = l.client.Close()
	}
	if t.publisher != nil {
		_ = t.publisher.Close()
	}
}

// fault returns what has gone wrong so far.
func (t *traffic) fault() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.faults); n > 3 {
		return fmt.Errorf("%w; and %d more faults", errors.Join(t.faults[:3]...), n-3)
	}
	return errors.Join(t.faults...)
}

// failLocked notes a fault.
func (t *traffic) failLocked(format string, args ...any) {
	t.faults = append(t.faults, fmt.Errorf(format, args...))
}

// until waits for a condition, which is evaluated under t.mu, or for a fault.
func (t *traffic) until(ctx context.Context, what string, condition func() bool) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		t.mu.Lock()
		met, failed := condition(), len(t.faults) > 0
		t.mu.Unlock()
		if met || failed {
			return nil // serve reports faults
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waited for %v: %s", t.limit, what)
		}
	}
}

// publish starts a publisher for each topic.
func (t *traffic) publish(ctx context.Context, url string) (string, error) {
	if t.publisher != nil {
		return "", errors.New("publishing already")
	}
	c, err := client.Dial(ctx, url, config)
	if err != nil {
		return "", err
	}
	t.publisher = c
	for _, topic := range topics {
		ch, err := c.Join(ctx, topic, nil)
		if err != nil {
			return "", fmt.Errorf("publisher: join %s: %w", topic, err)
		}
		t.running.Go(func() { t.publishTo(topic, ch) })
	}
	return fmt.Sprintf("publishing to %d topics through %s", len(topics), url), nil
}

// publishTo publishes message after message until quit, or until one fails.
func (t *traffic) publishTo(topic string, ch *client.Channel) {
	tick := time.NewTicker(t.pace)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-t.quit:
			return
		case <-tick.C:
		}
		err := ch.Publish(t.ctx, "n", map[string]int{"n": n})
		t.mu.Lock()
		if err != nil {
			t.failLocked("publish %d to %s: %w", n, topic, err)
		} else {
			t.published[topic] = n
		}
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// stopPublishing returns when no publisher is at work any more.
func (t *traffic) stopPublishing() {
	select {
	case <-t.quit:
	default:
		close(t.quit)
	}
	t.running.Wait()
}

// more waits until ten more messages are published to each topic and heard.
func (t *traffic) more(ctx context.Context, names []string) (string, error) {
	if t.publisher == nil {
		return "", errors.New("nobody publishes")
	}
	heard, err := t.named(names)
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	target := make(map[string]int)
	for _, topic := range topics {
		target[topic] = t.published[topic] + 10
	}
	t.mu.Unlock()
	return t.allHear(ctx, heard, target)
}

// stop stops publishing and waits until every listener has heard all.
func (t *traffic) stop(ctx context.Context) (string, error) {
	t.stopPublishing()
	all, err := t.named(nil)
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	target := maps.Clone(t.published)
	t.mu.Unlock()
	answer, err := t.allHear(ctx, all, target)
	if err != nil {
		return "", err
	}
	total := 0
	for _, n := range target {
		total += n
	}
	return fmt.Sprintf("%d messages, every publish acknowledged; %s", total, answer), nil
}

// allHear waits until the listeners have heard each topic up to its target.
func (t *traffic) allHear(ctx context.Context, listeners []*listener, target map[string]int) (string, error) {
	var names, missing []string
	for _, l := range listeners {
		names = append(names, l.name)
	}
	err := t.until(ctx, "listeners to hear the messages", func() bool {
		missing = missing[:0]
		for _, l := range listeners {
			for topic, n := range target {
				if next := l.topics[topic].next; next <= n {
					missing = append(missing, fmt.Sprintf("%s is at %d of %d of %s", l.name, next-1, n, topic))
				}
			}
		}
		return len(missing) == 0
	})
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, strings.Join(missing[:min(len(missing), 3)], ", "))
	}
	return "heard once and in order by " + strings.Join(names, ", "), nil
}

// named returns the listeners with the names, or all, in the order of their names.
func (t *traffic) named(names []string) ([]*listener, error) {
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(t.listeners))
	}
	if len(names) == 0 {
		return nil, errors.New("nobody listens")
	}
	var found []*listener
	for _, name := range names {
		l := t.listeners[name]
		if l == nil {
			return nil, fmt.Errorf("no listener %q", name)
		}
		found = append(found, l)
	}
	return found, nil
}
