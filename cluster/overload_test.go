package cluster_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// littleMemory has a gateway run out of memory rather than into the bounds of its queues.
var littleMemory = []string{"GOMEMLIMIT=96MiB", "MAX_QUEUE_BYTES=1073741824", "SOFT_QUEUE_BYTES=0", "QUEUE_BUDGET_BYTES=1073741824"}

// hogs join a topic and hardly read, so that what is published to it fills the gateway's memory, 32 times, until gone is called.
func hogs(t *testing.T, gw *gatewayProc, topic string) (gone func()) {
	t.Helper()
	var conns []net.Conn
	for range 32 {
		c := dialNarrow(t, gw.addr)
		c.say(fmt.Sprintf(`["1","1",%q,"phx_join",{}]`, topic))
		if _, text, err := c.read(); err != nil || !strings.Contains(string(text), `"ok"`) {
			t.Fatalf("heard %s, %v", text, err)
		}
		conns = append(conns, c.conn)
	}
	gone = trickle(conns)
	t.Cleanup(gone)
	return gone
}

// A gateway whose memory is filled by clients that do not read refuses connections, then joins, then publishes, and goes on with all it
// has: heartbeats are answered, messages delivered. When those clients go it is as before.
func TestProcess_AGatewayWithLittleMemory(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.topicserver("ts-a")
	s.topicserver("ts-b")
	gw := s.gateway(append(littleMemory, "GATEWAY_ID=gw-small")...)
	other := s.gateway("GATEWAY_ID=gw-other")
	gw.ready()
	other.ready()
	topic := s.topicOf("ts-a", 0)
	level := func() int { return int(metric(gw.admin, "ringcast_gateway_admission_level")) }

	client, elsewhere := dialRaw(t, gw.addr), dial(t, "elsewhere", other.webSocketURL())
	answer := func() (status, reason string) {
		t.Helper()
		_, text, err := client.read()
		var frame [5]json.RawMessage
		var payload struct {
			Status   string
			Response struct {
				Reason string
				After  int `json:"retry_after_ms"`
			}
		}
		if err != nil || json.Unmarshal(text, &frame) != nil || string(frame[3]) != `"phx_reply"` || json.Unmarshal(frame[4], &payload) != nil {
			t.Fatalf("heard %.200q, %v; want a reply", text, err)
		}
		if payload.Response.Reason != "" && payload.Response.After <= 0 {
			t.Errorf("no time to wait in %s", text)
		}
		return payload.Status, payload.Response.Reason
	}
	joined := 0
	join := func() (status, reason string) {
		t.Helper()
		joined++
		client.say(fmt.Sprintf(`["1","1",%q,"phx_join",{}]`, s.topicOf("ts-a", joined)))
		return answer()
	}
	fill := strings.Repeat("x", 60<<10)
	publish := func() (status, reason string) {
		t.Helper()
		client.say(fmt.Sprintf(`["1","2",%q,"full",{"fill":%q}]`, topic, fill))
		status, reason = answer()
		if status == "ok" { // its own copy
			if _, text, err := client.read(); err != nil || !strings.HasPrefix(string(text), `["1",null,`) {
				t.Fatalf("heard %.100q, %v; want the message", text, err)
			}
		}
		return status, reason
	}
	client.say(fmt.Sprintf(`["1","1",%q,"phx_join",{}]`, topic))
	answer()
	elsewhere.join(topic)
	elsewhere.ws.SetReadLimit(1 << 20)
	gone := hogs(t, gw, topic)

	for n := 0; ; n++ {
		if n > 500 {
			t.Fatal("memory is never full")
		}
		// What is refused is so at the level before or after.
		before := level()
		if before == 1 || before == 2 {
			if status, reason := join(); status != "ok" && (reason != "overloaded" || max(before, level()) < 2) {
				t.Errorf("level %d: a join is answered %s %s", before, status, reason)
			}
		}
		if before >= 1 {
			if status := knock(gw.addr); status != http.StatusServiceUnavailable && level() >= 1 {
				t.Errorf("level %d: a newcomer gets %d", before, status)
			}
		}
		status, reason := publish()
		if status == "ok" {
			elsewhere.hear()
			elsewhere.silence() // nor is it taken for dead
			continue
		}
		if reason != "overloaded" {
			t.Fatalf("a publish is refused: %s", reason)
		}
		break
	}
	if status, reason := join(); status != "error" || reason != "overloaded" {
		t.Errorf("a join is answered %s %s", status, reason)
	}
	if status := knock(gw.addr); status != http.StatusServiceUnavailable {
		t.Errorf("a newcomer gets %d", status)
	}
	client.say(`[null,"hb","phoenix","heartbeat",{}]`)
	if status, _ := answer(); status != "ok" {
		t.Errorf("a heartbeat is answered %s", status)
	}
	elsewhere.say(fmt.Sprintf(`["1","3",%q,"small",{}]`, topic))
	client.expect(fmt.Sprintf(`["1",null,%q,"small",{}]`, topic))
	gw.alive()

	gone()
	for began := time.Now(); level() != 0; time.Sleep(50 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatalf("level %d, %v of the memory in use", level(), metric(gw.admin, "ringcast_gateway_memory_used_ratio"))
		}
	}
	if status, reason := join(); status != "ok" {
		t.Errorf("afterwards a join is answered %s", reason)
	}
	if status, reason := publish(); status != "ok" {
		t.Errorf("afterwards a publish is answered %s", reason)
	}
	dialRaw(t, gw.addr)
}

// dialNarrow is dialRaw for a client that has little room for what it does not read.
func dialNarrow(t *testing.T, addr string) *rawSocket {
	t.Helper()
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 8<<10) })
	}}
	conn, err := dialer.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return shakeRaw(t, conn, addr, "")
}

// trickle reads so little that a gateway does not cut the connections: they take something. It goes on until gone is called, which
// closes them.
func trickle(conns []net.Conn) (gone func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		buf := make([]byte, 16<<10)
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			for _, c := range conns {
				_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
				_, _ = c.Read(buf)
			}
		}
	}()
	return sync.OnceFunc(func() {
		close(stop)
		<-stopped
		for _, c := range conns {
			_ = c.Close()
		}
	})
}
