package verify

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// answer is the main function of a process that answers each line with its clocks and with whether it can open a file.
func answer() {
	start := time.Now()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		f, err := os.Open(os.DevNull)
		if err == nil {
			_ = f.Close()
		}
		fmt.Println(time.Now().Unix(), time.Since(start).Milliseconds(), err == nil)
	}
}

// child is a process to do harm to.
type child struct {
	t   *testing.T
	pid int
	in  io.Writer
	out *bufio.Reader
}

func startChild(t *testing.T) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Args[0] = "child"
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return &child{t, cmd.Process.Pid, in, bufio.NewReader(out)}
}

// ask returns how far the child's wall clock is ahead of ours, how long it has run by its monotonic one, and whether it can open
// files.
func (c *child) ask() (ahead, ran time.Duration, opens bool) {
	c.t.Helper()
	fmt.Fprintln(c.in)
	line, err := c.out.ReadString('\n')
	if err != nil {
		c.t.Fatal(err)
	}
	var unix, ms int64
	if _, err := fmt.Sscan(strings.TrimSpace(line), &unix, &ms, &opens); err != nil {
		c.t.Fatalf("%q: %v", line, err)
	}
	return time.Duration(unix-time.Now().Unix()) * time.Second, time.Duration(ms) * time.Millisecond, opens
}

// The wall clock of one process jumps, and back; its monotonic clock goes on, and so do our clocks.
func TestShiftClock(t *testing.T) {
	if err := Unsupported(Clock); err != nil {
		t.Skip(err)
	}
	t.Parallel()
	c := startChild(t)
	c.ask()
	before := time.Now()
	for _, jump := range []time.Duration{time.Hour, -20 * 365 * 24 * time.Hour, 0} {
		if err := shiftClock(c.pid, jump); err != nil {
			t.Fatal(err)
		}
		ahead, ran, _ := c.ask()
		if off := ahead - jump; off < -2*time.Second || off > 2*time.Second {
			t.Errorf("a jump of %v: ahead by %v", jump, ahead)
		}
		if ran < 0 || ran > time.Minute {
			t.Errorf("a jump of %v: has run for %v", jump, ran)
		}
	}
	if took := time.Now().Round(0).Sub(before.Round(0)); took < 0 || took > time.Minute {
		t.Errorf("our own clock jumped by %v", took)
	}
}

func TestStarve(t *testing.T) {
	if err := Unsupported(FDs); err != nil {
		t.Skip(err)
	}
	t.Parallel()
	c := startChild(t)
	if _, _, opens := c.ask(); !opens {
		t.Fatal("the child cannot open files before")
	}
	restore, err := starve(c.pid)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, opens := c.ask(); opens {
		t.Error("the child opens files with no descriptor left")
	}
	if err := restore(); err != nil {
		t.Fatal(err)
	}
	if _, _, opens := c.ask(); !opens {
		t.Error("the child cannot open files afterwards")
	}
}

// A process that takes more than its group may have is killed, and the group knows.
func TestCgroup(t *testing.T) {
	t.Parallel()
	g, err := newCgroup(fmt.Sprintf("ringcast-test-%d", os.Getpid()), 32<<20)
	if err != nil {
		t.Skip(err)
	}
	hog := exec.Command("/bin/sh", "-c", `echo $$ >"$0" && x=$(head -c 100000000 /dev/zero | tr '\0' x) && echo "$x" | wc -c`, g.procs())
	out, err := hog.CombinedOutput()
	if g.killed() == 0 {
		t.Errorf("100 MB in 32 MiB: %s, %v", out, err)
	}
	if peak := g.peak(); peak != 0 && (peak < 16<<20 || peak > 33<<20) {
		t.Errorf("peak %d", peak)
	}
	if err := g.remove(); err != nil {
		t.Error(err)
	}
}
