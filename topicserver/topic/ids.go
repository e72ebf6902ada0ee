package topic

import (
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// publishID names a publish; the zero value names none.
type publishID struct{ high, low uint64 }

// idWindow remembers the ids of a topic's last publishes, so that one that is sent again is not appended again.
// Guarded by its topic's mutex.
//
// Invariant: the ids in byID are those in ring[first], ring[first+1], … (mod len), in the order in which they came.
type idWindow struct {
	byID  map[publishID]idEntry
	ring  []publishID
	first int
	all   *idTotal // static; nil if nobody counts
}

// idTotal counts the ids of all topics. Any goroutine may use it.
type idTotal struct {
	max     int64 // static; 0 is any number
	count   atomic.Int64
	evicted atomic.Uint64 // forgotten because there were too many over all topics
}

const (
	// idCost is about the memory that an id takes, in bytes.
	idCost = 128
	// fewIDs is how many ids a topic may remember however many there are over all topics.
	fewIDs = 16
)

// count notes that there are n ids more, or fewer.
func (w *idWindow) count(n int) {
	if w.all != nil && n != 0 {
		w.all.count.Add(int64(n))
	}
}

// crowded reports whether the topic is to forget ids because there are too many over all topics.
func (w *idWindow) crowded() bool {
	return w.all != nil && w.all.max > 0 && len(w.byID) >= fewIDs && w.all.count.Load() >= w.all.max
}

// idEntry is what an id stands for.
type idEntry struct {
	content uint64 // contentHash of event and payload
	offset  uint64
	at      time.Time
}

// find looks an id up, having forgotten the oldest ones as far as they are ttl old.
func (w *idWindow) find(id publishID, now time.Time, ttl time.Duration) (e idEntry, ok bool) {
	old := 0
	for len(w.byID) > 0 && now.Sub(w.byID[w.ring[w.first]].at) >= ttl {
		w.pop()
		old++
	}
	w.count(-old)
	e, ok = w.byID[id]
	return e, ok
}

// add remembers an id that find has not found. The oldest ones beyond max are forgotten; so are two for this one when all
// topics together have too many, until the topic has few.
func (w *idWindow) add(id publishID, e idEntry, max int) {
	if max <= 0 {
		return
	}
	if w.byID == nil {
		w.byID = make(map[publishID]idEntry)
	}
	before := len(w.byID)
	for len(w.byID) >= max {
		w.pop()
	}
	for range 2 {
		if w.crowded() {
			w.pop()
			w.all.evicted.Add(1)
		}
	}
	n := len(w.byID)
	if n == len(w.ring) {
		w.grow()
	}
	w.ring[(w.first+n)%len(w.ring)] = id
	w.byID[id] = e
	w.count(len(w.byID) - before)
}

// pop forgets the oldest id, which there must be. The caller counts it.
func (w *idWindow) pop() {
	delete(w.byID, w.ring[w.first])
	w.first = (w.first + 1) % len(w.ring)
}

// clear forgets all ids.
func (w *idWindow) clear() {
	w.count(-len(w.byID))
	w.byID, w.ring, w.first = nil, nil, 0
}

// rest forgets all ids if the newest is ttl old: find does that only when somebody publishes.
func (w *idWindow) rest(now time.Time, ttl time.Duration) {
	if n := len(w.byID); n > 0 && now.Sub(w.byID[w.ring[(w.first+n-1)%len(w.ring)]].at) >= ttl {
		w.clear()
	}
}

func (w *idWindow) grow() {
	n := len(w.ring)
	ring := make([]publishID, 2*n+8)
	copy(ring, w.ring[w.first:])
	copy(ring[n-w.first:], w.ring[:w.first])
	w.ring, w.first = ring, 0
}

// export lists the window, oldest first.
func (w *idWindow) export() []*linkpb.PublishID {
	list := make([]*linkpb.PublishID, 0, len(w.byID))
	for i := range len(w.byID) {
		id := w.ring[(w.first+i)%len(w.ring)]
		e := w.byID[id]
		list = append(list, &linkpb.PublishID{High: id.high, Low: id.low, Content: e.content, Offset: e.offset})
	}
	return list
}

// restore fills an empty window with what export listed on another server. Their age counts from now.
func (w *idWindow) restore(list []*linkpb.PublishID, now time.Time, max int) {
	for _, p := range list {
		id := publishID{p.GetHigh(), p.GetLow()}
		if _, twice := w.byID[id]; !twice {
			w.add(id, idEntry{p.GetContent(), p.GetOffset(), now}, max)
		}
	}
}

// contentHash tells different publishes under one id apart. It is the same in every process, since windows move
// between servers. It guards against mistakes, not against attacks.
func contentHash(event string, payload []byte) uint64 {
	var d xxhash.Digest
	d.Reset()
	_, _ = d.WriteString(event)
	_, _ = d.Write([]byte{0})
	_, _ = d.Write(payload)
	return d.Sum64()
}
