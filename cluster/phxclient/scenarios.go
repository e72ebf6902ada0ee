package main

import (
	"fmt"
	"time"

	"github.com/nshafer/phx"
)

// scenarios returns what is played, in the order in which it is. Each uses a topic of its own.
func (p *player) scenarios() []scenario {
	alice, bob := p.newClient(0, nil), p.newClient(1, nil)
	// A heartbeat that is not answered before the next is due ends the connection, so the interval leaves a busy machine time.
	quick := p.newClient(0, func(s *phx.Socket) { s.HeartbeatInterval = 3 * time.Second })
	d := &duo{p, alice, bob}
	return []scenario{
		{"join", func() string { alice.join("alice", "room:join"); return "" }},
		{"push with reply", d.pushWithReply},
		{"broadcast over gateways", d.broadcast},
		{"broadcast with vsn 1", d.vsn1},
		{"unknown topic", d.unknownTopic},
		{"leave", d.leave},
		{"duplicate join", d.duplicateJoin},
		{"kill and restart", func() string { return d.comesBack("kill") }},
		{"close 1012 and restart", func() string { return d.comesBack("term") }},
		{"heartbeat", func() string {
			p.until(func() bool { return quick.heartbeats >= 2 }, func() string { return "two heartbeats are answered" })
			p.note(func() { p.same("connections", fmt.Sprint(quick.opens), "1") })
			return ""
		}},
	}
}

// duo is two clients on two gateways.
type duo struct {
	*player
	alice, bob *client
}

func (d *duo) pushWithReply() string {
	a := d.alice.join("alice", "room:push")
	a.shout(1)
	a.hears(`{"n":1}`)
	a.push("publish", []any{"event", map[string]int{"n": 2}}, "ok {}")
	a.hears(`{"n":1}`, `{"n":2}`)
	a.push("publish", []any{"event", "no object"}, `error {"reason":"bad publish: payload: want an object"}`)
	return ""
}

// The library has each message handled on a goroutine of its own, so they are sent one after the other is heard.
func (d *duo) broadcast() string {
	const topic = "room:broadcast"
	a, b := d.alice.join("alice", topic), d.bob.join("bob", topic)
	odd := map[string]any{"text": "Grüße, 世界 \U0001f980 \" \\ \n", "list": []any{1, 2.5, nil, map[string]bool{"deep": true}}, "empty": struct{}{}}
	a.push("event", odd, "ok {}")
	both(a, b, compact(odd))
	b.shout(2)
	both(a, b, compact(odd), `{"n":2}`)
	return ""
}

func both(a, b *room, want ...string) {
	a.hears(want...)
	b.hears(want...)
}

func (d *duo) vsn1() string {
	const topic = "room:vsn1"
	carol := d.newClient(1, func(s *phx.Socket) { s.Serializer = phx.NewJSONSerializerV1() })
	a, c := d.alice.join("alice", topic), carol.join("carol", topic)
	a.shout(1)
	both(a, c, `{"n":1}`)
	c.shout(2)
	both(a, c, `{"n":1}`, `{"n":2}`)
	return ""
}

func (d *duo) unknownTopic() string {
	r := d.alice.room("alice", "nocolon")
	d.same("join", d.answer(r.channel.Join), `error {"reason":"unmatched topic"}`)
	d.note(func() { d.same("joins and connections", fmt.Sprint(r.joins, d.alice.opens), "0 1") })
	_, err := r.channel.Leave() // or the library goes on trying
	d.fail(err)
	r.closed()
	return ""
}

func (d *duo) leave() string {
	const topic = "room:leave"
	a, b := d.alice.join("alice", topic), d.bob.join("bob", topic)
	d.same("leave", d.answer(b.channel.Leave), "ok {}")
	b.closed()
	a.shout(1)
	a.hears(`{"n":1}`)
	again := d.answer(b.channel.Join)
	d.same("join after leave", again, "ok {}")
	b.joined(2)
	a.shout(2)
	a.hears(`{"n":1}`, `{"n":2}`)
	b.hears(`{"n":2}`)
	return ""
}

// A channel of the library joins once, so the second join is sent past it. The first one's end is told to the channel.
func (d *duo) duplicateJoin() string {
	const topic = "room:twice"
	a, b := d.alice.join("alice", topic), d.bob.join("bob", topic)
	ref := d.bob.socket.MakeRef()
	var second []string
	d.bob.socket.OnMessage(func(m phx.Message) {
		if m.Topic == topic && m.JoinRef == ref {
			d.note(func() { second = append(second, m.Event+" "+compact(m.Payload)) })
		}
	})
	d.fail(d.bob.socket.PushMessage(phx.Message{Topic: topic, Event: "phx_join", Payload: struct{}{}, Ref: ref, JoinRef: ref}))
	b.closed()
	gets := func(n int, want string) {
		d.until(func() bool { return len(second) >= n }, func() string { return "the second join gets " + want })
		d.note(func() {
			if d.err == nil {
				d.same("the second join gets", second[n-1], want)
			}
		})
	}
	gets(1, `phx_reply {"response":{},"status":"ok"}`)
	a.shout(1)
	gets(2, `event {"n":1}`)
	b.hears()
	return "two joins in a row, the second past the library's channel, which joins once"
}

// comesBack plays a restart of bob's gateway; how ends it.
func (d *duo) comesBack(how string) string {
	topic := "room:" + how
	a, b := d.alice.join("alice", topic), d.bob.join("bob", topic)
	a.shout(1)
	both(a, b, `{"n":1}`)
	var opens int
	d.note(func() { opens = d.bob.opens })
	d.ask(how, 1)
	d.ask("start", 1)
	d.until(func() bool { return d.bob.opens > opens }, func() string { return "bob's socket opens" })
	b.joined(2)
	a.shout(2)
	both(a, b, `{"n":1}`, `{"n":2}`)
	b.shout(3)
	both(a, b, `{"n":1}`, `{"n":2}`, `{"n":3}`)
	d.note(func() { d.same("alice's connections", fmt.Sprint(d.alice.opens), "1") })
	d.same("leave", d.answer(b.channel.Leave), "ok {}")
	b.closed()
	return ""
}
