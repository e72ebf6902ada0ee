package topicserver

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/ring"
)

// A ring change moves topics between servers that are all at work. The new owner pulls:
//
//	new owner                                   old owner
//	Wants{server, rings} ─────────────────────► takes the ring if it is newer; from then on it makes
//	                                            no topic of the other's any more
//	          ◄───────────── Gives{rings, offers}   what it has that is the other's
//	topics on offer: requests for them wait
//	Wants{pull: a, b} ────────────────────────► seals a: no more requests, Sealed to its gateways
//	          ◄──────────────────── Gives{state: a}   kept, in case it gets lost on the way
//	installs a, runs what waited
//	Wants{taken: a} ──────────────────────────► forgets a
//
// A topic that requests wait for is pulled first, so its pause is a round trip. Until it is pulled the old owner serves
// it as before.

// take fetches the topics of this server from the others that may have some: after each change of the ring, and at
// the start, when others may know rings that this process has never seen.
type take struct {
	s    *Server
	kick chan struct{} // a new round is due

	mu     sync.Mutex
	givers map[string]*giver // of the current round, by server id; empty when everything is settled
}

// giver is one other server in the current round. Guarded by take.mu.
type giver struct {
	server  ring.Server
	before  bool            // an older ring has it, so it is likely to have topics of ours
	offered bool            // it has told all that it has for us; what is not in offers it has not
	offers  map[string]bool // not installed yet; the value says that it is pulled already
	urgent  []string        // offers that requests wait for
	wake    chan struct{}   // urgent has something
}

// handoverGrace bounds the wait, at the start, for servers of which nothing says that they have topics of ours.
const handoverGrace = 500 * time.Millisecond

// pullWindow is how many topics are on their way from one giver at once.
const pullWindow = 16

func newTake(s *Server) *take {
	return &take{s: s, kick: make(chan struct{}, 1), givers: make(map[string]*giver)}
}

// begin opens a round: until a server has told what it has, it may have anything. known lists the rings that matter,
// the one about to be used first. It is called before that ring is used.
func (tk *take) begin(known []*ring.Ring) {
	tk.mu.Lock()
	defer tk.mu.Unlock()
	givers := make(map[string]*giver)
	for i, r := range known {
		for _, server := range r.Servers() {
			if server.ID == tk.s.cfg.ID {
				continue
			}
			if givers[server.ID] == nil {
				givers[server.ID] = &giver{server: server, offers: make(map[string]bool), wake: make(chan struct{}, 1)}
			}
			givers[server.ID].before = i > 0
		}
	}
	tk.givers = givers
	select {
	case tk.kick <- struct{}{}:
	default:
	}
}

// mayBeElsewhere reports whether another server may have the topic, and has it pulled soon if one has. It is called
// under a registry shard's lock.
func (tk *take) mayBeElsewhere(name string) bool {
	tk.mu.Lock()
	defer tk.mu.Unlock()
	for _, g := range tk.givers {
		if pulled, ok := g.offers[name]; ok && !pulled {
			g.urgent = append(g.urgent, name)
			select {
			case g.wake <- struct{}{}:
			default:
			}
			return true
		} else if ok || !g.offered {
			return true
		}
	}
	return false
}

// run runs round after round until ctx is canceled.
func (tk *take) run(ctx context.Context) {
	var round sync.WaitGroup
	defer round.Wait()
	stop := func() {}
	defer func() { stop() }()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tk.kick:
		}
		stop()
		round.Wait()
		roundCtx, cancel := context.WithCancel(ctx)
		stop = cancel
		tk.mu.Lock()
		for _, g := range tk.givers {
			round.Go(func() { tk.from(roundCtx, g) })
		}
		tk.mu.Unlock()
	}
}

// from takes everything that one giver has for us, or gives it up when it cannot be reached within the bound.
func (tk *take) from(ctx context.Context, g *giver) {
	log := tk.s.log.With(zap.String("from", g.server.ID))
	patience := tk.s.cfg.HandoverTimeout
	if !g.before {
		patience = min(patience, handoverGrace)
	}
	deadline := time.Now().Add(patience)
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		taken, err := tk.session(ctx, g)
		if ctx.Err() != nil {
			return
		}
		if taken > 0 {
			log.Info("took topics over", zap.Int("topics", taken), zap.Uint64("ring_version", tk.s.rings.Current().Version()))
			deadline = time.Now().Add(patience)
		}
		if err == nil || time.Now().After(deadline) {
			if err != nil {
				log.Warn("gave up on a server that may have topics of this one; topics that it has begin anew here",
					zap.Duration("after", patience), zap.Error(err))
			}
			tk.finish(g)
			return
		}
		pause.Reset(50 * time.Millisecond)
	}
}

