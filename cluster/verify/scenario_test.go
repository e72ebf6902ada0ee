package verify

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ringcast/ringcast/shared/ring"
)

func TestScenarios(t *testing.T) {
	for _, name := range Scenarios() {
		cfg, err := ScenarioConfig(name)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Seed = 7
		if cfg, err = cfg.withDefaults(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		steps := plan(cfg)
		if len(steps) == 0 || fmt.Sprint(steps) != fmt.Sprint(plan(cfg)) {
			t.Errorf("%s: %d steps, and the same seed gives others", name, len(steps))
		}
		for i, s := range steps {
			if !slices.Contains(cfg.Faults, s.class) || s.at+s.lasts > cfg.Duration || i > 0 && s.at < steps[i-1].at {
				t.Errorf("%s: step %d %v at %v for %v", name, i, s.class, s.at, s.lasts)
			}
		}
	}
	if _, err := ScenarioConfig("fire"); err == nil {
		t.Error("there is a scenario fire")
	}
	reconnects, _ := ScenarioConfig("reconnects")
	if n := len(plan(reconnects)) * reconnects.Subscribers; n < 10_000 {
		t.Errorf("%d reconnects", n)
	}
}

func TestJoins(t *testing.T) {
	for _, tt := range []struct{ topics, subscribers, joins int }{{10, 100, 1}, {30, 12, 5}, {4, 4, 4}, {7, 9, 2}} {
		cfg, err := Config{Topics: tt.topics, Subscribers: tt.subscribers, Joins: tt.joins}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		r := newRun(cfg)
		members := make([]int, tt.topics)
		for i := range tt.subscribers {
			n := 0
			for k := range tt.topics {
				if r.joins(i, k, nil) {
					members[k]++
					n++
				}
			}
			if n != tt.joins {
				t.Errorf("%+v: subscriber %d joins %d", tt, i, n)
			}
		}
		if slices.Min(members) == 0 {
			t.Errorf("%+v: members %v", tt, members)
		}
	}
}

// Topics that an edit does not move are not said to.
func TestMoved(t *testing.T) {
	cfg, _ := Config{Topics: 60}.withDefaults()
	topics := cfg.topics()
	ab := topology{members: []string{"a", "b"}}
	for _, next := range []topology{{members: []string{"a", "b", "c"}}, {members: ab.members, salt: strings.Repeat("x", ring.MinSalt)}} {
		if n := len(moved(topics, ab, next)); n < 5 || n > 45 {
			t.Errorf("%d of %d topics move to %v", n, len(topics), next)
		}
	}
	if got := moved(topics, ab, topology{members: []string{"b", "a"}}); len(got) > 0 {
		t.Errorf("%v move", got)
	}
}
