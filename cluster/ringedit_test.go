package cluster_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/ringcast/ringcast/shared/ring"
)

// edit changes the site's ring file and waits until the nodes behind the admin addresses use it.
func (s *site) edit(change func(path string) (*ring.Ring, error), admins ...string) {
	s.t.Helper()
	next, err := change(s.ringFile)
	if err != nil {
		s.t.Fatal(err)
	}
	s.ring = next
	s.uses(next.Version(), admins...)
}

// uses waits until the nodes use a version of the ring.
func (s *site) uses(version uint64, admins ...string) {
	s.t.Helper()
	for _, admin := range admins {
		eventually(s.t, fmt.Sprintf("node at %s uses ring v%d", admin, version), func() bool {
			_, text := fetch(admin, "/metrics")
			return strings.Contains(text, fmt.Sprintf("_ring_version %d\n", version))
		})
	}
}

// Servers come and go while a publisher on each of many topics publishes and clients on both gateways listen: no
// publish fails, nobody misses a message, hears one twice or out of order, or has to join again.
func TestRingEdit_NothingIsLostWhilePublishing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b := s.topicserver("ts-a"), s.topicserver("ts-b")
	gw1, gw2 := s.gateway("GATEWAY_ID=gw-1"), s.gateway("GATEWAY_ID=gw-2")
	gw1.ready()
	gw2.ready()
	var topics []string
	for i := range 8 {
		topics = append(topics, fmt.Sprintf("room:%d", i))
	}
	first, second := listenTo(t, "first", gw1.url(), topics...), listenTo(t, "second", gw2.url(), topics...)
	var publishers []*publisher
	for i, topic := range topics {
		publishers = append(publishers, publish(t, []string{gw1.url(), gw2.url()}[i%2], topic))
	}
	more := func() {
		for _, p := range publishers {
			p.more(t, 50)
		}
	}
	more()

	addr := freeAddr(t)
	s.edit(func(path string) (*ring.Ring, error) {
		return ring.Add(path, ring.Server{ID: "ts-c", Addr: addr, Weight: 1})
	})
	c := s.topicserver("ts-c")
	s.uses(2, a.admin, b.admin, c.admin, gw1.admin, gw2.admin)
	more()
	s.edit(func(path string) (*ring.Ring, error) { return ring.Remove(path, "ts-a", false) }, b.admin, c.admin, gw1.admin, gw2.admin)
	more()
	check := spawn(t, "ringcast", nil, "ring", "ready", b.admin, c.admin, gw1.admin, gw2.admin, a.admin)
	check.prints("TRUE All nodes agree on the ring [ts-b, ts-c] v3")
	check.exits(0)
	a.signal(syscall.SIGTERM)
	a.exits(0)
	more()
	check = spawn(t, "ringcast", nil, "ring", "ready", b.admin, a.admin)
	check.prints("FALSE [" + a.admin)
	check.exits(1)

	// Or else nothing was tested.
	for admin, series := range map[string]string{
		c.admin: `ringcast_topic_handovers_total{outcome="taken"}`, b.admin: `ringcast_topic_handovers_total{outcome="taken"}`,
		gw1.admin: "ringcast_gateway_moves_total",
	} {
		if _, text := fetch(admin, "/metrics"); !strings.Contains(text, "\n"+series+" ") || strings.Contains(text, "\n"+series+" 0\n") {
			t.Errorf("node at %s: %s is 0: no topic has moved", admin, series)
		}
	}
	for i, topic := range topics {
		last := publishers[i].stop()
		for _, l := range []*listener{first, second} {
			l.hears(t, topic, last)
			l.check(t, topic, 1, last, 0)
		}
	}
}
