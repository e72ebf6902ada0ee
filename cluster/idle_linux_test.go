package cluster_test

import (
	"regexp"
	"strconv"
	"testing"
)

// What an idle connection that has joined costs a gateway in its own memory, the kernel's not counted: at most 8 KiB. What
// it costs to the byte is a matter of `ringcast bench idle`.
func TestG10_AnIdleConnectionIsSmall(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.topicserver("ts-a")
	s.topicserver("ts-b")
	gw := s.gateway()
	gw.ready()
	topic := s.topicOf("ts-a", 0)
	inUse := func() (sum float64) {
		t.Helper()
		for range 2 { // what the first collection frees may keep more alive until the second
			if status, body := fetch(gw.admin, "/debug/pprof/heap?gc=1"); status != 200 {
				t.Fatalf("heap profile: %d %s", status, body)
			}
		}
		_, text := fetch(gw.admin, "/metrics")
		for _, name := range []string{"go_memstats_heap_inuse_bytes", "go_memstats_stack_inuse_bytes"} {
			m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(text)
			if m == nil {
				t.Fatalf("no metric %s", name)
			}
			n, err := strconv.ParseFloat(m[1], 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += n
		}
		return sum
	}
	const warm, conns = 50, 500
	join := func(n int) {
		for range n {
			c := dialRaw(t, gw.addr)
			c.say(`["1","1","` + topic + `","phx_join",{}]`)
			c.expect(`["1","1","` + topic + `","phx_reply",{"response":{},"status":"ok"}]`)
		}
	}
	join(warm)
	before := inUse()
	join(conns)
	each := (inUse() - before) / conns
	t.Logf("%.1f KiB for each of %d connections", each/1024, conns)
	if each > 8<<10 {
		t.Errorf("an idle connection takes %.1f KiB, want at most 8", each/1024)
	}
}
