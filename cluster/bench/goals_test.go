package bench

import (
	"strings"
	"testing"
)

func TestGoalsAreJudged(t *testing.T) {
	most := Goal{Load: "x", Figure: "f", Ratio: 2}
	least := Goal{Load: "x", Figure: "f", AtLeast: true, Value: 10, Ratio: 0.5}
	alone := Goal{Load: "x", Figure: "f", Value: 1, Lower: "q"}
	for _, c := range []struct {
		goal        Goal
		ours, floor float64 // floor 0: not measured
		lower       float64
		want        Verdict
	}{
		{goal: most, ours: 4, floor: 2, want: Met},
		{goal: most, ours: 4.1, floor: 2, want: NotMet},
		{goal: most, ours: 1, want: NotMeasured},
		{goal: least, ours: 10, floor: 100, want: Met},
		{goal: least, ours: 9, floor: 17, want: MetByRatio},
		{goal: least, ours: 9, floor: 19, want: NotMet},
		{goal: least, ours: 9, want: NotMet},
		{goal: alone, ours: 1, want: Met},
		{goal: alone, ours: 2.5, lower: 0.9, want: WithinChance},
		{goal: alone, ours: 2.5, lower: 1.1, want: NotMet},
	} {
		r := &Report{Runs: []*Run{run(Faults{}, "f", c.ours, "q", c.lower)}}
		if c.floor != 0 {
			r.Floor = []*Run{run(Faults{}, "f", c.floor)}
		}
		if got := c.goal.Judge(r); got != c.want {
			t.Errorf("%s with %g, floor %g: %s, want %s", c.goal.text(), c.ours, c.floor, got, c.want)
		}
		r.Runs[0].Faults.Lost = 1
		if got := c.goal.Judge(r); got != Faulty && got != NotMeasured {
			t.Errorf("%s with a message lost: %s", c.goal.text(), got)
		}
	}
}

func TestGoalsAreOfFiguresThatLoadsHave(t *testing.T) {
	for _, g := range Goals() {
		found := false
		for _, l := range Loads() {
			found = found || l.Name == g.Load
		}
		if !found || g.Value == 0 && g.Ratio == 0 {
			t.Errorf("goal %+v is of no load, or has no limit", g)
		}
	}
}

func TestWriteGoals(t *testing.T) {
	r := &Report{
		Load:  Load{Name: "rooms"},
		Runs:  []*Run{run(Faults{}, "server_cpu_s_per_million", 50.0, "p99_ms", 2.0)},
		Floor: []*Run{run(Faults{}, "server_cpu_s_per_million", 25.0, "p99_ms", 0.5)},
	}
	var out strings.Builder
	met, err := WriteGoals(&out, []*Report{r})
	want := "| load | figure | ringcast | floor | ratio | goal | |\n|---|---|---|---|---|---|---|\n" +
		"| rooms | CPU-s per 1M deliveries | 50 | 25 | 2.00 | ≤ 2.5 × floor | met |\n" +
		"| rooms | p99 ms | 2 | 0.5 | 4.00 | ≤ 2 × floor | **not met** |\n\n"
	if met || err != nil || out.String() != want {
		t.Errorf("met %t, error %v:\n%s", met, err, out.String())
	}
	r.Runs[0].Figures[1].Value = 1
	if met, _ := WriteGoals(&out, []*Report{r}); !met {
		t.Error("goals that hold are not met")
	}
	r.Floor[0].Faults.Doubled = 1
	if met, _ := WriteGoals(&out, []*Report{r}); met {
		t.Error("a fault passes")
	}
}
