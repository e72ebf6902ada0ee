package router

import (
	"errors"

	"go.uber.org/zap"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/ring"
)

// learn takes a ring that the server has, if it is newer. It is built elsewhere: that takes milliseconds, a second if the ring
// is large, and a receiver must not wait.
func (l *lane) learn(m *linkpb.Ring) {
	r := l.r
	switch current := r.rings.Current(); {
	case current.TooFar(m.Version):
		r.stats.conflicts.Add(1)
		r.ringLog.Log(l.log, zap.ErrorLevel, "the version of the topic server's ring is too far above the one in use: it is not taken",
			zap.Uint64("ring_version", m.Version), zap.Uint64("in_use", current.Version()))
	case m.Version > current.Version():
		r.learnMu.Lock()
		defer r.learnMu.Unlock()
		switch {
		case l.building:
			l.newest = m
		case r.learning != m.Version: // else another lane has brought it
			r.learning, l.building = m.Version, true
			r.running.Go(func() { l.build(m) })
		}
	case m.Version == current.Version() && !link.SameRing(m, current):
		r.stats.conflicts.Add(1)
		r.ringLog.Log(l.log, zap.ErrorLevel, "RING_CONFLICT: the topic server's ring of the same version differs in content", zap.Uint64("ring_version", m.Version))
	}
}

// build puts a ring to use that the server has.
func (l *lane) build(m *linkpb.Ring) { l.r.guard(func() { l.putToUse(m) }) }

func (l *lane) putToUse(m *linkpb.Ring) {
	next, err := l.adopt(m)
	if errors.Is(err, ring.ErrSame) || errors.Is(err, ring.ErrOlder) {
		return // another lane was faster
	}
	if err != nil {
		l.r.ringLog.Log(l.log, zap.ErrorLevel, "ring of the topic server not taken", zap.Error(err))
		return
	}
	if l.r.cfg.Adopted != nil {
		l.r.cfg.Adopted(next)
	}
}

// adopt is build up to where the ring is in use, or is not taken. Whatever comes of it, the next one may be built.
func (l *lane) adopt(m *linkpb.Ring) (*ring.Ring, error) {
	defer func() {
		l.r.learnMu.Lock()
		if l.r.learning == m.Version {
			l.r.learning = 0
		}
		later := l.newest
		l.building, l.newest = false, nil
		l.r.learnMu.Unlock()
		if later != nil {
			l.learn(later)
		}
	}()
	next, err := link.DecodeRing(m)
	if err == nil {
		err = l.r.rings.Adopt(next)
	}
	return next, err
}
