package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
)

// patience is how long, in the bubble's time, a test waits for what should come. It is far above every default.
const patience = time.Hour

// server is a scripted Phoenix server inside a synctest bubble: the test takes each connection as a peer, reads the
// client's frames from it and writes what it likes. Nothing is answered for the test but heartbeats.
type server struct {
	t        *testing.T
	listener *pipeListener
	peers    chan *peer
	refuse   atomic.Pointer[http.HandlerFunc] // answers handshakes instead, while set
	requests chan *http.Request               // the last handshakes
}

// inBubble runs a test against a server in a bubble, where time is virtual. The bubble also proves that nothing is left
// running: it fails when a goroutine outlives the test.
func inBubble(t *testing.T, test func(t *testing.T, s *server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &server{t: t, listener: newPipeListener(), peers: make(chan *peer, 16), requests: make(chan *http.Request, 64)}
		web := &http.Server{Handler: s}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = web.Serve(s.listener)
		}()
		t.Cleanup(func() {
			web.Close()
			<-done
		})
		test(t, s)
	})
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests <- r
	if answer := s.refuse.Load(); answer != nil {
		(*answer)(w, r)
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	p := &peer{t: s.t, ws: ws, frames: make(chan wire, 1024), gate: make(chan struct{})}
	p.answering.Store(true)
	close(p.gate)
	s.peers <- p
	p.read()
}

// refuseWith has all handshakes answered by fn; nil ends that.
func (s *server) refuseWith(fn http.HandlerFunc) {
	if fn == nil {
		s.refuse.Store(nil)
		return
	}
	s.refuse.Store(&fn)
}

func (s *server) httpClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: s.listener.dial, DisableKeepAlives: true}}
}

