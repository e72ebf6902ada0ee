package topicserver

import (
	"context"
	"errors"
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
//	          ◄───────────────────────────── Gives{}
//
// A topic that requests wait for is pulled first, so its pause is a round trip. Until it is pulled the old owner serves
// it as before.
//
// When the ring changes again meanwhile, a topic goes on from server to server in the order of the rings: the one in the
// middle still takes what was sealed for it, and says "not here yet" to the next one until it has it. What was not
// sealed for it goes to the next one directly, and the one in the middle abandons it as soon as every other server
// has told, under the new ring, what it has.

// take fetches the topics of this server from the others that may have some: after each change of the ring, and at
// the start, when others may know rings that this process has never seen.
//
// Lock order: the locks of package topic → take.mu.
type take struct {
	s    *Server
	kick chan struct{} // a new round is due

	mu     sync.Mutex
	givers map[string]*giver // of the current round, by server id; empty when everything is settled
}

// giver is one other server in a round. Guarded by take.mu, but for what is static.
type giver struct {
	server ring.Server // static
	before bool        // static: an older ring has it, so it is likely to have topics of ours

	settled bool                 // what is not in offers it has not, or it was given up
	offers  map[string]offer     // not installed yet
	pulled  map[string]time.Time // when those on their way were asked for
	urgent  []string             // those that requests wait for, and names that are not on offer
	wake    chan struct{}        // urgent has something
}

// offer is the state of a topic that a giver has for us.
type offer uint8

const (
	open  offer = iota // to be pulled
	asked              // pulled; its state is on its way
	later              // the giver waits for it itself
)

const (
	// startPatience bounds the wait, at the start, for servers of which nothing says that they have topics of ours.
	startPatience = 500 * time.Millisecond
	// pullWindow is how many topics are on their way from one giver at once.
	pullWindow = 16
	// laterPause is the time between two pulls of a topic that the giver has not yet.
	laterPause = 10 * time.Millisecond
	// redialPause is the time between two attempts to reach a giver, redialSlow that after it was given up.
	redialPause = 50 * time.Millisecond
	redialSlow  = time.Second
)

// errNewRing ends a handover of a round that is not the current one any more.
var errNewRing = errors.New("the ring has changed")

func newTake(s *Server) *take {
	return &take{s: s, kick: make(chan struct{}, 1), givers: make(map[string]*giver)}
}

// begin opens a round: until a server has told what it has, it may have anything. known lists the rings that matter,
// the one about to be used first. It is called before that ring is used, by one goroutine at a time.
func (tk *take) begin(known []*ring.Ring) {
	givers := make(map[string]*giver)
	for i, r := range known {
		for _, server := range r.Servers() {
			if server.ID == tk.s.cfg.ID {
				continue
			}
			if givers[server.ID] == nil {
				givers[server.ID] = &giver{server: server, offers: make(map[string]offer), pulled: make(map[string]time.Time), wake: make(chan struct{}, 1)}
			}
			givers[server.ID].before = i > 0
		}
	}
	tk.mu.Lock()
	defer tk.mu.Unlock()
	tk.givers = givers
	select {
	case tk.kick <- struct{}{}:
	default:
	}
}

// elsewhere reports whether another server may have the topic.
func (tk *take) elsewhere(name string) bool {
	tk.mu.Lock()
	defer tk.mu.Unlock()
	for _, g := range tk.givers {
		if _, ok := g.offers[name]; ok || !g.settled {
			return true
		}
	}
	return false
}

// request is elsewhere for a topic that is asked for: it is pulled next if a server has it. It is called under a
// registry shard's lock.
func (tk *take) request(name string) bool {
	tk.mu.Lock()
	defer tk.mu.Unlock()
	found := false
	for _, g := range tk.givers {
		if state, ok := g.offers[name]; ok && state == open {
			g.urgent = append(g.urgent, name)
			select {
			case g.wake <- struct{}{}:
			default:
			}
			return true
		} else if ok || !g.settled {
			found = true
		}
	}
	return found
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
		tk.resolve() // the new rings may leave nobody to wait for
	}
}

