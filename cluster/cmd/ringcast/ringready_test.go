package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ringcast/ringcast/shared/ring"
)

// The words are those of WEST's ringready, for the programs that look for them.
func TestW29_RingReady(t *testing.T) {
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
		{"agreed", []ring.Status{node("a", 2, "x", 0), node("b", 2, "x", 0)}, nil, "TRUE All nodes agree on the ring [ts-a, ts-b] v2", true},
		{"one node", []ring.Status{node("a", 2, "x", 0)}, nil, "TRUE All nodes agree on the ring [ts-a, ts-b] v2", true},
		{"versions", []ring.Status{node("a", 2, "x", 0), node("b", 3, "y", 0)}, nil,
			"FALSE Node a and b list different partition owners: ring v2 (x) and ring v3 (y)", false},
		{"content", []ring.Status{node("a", 2, "x", 0), node("b", 2, "y", 0)}, nil,
			"FALSE Node a and b list different partition owners: ring v2 (x) and ring v2 (y)", false},
		{"on the way", []ring.Status{node("a", 2, "x", 0), node("b", 2, "x", 3)}, nil,
			"FALSE Node b has 3 topics that ring v2 gives to others", false},
		{"down", []ring.Status{node("a", 2, "x", 0)}, []string{"h:1 (refused)"},
			"FALSE [h:1 (refused)] down.  All nodes need to be up to check.", false},
		{"all down", nil, []string{"h:1 (refused)", "h:2 (refused)"}, "FALSE [h:1 (refused), h:2 (refused)] down.  All nodes need to be up to check.", false},
		{"the one asked is down", nil, []string{"h:1 (refused)"}, "Node is not running! h:1 (refused)", false},
	} {
		if verdict, ok := judgeRings(tt.nodes, tt.down); verdict != tt.want || ok != tt.ok {
			t.Errorf("%s: %q, %t; want %q, %t", tt.name, verdict, ok, tt.want, tt.ok)
		}
	}
}

// Another program that answers with JSON passes for no node.
func TestAnswersOfNoNode(t *testing.T) {
	for _, answer := range []string{"null", "{}", `{"ring":{}}`, `{"id":"x"}`, `{"version":1}`} {
		other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) }))
		defer other.Close()
		var out strings.Builder
		if err := runRingReady(t.Context(), &out, []string{other.URL}); !errors.Is(err, errNotReady) {
			t.Errorf("%s: ring ready: %v", answer, err)
		}
		if err := runPing(t.Context(), &out, []string{other.URL}); !errors.Is(err, errDown) {
			t.Errorf("%s: ping: %v", answer, err)
		}
		if err := runStatus(t.Context(), &out, []string{other.URL}); !errors.Is(err, errDown) {
			t.Errorf("%s: status: %v", answer, err)
		}
		if n := strings.Count(out.String(), "what answers is no node of ringcast"); n != 2 {
			t.Errorf("%s: %s", answer, out.String())
		}
	}
}