// dial starts a client; it is closed at the end of the test.
func (s *server) dial(cfg Config) (*Client, *peer) {
	s.t.Helper()
	cfg.HTTPClient = s.httpClient()
	c, err := Dial(s.t.Context(), "ws://server/socket?token=secret", cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c, s.peer()
}

// peer waits for the next connection.
func (s *server) peer() *peer {
	s.t.Helper()
	select {
	case p := <-s.peers:
		return p
	case <-time.After(patience):
		s.t.Fatal("no connection came")
		return nil
	}
}

// peer is the server's side of one connection.
type peer struct {
	t         *testing.T
	ws        *websocket.Conn
	frames    chan wire // closed at the end of the connection
	closed    error     // how it ended, once frames is closed
	answering atomic.Bool
	beats     atomic.Int32

	mu   sync.Mutex
	gate chan struct{} // reading goes on while it is closed
}

// wire is one frame of the client as it came.
type wire struct {
	joinRef, ref, topic, event string
	payload, text              string
}

func (p *peer) read() {
	defer close(p.frames)
	defer p.ws.CloseNow()
	for {
		p.mu.Lock()
		gate := p.gate
		p.mu.Unlock()
		<-gate
		kind, data, err := p.ws.Read(context.Background())
		if err != nil {
			p.closed = err
			return
		}
		if kind == websocket.MessageBinary {
			p.frames <- parseBinary(p.t, data)
			continue
		}
		w := parseWire(p.t, data)
		if w.topic == "phoenix" {
			p.beats.Add(1)
			if p.answering.Load() {
				p.reply(w, "ok", `{}`)
			}
			continue
		}
		p.frames <- w
	}
}

func parseWire(t *testing.T, data []byte) wire {
	var parts []json.RawMessage
	if err := json.Unmarshal(data, &parts); err != nil || len(parts) != 5 {
		t.Errorf("the client sent %s", data)
		return wire{}
	}
	text := make([]string, 4)
	for i := range text {
		if err := json.Unmarshal(parts[i], &text[i]); err != nil {
			t.Errorf("the client sent %s", data)
		}
	}
	return wire{text[0], text[1], text[2], text[3], string(parts[4]), string(data)}
}

// parseBinary takes a push apart: the kind, the lengths of four parts, the parts, the payload.
func parseBinary(t *testing.T, data []byte) wire {
	if len(data) < 5 || data[0] != 0 {
		t.Errorf("the client sent %q", data)
		return wire{}
	}
	var parts [4]string
	rest := data[5:]
	for i := range parts {
		n := int(data[1+i])
		if n > len(rest) {
			t.Errorf("the client sent %q", data)
			return wire{}
		}
		parts[i], rest = string(rest[:n]), rest[n:]
	}
	return wire{parts[0], parts[1], parts[2], parts[3], string(rest), string(data)}
}

// holdReading makes the peer read one more frame and then none until the returned function is called.
func (p *peer) holdReading() (resume func()) {
	synctest.Wait() // the read of that one frame has begun
	gate := make(chan struct{})
	p.mu.Lock()
	p.gate = gate
	p.mu.Unlock()
	return sync.OnceFunc(func() { close(gate) })
}

// expect waits for the client's next frame, which must have this event.
func (p *peer) expect(event string) wire {
	p.t.Helper()
	select {
	case w, ok := <-p.frames:
		if !ok {
			p.t.Fatalf("want %s, but the connection ended: %v", event, p.closed)
		}
		if w.event != event {
			p.t.Fatalf("want %s, got %s", event, w.text)
		}
		return w
	case <-time.After(patience):
		p.t.Fatalf("want %s, got nothing", event)
	}
	return wire{}
}

// expectNothing checks that no frame has come.
func (p *peer) expectNothing() {
	p.t.Helper()
	synctest.Wait()
	select {
	case w, ok := <-p.frames:
		if ok {
			p.t.Fatalf("want nothing, got %s", w.text)
		}
	default:
	}
}

// expectEnd waits for the end of the connection and returns the client's close code, -1 without.
func (p *peer) expectEnd() websocket.StatusCode {
	p.t.Helper()
	select {
	case w, ok := <-p.frames:
		if ok {
			p.t.Fatalf("want the end of the connection, got %s", w.text)
		}
	case <-time.After(patience):
		p.t.Fatal("want the end of the connection, got nothing")
	}
	return websocket.CloseStatus(p.closed)
}

func (p *peer) write(text string) {
	_ = p.ws.Write(context.Background(), websocket.MessageText, []byte(text)) // the client may be gone
}

func (p *peer) reply(w wire, status, response string) {
	joinRef := "null"
	if w.joinRef != "" {
		joinRef = fmt.Sprintf("%q", w.joinRef)
	}
	p.write(fmt.Sprintf(`[%s,%q,%q,"phx_reply",{"response":%s,"status":%q}]`, joinRef, w.ref, w.topic, response, status))
}

// push sends an event under the join_ref of a join.
func (p *peer) push(join wire, event, payload string) {
	p.write(fmt.Sprintf(`[%q,null,%q,%q,%s]`, join.joinRef, join.topic, event, payload))
}

// accept waits for a join and says ok.
func (p *peer) accept() wire {
	p.t.Helper()
	join := p.expect("phx_join")
	p.reply(join, "ok", `{}`)
	return join
}

// join has ch joined on p.
func join(t *testing.T, p *peer, ch *Channel) wire {
	t.Helper()
	result := make(chan error, 1)
	go func() { result <- ch.Join(t.Context()) }()
	w := p.accept()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	return w
}

// start runs a call in a goroutine and returns where its error will come.
func start(call func() error) <-chan error {
	result := make(chan error, 1)
	go func() { result <- call() }()
	return result
}

// journal records what callbacks see.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf(format, args...))
}

func (j *journal) message(m Message) { j.add("%s %s", m.Event, m.Payload) }

func (j *journal) change(ch ChannelChange) {
	switch {
	case ch.State == ChannelJoined:
		j.add("joined rejoin=%v %s", ch.Rejoin, ch.Response)
	case ch.Err != nil:
		j.add("%v: %v", ch.State, ch.Err)
	default:
		j.add("%v", ch.State)
	}
}

// take waits until the bubble is at rest and returns what was recorded since the last take.
func (j *journal) take() []string {
	synctest.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	lines := j.lines
	j.lines = nil
	return lines
}

// want checks the next lines of a journal.
func (j *journal) want(t *testing.T, lines ...string) {
	t.Helper()
	got := j.take()
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", lines) {
		t.Errorf("callbacks saw\n%q, want\n%q", got, lines)
	}
}

// pipeListener is a listener over net.Pipe.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }
