// Package rate bounds how often something may happen. Where one source stands is one number, and nothing here reads a
// clock: the caller says what time it is, on any monotonic clock that it likes.
package rate

import (
	"math"
	"sync/atomic"
	"time"
)

// Limit is so many events a second on average, and so many at once. The zero value is no limit.
type Limit struct {
	every time.Duration // what one event takes of a source's time
	slack time.Duration // how far a source may be ahead of the clock
}

// PerSecond returns a limit of n events a second, of which up to burst, at least one, may come at once. With n of 0 there
// is no limit.
func PerSecond(n, burst int) Limit {
	if n <= 0 {
		return Limit{}
	}
	return Every(max(time.Second/time.Duration(n), 1), burst)
}

// Every returns a limit of one event every interval, of which up to burst, at least one, may come at once.
func Every(interval time.Duration, burst int) Limit {
	return Limit{every: interval, slack: interval * time.Duration(max(burst, 1)-1)}
}

// Unlimited reports whether everything may happen.
func (l Limit) Unlimited() bool { return l.every == 0 }

// Meter is where one source stands: the time at which all that it has done so far would have been done at the limit's own
// pace. The zero value has done nothing yet. One meter may count several kinds of events, each with a limit of its own:
// then each takes its share of the same time. It is not safe for concurrent use.
type Meter time.Duration

// Take counts one event at now and returns 0, or, when the limit does not allow it yet, counts nothing and returns how
// long it will take until it does.
func (m *Meter) Take(l Limit, now time.Duration) time.Duration {
	if l.Unlimited() {
		return 0
	}
	at := max(time.Duration(*m), now)
	if wait := at - now - l.slack; wait > 0 {
		return wait
	}
	*m = Meter(at + l.every)
	return 0
}

// Shared is a Meter that any goroutine may use.
type Shared struct{ at atomic.Int64 }

// Take is Meter.Take.
func (s *Shared) Take(l Limit, now time.Duration) time.Duration {
	for {
		old := s.at.Load()
		m := Meter(old)
		if wait := m.Take(l, now); wait > 0 || s.at.CompareAndSwap(old, int64(m)) {
			return wait
		}
	}
}

// Strikes counts in how many seconds in a row a source was over a limit. The zero value has none.
type Strikes struct {
	second uint32 // in which it was over the limit last
	count  uint8
}

// Add notes that the source is over the limit at now, and returns in how many seconds in a row it has been by that. A
// second without one ends the row.
func (s *Strikes) Add(now time.Duration) int {
	second := uint32(now/time.Second) + 1 // 0 is never
	switch {
	case s.count > 0 && second == s.second:
	case s.count > 0 && second == s.second+1:
		s.count = min(s.count+1, math.MaxUint8-1)
	default:
		s.count = 1
	}
	s.second = second
	return int(s.count)
}
