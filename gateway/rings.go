package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"go.uber.org/zap"

	"github.com/ringcast/ringcast/shared/daemon"
	"github.com/ringcast/ringcast/shared/ring"
)

// RingVersion returns the version of the ring in use.
func (g *Gateway) RingVersion() uint64 { return g.router.Rings().Current().Version() }

// adopted notes that the ring in use came from a topic server.
func (g *Gateway) adopted(next *ring.Ring) {
	if g.cfg.RingFile != "" {
		g.staleFile.Store(true)
		g.log.Warn("took a newer ring from a topic server; this gateway's ring file is stale",
			zap.Uint64("ring_version", next.Version()))
	}
}

// watchRing keeps the ring at what the ring file says until ctx is canceled.
func (g *Gateway) watchRing(ctx context.Context) {
	rings := g.router.Rings()
	err := ring.Watch(ctx, ring.WatchConfig{
		Path:    g.cfg.RingFile,
		Current: rings.Current,
		Apply: func(next *ring.Ring) error {
			err := rings.Replace(next)
			g.staleFile.Store(err != nil)
			return err
		},
		Fail: g.ringFileFailed,
		Recovered: func() {
			g.ringFailed.Store(false)
			g.staleFile.Store(false)
		},
		Reload: g.reload,
	})
	if err != nil {
		g.log.Error("ring file is not watched", zap.Error(err))
	}
}

func (g *Gateway) ringFileFailed(err error) {
	switch {
	case errors.Is(err, ring.ErrUnwatched): // says nothing about the file
		g.log.Warn("ring file is looked at now and then only", zap.Error(err))
	case errors.Is(err, ring.ErrOlder):
		g.ringFailed.Store(false)
		g.staleFile.Store(true)
		g.log.Warn("this gateway's ring file is stale", zap.Error(err))
	default:
		g.ringFailed.Store(true)
		g.staleFile.Store(false)
		g.log.Error("ring file not applied; the ring in use stays", zap.Error(err))
	}
}

// ringStatus says which ring this gateway uses.
func (g *Gateway) ringStatus() ring.Status {
	status := g.router.Rings().Status(g.cfg.ID, "gateway")
	status.FileStale, status.FileFailed = g.staleFile.Load(), g.ringFailed.Load()
	return status
}

// status is what the admin page /status says.
func (g *Gateway) status() daemon.Status {
	stats := g.router.Stats()
	return daemon.Status{
		Ring: g.ringStatus(), Lanes: stats.LanesUp, Topics: g.router.Topics(), Sessions: g.loops.Conns(), Subscribers: stats.Channels,
		Publishes: stats.Publishes, Sends: stats.Deliveries,
	}
}

// serveRing is the admin page /ring.
func (g *Gateway) serveRing(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(g.ringStatus())
}
