package phx

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

const patience = 10 * time.Second

// server is a scripted Phoenix server: the test reads each connection's frames and writes what it likes.
type server struct {
	*httptest.Server
	t     *testing.T
	conns chan *peer
}

type peer struct {
	t  *testing.T
	ws *websocket.Conn
}

func newServer(t *testing.T) *server {
	s := &server{t: t, conns: make(chan *peer, 16)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/socket/websocket" || r.URL.Query().Get("vsn") != "2.0.0" {
			t.Errorf("request %s", r.URL)
		}
		ws, err := websocket.Accept(w, r, nil)
		if err == nil {
			s.conns <- &peer{t, ws}
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) url() string { return "ws" + strings.TrimPrefix(s.URL, "http") + "/socket" }

// peer waits for the next connection.
func (s *server) peer() *peer {
	s.t.Helper()
	select {
	case p := <-s.conns:
		s.t.Cleanup(func() { p.ws.CloseNow() })
		return p
	case <-time.After(patience):
		s.t.Fatal("no connection came")
		return nil
	}
}

// hears returns the next frame that is no heartbeat.
func (p *peer) hears() Frame {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	for {
		_, data, err := p.ws.Read(ctx)
		if err != nil {
			p.t.Fatal(err)
		}
		f, err := ParseFrame(data)
		if err != nil {
			p.t.Fatal(err)
		}
		if f.Event != "heartbeat" {
			return f
		}
	}
}

// expects reads a frame with an event and a payload.
func (p *peer) expects(event, payload string) Frame {
	p.t.Helper()
	f := p.hears()
	if f.Event != event || string(f.Payload) != payload {
		p.t.Fatalf("heard %s %s, want %s %s", f.Event, f.Payload, event, payload)
	}
	return f
}

func (p *peer) says(format string, args ...any) {
	p.t.Helper()
	if err := p.ws.Write(p.t.Context(), websocket.MessageText, fmt.Appendf(nil, format, args...)); err != nil {
		p.t.Fatal(err)
	}
}

// accepts answers a join.
func (p *peer) accepts(join Frame) {
	p.t.Helper()
	p.says(`[%q,%q,%q,"phx_reply",{"status":"ok","response":{}}]`, join.JoinRef, join.Ref, join.Topic)
}

// user is a client with one channel, and what happens to it.
type user struct {
	*Client
	*Channel
	t      *testing.T
	events chan string
	done   chan struct{}
}

// start runs a client that joins "a". Its n-th join has the params {"n":n}.
func start(t *testing.T, s *server, adjust func(*Config)) *user {
	u := &user{t: t, events: make(chan string, 100), done: make(chan struct{})}
	cfg := Config{
		URLs: []string{s.url()}, Rand: rand.New(rand.NewPCG(1, 1)), Scale: 0.01,
		OnClose: func(code int, _ string) { u.events <- fmt.Sprint("close ", code) },
		OnBad:   func(error) { u.events <- "bad" },
	}
	if adjust != nil {
		adjust(&cfg)
	}
	n := 0
	u.Client = New(cfg)
	u.Channel = &Channel{
		Topic:  "a",
		Params: func() []byte { n++; return fmt.Appendf(nil, `{"n":%d}`, n) },
		OnJoin: func(json.RawMessage) { u.events <- "joined" },
		OnMessage: func(event, ref string, payload json.RawMessage) {
			u.events <- event + " " + ref + " " + string(payload)
		},
		OnEnd:     func(event string) { u.events <- event },
		OnRefused: func(r Reply) { u.events <- "refused " + r.Reason() },
	}
	u.Join(u.Channel)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(u.done)
		u.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-u.done
	})
	return u
}

func (u *user) expects(events ...string) {
	u.t.Helper()
	for _, want := range events {
		select {
		case got := <-u.events:
			if got != want {
				u.t.Fatalf("%s, want %s", got, want)
			}
		case <-time.After(patience):
			u.t.Fatalf("nothing, want %s", want)
		}
	}
}

func TestParamsAreEvaluatedAtEachJoin(t *testing.T) {
	s := newServer(t)
	u := start(t, s, nil)
	p := s.peer()
	p.accepts(p.expects("phx_join", `{"n":1}`))
	u.expects("joined")
	p.ws.Close(1012, "restart")
	u.expects("close 1012")
	p = s.peer()
	join := p.expects("phx_join", `{"n":2}`)
	p.accepts(join)
	u.expects("joined")
	p.says(`[%q,%q,"a","phx_error",{}]`, join.JoinRef, join.JoinRef)
	u.expects("phx_error")
	p.accepts(p.expects("phx_join", `{"n":3}`))
	u.expects("joined")
}

