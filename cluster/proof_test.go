package cluster_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

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

// The checker is evidence only if it finds what is wrong: each mutant breaks one promise, and must be found.
func TestProof_EveryMutantIsFound(t *testing.T) {
	if testing.Short() {
		t.Skip("-short")
	}
	bin := t.TempDir()
	for _, pkg := range []string{"gateway", "topicserver"} {
		out, err := exec.Command("go", "build", "-tags", "mutant", "-o", bin,
			fmt.Sprintf("github.com/ringcast/ringcast/%[1]s/cmd/%[1]s", pkg)).CombinedOutput()
		if err != nil {
			t.Fatalf("build %s: %v\n%s", pkg, err, out)
		}
	}
	t.Run("none", func(t *testing.T) {
		if report, good := verify(t, bin, nil, "--seed", "3", "--duration", "6s", "--faults", "none"); !good {
			t.Errorf("anomalies without a mutant:\n%s", report)
		}
	})
	// What brings a mutant out. Some need luck with the moment, so several seeds are tried.
	args := map[mutant.Name][]string{
		mutant.Drop:        {"--faults", "none"},
		mutant.Double:      {"--faults", "none"},
		mutant.Swap:        {"--faults", "none"},
		mutant.AckFirst:    {"--faults", "none"},
		mutant.ReuseOffset: {"--faults", "kill-topicserver"},
		mutant.IgnoreRing:  {"--faults", "ring"},
		mutant.ForgetIDs:   {"--faults", "ring,churn", "--overlap", "--rate", "1500", "--window", "32", "--topics", "20"},
		mutant.SkipSeal:    {"--faults", "ring,slow"},
	}
	for _, name := range mutant.Names {
		t.Run(string(name), func(t *testing.T) {
			for seed := range 6 {
				report, good := verify(t, bin, []string{"MUTANT=" + string(name)},
					append(args[name], "--seed", fmt.Sprint(seed+1), "--duration", "8s")...)
				if !good {
					t.Logf("found with seed %d", seed+1)
					return
				}
				t.Logf("seed %d did not find it:\n%s", seed+1, report)
			}
			t.Error("not found")
		})
	}
}
