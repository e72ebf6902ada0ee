package main

import (
	"testing"

	"github.com/ringcast/ringcast/shared/ring"
)

func TestJudgeRings(t *testing.T) {
	node := func(id string, version uint64, content string, pending int) ring.Status {
		return ring.Status{ID: id, Version: version, Content: content, Servers: []string{"ts-a", "ts-b"}, Pending: pending}
	}
	for _, tt := range []struct {
		name  string
		nodes []ring.Status
		down  []string
		want  string
		ok    bool
	}{
		{"agreed", []ring.Status{node("a", 2, "x", 0), node("b", 2, "x", 0)}, nil, "TRUE all nodes agree on ring v2 [ts-a, ts-b]", true},
		{"one node", []ring.Status{node("a", 2, "x", 0)}, nil, "TRUE all nodes agree on ring v2 [ts-a, ts-b]", true},
		{"versions", []ring.Status{node("a", 2, "x", 0), node("b", 3, "y", 0)}, nil,
			"FALSE node a has ring v2 (x) and node b has ring v3 (y)", false},
		{"content", []ring.Status{node("a", 2, "x", 0), node("b", 2, "y", 0)}, nil,
			"FALSE node a has ring v2 (x) and node b has ring v2 (y)", false},
		{"on the way", []ring.Status{node("a", 2, "x", 0), node("b", 2, "x", 3)}, nil,
			"FALSE node b has 3 topics that ring v2 gives to others", false},
		{"down", []ring.Status{node("a", 2, "x", 0)}, []string{"h:1 (refused)"},
			"FALSE h:1 (refused) down. All nodes need to be up to check.", false},
	} {
		if verdict, ok := judgeRings(tt.nodes, tt.down); verdict != tt.want || ok != tt.ok {
			t.Errorf("%s: %q, %t; want %q, %t", tt.name, verdict, ok, tt.want, tt.ok)
		}
	}
}