// finish ends a giver's part in the round. Topics that waited for it alone begin anew.
func (tk *take) finish(g *giver) {
	tk.mu.Lock()
	if tk.givers[g.server.ID] == g {
		delete(tk.givers, g.server.ID)
	}
	tk.mu.Unlock()
	tk.resolve()
}

// resolve ends the wait of topics that nobody has.
func (tk *take) resolve() {
	for _, name := range tk.s.topics.Waiting() {
		if !tk.mayBeElsewhere(name) {
			tk.s.topics.Install(name, nil)
		}
	}
}

// session is one connection to a giver. It returns nil when everything that the giver has for us is installed.
func (tk *take) session(ctx context.Context, g *giver) (taken int, err error) {
	first := &linkpb.Wants{Server: tk.s.cfg.ID}
	for _, r := range tk.s.rings.Known() {
		first.Rings = append(first.Rings, link.EncodeRing(r))
	}
	t, err := link.Take(ctx, g.server.Addr, tk.s.cfg.link(), first)
	if err != nil {
		return 0, err
	}
	defer t.Close()
	for done := false; !done; {
		m, err := t.Receive()
		if err != nil {
			return 0, err
		}
		t.Greeted()
		tk.s.learn(m.Rings)
		tk.offered(g, m.Offers, m.Offered)
		done = m.Offered
	}
	tk.resolve()
	return tk.pull(ctx, t, g)
}

// offered notes what the giver has. Requests for it wait from now on, if they do not yet.
func (tk *take) offered(g *giver, names []string, all bool) {
	tk.mu.Lock()
	for _, name := range names {
		g.offers[name] = false
	}
	g.offered = g.offered || all
	tk.mu.Unlock()
	for _, name := range names {
		tk.s.topics.Expect(name)
	}
}

// pull fetches what is on offer, what requests wait for first.
func (tk *take) pull(ctx context.Context, t *link.Taking, g *giver) (taken int, err error) {
	states := make(chan *linkpb.TopicState, pullWindow)
	failed := make(chan error, 1)
	var receiver sync.WaitGroup
	defer receiver.Wait()
	defer t.Close()
	receiver.Go(func() {
		for {
			m, err := t.Receive()
			if err != nil {
				failed <- err
				return
			}
			if m.State != nil {
				states <- m.State // never full: no more than the window is asked for
			}
		}
	})
	defer tk.unpull(g)
	for flying := 0; ; {
		names, left := tk.next(g, pullWindow-flying)
		if left == 0 && flying == 0 {
			return taken, nil
		}
		if len(names) > 0 {
			if err := t.Send(&linkpb.Wants{Pull: names}); err != nil {
				return taken, err
			}
			flying += len(names)
		}
		select {
		case <-ctx.Done():
			return taken, ctx.Err()
		case err := <-failed:
			return taken, err
		case <-g.wake:
		case state := <-states:
			flying--
			taken += tk.install(g, state)
			if err := t.Send(&linkpb.Wants{Taken: []string{state.Topic}}); err != nil {
				return taken, err
			}
		}
	}
}

// next picks up to n offers to pull, and returns how many are left that are not installed.
func (tk *take) next(g *giver, n int) (names []string, left int) {
	tk.mu.Lock()
	defer tk.mu.Unlock()
	for _, name := range g.urgent {
		if pulled, ok := g.offers[name]; ok && !pulled && len(names) < n {
			g.offers[name] = true
			names = append(names, name)
		}
	}
	g.urgent = g.urgent[:0]
	for name, pulled := range g.offers {
		if len(names) >= n {
			break
		}
		if !pulled {
			g.offers[name] = true
			names = append(names, name)
		}
	}
	return names, len(g.offers)
}

// unpull makes what was asked for and did not come be asked for again.
func (tk *take) unpull(g *giver) {
	tk.mu.Lock()
	defer tk.mu.Unlock()
	for name := range g.offers {
		g.offers[name] = false
	}
}