// from takes everything that one giver has for us. When it cannot be reached within the bound its topics begin anew
// here; it is tried on then, for the topics that are not used until it comes back, and so that it ends the others.
func (tk *take) from(ctx context.Context, g *giver) {
	log := tk.s.log.With(zap.String("old_owner", g.server.ID))
	patience := tk.s.cfg.HandoverTimeout
	if !g.before {
		patience = min(patience, startPatience)
	}
	deadline, gaveUp := time.Now().Add(patience), false
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		began := time.Now()
		reached, taken, err := tk.session(ctx, g)
		if taken > 0 {
			log.Info("took topics over", zap.Int("topics", taken), zap.Uint64("ring_version", tk.s.rings.Current().Version()))
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			tk.finish(g)
			return
		}
		if taken > 0 || reached && time.Since(began) > redialSlow {
			deadline, gaveUp = time.Now().Add(patience), false // it was at work
		}
		if time.Now().Before(deadline) {
			pause.Reset(redialPause)
			continue
		}
		if !gaveUp {
			log.Warn("cannot get the topics of this server that another may have; those that are used begin anew here",
				zap.Duration("after", patience), zap.Error(err))
		}
		if reached || !gaveUp {
			tk.giveUp(g)
		}
		gaveUp = true
		pause.Reset(redialSlow)
	}
}

// finish ends a giver's part in the round.
func (tk *take) finish(g *giver) {
	tk.mu.Lock()
	if tk.givers[g.server.ID] == g {
		delete(tk.givers, g.server.ID)
	}
	tk.mu.Unlock()
	tk.resolve()
}

// giveUp makes topics wait for a giver no longer.
func (tk *take) giveUp(g *giver) {
	if g.before {
		tk.s.topics.Doubt(time.Now().Add(tk.s.cfg.NameGrace)) // it may have had names
	}
	tk.mu.Lock()
	g.settled = true
	tk.s.moves.lost.Add(uint64(len(g.offers)))
	clear(g.offers)
	g.urgent = nil
	tk.mu.Unlock()
	tk.resolve()
}

// resolve ends the wait of topics that nobody has.
func (tk *take) resolve() {
	for _, name := range tk.s.topics.Waiting() {
		tk.resolveOne(name)
	}
}

// resolveOne ends the wait of a topic if nobody has it: it begins anew here, or is left to the server it belongs to by
// now, which gets to know that it has to ask nobody else.
func (tk *take) resolveOne(name string) {
	switch {
	case tk.elsewhere(name):
	case tk.s.rings.Current().Owner(name).ID == tk.s.cfg.ID:
		tk.s.topics.Install(name, nil)
	default:
		tk.s.topics.Abandon(name)
	}
}

// session is one connection to a giver. It returns nil when everything that the giver has for us is installed, and
// whether the giver has told what that is.
func (tk *take) session(ctx context.Context, g *giver) (reached bool, taken int, err error) {
	cfg := tk.s.link()
	cfg.Server = g.server.ID
	t, err := link.Take(ctx, g.server.Addr, cfg, tk.hello())
	if err != nil {
		return false, 0, err
	}
	defer t.Close()
	offers := make(map[string]offer)
	for done := false; !done; {
		m, err := t.Receive()
		if err != nil {
			return false, 0, err
		}
		t.Greeted()
		tk.s.learn(m.Rings)
		for _, name := range m.Offers {
			offers[name] = open
		}
		done = m.Offered
	}
	tk.offered(g, offers, tk.s.topics.Waiting())
	tk.resolve()
	taken, err = tk.pull(ctx, t, g)
	return true, taken, err
}

// hello is the first message to a giver. Older rings are left out when there is no room for them.
func (tk *take) hello() *linkpb.Wants {
	m := &linkpb.Wants{Server: tk.s.cfg.ID}
	for i, r := range tk.s.rings.Known() {
		m.Rings = append(m.Rings, link.EncodeRing(r))
		if i > 0 && m.SizeVT() > link.MaxWants {
			m.Rings = m.Rings[:i]
			break
		}
	}
	return m
}

// offered notes all that the giver has. What it had before a cut, and has no more, is not waited for.
func (tk *take) offered(g *giver, offers map[string]offer, waiting []string) {
	tk.mu.Lock()
	defer tk.mu.Unlock()
	g.offers, g.settled, g.urgent = offers, true, waiting
	clear(g.pulled)
}

