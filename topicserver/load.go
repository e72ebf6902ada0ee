package topicserver

import (
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// heardLoad is what a gateway has said of its load.
type heardLoad struct {
	load *linkpb.Load
	at   time.Time
}

// loadCounts is for how long what a gateway has said of its load counts.
const loadCounts = 3 * time.Second

// heard notes the load of a gateway. One that sends its clients away is told that of the others, which these will go to.
func (l *laneServer) heard(m *linkpb.Load) {
	now := time.Now()
	l.self.load.Store(&heardLoad{m, now})
	if m.Draining {
		l.wire.Append(linkpb.KindDownLoad, l.s.loadBut(l.key, now))
		l.wire.Flush()
	}
}

// loadBut returns the load of all gateways that clients of one may go to.
func (s *Server) loadBut(one laneKey, now time.Time) *linkpb.Load {
	sum := &linkpb.Load{}
	for key, l := range s.lanesByKey() {
		h := l.load.Load()
		if key == one || h == nil || h.load.Draining || now.Sub(h.at) > loadCounts {
			continue
		}
		sum.Gateways++
		sum.JoinMs = max(sum.JoinMs, h.load.JoinMs)
		sum.Refusing = sum.Refusing || h.load.Refusing
	}
	return sum
}
