package verify

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// starve leaves a running process no file descriptor but those that it has: every accept, dial and open fails. The
// function that it returns gives it back what it had.
func starve(pid int) (restore func() error, err error) {
	var old unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &old); err != nil {
		return nil, fmt.Errorf("prlimit: %w", err)
	}
	// Those that it has go on, whatever their numbers; a new one gets the lowest free number, which must be below the limit.
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1, Max: old.Max}, nil); err != nil {
		return nil, fmt.Errorf("prlimit: %w", err)
	}
	return func() error {
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &old, nil); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("prlimit: %w", err)
		}
		return nil
	}, nil
}

// cgroup bounds the memory of one process, and kills it when it needs more: a group of version 1 or 2 of its own.
type cgroup struct {
	dir string
	v2  bool
}

// newCgroup makes a group with a limit, in bytes. The error says why this machine has none for us.
func newCgroup(name string, limit int64) (*cgroup, error) {
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return nil, fmt.Errorf("no cgroup: %w", err)
	}
	errs := []error{errors.New("no cgroup")}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line) // device, directory, type, options
		if len(f) < 4 || f[2] != "cgroup2" && (f[2] != "cgroup" || !strings.Contains(","+f[3]+",", ",memory,")) {
			continue
		}
		g := &cgroup{dir: filepath.Join(f[1], name), v2: f[2] == "cgroup2"}
		if err := g.make(limit); err != nil {
			errs = append(errs, err)
			continue
		}
		return g, nil
	}
	return nil, errors.Join(errs...)
}

func (g *cgroup) make(limit int64) (err error) {
	file := "memory.limit_in_bytes"
	if g.v2 {
		file = "memory.max"
		// Refused where processes are in the parent, or where it is set already; then the limit below says so, or works.
		_ = os.WriteFile(filepath.Join(filepath.Dir(g.dir), "cgroup.subtree_control"), []byte("+memory"), 0o644)
	}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return err
	}
	if err := g.write(file, strconv.FormatInt(limit, 10)); err != nil {
		return errors.Join(err, g.remove())
	}
	if g.v2 {
		_ = g.write("memory.swap.max", "0") // there is none on a kernel without swap
	}
	return nil
}

func (g *cgroup) write(file, text string) error {
	f, err := os.OpenFile(filepath.Join(g.dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// procs is the file that takes the id of a process that joins.
func (g *cgroup) procs() string { return filepath.Join(g.dir, "cgroup.procs") }

// killed is how often the limit has killed.
func (g *cgroup) killed() int {
	file := "memory.oom_control"
	if g.v2 {
		file = "memory.events"
	}
	text, _ := os.ReadFile(filepath.Join(g.dir, file)) // no file, no kill
	for line := range strings.Lines(string(text)) {
		if name, n, _ := strings.Cut(strings.TrimSpace(line), " "); name == "oom_kill" {
			kills, _ := strconv.Atoi(n)
			return kills
		}
	}
	return 0
}

// peak is the most memory that the group had, in bytes; 0 if the kernel does not say.
func (g *cgroup) peak() int64 {
	file := "memory.max_usage_in_bytes"
	if g.v2 {
		file = "memory.peak"
	}
	text, _ := os.ReadFile(filepath.Join(g.dir, file)) // 0 if the kernel is too old for it
	n, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n
}

// remove removes the group when its process has ended. The kernel may call a group busy for a moment longer.
func (g *cgroup) remove() error {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := os.Remove(g.dir)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, syscall.EBUSY) || time.Now().After(end):
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
}

// resident is the memory of a process that is in RAM now, and the most that was, in bytes. Both are 0 when it has ended.
func resident(pid int) (now, most int64) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // it may have ended
	for line := range strings.Lines(string(status)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "VmRSS:" && f[0] != "VmHWM:" {
			continue
		}
		kib, _ := strconv.ParseInt(f[1], 10, 64)
		if f[0] == "VmRSS:" {
			now = kib << 10
		} else {
			most = kib << 10
		}
	}
	return now, most
}