func TestARefusedJoinIsTriedAgain(t *testing.T) {
	s := newServer(t)
	u := start(t, s, nil)
	p := s.peer()
	join := p.expects("phx_join", `{"n":1}`)
	p.says(`[%q,%q,"a","phx_reply",{"status":"error","response":{"reason":"unavailable"}}]`, join.JoinRef, join.Ref)
	u.expects("refused unavailable")
	p.accepts(p.expects("phx_join", `{"n":2}`))
	u.expects("joined")
}

func TestAJoinWithoutAnswerIsLeft(t *testing.T) {
	s := newServer(t)
	u := start(t, s, nil)
	p := s.peer()
	join := p.expects("phx_join", `{"n":1}`)
	if leave := p.expects("phx_leave", `{}`); leave.JoinRef != join.JoinRef {
		t.Errorf("left %s, joined %s", leave.JoinRef, join.JoinRef)
	}
	p.accepts(join) // too late
	p.says(`[%q,%q,"a","phx_close",{}]`, join.JoinRef, join.JoinRef)
	p.accepts(p.expects("phx_join", `{"n":2}`))
	u.expects("joined")
}

func TestFramesOfAnOlderJoinAreDropped(t *testing.T) {
	s := newServer(t)
	u := start(t, s, nil)
	p := s.peer()
	first := p.expects("phx_join", `{"n":1}`)
	p.accepts(first)
	u.expects("joined")
	u.Do(func() { u.Join(u.Channel) })
	second := p.expects("phx_join", `{"n":2}`)
	p.says(`[%q,null,"a","event",{"of":"first"}]`, first.JoinRef)
	p.accepts(second)
	p.says(`[%q,%q,"a","phx_close",{}]`, first.JoinRef, first.JoinRef)
	p.says(`[%q,"e:7","a","event",{"of":"second"}]`, second.JoinRef)
	u.expects("joined", `event e:7 {"of":"second"}`)
}

func TestNoConnectionAfterClose1000(t *testing.T) {
	s := newServer(t)
	u := start(t, s, nil)
	p := s.peer()
	p.accepts(p.expects("phx_join", `{"n":1}`))
	u.expects("joined")
	p.ws.Close(1000, "bye")
	u.expects("close 1000")
	select {
	case <-s.conns:
		t.Error("connected again")
	case <-time.After(100 * time.Millisecond): // ten times the wait of any other close
	}
}

func TestDisconnectAndBack(t *testing.T) {
	for code, want := range map[int]string{0: "close 1006", 1000: "close 1000"} {
		s := newServer(t)
		u := start(t, s, nil)
		p := s.peer()
		p.accepts(p.expects("phx_join", `{"n":1}`))
		u.expects("joined")
		closed := make(chan struct{})
		go func() { // answers the close
			defer close(closed)
			_, _, _ = p.ws.Read(context.Background())
		}()
		u.Do(func() { u.Disconnect(code, "test") })
		u.expects(want)
		<-closed
		p = s.peer()
		p.accepts(p.expects("phx_join", `{"n":2}`))
		u.expects("joined")
	}
}

func TestAnUnansweredHeartbeatEndsTheConnection(t *testing.T) {
	s := newServer(t)
	u := start(t, s, func(cfg *Config) { cfg.Scale = 0.002 })
	p := s.peer()
	p.accepts(p.expects("phx_join", `{"n":1}`))
	u.expects("joined", "close 1006")
	s.peer().expects("phx_join", `{"n":2}`)
}

