package topicserver

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"syscall"

	"go.uber.org/zap"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/daemon"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/mutant"
	"github.com/ringcast/ringcast/shared/ring"
	"github.com/ringcast/ringcast/topicserver/topic"
)

// claim says whose a topic is that is not here. It is called under a registry shard's lock.
func (s *Server) claim(name string) topic.Claim {
	switch {
	case mutant.Is(mutant.IgnoreRing):
		return topic.Ours
	case s.rings.Current().Owner(name).ID != s.cfg.ID:
		if s.building.Load() > 0 {
			return topic.OursLater // perhaps; see learnLater
		}
		return topic.NotOurs
	case s.take.request(name):
		return topic.OursLater
	}
	return topic.Ours
}

// knows reports whether any ring known here has the server.
func (s *Server) knows(id string) bool {
	for _, r := range s.rings.Known() {
		if _, ok := r.Server(id); ok {
			return true
		}
	}
	return false
}

// RingVersion returns the version of the ring in use.
func (s *Server) RingVersion() uint64 { return s.rings.Current().Version() }

// watchRing keeps the ring at what the ring file says until ctx is canceled.
func (s *Server) watchRing(ctx context.Context) {
	err := ring.Watch(ctx, ring.WatchConfig{
		Path:      s.cfg.RingFile,
		Current:   s.rings.Current,
		Apply:     s.rings.Replace,
		Fail:      s.ringFileFailed,
		Recovered: func() { s.fileState(false, false) },
		Reload:    s.look,
	})
	if err != nil {
		s.log.Error("ring file is not watched", zap.Error(err))
	}
}

func (s *Server) ringFileFailed(err error) {
	switch {
	case errors.Is(err, ring.ErrUnwatched): // says nothing about the file
		s.log.Warn("ring file is looked at now and then only", zap.Error(err))
	case errors.Is(err, ring.ErrOlder):
		s.fileState(false, true)
		s.log.Warn("this server's ring file is stale", zap.Error(err))
	default:
		s.fileState(true, false)
		s.log.Error("ring file not applied; the ring in use stays", zap.Error(err))
	}
}

func (s *Server) fileState(failed, stale bool) {
	s.ringFailed.Store(failed)
	s.staleFile.Store(stale)
}

// ringChanged tells every gateway, so that editing one file is enough for a whole cluster.
func (s *Server) ringChanged(old, next *ring.Ring) {
	s.log.Info("ring changed", zap.Uint64("from", old.Version()), zap.Uint64("to", next.Version()),
		zap.Int("servers", len(next.Servers())))
	if _, in := next.Server(s.cfg.ID); !in {
		s.log.Warn("the ring does not have this server any more; it hands its topics over", zap.Uint64("ring_version", next.Version()))
	}
	m := link.EncodeRing(next)
	for _, l := range s.openLanes() {
		l.wire.Append(linkpb.KindDownRing, m)
		l.wire.Flush()
	}
}

// learnLater is learn for a lane, which must not wait. Until it is done, requests for topics that the ring in use gives to
// others wait: the peer that knows the newer ring may send them because of it. One ring of a lane is built at a time; of
// those that come meanwhile the newest is next.
func (l *laneServer) learnLater(m *linkpb.Ring) {
	s := l.s
	if s.compare(m); !s.rings.News(m.GetVersion()) {
		return
	}
	l.learnMu.Lock()
	defer l.learnMu.Unlock()
	if l.building {
		if m.GetVersion() >= l.newest.GetVersion() {
			l.newest = m
		}
		return
	}
	l.building = true
	s.building.Add(1)
	s.learning.Go(func() {
		defer s.take.resolve()
		defer s.building.Add(-1)
		for m := m; m != nil; m = l.nextRing() {
			link.Guard(s.log, &s.panics, func() { s.learn([]*linkpb.Ring{m}) })
		}
	})
}

// nextRing returns the ring of the lane to be built next, nil if there is none.
func (l *laneServer) nextRing() *linkpb.Ring {
	l.learnMu.Lock()
	defer l.learnMu.Unlock()
	m := l.newest
	l.newest, l.building = nil, m != nil
	return m
}

// maxTold is how many rings of one message count; no peer knows more.
const maxTold = 16

// learn takes rings that a peer knows: a newer one is used, older ones tell who may have topics of ours. Building a ring that
// is news takes milliseconds, a second if it is large; several peers that tell the same one have it built once.
func (s *Server) learn(rings []*linkpb.Ring) {
	s.learnMu.Lock()
	defer s.learnMu.Unlock()
	for _, m := range rings[:min(len(rings), maxTold)] {
		if s.compare(m); !s.rings.News(m.GetVersion()) {
			continue
		}
		r, err := link.DecodeRing(m)
		if err != nil {
			s.ringLog.Log(s.log, zap.ErrorLevel, "a peer sent a bad ring", zap.Error(err))
			continue
		}
		if s.rings.Learn(r) {
			continue
		}
		switch err := s.rings.Adopt(r); {
		case err == nil:
			s.log.Info("took a newer ring from a peer", zap.Uint64("ring_version", m.Version))
			select {
			case s.look <- syscall.SIGHUP: // the file is older, or has the ring too by now
			default:
			}
		case errors.Is(err, ring.ErrConflict):
			s.compare(m)
		}
	}
}

// compare reports a peer whose ring has the version of the one in use here and other content, or one that is too far above.
func (s *Server) compare(m *linkpb.Ring) {
	switch current := s.rings.Current(); {
	case current.TooFar(m.GetVersion()):
		s.conflicts.Add(1)
		s.ringLog.Log(s.log, zap.ErrorLevel, "the version of a peer's ring is too far above the one in use: it is not taken",
			zap.Uint64("ring_version", m.Version), zap.Uint64("in_use", current.Version()))
	case current.Version() == m.GetVersion() && !link.SameRing(m, current):
		s.conflicts.Add(1)
		s.ringLog.Log(s.log, zap.ErrorLevel, "RING_CONFLICT: a peer's ring of the same version differs in content", zap.Uint64("ring_version", m.Version))
	}
}

// ringStatus says which ring this server uses, and whether it still has topics of others.
func (s *Server) ringStatus() ring.Status {
	status := s.rings.Status(s.cfg.ID, "topicserver")
	status.FileStale, status.FileFailed, status.Pending = s.staleFile.Load(), s.ringFailed.Load(), s.give.pending()
	return status
}

// status is what the admin page /status says.
func (s *Server) status() daemon.Status {
	stats := s.topics.Stats()
	return daemon.Status{
		Ring: s.ringStatus(), Lanes: s.Lanes(), Topics: int(stats.Topics), Subscribers: int(stats.Subscribers),
		Publishes: stats.Publishes, Sends: stats.FanoutSends,
	}
}

// serveRing is the admin page /ring.
func (s *Server) serveRing(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s.ringStatus())
}
