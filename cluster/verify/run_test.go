package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/cluster/verify/check"
)

// small is a run that takes little time.
func small(t *testing.T) Config {
	return Config{
		Seed: 1, Duration: 1500 * time.Millisecond, InProcess: true, Dir: t.TempDir(), Log: lines{t},
		Topics: 4, Publishers: 2, Subscribers: 5, Rate: 300, Scale: 0.05, HealWithin: 5 * time.Second,
	}
}

// lines is a log that goes to the test.
type lines struct{ t *testing.T }

func (l lines) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func mustRun(t *testing.T, cfg Config) *Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	res, err := Run(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	var report strings.Builder
	res.Print(&report, "again")
	t.Log(report.String())
	return res
}

func TestChurn(t *testing.T) {
	for _, positions := range []bool{true, false} {
		t.Run(fmt.Sprint("positions ", positions), func(t *testing.T) {
			t.Parallel()
			cfg := small(t)
			cfg.NoPositions, cfg.Faults, cfg.Overlap = !positions, []Class{Churn, Stall}, true
			planned := func(how string) bool {
				return slices.ContainsFunc(plan(cfg), func(s step) bool { return s.how == how })
			}
			for !planned("drop") || !planned("leave") {
				cfg.Seed++
			}
			res := mustRun(t, cfg)
			for _, a := range res.Anomalies {
				t.Error(a)
			}
			n := res.Counts
			if n.Acked < 10 || n.Deliveries < n.Acked || n.Faults == 0 || n.Closes == 0 || (n.Resumed > 0) != positions || n.Probed != 4 ||
				n.FinalPositionsSeen != n.Subscribers {
				t.Errorf("not much of a test: %+v", n)
			}
		})
	}
}

// TestTamperedDeliveryIsFound falsifies what subscribers receive.
func TestTamperedDeliveryIsFound(t *testing.T) {
	for tamper, want := range map[string][]string{
		"drop":   {check.Skip, check.LostWrite},
		"double": {check.Forward},
		"swap":   {check.Order},
	} {
		t.Run(tamper, func(t *testing.T) {
			t.Parallel()
			cfg := small(t)
			cfg.NoPositions, cfg.Duration, cfg.Tamper, cfg.TamperEvery = true, time.Second, tamper, 50
			cfg.HealWithin = time.Second // a swapped message may wait for one that does not come
			res := mustRun(t, cfg)
			if !slices.ContainsFunc(res.Anomalies, func(a check.Anomaly) bool { return slices.Contains(want, a.Invariant) }) {
				t.Errorf("anomalies %v, want one of %q", res.Anomalies, want)
			}
			if res.Dir == "" {
				t.Error("the records were not kept")
			}
		})
	}
}

// exercise runs clients against a broker until every mishap has had its turns, and the anomaly that its bug makes has come, if it has
// one: on a busy machine that takes as long as it takes.
func exercise(t *testing.T, bug, anomaly string, lossless bool, heal time.Duration) *check.Report {
	t.Helper()
	cfg, err := Config{
		Seed: 1, Duration: 500 * time.Millisecond, Log: lines{t}, Faults: []Class{Churn}, Overlap: true,
		Topics: 3, Publishers: 3, Subscribers: 4, Rate: 600, Scale: 0.02, HealWithin: heal,
	}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	r := newRun(cfg)
	var b *broker
	b, r.cluster = newBroker(t, bug)
	b.lossless = lossless
	opts := cfg.options()
	opts.Lossless = lossless
	least := 600
	r.enough = func() bool {
		if b.turns() <= least {
			return false
		}
		least += 600
		if anomaly != "" && found(check.Check(r.log.Records(), opts))[anomaly] < 3 { // what comes later may explain one of them
			return false
		}
		b.rest()
		return true
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := r.exercise(ctx); err != nil {
		t.Fatal(err)
	}
	return check.Check(r.log.Records(), opts)
}

// found counts anomalies by the invariant that they break.
func found(rep *check.Report) map[string]int {
	counts := make(map[string]int)
	for _, a := range rep.Anomalies {
		counts[a.Invariant]++
	}
	return counts
}

func TestAFaultlessBrokerHasNoAnomalies(t *testing.T) {
	t.Parallel()
	for _, lossless := range []bool{true, false} {
		rep := exercise(t, "", "", lossless, time.Minute)
		for _, a := range rep.Anomalies {
			t.Errorf("lossless %t: %v", lossless, a)
		}
		n := rep.Counts
		if n.Acked < 10 || n.Failed == 0 || n.Retried == 0 || n.Resumed == 0 || n.Closes == 0 || (n.Epochs > 0) == lossless || n.FinalPositionsSeen != n.Subscribers {
			t.Errorf("lossless %t: not much of a test: %+v", lossless, n)
		}
	}
}

// TestBugsAreFound runs against brokers that have bugs.
func TestBugsAreFound(t *testing.T) {
	for bug, want := range map[string]string{
		"skips a subscriber":             check.Skip,
		"recovers nothing":               check.Skip,
		"denies loss":                    check.Skip,
		"loses in silence":               check.Skip,
		"reuses positions":               check.Order,
		"forgets ids":                    check.Duplicate,
		"acknowledges before it commits": check.Order,
		"applies what it refuses":        check.Undead,
		"encodes anew":                   check.Phantom,
		"fills holes later":              check.RealTime,
		"lets one overtake":              check.FIFO,
	} {
		t.Run(bug, func(t *testing.T) {
			t.Parallel()
			if got := found(exercise(t, bug, want, false, 500*time.Millisecond)); got[want] == 0 {
				t.Errorf("found %v, want %s", got, want)
			}
		})
	}
}
