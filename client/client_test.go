package client

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
)

func TestDialSendsWhatItWasGiven(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		s.dial(Config{Header: http.Header{"Authorization": {"Bearer x"}}})
		r := <-s.requests
		if got := r.URL.String(); got != "/socket/websocket?token=secret&vsn=2.0.0" {
			t.Errorf("dialled %s", got)
		}
		if got := r.Header.Get("Authorization"); got != "Bearer x" {
			t.Errorf("Authorization is %q", got)
		}
	})
}

func TestDialFails(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		s.refuseWith(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			http.Error(w, "origin not allowed", http.StatusForbidden)
		})
		_, err := Dial(t.Context(), "ws://server/socket?token=secret", Config{HTTPClient: s.httpClient()})
		var refused *HandshakeError
		if !errors.As(err, &refused) || refused.Status != 403 || refused.RetryAfter != 7*time.Second {
			t.Fatalf("error is %#v", err)
		}
		if got := err.Error(); got != "client: connect ws://server/socket/websocket: server answered 403 Forbidden: origin not allowed" {
			t.Errorf("error text is %s", got)
		}

		s.listener.Close()
		_, err = Dial(t.Context(), "ws://server/socket?token=secret", Config{HTTPClient: s.httpClient()})
		if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("error is %v, want the cause without the token", err)
		}
	})
}

func TestDialEndsWithItsContext(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		free := make(chan struct{})
		defer close(free)
		s.refuseWith(func(http.ResponseWriter, *http.Request) { <-free })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := Dial(ctx, "ws://server/socket", Config{HTTPClient: s.httpClient()})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("error after %v is %v", time.Since(began), err)
		}
		_, err = Dial(t.Context(), "ws://server/socket", Config{HTTPClient: s.httpClient()})
		if took := time.Since(began) - time.Second; err == nil || took != 10*time.Second {
			t.Errorf("error after %v is %v, want one at the default ConnectTimeout", took, err)
		}
	})
}

func TestReconnectsWhateverEndedTheConnection(t *testing.T) {
	tests := []struct {
		name string
		cut  func(p *peer)
		want string
	}{
		{"abrupt", func(p *peer) { p.ws.CloseNow() }, "EOF"},
		{"normal close", func(p *peer) { p.ws.Close(websocket.StatusNormalClosure, "") }, "server closed the connection: 1000"},
		{"drain", func(p *peer) { p.ws.Close(websocket.StatusServiceRestart, "drain") }, "server closed the connection: 1012 drain"},
		{"bad frame", func(p *peer) { p.write(`{"topic":"x"}`) }, "bad frame"},
		{"bad binary frame", func(p *peer) { p.ws.Write(context.Background(), websocket.MessageBinary, []byte{9}) }, "bad binary frame: unknown kind 9"},
		{"long message", func(p *peer) { p.write(`[null,null,"a","b","` + strings.Repeat("x", 2000) + `"]`) }, "read limited at 1001 bytes"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *server) {
				var log journal
				var why error
				c, p := s.dial(Config{MaxMessageBytes: 1000, OnState: func(st State, err error) {
					log.add("%v", st)
					if err != nil {
						why = err
					}
				}})
				ch := c.Channel("topics:a", nil)
				first := join(t, p, ch)
				began := time.Now()
				go test.cut(p)
				second := s.peer()
				if again := second.accept(); again.joinRef == first.joinRef {
					t.Errorf("join_ref %s was used again", again.joinRef)
				}
				if waited := time.Since(began); waited > 100*time.Millisecond {
					t.Errorf("reconnected after %v, want at most ReconnectMin", waited)
				}
				log.want(t, "connected", "disconnected", "connected")
				if why == nil || !strings.Contains(why.Error(), test.want) {
					t.Errorf("OnState said %v, want %q", why, test.want)
				}
				if err := ch.WaitJoined(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestReconnectBacksOff(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		var tries []time.Time
		var log journal
		_, p := s.dial(Config{OnState: func(_ State, err error) { log.add("%v", err) }})
		s.refuseWith(func(w http.ResponseWriter, _ *http.Request) {
			tries = append(tries, time.Now())
			if len(tries) == 10 {
				w.Header().Set("Retry-After", "60")
			}
			if len(tries) == 11 {
				panic(http.ErrAbortHandler) // no answer at all: the Retry-After before is used up
			}
			if len(tries) == 12 {
				s.refuseWith(nil)
			}
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		lost := time.Now()
		p.ws.CloseNow()
		s.peer()
		for i, at := range tries {
			limit := min(100*time.Millisecond<<i, 10*time.Second)
			waited := at.Sub(lost)
			if i == 10 { // after the answer with Retry-After
				waited -= time.Minute
			}
			if waited < 0 || waited > limit {
				t.Errorf("try %d came after %v, want up to %v", i, waited, limit)
			}
			lost = at
		}
		if lines := log.take(); len(lines) != 15 {
			t.Errorf("OnState saw %q, want 12 failed attempts", lines)
		}
	})
}

// A server that takes connections only to drop them is not hammered.
func TestShortConnectionsBackOff(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		_, p := s.dial(Config{ReconnectMin: time.Millisecond, ReconnectMax: 1000 * time.Second})
		began := time.Now()
		for range 25 {
			p.ws.CloseNow()
			p = s.peer()
		}
		if took := time.Since(began); took < time.Second { // with a new start each time it would be at most 25 ms
			t.Errorf("25 reconnects took %v", took)
		}
		time.Sleep(1000 * time.Second)
		began = time.Now()
		p.ws.CloseNow()
		s.peer()
		if took := time.Since(began); took > time.Millisecond {
			t.Errorf("reconnecting after a long connection took %v", took)
		}
	})
}

func TestHeartbeats(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		var log journal
		_, p := s.dial(Config{OnState: func(st State, err error) { log.add("%v %v", st, err) }})
		time.Sleep(10*time.Minute + time.Second)
		if got := p.beats.Load(); got != 20 {
			t.Errorf("%d heartbeats in ten minutes, want 20", got)
		}
		p.answering.Store(false)
		time.Sleep(58 * time.Second)
		log.want(t, "connected <nil>") // the second unanswered heartbeat is not due yet
		time.Sleep(2 * time.Second)
		p.expectEnd()
		s.peer()
		log.want(t, "disconnected no heartbeat reply", "connected <nil>")
	})
}

// A server that stops reading is found out by the write that cannot be finished.
func TestStuckWriteEndsTheConnection(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{PushTimeout: time.Second, HeartbeatInterval: time.Hour})
		ch := c.Channel("topics:a", nil)
		join(t, p, ch)
		resume := p.holdReading()
		defer resume()
		first := start(func() error { return ch.Publish(t.Context(), "one", nil) })
		p.expect("publish")
		second := start(func() error { return ch.Publish(t.Context(), "two", nil) })
		for _, result := range []<-chan error{first, second} {
			if err := <-result; !errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("error is %v", err)
			}
		}
		synctest.Wait() // the write has had its time at this instant too
		resume()
		s.peer().accept()
	})
}

func TestCloseSays1000(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		var log journal
		c, p := s.dial(Config{OnState: func(st State, err error) { log.add("%v %v", st, err) }})
		join(t, p, c.Channel("topics:a", nil))
		twice := start(c.Close)
		c.Close()
		<-twice
		if code := p.expectEnd(); code != websocket.StatusNormalClosure {
			t.Errorf("close code %d", code)
		}
		log.want(t, "connected <nil>", "closed <nil>")
	})
}

func TestCloseDoesNotWaitForADeadServer(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{HeartbeatInterval: time.Second})
		resume := p.holdReading()
		defer resume()
		for p.beats.Load() == 0 { // the frame it was still going to read
			time.Sleep(time.Second)
			synctest.Wait()
		}
		began := time.Now()
		c.Close()
		if took := time.Since(began); took > closeWait {
			t.Errorf("Close took %v", took)
		}
	})
}

func TestCloseWhileReconnecting(t *testing.T) {
	for name, wait := range map[string]time.Duration{"in backoff": 0, "in handshake": time.Hour} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *server) {
				c, p := s.dial(Config{ReconnectMin: 100 * time.Second, ReconnectMax: 100 * time.Second, ConnectTimeout: 2 * time.Hour})
				free := make(chan struct{})
				s.refuseWith(func(http.ResponseWriter, *http.Request) { <-free })
				p.ws.CloseNow()
				synctest.Wait()
				time.Sleep(wait)
				began := time.Now()
				waiting := start(func() error { return c.Channel("topics:a", nil).Join(t.Context()) })
				synctest.Wait()
				c.Close()
				if took := time.Since(began); took != 0 {
					t.Errorf("Close took %v", took)
				}
				if err := <-waiting; !errors.Is(err, ErrClosed) || !errors.Is(err, ErrNotSent) {
					t.Errorf("Join ended with %v", err)
				}
				close(free)
			})
		})
	}
}

func TestCloseEndsCalls(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		ch := c.Channel("topics:a", nil)
		join(t, p, ch)
		publish := start(func() error { return ch.Publish(t.Context(), "ev", nil) })
		p.expect("publish")
		joining := start(func() error { return c.Channel("topics:b", nil).Join(t.Context()) })
		p.expect("phx_join")
		c.Close()
		for _, result := range []<-chan error{publish, joining} {
			if err := <-result; !errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, ErrClosed) {
				t.Errorf("call in progress ended with %v", err)
			}
		}
		for name, err := range map[string]error{
			"Publish": ch.Publish(t.Context(), "ev", nil),
			"Join":    c.Channel("topics:c", nil).Join(t.Context()),
		} {
			if !errors.Is(err, ErrClosed) || !errors.Is(err, ErrNotSent) {
				t.Errorf("%s after Close: %v", name, err)
			}
		}
		if err := ch.WaitJoined(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("WaitJoined after Close: %v", err)
		}
		if err := ch.Leave(t.Context()); err != nil {
			t.Errorf("Leave after Close: %v", err)
		}
	})
}

func TestCloseFromACallbackInAGoroutine(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		ch := c.Channel("topics:a", nil)
		closed := make(chan struct{})
		ch.On("stop", func(Message) {
			go func() {
				defer close(closed)
				c.Close()
			}()
		})
		p.push(join(t, p, ch), "stop", `{}`)
		<-closed
		p.expectEnd()
	})
}
