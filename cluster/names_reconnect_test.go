package cluster_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/ringcast/ringcast/client"
)

// relay forwards connections to an address until they are cut.
type relay struct {
	mu    sync.Mutex
	conns []net.Conn
}

func newRelay(t *testing.T, target string) (r *relay, addr string) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r = &relay{}
	t.Cleanup(func() { _ = lis.Close(); r.cut() })
	go func() {
		for {
			near, err := lis.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", target)
			if err != nil {
				_ = near.Close()
				continue
			}
			r.mu.Lock()
			r.conns = append(r.conns, near, far)
			r.mu.Unlock()
			go func() { _, _ = io.Copy(far, near); _ = far.Close() }()
			go func() { _, _ = io.Copy(near, far); _ = near.Close() }()
		}
	}()
	return r, lis.Addr().String()
}

func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, nc := range r.conns {
		_ = nc.Close()
	}
	r.conns = nil
}

// A Go client whose connection breaks has its names again when it is back.
func TestNames_GoClientComesBack(t *testing.T) {
	c := start(t, quickNames)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	line, addr := newRelay(t, c.Gateways[0].Addr)
	conn, err := client.Dial(ctx, "ws://"+addr+"/socket", client.Config{RejoinMin: 20 * time.Millisecond, ReconnectMin: 10 * time.Millisecond, PushTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got := make(chan client.NameMessage, 100)
	names, err := conn.Names(ctx, client.NamesConfig{From: "u1", OnMessage: func(m client.NameMessage) { got <- m }})
	if err != nil {
		t.Fatal(err)
	}
	if err := names.Register(ctx, "r1"); err != nil {
		t.Fatal(err)
	}
	w := newWestUser(t, "text", "w", c.Gateways[1].Addr)
	wants(t, w, "send", "r1", "before", "sending_succeeded")
	if m := <-got; string(m.Bytes()) != "before" {
		t.Errorf("got %+v", m)
	}
	line.cut()
	// What is sent while the gateway takes the dead socket for a live one is lost with it, so it is sent until it comes.
	eventually(t, "the name is back", func() bool {
		w.ask("send", "r1", "after")
		select {
		case m := <-got:
			return string(m.Bytes()) == "after"
		case <-time.After(20 * time.Millisecond):
			return false
		}
	})
	if held := names.Held(); len(held) != 1 || held[0] != "r1" {
		t.Errorf("held: %v", held)
	}
}
