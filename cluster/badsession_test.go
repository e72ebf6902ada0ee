package cluster_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/gateway"
	sockets "github.com/ringcast/ringcast/gateway/socket"
)

// More rows of the table of bad input: places and publish ids that cannot be, and clients that fall silent.

func TestRow16_PlacesThatCannotBe(t *testing.T) {
	t.Parallel()
	n := newNeighborhood(t)
	s := dial(t, "client", n.gateway.WebSocketURL())
	for since, reason := range map[string]string{
		`7`: "want a position or null", `true`: "want a position or null", `{}`: "want a position or null", `["a:1"]`: "want a position or null",
		`"zzz"`: `want \"epoch:offset\"`, `""`: `want \"epoch:offset\"`, `":"`: `want \"epoch:offset\"`, `"a:-1"`: `want \"epoch:offset\"`,
		`"a:18446744073709551616"`: `want \"epoch:offset\"`, `"` + strings.Repeat("z", 1000) + `:1"`: `want \"epoch:offset\"`,
	} {
		s.say(`["1","1","room:1","phx_join",{"since":` + since + `}]`)
		s.expect(`["1","1","room:1","phx_reply",{"response":{"reason":"invalid since: ` + reason + `"},"status":"error"}]`)
	}
	top, _ := s.joinSince("1", "room:1", "null")
	epoch, _, _ := strings.Cut(top, ":")
	for i, since := range []string{epoch + ":7", epoch + ":18446744073709551615", "zz1:0", "0:0"} {
		position, recovered := s.joinSince(fmt.Sprint(i+2), "room:1", `"`+since+`"`)
		if recovered || position != top {
			t.Errorf("since %s: %s, recovered %t; want %s, false", since, position, recovered, top)
		}
		s.expect(fmt.Sprintf(`["%d","%d","room:1","phx_close",{}]`, i+1, i+1))
	}
	_ = s.ws.CloseNow()
	n.unharmed(sockets.EndError)
}

func TestRow18_APublishIDWithOtherContent(t *testing.T) {
	t.Parallel()
	n := newNeighborhood(t)
	s := dial(t, "client", n.gateway.WebSocketURL())
	s.join("room:1")
	push := func(event, payload string) {
		s.say(`["1","2","room:1","publish",["` + event + `",` + payload + `,{"id":"order-17"}]]`)
	}
	push("n", `{"x":1}`)
	s.expect(`["1","2","room:1","phx_reply",{"response":{},"status":"ok"}]`, `["1",null,"room:1","n",{"x":1}]`)
	for _, other := range [][2]string{{"n", `{"x":2}`}, {"m", `{"x":1}`}, {"n", `{}`}} {
		push(other[0], other[1])
		s.expect(`["1","2","room:1","phx_reply",{"response":{"reason":"publish_id reused with different content","detail":"publish_id reused with different content"},"status":"error"}]`)
	}
	push("n", `{"x":1}`) // the same again is no error, and no other message
	s.expect(`["1","2","room:1","phx_reply",{"response":{},"status":"ok"}]`)
	s.silence()
	_ = s.ws.CloseNow()
	n.unharmed(sockets.EndError)
}

// A client that sends nothing is told and sent away; one that is gone without a word is given up soon after. Who sends
// something stays.
func TestRow20_ClientsThatFallSilent(t *testing.T) {
	t.Parallel()
	n := newNeighborhood(t, func(cfg *gateway.Config) { cfg.IdleTimeout = 5 * time.Second })
	silent, gone := dialRaw(t, n.gateway.Addr), dialRaw(t, n.gateway.Addr)
	closed := make(chan string, 1)
	go func() {
		first, payload, err := silent.read()
		closed <- fmt.Sprintf("%#x %q %v", first, payload, err)
		silent.write(clientFrame(finClose, payload[:min(2, len(payload))]))
	}()
	pace := time.NewTicker(100 * time.Millisecond)
	defer pace.Stop()
	await := func(what string, over func() bool) {
		t.Helper()
		for deadline := time.Now().Add(patience); !over(); <-pace.C {
			if n.witness.silence(); time.Now().After(deadline) {
				t.Fatalf("never: %s", what)
			}
		}
	}
	await("the silent client is closed", func() bool {
		select {
		case got := <-closed:
			if want := fmt.Sprintf("0x88 %q <nil>", "\x11\x38idle timeout"); got != want {
				t.Errorf("heard %s, want %s", got, want)
			}
			return true
		default:
			return false
		}
	})
	// The other one has not answered the close, as a machine does that is not there any more.
	await("the one that is gone is given up", func() bool { stats, _ := n.gateway.Stats(); return stats.Open == 1 })
	silent.expectEnd()
	_ = gone.conn.Close()
	n.unharmed(sockets.EndIdle)
}
