// Package topic holds the topics that a topic server owns: each one's position, and its subscribers grouped by
// gateway, so that a publish costs one send per gateway that has a subscriber.
//
// Lock order: registry shard → Topic.mu → link.Sender. Nothing here waits for a peer.
package topic

import (
	"slices"
	"sync"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/link"
)

// Topic is one topic at its owner.
type Topic struct {
	name string // static

	mu     sync.Mutex
	epoch  uint64
	offset uint64         // of the last message; 0 before the first
	subs   []subscription // one per gateway; unordered
	used   time.Time      // when it last lost its last gateway or was published to without one
	gone   bool           // no longer in the registry; whoever locks it must look it up again
}

// subscription is a gateway's interest in a topic and the subscribers that are its reason.
type subscription struct {
	lane        *Lane
	subscribers map[uint64]struct{}
}

// Lane is a gateway's lane as its topics see it. A gateway's subscriptions to one topic all come over one lane, so a
// lane stands for its gateway in a topic's subscriber sets.
type Lane struct {
	// Static.
	Gateway string
	Out     *link.Sender

	// Owned by the goroutine that receives from the lane.
	topics map[*Topic]struct{} // those that have the lane in subs
}

// NewLane returns a lane with no subscriptions.
func NewLane(gateway string, out *link.Sender) *Lane {
	return &Lane{Gateway: gateway, Out: out, topics: make(map[*Topic]struct{})}
}

// subscriptionLocked returns the lane's entry, nil if it has none. Gateways are few; a scan beats a map.
func (t *Topic) subscriptionLocked(lane *Lane) *subscription {
	for i := range t.subs {
		if t.subs[i].lane == lane {
			return &t.subs[i]
		}
	}
	return nil
}

// dropLocked removes the lane and everything behind it: one operation, however many subscribers that were.
func (t *Topic) dropLocked(lane *Lane, now time.Time) (subscribers int) {
	for i := range t.subs {
		if t.subs[i].lane == lane {
			subscribers = len(t.subs[i].subscribers)
			t.subs = slices.Delete(t.subs, i, i+1)
			t.used = now
			return subscribers
		}
	}
	return 0
}

func (t *Topic) positionLocked() *linkpb.Position {
	return &linkpb.Position{Epoch: t.epoch, Offset: t.offset}
}

// Turn is what handling one batch from a lane needs: scratch space, and the lanes to flush at its end. It belongs to
// the goroutine that receives from the lane.
type Turn struct {
	touched []*Lane
	reply   linkpb.Reply
	message linkpb.Message
	pos     linkpb.Position
	encoded []byte
}

func (tn *Turn) touch(lane *Lane) {
	if !slices.Contains(tn.touched, lane) {
		tn.touched = append(tn.touched, lane)
	}
}

// Reply answers a request on the lane it came over.
func (tn *Turn) Reply(lane *Lane, ref uint64, code linkpb.Code, detail string, pos *linkpb.Position) {
	tn.reply.Ref, tn.reply.Code, tn.reply.Detail, tn.reply.Position = ref, code, detail, pos
	lane.Out.Append(linkpb.KindReply, &tn.reply)
	tn.touch(lane)
}

// Flush sends what the turn appended, one batch per lane.
func (tn *Turn) Flush() {
	for i, lane := range tn.touched {
		lane.Out.Flush()
		tn.touched[i] = nil
	}
	tn.touched = tn.touched[:0]
}
