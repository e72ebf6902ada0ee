package cluster_test

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	verifier "github.com/ringcast/ringcast/cluster/verify"
	"github.com/ringcast/ringcast/shared/mutant"
)

// verify runs ringcast verify on the binaries of a directory. It returns what it printed and whether it found delivery
// as promised.
func verify(t *testing.T, bin string, env []string, args ...string) (report string, good bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t, "ringcast"), append([]string{"verify", "-q", "--bin", bin, "--out", t.TempDir()}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = dieWithParent()
	out, err := cmd.CombinedOutput()
	if err == nil {
		return string(out), true
	}
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 1 {
		t.Fatalf("ringcast verify %v: %v\n%s", args, err, out)
	}
	return string(out), false
}

// A short proof for every run of the tests, with one seed that is always the same and one that never is: gateways and
// topic servers are killed and paused, links cut, the ring edited, clients sent away, all while messages flow.
func TestProof_NothingIsLostInSilence(t *testing.T) {
	bin := filepath.Dir(program(t, "gateway"))
	program(t, "topicserver")
	for _, seed := range []uint64{7, rand.Uint64N(1_000_000)} {
		report, good := verify(t, bin, nil, "--seed", fmt.Sprint(seed), "--duration", "12s")
		t.Logf("seed %d:\n%s", seed, report)
		if !good {
			t.Errorf("seed %d: anomalies", seed)
		}
	}
}

// What a machine does to one process, a short time each: no file descriptor left, a clock that jumps, memory that is bounded
// and wanted, a stop. Scenarios of ringcast verify have them for longer.
func TestProof_ShortOfFilesTimeAndMemory(t *testing.T) {
	t.Parallel()
	faults := verifier.Supported([]verifier.Class{verifier.FDs, verifier.Clock, verifier.Memory, verifier.PauseNode}, t.Output())
	if len(faults) < 4 {
		t.Skipf("this machine can do %v only", faults)
	}
	bin := filepath.Dir(program(t, "gateway"))
	program(t, "topicserver")
	report, good := verify(t, bin, nil, "--seed", "2", "--duration", "8s", "--faults", "fds,clock,memory,pause", "--no-errors")
	t.Log(report)
	if !good {
		t.Error("anomalies")
	}
	if strings.Contains(report, "NO REAL MEMORY LIMIT") {
		t.Skip("this machine has no cgroup for us")
	}
}

// mutants builds the services with the tag by which MUTANT chooses a promise for them to break, once, and returns where they are.
var mutants = sync.OnceValues(func() (string, error) {
	for _, name := range []string{"gateway", "topicserver"} {
		pkg := fmt.Sprintf("github.com/ringcast/ringcast/%[1]s/cmd/%[1]s", name)
		if _, err := build(filepath.Join("mutants", name), pkg, "-tags", "mutant"); err != nil {
			return "", err
		}
	}
	return filepath.Join(binaries.dir, "mutants"), nil
})

// judge runs ringcast verify with a mutant, which must be found by what it breaks; or with none, and then nothing may be
// found. Some mutants need luck with the moment, and all need traffic, of which a busy machine has less in the same time: so
// several seeds are tried, each for longer than the one before.
func judge(t *testing.T, name mutant.Name, args string, duration time.Duration, broken string) {
	bin, err := mutants()
	if err != nil {
		t.Fatal(err)
	}
	for seed := range 6 {
		flags := append(strings.Fields(args), "--seed", fmt.Sprint(seed+1), "--duration", (time.Duration(seed+1) * duration).String())
		report, good := verify(t, bin, []string{"MUTANT=" + string(name)}, flags...)
		if name == "" {
			if !good {
				t.Errorf("anomalies without a mutant:\n%s", report)
			}
			return
		}
		if !good && regexp.MustCompile(broken).MatchString(report) {
			t.Logf("found with seed %d", seed+1)
			return
		}
		t.Logf("seed %d did not find it:\n%s", seed+1, report)
	}
	t.Error("not found")
}

// The checker is evidence only if it finds what is wrong: each mutant breaks one promise, and must be found.
func TestProof_EveryMutantIsFound(t *testing.T) {
	if testing.Short() {
		t.Skip("-short")
	}
	usage := "--faults none --warm-up 1s --rate 500"
	for _, m := range []struct {
		name     mutant.Name // "": none, which must not be found
		args     string
		duration time.Duration
		broken   string
	}{
		{"", usage + " --settle 15s", 2 * time.Second, ""},
		{mutant.Drop, "--faults none --topics 3 --heal 2s", 2 * time.Second, "I3 skip|I4 lost write"},
		{mutant.Double, "--faults none --topics 3 --heal 2s", 2 * time.Second, "I2 nonmonotonic"},
		{mutant.Swap, "--faults none --topics 3 --heal 2s", 2 * time.Second, "I[2-4] "},
		{mutant.AckFirst, "--faults none --topics 3 --heal 2s", 2 * time.Second, "I1 order|I4 lost write|I8 real time"},
		{mutant.ReuseOffset, "--faults kill-topicserver --heal 3s", 5 * time.Second, "I[1-8] "},
		{mutant.IgnoreRing, "--faults ring --heal 3s", 5 * time.Second, "I[1-8] "},
		{mutant.ForgetIDs, "--faults ring,churn --overlap --rate 1500 --window 32 --topics 20", 8 * time.Second, "I7 duplicate"},
		{mutant.SkipSeal, "--faults ring,slow --heal 3s", 8 * time.Second, "I[1-8] "},
		{mutant.Leak, usage + " --settle 1s", 2 * time.Second, "I11 resources.* goroutines"},
	} {
		t.Run(cmp.Or(string(m.name), "none"), func(t *testing.T) {
			t.Parallel()
			judge(t, m.name, m.args, m.duration, m.broken)
		})
	}
}

// Histories that keep more than they may are found by a real limit of memory. These runs move tens of megabytes, so nothing runs
// beside them.
func TestProof_AHoardIsFound(t *testing.T) {
	switch {
	case testing.Short():
		t.Skip("-short")
	case os.Geteuid() != 0:
		t.Skip("a real memory limit needs root")
	}
	args := "--faults memory --memory-limit 40 --rate 120 --window 16 --payload 60000 --topics 60 --publishers 2 --subscribers 2 --joins 5"
	t.Run("none", func(t *testing.T) { judge(t, "", args+" --heal 1m", 10*time.Second, "") })
	t.Run("hoard", func(t *testing.T) { judge(t, mutant.Hoard, args+" --heal 2s", 10*time.Second, "by its memory limit") })
}
