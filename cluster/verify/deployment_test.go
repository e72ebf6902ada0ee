package verify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ringcast/ringcast/cluster/verify/check"
	"github.com/ringcast/ringcast/shared/ring"
)

// TestMain is also the main function of the stand-ins for gateways and topic servers, which do nothing but be ready, and of
// a process to do harm to.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "gateway", "topicserver":
		standIn()
	case "child":
		answer()
	default:
		// Under the race detector a process takes a second to exit otherwise.
		_ = os.Setenv("GORACE", "atexit_sleep_ms=0")
		os.Exit(m.Run())
	}
}

func standIn() {
	if _, err := ring.Load(os.Getenv("RING_FILE")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	http.HandleFunc("/readyz", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		topics := 0
		if os.Getenv("TOPICSERVER_ID") == "verify-ts-03" {
			topics = 1 // and never fewer
		}
		version := uint64(0)
		if rg, err := ring.Load(os.Getenv("RING_FILE")); err == nil {
			version = rg.Version()
		}
		fmt.Fprintf(w, "a 1\nringcast_topic_topics %d\nringcast_topic_ring_version %d\nb 2\n", topics, version)
	})
	http.HandleFunc("/crash", func(http.ResponseWriter, *http.Request) { os.Exit(3) })
	go func() {
		fmt.Fprintln(os.Stderr, http.ListenAndServe(os.Getenv("ADMIN_ADDR"), nil))
		os.Exit(5)
	}()
	<-stop
	if os.Getenv("TOPICSERVER_ID") == "verify-ts-02" {
		os.Exit(4)
	}
}

// deaths collects what is said of nodes that die.
type deaths struct {
	mu   sync.Mutex
	said []string
}

func (d *deaths) died(id, reason string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.said = append(d.said, id+" "+reason)
}

func (d *deaths) list() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.said)
}

func deployStandIns(t *testing.T) (*deployment, *deaths) {
	t.Helper()
	bin := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gateway", "topicserver"} {
		if err := os.Symlink(self, filepath.Join(bin, name)); err != nil {
			t.Skip("no symbolic links here:", err)
		}
	}
	cfg, err := Config{Bin: bin, Topics: 2}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	var dead deaths
	d, err := deploy(t.Context(), cfg, t.TempDir(), dead.died)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.stop() }) // verify-ts-02 ends badly
	return d, &dead
}

// rings loads the ring of every node.
func rings(t *testing.T, d *deployment) map[string]*ring.Ring {
	t.Helper()
	all := make(map[string]*ring.Ring)
	parsed := make(map[string]*ring.Ring) // by content: building a ring takes its time
	for _, n := range d.nodes() {
		text, err := os.ReadFile(n.ringFile())
		if err != nil {
			t.Fatal(err)
		}
		rg := parsed[string(text)]
		if rg == nil {
			if rg, err = ring.Parse(n.ringFile(), text); err != nil {
				t.Fatal(err)
			}
			parsed[string(text)] = rg
		}
		all[n.id] = rg
	}
	return all
}

