package main

import (
	"errors"
	"flag"
	"io"
	"strings"
	"testing"
)

func TestVerifyRefusesOptions(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--faults fire", `no class of faults "fire"`},
		{"--seeds 0", "seeds is 0"},
		{"--topics 101 --rate -1", "topics is 101: must be 1 to 100\nrate is -1"},
		{"--in-process --faults churn,cut", "faults of class cut need nodes in processes of their own"},
		{"--tamper eat", "must be drop, double or swap"},
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
