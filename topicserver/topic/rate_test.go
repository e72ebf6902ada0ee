package topic

import (
	"testing"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/rate"
	"github.com/ringcast/ringcast/topicserver/history"
)

func TestATopicTakesNoMoreThanItsRate(t *testing.T) {
	r := NewRegistry(Config{
		Store: history.NewMemory(history.Config{}), IDs: 100, IDTTL: time.Minute, Publishes: rate.Every(time.Hour, 3),
	})
	g := gateways(t, 1, false)[0]
	first := g.publishWithID(t, r, "t:busy", "a", 1)
	codes := map[linkpb.Code]int{first.Code: 1}
	for i := range uint64(7) {
		rep := g.publishWithID(t, r, "t:busy", "x", 10+i)
		codes[rep.Code]++
		limited := rep.Code == linkpb.Code_RATE_LIMITED
		if limited != (rep.RetryAfterMs > 3_500_000 && rep.RetryAfterMs <= 3_600_000 && rep.Position == nil) {
			t.Errorf("reply %v", rep)
		}
	}
	if codes[linkpb.Code_OK] != 3 || codes[linkpb.Code_RATE_LIMITED] != 5 {
		t.Errorf("codes %v, want a burst of 3 and 5 refused", codes)
	}
	// A retry of what has its place already is answered, and another topic is not concerned.
	if rep := g.publishWithID(t, r, "t:busy", "a", 1); rep.Code != linkpb.Code_OK || rep.Position.Offset != 1 || rep.RetryAfterMs != 0 {
		t.Errorf("repeat: %v", rep)
	}
	if rep := g.publishWithID(t, r, "t:quiet", "x", 1); rep.Code != linkpb.Code_OK {
		t.Errorf("other topic: %v", rep)
	}
	if rep := g.subscribe(t, r, "t:busy"); rep.RetryAfterMs != 0 || rep.Position.Offset != 3 {
		t.Errorf("subscribe: %v", rep)
	}
	if n := r.Stats().RateLimited; n != 5 {
		t.Errorf("%d counted, want 5", n)
	}
}
