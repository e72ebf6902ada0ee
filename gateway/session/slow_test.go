package session

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/proto/codec"
)

// A client that has stopped reading lags on the channels for which it chose so; which message waits for it and which it
// does not get can be asked. What waits goes when it leaves, and when its socket is gone.
func TestLaggingChannelsOfASession(t *testing.T) {
	h := newHouse(t, "*:*", 3)
	slow, other := h.connect(t, codec.PhoenixV2), h.connect(t, codec.PhoenixV2)
	_ = slow.nc.(*net.TCPConn).SetReadBuffer(4 << 10)
	for topic, policy := range map[string]string{"room:a": "latest", "room:b": "drop_oldest"} {
		slow.say(fmt.Sprintf(`["1","1",%q,"phx_join",{"slow":%q}]`, topic, policy))
		slow.expect(fmt.Sprintf(`["1","1",%q,"phx_reply",{"response":{},"status":"ok"}]`, topic))
		other.say(fmt.Sprintf(`["1","1",%q,"phx_join",{}]`, topic))
		other.expect(fmt.Sprintf(`["1","1",%q,"phx_reply",{"response":{},"status":"ok"}]`, topic))
	}
	body := fmt.Sprintf(`{"fill":%q}`, strings.Repeat("x", 30_000))
	last := uint64(0)
	publish := func() {
		for _, topic := range []string{"room:a", "room:b"} {
			other.say(fmt.Sprintf(`["1","2",%q,"say",%s]`, topic, body))
			other.expect(fmt.Sprintf(`["1","2",%q,"phx_reply",{"response":{},"status":"ok"}]`, topic), fmt.Sprintf(`["1",null,%q,"say",%s]`, topic, body))
		}
		last++
	}
	stats := h.router.Stats
	for stats().Skipped[hub.SlowLatest] < 3 || stats().Skipped[hub.SlowDropOldest] < 3 {
		if publish(); last > 1000 {
			t.Fatal("the socket takes everything")
		}
	}
	if n := stats().Lagging; n != 2 {
		t.Errorf("%d channels lag", n)
	}
	wantFate := func(topic string, offset uint64, counts ...string) {
		t.Helper()
		e, err := h.router.Explain(context.Background(), router.Question{Topic: topic, Position: hub.Position{Epoch: 1, Offset: offset}, Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		for _, state := range counts {
			if e.Counts[state] != 1 {
				t.Errorf("%s, message %d of %d: %+v", topic, offset, last, e)
			}
		}
	}
	wantFate("room:a", last, router.Queued, router.Written)
	wantFate("room:a", last-1, router.Skipped, router.Written)
	wantFate("room:b", last-1, router.Queued, router.Written)

	skipped := stats().Skipped[hub.SlowLatest]
	slow.say(`["1","3","room:a","phx_leave",{}]`)
	h.eventually("one lags", func() bool { return stats().Lagging == 1 && stats().Skipped[hub.SlowLatest] == skipped+1 })
	wantFate("room:a", last-1, router.Skipped, router.Written)
	_ = slow.nc.Close()
	h.eventually("none lags, and nothing waits", func() bool { return stats().Lagging == 0 && h.loops.Stats().QueueBytes == 0 })
	publish()
	if n := h.loops.Stats().Panics; n != 0 {
		t.Errorf("%d panics", n)
	}
}
