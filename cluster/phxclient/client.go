package main

import (
	"fmt"
	"slices"

	"github.com/nshafer/phx"
)

// client is one socket of the library.
type client struct {
	p      *player
	socket *phx.Socket

	// Guarded by p.mu.
	opens      int
	heartbeats int // answered ones
}

// newClient connects to a gateway, with settings that set may change.
func (p *player) newClient(gateway int, set func(*phx.Socket)) *client {
	endpoint := p.urls[gateway] // a copy, which the library adds its vsn to
	c := &client{p: p, socket: phx.NewSocket(&endpoint)}
	// Before a push is sent again, as joins are, the library removes the handler that has the number of the old push's ref:
	// any handler, for handlers of channels are numbered from 1, too. So begin with refs that no handler has.
	for range 1000 {
		c.socket.MakeRef()
	}
	c.socket.Logger = heartbeatLogger{phx.NewNoopLogger(), c}
	c.socket.OnOpen(func() { p.note(func() { c.opens++ }) })
	if set != nil {
		set(c.socket)
	}
	p.fail(c.socket.Connect())
	return c
}

// heartbeatLogger counts the answers to heartbeats, which the library tells nobody but its logger.
type heartbeatLogger struct {
	phx.Logger
	c *client
}

func (l heartbeatLogger) Println(_ phx.LoggerLevel, kind string, v ...any) {
	if kind != "heartbeat" || len(v) != 2 {
		return
	}
	if answer, ok := v[1].(*phx.Message); ok && answer != nil {
		l.c.p.note(func() { l.c.heartbeats++ })
	}
}

// room is a channel of the library, and what it has told of it.
type room struct {
	p       *player
	who     string
	channel *phx.Channel

	// Guarded by p.mu.
	joins, closes int
	heard         []string // payloads
}

// room returns a channel that has yet to join.
func (c *client) room(who, topic string) *room {
	r := &room{p: c.p, who: who, channel: c.socket.Channel(topic, map[string]string{})}
	r.channel.On("event", func(payload any) { r.p.note(func() { r.heard = append(r.heard, compact(payload)) }) })
	r.channel.OnJoin(func(any) { r.p.note(func() { r.joins++ }) })
	r.channel.OnClose(func(any) { r.p.note(func() { r.closes++ }) })
	return r
}

func (c *client) join(who, topic string) *room {
	r := c.room(who, topic)
	r.p.same(who+"'s join", r.p.answer(r.channel.Join), "ok {}")
	r.joined(1)
	return r
}

// joined waits until the room has been joined so many times in all.
func (r *room) joined(times int) {
	r.p.until(func() bool { return r.joins >= times }, func() string {
		return fmt.Sprintf("%s joins the %d. time, joined %d times", r.who, times, r.joins)
	})
}

func (r *room) closed() {
	r.p.until(func() bool { return r.closes > 0 }, func() string { return r.who + "'s channel is closed" })
}

// hears waits until exactly these payloads have been heard.
func (r *room) hears(want ...string) {
	r.p.until(func() bool { return len(r.heard) >= len(want) }, func() string {
		return fmt.Sprintf("%s hears %q, heard %q", r.who, want, r.heard)
	})
	r.p.note(func() {
		if !slices.Equal(r.heard, want) {
			r.p.fail(fmt.Errorf("%s heard %q, want %q", r.who, r.heard, want))
		}
	})
}

// push pushes and wants this answer.
func (r *room) push(event string, payload any, want string) {
	got := r.p.answer(func() (*phx.Push, error) { return r.channel.Push(event, payload) })
	r.p.same(fmt.Sprintf("%s's %s", r.who, event), got, want)
}

// shout publishes an event with a number, and waits until it is answered.
func (r *room) shout(n int) { r.push("event", map[string]int{"n": n}, "ok {}") }

// answer returns what a push is answered with, as status and response.
func (p *player) answer(send func() (*phx.Push, error)) (answer string) {
	if p.err != nil {
		return ""
	}
	push, err := send()
	if err != nil {
		p.fail(err)
		return ""
	}
	for _, status := range []string{"ok", "error", "timeout"} {
		push.Receive(status, func(response any) { p.note(func() { answer = status + " " + compact(response) }) })
	}
	p.until(func() bool { return answer != "" }, func() string { return "an answer" })
	return answer
}
