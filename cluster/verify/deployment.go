package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/ringcast/ringcast/cluster"
	"github.com/ringcast/ringcast/cluster/verify/chaos"
	"github.com/ringcast/ringcast/gateway"
	"github.com/ringcast/ringcast/topicserver"
)

// deployment is the cluster that is verified. In one process it has URLs only; else a proxy stands before every topic
// server, the ring names the proxies, and each node has a ring file of its own.
type deployment struct {
	// Static.
	urls      []string
	gateways  []*node
	servers   []*node // all that there may be
	proxies   map[string]*chaos.Proxy
	stop      func() error
	ports     *ports // nil in one process
	unlimited error  // why nodes that may have so much memory are not held to it; nil if they are

	editing sync.Mutex // held over one edit of the ring; taken before mu

	mu       sync.Mutex
	version  uint64
	topology topology
}

// topology is what a ring file says but for its version. It is replaced, never changed.
type topology struct {
	members []string // ids of the topic servers
	salt    string
}

// idle is how long topic servers that have left the ring may take to hand their topics over.
const idle = 5 * time.Second

// deploy starts a cluster and returns when it is ready. died is told of nodes that end by themselves.
func deploy(ctx context.Context, cfg Config, dir string, died func(id, reason string)) (*deployment, error) {
	if cfg.InProcess {
		return deployHere(ctx, cfg)
	}
	bin, err := binaries(ctx, cfg.Bin, dir)
	if err != nil {
		return nil, err
	}
	d := &deployment{proxies: make(map[string]*chaos.Proxy), version: 1}
	d.stop = d.stopNodes
	if err := d.prepare(cfg, dir, bin, died); err != nil {
		return nil, errors.Join(err, d.stop())
	}
	if err := errors.Join(d.heal(), d.waitReady(ctx)); err != nil {
		return nil, errors.Join(err, d.stop())
	}
	return d, nil
}

// deployHere starts a cluster in this process.
func deployHere(ctx context.Context, cfg Config) (*deployment, error) {
	c, err := cluster.Start(ctx, cluster.Config{
		Gateways: cfg.Gateways, TopicServers: cfg.TopicServers,
		// What a stalled reader makes overflow.
		Gateway: func(g *gateway.Config) { g.MaxQueue = queueBytes },
		TopicServer: func(t *topicserver.Config) {
			t.HistorySize, t.HistoryBytes, t.HistoryTTL, t.TopicIdle = cfg.HistorySize, historyBytes, time.Hour, time.Hour
		},
	})
	if err != nil {
		return nil, err
	}
	d := &deployment{stop: c.Stop}
	for _, g := range c.Gateways {
		d.urls = append(d.urls, g.URL())
	}
	return d, nil
}

const (
	// queueBytes is a gateway's MAX_QUEUE_BYTES: little, so that a reader that stalls overflows it.
	queueBytes = 128 << 10
	// historyBytes is a topic server's HISTORY_BYTES: the most that it allows.
	historyBytes = 2 << 20
	// retained is how many messages of a topic its history has room for, whatever their sizes within reason.
	retained = 1500
)

// prepare makes the nodes, their proxies and their ring files, and starts nothing but the proxies.
func (d *deployment) prepare(cfg Config, dir, bin string, died func(id, reason string)) error {
	var ids []string
	for i := range cfg.Gateways {
		ids = append(ids, fmt.Sprintf("verify-gw-%02d", i+1))
	}
	for i := range maxServers {
		ids = append(ids, fmt.Sprintf("verify-ts-%02d", i+1))
	}
	ports, err := newPorts()
	if err != nil {
		return err
	}
	d.ports = ports
	for i, id := range ids {
		n := &node{id: id, dir: filepath.Join(dir, id), died: died}
		var err1, err2 error
		n.addr, err1 = ports.free()
		n.admin, err2 = ports.free()
		if err := errors.Join(err1, err2, os.MkdirAll(filepath.Dir(n.ringFile()), 0o755)); err != nil {
			return err
		}
		n.env = []string{"RING_FILE=" + n.ringFile(), "ADMIN_ADDR=" + n.admin, "LOG_FORMAT=console"}
		if cfg.MemoryLimit > 0 {
			d.limit(n, cfg)
		}
		if i < cfg.Gateways {
			n.binary = filepath.Join(bin, "gateway")
			n.env = append(n.env, "GATEWAY_ID="+id, "GATEWAY_ADDR="+n.addr, fmt.Sprint("MAX_QUEUE_BYTES=", queueBytes))
			d.gateways = append(d.gateways, n)
			d.urls = append(d.urls, "ws://"+n.addr+"/socket")
			continue
		}
		n.binary = filepath.Join(bin, "topicserver")
		n.env = append(n.env, "TOPICSERVER_ID="+id, "TOPICSERVER_ADDR="+n.addr, "TOPIC_IDLE=1h",
			fmt.Sprint("HISTORY_SIZE=", cfg.HistorySize), fmt.Sprint("HISTORY_BYTES=", historyBytes), "HISTORY_TTL=1h",
			fmt.Sprint("HISTORY_IDS=", cfg.HistoryIDs))
		if cfg.MemoryLimit > 0 {
			n.remembers = cfg.MemoryLimit / 4
			n.env = append(n.env, fmt.Sprint("HISTORY_TOTAL_BYTES=", n.remembers))
		}
		d.servers = append(d.servers, n)
		proxy, err := chaos.Listen(n.addr, ids)
		if err != nil {
			return err
		}
		d.proxies[id] = proxy
		if i < cfg.Gateways+cfg.TopicServers {
			d.topology.members = append(d.topology.members, id)
		}
	}
	return d.writeRings(d.nodes(), d.version, d.topology, 1)
}

