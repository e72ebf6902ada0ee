//go:build linux

package cluster_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/ringcast/ringcast/cluster/bench"
)

// The storm in small: a gateway dies, its clients all come to the other one at once, without jitter, and join. All of them
// are back, nobody who was there already loses a message, and nobody had to be refused.
func TestStorm_ACrowdComesAllAtOnce(t *testing.T) {
	dir := filepath.Dir(program(t, "gateway"))
	program(t, "topicserver")
	t.Setenv("ADMISSION_LAG", "0s") // the machine of the tests may be late for other reasons
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	report, err := bench.Measure(t.Context(), bench.Config{BinDir: dir, Load: bench.Load{
		Name: "storm", Kind: bench.Storm, Topics: 10, Connections: 300, Established: 20, Publishers: 1, Rate: 50, Payload: 64,
		Duration: 200 * time.Millisecond,
	}})
	if err != nil {
		t.Fatal(err)
	}
	run := report.Runs[0]
	if run.Faults.Any() {
		t.Errorf("faults: %s %s", run.Faults, run.Reason)
	}
	if back, ok := run.Figure("back_s"); !ok || back > patience.Seconds() {
		t.Errorf("everybody was back after %g s", back)
	}
	if refused, ok := run.Figure("refused"); !ok || refused != 0 {
		t.Errorf("%g handshakes were refused", refused)
	}
}
