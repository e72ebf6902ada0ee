package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// startTime bounds a node's start, stopTime its end.
	startTime = 20 * time.Second
	stopTime  = 15 * time.Second
)

// node is one gateway or topic server in a process of its own. Any goroutine may call its methods; those that start and
// end the process are called by one at a time.
type node struct {
	// Static.
	id, addr, admin string
	binary, dir     string   // its ring file and its log are in dir
	env             []string // besides that of this process
	group           *cgroup  // bounds its memory; nil: nothing does
	remembers       int64    // bytes that a topic server may remember; 0: nothing is said
	died            func(id, reason string)

	mu       sync.Mutex
	cmd      *exec.Cmd     // nil while it does not run
	gone     chan struct{} // closed when the process has ended
	err      error         // how it ended; set before gone is closed
	expected bool          // it may end
}

// ringFile is the path of the node's own ring file.
func (n *node) ringFile() string { return filepath.Join(n.dir, "ring", "ring.yaml") }

// start starts the process. It does not wait until it is ready.
func (n *node) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		return nil
	}
	log, err := os.OpenFile(filepath.Join(n.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", n.id, err)
	}
	defer func() { _ = log.Close() }() // the process has its own
	cmd := exec.Command(n.binary)
	if n.group != nil {
		// It joins before it becomes the node, so that all its memory counts.
		cmd = exec.Command("/bin/sh", "-c", `echo $$ >"$0" && exec "$1"`, n.group.procs(), n.binary)
	}
	cmd.Env = append(os.Environ(), n.env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", n.id, err)
	}
	n.cmd, n.gone, n.expected = cmd, make(chan struct{}), false
	go n.wait(cmd, n.gone)
	return nil
}

// wait sees the process out.
func (n *node) wait(cmd *exec.Cmd, gone chan struct{}) {
	err := cmd.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cmd, n.err = nil, err
	close(gone)
	if n.expected {
		return
	}
	why := ""
	if n.group != nil && n.group.killed() > 0 {
		why = ", by its memory limit"
	}
	n.died(n.id, fmt.Sprintf("ended by itself: %v%s; its log is %s", cmd.ProcessState, why, filepath.Join(n.dir, "log")))
}

// pid is the process's id; 0 while it does not run.
func (n *node) pid() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return 0
	}
	return n.cmd.Process.Pid
}

// expectEnd allows the process to end, and returns a channel that is closed when it has; nil if it does not run.
func (n *node) expectEnd() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.expected = true
	if n.cmd == nil {
		return nil
	}
	return n.gone
}

// signal sends a signal, if the process runs.
func (n *node) signal(sig os.Signal) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		_ = n.cmd.Process.Signal(sig) // it may have ended this moment
	}
}

// kill ends the process with SIGKILL.
func (n *node) kill() {
	if gone := n.expectEnd(); gone != nil {
		n.signal(syscall.SIGKILL)
		<-gone
	}
}

// stop ends the process in order, and says so if it does not end well or in time.
func (n *node) stop() error {
	gone := n.expectEnd()
	if gone == nil {
		return nil
	}
	n.resume()
	n.signal(syscall.SIGTERM)
	select {
	case <-gone:
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.err != nil {
			return fmt.Errorf("%s, told to stop: %w", n.id, n.err)
		}
		return nil
	case <-time.After(stopTime):
		n.signal(syscall.SIGQUIT) // so that its log has its stacks
		select {
		case <-gone:
		case <-time.After(time.Second):
			n.kill()
		}
		return fmt.Errorf("%s has not stopped within %v", n.id, stopTime)
	}
}

// waitReady waits until the node says that it is ready.
func (n *node) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		status, text := n.ask(ctx, "/readyz")
		if status == http.StatusOK {
			return nil
		}
		if !sleep(ctx, poll) {
			return fmt.Errorf("%s is not ready: %w; %s", n.id, context.Cause(ctx), text)
		}
	}
}

// waitMetric waits until a gauge of a topic server has a value, the server has ended, or ctx ends.
func (n *node) waitMetric(ctx context.Context, name string, value uint64) {
	line := fmt.Sprintf("\nringcast_topic_%s %d\n", name, value)
	for {
		status, text := n.ask(ctx, "/metrics")
		if status == 0 || strings.Contains(text, line) || !sleep(ctx, poll) {
			return
		}
	}
}

// ask makes a request to the admin listener. The status is 0, and the text an error's, if there is no answer.
func (n *node) ask(ctx context.Context, path string) (status int, text string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.admin+path, nil)
	if err != nil {
		return 0, err.Error()
	}
	req.Header.Set("Accept-Encoding", "identity") // what compresses would be 0.9 MiB of the node's heap
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}

// binaries finds or builds the programs gateway and topicserver.
func binaries(ctx context.Context, bin, dir string) (string, error) {
	names := []string{"gateway", "topicserver"}
	there := func(dir string) bool {
		return !slices.ContainsFunc(names, func(name string) bool {
			_, err := os.Stat(filepath.Join(dir, name))
			return err != nil
		})
	}
	if bin != "" {
		if !there(bin) {
			return "", fmt.Errorf("no gateway and topicserver in %s", bin)
		}
		return filepath.Abs(bin)
	}
	if self, err := os.Executable(); err == nil && there(filepath.Dir(self)) {
		return filepath.Dir(self), nil
	}
	bin = filepath.Join(dir, "bin")
	args := []string{"build", "-o", bin + string(filepath.Separator)}
	for _, name := range names {
		args = append(args, "github.com/ringcast/ringcast/"+name+"/cmd/"+name)
	}
	out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput()
	if err != nil {
		return "", errors.Join(errors.New("no gateway and topicserver beside this program, and they could not be built; --bin says where they are"),
			fmt.Errorf("go build: %w: %s", err, out))
	}
	return bin, nil
}
