package topicserver

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/ring"
)

// fleet is several topic servers on one ring, named ts-a, ts-b, …
type fleet struct {
	t       testing.TB
	ids     []string
	addrs   map[string]string
	servers map[string]*server
}

// startFleet reserves addresses for as many servers as there are ids and starts the ones that ring v1 has.
func startFleet(t testing.TB, cfg Config, ids []string, first ...string) *fleet {
	t.Helper()
	f := &fleet{t: t, ids: ids, addrs: make(map[string]string), servers: make(map[string]*server)}
	listeners := make(map[string]net.Listener)
	for _, id := range ids {
		listeners[id] = listenAlone(t)
		f.addrs[id] = listeners[id].Addr().String()
	}
	for _, id := range ids {
		cfg.ID = id
		if slices.Contains(first, id) {
			f.servers[id] = startOn(t, cfg, f.ring(1, first...), listeners[id])
		} else {
			_ = listeners[id].Close()
		}
	}
	return f
}

func (f *fleet) ring(version uint64, ids ...string) *ring.Ring {
	f.t.Helper()
	var servers []ring.Server
	for _, id := range ids {
		servers = append(servers, ring.Server{ID: id, Addr: f.addrs[id], Weight: 1 + int(version)%2})
	}
	rg, err := ring.New(version, servers)
	if err != nil {
		f.t.Fatal(err)
	}
	return rg
}

// join starts a server that has only the given ring, as one does whose file is new.
func (f *fleet) join(cfg Config, id string, rg *ring.Ring) *server {
	f.t.Helper()
	cfg.ID = id
	f.servers[id] = startOn(f.t, cfg, rg, listen(f.t, f.addrs[id]))
	return f.servers[id]
}

// settled waits until every server that runs uses the ring, and has what it gives to it and nothing else.
func (f *fleet) settled(version uint64) {
	f.t.Helper()
	waitFor(f.t, fmt.Sprintf("all topics where ring v%d wants them", version), func() bool {
		for _, s := range f.servers {
			s.take.mu.Lock()
			open := len(s.take.givers)
			s.take.mu.Unlock()
			if s.RingVersion() != version || open > 0 || s.give.pending() > 0 || len(s.topics.Waiting()) > 0 {
				return false
			}
		}
		return true
	})
}

// roamer is a scripted gateway with a lane to each server of a fleet. It publishes as a gateway does: it goes on with a
// publish, under one id, until some server says OK.
type roamer struct {
	f     *fleet
	name  string
	lanes map[string]*gateway
	owner map[string]string                      // where the last publish to a topic went
	acked map[string]map[string]*linkpb.Position // topic → payload → position
	n     uint64
}

func newRoamer(f *fleet, name string) *roamer {
	r := &roamer{f: f, name: name, lanes: make(map[string]*gateway), owner: make(map[string]string),
		acked: make(map[string]map[string]*linkpb.Position)}
	for id, s := range f.servers {
		r.lanes[id] = s.connect(f.t, name)
	}
	return r
}

// reply waits for the reply to a request and reads past everything else.
func (g *gateway) reply(t testing.TB, ref uint64) *linkpb.Reply {
	for {
		if m, ok := next[any](t, g).(*linkpb.Reply); ok && m.Ref == ref {
			return m
		}
	}
}

// publish publishes one message, whatever it takes.
func (r *roamer) publish(topic string) {
	r.n++
	p := &linkpb.Publish{
		Topic: topic, Event: "e", Payload: fmt.Appendf(nil, "%s-%d", r.name, r.n), IdHigh: uint64(len(r.name)), IdLow: r.n,
	}
	for _, c := range r.name {
		p.IdHigh = p.IdHigh<<8 | uint64(c)
	}
	at := r.owner[topic]
	if at == "" {
		at = r.f.ids[0]
	}
	for i := slices.Index(r.f.ids, at); ; i++ {
		id := r.f.ids[i%len(r.f.ids)]
		g := r.lanes[id]
		if g == nil {
			continue
		}
		g.ref++
		p.Ref = g.ref
		g.send(linkpb.KindPublish, p)
		if rep := g.reply(r.f.t, p.Ref); rep.Code == linkpb.Code_OK {
			if r.acked[topic] == nil {
				r.acked[topic] = make(map[string]*linkpb.Position)
			}
			r.acked[topic][string(p.Payload)] = rep.Position
			r.owner[topic] = id
			return
		} else if rep.Code != linkpb.Code_NOT_OWNER {
			r.f.t.Errorf("publish: %v", rep)
			return
		}
	}
}