// limit bounds the memory of a node that has not been started: as containers are, with GOMEMLIMIT at nine tenths.
func (d *deployment) limit(n *node, cfg Config) {
	n.env = append(n.env, fmt.Sprint("GOMEMLIMIT=", cfg.MemoryLimit/10*9))
	group, err := newCgroup(fmt.Sprintf("ringcast-verify-%d-%s", os.Getpid(), n.id), cfg.MemoryLimit)
	if err != nil {
		d.unlimited = err
		return
	}
	n.group = group
}

// nodes are all that there may be.
func (d *deployment) nodes() []*node { return slices.Concat(d.servers, d.gateways) }

// current is what the ring is now.
func (d *deployment) current() topology {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.topology
}

// nextVersion is a version that no node has seen.
func (d *deployment) nextVersion() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.version++
	return d.version
}

// running are the nodes that should run now.
func (d *deployment) running() []*node {
	members := d.current().members
	nodes := slices.DeleteFunc(slices.Clone(d.servers), func(n *node) bool { return !slices.Contains(members, n.id) })
	return append(nodes, d.gateways...)
}

// node finds a node by its id.
func (d *deployment) node(id string) *node {
	for _, n := range d.nodes() {
		if n.id == id {
			return n
		}
	}
	panic("verify: no node " + id)
}

// writeRings writes the ring file of each node, so that nobody reads half of one. Weight is that of the first server.
func (d *deployment) writeRings(nodes []*node, version uint64, ring topology, weight int) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "version: %d\nforce: true\n", version) // an edit may remove most of the servers
	if ring.salt != "" {
		fmt.Fprintf(&b, "hash_salt: %q\n", ring.salt)
	}
	b.WriteString("servers:\n")
	for i, id := range ring.members {
		fmt.Fprintf(&b, "  - id: %s\n    addr: %s\n", id, d.proxies[id].Addr())
		if i == 0 && weight != 1 {
			fmt.Fprintf(&b, "    weight: %d\n", weight)
		}
	}
	for _, n := range nodes {
		path := n.ringFile()
		if err := os.WriteFile(path+".new", b.Bytes(), 0o600); err != nil {
			return fmt.Errorf("write ring: %w", err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			return fmt.Errorf("write ring: %w", err)
		}
	}
	return nil
}

// What an edit may do to the salt.
const (
	newSalt = "a new salt"
	noSalt  = "no salt"
)

// resize edits the ring to have so many topic servers, and newSalt or noSalt if that is salt. begin is called before anything
// happens.
func (d *deployment) resize(ctx context.Context, count int, salt string, rng *rand.Rand, begin func(old, next topology)) error {
	d.editing.Lock()
	defer d.editing.Unlock()
	old := d.current()
	next := topology{salt: old.salt}
	members := slices.Clone(old.members)
	for _, n := range d.servers {
		if len(members) < count && !slices.Contains(members, n.id) {
			members = append(members, n.id)
		}
	}
	for len(members) > count {
		i := rng.IntN(len(members))
		members = slices.Delete(members, i, i+1)
	}
	next.members = members
	switch salt {
	case newSalt:
		next.salt = fmt.Sprintf("%016x%016x", rng.Uint64(), rng.Uint64())
	case noSalt:
		next.salt = ""
	}
	begin(old, next)
	return d.edit(ctx, old, next, rng)
}

// reset edits the ring to place every topic as it did once, if it places them otherwise.
func (d *deployment) reset(ctx context.Context, once topology) error {
	d.editing.Lock()
	defer d.editing.Unlock()
	old := d.current()
	if old.salt == once.salt && slices.Equal(slices.Sorted(slices.Values(old.members)), slices.Sorted(slices.Values(once.members))) {
		return nil
	}
	return d.edit(ctx, old, once, rand.New(rand.NewPCG(1, 1)))
}

