package cluster_test

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// The page for WEST's clients in a real browser: three formats on two gateways, a goodbye, a timeout.
func TestW31_WebPage(t *testing.T) {
	scripts := needNode(t)
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed: the page for WEST's clients has not been tried in a browser")
	}
	s := newClientSite(t)
	page := func(i int) string { return "http://" + s.gateways[i].addr + "/" }
	results := s.drive(t, []string{"CHROMIUM=" + browser}, "node", filepath.Join(scripts, "clients", "west.mjs"), page(0), page(1))
	report(t, "westpage.txt", results)
}
