package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A server whose handshakes lead in circles is asked ten times, not for as long as a handshake may take.
func TestRedirectsEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		s.refuseWith(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.String(), http.StatusFound)
		})
		_, err := Dial(t.Context(), "ws://server/socket?token=secret", Config{HTTPClient: s.httpClient()})
		if err == nil || !strings.Contains(err.Error(), "stopped after 10 redirects") || strings.Contains(err.Error(), "secret") {
			t.Errorf("error %v", err)
		}
		if n := len(s.requests); n != 10 {
			t.Errorf("%d requests", n)
		}
	})
}

// What a server tells of who is there is kept up to a bound; then the connection is made again.
func TestPresenceIsBounded(t *testing.T) {
	for name, tell := range map[string]func(p *peer, j wire, some string){
		"in diffs without a state": func(p *peer, j wire, some string) {
			p.push(j, "presence_diff", `{"joins":{`+some+`},"leaves":{}}`)
		},
		"in states": func(p *peer, j wire, some string) { p.push(j, "presence_state", `{`+some+`}`) },
		"in diffs": func(p *peer, j wire, some string) {
			p.push(j, "presence_state", `{}`)
			p.push(j, "presence_diff", `{"joins":{`+some+`},"leaves":{}}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *server) {
				ended := make(chan error, 10)
				c, p := s.dial(Config{OnState: func(state State, err error) {
					if state == StateDisconnected {
						ended <- err
					}
				}})
				ch := c.Channel("room:1", nil)
				pr, err := NewPresence(ch, PresenceConfig{Watch: true, MaxBytes: 10_000})
				if err != nil {
					t.Fatal(err)
				}
				j := join(t, p, ch)
				few := func(n int) string {
					var keys []string
					for i := range n {
						keys = append(keys, fmt.Sprintf("%q:", fmt.Sprint("k", i))+metas(fmt.Sprint(i)))
					}
					return strings.Join(keys, ",")
				}
				p.push(j, "presence_state", `{`+few(20)+`}`)
				p.push(j, "presence_state", `{}`)
				p.push(j, "presence_diff", `{"joins":{`+few(20)+`},"leaves":{}}`)
				p.push(j, "presence_diff", `{"joins":{},"leaves":{`+few(20)+`}}`)
				p.push(j, "phx_error", `{}`) // nothing counts twice, and what has gone does not count
				j = p.accept()
				for range 10 {
					tell(p, j, few(10)) // the same ones
				}
				tell(p, j, few(200))
				if err := <-ended; !errors.Is(err, ErrPresenceTooLarge) {
					t.Errorf("ended with %v", err)
				}
				s.peer().accept()
				_ = pr.List()
			})
		})
	}
}

// A server that breaks the names' channel again and again, and gives them back never, is asked for them by the last rejoin alone.
func TestNamesAreRestoredOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{RejoinMin: time.Millisecond})
		var n *Names
		result := start(func() (err error) {
			n, err = c.Names(t.Context(), NamesConfig{})
			return err
		})
		j := p.accept()
		if err := <-result; err != nil {
			t.Fatal(err)
		}
		result = start(func() error { return n.Register(context.Background(), "x") })
		p.reply(p.expect("register"), "ok", `{}`)
		if err := <-result; err != nil {
			t.Fatal(err)
		}
		refuse := func(times int) {
			for range times {
				p.reply(p.expect("register"), "error", `{"reason":"weird"}`)
			}
		}
		for range 3 {
			p.push(j, "phx_error", `{}`)
			j = p.accept()
			refuse(20) // until it waits for seconds between two
		}
		began := time.Now()
		refuse(20)
		if took := time.Since(began); took < 45*time.Second {
			t.Errorf("asked 20 times within %v", took)
		}
	})
}
