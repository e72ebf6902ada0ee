package bench

import (
	"fmt"
	"strings"
)

// Faults counts what must not happen. All counts are of deliveries unless said otherwise.
type Faults struct {
	Lost      int64 `json:"lost"`      // never arrived though the publish went out
	Doubled   int64 `json:"doubled"`   // arrived again
	Reordered int64 `json:"reordered"` // arrived after a later message of the same publisher
	Disagreed int64 `json:"disagreed"` // subscribers that saw several publishers interleaved in another order than others did
	Malformed int64 `json:"malformed"` // frames that are nothing expected, or carry what was never published
	Refused   int64 `json:"refused"`   // publishes that were answered with an error, or never
	Failed    int64 `json:"failed"`    // cycles of connections that did not run to their end
}

// Any reports whether anything is wrong.
func (f Faults) Any() bool { return f != Faults{} }

// String names what is wrong; "none" if nothing is.
func (f Faults) String() string {
	var parts []string
	for _, p := range []struct {
		n    int64
		name string
	}{
		{f.Lost, "lost"}, {f.Doubled, "doubled"}, {f.Reordered, "reordered"}, {f.Disagreed, "disagreed"},
		{f.Malformed, "malformed"}, {f.Refused, "refused"}, {f.Failed, "failed"},
	} {
		if p.n != 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.name))
		}
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func (f *Faults) add(g Faults) {
	f.Lost += g.Lost
	f.Doubled += g.Doubled
	f.Reordered += g.Reordered
	f.Disagreed += g.Disagreed
	f.Malformed += g.Malformed
	f.Refused += g.Refused
	f.Failed += g.Failed
}

// tracker is one subscriber's memory of what it has received.
//
// Invariant: of publisher p, every sequence number below next[p] has arrived, but for those in missing.
type tracker struct {
	next    []uint32
	missing map[missed]struct{} // nil while nothing went wrong
	digest  uint64              // of publishers and sequence numbers, in the order of their first arrival
}

type missed struct {
	publisher int
	sequence  uint32
}

// observe notes an arrival and reports whether it is the first one of its message. sent says, for each publisher, how
// many messages it has published.
func (t *tracker) observe(f *Faults, publisher int, sequence uint32, sent []uint32) bool {
	if publisher >= len(sent) || sequence >= sent[publisher] {
		f.Malformed++
		return false
	}
	next := t.next[publisher]
	switch {
	case sequence > next:
		if t.missing == nil {
			t.missing = make(map[missed]struct{})
		}
		for s := next; s < sequence; s++ {
			t.missing[missed{publisher, s}] = struct{}{}
		}
	case sequence < next:
		m := missed{publisher, sequence}
		if _, ok := t.missing[m]; !ok {
			f.Doubled++
			return false
		}
		delete(t.missing, m)
		f.Reordered++
		t.note(publisher, sequence)
		return true
	}
	t.next[publisher] = sequence + 1
	t.note(publisher, sequence)
	return true
}

// note folds a message into the digest (FNV-1a, a word at a time).
func (t *tracker) note(publisher int, sequence uint32) {
	t.digest = (t.digest ^ (uint64(publisher)<<32 | uint64(sequence))) * 1099511628211
}

// lost returns how many of the messages sent have not arrived.
func (t *tracker) lost(sent []uint32) int64 {
	n := int64(len(t.missing))
	for p, s := range sent {
		n += int64(s - t.next[p])
	}
	return n
}

// verdict adds to f what all the subscribers of a topic have lost, and those that disagree on the order. A subscriber
// that lost something is not compared: its order differs for that reason alone.
func verdict(f *Faults, subscribers []*tracker, sent []uint32) {
	votes := make(map[uint64]int64)
	var complete, most int64
	for _, t := range subscribers {
		if n := t.lost(sent); n > 0 {
			f.Lost += n
			continue
		}
		complete++
		votes[t.digest]++
		most = max(most, votes[t.digest])
	}
	f.Disagreed += complete - most
}
