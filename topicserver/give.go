package topicserver

import (
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/ring"
)

// give hands topics over to other servers.
//
// A handover is about one ring: it ends when another one is in use here, and the peer comes again. So what a peer
// was told stays true: a topic that was not on offer is not sealed for it later, by a request that was on its way while
// the ring changed. That matters to a third server, to which the new ring gives the topic and which has asked both.
//
// Lock order: give.mu → those of package topic.
type give struct {
	s         *Server
	busyPause time.Duration // static; well below the silence that a taker allows

	mu    sync.Mutex
	given map[string]*given
}

// given is a topic that was sealed for another server and has perhaps not arrived there. That process of that server alone gets
// it, whatever the ring says by then: it may be at work there already. When the server comes back as another process the topic
// is as dead as those that the first one had: whether it was at work nobody knows, and its positions must not be given again.
type given struct {
	to    taker
	state *linkpb.TopicState
	at    time.Time
}

// taker is a process of another server that takes topics.
type taker struct {
	id       string
	instance uint64
}

// maxUnsent is how many bytes of states may wait for a peer before the next topic is sealed. The largest state on top of
// that is well below what a handover may queue.
const maxUnsent = 1 << 20

func newGive(s *Server) *give {
	return &give{s: s, busyPause: time.Second, given: make(map[string]*given)}
}

// serve serves one handover.
func (gv *give) serve(h *link.Handover) error {
	first, err := h.Receive()
	if err != nil {
		return err
	}
	peer := taker{first.Server, first.Instance}
	if !h.Peer().Server(peer.id) {
		return fmt.Errorf("peer %s presents id %s", peer.id, h.Peer())
	}
	if !link.SameCluster(first.Cluster, gv.s.cfg.Cluster) {
		_ = h.Send(&linkpb.Gives{Cluster: gv.s.cfg.Cluster}) // so that its log says so too
		return gv.s.wrongCluster(peer.id, first.Cluster)
	}
	gv.s.learn(first.Rings)
	if !gv.s.knows(peer.id) || peer.id == gv.s.cfg.ID {
		return fmt.Errorf("peer presents id %q, which is another server of no ring known here", peer.id)
	}
	h.Greeted()
	done := gv.busy(h)
	gv.arrived(first.Arrived, peer)
	rg, names := gv.list(peer)
	done()
	if err := gv.offer(h, names); err != nil {
		return err
	}
	for {
		m, err := h.Receive()
		if err != nil {
			return nil //nolint:nilerr // the peer is done, or will come again
		}
		if gv.taken(m.Taken, peer); len(m.Pull) == 0 {
			if err := h.Send(&linkpb.Gives{}); err != nil {
				return err
			}
		}
		for _, name := range m.Pull {
			if !hasRoom(h) {
				return nil
			}
			state := gv.seal(name, peer, rg)
			if state == nil {
				return nil
			}
			if err := h.Send(&linkpb.Gives{State: state}); err != nil {
				return err
			}
		}
	}
}

// wrongCluster is why there is no handover with a topic server of another cluster.
func (s *Server) wrongCluster(peer, cluster string) error {
	return fmt.Errorf("peer %.255q is of cluster %.64q, topic server %q of cluster %q", peer, cluster, s.cfg.ID, s.cfg.Cluster)
}

// busy keeps a handover going while this server is not ready to say what it has: to list a million topics takes seconds. It
// ends when done is called.
func (gv *give) busy(h *link.Handover) (done func()) {
	stop := make(chan struct{})
	var ticks sync.WaitGroup
	ticks.Go(func() {
		tick := time.NewTicker(gv.busyPause)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			if h.Send(&linkpb.Gives{Cluster: gv.s.cfg.Cluster}) != nil {
				return
			}
		}
	})
	return func() {
		close(stop)
		ticks.Wait()
	}
}

// hasRoom waits until the peer has read most of what was sent to it. It reports false when the handover has ended. A peer that reads
// nothing ends it.
func hasRoom(h *link.Handover) bool {
	for h.Backlog() > maxUnsent {
		h.Await()
		select {
		case <-h.Context().Done():
			return false
		case <-time.After(time.Millisecond):
		}
	}
	return true
}

// offer tells the peer the rings known here and the topics that list has named.
func (gv *give) offer(h *link.Handover, names []string) error {
	m := &linkpb.Gives{Cluster: gv.s.cfg.Cluster}
	for _, r := range gv.s.rings.Known() {
		m.Rings = append(m.Rings, link.EncodeRing(r))
	}
	const chunk = 4096 // names of 255 bytes at most stay well below the largest message
	for {
		n := min(len(names), chunk)
		m.Offers, names = names[:n], names[n:]
		m.Offered = len(names) == 0
		if err := h.Send(m); err != nil || m.Offered {
			return err
		}
		m = &linkpb.Gives{}
		if !hasRoom(h) {
			return h.Context().Err()
		}
	}
}

