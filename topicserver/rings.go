package topicserver

import (
	"context"
	"encoding/json"
	"net/http"

	"go.uber.org/zap"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/ring"
	"github.com/ringcast/ringcast/topicserver/topic"
)

// claim says whose a topic is that is not here. It is called under a registry shard's lock.
func (s *Server) claim(name string) topic.Claim {
	switch {
	case s.rings.Current().Owner(name).ID != s.cfg.ID:
		return topic.NotOurs
	case s.take.mayBeElsewhere(name):
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
		Path:    s.cfg.RingFile,
		Current: s.rings.Current,
		Apply: func(next *ring.Ring) error {
			err := s.rings.Replace(next)
			s.staleFile.Store(err != nil)
			return err
		},
		Fail: func(err error) {
			s.ringFailed.Store(true)
			s.log.Error("ring file not applied; the ring in use stays", zap.Error(err))
		},
		Recovered: func() { s.ringFailed.Store(false) },
		Reload:    s.reload,
	})
	if err != nil {
		s.log.Error("ring file is not watched", zap.Error(err))
	}
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

// learn takes rings that a peer knows: a newer one is used, older ones tell who may have topics of ours.
func (s *Server) learn(rings []*linkpb.Ring) {
	for _, m := range rings {
		current := s.rings.Current()
		if m.Version == current.Version() {
			s.compare(current, m)
			continue
		}
		r, err := link.DecodeRing(m)
		if err != nil {
			s.log.Error("a peer sent a bad ring", zap.Error(err))
			continue
		}
		if m.Version < current.Version() {
			if s.rings.Learn(r) {
				s.take.begin(s.rings.Known())
			}
			continue
		}
		if err := s.rings.Adopt(r); err == nil && s.cfg.RingFile != "" {
			s.staleFile.Store(true)
			s.log.Warn("took a newer ring from a peer; this server's ring file is stale", zap.Uint64("ring_version", m.Version))
		}
	}
}

// compare reports a peer that uses another ring under the same version.
func (s *Server) compare(current *ring.Ring, m *linkpb.Ring) {
	if r, err := link.DecodeRing(m); err == nil && r.Hash() != current.Hash() {
		s.log.Error("RING_CONFLICT: a peer's ring of the same version differs in content", zap.Uint64("ring_version", m.Version))
	}
}

// serveRing is the admin page /ring: which ring this server uses, and whether it still has topics of others.
func (s *Server) serveRing(w http.ResponseWriter, _ *http.Request) {
	status := s.rings.Status(s.cfg.ID, "topicserver")
	status.FileStale, status.FileFailed, status.Pending = s.staleFile.Load(), s.ringFailed.Load(), s.give.pending()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(status)
}
