package topic

import (
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
}

// idEntry is what an id stands for.
type idEntry struct {
	content uint64 // contentHash of event and payload
	offset  uint64
	at      time.Time
}

// find looks an id up, having forgotten the oldest ones as far as they are ttl old.
func (w *idWindow) find(id publishID, now time.Time, ttl time.Duration) (e idEntry, ok bool) {
	for len(w.byID) > 0 && now.Sub(w.byID[w.ring[w.first]].at) >= ttl {
		w.pop()
	}
	e, ok = w.byID[id]
	return e, ok
}

// add remembers an id that find has not found. The oldest ones beyond max are forgotten.
func (w *idWindow) add(id publishID, e idEntry, max int) {
	if max <= 0 {
		return
	}
	if w.byID == nil {
		w.byID = make(map[publishID]idEntry)
	}
	for len(w.byID) >= max {
		w.pop()
	}
	n := len(w.byID)
	if n == len(w.ring) {
		w.grow()
	}
	w.ring[(w.first+n)%len(w.ring)] = id
	w.byID[id] = e
}

// pop forgets the oldest id, which there must be.
func (w *idWindow) pop() {
	delete(w.byID, w.ring[w.first])
	w.first = (w.first + 1) % len(w.ring)
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
