package router

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// joinTimes counts joins by how long their owner's answer took. Bucket i has those below 2^i ms.
type joinTimes struct {
	counts [16]atomic.Uint64
	seen   [16]uint64 // at the last p99; its caller's
}

func (t *joinTimes) add(took time.Duration) {
	i := bits.Len64(uint64(max(took, 0) / time.Millisecond))
	t.counts[min(i, len(t.counts)-1)].Add(1)
}

// p99 returns what 99 of 100 joins since the last call took at most, by at most twice too much; 0 if there were none. One
// goroutine may call it.
func (t *joinTimes) p99() time.Duration {
	var since [len(t.counts)]uint64
	total := uint64(0)
	for i := range t.counts {
		n := t.counts[i].Load()
		since[i], t.seen[i] = n-t.seen[i], n
		total += since[i]
	}
	left := total - total/100
	for i, n := range since {
		if n >= left && left > 0 {
			return time.Millisecond << i
		}
		left -= min(n, left)
	}
	return 0
}

// JoinTime returns how long 99 of 100 joins since the last call waited for their owners at most, to within a factor of two; 0
// if there were none. One goroutine may call it.
func (r *Router) JoinTime() time.Duration { return r.joinTimes.p99() }

// others is what topic servers say of the load of the other gateways.
type others struct {
	mu     sync.Mutex
	byFrom map[string]otherLoad // by topic server
}

type otherLoad struct {
	load *linkpb.Load
	at   time.Time
}

// othersCount is for how long what a topic server has said counts.
const othersCount = 2 * time.Second

// TellLoad tells every topic server this gateway's load. If it says that the gateway is draining, they answer with that of
// the others.
func (r *Router) TellLoad(m *linkpb.Load) {
	for _, l := range r.everyLane() {
		if l.index == 0 {
			l.tell(linkpb.KindUpLoad, m)
			l.flush()
		}
	}
}

// OthersLoad returns the load of the other gateways by the last answers to TellLoad: the worst of all, and the largest number
// of gateways. Without an answer of late it has none.
func (r *Router) OthersLoad(now time.Time) *linkpb.Load {
	o := &r.others
	o.mu.Lock()
	defer o.mu.Unlock()
	sum := &linkpb.Load{}
	for _, other := range o.byFrom {
		if now.Sub(other.at) > othersCount {
			continue
		}
		sum.JoinMs = max(sum.JoinMs, other.load.JoinMs)
		sum.Refusing = sum.Refusing || other.load.Refusing
		sum.Gateways = max(sum.Gateways, other.load.Gateways)
	}
	return sum
}

func (r *Router) heardLoad(server string, m *linkpb.Load) {
	o := &r.others
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byFrom == nil {
		o.byFrom = make(map[string]otherLoad)
	}
	o.byFrom[server] = otherLoad{m, time.Now()}
}
