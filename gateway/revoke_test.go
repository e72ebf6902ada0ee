package gateway

import (
	"context"
	"testing"
	"time"

	"github.com/ringcast/ringcast/gateway/socket"
)

func TestDisconnectASession(t *testing.T) {
	t.Parallel()
	s := serve(t)
	one, other := s.dial(), s.dial()
	for _, w := range []*wire{one, other} {
		w.write(handshake(target))
		w.answer()
		w.write(text(heartbeat)) // the answer comes before the session is on its loop
		if _, got := w.frame(); got != heartbeatReply {
			t.Fatalf("heard %s", got)
		}
	}
	// Sessions in the order in which they came.
	ids := make(chan *socket.Conn, 2)
	s.loops.Each(func(c *socket.Conn) { ids <- c })
	first := <-ids
	if second := <-ids; second.ID() < first.ID() {
		first = second
	}
	name := s.SessionID(first)
	soon, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_ = s.Disconnect(soon, Target{Session: name}) // no topic server is there to confirm it
	one.wantClose(4403, "disconnected")
	other.write(text(heartbeat))
	if _, got := other.frame(); got != heartbeatReply {
		t.Fatalf("heard %s", got)
	}
}
