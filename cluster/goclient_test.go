package cluster_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringcast/ringcast/client"
	"github.com/ringcast/ringcast/cluster"
	"github.com/ringcast/ringcast/topicserver"
)

// presentOn lists the keys and devices that a Go client sees.
func presentOn(p *client.Presence) string {
	var b strings.Builder
	for _, present := range p.List() {
		fmt.Fprintf(&b, "%s:%d ", present.Key, len(present.Metas))
	}
	return strings.TrimSpace(b.String())
}

// The client's presence against real gateways: over a lost connection nobody sees a leave, a change is seen as one, and
// Phoenix clients see the same.
func TestGoClientPresence(t *testing.T) {
	t.Parallel()
	c := start(t, func(cfg *cluster.Config) {
		cfg.TopicServer = func(cfg *topicserver.Config) { cfg.PresenceGrace = 6 * time.Second }
	})
	var relays []*relay
	var mu sync.Mutex
	var leaves []string
	rejoined := make(chan struct{}, 10)
	come := func(gateway int, key, device string) (*client.Presence, *client.Client) {
		r, addr := newRelay(t, c.Gateways[gateway].Addr)
		relays = append(relays, r)
		cl, err := client.Dial(t.Context(), "ws://"+addr+"/socket", client.Config{ReconnectMin: 10 * time.Millisecond, PushTimeout: patience})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cl.Close() })
		ch := cl.Channel("room:p", nil)
		p, err := client.NewPresence(ch, client.PresenceConfig{
			Key: key, Meta: map[string]string{"name": device},
			OnLeave: func(key string, remain, _ []client.PresenceMeta) {
				if len(remain) == 0 {
					mu.Lock()
					defer mu.Unlock()
					leaves = append(leaves, key)
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ch.OnChange(func(change client.ChannelChange) {
			if change.State == client.ChannelJoined && change.Rejoin {
				rejoined <- struct{}{}
			}
		})
		if err := ch.Join(t.Context()); err != nil {
			t.Fatal(err)
		}
		return p, cl
	}
	ada, _ := come(0, "ada", "phone")
	bob, _ := come(1, "bob", "phone")
	_, tablet := come(1, "bob", "tablet")
	both := func(want string) {
		t.Helper()
		eventually(t, "both see "+want, func() bool { return presentOn(ada) == want && presentOn(bob) == want })
	}
	both("ada:1 bob:2")
	neo := attend(t, "neo", c.Gateways[0].WebSocketURL(), "room:p", `{"key":"neo"}`)
	both("ada:1 bob:2 neo:1")
	neo.sees("ada/phone bob/phone bob/tablet neo")

	relays[0].cut()
	<-rejoined
	if err := ada.Track(t.Context(), map[string]string{"name": "laptop"}); err != nil {
		t.Error(err)
	}
	eventually(t, "the change is seen", func() bool {
		metas := bob.Get("ada")
		return len(metas) == 1 && strings.Contains(string(metas[0].Meta), "laptop") && metas[0].Prev != ""
	})
	both("ada:1 bob:2 neo:1")
	if err := tablet.Close(); err != nil {
		t.Error(err)
	}
	both("ada:1 bob:1 neo:1")
	if err := bob.Untrack(t.Context()); err != nil {
		t.Error(err)
	}
	both("ada:1 neo:1")
	eventually(t, "both were told that bob has left, and of nobody else", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return fmt.Sprint(leaves) == "[bob bob]"
	})
}

// Bytes and ids against real gateways.
func TestGoClientPublishesBytesAndOnce(t *testing.T) {
	t.Parallel()
	c := start(t, func(cfg *cluster.Config) { cfg.Gateways = 2 })
	got := make(chan client.Message, 10)
	var channels []*client.Channel
	for _, g := range c.Gateways {
		cl, err := client.Dial(t.Context(), g.URL(), client.Config{PushTimeout: patience})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cl.Close() })
		ch := cl.Channel("room:1", nil)
		ch.OnAny(func(m client.Message) { got <- m })
		if err := ch.Join(t.Context()); err != nil {
			t.Fatal(err)
		}
		channels = append(channels, ch)
	}
	if err := channels[0].PublishBinary(t.Context(), "file", []byte("\x00\xff")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if m := <-got; m.Event != "file" || string(m.Binary) != "\x00\xff" {
			t.Errorf("%+v", m)
		}
	}
	for _, ch := range channels {
		if err := ch.PublishOnce(t.Context(), "order-17", "paid", nil); err != nil {
			t.Error(err)
		}
	}
	if err := channels[1].PublishOnce(t.Context(), "order-17", "other", nil); err == nil || !strings.Contains(err.Error(), "reused") {
		t.Error(err)
	}
	if err := channels[1].Publish(t.Context(), "end", nil); err != nil {
		t.Error(err)
	}
	events := map[string]int{}
	for events["end"] < 2 {
		events[(<-got).Event]++
	}
	if events["paid"] != 2 {
		t.Errorf("each of two channels is to get it once: %v", events)
	}
}