// install puts a topic's state in place. A topic that the giver has given on to another server is expected from there.
func (tk *take) install(g *giver, state *linkpb.TopicState) int {
	tk.mu.Lock()
	delete(g.offers, state.Topic)
	next := tk.givers[state.MovedTo]
	if state.Absent && next != nil && next != g {
		next.offers[state.Topic] = false
		next.urgent = append(next.urgent, state.Topic)
		select {
		case next.wake <- struct{}{}:
		default:
		}
		tk.mu.Unlock()
		return 0
	}
	tk.mu.Unlock()
	if state.Absent {
		if !tk.mayBeElsewhere(state.Topic) {
			tk.s.topics.Install(state.Topic, nil)
		}
		return 0
	}
	tk.s.topics.Install(state.Topic, state)
	tk.s.moved.Add(1)
	return 1
}

// give hands topics over to other servers.
type give struct {
	s *Server

	mu    sync.Mutex
	given map[string]*given
}

// given is a topic that was sealed for another server.
type given struct {
	to    string
	state *linkpb.TopicState // nil once it has arrived
	at    time.Time
}

// givenMemory is how long it is remembered where a topic went, for a third server that asks here.
const givenMemory = time.Minute

func newGive(s *Server) *give { return &give{s: s, given: make(map[string]*given)} }

// serve serves one handover.
func (gv *give) serve(h *link.Handover) error {
	first, err := h.Receive()
	if err != nil {
		return err
	}
	peer := first.Server
	gv.s.learn(first.Rings)
	if !gv.s.knows(peer) || peer == gv.s.cfg.ID {
		return fmt.Errorf("peer presents id %q, which is another server of no ring known here", peer)
	}
	h.Greeted()
	if err := gv.offer(h, peer); err != nil {
		return err
	}
	for {
		m, err := h.Receive()
		if err != nil {
			return nil // the peer is done, or will come again
		}
		gv.taken(m.Taken)
		for _, name := range m.Pull {
			state, err := gv.seal(h.Context(), name, peer)
			if err != nil {
				return err
			}
			if err := h.Send(&linkpb.Gives{State: state}); err != nil {
				return err
			}
		}
	}
}

// offer tells the peer the rings known here and every topic that is here and the peer's.
func (gv *give) offer(h *link.Handover, peer string) error {
	names := gv.s.topics.Foreign(func(name string) bool { return gv.s.rings.Current().Owner(name).ID == peer })
	gv.mu.Lock()
	for name, g := range gv.given {
		if g.to == peer && g.state != nil {
			names = append(names, name)
		}
	}
	gv.mu.Unlock()
	m := &linkpb.Gives{}
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
	}
}

// seal returns a topic's state for the peer, having ended the topic here. It waits for a topic that is itself still on
// its way here.
func (gv *give) seal(ctx context.Context, name, peer string) (*linkpb.TopicState, error) {
	rg := gv.s.rings.Current()
	if rg.Owner(name).ID != peer {
		return &linkpb.TopicState{Topic: name, Absent: true}, nil // a newer ring gives it to somebody else
	}
	for {
		state, pending := gv.s.topics.Seal(name, rg.Version())
		if pending {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(2 * time.Millisecond):
			}
			continue
		}
		gv.mu.Lock()
		defer gv.mu.Unlock()
		if state != nil {
			gv.given[name] = &given{to: peer, state: state, at: time.Now()}
			return state, nil
		}
		g := gv.given[name]
		switch {
		case g == nil:
			return &linkpb.TopicState{Topic: name, Absent: true}, nil
		case g.to == peer && g.state != nil:
			return g.state, nil
		default:
			return &linkpb.TopicState{Topic: name, Absent: true, MovedTo: g.to}, nil
		}
	}
}

// taken forgets the state of topics that have arrived, and after a while the topics.
func (gv *give) taken(names []string) {
	gv.mu.Lock()
	defer gv.mu.Unlock()
	for _, name := range names {
		if g := gv.given[name]; g != nil {
			g.state = nil
		}
	}
	for name, g := range gv.given {
		if g.state == nil && time.Since(g.at) > givenMemory {
			delete(gv.given, name)
		}
	}
}

// pending returns how many topics are here that the ring gives to others, those on their way included.
func (gv *give) pending() int {
	n := len(gv.s.topics.Foreign(func(name string) bool { return gv.s.rings.Current().Owner(name).ID != gv.s.cfg.ID }))
	gv.mu.Lock()
	defer gv.mu.Unlock()
	for _, g := range gv.given {
		if g.state != nil {
			n++
		}
	}
	return n
}
