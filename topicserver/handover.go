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
	"github.com/ringcast/ringcast/topicserver/topic"
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

	// Static.
	stall     time.Duration // how long a giver may be done with none of its offers
	maxOffers int           // how many topics it may offer

	mu     sync.Mutex
	givers map[string]*giver // of the current round, by server id; empty when everything is settled
	dead   map[string]bool   // servers that were given up and have not been reached since
	// arrived has the states that are installed and that their givers do not know to be: by giver and topic.
	arrived map[string]map[string]*linkpb.Position
}

const (
	// startPatience bounds the wait, at the start, for servers of which nothing says that they have topics of ours, and that
	// cannot be connected to.
	startPatience = 500 * time.Millisecond
	// pullWindow is how many topics are on their way from one giver at once.
	pullWindow = 16
	// laterPause is the time between two pulls of a topic that the giver has not yet.
	laterPause = 10 * time.Millisecond
	// redialPause is the time between two attempts to reach a giver, redialSlow that after it was given up.
	redialPause = 50 * time.Millisecond
	redialSlow  = time.Second
	// stallTime, on top of four times HandoverTimeout, is how long a giver that can be reached may go without an offer that is done
	// with. It may wait for others itself, one after another.
	stallTime = 20 * time.Second
)

// errNewRing ends a handover of a round that is not the current one any more.
var errNewRing = errors.New("the ring has changed")

var (
	errUnasked = errors.New("peer gives what was not asked for")
	errStalled = errors.New("peer has given nothing for too long")
)

func newTake(s *Server) *take {
	tk := &take{
		s: s, kick: make(chan struct{}, 1), givers: make(map[string]*giver), dead: make(map[string]bool),
		arrived: make(map[string]map[string]*linkpb.Position),
	}
	tk.stall, tk.maxOffers = stallTime+4*s.cfg.HandoverTimeout, maxOffers(s.cfg.MaxTopics)
	return tk
}

// maxOffers is how many topics another server may offer: twice as many as it should have at all, since those that servers hand over
// come on top.
func maxOffers(maxTopics int) int {
	if maxTopics == 0 {
		return 1 << 26
	}
	return max(2*maxTopics, 1<<20)
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
	patience := tk.patience(g)
	// A dial may take longer than this when nothing answers at all. One that is connected may be busy: it has as long as any other.
	over := func(l lateness) func() {
		return func() {
			if tk.unreached(g, l) {
				log.Warn("server has not told in time what it has of this server's topics; those that are used begin anew here")
			}
		}
	}
	defer time.AfterFunc(startPatience, over(late)).Stop()
	defer time.AfterFunc(max(startPatience, tk.s.cfg.HandoverTimeout), over(tooLate)).Stop()
	deadline, gaveUp := time.Now().Add(patience), false
	g.progress = time.Now()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		began := time.Now()
		if gaveUp {
			g.progress = began // nothing has waited for it
		}
		reached, taken, err := tk.trySession(ctx, g)
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
		if time.Since(g.progress) < tk.stall && (g.progress.After(began) || reached && time.Since(began) > redialSlow) {
			deadline, gaveUp = time.Now().Add(patience), false // it was at work
		}
		if !reached {
			tk.unreached(g, soon)
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
	case tk.s.building.Load() > 0: // the next ring may give it to us; see learnLater
	default:
		tk.s.topics.Abandon(name)
	}
}

// trySession is session, for which a panic is one more way to fail: what one peer sends must not end the server.
func (tk *take) trySession(ctx context.Context, g *giver) (reached bool, taken int, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = tk.s.panicked(p)
		}
	}()
	return tk.session(ctx, g)
}

// session is one connection to a giver. It returns nil when everything that the giver has for us is installed, and
// whether the giver has told what that is. It ends when there has been no progress for too long.
func (tk *take) session(ctx context.Context, g *giver) (reached bool, taken int, err error) {
	cfg := tk.s.links
	cfg.Server, cfg.Connected = g.server.ID, func() { tk.connected(g, true) }
	hello := tk.hello(g)
	defer tk.connected(g, false)
	t, err := link.Take(ctx, g.server.Addr, cfg, hello)
	if err != nil {
		return false, 0, err
	}
	defer t.Close()
	stalled := time.AfterFunc(time.Until(g.progress.Add(tk.stall)), func() { t.End(errStalled) })
	defer stalled.Stop()
	offers, err := tk.hearOffers(t, g, hello)
	if err != nil {
		return false, 0, err
	}
	tk.offered(g, offers, tk.s.topics.Waiting())
	tk.resolve()
	taken, err = tk.pull(ctx, t, g, stalled)
	return true, taken, err
}

