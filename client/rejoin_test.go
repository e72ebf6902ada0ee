package client

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// A channel resumes by a params function; it is evaluated behind every message that came before.
func TestRejoinAfterReconnect(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		var log journal
		var since any
		ch := c.Channel("topics:a", func() any { return map[string]any{"since": since} })
		ch.OnChange(log.change)
		ch.On("ev", func(m Message) {
			time.Sleep(time.Second) // a backlog builds up
			since = m.Ref
			log.add("%s", m.Ref)
		})
		w := join(t, p, ch)
		if w.payload != `{"since":null}` {
			t.Errorf("joined with %s", w.payload)
		}
		for i := range 10 {
			p.write(fmt.Sprintf(`[%q,"1:%d","topics:a","ev",{}]`, w.joinRef, i))
		}
		p.ws.CloseNow()
		p = s.peer()
		again := p.expect("phx_join")
		if again.payload != `{"since":"1:9"}` {
			t.Errorf("rejoined with %s", again.payload)
		}
		p.reply(again, "ok", `{"since":"1:12","recovered":true}`)
		p.write(fmt.Sprintf(`[%q,"1:10","topics:a","ev",{}]`, again.joinRef))
		p.write(fmt.Sprintf(`[%q,"1:11","topics:a","ev",{}]`, w.joinRef)) // stale
		time.Sleep(time.Minute)
		got := log.take()
		want := []string{"joining", "joined rejoin=false {}"}
		for i := range 10 {
			want = append(want, fmt.Sprintf("1:%d", i))
		}
		if len(got) < 12 || fmt.Sprint(got[:12]) != fmt.Sprint(want) {
			t.Fatalf("callbacks saw %q", got)
		}
		rest := got[12:]
		rest[0] = rest[0][:len("waiting to rejoin: connection lost")] // the cause is the system's text
		if want := `["waiting to rejoin: connection lost" "joining" "joined rejoin=true {\"since\":\"1:12\",\"recovered\":true}" "1:10"]`; fmt.Sprintf("%q", rest) != want {
			t.Errorf("then callbacks saw\n%q, want\n%s", rest, want)
		}
	})
}

func TestRejoinAfterPhxError(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		var log journal
		ch := c.Channel("topics:a", nil)
		ch.OnChange(log.change)
		w := join(t, p, ch)
		log.take()
		waiting := start(func() error { return ch.WaitJoined(t.Context()) })
		if err := <-waiting; err != nil {
			t.Errorf("WaitJoined while joined: %v", err)
		}
		began := time.Now()
		p.push(w, "phx_error", `{"reason":"channel_crash"}`)
		log.want(t, "waiting to rejoin: client: phx_error topics:a: ended by the server: channel_crash")
		waiting = start(func() error { return ch.WaitJoined(t.Context()) })
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := ch.WaitJoined(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("WaitJoined with an ended context: %v", err)
		}
		again := p.accept()
		if waited := time.Since(began); waited > time.Second || again.joinRef == w.joinRef {
			t.Errorf("rejoined after %v with %s", waited, again.text)
		}
		if err := <-waiting; err != nil {
			t.Errorf("WaitJoined: %v", err)
		}
		p.push(w, "phx_error", `{}`) // of the membership before
		log.want(t, "joining", "joined rejoin=true {}")
	})
}

func TestRefusedRejoinsBackOff(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{RejoinMin: time.Millisecond, RejoinMax: 1000 * time.Second})
		ch := c.Channel("topics:a", nil)
		w := join(t, p, ch)
		// refuse breaks the channel and refuses n rejoins. At the end the wait is below 1000 s, so that one below 1 ms
		// can only come from a new start.
		refuse := func(n int) {
			t.Helper()
			last := time.Now()
			p.push(w, "phx_error", `{}`)
			for i := range n {
				w = p.expect("phx_join")
				if waited, limit := time.Since(last), min(time.Millisecond<<i, 1000*time.Second); waited > limit {
					t.Errorf("rejoin %d came after %v, want up to %v", i, waited, limit)
				}
				last = time.Now()
				p.reply(w, "error", `{"reason":"rate_limited"}`)
				synctest.Wait()
				if ch.State() != ChannelWaiting {
					t.Errorf("state is %v", ch.State())
				}
			}
		}
		refuse(22)
		w = p.accept()
		refuse(22) // a good join starts the count anew

		p.ws.CloseNow()
		p = s.peer()
		w = p.expect("phx_join")
		refused := time.Now()
		p.reply(w, "error", `{}`)
		p.accept()
		if waited := time.Since(refused); waited > time.Millisecond { // as does a new connection
			t.Errorf("the first rejoin after a reconnect was repeated after %v", waited)
		}
	})
}

func TestLeaveDuringARejoin(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		ch := c.Channel("topics:a", nil)
		join(t, p, ch)
		p.ws.CloseNow()
		p = s.peer()
		asked := p.expect("phx_join")
		leaving := start(func() error { return ch.Leave(t.Context()) })
		leave := p.expect("phx_leave")
		if leave.joinRef != asked.joinRef {
			t.Errorf("left with %s after %s", leave.text, asked.text)
		}
		p.reply(asked, "ok", `{}`)
		p.reply(leave, "ok", `{}`)
		if err := <-leaving; err != nil {
			t.Error(err)
		}
		if ch.State() != ChannelClosed {
			t.Errorf("state is %v", ch.State())
		}
		time.Sleep(time.Minute)
		p.expectNothing()
	})
}

