package client

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestEndpoint(t *testing.T) {
	tests := []struct{ in, dial, shown, err string }{
		{"ws://h:4000/socket", "ws://h:4000/socket/websocket?vsn=2.0.0", "ws://h:4000/socket/websocket", ""},
		{"ws://h/socket/", "ws://h/socket/websocket?vsn=2.0.0", "ws://h/socket/websocket", ""},
		{"wss://h/socket/websocket", "wss://h/socket/websocket?vsn=2.0.0", "wss://h/socket/websocket", ""},
		{"http://h", "ws://h/websocket?vsn=2.0.0", "ws://h/websocket", ""},
		{"https://u:p@h/a%2Fb?token=x%26&vsn=1.0.0", "wss://u:p@h/a%2Fb/websocket?token=x%26&vsn=2.0.0", "wss://h/a%2Fb/websocket", ""},
		{"h:4000/socket", "", "", `client: bad url: scheme "h": want ws, wss, http or https`},
		{"/socket", "", "", `client: bad url: scheme "": want ws, wss, http or https`},
		{"ws:///socket", "", "", "client: bad url: no host"},
		{"ws://h/socket#top", "", "", "client: bad url: it has a fragment (#…)"},
		{"ws://h/?a=%zz&token=secret", "", "", "client: bad url: malformed query"},
		{"ws://h:x/?token=secret", "", "", `client: bad url: invalid port ":x" after host`},
	}
	for _, test := range tests {
		dial, shown, err := endpoint(test.in)
		if dial != test.dial || shown != test.shown || fmt.Sprint(err) != test.err && (err != nil || test.err != "") {
			t.Errorf("endpoint(%q) = %q, %q, %v", test.in, dial, shown, err)
		}
	}
	if _, err := Dial(t.Context(), "ftp://h", Config{}); err == nil {
		t.Error("Dial took ftp://h")
	}
}

func TestConfig(t *testing.T) {
	got, err := Config{}.withDefaults()
	if err != nil || got.HeartbeatInterval != 30*time.Second || got.PushTimeout != 10*time.Second || got.ReconnectMin != 100*time.Millisecond ||
		got.ReconnectMax != 10*time.Second || got.RejoinMin != time.Second || got.RejoinMax != 10*time.Second || got.MaxMessageBytes != 1<<20 {
		t.Errorf("defaults are %+v, %v", got, err)
	}
	if got, err := (Config{ReconnectMin: time.Minute}).withDefaults(); err != nil || got.ReconnectMax != time.Minute {
		t.Errorf("ReconnectMax is %v, %v", got.ReconnectMax, err)
	}
	_, err = Dial(t.Context(), "ws://h", Config{
		PushTimeout: -1, HeartbeatInterval: -1, QueueBytes: -1,
		ReconnectMin: 2, ReconnectMax: 1, RejoinMin: 2, RejoinMax: 1,
	})
	for _, name := range []string{"PushTimeout", "HeartbeatInterval", "QueueBytes", "ReconnectMin", "RejoinMin"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v says nothing of %s", err, name)
		}
	}
}

func TestBackoff(t *testing.T) {
	tests := []struct {
		n      int
		random float64
		want   time.Duration
	}{
		{0, 0, 0},
		{0, 0.5, 50 * time.Millisecond},
		{1, 0.5, 100 * time.Millisecond},
		{3, 0.25, 200 * time.Millisecond},
		{6, 0.5, 3200 * time.Millisecond},
		{7, 0.5, 5 * time.Second},
		{1 << 40, 0.5, 5 * time.Second},
	}
	for _, test := range tests {
		if got := backoff(100*time.Millisecond, 10*time.Second, test.n, test.random); got != test.want {
			t.Errorf("backoff(%d, %v) = %v, want %v", test.n, test.random, got, test.want)
		}
	}
	if got := backoff(1<<62, 1<<63-1, 5, 0.5); got < 0 {
		t.Errorf("backoff overflows to %v", got)
	}
}

func TestEventQueueBounds(t *testing.T) {
	q := newEventQueue(3, 10)
	payload := func(n int) Message { return Message{Payload: make([]byte, n)} }
	steps := []struct {
		size int // -1: take one
		full bool
	}{
		{size: 50}, {size: 0, full: true}, {size: -1}, // a big one passes alone
		{size: 6}, {size: 5, full: true}, {size: 4}, {size: 0}, {size: 0, full: true}, // bytes, then messages
		{size: -1}, {size: 6},
	}
	for i, step := range steps {
		if step.size < 0 {
			q.take()
			continue
		}
		if err := q.addMessage(nil, 0, payload(step.size)); errors.Is(err, ErrSlowCallbacks) != step.full {
			t.Errorf("step %d: %v", i, err)
		}
	}
	q.add(event{kind: evRejoin}) // only messages count
	for range 4 {
		if _, ok := q.take(); !ok {
			t.Error("an event is missing")
		}
	}
	if _, ok := q.take(); ok || q.messages != 0 || q.bytes != 0 {
		t.Errorf("empty queue counts %d messages of %d bytes", q.messages, q.bytes)
	}
}

// A queue that never runs empty keeps its order and does not grow.
func TestEventQueueStaysSmall(t *testing.T) {
	q := newEventQueue(100, 100)
	next := uint64(0)
	for i := range uint64(10_000) {
		q.add(event{kind: evChange, life: i})
		if i < 10 {
			continue
		}
		ev, ok := q.take()
		if !ok || ev.life != next {
			t.Fatalf("took %d, want %d", ev.life, next)
		}
		next++
	}
	if cap(q.events) > 512 {
		t.Errorf("room for %d events with 10 waiting", cap(q.events))
	}
}

func TestEventQueueCollapsesDisconnects(t *testing.T) {
	q := newEventQueue(1, 1)
	last := errors.New("last")
	for _, err := range []error{errors.New("first"), errors.New("second"), last} {
		q.add(event{kind: evState, state: StateDisconnected, err: err})
	}
	q.add(event{kind: evState, state: StateConnected})
	if ev, _ := q.take(); ev.err != last {
		t.Errorf("first event is %+v", ev)
	}
	if ev, _ := q.take(); ev.state != StateConnected {
		t.Errorf("second event is %+v", ev)
	}
	q.add(event{kind: evState, state: StateConnected}) // nothing waits that it could replace
	if _, ok := q.take(); !ok {
		t.Error("the event was put in the place of one already taken")
	}
}

func TestStateNames(t *testing.T) {
	for want, s := range map[string]fmt.Stringer{
		"connected": StateConnected, "disconnected": StateDisconnected, "closed": StateClosed, "State(9)": State(9),
		"joining": ChannelJoining, "joined": ChannelJoined, "waiting to rejoin": ChannelWaiting, "ChannelState(9)": ChannelState(9),
	} {
		if s.String() != want {
			t.Errorf("%q, want %q", s.String(), want)
		}
	}
	if ChannelClosed.String() != "closed" {
		t.Error(ChannelClosed.String())
	}
}
