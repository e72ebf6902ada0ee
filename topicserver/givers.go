package topicserver

import (
	"slices"
	"strings"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/ring"
)

// giver is one other server in a round. Guarded by take.mu, but for what is static.
type giver struct {
	server ring.Server  // static
	was    []*ring.Ring // static: the older rings that have it; what they give to it may be there
	dead   bool         // static: it was given up in an earlier round and has not been reached since

	progress time.Time // owned by take.from: when an offer of it was done with last

	down    bool                 // it cannot be reached at once
	talks   bool                 // there is a connection to it
	telling bool                 // it has begun to say what it has; there is stall for that
	settled bool                 // what is not in offers it has not, or it was given up
	offers  map[string]offer     // not installed yet
	pulled  map[string]time.Time // when those on their way were asked for
	later   []string             // those that the giver waits for itself, and perhaps some that it has given since
	urgent  []string             // those that requests wait for, and names that are not on offer
	wake    chan struct{}        // urgent has something
}

// mayHave reports whether a topic of ours may be there. A server that is likely to tell in a moment may have anything, even
// by rings that are not known here; one that is down may have what the known rings gave to it, so that topics that it
// never had do not wait for it.
func (g *giver) mayHave(name string) bool {
	if _, ok := g.offers[name]; ok || g.settled || !g.down {
		return ok || !g.settled
	}
	return slices.ContainsFunc(g.was, func(r *ring.Ring) bool { return r.Owner(name).ID == g.server.ID })
}

// waitsItself reports whether an answer to a pull says that the giver has the topic not yet.
func (g *giver) waitsItself(state *linkpb.TopicState) bool {
	return state.Absent && state.MovedTo == g.server.ID
}

// offer is the state of a topic that a giver has for us.
type offer uint8

const (
	open  offer = iota // to be pulled
	asked              // pulled; its state is on its way
	later              // the giver waits for it itself
)

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
			if i > 0 {
				givers[server.ID].was = append(givers[server.ID].was, r)
			}
		}
	}
	tk.mu.Lock()
	defer tk.mu.Unlock()
	for id, g := range givers {
		g.dead = tk.dead[id]
		g.down = g.dead
	}
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
		if g.mayHave(name) {
			return true
		}
	}
	return false
}

// request is elsewhere for a topic that is asked for: it is pulled next if a server has it. The name may be part of a lane's input
// buffer. It is called under a registry shard's lock.
func (tk *take) request(name string) bool {
	tk.mu.Lock()
	defer tk.mu.Unlock()
	found := false
	for _, g := range tk.givers {
		if state, ok := g.offers[name]; ok && state == open {
			g.urgent = append(g.urgent, strings.Clone(name))
			select {
			case g.wake <- struct{}{}:
			default:
			}
			return true
		}
		found = found || g.mayHave(name)
	}
	return found
}

// patience is how long topics wait for a giver that cannot be reached. Only the first round pays for one that is dead, and
// who was in no older ring has hardly anything.
func (tk *take) patience(g *giver) time.Duration {
	switch {
	case g.dead:
		return 0
	case len(g.was) == 0:
		return min(tk.s.cfg.HandoverTimeout, startPatience)
	}
	return tk.s.cfg.HandoverTimeout
}

// lateness is how much of its time a giver has had without telling what it has.
type lateness uint8

const (
	soon lateness = iota // it cannot be reached at once
	late                 // startPatience is over, which is all that one has that there is no connection to
	tooLate
)

// unreached notes that a giver has not told what it has. It returns true when nothing that it may have is waited for any more
// because of that.
func (tk *take) unreached(g *giver, l lateness) (gaveUp bool) {
	tk.mu.Lock()
	if !g.settled {
		g.down = g.down || len(g.was) > 0
		g.settled = g.dead || len(g.was) == 0 && (l == tooLate && !g.telling || l == late && !g.talks)
		gaveUp = g.settled
	}
	tk.mu.Unlock()
	if gaveUp {
		tk.doubt(g)
	}
	tk.resolve()
	return gaveUp
}

// connected notes whether there is a connection to a giver.
func (tk *take) connected(g *giver, is bool) {
	tk.mu.Lock()
	defer tk.mu.Unlock()
	g.talks, g.telling = is, false
}

// tells notes that a giver has begun to say what it has.
func (tk *take) tells(g *giver) {
	tk.mu.Lock()
	defer tk.mu.Unlock()
	g.telling = true
}

// doubt holds names back that a giver may have had.
func (tk *take) doubt(g *giver) {
	if len(g.was) > 0 {
		tk.s.topics.Doubt(time.Now().Add(tk.s.cfg.NameGrace))
	}
}

// giveUp makes topics wait for a giver no longer.
func (tk *take) giveUp(g *giver) {
	tk.doubt(g)
	tk.mu.Lock()
	g.settled = true
	tk.dead[g.server.ID] = true
	tk.s.moves.lost.Add(uint64(len(g.offers)))
	clear(g.offers)
	g.urgent, g.later = nil, nil
	tk.mu.Unlock()
	tk.resolve()
}

// offered notes all that the giver has. What it had before a cut, and has no more, is not waited for.
func (tk *take) offered(g *giver, offers map[string]offer, waiting []string) {
	tk.mu.Lock()
	defer tk.mu.Unlock()
	g.offers, g.settled, g.urgent, g.later = offers, true, waiting, nil
	delete(tk.dead, g.server.ID)
	clear(g.pulled)
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
	for _, name := range g.later {
		if g.offers[name] == later {
			g.offers[name] = open
		}
	}
	g.later = g.later[:0]
}