// roam makes n gateways publish to the topics until stop is called, which returns them.
func (f *fleet) roam(n int, topics []string) (stop func() []*roamer) {
	var all sync.WaitGroup
	done := make(chan struct{})
	roamers := make([]*roamer, n)
	for i := range roamers {
		roamers[i] = newRoamer(f, fmt.Sprintf("gw-%c", 'a'+i))
		all.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					roamers[i].publish(topics[rand.IntN(len(topics))])
				}
			}
		})
	}
	return func() []*roamer {
		close(done)
		all.Wait()
		return roamers
	}
}

// check reads the whole past of a topic at its owner: every acknowledged publish is in it once, at the position of its
// reply, and nothing else is.
func (f *fleet) check(version uint64, topic string, roamers []*roamer) {
	f.t.Helper()
	want := make(map[string]*linkpb.Position)
	var epoch uint64
	for _, r := range roamers {
		for payload, pos := range r.acked[topic] {
			want[payload] = pos
			if epoch == 0 {
				epoch = pos.Epoch
			}
			if pos.Epoch != epoch {
				f.t.Errorf("topic %s: epochs %x and %x", topic, epoch, pos.Epoch)
			}
		}
	}
	if len(want) == 0 {
		return
	}
	var owner *server
	for _, s := range f.servers {
		if cur := s.rings.Current(); cur.Version() == version && cur.Owner(topic).ID == s.cfg.ID {
			owner = s
		}
	}
	g := owner.connect(f.t, "gw-check")
	g.send(linkpb.KindSubscribe, &linkpb.Subscribe{Ref: 1, Topic: topic, Since: []*linkpb.Position{{Epoch: epoch}}})
	rep := next[*linkpb.Reply](f.t, g)
	if rep.From == nil || int(rep.Replayed) != len(want) || rep.Position.Epoch != epoch || rep.Position.Offset != uint64(len(want)) {
		f.t.Fatalf("topic %s at %s: reply %v; %d publishes were acknowledged", topic, owner.cfg.ID, rep, len(want))
	}
	for i := range len(want) {
		m := next[*linkpb.Message](f.t, g)
		if m.Position.Offset != uint64(i)+1 {
			f.t.Errorf("topic %s: offset %d, want %d", topic, m.Position.Offset, i+1)
		}
		if pos := want[string(m.Payload)]; pos == nil || pos.Offset != m.Position.Offset {
			f.t.Errorf("topic %s: message %v, acknowledged at %v", topic, m, pos)
		}
		delete(want, string(m.Payload))
	}
}

// adopt makes a server use rings, one after the other, as if a peer had them.
func (f *fleet) adopt(id string, rings ...*ring.Ring) {
	f.t.Helper()
	for _, rg := range rings {
		if err := f.servers[id].rings.Adopt(rg); err != nil {
			f.t.Fatal(err)
		}
	}
}

// relay is what other servers reach a server through. It can be cut, and ends a connection that has had limit bytes
// from the server.
type relay struct {
	cut          atomic.Bool
	limit, conns atomic.Int64
	busy         atomic.Pointer[chan struct{}] // nothing passes to the server before it is closed
}

// relay puts a relay before a server, for rings that are made from now on.
func (f *fleet) relay(id string) *relay {
	r, to := &relay{}, f.addrs[id]
	r.limit.Store(1 << 40)
	lis := listen(f.t, "127.0.0.1:0")
	f.addrs[id] = lis.Addr().String()
	var all sync.WaitGroup
	all.Go(func() {
		for {
			near, err := lis.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil || r.cut.Load() {
				_ = near.Close()
				if err == nil {
					_ = far.Close()
				}
				continue
			}
			r.conns.Add(1)
			both := func() {
				_ = near.Close()
				_ = far.Close()
			}
			all.Go(func() {
				defer both()
				if busy := r.busy.Load(); busy != nil {
					<-*busy
				}
				_, _ = io.Copy(far, near)
			})
			all.Go(func() {
				defer both()
				_, _ = io.CopyN(near, far, r.limit.Load())
			})
		}
	})
	f.t.Cleanup(func() {
		_ = lis.Close()
		for _, s := range f.servers {
			s.stop()
		}
		all.Wait()
	})
	return r
}