func ids(nodes []*node) string {
	var all []string
	for _, n := range nodes {
		all = append(all, strings.TrimPrefix(n.id, "verify-"))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func TestDeployment(t *testing.T) {
	t.Parallel()
	d, dead := deployStandIns(t)
	rng := rand.New(rand.NewPCG(1, 1))
	if got := ids(d.running()); got != "gw-01 gw-02 ts-01 ts-02" {
		t.Errorf("running: %s", got)
	}
	if err := d.resize(t.Context(), 5, newSalt, rng, nobodyAsks); err != nil {
		t.Fatal(err)
	}
	if got := ids(d.running()); got != "gw-01 gw-02 ts-01 ts-02 ts-03 ts-04 ts-05" {
		t.Errorf("running: %s", got)
	}
	for id, rg := range rings(t, d) {
		if rg.Version() != 2 || len(rg.Servers()) != 5 || rg.Salt() != d.current().salt || rg.Salt() == "" {
			t.Errorf("%s has ring v%d of %d servers, salt %q", id, rg.Version(), len(rg.Servers()), rg.Salt())
		}
		if s, _ := rg.Server("verify-ts-01"); s.Addr != d.proxies["verify-ts-01"].Addr() {
			t.Errorf("%s has %s for verify-ts-01, not its proxy", id, s.Addr)
		}
	}

	victim := d.node("verify-gw-01")
	for i, next := range []bool{false, true} {
		if err := d.disagree(victim, next); err != nil {
			t.Fatal(err)
		}
		all := rings(t, d)
		mine, other := all[victim.id], all["verify-gw-02"]
		if mine.Hash() == other.Hash() || (mine.Version() > other.Version()) != next {
			t.Errorf("v%d and v%d, hashes %x and %x", mine.Version(), other.Version(), mine.Hash(), other.Hash())
		}
		if err := d.agree(); err != nil {
			t.Fatal(err)
		}
		all = rings(t, d)
		if all[victim.id].Hash() != all["verify-gw-02"].Hash() || all[victim.id].Version() != uint64(3+2*i) {
			t.Errorf("after agree: v%d", all[victim.id].Version())
		}
	}

	victim.kill()
	d.node("verify-gw-02").pause()
	if err := errors.Join(d.heal(), d.waitReady(t.Context())); err != nil {
		t.Error(err)
	}
	if list := dead.list(); len(list) > 0 {
		t.Errorf("dead: %q", list)
	}
	if _, err := http.Get("http://" + victim.admin + "/crash"); err == nil {
		t.Error("no crash")
	}
	for deadline := time.Now().Add(10 * time.Second); len(dead.list()) == 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if list := dead.list(); len(list) != 1 || !strings.HasPrefix(list[0], "verify-gw-01 ended by itself: exit status 3") {
		t.Errorf("dead: %q", list)
	}
	err := d.stop()
	if err == nil || !strings.Contains(err.Error(), "verify-ts-02, told to stop: exit status 4") || strings.Contains(err.Error(), "ts-01") {
		t.Errorf("stop: %v", err)
	}
}

func TestResetPlacesTopicsAsOnce(t *testing.T) {
	t.Parallel()
	d, _ := deployStandIns(t)
	once := d.current()
	if err := d.resize(t.Context(), len(once.members), newSalt, rand.New(rand.NewPCG(1, 1)), nobodyAsks); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second one finds nothing to do
		if err := d.reset(t.Context(), once); err != nil {
			t.Fatal(err)
		}
		for id, rg := range rings(t, d) {
			if rg.Version() != 3 || len(rg.Servers()) != len(once.members) || rg.Salt() != once.salt {
				t.Errorf("%s has ring v%d of %d servers, salt %q", id, rg.Version(), len(rg.Servers()), rg.Salt())
			}
		}
	}
}

func TestATopicServerThatIsRemovedIsStopped(t *testing.T) {
	t.Parallel()
	d, dead := deployStandIns(t)
	// Of two servers the one goes that ends well when it is told to.
	for seed := uint64(0); ; seed++ {
		if rand.New(rand.NewPCG(seed, 0)).IntN(2) == 0 {
			if err := d.resize(t.Context(), 1, "", rand.New(rand.NewPCG(seed, 0)), nobodyAsks); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	if got := ids(d.running()); got != "gw-01 gw-02 ts-02" || len(dead.list()) > 0 {
		t.Errorf("running: %s; dead: %q", got, dead.list())
	}
	if d.node("verify-ts-01").expectEnd() != nil {
		t.Error("the removed server still runs")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	slow := d.node("verify-ts-03")
	if err := errors.Join(d.writeRings([]*node{slow}, 9, topology{members: []string{slow.id}}, 1), slow.start(), slow.waitReady(t.Context())); err != nil {
		t.Fatal(err)
	}
	if slow.waitMetric(ctx, "topics", 0); ctx.Err() == nil {
		t.Error("a server with a topic counts as idle")
	}
}

func TestBinariesMustBeThere(t *testing.T) {
	if _, err := binaries(t.Context(), t.TempDir(), ""); err == nil {
		t.Error("an empty directory will do")
	}
}

func TestConfig(t *testing.T) {
	for _, tt := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, ""},
		{Config{Topics: 101}, "topics is 101: must be 1 to 100"},
		{Config{Gateways: -1, Rate: -1}, "gateways is -1: must be 1 to 16\nrate is -1: must be 0.1 to 100000"},
		{Config{InProcess: true, Faults: []Class{Ring}}, "faults of class ring need nodes in processes of their own; in one process there are churn,stall"},
		{Config{Tamper: "eat"}, `tamper is "eat": must be drop, double or swap`},
	} {
		_, err := tt.cfg.withDefaults()
		if got := fmt.Sprint(err); got != tt.want && (err != nil || tt.want != "") {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

func TestWhatIsPromised(t *testing.T) {
	for _, tt := range []struct {
		faults   []Class
		lossless bool
	}{
		{nil, true},
		{[]Class{KillGateway, PauseNode, Cut, Slow, Churn, Stall}, true},
		{[]Class{Ring, Churn}, true},
		{[]Class{FDs, Clock}, true},
		{[]Class{Ring, Cut}, false},
		{[]Class{Ring, FDs}, false},
		{[]Class{KillTopicServer}, false},
	} {
		cfg := Config{Faults: tt.faults}
		want := check.Options{Positions: true, Lossless: tt.lossless, Retained: retained, BackFrom: "kill-topicserver"}
		if slices.Contains(tt.faults, PauseNode) {
			want.BackFrom = "pause"
		}
		if got := cfg.options(); got != want {
			t.Errorf("%v: %+v, want %+v", tt.faults, got, want)
		}
	}
	if cfg, err := (Config{Faults: []Class{Memory}, WarmUp: time.Second}).withDefaults(); err != nil || cfg.options().Lossless ||
		cfg.MemoryLimit != memoryLimit || cfg.options().Bounds == nil {
		t.Errorf("with a bounded memory: %v, %+v", err, cfg)
	}
}

func TestParseClasses(t *testing.T) {
	for text, want := range map[string]string{
		"none": "none", "": "none", "churn, cut,churn": "churn,cut",
		"all": "churn,clock,conflict,cut,fds,kill-gateway,kill-topicserver,memory,pause,ring,slow,stall",
	} {
		list, err := ParseClasses(text)
		if got := join(list); err != nil || got != want {
			t.Errorf("%q: %s, %v; want %s", text, got, err, want)
		}
	}
	if _, err := ParseClasses("fire"); err == nil || !strings.Contains(err.Error(), "kill-gateway") {
		t.Errorf("error %v, want one that lists the classes", err)
	}
}

func TestPlan(t *testing.T) {
	for _, overlap := range []bool{false, true} {
		for seed := range uint64(50) {
			cfg, err := Config{Seed: seed, Duration: time.Minute, Faults: classes, Overlap: overlap}.withDefaults()
			if err != nil {
				t.Fatal(err)
			}
			steps := plan(cfg)
			if !slices.Equal(steps, plan(cfg)) {
				t.Fatalf("seed %d: two plans", seed)
			}
			servers, end := cfg.TopicServers, time.Duration(0)
			seen := make(map[Class]bool)
			for _, s := range steps {
				seen[s.class] = true
				switch {
				case s.at+s.lasts > cfg.Duration:
					t.Errorf("seed %d: %v ends after the run", seed, s)
				case s.at < end && !overlap:
					t.Errorf("seed %d: %v begins before the one before has ended", seed, s)
				case s.class == Ring && (s.count == servers || s.count < 1 || s.count > maxServers):
					t.Errorf("seed %d: %d servers after %d", seed, s.count, servers)
				}
				if s.class == Ring {
					servers = s.count
				}
				end = s.at + s.lasts
			}
			if len(seen) != len(classes) {
				t.Errorf("seed %d: only %d classes", seed, len(seen))
			}
		}
	}
	if steps := plan(Config{Duration: time.Hour}); steps != nil {
		t.Errorf("%d steps of no class", len(steps))
	}
}

func nobodyAsks(_, _ topology) {}

func TestDeploymentsShareNoPorts(t *testing.T) {
	t.Parallel()
	taken := make(map[string]bool)
	for range 4 {
		p, err := newPorts()
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		if lis, err := net.Listen("tcp", p.guard.Addr().String()); err == nil {
			_ = lis.Close()
			t.Error("another deployment could take the same block")
		}
		for range 42 {
			addr, err := p.free()
			if err != nil {
				t.Fatal(err)
			}
			if taken[addr] {
				t.Errorf("%s is handed out twice", addr)
			}
			taken[addr] = true
		}
		for n := 42; ; n++ {
			if _, err := p.free(); err != nil {
				break
			} else if n == portBlock {
				t.Fatal("a block has no end")
			}
		}
	}
}
