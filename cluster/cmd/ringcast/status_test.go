package main

import (
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/shared/daemon"
	"github.com/ringcast/ringcast/shared/ring"
)

func TestPrintStatus(t *testing.T) {
	var out strings.Builder
	err := printStatus(&out, []node{
		{URL: "a", Status: &daemon.Status{Build: "v1", Ready: true, Ring: ring.Status{ID: "gw", Role: "gateway", Version: 2}, Lanes: 4, Topics: 3, Sessions: 7, Subscribers: 9}},
		{URL: "b", Status: &daemon.Status{Build: "v1", Why: "links: none", Ring: ring.Status{ID: "ts", Role: "topicserver", Version: 2, FileStale: true, Pending: 5}}},
		{URL: "c:1", Error: "refused"},
	})
	want := `NODE  ROLE         READY            RING                                    LANES  TOPICS  SESSIONS  SUBSCRIBERS  BUILD
gw    gateway      yes              v2 ok                                   4      3       7         9            v1
ts    topicserver  no: links: none  v2 file stale, 5 topics on their way    0      0       -         0            v1
c:1   Node is not running! (refused)
`
	got := strings.Join(strings.Fields(out.String()), " ")
	if err != nil || got != strings.Join(strings.Fields(want), " ") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestRank(t *testing.T) {
	look := func(publishes ...uint64) (nodes []node) {
		for _, p := range publishes {
			nodes = append(nodes, node{Status: &daemon.Status{Publishes: p, Sends: 2 * p}})
		}
		return nodes
	}
	before, now := look(10, 10, 100), look(20, 110, 5)
	now = append(now, node{URL: "down"})
	before = append(before, node{URL: "down"})
	rows := rank(before, now, 10*time.Second)
	if rows[0].publishes != 10 || rows[0].sends != 20 || rows[1].publishes != 1 || rows[2].publishes != 0 || rows[3].Status != nil {
		t.Errorf("%+v", rows)
	}
}
