package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
)

func TestJoinFrame(t *testing.T) {
	n := 0
	tests := []struct {
		name   string
		params any
		want   string
	}{
		{"none", nil, `["1","1","topics:a","phx_join",{}]`},
		{"value", map[string]any{"token": "<&>"}, `["1","1","topics:a","phx_join",{"token":"<&>"}]`},
		{"raw", json.RawMessage(`{"since": null}`), `["1","1","topics:a","phx_join",{"since":null}]`},
		{"function", func() any { n++; return map[string]int{"n": n} }, `["1","1","topics:a","phx_join",{"n":1}]`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *server) {
				c, p := s.dial(Config{})
				if got := join(t, p, c.Channel("topics:a", test.params)).text; got != test.want {
					t.Errorf("sent %s, want %s", got, test.want)
				}
			})
		})
	}
}

func TestJoinRefused(t *testing.T) {
	tests := []struct{ response, reason string }{
		{`"invalid topic name"`, "invalid topic name"},
		{`{"reason":"unmatched topic"}`, "unmatched topic"},
		{`{"reason":"rate_limited","retry_after_ms":5}`, "rate_limited"},
		{`{"code":7}`, `{"code":7}`},
		{`{}`, ""},
		{`null`, ""},
	}
	for _, test := range tests {
		t.Run(test.response, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *server) {
				c, p := s.dial(Config{})
				var log journal
				ch := c.Channel("topics:a", nil)
				ch.OnChange(log.change)
				result := start(func() error { return ch.Join(t.Context()) })
				w := p.expect("phx_join")
				w.joinRef = "" // as Phoenix answers for a topic it has no route for
				p.reply(w, "error", test.response)
				var refused *Error
				if err := <-result; !errors.As(err, &refused) || errors.Is(err, ErrUnknownOutcome) {
					t.Fatalf("error is %v", err)
				}
				if refused.Reason != test.reason || string(refused.Response) != test.response || refused.Topic != "topics:a" || refused.Status != "error" {
					t.Errorf("error is %#v", refused)
				}
				log.want(t, "joining", "closed: "+refused.Error())
				time.Sleep(time.Minute)
				p.expectNothing() // no rejoin, no leave
				join(t, p, ch)    // the topic is free again
			})
		})
	}
}

func TestJoinRefusesWhatCannotBe(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		for topic, params := range map[string]any{"": nil, "a\xff": nil, "topics:a": func() {}, "topics:b": make(chan int)} {
			if _, err := c.Join(t.Context(), topic, params); !errors.Is(err, ErrNotSent) {
				t.Errorf("Join(%q, %T): %v", topic, params, err)
			}
		}
		p.expectNothing()
	})
}

func TestTopicInUse(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		ch := c.Channel("topics:a", nil)
		joining := start(func() error { return ch.Join(t.Context()) })
		first := p.expect("phx_join")
		if _, err := c.Join(t.Context(), "topics:a", nil); !errors.Is(err, ErrTopicInUse) {
			t.Errorf("while joining: %v", err)
		}
		if err := ch.Leave(t.Context()); !errors.Is(err, ErrNotJoined) {
			t.Errorf("Leave while joining: %v", err)
		}
		p.reply(first, "ok", `{}`)
		if err := <-joining; err != nil {
			t.Fatal(err)
		}
		if err := ch.Join(t.Context()); !errors.Is(err, ErrTopicInUse) {
			t.Errorf("same channel again: %v", err)
		}
		p.expectNothing()
	})
}

func TestJoinWaitsForAConnection(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{ReconnectMin: time.Minute, ReconnectMax: time.Minute})
		p.ws.CloseNow()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
		defer cancel()
		if _, err := c.Join(ctx, "topics:a", nil); !errors.Is(err, ErrNotSent) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Join while disconnected: %v", err)
		}
		join(t, s.peer(), c.Channel("topics:a", nil))
	})
}

func TestFirstJoinGoesOnAfterALostConnection(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		n := 0
		ch := c.Channel("topics:a", func() any { n++; return n })
		result := start(func() error { return ch.Join(t.Context()) })
		p.expect("phx_join")
		p.ws.CloseNow()
		p = s.peer()
		if w := p.accept(); w.payload != "2" {
			t.Errorf("joined with %s, want params evaluated again", w.payload)
		}
		if err := <-result; err != nil {
			t.Error(err)
		}
		p.expectNothing()
	})
}

