package gateway

import (
	"testing"

	"github.com/ringcast/ringcast/gateway/socket"
)

func TestDisconnectASession(t *testing.T) {
	t.Parallel()
	s := serve(t)
	one, other := s.dial(), s.dial()
	for _, w := range []*wire{one, other} {
		w.write(handshake(target))
		w.answer()
	}
	// Sessions in the order in which they came.
	ids := make(chan *socket.Conn, 2)
	s.eventually("two sessions", func() bool { return s.loops.Conns() == 2 })
	s.loops.Each(func(c *socket.Conn) { ids <- c })
	first := <-ids
	if second := <-ids; second.ID() < first.ID() {
		first = second
	}
	name := s.SessionID(first)
	other.write(text(heartbeat))
	if _, got := other.frame(); got != heartbeatReply {
		t.Fatalf("heard %s", got)
	}
	_ = s.Disconnect(t.Context(), Target{Session: name}) // no topic server is there to confirm it
	one.wantClose(4403, "disconnected")
	other.write(text(heartbeat))
	if _, got := other.frame(); got != heartbeatReply {
		t.Fatalf("heard %s", got)
	}
}
