package router

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// MaxPublishID is the length of the longest publish id, in bytes.
const MaxPublishID = 128

// PublishID turns a publish id of a client into what the wire carries: the owners' windows have room for 16 bytes an id,
// so it is hashed. The same id is the same publish, whichever way it comes in. An id that is empty or longer than MaxPublishID
// is an error.
func PublishID(id string) (high, low uint64, err error) {
	if n := len(id); n == 0 || n > MaxPublishID {
		return 0, 0, fmt.Errorf("want 1 to %d bytes", MaxPublishID)
	}
	sum := sha256.Sum256([]byte(id))
	return binary.LittleEndian.Uint64(sum[:]), binary.LittleEndian.Uint64(sum[8:]) | 1, nil
}

// Publish is Local.Publish for callers that are on no event loop: any goroutine. What one goroutine publishes to one topic
// keeps its order. done is called on a loop and must not wait; it is not called if the loops are closed before that.
// The payload must not change until then.
func (r *Router) Publish(p *linkpb.Publish, done func(Outcome)) {
	l := r.locals[r.hash(p.Topic)%uint64(len(r.locals))]
	l.loop.Post(func() { l.Publish(p, done) })
}

// PublishAll publishes several messages, those of a topic in their order, and returns their outcomes, in the order of the
// messages. It waits for them, so no loop may call it. Those of which
// nothing is known when ctx ends have the code UNKNOWN_OUTCOME.
func (r *Router) PublishAll(ctx context.Context, messages []*linkpb.Publish) []Outcome {
	type ended struct {
		i int
		o Outcome
	}
	answers := make(chan ended, len(messages)) // room for all: loops never wait
	for i, p := range messages {
		r.Publish(p, func(o Outcome) { answers <- ended{i, o} })
	}
	outcomes := make([]Outcome, len(messages))
	for i := range outcomes {
		outcomes[i] = refusal(linkpb.Code_UNKNOWN_OUTCOME)
	}
	for range messages {
		select {
		case e := <-answers:
			outcomes[e.i] = e.o
		case <-ctx.Done():
			return outcomes
		}
	}
	return outcomes
}