// edit makes the ring another one: it starts the new ones, edits every node's file in an order by rng, and stops
// those that are no longer named when all topic servers use that ring and they have no topics any more, or have had time for
// that. The caller holds editing.
func (d *deployment) edit(ctx context.Context, old, next topology, rng *rand.Rand) error {
	version := d.nextVersion()
	d.mu.Lock()
	d.topology = next
	d.mu.Unlock()
	if err := d.startNew(ctx, old, next, version); err != nil {
		return err
	}
	removed := slices.DeleteFunc(slices.Clone(d.servers), func(n *node) bool {
		return slices.Contains(next.members, n.id) || !slices.Contains(old.members, n.id)
	})
	for _, n := range removed {
		n.expectEnd()
	}
	nodes := d.nodes()
	rng.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	if err := d.writeRings(nodes, version, next, 1); err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, idle)
	defer cancel()
	for _, n := range d.servers {
		if slices.Contains(removed, n) || slices.Contains(next.members, n.id) {
			n.waitMetric(bounded, "ring_version", version)
		}
	}
	var errs []error
	for _, n := range removed {
		n.waitMetric(bounded, "topics", 0)
		errs = append(errs, n.stop())
	}
	return errors.Join(errs...)
}

// startNew starts the topic servers that are new in a ring, all at once: the first one that is up tells the others of the ring,
// and from then on topics wait for all of them.
func (d *deployment) startNew(ctx context.Context, old, next topology, version uint64) error {
	var added []*node
	for _, id := range next.members {
		if !slices.Contains(old.members, id) {
			added = append(added, d.node(id))
		}
	}
	if err := d.writeRings(added, version, next, 1); err != nil {
		return err
	}
	for _, n := range added {
		if err := n.start(); err != nil {
			return err
		}
	}
	for _, n := range added {
		if err := n.waitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// disagree edits the ring file of one node only: with the next version, which the others are to learn from it, or with
// the same version, which is a conflict.
func (d *deployment) disagree(n *node, next bool) error {
	d.editing.Lock()
	defer d.editing.Unlock()
	d.mu.Lock()
	version := d.version
	d.mu.Unlock()
	if next {
		version = d.nextVersion()
	}
	return d.writeRings([]*node{n}, version, d.current(), 2)
}

// agree edits the ring files of all nodes to a version that none has seen.
func (d *deployment) agree() error {
	d.editing.Lock()
	defer d.editing.Unlock()
	return d.writeRings(d.nodes(), d.nextVersion(), d.current(), 1)
}

// heal ends every fault and starts all nodes that should run.
func (d *deployment) heal() error {
	for _, p := range d.proxies {
		p.SetAll(chaos.Fault{})
	}
	var errs []error
	for _, n := range d.running() {
		n.resume()
		errs = append(errs, n.start())
	}
	return errors.Join(errs...)
}

// waitReady waits until all nodes are ready that should run.
func (d *deployment) waitReady(ctx context.Context) error {
	for _, n := range d.running() {
		if err := n.waitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// stopNodes stops gateways, then topic servers, and returns what did not end well.
func (d *deployment) stopNodes() error {
	var errs []error
	for _, nodes := range [][]*node{d.gateways, d.servers} {
		var wg sync.WaitGroup
		results := make([]error, len(nodes))
		for i, n := range nodes {
			wg.Go(func() { results[i] = n.stop() })
		}
		wg.Wait()
		errs = append(errs, results...)
	}
	for _, p := range d.proxies {
		p.Close()
	}
	if d.ports != nil {
		d.ports.close()
	}
	for _, n := range d.nodes() {
		if n.group != nil {
			errs = append(errs, n.group.remove())
		}
	}
	return errors.Join(errs...)
}

// ports hands out addresses of 127.0.0.1. They stay below the range from which systems take the ports of outgoing
// connections, so that none takes a node's port while the node is down, and in a block that no other deployment of the host
// uses: it listens on the block's first port.
type ports struct {
	guard net.Listener
	next  int // the last one that was looked at
}

const (
	firstPort  = 20000
	portBlock  = 64 // what 16 gateways and 5 topic servers need, each with an admin listener, and some that others may have
	portBlocks = 160
)

func newPorts() (*ports, error) {
	first := rand.IntN(portBlocks)
	for i := range portBlocks {
		base := firstPort + (first+i)%portBlocks*portBlock
		if guard, err := net.Listen("tcp", loopback(base)); err == nil {
			return &ports{guard, base}, nil
		}
	}
	return nil, fmt.Errorf("no free block of ports from %d to %d", firstPort, firstPort+portBlocks*portBlock-1)
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

func (p *ports) free() (string, error) {
	for (p.next+1-firstPort)%portBlock != 0 {
		p.next++
		if lis, err := net.Listen("tcp", loopback(p.next)); err == nil {
			return loopback(p.next), lis.Close()
		}
	}
	return "", fmt.Errorf("no free port from %d to %d", p.next+1-portBlock, p.next)
}

// close lets other deployments have the block.
func (p *ports) close() { _ = p.guard.Close() }

func (d *deployment) isGateway(n *node) bool { return slices.Contains(d.gateways, n) }
