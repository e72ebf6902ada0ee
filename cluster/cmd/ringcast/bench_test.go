package main

import (
	"errors"
	"flag"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/ringcast/ringcast/cluster/bench"
)

func TestBenchRefusesOptions(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"bench fanout --runs 0", "--runs 0"},
		{"bench fanout --rate -1", "rate is -1"},
		{"bench rooms --connections 3", "3 connections cannot join 500 topics"},
		{"bench flood --payload 5", "payload is 5"},
		{"bench idle --payload 100", "not defined"},
		{"bench all --connections 5", "not defined"},
		{"bench churn --url ws://127.0.0.1:1/socket", "--url and --pids go together"},
		{"bench churn --pids 1", "--url and --pids go together"},
		{"bench churn --url ws://127.0.0.1:1/socket --pids 1,x", `"x" is no process id`},
		{"bench churn --url ws://127.0.0.1:1/socket --pids 0", `"0" is no process id`},
		{"bench churn --url ws://127.0.0.1:1/socket --pids 1 --bin x", "exclude each other"},
		{"bench churn --coalesce", "--coalesce needs --floor"},
		{"bench churn more", "usage"},
		{"bench goals --runs 0", "at least 1 run"},
		{"bench goals --duration 1ms", "1s to 1m"},
		{"bench nothing", "no command"},
	} {
		err := run(t.Context(), io.Discard, strings.Fields(c.args))
		if !errors.Is(err, errUsage) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("ringcast %s: error is %v, want %q", c.args, err, c.want)
		}
	}
	if err := run(t.Context(), io.Discard, []string{"bench", "fanout", "-h"}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: %v", err)
	}
}

func TestBenchOptionsReachTheLoads(t *testing.T) {
	b := newBenchFlags("flood")
	if err := b.set.Parse(strings.Fields("--connections 20 --window 3 --publishers 2 --duration 2s --floor --coalesce --url a,b --pids 7,8")); err != nil {
		t.Fatal(err)
	}
	cfg, err := b.config()
	if err != nil {
		t.Fatal(err)
	}
	if l := b.loads[0]; len(b.loads) != 1 || l.Connections != 20 || l.Window != 3 || l.Publishers != 2 || l.Duration != 2e9 {
		t.Errorf("load is %+v", l)
	}
	if !slices.Equal(cfg.URLs, []string{"a", "b"}) || len(cfg.Processes) != 2 || cfg.Processes[1].PID != 8 {
		t.Errorf("config is %+v", cfg)
	}
	if got := cfg.FloorCommand; len(got) != 4 || !slices.Equal(got[1:], []string{"bench", "floor-server", "--coalesce"}) {
		t.Errorf("floor command is %q", got)
	}
	if all := newBenchFlags("all"); len(all.loads) != len(bench.Loads()) {
		t.Errorf("all has %d loads", len(all.loads))
	}
}

func TestEveryLoadHasACommand(t *testing.T) {
	for _, load := range bench.Loads() {
		if !slices.ContainsFunc(commands, func(c command) bool { return c.name == "bench "+load.Name }) {
			t.Errorf("no command for %s", load.Name)
		}
	}
}
