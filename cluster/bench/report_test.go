package bench

import (
	"encoding/json"
	"strings"
	"testing"
)

func run(faults Faults, figures ...any) *Run {
	r := &Run{Faults: faults}
	for i := 0; i < len(figures); i += 2 {
		r.Figures = append(r.Figures, Figure{figures[i].(string), figures[i+1].(float64)})
	}
	return r
}

func report() *Report {
	return &Report{
		Load: Loads()[1],
		Runs: []*Run{
			run(Faults{}, "p99_ms", 3.0, "server_cpu_s", 2.0, "client_cpu_s", 1.0, "publishes_per_s", 99.5),
			run(Faults{Lost: 2}, "p99_ms", 1.5, "server_cpu_s", 2.0, "client_cpu_s", 1.0),
			run(Faults{}, "p99_ms", 9.0, "server_cpu_s", 1.0, "client_cpu_s", 1.5),
		},
		Floor: []*Run{run(Faults{}, "p99_ms", 2.0, "only_floor", 1.0, "publishes_per_s", 57.7), run(Faults{}, "p99_ms", 4.0)},
	}
}

func TestReportAsText(t *testing.T) {
	var out strings.Builder
	if err := report().WriteText(&out); err != nil {
		t.Fatal(err)
	}
	// Column widths are tabwriter's.
	got := strings.Join(strings.Fields(out.String()), " ")
	want := "fanout: 1000 connections, 1 topics, 1 publishers a topic, 128 B payload, 100 publishes/s, 10s; 3 runs, median (min-max)" +
		" ringcast floor ratio" +
		" p99_ms 3 (1.5-9) 3 (2-4) 1.00" +
		" server_cpu_s 2 (1-2) -" +
		" client_cpu_s 1 (1-1.5) -" +
		" publishes_per_s 99.5 (99.5-99.5) 57.7 (57.7-57.7) 1.72" +
		" only_floor - 1 (1-1)" +
		" faults: 2 lost" +
		" warning: ringcast run 2: FAULTS: 2 lost" +
		" warning: ringcast run 3: the client took more CPU time than the servers (1.50 s, 1.00 s)" +
		" warning: floor run 1: only 57.7 of 100 publishes/s were delivered in time: the latency is that of a growing queue"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestReportAsJSON(t *testing.T) {
	text, err := json.Marshal(report())
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Load            Load
		Runs            int
		Ringcast, Floor map[string]Spread
		Ratio           map[string]float64
		Faults          Faults
		Warnings        []string
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if got.Load != Loads()[1] || got.Runs != 3 || got.Faults.Lost != 2 || len(got.Warnings) != 3 {
		t.Errorf("got %s", text)
	}
	if s := got.Ringcast["p99_ms"]; s != (Spread{Median: 3, Min: 1.5, Max: 9}) {
		t.Errorf("p99_ms is %+v", s)
	}
	if s := got.Floor["p99_ms"]; s != (Spread{Median: 3, Min: 2, Max: 4}) || got.Ratio["p99_ms"] != 1 {
		t.Errorf("floor's p99_ms is %+v, ratio %g", s, got.Ratio["p99_ms"])
	}
	if _, ok := got.Ratio["only_floor"]; ok {
		t.Error("a ratio of a figure that one side lacks")
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 3: "3", 0.12345: "0.123", 5.678: "5.68", 12.34: "12.3", 123456.7: "123457"} {
		if got := number(v); got != want {
			t.Errorf("%g: %s, want %s", v, got, want)
		}
	}
}

func TestLoadsAreValid(t *testing.T) {
	for _, l := range Loads() {
		if err := l.Validate(); err != nil {
			t.Errorf("%s: %v", l.Name, err)
		}
	}
}

func TestLoadValidateNamesEveryProblem(t *testing.T) {
	l := Load{Name: "x", Kind: Publish, Topics: 2, Connections: 10, Publishers: 6, Rate: -1, Payload: 5}
	err := l.Validate()
	for _, want := range []string{"duration is 0s", "publishers is 6: want 1 to 5", "payload is 5", "rate is -1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q: %v", want, err)
		}
	}
	l = Load{Name: "x", Kind: Publish, Topics: 3, Connections: 2, Duration: 1e9}
	if err := l.Validate(); err == nil || !strings.Contains(err.Error(), "2 connections cannot join 3 topics") {
		t.Errorf("error is %v", err)
	}
	l = Load{Name: "x", Kind: "y", Topics: 1, Connections: 1, Duration: 1e9}
	if err := l.Validate(); err == nil || !strings.Contains(err.Error(), `unknown kind "y"`) {
		t.Errorf("error is %v", err)
	}
}

func TestConfigDefaults(t *testing.T) {
	cfg := Config{Load: Loads()[0], BinDir: "x"}
	if err := cfg.setDefaults(); err != nil || cfg.Runs != 1 || cfg.Gateways != 2 || cfg.TopicServers != 2 {
		t.Errorf("%+v, %v", cfg, err)
	}
	for want, cfg := range map[string]Config{
		"want either a directory": {Load: Loads()[0]},
		"the ids of all server":   {Load: Loads()[0], URLs: []string{"ws://127.0.0.1:1/socket"}},
		"runs: -1":                {Load: Loads()[0], BinDir: "x", Runs: -1},
	} {
		if err := cfg.setDefaults(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %q", err, want)
		}
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	var tl tail
	for range 100 {
		if n, err := tl.Write([]byte(strings.Repeat("a", 99) + "\n")); n != 100 || err != nil {
			t.Fatal(n, err)
		}
	}
	_, _ = tl.Write([]byte("last words"))
	if got := tl.String(); len(got) != maxTail || !strings.HasSuffix(got, "a\nlast words") {
		t.Errorf("%d bytes: …%s", len(got), got[max(0, len(got)-20):])
	}
}
