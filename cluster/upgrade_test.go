package cluster_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ringcast/ringcast/shared/ring"
)

// oldCommit is the build that the present one is mixed with: of the release whose messages are in
// proto/compat/testdata/1.txt.
const oldCommit = "63d427b493ccfbcd93fe37ffff790a3f26fa8828"

// errNoHistory says that the old build cannot be made here.
var errNoHistory = errors.New("the repository's history is not here")

// oldSources unpacks the old sources once.
var oldSources = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(binaries.dir, "old-sources")
	if err := exec.Command("git", "cat-file", "-e", oldCommit+"^{commit}").Run(); err != nil {
		return "", fmt.Errorf("%w: commit %.8s: %w", errNoHistory, oldCommit, err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	top, err := exec.Command("git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		return "", err
	}
	tar := filepath.Join(binaries.dir, "old.tar")
	archive := exec.Command("git", "archive", "-o", tar, oldCommit)
	archive.Dir = strings.TrimSpace(string(top))
	if out, err := archive.CombinedOutput(); err != nil {
		return "", fmt.Errorf("git archive: %w\n%s", err, out)
	}
	if out, err := exec.Command("tar", "-x", "-f", tar, "-C", dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("tar: %w\n%s", err, out)
	}
	return dir, nil
})

// buildOld builds a service of the old build, without the race detector.
func buildOld(service string) (string, error) {
	dir, err := oldSources()
	if err != nil {
		return "", err
	}
	path := filepath.Join(binaries.dir, "old-"+service)
	cmd := exec.Command("go", "build", "-o", path, "./cmd/"+service)
	cmd.Dir, cmd.Env = filepath.Join(dir, service), append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the old %s: %w\n%s", service, err, out)
	}
	return path, nil
}

// Old and new gateways and topic servers are one cluster, in every combination, while the ring changes from old servers
// to new ones and back: no publish fails, and nobody misses a message, hears one twice, or has to join again. That is what
// a roll-out, and its way back, looks like to clients.
func TestUpgrade_OldAndNewBuildsAreOneCluster(t *testing.T) {
	if _, err := oldSources(); errors.Is(err, errNoHistory) {
		t.Skipf("OLD AND NEW BUILDS HAVE NOT BEEN TRIED TOGETHER: %v", err)
	}
	t.Parallel()
	s := newSite(t)
	a, b := s.topicserverOf("old-topicserver", "ts-a"), s.topicserver("ts-b")
	old, present := s.gatewayOf("old-gateway", "GATEWAY_ID=gw-old"), s.gateway("GATEWAY_ID=gw-new")
	old.ready()
	present.ready()
	var topics []string
	for i := range 4 {
		topics = append(topics, s.topicOf("ts-a", i), s.topicOf("ts-b", i))
	}
	listeners := []*listener{listenTo(t, "on old", old.url(), topics...), listenTo(t, "on new", present.url(), topics...)}
	var publishers []*publisher
	for i, topic := range topics {
		publishers = append(publishers, publish(t, []string{old.url(), present.url()}[i/2%2], topic))
	}
	more := func() {
		t.Helper()
		for _, p := range publishers {
			p.more(t, 20)
		}
	}
	more()
	gateways := []string{old.admin, present.admin}
	edit := func(change func(path string) (*ring.Ring, error), servers ...string) {
		t.Helper()
		s.edit(change, append(servers, gateways...)...)
		more()
		check := spawn(t, "ringcast", nil, append([]string{"ring", "ready"}, append(servers, gateways...)...)...)
		eventually(t, "all nodes agree", func() bool {
			if strings.HasPrefix(check.stdout.String(), "TRUE") {
				return true
			}
			<-check.ended
			check = spawn(t, "ringcast", nil, append([]string{"ring", "ready"}, append(servers, gateways...)...)...)
			<-check.ended
			return false
		})
	}
	add := func(id string) func(string) (*ring.Ring, error) {
		addr := freeAddr(t)
		return func(path string) (*ring.Ring, error) {
			return ring.Add(path, ring.Server{ID: id, Addr: addr, Weight: 1})
		}
	}
	without := func(id string) func(string) (*ring.Ring, error) {
		return func(path string) (*ring.Ring, error) { return ring.Remove(path, id, false) }
	}
	edit(without("ts-a"), b.admin) // from old to new
	moved := func(admin string) {
		t.Helper()
		if metric(admin, `ringcast_topic_handovers_total{outcome="taken"}`)+metric(admin, `ringcast_topic_handovers_total`) < 1 {
			t.Errorf("no topic went over to the server at %s", admin)
		}
	}
	moved(b.admin)
	a.signal(syscall.SIGTERM)
	a.exits(0)
	s.edit(add("ts-c"), b.admin, old.admin, present.admin)
	c := s.topicserverOf("old-topicserver", "ts-c") // and back
	s.uses(s.ring.Version(), c.admin)
	more()
	edit(without("ts-b"), c.admin)
	moved(c.admin)
	b.signal(syscall.SIGTERM)
	b.exits(0)
	more()
	for i, topic := range topics {
		last := publishers[i].stop()
		for _, l := range listeners {
			l.hears(t, topic, last)
			l.check(t, topic, 1, last, 0)
		}
	}
}
