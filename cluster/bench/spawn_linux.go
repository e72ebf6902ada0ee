package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// target is what a run measures: the addresses of its gateways and all its processes.
type target struct {
	name      string
	addrs     []*net.TCPAddr
	path      string
	processes []Process
	children  []*child // empty if somebody else has started the processes
	dir       string   // temporary, removed on stop
}

// socketPath is where gateways and Floor take clients.
const socketPath = "/socket/websocket?vsn=2.0.0"

// Build builds the server binaries into a temporary directory, which the caller must remove. It must run inside the
// project's workspace.
func Build(ctx context.Context) (dir string, err error) {
	work, err := exec.CommandContext(ctx, "go", "env", "GOWORK").Output()
	root := filepath.Dir(strings.TrimSpace(string(work)))
	if err != nil || root == "." {
		return "", errors.New("no go.work here to build the servers in: run inside the project or name a directory of binaries")
	}
	if dir, err = os.MkdirTemp("", "ringcast-bench-"); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", dir+"/", "./gateway/cmd/gateway", "./topicserver/cmd/topicserver")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		_ = os.RemoveAll(dir)
		return "", fmt.Errorf("go build of the servers: %w\n%s", err, out)
	}
	return dir, nil
}

// runningTarget is a cluster that somebody else has started.
func runningTarget(ctx context.Context, cfg *Config) (*target, error) {
	t := &target{name: "ringcast", processes: cfg.Processes}
	for _, text := range cfg.URLs {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "ws" || u.Port() == "" {
			return nil, fmt.Errorf("URL %q: want ws://host:port/path", text)
		}
		path := strings.TrimSuffix(u.Path, "/")
		if !strings.HasSuffix(path, "/websocket") {
			path += "/websocket"
		}
		query := u.Query()
		query.Set("vsn", "2.0.0")
		path += "?" + query.Encode()
		if t.path != "" && t.path != path {
			return nil, errors.New("all URLs must have the same path and query")
		}
		t.path = path
		addr, err := net.ResolveTCPAddr("tcp", u.Host)
		if err != nil {
			return nil, fmt.Errorf("URL %q: %w", text, err)
		}
		t.addrs = append(t.addrs, addr)
	}
	return t, t.ready(ctx)
}

// startCluster starts topic servers and gateways of its own, and returns when clients can join.
func startCluster(ctx context.Context, cfg *Config) (t *target, err error) {
	t = &target{name: "ringcast", path: socketPath}
	defer func() {
		if err != nil {
			t.stop()
			t = nil
		}
	}()
	bin, err := filepath.Abs(cfg.BinDir) // a bare name would be looked for in PATH
	if err != nil {
		return t, err
	}
	if t.dir, err = os.MkdirTemp("", "ringcast-bench-"); err != nil {
		return t, err
	}
	addrs, err := freeAddrs(cfg.TopicServers + cfg.Gateways)
	if err != nil {
		return t, err
	}
	ringFile := filepath.Join(t.dir, "ring.yaml")
	if err := os.WriteFile(ringFile, ringText(addrs[:cfg.TopicServers]), 0o644); err != nil {
		return t, err
	}
	common := []string{"RING_FILE=" + ringFile, "LOG_LEVEL=warn", "ADMIN_ADDR="}
	for i, addr := range addrs {
		name := fmt.Sprintf("topicserver-%d", i)
		env := slices.Concat(common, []string{"TOPICSERVER_ID=" + name, "TOPICSERVER_ADDR=" + addr.String()})
		binary := "topicserver"
		if g := i - cfg.TopicServers; g >= 0 {
			name, binary = fmt.Sprintf("gateway-%d", g), "gateway"
			// One client may be a whole load.
			env = slices.Concat(common, []string{"GATEWAY_ID=" + name, "GATEWAY_ADDR=" + addr.String(), "MAX_PUBLISHES_PER_SECOND=0", "MAX_PUBLISHES_IN_FLIGHT=0"})
			t.addrs = append(t.addrs, addr)
		}
		cmd := exec.Command(filepath.Join(bin, binary))
		cmd.Env = append(os.Environ(), env...)
		if err := t.start(name, cmd); err != nil {
			return t, err
		}
	}
	return t, t.ready(ctx)
}

