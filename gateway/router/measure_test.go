package router

import (
	"testing"
	"time"
)

// observed does nothing with what it observes.
type observed struct{}

func (observed) Observe(float64) {}

func TestClockTakesOneBatchInSixteen(t *testing.T) {
	in := &inbox{lane: &lane{r: &Router{cfg: Config{DeliveryTime: observed{}}}}}
	measured := 0
	for range 10 * sampleEvery {
		in.batch++
		in.clock.start(in)
		in.clock.start(in) // a second message of the batch
		if !in.clock.began.IsZero() {
			measured++
			in.clock.began = time.Time{}
		}
	}
	if measured != 10 {
		t.Errorf("%d of %d batches are measured, want 10", measured, 10*sampleEvery)
	}
	if allocs := testing.AllocsPerRun(100, func() {
		in.batch++
		in.clock.start(in)
	}); allocs != 0 {
		t.Errorf("%v allocations per batch", allocs)
	}
}
