package router

import (
	"testing"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
)

func TestJoinTimes(t *testing.T) {
	var times joinTimes
	if got := times.p99(); got != 0 {
		t.Errorf("none: %v", got)
	}
	for range 1000 {
		times.add(3 * time.Millisecond)
	}
	for range 9 {
		times.add(time.Hour)
	}
	if got := times.p99(); got != 4*time.Millisecond {
		t.Errorf("%v, want 4ms: fewer than 1 in 100 took longer", got)
	}
	if got := times.p99(); got != 0 {
		t.Errorf("none since: %v", got)
	}
	times.add(0)
	times.add(700 * time.Millisecond)
	if got := times.p99(); got != 1024*time.Millisecond {
		t.Errorf("%v, want 1024ms", got)
	}
	times.add(time.Hour)
	if got := times.p99(); got != time.Millisecond<<15 {
		t.Errorf("%v, want the last bucket", got)
	}
}

func TestOthersLoadIsTheWorstOfLate(t *testing.T) {
	var r Router
	now := time.Now()
	if got := r.OthersLoad(now); got.Gateways != 0 || got.JoinMs != 0 || got.Refusing {
		t.Errorf("nothing heard: %v", got)
	}
	r.heardLoad("ts-a", &linkpb.Load{JoinMs: 20, Gateways: 3})
	r.heardLoad("ts-b", &linkpb.Load{JoinMs: 700, Refusing: true, Gateways: 2})
	if got := r.OthersLoad(now); got.Gateways != 3 || got.JoinMs != 700 || !got.Refusing {
		t.Errorf("two answers: %v", got)
	}
	if got := r.OthersLoad(now.Add(2*othersCount + time.Second)); got.Gateways != 0 || got.Refusing {
		t.Errorf("old answers count: %v", got)
	}
}