// hearOffers receives all that the giver has to say before it is asked for anything.
func (tk *take) hearOffers(t *link.Taking, g *giver, hello *linkpb.Wants) (map[string]offer, error) {
	offers := make(map[string]offer)
	for told := false; ; {
		m, err := t.Receive()
		if err != nil {
			return nil, err
		}
		if !link.SameCluster(m.Cluster, tk.s.cfg.Cluster) {
			return nil, tk.s.wrongCluster(g.server.ID, m.Cluster)
		}
		t.Greeted()
		tk.tells(g)
		tk.heard(g, hello.Arrived)
		if !told {
			tk.s.learn(m.Rings)
			told = len(m.Rings) > 0
		}
		for _, name := range m.Offers {
			if !validName(name) {
				return nil, fmt.Errorf("peer offers %.255q: %s", name, badName)
			}
			offers[name] = open
		}
		switch {
		case len(offers) > tk.maxOffers:
			return nil, fmt.Errorf("peer offers more than %d topics, which is too many for MAX_TOPICS", tk.maxOffers)
		case m.Offered:
			return offers, nil
		}
	}
}

// hello is the first message to a giver. Older rings are left out when there is no room for them.
func (tk *take) hello(g *giver) *linkpb.Wants {
	m := &linkpb.Wants{Server: tk.s.cfg.ID, Instance: tk.s.instance, Cluster: tk.s.cfg.Cluster}
	tk.mu.Lock()
	for topic, pos := range tk.arrived[g.server.ID] {
		m.Arrived = append(m.Arrived, &linkpb.Arrived{Topic: topic, Position: pos})
	}
	tk.mu.Unlock()
	for i, r := range tk.s.rings.Known() {
		m.Rings = append(m.Rings, link.EncodeRing(r))
		if i > 0 && m.SizeVT() > link.MaxWants {
			m.Rings = m.Rings[:i]
			break
		}
	}
	return m
}

// pull fetches what is on offer, what requests wait for first. It returns nil when the giver has forgotten all of it. Each offer
// that is done with puts stalled off, whatever became of the topic: there are so many of them, and no more. "Not yet" does not.
func (tk *take) pull(ctx context.Context, t *link.Taking, g *giver, stalled *time.Timer) (taken int, err error) {
	answers, failed := make(chan *linkpb.TopicState, 2*pullWindow), make(chan error, 1)
	var receiver sync.WaitGroup
	defer receiver.Wait()
	defer t.Close()
	receiver.Go(func() { failed <- tk.receiveAnswers(t, answers) })
	retry := time.NewTicker(laterPause)
	defer retry.Stop()
	var acks [][]*linkpb.Arrived // what was sent as taken, and not answered yet
	progress := func() {
		g.progress = time.Now()
		stalled.Reset(tk.stall)
	}
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
			acks = append(acks, nil)
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
				if len(acks) == 0 {
					return taken, errUnasked
				}
				if acks[0] == nil {
					progress() // useless ones are forgotten
				}
				tk.heard(g, acks[0])
				acks = acks[1:]
				continue
			}
			n, err := tk.install(g, state)
			if err != nil {
				return taken, err
			}
			if taken += n; !g.waitsItself(state) {
				progress()
			}
			if err := t.Send(&linkpb.Wants{Taken: []string{state.Topic}}); err != nil {
				return taken, err
			}
			flying++
			acks = append(acks, []*linkpb.Arrived{{Topic: state.Topic, Position: state.Position}})
		}
	}
}

// heard notes that a giver knows of states that they have arrived.
func (tk *take) heard(g *giver, list []*linkpb.Arrived) {
	tk.mu.Lock()
	defer tk.mu.Unlock()
	for _, a := range list {
		if tk.arrived[g.server.ID][a.Topic] == a.Position {
			delete(tk.arrived[g.server.ID], a.Topic)
		}
	}
}

// receiveAnswers receives states, and nil for what has been forgotten, until the handover ends. No more than a window
// of them is ever on the way.
func (tk *take) receiveAnswers(t *link.Taking, answers chan<- *linkpb.TopicState) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = tk.s.panicked(p)
		}
	}()
	for {
		m, err := t.Receive()
		if err != nil {
			return err
		}
		select {
		case answers <- m.State:
		default:
			return errUnasked
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
	notYet := g.waitsItself(state)
	if ok && notYet {
		g.offers[name] = later
		g.later = append(g.later, name)
	}
	tk.mu.Unlock()
	switch {
	case !ok || was != asked:
		return 0, fmt.Errorf("peer gives topic %q, which was not asked for", name)
	case notYet:
		return 0, nil
	}
	bad := topic.CheckState(state)
	switch {
	case bad != nil:
		// As if the giver did not have it: it begins anew here, or another server has it.
		tk.s.moves.refused.Add(1)
		tk.s.stateLog.Log(tk.s.log, zap.ErrorLevel, "what another server has of a topic cannot be; the topic begins anew",
			zap.String("topic", name), zap.String("old_owner", g.server.ID), zap.Error(bad))
	case !state.Absent:
		tk.mu.Lock()
		if tk.arrived[g.server.ID] == nil {
			tk.arrived[g.server.ID] = make(map[string]*linkpb.Position)
		}
		tk.arrived[g.server.ID][name] = state.Position
		tk.mu.Unlock()
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
