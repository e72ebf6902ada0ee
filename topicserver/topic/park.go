package topic

import (
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// parked is a request that waits for its topic's state.
type parked struct {
	run    func(*Turn) // called under the topic's lock
	refuse func(*Turn) // answers it NOT_OWNER, likewise; nil if the request has no reply
}

const (
	// maxParked bounds the bytes of requests that wait for one topic, and maxParkedAll for all together; more are refused as
	// overload. One without a reply waits only if something that it is about waits already: see stake.
	maxParked    = 8 << 20
	maxParkedAll = 256 << 20
	parkedCost   = 512 // of a request besides its payload

	// maxChanges is how many joins and leaves of subscribers wait for all topics together; one takes about 100 bytes.
	maxChanges = 1 << 20
)

// stake is what a request that waits gives its lane, or a member of its gateway, in a topic. Nothing moves here with a
// topic that a lane or a member has a part in, so what ends or changes such a part, and has no reply, is about a stake
// or about nothing.
type stake struct {
	kind stakeKind
	lane *Lane  // of a subscription or an attendance
	who  holder // of a member
}

type stakeKind uint8

const (
	stakeSubscription stakeKind = iota
	stakeAttendance             // the lane watches, or has members
	stakeMember
)

func subscriptionOf(lane *Lane) stake { return stake{kind: stakeSubscription, lane: lane} }
func attendanceOf(lane *Lane) stake   { return stake{kind: stakeAttendance, lane: lane} }
func memberOf(who holder) stake       { return stake{kind: stakeMember, who: who} }

// roomLocked takes room for a request that waits, with size bytes beside itself, and reports whether there is any. What
// finds none is counted.
func (r *Registry) roomLocked(t *Topic, size int) bool {
	size += parkedCost
	if t.parkedBytes+size > maxParked || r.parked.Load()+int64(size) > maxParkedAll {
		r.parkedRefused.Add(1)
		return false
	}
	t.parkedBytes += size
	r.parked.Add(int64(size))
	return true
}

// park keeps a request with a reply until the topic's state is here, or refuses it. It gives its stakes.
func (r *Registry) park(tn *Turn, t *Topic, size int, lane *Lane, ref uint64, run func(*Turn), gives ...stake) {
	if !r.roomLocked(t, size) {
		tn.Reply(lane, ref, linkpb.Code_OVERLOADED, tooManyWait, nil)
		return
	}
	if t.parkedSince.IsZero() {
		t.parkedSince = time.Now()
	}
	for _, s := range gives {
		if t.stakes == nil {
			t.stakes = make(map[stake]struct{})
		}
		t.stakes[s] = struct{}{}
	}
	t.parked = append(t.parked, parked{run: run, refuse: func(tn *Turn) { r.notOwner(tn, lane, ref) }})
}

// parkEnd keeps what ends a stake, and has no reply. It always finds room: there is one for each that gave the stake, at most.
func (t *Topic) parkEnd(s stake, run func(*Turn)) {
	if _, ok := t.stakes[s]; ok {
		delete(t.stakes, s)
		t.parked = append(t.parked, parked{run: run})
	}
}

// parkChange keeps what changes something about a stake, and has no reply: over a new connection, a gateway tells of all its
// subscribers right behind its Subscribe. They take no room from requests that somebody waits for; of those that find none,
// the topic's list of subscribers does not know until their gateway comes anew.
func (r *Registry) parkChange(t *Topic, s stake, run func(*Turn)) {
	if _, ok := t.stakes[s]; !ok {
		return
	}
	if r.changes.Add(1) > maxChanges {
		r.changes.Add(-1)
		r.parkedRefused.Add(1)
		return
	}
	t.changes++
	t.parked = append(t.parked, parked{run: run})
}

// unparkLocked takes the requests that wait.
func (r *Registry) unparkLocked(t *Topic) []parked {
	list := t.parked
	r.parked.Add(-int64(t.parkedBytes))
	r.changes.Add(-int64(t.changes))
	t.parked, t.stakes, t.parkedBytes, t.changes, t.parkedSince = nil, nil, 0, 0, time.Time{}
	return list
}
