package client

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

func TestBroadcastsBeforeTheReplyAreNotOurs(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		var log journal
		ch := c.Channel("topics:a", nil)
		ch.OnAny(log.message)
		result := start(func() error { return ch.Join(t.Context()) })
		w := p.expect("phx_join")
		p.write(`[null,null,"topics:a","ev",{"n":1}]`)
		p.reply(w, "ok", `{}`)
		p.write(`[null,null,"topics:a","ev",{"n":2}]`)
		if err := <-result; err != nil {
			t.Fatal(err)
		}
		log.want(t, `ev {"n":2}`)
	})
}

func TestLateReplyIsIgnored(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{PushTimeout: time.Second})
		ch := c.Channel("topics:a", nil)
		join(t, p, ch)
		first := start(func() error { return ch.Publish(t.Context(), "one", nil) })
		late := p.expect("publish")
		if err := <-first; !errors.Is(err, ErrUnknownOutcome) {
			t.Fatal(err)
		}
		second := start(func() error { return ch.Publish(t.Context(), "two", nil) })
		w := p.expect("publish")
		p.reply(late, "error", `{}`)
		p.reply(w, "ok", `{}`)
		if err := <-second; err != nil {
			t.Error(err)
		}
	})
}

// What was skipped is told in its place among the messages, and its position counts for resuming.
func TestSkipped(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		var log journal
		var since any
		ch := c.Channel("topics:a", func() any { return map[string]any{"since": since, "slow": "latest"} })
		ch.OnAny(func(m Message) { since = m.Ref; log.add("%s %s", m.Event, m.Ref) })
		ch.OnSkipped(func(s Skipped) { log.add("skipped %s to %s, %d", s.From, s.To, s.Count) })
		w := join(t, p, ch)
		if want := `["1","1","topics:a","phx_join",{"since":null,"slow":"latest"}]`; w.text != want {
			t.Errorf("sent %s, want %s", w.text, want)
		}
		p.write(fmt.Sprintf(`[%q,"3:14","topics:a","ev",{}]`, w.joinRef))
		p.write(fmt.Sprintf(`[%q,"3:20","topics:a","phx_skipped",{"from":"3:15","to":"3:20","count":5}]`, w.joinRef))
		p.write(fmt.Sprintf(`[%q,"3:21","topics:a","ev",{}]`, w.joinRef))
		log.want(t, "ev 3:14", "phx_skipped 3:20", "skipped 3:15 to 3:20, 5", "ev 3:21")
		p.push(w, "phx_error", `{}`)
		if got := p.expect("phx_join").text; !strings.Contains(got, `"since":"3:21"`) {
			t.Errorf("rejoins with %s", got)
		}
	})
}

func TestMessages(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		var log journal
		ch := c.Channel("topics:a", nil)
		ch.OnAny(func(m Message) { log.add("any %s %s %s%q %s", m.Topic, m.Event, m.Payload, m.Binary, m.Ref) })
		ch.On("ev", func(m Message) { log.add("ev %s", m.Payload) })
		w := join(t, p, ch)
		ch.On("ev", func(m Message) { log.add("ev again") })
		p.push(w, "ev", `{"n": 1}`)
		p.write(fmt.Sprintf(`[%q,"3:14","topics:a","other",{}]`, w.joinRef))
		p.write(`[null,null,"topics:a","presence_diff",{}]`)
		p.ws.Write(t.Context(), websocket.MessageBinary, []byte("\x00\x01\x08\x02"+w.joinRef+"topics:abi\x00\xff"))
		log.want(t,
			`any topics:a ev {"n": 1}"" `, `ev {"n": 1}`, "ev again",
			`any topics:a other {}"" 3:14`,
			`any topics:a presence_diff {}"" `,
			`any topics:a bi "\x00\xff" `)

		p.write(`["99",null,"topics:a","ev",{"stale":1}]`)
		p.write(`["99","99","topics:a","phx_error",{}]`)
		p.write(`["99","99","topics:a","phx_close",{}]`)
		p.write(`["1",null,"topics:other","ev",{}]`)
		p.write(`[null,"77","topics:a","phx_reply",{"status":"ok","response":{}}]`)
		p.write(`[null,null,"topics:a","phx_reply",{"status":"ok","response":{}}]`)
		log.want(t)
		if ch.State() != ChannelJoined || ch.Topic() != "topics:a" {
			t.Errorf("%s is %v", ch.Topic(), ch.State())
		}
	})
}

// The order is the server's: the reply to the join, then what it replays, then live messages; and all callbacks of a
// client keep it over its channels.
func TestCallbacksRunInTheOrderOfTheServer(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		var log journal
		var chs [2]*Channel
		for i, topic := range []string{"topics:a", "topics:b"} {
			chs[i] = c.Channel(topic, nil)
			chs[i].OnAny(func(m Message) { log.add("%s %s", m.Topic, m.Event) })
			chs[i].OnChange(func(change ChannelChange) { log.add("%s %v", topic, change.State) })
		}
		b := join(t, p, chs[1])
		log.take()
		result := start(func() error { return chs[0].Join(t.Context()) })
		a := p.expect("phx_join")
		p.reply(a, "ok", `{"since":"1:2","recovered":true}`)
		p.push(a, "replayed", `{}`)
		var want []string
		for i := range 100 {
			p.push(b, fmt.Sprint(2*i), `{}`)
			p.push(a, fmt.Sprint(2*i+1), `{}`)
			want = append(want, fmt.Sprintf("topics:b %d", 2*i), fmt.Sprintf("topics:a %d", 2*i+1))
		}
		<-result
		log.want(t, append([]string{"topics:a joining", "topics:a joined", "topics:a replayed"}, want...)...)
	})
}

func TestCallbacksMayCallTheClient(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		var log journal
		a, b := c.Channel("topics:a", nil), c.Channel("topics:b", nil)
		a.On("go", func(Message) {
			log.add("publish: %v", a.Publish(t.Context(), "ev", nil))
			log.add("join: %v", b.Join(t.Context()))
			log.add("leave: %v", a.Leave(t.Context()))
		})
		a.On("ev", func(Message) { log.add("own copy") })
		w := join(t, p, a)
		p.push(w, "go", `{}`)
		pub := p.expect("publish")
		for range 100 { // what waits for callbacks does not keep the reply from coming through
			p.push(w, "noise", `{}`)
		}
		p.push(w, "ev", `{}`)
		p.reply(pub, "ok", `{}`)
		p.accept()
		p.reply(p.expect("phx_leave"), "ok", `{}`)
		log.want(t, "publish: <nil>", "join: <nil>", "leave: <nil>") // the own copy came, but the channel was left by then
	})
}