func TestRejoinWithoutReply(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		var log journal
		ch := c.Channel("topics:a", nil)
		ch.OnChange(log.change)
		join(t, p, ch)
		log.want(t, "joining", "joined rejoin=false {}")
		p.ws.CloseNow()
		p = s.peer()
		asked := p.expect("phx_join")
		began := time.Now()
		leave := p.expect("phx_leave")
		if leave.joinRef != asked.joinRef || time.Since(began) != 10*time.Second {
			t.Errorf("after %v: %s", time.Since(began), leave.text)
		}
		p.reply(asked, "ok", `{}`) // too late
		p.reply(leave, "ok", `{}`)
		p.accept()
		lines := log.take()
		if len(lines) != 5 || lines[2] != "waiting to rejoin: client: phx_join topics:a: unknown outcome: no reply to the join" || lines[4] != "joined rejoin=true {}" {
			t.Errorf("OnChange saw %q", lines)
		}
	})
}

// Each waiting channel has a time of its own.
func TestChannelsWaitApart(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		const n = 20
		for i := range n {
			w := join(t, p, c.Channel(fmt.Sprint("topics:", i), nil))
			p.push(w, "phx_error", `{}`)
		}
		began := time.Now()
		moments := map[time.Duration]bool{}
		for range n {
			p.accept()
			moments[time.Since(began)] = true
		}
		if len(moments) < 2 || time.Since(began) > time.Second {
			t.Errorf("%d rejoins at %v", n, moments)
		}
	})
}

// Callbacks that are always behind do not keep channels from coming back.
func TestRejoinsAreNotStarved(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{RejoinMin: time.Minute, RejoinMax: time.Minute})
		busy := c.Channel("topics:busy", nil)
		busy.On("ev", func(Message) { time.Sleep(time.Second) })
		w := join(t, p, busy)
		began := time.Now()
		feeding := start(func() error {
			for range 1000 {
				p.push(w, "ev", `{}`)
				time.Sleep(time.Second / 2)
			}
			return nil
		})
		const n = 10
		for i := range n {
			p.push(join(t, p, c.Channel(fmt.Sprint("topics:", i), nil)), "phx_error", `{}`)
		}
		for range n {
			p.accept()
		}
		if took := time.Since(began); took > 300*time.Second {
			t.Errorf("%d rejoins took %v", n, took)
		}
		<-feeding
	})
}

func TestPhxCloseEndsTheChannel(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		var log journal
		ch := c.Channel("topics:a", nil)
		ch.OnAny(log.message)
		ch.OnChange(log.change)
		w := join(t, p, ch)
		p.push(w, "last", `{}`)
		p.push(w, "phx_close", `{}`)
		p.push(w, "ghost", `{}`)
		log.want(t, "joining", "joined rejoin=false {}", "last {}", "closed: client: phx_close topics:a: ended by the server")
		p.ws.CloseNow()
		p = s.peer()
		time.Sleep(time.Minute)
		p.expectNothing()
		join(t, p, ch)
	})
}

func TestParamsThatFailAtARejoin(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		var log journal
		calls := 0
		ch := c.Channel("topics:a", func() any {
			if calls++; calls == 2 {
				return make(chan int)
			}
			return calls
		})
		join(t, p, ch)
		log.take()
		p.ws.CloseNow()
		if w := s.peer().accept(); w.payload != "3" {
			t.Errorf("rejoined with %s", w.payload)
		}
	})
}

// Leaving and joining again while an old rejoin still waits for the callback goroutine must not lose the new one.
func TestRejoinOfAnEarlierLife(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		release := make(chan struct{})
		busy := c.Channel("topics:busy", nil)
		busy.On("block", func(Message) { <-release })
		block := join(t, p, busy)
		ch := c.Channel("topics:a", nil)
		join(t, p, ch)
		p.push(block, "block", `{}`)
		synctest.Wait()

		p.ws.CloseNow()
		p = s.peer() // both rejoins wait behind the callback
		synctest.Wait()
		if err := ch.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.expectNothing()
		join(t, p, ch)
		p.ws.CloseNow()
		p = s.peer()
		close(release)
		topics := map[string]int{}
		for range 2 {
			topics[p.accept().topic]++
		}
		if topics["topics:a"] != 1 || topics["topics:busy"] != 1 {
			t.Errorf("rejoined %v", topics)
		}
		time.Sleep(time.Minute)
		p.expectNothing()
	})
}

// A client that cannot keep up starts again instead of missing messages unseen.
func TestSlowCallbacks(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		var log journal
		c, p := s.dial(Config{QueueMessages: 5, OnState: func(st State, err error) { log.add("%v %v", st, err) }})
		release := make(chan struct{})
		var since string
		ch := c.Channel("topics:a", func() any { return since })
		ch.On("ev", func(m Message) {
			<-release
			since = m.Ref
			log.add("%s", m.Ref)
		})
		w := join(t, p, ch)
		for i := range 7 { // one in the callback, five waiting, one too many
			p.write(fmt.Sprintf(`[%q,"1:%d","topics:a","ev",{}]`, w.joinRef, i))
			synctest.Wait()
		}
		p.expectEnd()
		p = s.peer()
		close(release)
		if again := p.accept(); again.payload != `"1:5"` {
			t.Errorf("rejoined with %s", again.payload)
		}
		log.want(t, "connected <nil>", "1:0", "1:1", "1:2", "1:3", "1:4", "1:5",
			"disconnected "+ErrSlowCallbacks.Error(), "connected <nil>")
	})
}
