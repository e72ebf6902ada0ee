package verify

import (
	"context"
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
		Topics: 4, Publishers: 2, Subscribers: 5, Rate: 300, Scale: 0.05,
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

func TestChurnWithoutPositions(t *testing.T) {
	cfg := small(t)
	cfg.NoPositions, cfg.Faults, cfg.Overlap = true, []Class{Churn, Stall}, true
	res := mustRun(t, cfg)
	for _, a := range res.Anomalies {
		t.Error(a)
	}
	n := res.Counts
	if n.Acked < 50 || n.Deliveries < n.Acked || n.Faults == 0 || n.Closes == 0 || n.Probed != 4 || n.FinalPositionsSeen != n.Subscribers {
		t.Errorf("not much of a test: %+v", n)
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
			cfg := small(t)
			cfg.NoPositions, cfg.Duration, cfg.Tamper, cfg.TamperEvery = true, time.Second, tamper, 50
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
