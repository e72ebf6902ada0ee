package cluster_test

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// The page of each gateway, in a real browser: tabs on two gateways exchange lines, a gateway is killed and comes back,
// another one joins.
func TestConsole(t *testing.T) {
	scripts := needNode(t)
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed: the gateways' page has not been tried in a browser")
	}
	s := newClientSite(t)
	page := func(i int) string { return "http://" + s.gateways[i].addr + "/" }
	results := s.drive(t, []string{"CHROMIUM=" + browser}, "node", filepath.Join(scripts, "clients", "console.mjs"), artefacts(t), page(0), page(1))
	report(t, "console.txt", results)
}
