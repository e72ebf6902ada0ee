package ring

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// maxKnown is how many rings a Keeper remembers, the one in use included. A server that is in none of them is not asked
// for topics any more: that many edits have to be further apart than it takes to move the topics.
const maxKnown = 8

// Keeper holds the ring that a process uses, and the ones used before it, by which a new owner finds out who may have
// a topic's past. Any goroutine may call its methods.
type Keeper struct {
	current atomic.Pointer[Ring]

	mu    sync.Mutex
	past  []*Ring // older than current, newest first
	hooks Hooks
}

// Hooks are called at each change, one change at a time. They must not wait, nor call the Keeper, save Current.
type Hooks struct {
	// Changing is called when another ring comes to be known, and before Current returns it. known is what Known will
	// return.
	Changing func(known []*Ring)
	// Changed is called when another ring has come to use.
	Changed func(old, next *Ring)
}

// NewKeeper returns a Keeper of a first ring. Hooks may be nil.
func NewKeeper(first *Ring, hooks Hooks) *Keeper {
	if hooks.Changing == nil {
		hooks.Changing = func([]*Ring) {}
	}
	if hooks.Changed == nil {
		hooks.Changed = func(_, _ *Ring) {}
	}
	k := &Keeper{hooks: hooks}
	k.current.Store(first)
	return k
}

// Current returns the ring in use.
func (k *Keeper) Current() *Ring { return k.current.Load() }

// Known returns the rings that are known, the one in use first, then older and older ones.
func (k *Keeper) Known() []*Ring {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]*Ring{k.current.Load()}, k.past...)
}

// Replace puts a ring to use that follows the current one by Follow's rules, whose error it returns otherwise.
func (k *Keeper) Replace(next *Ring) error { return k.replace(next, false) }

// Adopt is Replace for a ring that a peer uses. The peer has judged how much it moves, so that is no error here: those left
// are ErrSame, ErrOlder, ErrConflict and ErrTooFar. The hooks run before it returns, one call at a time.
func (k *Keeper) Adopt(next *Ring) error { return k.replace(next, true) }

func (k *Keeper) replace(next *Ring, judged bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	old := k.current.Load()
	if err := old.Follow(next); err != nil && !(judged && errors.Is(err, ErrForce)) {
		return err
	}
	k.rememberLocked(old)
	k.hooks.Changing(append([]*Ring{next}, k.past...))
	k.current.Store(next)
	k.hooks.Changed(old, next)
	return nil
}

// Learn remembers a ring that a peer knows, if it is older than the one in use. It reports whether it was news.
func (k *Keeper) Learn(r *Ring) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r.version >= k.current.Load().version {
		return false
	}
	if !k.rememberLocked(r) {
		return false
	}
	k.hooks.Changing(append([]*Ring{k.current.Load()}, k.past...))
	return true
}

// News reports whether a ring of that version is worth having: newer than the one in use and not too far above it, or older
// but among the newest that are known, and not one of them.
func (k *Keeper) News(version uint64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if current := k.current.Load(); version >= current.version {
		return version > current.version && !current.TooFar(version)
	}
	older := 0
	for _, r := range k.past {
		if r.version == version {
			return false
		}
		if r.version > version {
			older++
		}
	}
	return older < maxKnown-1
}

// rememberLocked puts a ring in its place among the past ones.
func (k *Keeper) rememberLocked(r *Ring) bool {
	at, known := slices.BinarySearchFunc(k.past, r, func(a, b *Ring) int { return int(int64(b.version - a.version)) })
	if known || at >= maxKnown-1 {
		return false
	}
	k.past = slices.Insert(k.past, at, r)
	k.past = k.past[:min(len(k.past), maxKnown-1)]
	return true
}

// Status says which ring a node uses, for operators and for whoever compares nodes.
type Status struct {
	ID         string   `json:"id"`
	Role       string   `json:"role"` // gateway or topicserver
	Version    uint64   `json:"version"`
	Content    string   `json:"content"` // the ring's Hash in hex
	Servers    []string `json:"servers"`
	FileStale  bool     `json:"file_stale"`  // the ring came from a peer and is newer than the node's file
	FileFailed bool     `json:"file_failed"` // the node's file is of no use
	Pending    int      `json:"pending"`     // topics that the node has and the ring gives to others
}

// Status fills in what the ring in use says.
func (k *Keeper) Status(id, role string) Status {
	r := k.Current()
	s := Status{ID: id, Role: role, Version: r.Version(), Content: fmt.Sprintf("%016x", r.Hash())}
	for _, server := range r.Servers() {
		s.Servers = append(s.Servers, server.ID)
	}
	return s
}