func TestJoinWithoutReplyIsUndone(t *testing.T) {
	for name, limit := range map[string]time.Duration{"context": time.Second, "PushTimeout": 10 * time.Second} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *server) {
				c, p := s.dial(Config{})
				ctx := t.Context()
				if name == "context" {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, limit)
					defer cancel()
				}
				began := time.Now()
				result := start(func() error { _, err := c.Join(ctx, "topics:a", nil); return err })
				asked := p.expect("phx_join")
				leave := p.expect("phx_leave")
				if leave.joinRef != asked.joinRef {
					t.Errorf("left with %s after %s", leave.text, asked.text)
				}
				if err := <-result; !errors.Is(err, ErrUnknownOutcome) || time.Since(began) != limit {
					t.Errorf("error after %v is %v", time.Since(began), err)
				}
				p.reply(asked, "ok", `{}`) // too late
				p.reply(leave, "ok", `{}`)
				join(t, p, c.Channel("topics:a", nil))
			})
		})
	}
}

func TestJoinEndedByTheServer(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		result := start(func() error { _, err := c.Join(t.Context(), "topics:a", nil); return err })
		p.push(p.expect("phx_join"), "phx_error", `{"reason":"channel_crash"}`)
		var refused *Error
		if err := <-result; !errors.As(err, &refused) || err.Error() != "client: phx_error topics:a: ended by the server: channel_crash" {
			t.Errorf("error is %v", err)
		}
		time.Sleep(time.Minute)
		p.expectNothing()
	})
}

func TestPublish(t *testing.T) {
	tests := []struct {
		name    string
		payload any
		want    string
	}{
		{"object", map[string]string{"message": "red <pill> & blue?"}, `["1","2","topics:a","publish",["ev",{"message":"red <pill> & blue?"}]]`},
		{"none", nil, `["1","2","topics:a","publish",["ev",{}]]`},
		{"raw", json.RawMessage(`{"n":1.0}`), `["1","2","topics:a","publish",["ev",{"n":1.0}]]`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *server) {
				c, p := s.dial(Config{})
				ch := c.Channel("topics:a", nil)
				join(t, p, ch)
				result := start(func() error { return ch.Publish(t.Context(), "ev", test.payload) })
				w := p.expect("publish")
				if w.text != test.want {
					t.Errorf("sent %s, want %s", w.text, test.want)
				}
				synctest.Wait()
				select {
				case err := <-result:
					t.Fatalf("returned %v before the reply", err)
				default:
				}
				p.reply(w, "ok", `{}`)
				if err := <-result; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestPush(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		ch := c.Channel("topics:a", nil)
		join(t, p, ch)
		var got json.RawMessage
		push := func(payload any) <-chan error {
			return start(func() (err error) {
				got, err = ch.Push(t.Context(), "whoami", payload)
				return err
			})
		}
		result := push(map[string]int{"x": 1})
		w := p.expect("whoami")
		if w.payload != `{"x":1}` {
			t.Errorf("sent %s", w.text)
		}
		p.reply(w, "ok", `{"id":"u1"}`)
		if err := <-result; err != nil || string(got) != `{"id":"u1"}` {
			t.Errorf("Push returned %s, %v", got, err)
		}
		result = push(nil)
		w = p.expect("whoami")
		p.ws.Write(t.Context(), websocket.MessageBinary, []byte("\x01\x01\x01\x08\x02"+w.joinRef+w.ref+"topics:aok\x00\xff"))
		if err := <-result; err != nil || string(got) != "\x00\xff" {
			t.Errorf("Push returned %q, %v for a binary reply", got, err)
		}
	})
}

func TestPublishBinary(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		ch := c.Channel("topics:a", nil)
		j := join(t, p, ch)
		result := start(func() error { return ch.PublishBinary(t.Context(), "file", []byte("\x00\xff")) })
		w := p.expect("file")
		if w.joinRef != j.joinRef || w.topic != "topics:a" || w.payload != "\x00\xff" {
			t.Errorf("sent %q", w.text)
		}
		p.reply(w, "ok", "{}")
		if err := <-result; err != nil {
			t.Error(err)
		}
		for _, event := range []string{"", "phx_error", strings.Repeat("e", 256)} {
			if err := ch.PublishBinary(t.Context(), event, nil); !errors.Is(err, ErrNotSent) {
				t.Errorf("%.20s: %v", event, err)
			}
		}
		p.expectNothing()
	})
}

func TestPublishOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		ch := c.Channel("topics:a", nil)
		join(t, p, ch)
		for payload, want := range map[any]string{nil: `["ev",{},{"id":"order 17"}]`, [0]int{}: `["ev",[],{"id":"order 17"}]`} {
			result := start(func() error { return ch.PublishOnce(t.Context(), "order 17", "ev", payload) })
			w := p.expect("publish")
			if w.payload != want {
				t.Errorf("sent %s, want %s", w.payload, want)
			}
			p.reply(w, "error", `{"reason":"publish_id reused with different content"}`)
			if _, ok := errors.AsType[*Error](<-result); !ok {
				t.Error("not refused")
			}
		}
		if err := ch.PublishOnce(t.Context(), "x", "ev", func() {}); !errors.Is(err, ErrNotSent) {
			t.Error(err)
		}
		if err := ch.PublishOnce(t.Context(), "x", "phx_x", nil); !errors.Is(err, ErrNotSent) {
			t.Error(err)
		}
	})
}

// Each way a Publish can fail has its class.
func TestPublishFails(t *testing.T) {
	tests := []struct {
		name   string
		during func(p *peer, w wire, cancel func()) // once the frame is at the server
		class  error                                // nil: a definite *Error
		text   string
		after  time.Duration
	}{
		{"refused", func(p *peer, w wire, _ func()) { p.reply(w, "error", `{"reason":"too large"}`) },
			nil, "client: publish topics:a: refused: too large", 0},
		{"refused, own status", func(p *peer, w wire, _ func()) { p.reply(w, "busy", `{}`) },
			nil, "client: publish topics:a: refused", 0},
		{"server does not know", func(p *peer, w wire, _ func()) { p.reply(w, "error", `{"reason":"unknown_outcome"}`) },
			ErrUnknownOutcome, "client: publish topics:a: refused: unknown_outcome", 0},
		{"no reply", func(*peer, wire, func()) {},
			ErrUnknownOutcome, "client: publish topics:a: unknown outcome: no reply within 10s", 10 * time.Second},
		{"context", func(_ *peer, _ wire, cancel func()) { cancel() },
			ErrUnknownOutcome, "client: publish topics:a: unknown outcome: context canceled", 0},
		{"connection", func(p *peer, _ wire, _ func()) { p.ws.Close(1012, "") },
			ErrUnknownOutcome, "client: publish topics:a: unknown outcome: connection lost: server closed the connection: 1012", 0},
		{"channel crashed", func(p *peer, w wire, _ func()) { p.push(w, "phx_error", `{"reason":"channel_crash"}`) },
			ErrUnknownOutcome, "client: publish topics:a: unknown outcome: channel broke: phx_error channel_crash", 0},
		{"channel closed", func(p *peer, w wire, _ func()) { p.push(w, "phx_close", `{"reason":"bye"}`) },
			ErrUnknownOutcome, "client: publish topics:a: unknown outcome: channel broke: phx_close bye", 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *server) {
				c, p := s.dial(Config{})
				ch := c.Channel("topics:a", nil)
				join(t, p, ch)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				began := time.Now()
				result := start(func() error { return ch.Publish(ctx, "ev", nil) })
				go test.during(p, p.expect("publish"), cancel)
				err := <-result
				if err == nil || err.Error() != test.text || time.Since(began) != test.after {
					t.Errorf("error after %v is\n%v, want\n%s", time.Since(began), err, test.text)
				}
				_, refused := errors.AsType[*Error](err)
				if errors.Is(err, ErrUnknownOutcome) != (test.class != nil) || !refused && test.class == nil || errors.Is(err, ErrNotSent) {
					t.Errorf("error %v is of the wrong class", err)
				}
			})
		})
	}
}

