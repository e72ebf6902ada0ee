package hub

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for something that must happen.
const patience = time.Minute

// rig is one event loop with a hub.
type rig struct {
	t     testing.TB
	loops *socket.Loops
	loop  *socket.Loop
	hub   *Hub
}

func newRig(t testing.TB) *rig {
	t.Helper()
	loops, err := socket.New(socket.Config{Loops: 1, MaxQueueBytes: 64 << 20, IdleTimeout: -1, WriteTimeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(loops.Close)
	return &rig{t, loops, loops.Loop(0), New()}
}

// turn runs f on the loop and waits for it. What f sends is flushed when the turn ends.
func (r *rig) turn(f func()) {
	r.t.Helper()
	done := make(chan struct{})
	r.loop.Post(func() {
		defer close(done)
		f()
	})
	select {
	case <-done:
	case <-time.After(patience):
		r.t.Fatal("task did not run")
	}
}

// deliver delivers messages in one turn.
func (r *rig) deliver(messages ...*Message) (delivered, unfit int) {
	r.t.Helper()
	r.turn(func() {
		for _, m := range messages {
			d, u := r.hub.Deliver(r.loop, m)
			delivered, unfit = delivered+d, unfit+u
		}
	})
	return delivered, unfit
}

// silent is the handler of connections whose peers say nothing.
type silent struct{}

func (silent) Message(*socket.Conn, socket.Opcode, []byte) {}
func (silent) Closed(*socket.Conn, error)                  {}

// peer is a client that reads frames.
type peer struct {
	t  testing.TB
	nc net.Conn
	br *bufio.Reader
}

// connect adds a connection with one channel on the topic.
func (r *rig) connect(topic, joinRef string, k codec.Kind) *peer {
	r.t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	defer lis.Close()
	client, err := net.Dial("tcp", lis.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	server, err := lis.Accept()
	if err != nil {
		r.t.Fatal(err)
	}
	defer server.Close()
	_ = server.(*net.TCPConn).SetWriteBuffer(64 << 10)
	err = r.loops.Adopt(server, func(c *socket.Conn) socket.Handler {
		r.hub.Add(topic, &Channel{Conn: c, JoinRef: ref(joinRef), Codec: k}, Position{Epoch: 1})
		return silent{}
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { client.Close() })
	return newPeer(r.t, client)
}

func newPeer(t testing.TB, nc net.Conn) *peer { return &peer{t, nc, bufio.NewReader(nc)} }

// ref makes a join_ref, null from "".
func ref(s string) codec.Ref {
	if s == "" {
		return nil
	}
	return codec.Ref(s)
}

// read returns the next bytes that the peer was sent: a whole frame, header included.
func (p *peer) read() string {
	p.t.Helper()
	_ = p.nc.SetReadDeadline(time.Now().Add(patience))
	head := make([]byte, 2, 10)
	if _, err := io.ReadFull(p.br, head); err != nil {
		p.t.Fatal(err)
	}
	extra := map[byte]int{126: 2, 127: 8}[head[1]]
	head = head[:2+extra]
	if _, err := io.ReadFull(p.br, head[2:]); err != nil {
		p.t.Fatal(err)
	}
	n := uint64(head[1])
	if extra > 0 {
		n = binary.BigEndian.Uint64(append(make([]byte, 8-extra), head[2:]...))
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(p.br, body); err != nil {
		p.t.Fatal(err)
	}
	return string(head) + string(body)
}

func (p *peer) want(frames ...string) {
	p.t.Helper()
	for _, want := range frames {
		if got := p.read(); got != want {
			p.t.Fatalf("got  %.120q (%d bytes)\nwant %.120q (%d bytes)", got, len(got), want, len(want))
		}
	}
}

// text and data make the short frames that a server sends.
func text(payload string) string { return "\x81" + string(rune(len(payload))) + payload }
func data(payload string) string { return "\x82" + string(rune(len(payload))) + payload }

// message makes a message of the room at offset.
func message(offset uint64, payload string) *Message {
	return &Message{
		Push:     codec.Push{Topic: "room", Event: "e", Payload: []byte(payload)},
		Position: Position{Epoch: 1, Offset: offset},
	}
}
