package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// flaky is a server over TCP that says ok to everything but cuts each connection after some frames, in the ways a
// connection can end.
type flaky struct {
	frames int64        // per connection
	conns  atomic.Int64 // so far
	served sync.WaitGroup
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.served.Add(1)
	defer f.served.Done()
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	n := f.conns.Add(1)
	for range f.frames {
		_, data, err := ws.Read(context.Background())
		if err != nil {
			return
		}
		var parts [5]json.RawMessage
		if err := json.Unmarshal(data, &parts); err != nil {
			return
		}
		reply, _ := json.Marshal([]any{parts[0], parts[1], parts[2], "phx_reply", json.RawMessage(`{"status":"ok","response":{}}`)})
		if ws.Write(context.Background(), websocket.MessageText, reply) != nil {
			return
		}
	}
	switch n % 3 {
	case 0:
		ws.Close(websocket.StatusNormalClosure, "")
	case 1:
		ws.Close(websocket.StatusServiceRestart, "drain")
	}
}

// Calls of every kind overlap lost connections and the end of the client; each call ends with a class of its own, and no
// goroutine stays.
func TestManyCallersOverAFlakyServer(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	f := &flaky{frames: 40}
	web := httptest.NewServer(f)
	defer f.served.Wait()
	defer web.Close()
	c, err := Dial(t.Context(), web.URL+"/socket", Config{ReconnectMin: time.Millisecond, RejoinMin: time.Millisecond, ReconnectMax: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	var callers sync.WaitGroup
	var published atomic.Int64
	for _, topic := range []string{"topics:a", "topics:b", "topics:c", "topics:d"} {
		ch := c.Channel(topic, func() any { return nil })
		if err := ch.Join(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 4 {
			callers.Go(func() {
				for !errors.Is(ch.WaitJoined(t.Context()), ErrClosed) {
					switch err := ch.Publish(t.Context(), "ev", nil); {
					case err == nil:
						published.Add(1)
					case errors.Is(err, ErrNotSent) == errors.Is(err, ErrUnknownOutcome):
						t.Errorf("error without one class: %v", err)
					}
				}
			})
		}
	}
	callers.Go(func() {
		for {
			ch, err := c.Join(t.Context(), "topics:e", nil)
			if errors.Is(err, ErrClosed) {
				return
			}
			if err != nil {
				t.Errorf("Join: %v", err)
				return
			}
			if err := ch.Leave(t.Context()); err != nil {
				t.Errorf("Leave: %v", err)
			}
		}
	})
	for f.conns.Load() < 10 || published.Load() < 100 {
		if t.Context().Err() != nil || t.Failed() {
			break
		}
		time.Sleep(time.Millisecond)
	}
	c.Close()
	callers.Wait()
}

func TestCloseLeavesNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	f := &flaky{frames: 1000}
	web := httptest.NewServer(f)
	defer f.served.Wait()
	defer web.Close()
	for range 5 {
		c, err := Dial(t.Context(), web.URL, Config{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Join(t.Context(), "topics:a", nil); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}

	refusing := httptest.NewServer(http.NotFoundHandler())
	defer refusing.Close()
	if _, err := Dial(t.Context(), refusing.URL, Config{}); err == nil {
		t.Error("Dial took a 404")
	}
}
