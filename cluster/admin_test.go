package cluster_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

// cli runs the ringcast command and returns what it prints.
func cli(t *testing.T, code int, args ...string) string {
	t.Helper()
	p := spawn(t, "ringcast", nil, args...)
	p.exits(code)
	return p.stdout.String()
}

// An admin asks the nodes: whether they agree on the ring, what each of them has, and which are not running.
func TestW29_StatusAndRingReady(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b := s.topicserver("ts-a"), s.topicserver("ts-b")
	gw := s.gateway("GATEWAY_ID=gw-a")
	gw.ready()
	neo := dial(t, "neo", gw.webSocketURL())
	neo.join(s.topicOf("ts-a", 0))
	nodes := []string{a.admin, b.admin, gw.admin}
	if got := cli(t, 0, append([]string{"ring", "ready"}, nodes...)...); got != "TRUE All nodes agree on the ring [ts-a, ts-b] v1\n" {
		t.Error(got)
	}
	var table string
	defer func() {
		if t.Failed() {
			t.Log(table)
		}
	}()
	eventually(t, "the owner knows its subscriber", func() bool {
		table = cli(t, 0, append([]string{"status"}, nodes...)...)
		return regexp.MustCompile(`(?m)^ts-a +topicserver +yes +v1 ok +2 +1 +- +1 `).MatchString(table)
	})
	for _, line := range []string{`ts-b +topicserver +yes +v1 ok +2 +0 +- +0 `, `gw-a +gateway +yes +v1 ok +4 +1 +1 +1 `} {
		if !regexp.MustCompile(`(?m)^` + line).MatchString(table) {
			t.Errorf("no line %s in\n%s", line, table)
		}
	}
	if top := cli(t, 0, append([]string{"top", "-n", "1", "-every", "100ms"}, nodes...)...); !strings.Contains(top, "PUBLISHES/S") || !strings.Contains(top, "gw-a") {
		t.Error(top)
	}

	b.kill()
	var list []struct {
		URL   string
		Ready bool
		Error string
		Ring  struct{ ID string }
	}
	if err := json.Unmarshal([]byte(cli(t, 1, append([]string{"status", "--json"}, nodes...)...)), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 3 || list[0].Ring.ID != "ts-a" || !list[0].Ready || list[1].URL != b.admin || list[1].Error == "" || list[2].Ring.ID != "gw-a" {
		t.Errorf("%+v", list)
	}
	if got := cli(t, 1, append([]string{"status"}, nodes...)...); !strings.Contains(got, "Node is not running!") {
		t.Error(got)
	}
	if got := cli(t, 1, append([]string{"ring", "ready"}, nodes...)...); !strings.HasPrefix(got, "FALSE ["+b.admin) || !strings.HasSuffix(got, "down.  All nodes need to be up to check.\n") {
		t.Error(got)
	}
}

// A node is started, answers a ping, is stopped in order, and is not running then.
func TestW30_StartPingStop(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ts := s.topicserver("ts-a")
	if got := cli(t, 0, "ping", ts.admin); got != "pong\n" {
		t.Error(got)
	}
	ts.kill()
	if got := cli(t, 1, "ping", ts.admin); got != "Node is not running!\n" {
		t.Error(got)
	}
}