// list names the topics for a peer: those that the ring in use gives to it, and those that were sealed for it. It returns that ring
// too. What was sealed for an earlier process of the same server is forgotten.
func (gv *give) list(peer taker) (*ring.Ring, []string) {
	gv.mu.Lock()
	defer gv.mu.Unlock()
	rg := gv.s.rings.Current()
	names := gv.s.topics.Foreign(func(name string) bool { return rg.Owner(name).ID == peer.id })
	lost := 0
	for name, g := range gv.given {
		switch {
		case g.to == peer:
			names = append(names, name)
		case g.to.id == peer.id:
			delete(gv.given, name)
			lost++
		}
	}
	if lost > 0 {
		gv.s.log.Warn("a server that was taking topics over has restarted; they begin anew",
			zap.String("to", peer.id), zap.Int("topics", lost))
	}
	return rg, names
}

// seal returns a topic's state for the peer, having ended the topic here. It returns nil when the ring has changed.
//
// The ring is looked at under give.mu, as it is in list: whatever list told a third server, whether this topic was here
// or was another's, is so.
func (gv *give) seal(name string, peer taker, rg *ring.Ring) *linkpb.TopicState {
	gv.mu.Lock()
	defer gv.mu.Unlock()
	if gv.s.rings.Current() != rg {
		return nil
	}
	var state *linkpb.TopicState
	pending := false
	if rg.Owner(name).ID == peer.id {
		state, pending = gv.s.topics.Seal(name, rg.Version())
	}
	g := gv.given[name]
	switch {
	case state != nil:
		trim(state)
		gv.given[name] = &given{to: peer, state: state, at: time.Now()}
		return state
	case g != nil && g.to == peer:
		return g.state
	case pending:
		return &linkpb.TopicState{Topic: name, Absent: true, MovedTo: gv.s.cfg.ID}
	}
	return &linkpb.TopicState{Topic: name, Absent: true}
}

// trim makes a state fit into a message: first its oldest messages go, then its oldest ids.
func trim(state *linkpb.TopicState) {
	for state.SizeVT() > link.MaxState && len(state.History)+len(state.Ids) > 0 {
		if n := len(state.History); n > 0 {
			state.History = state.History[n-n/2:]
		} else {
			state.Ids = state.Ids[len(state.Ids)-len(state.Ids)/2:]
		}
	}
}

// taken forgets topics that have arrived at the peer.
func (gv *give) taken(names []string, peer taker) {
	gv.mu.Lock()
	defer gv.mu.Unlock()
	for _, name := range names {
		if g := gv.given[name]; g != nil && g.to == peer {
			delete(gv.given, name)
			gv.s.moves.given.Add(1)
		}
	}
}

// arrived is taken for what arrived over an earlier connection. Meanwhile the topic may have come back and been sealed
// again: that state has another position.
func (gv *give) arrived(list []*linkpb.Arrived, peer taker) {
	gv.mu.Lock()
	defer gv.mu.Unlock()
	for _, a := range list {
		g := gv.given[a.Topic]
		if g != nil && g.to == peer && a.Position.GetEpoch() == g.state.Position.Epoch && a.Position.GetOffset() == g.state.Position.Offset {
			delete(gv.given, a.Topic)
			gv.s.moves.given.Add(1)
		}
	}
}

// returned forgets a topic that is about to come back: what was sealed before is its past.
func (gv *give) returned(name string) {
	gv.mu.Lock()
	defer gv.mu.Unlock()
	delete(gv.given, name)
}

// expire forgets topics that nobody has come for, long after their new owner has given up on this server.
func (gv *give) expire() {
	old := time.Now().Add(-2*gv.s.cfg.HandoverTimeout - time.Minute)
	gv.mu.Lock()
	defer gv.mu.Unlock()
	for name, g := range gv.given {
		if g.at.Before(old) {
			delete(gv.given, name)
		}
	}
}

// pending returns how many topics are here that the ring gives to others, those on their way included.
func (gv *give) pending() int {
	rg := gv.s.rings.Current()
	n := len(gv.s.topics.Foreign(func(name string) bool { return rg.Owner(name).ID != gv.s.cfg.ID }))
	gv.mu.Lock()
	defer gv.mu.Unlock()
	return n + len(gv.given)
}