// startFloor starts a Floor as a process of its own, and returns when clients can join.
func startFloor(ctx context.Context, cfg *Config) (t *target, err error) {
	t = &target{name: "floor", path: socketPath}
	defer func() {
		if err != nil {
			t.stop()
			t = nil
		}
	}()
	cmd := exec.Command(cfg.FloorCommand[0], cfg.FloorCommand[1:]...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return t, err
	}
	if err := t.start("floor", cmd); err != nil {
		return t, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return t, fmt.Errorf("the floor server said no address: %w; %s", err, t.children[0].tail.String())
	}
	addr, err := net.ResolveTCPAddr("tcp", strings.TrimSpace(line))
	if err != nil {
		return t, fmt.Errorf("the floor server's address: %w", err)
	}
	t.addrs = []*net.TCPAddr{addr}
	return t, t.ready(ctx)
}

func ringText(addrs []*net.TCPAddr) []byte {
	text := []byte("version: 1\nservers:\n")
	for i, addr := range addrs {
		text = fmt.Appendf(text, "  - id: topicserver-%d\n    addr: %s\n", i, addr)
	}
	return text
}

// freeAddrs returns addresses of 127.0.0.1 with ports that nobody listens on at the moment.
func freeAddrs(n int) ([]*net.TCPAddr, error) {
	var addrs []*net.TCPAddr
	for range n {
		lis, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = lis.Close() }() // after the last one is open, so that no port comes twice
		addrs = append(addrs, lis.Addr().(*net.TCPAddr))
	}
	return addrs, nil
}

// child is a server process of ours. It dies with us.
type child struct {
	name string
	cmd  *exec.Cmd
	tail tail
	done chan struct{} // closed once cmd.ProcessState tells how it ended
}

func (t *target) start(name string, cmd *exec.Cmd) error {
	c := &child{name: name, cmd: cmd, done: make(chan struct{})}
	cmd.Stderr = &c.tail
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		defer close(c.done)
		// To the system we are the thread that starts it: that must live as long.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // ProcessState says the same
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	t.children = append(t.children, c)
	t.processes = append(t.processes, Process{Name: name, PID: cmd.Process.Pid})
	return nil
}

// stop kills the processes that start has started, and returns when they have ended.
func (t *target) stop() {
	for _, c := range t.children {
		_ = c.cmd.Process.Kill()
	}
	for _, c := range t.children {
		<-c.done
	}
	if t.dir != "" {
		_ = os.RemoveAll(t.dir)
	}
}

// died says which process of ours has ended, and its last words; nil if all run.
func (t *target) died() error {
	for _, c := range t.children {
		select {
		case <-c.done:
			return fmt.Errorf("%s ended: %v; it said:\n%s", c.name, c.cmd.ProcessState, c.tail.String())
		default:
		}
	}
	return nil
}

// words returns what the processes have logged, for an error message.
func (t *target) words() string {
	var sb strings.Builder
	for _, c := range t.children {
		if text := c.tail.String(); text != "" {
			fmt.Fprintf(&sb, "\n%s said:\n%s", c.name, text)
		}
	}
	return sb.String()
}

const readyTimeout = 20 * time.Second

// ready returns when a client of each gateway can join topics of every owner.
func (t *target) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("not ready within %s", readyTimeout))
	defer cancel()
	// So many topics that by all odds each topic server owns one.
	probe := Load{Name: "probe", Kind: Idle, Topics: 32, Connections: 32 * len(t.addrs), Duration: time.Second}
	for {
		err := t.probe(ctx, probe)
		if err == nil {
			return nil
		}
		if died := t.died(); died != nil {
			return died
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w%s", t.name, context.Cause(ctx), err, t.words())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (t *target) probe(ctx context.Context, load Load) error {
	r, err := newRunner(load, t, io.Discard)
	if err != nil {
		return err
	}
	defer r.loop.close()
	return r.populate(ctx)
}
