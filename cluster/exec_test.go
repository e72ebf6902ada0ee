package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ringcast/ringcast/shared/ring"
)

// binaries are the programs under test, each built when the first test wants it.
var binaries = struct {
	dir   string
	build map[string]func() (string, error)
}{}

// TestMain looks for no goroutines that are left behind, as other packages' do: browsers, HTTP clients and brokers of the tests leave
// some that end when they please. The nodes' own are looked for in their packages, and over a running cluster by ringcast verify
// (TestProof_EveryMutantIsFound has it find one that leaks).
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ringcast-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binaries.dir, binaries.build = dir, make(map[string]func() (string, error))
	for name, pkg := range map[string]string{
		"gateway":     "github.com/ringcast/ringcast/gateway/cmd/gateway",
		"topicserver": "github.com/ringcast/ringcast/topicserver/cmd/topicserver",
		"ringcast":    "github.com/ringcast/ringcast/cluster/cmd/ringcast",
	} {
		binaries.build[name] = sync.OnceValues(func() (string, error) { return build(name, pkg, raceFlag()...) })
	}
	binaries.build["phxclient"] = sync.OnceValues(func() (string, error) {
		return build("phxclient", "github.com/ringcast/ringcast/cluster/phxclient") // races by itself
	})
	for _, name := range []string{"gateway", "topicserver"} {
		binaries.build["old-"+name] = sync.OnceValues(func() (string, error) { return buildOld(name) })
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// build builds a program.
func build(name, pkg string, flags ...string) (string, error) {
	path := filepath.Join(binaries.dir, name)
	args := append([]string{"build", "-o", path}, flags...)
	if out, err := exec.Command("go", append(args, pkg)...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}

// raceFlag returns -race if this test has the race detector.
func raceFlag() []string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "-race" && setting.Value == "true" {
				return []string{"-race"}
			}
		}
	}
	return nil
}

// program returns the path of a built program.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := binaries.build[name]()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// output collects what a process prints; it may be read while that goes on.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// proc is a running program. It is killed at the end of its test, at the latest. Then a panic or a race in it fails the
// test, and what it printed to stderr is shown if the test has failed.
type proc struct {
	t              *testing.T
	name           string
	cmd            *exec.Cmd
	stdout, stderr output
	ended          chan struct{} // closed when it has ended; then cmd.ProcessState is set
}

// unhurried is what every program gets that the test says nothing else of. The race detector would have each wait for a second when
// it ends. The machine may be so busy that requests and pings are answered late, and one client may publish as fast as it can.
var unhurried = []string{
	"GORACE=atexit_sleep_ms=0", "ADMISSION_LAG=0s", "MAX_PUBLISHES_PER_SECOND=0", "MAX_PUBLISHES_IN_FLIGHT=0",
	"JOIN_TIMEOUT=30s", "PUBLISH_TIMEOUT=30s", "IDLE_TIMEOUT=10m", "HANDOVER_TIMEOUT=30s",
}

// spawn starts a program with these environment variables, the unhurried ones, and no others that it could take for its own.
func spawn(t *testing.T, name string, env []string, args ...string) *proc {
	t.Helper()
	return spawnAs(t, dieWithParent(), name, env, args...)
}

// spawnAs is spawn for a program that the system is to treat in some way.
func spawnAs(t *testing.T, attr *syscall.SysProcAttr, name string, env []string, args ...string) *proc {
	t.Helper()
	p := &proc{t: t, name: name, ended: make(chan struct{})}
	p.cmd = exec.Command(program(t, name), args...)
	p.cmd.Env = slices.Concat([]string{"PATH=" + os.Getenv("PATH")}, unhurried, env)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.cmd.SysProcAttr = attr
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in ProcessState
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.kill()
		for _, sign := range []string{"panic: ", "fatal error: ", "DATA RACE"} {
			if strings.Contains(p.stderr.String(), sign) {
				t.Errorf("%s: %s", name, sign)
			}
		}
		if t.Failed() {
			t.Logf("%s %v %v, stderr:\n%s", name, env, args, p.stderr.String())
		}
	})
	return p
}

// kill is kill -9.
func (p *proc) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

func (p *proc) signal(sig os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatalf("signal %s: %v", p.name, err)
	}
}

// freeze stops the process until SIGCONT. The signal alone returns while threads still run.
func (p *proc) freeze() {
	p.t.Helper()
	p.signal(syscall.SIGSTOP)
	eventually(p.t, p.name+" has stopped", func() bool {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
		if err != nil || len(tasks) == 0 {
			p.t.Fatalf("no threads of %s: %v", p.name, err)
		}
		return !slices.ContainsFunc(tasks, func(path string) bool {
			stat, err := os.ReadFile(path)
			_, state, _ := strings.Cut(string(stat), ") ")
			return err != nil || !strings.HasPrefix(state, "T")
		})
	})
}

// exits waits for the end of the process and checks its exit code.
func (p *proc) exits(code int) {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatalf("%s has not ended within %v", p.name, patience)
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Fatalf("%s: %v, want exit code %d\nstdout:\n%s", p.name, p.cmd.ProcessState, code, p.stdout.String())
	}
}

// alive fails the test if the process has ended.
func (p *proc) alive() {
	p.t.Helper()
	select {
	case <-p.ended:
		p.t.Fatalf("%s has ended: %v", p.name, p.cmd.ProcessState)
	default:
	}
}

