package topic

import (
	"sync"
	"time"
)

// wheel knows which topics have something to do at which tick. Any goroutine may call its methods.
type wheel struct {
	// Static.
	tick  time.Duration
	start time.Time // zero of the ticks; has a monotonic reading, so a step of the wall clock moves none

	mu    sync.Mutex
	slots map[int64]map[*Topic]struct{} // by number of the tick
}

func newWheel(tick time.Duration) *wheel {
	return &wheel{tick: tick, start: time.Now(), slots: make(map[int64]map[*Topic]struct{})}
}

// add makes the topic be due at the first tick that is not before at.
func (w *wheel) add(t *Topic, at time.Time) {
	n := int64((at.Sub(w.start) + w.tick - 1) / w.tick)
	w.mu.Lock()
	defer w.mu.Unlock()
	slot := w.slots[n]
	if slot == nil {
		slot = make(map[*Topic]struct{})
		w.slots[n] = slot
	}
	slot[t] = struct{}{}
}

// due takes the topics that are due by now.
func (w *wheel) due(now time.Time) []*Topic {
	last := int64(now.Sub(w.start) / w.tick)
	w.mu.Lock()
	defer w.mu.Unlock()
	var topics []*Topic
	for n, slot := range w.slots {
		if n > last {
			continue
		}
		delete(w.slots, n)
		for t := range slot {
			topics = append(topics, t)
		}
	}
	return topics
}