// A server that is busy is asked again when it says so, for as long as the caller and PushTimeout allow.
func TestPublishWaitsForABusyServer(t *testing.T) {
	const busy = `{"reason":"busy","retry_after_ms":100}`
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		ch := c.Channel("topics:a", nil)
		join(t, p, ch)
		publish := func(ctx context.Context) <-chan error {
			return start(func() error { return ch.Publish(ctx, "ev", nil) })
		}

		began := time.Now()
		result := publish(t.Context())
		refs := make(map[string]bool)
		for range 3 {
			w := p.expect("publish")
			refs[w.ref] = true
			p.reply(w, "error", busy)
		}
		p.reply(p.expect("publish"), "ok", `{}`)
		if err, took := <-result, time.Since(began); err != nil || took < 300*time.Millisecond || took > 600*time.Millisecond || len(refs) != 3 {
			t.Errorf("three times busy: %v after %v, refs %v", err, took, refs)
		}

		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		result = publish(ctx)
		p.reply(p.expect("publish"), "error", busy)
		if err := <-result; err == nil || err.Error() != "client: publish topics:a: refused: busy" {
			t.Errorf("the caller has no time: %v", err)
		}

		began = time.Now()
		result = publish(t.Context())
		go func() {
			for w := range p.frames {
				p.reply(w, "error", busy)
			}
		}()
		if err, took := <-result, time.Since(began); err == nil || err.Error() != "client: publish topics:a: refused: busy" || took < 9*time.Second || took > 10*time.Second {
			t.Errorf("always busy: %v after %v", err, took)
		}
	})
}

func TestPublishNotSent(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{ReconnectMin: time.Minute, ReconnectMax: time.Minute})
		ch := c.Channel("topics:a", nil)
		if err := ch.Publish(t.Context(), "ev", nil); !errors.Is(err, ErrNotSent) || !errors.Is(err, ErrNotJoined) {
			t.Errorf("before joining: %v", err)
		}
		join(t, p, ch)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := ch.Publish(ended, "ev", nil); !errors.Is(err, ErrNotSent) || !errors.Is(err, context.Canceled) {
			t.Errorf("with an ended context: %v", err)
		}
		for _, event := range []string{"", "phx_leave", "a\xff"} {
			if err := ch.Publish(t.Context(), event, nil); !errors.Is(err, ErrNotSent) {
				t.Errorf("event %q: %v", event, err)
			}
			if _, err := ch.Push(t.Context(), event, nil); !errors.Is(err, ErrNotSent) {
				t.Errorf("pushed event %q: %v", event, err)
			}
		}
		if err := ch.Publish(t.Context(), "ev", func() {}); !errors.Is(err, ErrNotSent) {
			t.Errorf("payload without JSON: %v", err)
		}
		if _, err := ch.Push(t.Context(), "ev", json.RawMessage(`{`)); !errors.Is(err, ErrNotSent) {
			t.Errorf("payload with bad JSON: %v", err)
		}
		p.expectNothing()
		p.ws.CloseNow()
		synctest.Wait()
		if err := ch.Publish(t.Context(), "ev", nil); !errors.Is(err, ErrNotSent) || !errors.Is(err, ErrNotJoined) {
			t.Errorf("while disconnected: %v", err)
		}
	})
}

// A frame that the writer has not taken yet did not go out, and its call knows.
func TestQueuedFramesAreNotSent(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		ch := c.Channel("topics:a", nil)
		join(t, p, ch)
		resume := p.holdReading()
		defer resume()
		publish := func(ctx context.Context, event string) <-chan error {
			result := start(func() error { return ch.Publish(ctx, event, nil) })
			synctest.Wait()
			return result
		}
		arrived := publish(t.Context(), "one")
		writing := publish(t.Context(), "two")
		ctx, cancel := context.WithCancel(t.Context())
		cancelled := publish(ctx, "three")
		queued := publish(t.Context(), "four")
		cancel()
		if err := <-cancelled; !errors.Is(err, ErrNotSent) || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled in the queue: %v", err)
		}
		go p.ws.CloseNow()
		if err := <-queued; !errors.Is(err, ErrNotSent) || !errors.Is(err, errConnectionLost) {
			t.Errorf("in the queue of a lost connection: %v", err)
		}
		for _, result := range []<-chan error{arrived, writing} {
			if err := <-result; !errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("taken by the writer of a lost connection: %v", err)
			}
		}
	})
}