// prints waits until the process has printed a text to stdout or stderr.
func (p *proc) prints(text string) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("%s prints %q", p.name, text), func() bool {
		ended := false // before the text is looked for: the last thing that a process does may be to print it
		select {
		case <-p.ended:
			ended = true
		default:
		}
		found := strings.Contains(p.stdout.String(), text) || strings.Contains(p.stderr.String(), text)
		if ended && !found {
			p.alive()
		}
		return found
	})
}

// taken are the ports that this test run has given out.
var taken sync.Map

// freeAddr returns an address that nobody listens on. Its port is below those that systems give to outgoing
// connections, which could take it before the process it is for does, and below those of ringcast verify, whose tests may
// run at the same time.
func freeAddr(t *testing.T) string {
	t.Helper()
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(10000))
		if _, dup := taken.LoadOrStore(addr, true); dup {
			continue
		}
		if lis, err := net.Listen("tcp", addr); err == nil {
			_ = lis.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

// site is a cluster of processes: two topic servers in a ring file, and the gateways that a test starts.
type site struct {
	t        *testing.T
	ringFile string
	ring     *ring.Ring
	env      []string // more variables for every node
}

func newSite(t *testing.T) *site {
	t.Helper()
	text := fmt.Sprintf("version: 1\nservers:\n  - id: ts-a\n    addr: %s\n  - id: ts-b\n    addr: %s\n", freeAddr(t), freeAddr(t))
	s := &site{t: t, ringFile: writeFile(t, "ring.yaml", text)}
	var err error
	if s.ring, err = ring.Load(s.ringFile); err != nil {
		t.Fatal(err)
	}
	return s
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// topicProc is a topic server in a process of its own.
type topicProc struct {
	*proc
	addr, admin string
}

// topicserver starts the topic server with an id of the ring and returns when it listens.
func (s *site) topicserver(id string) *topicProc {
	s.t.Helper()
	return s.topicserverOf("topicserver", id)
}

// topicserverOf is topicserver for a program of another name.
func (s *site) topicserverOf(program, id string) *topicProc {
	s.t.Helper()
	server, _ := s.ring.Server(id)
	ts := &topicProc{addr: server.Addr, admin: freeAddr(s.t)}
	ts.proc = spawn(s.t, program,
		append([]string{"TOPICSERVER_ID=" + id, "TOPICSERVER_ADDR=" + server.Addr, "RING_FILE=" + s.ringFile, "ADMIN_ADDR=" + ts.admin}, s.env...))
	ts.prints("serving topics")
	return ts
}

// newcomer starts a topic server that the site's ring will have after a change, with a ring file of its own that has it already.
func (s *site) newcomer(id string, change func(path string) (*ring.Ring, error)) *topicProc {
	s.t.Helper()
	text, err := os.ReadFile(s.ringFile)
	if err != nil {
		s.t.Fatal(err)
	}
	next := &site{t: s.t, ringFile: writeFile(s.t, "next.yaml", string(text)), env: s.env}
	if next.ring, err = change(next.ringFile); err != nil {
		s.t.Fatal(err)
	}
	return next.topicserver(id)
}

// gatewayProc is a gateway in a process of its own.
type gatewayProc struct {
	*proc
	program     string
	addr, admin string
	env         []string
}

// gateway starts a gateway with more environment variables and returns when it listens.
func (s *site) gateway(env ...string) *gatewayProc {
	s.t.Helper()
	return s.gatewayOf("gateway", env...)
}

// gatewayOf is gateway for a program of another name.
func (s *site) gatewayOf(program string, env ...string) *gatewayProc {
	s.t.Helper()
	g := &gatewayProc{program: program, addr: freeAddr(s.t), admin: freeAddr(s.t)}
	g.env = slices.Concat([]string{"GATEWAY_ADDR=" + g.addr, "RING_FILE=" + s.ringFile, "ADMIN_ADDR=" + g.admin}, s.env, env)
	g.start(s.t)
	return g
}

// start starts the process, again if it has ended.
func (g *gatewayProc) start(t *testing.T) {
	t.Helper()
	g.proc = spawn(t, g.program, g.env)
	g.prints("serving clients")
}

func (g *gatewayProc) url() string { return "ws://" + g.addr + "/socket" }

func (g *gatewayProc) webSocketURL() string { return g.url() + "/websocket?vsn=2.0.0" }

// readiness waits until /readyz gives this answer.
func (g *gatewayProc) readiness(status int, body string) {
	g.t.Helper()
	var lastStatus int
	var lastBody string
	deadline := time.Now().Add(patience)
	for lastStatus != status || lastBody != body {
		if time.Now().After(deadline) {
			g.t.Fatalf("/readyz gave %d %q last, want %d %q", lastStatus, lastBody, status, body)
		}
		g.alive()
		lastStatus, lastBody = fetch(g.admin, "/readyz")
		time.Sleep(2 * time.Millisecond)
	}
}

func (g *gatewayProc) ready() {
	g.t.Helper()
	g.readiness(http.StatusOK, "ready\n")
}

// fetch does a GET; the status is 0 if there is no answer.
func fetch(addr, path string) (status int, body string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return 0, err.Error()
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(text)
}

// topicOf returns a topic that the ring gives to a server, another one for each i.
func (s *site) topicOf(id string, i int) string {
	s.t.Helper()
	for n := range 1000 {
		topic := fmt.Sprintf("topics:matrix%d", n)
		if s.ring.Owner(topic).ID != id {
			continue
		}
		if i--; i < 0 {
			return topic
		}
	}
	s.t.Fatalf("the ring gives too little to %s", id)
	return ""
}

// refused tells whether nobody listens on an address.
func refused(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err == nil {
		_ = conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}
