package gateway

import (
	"context"
	"time"

	"github.com/ringcast/ringcast/gateway/admission"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/linkpb"
)

const (
	drainStep = 100 * time.Millisecond
	drainMin  = 50 // sockets per step and loop that are closed even if DRAIN would allow to take longer
)

// drain sends the clients of a gateway away, a batch at each step. Batches are so large that they would take half of over;
// the other half is for waiting while the gateways that the clients go to have enough to do with those that have come. When
// over has passed, all that are left go at once.
type drain struct {
	over    time.Duration
	loops   int
	left    func() int
	close   func(perLoop int)
	crowded func() bool // the others are to get no more now
}

// run returns when all sockets are being closed, and for how long it has waited for the others.
func (d drain) run() (held time.Duration) {
	steps := max(1, int(d.over/2/drainStep))
	batch := max(drainMin, d.left()/steps/d.loops+1)
	end := time.Now().Add(d.over)
	for d.left() > 0 && time.Now().Before(end) {
		if d.crowded() {
			held += drainStep
		} else {
			d.close(batch)
		}
		time.Sleep(drainStep)
	}
	d.close(-1)
	return held
}

func (g *Gateway) newDrain() drain {
	return drain{
		over: g.cfg.Drain, loops: g.loops.Len(), left: g.loops.Conns, crowded: g.othersCrowded,
		close: func(perLoop int) {
			if perLoop < 0 {
				g.loops.CloseAll(socket.CloseRestart, restartReason)
				return
			}
			g.loops.CloseSome(perLoop, socket.CloseRestart, restartReason)
		},
	}
}

// othersCrowded reports whether joins take too long at the other gateways, or one of them takes no more clients. It knows what
// the topic servers say of the last second or two; if they say nothing, nobody is crowded.
func (g *Gateway) othersCrowded() bool {
	load := g.router.OthersLoad(time.Now())
	return load.Refusing || time.Duration(load.JoinMs)*time.Millisecond > g.cfg.Limits.DrainJoin
}

const (
	loadEvery      = time.Second
	loadEveryDrain = 250 * time.Millisecond // while the gateway stops: each is also a question
)

// tellLoad tells the topic servers, until ctx is canceled, what clients notice of this gateway's load.
func (g *Gateway) tellLoad(ctx context.Context) {
	ticker := time.NewTicker(loadEveryDrain)
	defer ticker.Stop()
	var told time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			draining := g.stopping.Load()
			if !draining && now.Sub(told) < loadEvery {
				continue
			}
			told = now
			join := g.router.JoinTime() + g.gate.Stats().Lag
			g.router.TellLoad(&linkpb.Load{
				JoinMs: uint32(join / time.Millisecond), Refusing: g.gate.Level() >= admission.NoConnects, Draining: draining,
			})
		}
	}
}