func TestFramesGoOutInOrder(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		ch := c.Channel("topics:a", nil)
		join(t, p, ch)
		resume := p.holdReading()
		defer resume()
		var results []<-chan error
		for i := range 20 {
			results = append(results, start(func() error { return ch.Publish(t.Context(), fmt.Sprint(i), nil) }))
			synctest.Wait()
		}
		resume()
		for i, result := range results {
			w := p.expect("publish")
			if want := fmt.Sprintf(`["%d",{}]`, i); w.payload != want {
				t.Errorf("got %s, want %s", w.payload, want)
			}
			p.reply(w, "ok", `{}`)
			if err := <-result; err != nil {
				t.Error(err)
			}
		}
	})
}

// What ends one channel leaves the calls of the others alone.
func TestABrokenChannelDoesNotDisturbAnother(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		a, b := c.Channel("topics:a", nil), c.Channel("topics:b", nil)
		broken := join(t, p, a)
		join(t, p, b)
		result := start(func() error { return b.Publish(t.Context(), "ev", nil) })
		w := p.expect("publish")
		p.push(broken, "phx_error", `{}`)
		synctest.Wait()
		p.reply(w, "ok", `{}`)
		if err := <-result; err != nil {
			t.Error(err)
		}
	})
}

func TestLeave(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		var log journal
		ch := c.Channel("topics:a", nil)
		ch.OnAny(log.message)
		ch.OnChange(log.change)
		first := join(t, p, ch)
		log.want(t, "joining", "joined rejoin=false {}")
		result := start(func() error { return ch.Leave(t.Context()) })
		leave := p.expect("phx_leave")
		if leave.text != `["1","2","topics:a","phx_leave",{}]` {
			t.Errorf("sent %s", leave.text)
		}
		p.push(first, "ev", `{}`) // was under way
		p.reply(leave, "ok", `{}`)
		p.push(first, "phx_close", `{}`)
		if err := <-result; err != nil {
			t.Error(err)
		}
		if err := ch.Leave(t.Context()); err != nil {
			t.Errorf("second Leave: %v", err)
		}
		if err := ch.Publish(t.Context(), "ev", nil); !errors.Is(err, ErrNotJoined) {
			t.Errorf("Publish after Leave: %v", err)
		}
		if err := ch.WaitJoined(t.Context()); !errors.Is(err, ErrNotJoined) {
			t.Errorf("WaitJoined after Leave: %v", err)
		}
		log.want(t)

		again := join(t, p, ch)
		p.push(first, "ev", `{"life":1}`)
		p.push(again, "ev", `{"life":2}`)
		log.want(t, "joining", "joined rejoin=false {}", `ev {"life":2}`)
		p.ws.CloseNow()
		s.peer().accept()
	})
}

func TestLeftChannelsAreNotRejoined(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		a, b := c.Channel("topics:a", nil), c.Channel("topics:b", nil)
		join(t, p, a)
		join(t, p, b)
		leaving := start(func() error { return a.Leave(t.Context()) })
		p.expect("phx_leave")
		p.ws.CloseNow()
		if err := <-leaving; err != nil {
			t.Errorf("Leave over a lost connection: %v", err)
		}
		if err := b.Leave(t.Context()); err != nil {
			t.Errorf("Leave without connection: %v", err)
		}
		p = s.peer()
		time.Sleep(time.Minute)
		p.expectNothing()
	})
}

func TestLeaveWithoutReply(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		ch := c.Channel("topics:a", nil)
		join(t, p, ch)
		began := time.Now()
		if err := ch.Leave(t.Context()); !errors.Is(err, ErrUnknownOutcome) || time.Since(began) != 10*time.Second {
			t.Errorf("error after %v is %v", time.Since(began), err)
		}
		if ch.State() != ChannelClosed {
			t.Errorf("state is %v", ch.State())
		}
	})
}