func TestPush(t *testing.T) {
	s := newServer(t)
	u := start(t, s, nil)
	results := make(chan Result, 10)
	push := func(payload string) {
		u.Do(func() { u.Push(u.Channel, "publish", []byte(payload), func(r Result) { results <- r }) })
	}
	p := s.peer()
	join := p.expects("phx_join", `{"n":1}`)
	p.accepts(join)
	u.expects("joined")
	push(`1`)
	f := p.expects("publish", `1`)
	p.says(`[%q,%q,"a","phx_reply",{"status":"ok","response":{"position":"e:1"}}]`, f.JoinRef, f.Ref)
	if r := <-results; r.Status != "ok" || string(r.Response) != `{"position":"e:1"}` || r.Unanswered != "" {
		t.Errorf("result %+v", r)
	}
	push(`2`)
	f = p.expects("publish", `2`)
	p.says(`[null,%q,"a","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]`, f.Ref)
	if r := <-results; r.Reason() != "unmatched topic" {
		t.Errorf("result %+v", r)
	}
	push(`3`)
	push(`4`)
	p.expects("publish", `3`)
	p.expects("publish", `4`)
	p.says(`[%q,%q,"a","phx_error",{}]`, join.JoinRef, join.JoinRef)
	for range 2 {
		if r := <-results; r.Unanswered != "phx_error" {
			t.Errorf("result %+v", r)
		}
	}
	p.accepts(p.expects("phx_join", `{"n":2}`))
	u.expects("phx_error", "joined")
	push(`5`)
	p.expects("publish", `5`)
	if r := <-results; r.Unanswered != "timeout" {
		t.Errorf("result %+v", r)
	}
	push(`6`)
	p.expects("publish", `6`)
	p.ws.CloseNow()
	if r := <-results; r.Unanswered != "the connection ended" {
		t.Errorf("result %+v", r)
	}
}

func TestNoPushWhileNotJoined(t *testing.T) {
	s := newServer(t)
	u := start(t, s, nil)
	s.peer().expects("phx_join", `{"n":1}`)
	pushed := make(chan bool)
	u.Do(func() { pushed <- u.Push(u.Channel, "publish", []byte(`{}`), func(Result) {}) })
	if <-pushed {
		t.Error("pushed")
	}
}

func TestLeave(t *testing.T) {
	s := newServer(t)
	u := start(t, s, nil)
	p := s.peer()
	join := p.expects("phx_join", `{"n":1}`)
	p.accepts(join)
	u.expects("joined")
	u.Do(func() { u.Leave(u.Channel) })
	p.expects("phx_leave", `{}`)
	p.says(`[%q,null,"a","event",{}]`, join.JoinRef)
	p.ws.Close(1012, "restart")
	u.expects("close 1012")
	s.peer()
}

func TestBadFrames(t *testing.T) {
	for _, bad := range []string{`{}`, `["1","1","a","event"]`, `["1","1",null,"event",{}]`, `[1,"1","a","event",{}]`, `["1","1","a","phx_reply",{}]`} {
		s := newServer(t)
		u := start(t, s, nil)
		p := s.peer()
		p.accepts(p.expects("phx_join", `{"n":1}`))
		u.expects("joined")
		p.says("%s", bad)
		u.expects("bad", "close 1006")
	}
}

func TestTamper(t *testing.T) {
	s := newServer(t)
	u := start(t, s, func(cfg *Config) { cfg.Tamper = func(f Frame) []Frame { return []Frame{f, f} } })
	p := s.peer()
	join := p.expects("phx_join", `{"n":1}`)
	p.accepts(join)
	p.says(`[%q,null,"a","event",{}]`, join.JoinRef)
	u.expects("joined", "event  {}", "event  {}")
}

func TestStall(t *testing.T) {
	s := newServer(t)
	u := start(t, s, nil)
	p := s.peer()
	join := p.expects("phx_join", `{"n":1}`)
	p.accepts(join)
	u.expects("joined")
	for range 50 {
		begun := time.Now()
		u.Stall(50 * time.Millisecond)
		p.says(`[%q,null,"a","event",{}]`, join.JoinRef)
		u.expects("event  {}")
		if time.Since(begun) >= 50*time.Millisecond {
			return
		}
		// The loop found the event before the stall.
	}
	t.Error("reads while it stalls")
}

func FuzzParseFrame(f *testing.F) {
	for _, seed := range []string{
		`["1","2","a","phx_reply",{"status":"ok","response":{}}]`, `[null,null,"a","event",{}]`, `["1",2,"a","b",{}]`, `[`, `["","","","",0]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		frame, err := ParseFrame(data)
		if err != nil {
			return
		}
		again, err := ParseFrame(frame.Append(nil))
		if err != nil || !slices.Equal(
			[]string{frame.JoinRef, frame.Ref, frame.Topic, frame.Event, string(frame.Payload)},
			[]string{again.JoinRef, again.Ref, again.Topic, again.Event, string(again.Payload)}) {
			t.Errorf("%q: %+v, then %+v, %v", data, frame, again, err)
		}
	})
}
