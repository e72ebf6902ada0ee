package ring

import (
	"errors"
	"fmt"
)

// Reasons of Follow, for errors.Is.
var (
	ErrSame     = errors.New("the ring is the one in use")
	ErrOlder    = errors.New("the ring is older than the one in use")
	ErrConflict = errors.New("the ring has the version of the one in use and other content")
	ErrTooFar   = errors.New("the ring's version is too far above that of the one in use")
	ErrForce    = errors.New("the ring removes more than half of the servers, or has another salt, and is not forced")
)

// A refused is a reason of Follow with the numbers of the case.
type refused struct {
	reason error
	text   string
}

func (e *refused) Error() string { return e.text }
func (e *refused) Unwrap() error { return e.reason }

// Follow says whether next may replace r, the ring in use: nil if so. Otherwise errors.Is finds one of these in the
// error, looked for in this order:
//
//   - ErrOlder: next has a lower version.
//   - ErrSame: next has the version, the servers and the salt of r. There is nothing to do.
//   - ErrConflict: next has the version of r and other content. Somebody edited a file without raising the version.
//   - ErrTooFar: the version of next is more than MaxStep above that of r, by mistake or malice: nothing could come after it.
//   - ErrForce: next is without more than half of the servers of r, counted by id, or has several servers and another
//     salt, and its file does not say "force: true". The text tells the share of topics that would move.
//
// A ring that a peer uses already was let through there, and New does not know whether it was forced: who adopts one
// takes ErrForce for a yes.
func (r *Ring) Follow(next *Ring) error {
	switch {
	case next.version < r.version:
		return &refused{ErrOlder, fmt.Sprintf("version %d is older than %d in use", next.version, r.version)}
	case next.version == r.version && next.hash == r.hash:
		return ErrSame
	case next.version == r.version:
		return &refused{ErrConflict, fmt.Sprintf("RING_CONFLICT version %d: content differs from the ring in use", r.version)}
	case r.TooFar(next.version):
		return &refused{ErrTooFar, fmt.Sprintf("version %d is too far above %d in use: the next one is %d at most", next.version, r.version, r.version+MaxStep)}
	case next.force:
		return nil
	}
	removed := 0
	for _, s := range r.servers {
		if _, stays := next.byID[s.ID]; !stays {
			removed++
		}
	}
	resalted := next.salt != r.salt && len(next.servers) > 1
	if removed*2 > len(r.servers) || resalted {
		return &refused{ErrForce, fmt.Sprintf("would move %.0f %% of topics; set force: true", 100*r.Moved(next))}
	}
	return nil
}

// TooFar reports whether a version is more than MaxStep above that of r.
func (r *Ring) TooFar(version uint64) bool { return version > r.version && version-r.version > MaxStep }

// Shares estimates the share of topics, from 0 to 1, that each server owns, by id. It looks up some thousand names, as
// Moved does.
func (r *Ring) Shares() map[string]float64 {
	shares := make(map[string]float64, len(r.servers))
	for i := range movedSample {
		shares[r.Owner(fmt.Sprintf("topics:%d", i)).ID] += 1.0 / movedSample
	}
	return shares
}

// movedSample is how many topics Moved and Shares look up. With 4096 the share is within two percent points, 99 times of 100.
const movedSample = 4096

// Moved estimates the share of topics, from 0 to 1, that have another owner in next than in r. It looks up the same
// few thousand names in both rings, which takes some milliseconds, and gives the same answer every time. A new
// address moves nothing.
func (r *Ring) Moved(next *Ring) float64 {
	moved := 0
	for i := range movedSample {
		topic := fmt.Sprintf("topics:%d", i)
		if r.Owner(topic).ID != next.Owner(topic).ID {
			moved++
		}
	}
	return float64(moved) / movedSample
}
