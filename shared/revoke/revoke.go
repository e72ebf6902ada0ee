// Package revoke remembers who was sent away, for as long as a token of theirs may still be good. Gateways and topic servers
// each have a Table, and tell each other what is in it.
package revoke

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
)

const (
	// MaxKept is how many revocations a Table remembers. Beyond it the one that ends first is forgotten.
	MaxKept = 10_000
	// MaxTarget is the length of the longest user, token id or session, in bytes.
	MaxTarget = 512
	// maxUntil bounds how far in the future a revocation may end.
	maxUntil = 367 * 24 * time.Hour
)

// New returns a revocation with a new id. Its target is to be set.
func New(now time.Time, keep time.Duration) *linkpb.Revoke {
	return &linkpb.Revoke{IdHigh: rand.Uint64(), IdLow: rand.Uint64(), At: now.Unix(), Until: now.Add(keep).Unix()}
}

// ID names a revocation.
type ID struct{ High, Low uint64 }

// IDOf returns the id of a revocation.
func IDOf(r *linkpb.Revoke) ID { return ID{r.IdHigh, r.IdLow} }

// Table is a set of revocations. Its zero value is empty. Any goroutine may call its methods.
type Table struct {
	count     atomic.Int64
	forgotten atomic.Uint64

	mu     sync.RWMutex
	byID   map[ID]*linkpb.Revoke
	users  map[string]span
	tokens map[string]span
	gone   map[ID]struct{} // those in wasGone
	// The last ones that were forgotten for want of room: they are no news. Else two that take each other's place would be told
	// back and forth for ever, since who hears news passes it on. It is full at MaxKept, and nextGone the oldest one's place.
	wasGone  []ID
	nextGone int
}

// span is what the revocations of one user or token amount to: later ones reach further in both ways.
type span struct{ at, until int64 }

// Add notes a revocation, which must not change any more. It reports whether it is news; it is not if it has ended, or was here and
// forgotten, or if what it says makes no sense.
func (t *Table) Add(r *linkpb.Revoke, now time.Time) bool {
	if Check(r, now) != nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID == nil {
		t.byID, t.users, t.tokens = make(map[ID]*linkpb.Revoke), make(map[string]span), make(map[string]span)
	}
	if _, gone := t.gone[IDOf(r)]; gone || t.byID[IDOf(r)] != nil {
		return false
	}
	if len(t.byID) >= MaxKept {
		t.makeRoomLocked()
	}
	t.byID[IDOf(r)] = r
	t.indexLocked(r)
	t.count.Store(int64(len(t.byID)))
	return true
}

func (t *Table) indexLocked(r *linkpb.Revoke) {
	index, name := t.users, r.GetUser()
	if name == "" {
		index, name = t.tokens, r.GetTokenId()
	}
	if name != "" {
		s := index[name]
		index[name] = span{max(s.at, r.At), max(s.until, r.Until)}
	}
}

// makeRoomLocked forgets the revocation that ends first.
func (t *Table) makeRoomLocked() {
	var first *linkpb.Revoke
	for _, r := range t.byID {
		if first == nil || r.Until < first.Until {
			first = r
		}
	}
	delete(t.byID, IDOf(first))
	t.noteGoneLocked(IDOf(first))
	t.forgotten.Add(1)
	t.reindexLocked()
}

// noteGoneLocked remembers that a revocation was forgotten.
func (t *Table) noteGoneLocked(id ID) {
	if t.gone == nil {
		t.gone = make(map[ID]struct{})
	}
	t.gone[id] = struct{}{}
	if len(t.wasGone) < MaxKept {
		t.wasGone = append(t.wasGone, id)
		return
	}
	delete(t.gone, t.wasGone[t.nextGone])
	t.wasGone[t.nextGone] = id
	t.nextGone = (t.nextGone + 1) % MaxKept
}

func (t *Table) reindexLocked() {
	clear(t.users)
	clear(t.tokens)
	for _, r := range t.byID {
		t.indexLocked(r)
	}
	t.count.Store(int64(len(t.byID)))
}

// Check returns what is wrong with a revocation.
func Check(r *linkpb.Revoke, now time.Time) error {
	target := r.GetUser() + r.GetTokenId() + r.GetSession()
	if u := r.GetUnsubscription(); u != nil {
		target = u.User + u.Session
		if u.Topic == "" || len(u.Topic) > MaxTarget || (u.User == "") == (u.Session == "") {
			return errors.New("unsubscription: want a topic, and a user or a session")
		}
	}
	switch {
	case target == "" || len(target) > MaxTarget:
		return fmt.Errorf("revocation of a target of %d bytes: want 1 to %d", len(target), MaxTarget)
	case r.Until <= now.Unix():
		return errors.New("revocation that has ended")
	case r.Until > now.Add(maxUntil).Unix() || r.At > r.Until:
		return errors.New("revocation from the future")
	}
	return nil
}

// Revoked reports whether a token does not count any more: its id is revoked, or its user, at or after its time of issue in
// Unix seconds.
func (t *Table) Revoked(user, tokenID string, issued int64, now time.Time) bool {
	if t.count.Load() == 0 {
		return false
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	u, unix := t.users[user], now.Unix()
	if u.until > unix && issued <= u.at {
		return true
	}
	return tokenID != "" && t.tokens[tokenID].until > unix
}

// All returns everything in the table, in no order.
func (t *Table) All() []*linkpb.Revoke {
	t.mu.RLock()
	defer t.mu.RUnlock()
	all := make([]*linkpb.Revoke, 0, len(t.byID))
	for _, r := range t.byID {
		all = append(all, r)
	}
	return all
}

// Len returns how many revocations are remembered, and Forgotten how many were forgotten for want of room.
func (t *Table) Len() int { return int(t.count.Load()) }

// Forgotten returns how many revocations were forgotten before their time, for want of room.
func (t *Table) Forgotten() uint64 { return t.forgotten.Load() }

// Sweep forgets what has ended.
func (t *Table) Sweep(now time.Time) {
	if t.count.Load() == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	before := len(t.byID)
	for id, r := range t.byID {
		if r.Until <= now.Unix() {
			delete(t.byID, id)
		}
	}
	if len(t.byID) != before {
		t.reindexLocked()
	}
}
