package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/cluster/verify"
)

func TestVerifyRefusesOptions(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--faults fire", `no class of faults "fire"`},
		{"--seeds 0", "seeds is 0"},
		{"--topics 101 --rate -1", "topics is 101: must be 1 to 100\nrate is -1"},
		{"--in-process --faults churn,cut", "faults of class cut need nodes in processes of their own"},
		{"--tamper eat", "must be drop, double or swap"},
		{"--scenario fire", fmt.Sprintf(`no scenario "fire": there are %v`, verify.Scenarios())},
		{"--scenario cut --faults ring", "a scenario has faults of its own"},
		{"--scenario cut --joins 11 --rate -1", "rate is -1: must be 0.1 to 100000\njoins is 11: must be 1 to 10"},
		{"more", "usage"},
	} {
		err := runVerify(t.Context(), io.Discard, strings.Fields(c.args))
		if !errors.Is(err, errUsage) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("ringcast verify %s: error is %v, want %q", c.args, err, c.want)
		}
	}
	if err := runVerify(t.Context(), io.Discard, []string{"-h"}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: %v", err)
	}
}

// What the command line says counts for more than the scenario.
func TestUseScenario(t *testing.T) {
	fs := flag.NewFlagSet("verify", flag.ContinueOnError)
	cfg := verify.Config{Scenario: "rings"}
	fs.Float64Var(&cfg.Rate, "rate", 200, "")
	fs.IntVar(&cfg.Topics, "topics", 10, "")
	_ = fs.String("faults", "", "")
	if err := fs.Parse([]string{"-rate", "50"}); err != nil {
		t.Fatal(err)
	}
	if err := useScenario(fs, &cfg); err != nil || cfg.Rate != 50 || cfg.Topics != 30 || cfg.RingPauseP99 != 250*time.Millisecond {
		t.Errorf("%v, %+v", err, cfg)
	}
}

func TestBoundPauses(t *testing.T) {
	ms := time.Millisecond
	for bound, want := range map[time.Duration]string{
		0: "", 30 * ms: "", 29 * ms: "verify: the pauses of moved topics have a 99th percentile of 30ms, want at most 29ms",
	} {
		var out strings.Builder
		err := boundPauses(&out, []time.Duration{30 * ms, 10 * ms, 20 * ms}, bound)
		if got := fmt.Sprint(err); got != want && (err != nil || want != "") {
			t.Errorf("bound %v: %v", bound, err)
		}
		if bound > 0 && out.String() != "pauses of 3 moves: p50 20ms, p99 30ms, max 30ms\n" {
			t.Errorf("printed %q", &out)
		}
	}
}

func TestVerify(t *testing.T) {
	options := "--in-process --positions=false --duration 300ms --topics 2 --subscribers 3 --publishers 2 --heal 1s --seed 5 --seeds 2 --out " + t.TempDir()
	var out strings.Builder
	if err := runVerify(t.Context(), &out, strings.Fields(options)); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	again := "ringcast verify --seed 6 --duration=300ms --heal=1s --in-process=true --positions=false --publishers=2 --subscribers=3 --topics=2\n"
	if text := out.String(); strings.Count(text, "no anomalies\n") != 2 || !strings.Contains(text, again) {
		t.Errorf("output:\n%s", text)
	}
	out.Reset()
	err := runVerify(t.Context(), &out, strings.Fields(options+" --tamper drop --tamper-every 10 -q"))
	if err == nil || err.Error() != "verify: anomalies with 2 of 2 seeds" || !strings.Contains(out.String(), "the same faults again: ringcast verify --seed 5 ") {
		t.Errorf("error %v, output:\n%s", err, &out)
	}
}
