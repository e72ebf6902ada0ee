package verify

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ringcast/ringcast/cluster/verify/chaos"
	"github.com/ringcast/ringcast/cluster/verify/record"
	"github.com/ringcast/ringcast/shared/ring"
)

// nemesis takes the steps of a plan.
type nemesis struct {
	r      *run
	actor  *record.Actor
	victim sync.Map // of *sync.Mutex by node id: faults of one node's process come one after the other
}

// work takes all steps and returns when the last fault is over, or ctx ends.
func (n *nemesis) work(ctx context.Context, steps []step) {
	var open sync.WaitGroup
	defer open.Wait()
	start := time.Now()
	for _, s := range steps {
		if !sleep(ctx, time.Until(start.Add(s.at))) {
			return
		}
		if n.r.cfg.Overlap {
			open.Go(func() { n.take(ctx, s) })
		} else {
			n.take(ctx, s)
		}
	}
}

// take takes one step.
func (n *nemesis) take(ctx context.Context, s step) {
	var err error
	switch s.class {
	case KillGateway, KillTopicServer, PauseNode, FDs, Clock:
		err = n.hitNode(ctx, s)
	case Memory:
		n.crowd(ctx, s)
	case Cut, Slow:
		n.hitLink(ctx, s)
	case Ring:
		err = n.r.cluster.resize(ctx, s.count, s.how, rand.New(rand.NewPCG(s.seed, 0)), func(old, next topology) {
			n.begin(s, "", moved(n.r.topics, old, next)...)
		})
		n.over(s)
	case Conflict:
		nodes := n.r.cluster.running()
		node := nodes[s.node%len(nodes)]
		n.begin(s, node.id)
		err = n.r.cluster.disagree(node, s.how == "next version")
		sleep(ctx, s.lasts)
		if agreeErr := n.r.cluster.agree(); err == nil {
			err = agreeErr
		}
		n.over(s)
	case Churn, Stall:
		n.hitClients(ctx, s)
	}
	if err != nil && ctx.Err() == nil {
		n.actor.Add(record.Record{Kind: record.Died, ID: string(s.class), Reason: err.Error()})
	}
}

// moved lists the topics that an edit of the ring gives to another topic server. It lists all if it cannot say.
func moved(topics []string, old, next topology) []string {
	rings := make([]*ring.Ring, 2)
	for i, is := range []topology{old, next} {
		var servers []ring.Server
		for _, id := range is.members {
			servers = append(servers, ring.Server{ID: id, Addr: fmt.Sprintf("any:%d", 1+len(servers))}) // addresses decide nothing
		}
		rg, err := ring.NewSalted(1, is.salt, servers)
		if err != nil {
			return topics
		}
		rings[i] = rg
	}
	return slices.DeleteFunc(slices.Clone(topics), func(topic string) bool {
		return rings[0].Owner(topic).ID == rings[1].Owner(topic).ID
	})
}

// begin and over record a fault.
func (n *nemesis) begin(s step, victim string, topics ...string) {
	text := s.String()
	if victim != "" {
		text = victim + " " + text
	}
	n.r.logf("%s %s", s.class, text)
	n.actor.Add(record.Record{Kind: record.FaultBegin, ID: string(s.class), Reason: text, Topics: strings.Join(topics, ",")})
}

func (n *nemesis) over(s step) {
	n.actor.Add(record.Record{Kind: record.FaultEnd, ID: string(s.class), Reason: s.String()})
}

func (n *nemesis) hitNode(ctx context.Context, s step) error {
	nodes := n.r.cluster.running()
	switch servers := len(nodes) - len(n.r.cluster.gateways); s.class {
	case KillGateway:
		nodes = nodes[servers:]
	case KillTopicServer:
		nodes = nodes[:servers]
	}
	node := nodes[s.node%len(nodes)]
	lock, _ := n.victim.LoadOrStore(node.id, new(sync.Mutex))
	lock.(*sync.Mutex).Lock()
	defer lock.(*sync.Mutex).Unlock()
	n.begin(s, node.id)
	defer n.over(s)
	switch s.class {
	case PauseNode:
		node.pause()
		defer node.resume()
		sleep(ctx, s.lasts)
		return nil
	case FDs:
		return n.starve(ctx, s, node)
	case Clock:
		return jumpClock(ctx, s, node)
	}
	node.kill()
	sleep(ctx, s.lasts)
	if !slices.Contains(n.r.cluster.running(), node) {
		return nil // an edit of the ring has taken it out meanwhile
	}
	return node.start()
}

func (n *nemesis) hitLink(ctx context.Context, s step) {
	d := n.r.cluster
	members := d.current().members
	server := members[s.node%len(members)]
	// The other end is a gateway, or another topic server, which asks for what it takes over.
	nodes := d.running()
	peer := nodes[s.peer%len(nodes)].id
	if peer == server || s.peer%4 > 0 {
		peer = d.gateways[s.peer%len(d.gateways)].id
	}
	n.begin(s, peer+" and "+server)
	d.proxies[server].Set(peer, s.link)
	sleep(ctx, s.lasts)
	d.proxies[server].Set(peer, chaos.Fault{})
	n.over(s)
}

func (n *nemesis) hitClients(ctx context.Context, s step) {
	n.begin(s, "")
	rng := rand.New(rand.NewPCG(s.seed, 0))
	if s.class == Churn {
		for _, c := range pick(rng, n.r.clients, s.share) {
			c.churn(s.how)
		}
	} else {
		for _, c := range pick(rng, n.r.subscribers, s.share) {
			c.socket.Stall(s.lasts)
		}
		sleep(ctx, s.lasts)
	}
	n.over(s)
}

// pick picks a share of the clients, one at least.
func pick(rng *rand.Rand, all []*client, share float64) []*client {
	var picked []*client
	for _, i := range rng.Perm(len(all))[:max(int(share*float64(len(all))), 1)] {
		picked = append(picked, all[i])
	}
	return picked
}

// sleep waits, and reports false if ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// logf writes one line of progress.
func (r *run) logf(format string, args ...any) {
	fmt.Fprintf(r.cfg.Log, "%8.3fs  %s\n", r.log.Now().Seconds(), fmt.Sprintf(format, args...))
}