// pull fetches what is on offer, what requests wait for first. It returns nil when the giver has forgotten all of it.
func (tk *take) pull(ctx context.Context, t *link.Taking, g *giver) (taken int, err error) {
	answers, failed := make(chan *linkpb.TopicState, 2*pullWindow), make(chan error, 1)
	var receiver sync.WaitGroup
	defer receiver.Wait()
	defer t.Close()
	receiver.Go(func() { failed <- receiveAnswers(t, answers) })
	retry := time.NewTicker(laterPause)
	defer retry.Stop()
	for flying := 0; ; {
		names, left, err := tk.next(g, pullWindow-flying)
		if err != nil || left+flying == 0 {
			return taken, err
		}
		names, useless := tk.expect(g, names)
		if len(names) > 0 {
			if err := t.Send(&linkpb.Wants{Pull: names}); err != nil {
				return taken, err
			}
			flying += len(names)
		}
		if len(useless) > 0 {
			if err := t.Send(&linkpb.Wants{Taken: useless}); err != nil {
				return taken, err
			}
			flying++
		}
		select {
		case <-ctx.Done():
			return taken, ctx.Err()
		case err := <-failed:
			return taken, err
		case <-g.wake:
		case <-retry.C:
			tk.again(g)
		case state := <-answers:
			flying--
			if state == nil {
				continue
			}
			n, err := tk.install(g, state)
			if err != nil {
				return taken, err
			}
			taken += n
			if err := t.Send(&linkpb.Wants{Taken: []string{state.Topic}}); err != nil {
				return taken, err
			}
			flying++
		}
	}
}

// receiveAnswers receives states, and nil for what has been forgotten, until the handover ends. No more than a window
// of them is ever on the way.
func receiveAnswers(t *link.Taking, answers chan<- *linkpb.TopicState) error {
	for {
		m, err := t.Receive()
		if err != nil {
			return err
		}
		select {
		case answers <- m.State:
		default:
			return errors.New("peer gives what was not asked for")
		}
	}
}

// next picks up to n offers to pull, and returns how many are left that are not installed.
func (tk *take) next(g *giver, n int) (names []string, left int, err error) {
	tk.mu.Lock()
	defer tk.mu.Unlock()
	if tk.givers[g.server.ID] != g {
		return nil, 0, errNewRing
	}
	pick := func(name string) {
		if state, ok := g.offers[name]; ok && state == open {
			g.offers[name], g.pulled[name] = asked, time.Now()
			names = append(names, name)
		}
	}
	for len(g.urgent) > 0 && len(names) < n {
		pick(g.urgent[0])
		g.urgent = g.urgent[1:]
	}
	if len(names) < n {
		for name := range g.offers {
			if pick(name); len(names) == n {
				break
			}
		}
	}
	return names, len(g.offers), nil
}

// expect makes topics wait that are about to be pulled, so that a third server that asks here from now on is told of
// them. Those that are useless, being another's by now and nothing here waiting for them, are not to be pulled.
func (tk *take) expect(g *giver, names []string) (pull, useless []string) {
	for _, name := range names {
		if tk.s.topics.Expect(name) {
			pull = append(pull, name)
			continue
		}
		useless = append(useless, name)
		tk.drop(g, name)
	}
	return pull, useless
}

// drop takes an offer away.
func (tk *take) drop(g *giver, name string) {
	tk.mu.Lock()
	defer tk.mu.Unlock()
	delete(g.offers, name)
}

// again makes topics be pulled again that the giver did not have yet.
func (tk *take) again(g *giver) {
	tk.mu.Lock()
	defer tk.mu.Unlock()
	for name, state := range g.offers {
		if state == later {
			g.offers[name] = open
		}
	}
}

// install puts a topic's state in place, if the giver has it.
func (tk *take) install(g *giver, state *linkpb.TopicState) (installed int, err error) {
	name := state.Topic
	tk.mu.Lock()
	was, ok := g.offers[name]
	pulled := g.pulled[name]
	delete(g.pulled, name)
	notYet := state.Absent && state.MovedTo == g.server.ID
	if ok && notYet {
		g.offers[name] = later
	}
	tk.mu.Unlock()
	switch {
	case !ok || was != asked:
		return 0, fmt.Errorf("peer gives topic %q, which was not asked for", name)
	case notYet:
		return 0, nil
	case !state.Absent:
		tk.s.give.returned(name)
		if tk.s.topics.Install(name, state) {
			tk.s.moves.taken.Add(1)
			tk.s.moves.time.Observe(time.Since(pulled).Seconds())
			installed = 1
		} else {
			tk.s.moves.discarded.Add(1)
		}
	}
	tk.drop(g, name)
	tk.resolveOne(name)
	return installed, nil
}
