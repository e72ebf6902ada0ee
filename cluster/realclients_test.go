package cluster_test

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
)

// clientResult is what a client program says of one scenario.
type clientResult struct {
	Client, Version, Scenario, Result, Detail string
}

// clientLine is one line of a client program's output: a result, or something to be done to the cluster.
type clientLine struct {
	clientResult
	Ask     string `json:"ask"`
	Gateway int    `json:"gateway"`
}

// clientSite is a cluster of processes that a client program drives and breaks.
type clientSite struct {
	*site
	gateways []*gatewayProc
}

func newClientSite(t *testing.T, env ...string) *clientSite {
	t.Helper()
	s := &clientSite{site: newSite(t)}
	s.env = env
	s.topicserver("ts-a")
	s.topicserver("ts-b")
	for range 2 {
		s.add()
	}
	return s
}

func (s *clientSite) add() *gatewayProc {
	s.t.Helper()
	g := s.gateway(fmt.Sprintf("GATEWAY_ID=ws%d", len(s.gateways)+1), "LONGPOLL_SECRET=the same secret on all of the gateways", "API_OPEN=true")
	s.gateways = append(s.gateways, g)
	return g
}

// Unmodified client libraries, driven by a program each, against two gateways.
func TestRealClients(t *testing.T) {
	scripts := needNode(t)
	s, patient := newClientSite(t, "PRESENCE_GRACE=500ms"), newClientSite(t, "PRESENCE_GRACE=1m")
	urls := []string{s.gateways[0].url(), s.gateways[1].url()}
	var all []clientResult
	ran := 0
	play := func(name string, args ...string) {
		t.Run(name, func(t *testing.T) {
			all = append(all, s.drive(t, nil, append(args, urls...)...)...)
			ran++
		})
	}
	both := urls
	for _, p := range clientPrograms {
		urls = both
		if p[0] == "presence.mjs" || p[0] == "realtime.mjs" {
			urls = slices.Concat(both, []string{patient.gateways[0].url(), patient.gateways[1].url()})
		}
		play(strings.Join(p, " "), append([]string{"node", filepath.Join(scripts, "clients", p[0])}, p[1:]...)...)
	}
	urls = both
	play("phxclient", program(t, "phxclient"))
	report(t, "realclients.txt", all)
	if !t.Failed() && ran == len(clientPrograms)+1 { // a run of some says nothing about the table
		checkREADME(t, matrix(all))
	}
}

// clientPrograms are the Node programs that drive client libraries, with what each is to drive.
var clientPrograms = [][]string{
	{"phoenix.mjs", "1.3"}, {"phoenix.mjs", "1.4"}, {"phoenix.mjs", "1.5"}, {"phoenix.mjs", "1.6"}, {"phoenix.mjs", "1.7"}, {"phoenix.mjs", "1.8"},
	{"longpoll.mjs", "1.3"}, {"longpoll.mjs", "1.4"}, {"longpoll.mjs", "1.5"}, {"longpoll.mjs", "1.6"}, {"longpoll.mjs", "1.7"}, {"longpoll.mjs", "1.8"},
	{"presence.mjs", "1.3"}, {"presence.mjs", "1.4"}, {"presence.mjs", "1.5"}, {"presence.mjs", "1.6"}, {"presence.mjs", "1.7"}, {"presence.mjs", "1.8"},
	{"realtime.mjs"},
}

var updateREADME = flag.Bool("update-readme", false, "rewrite the table of tested clients in README.md")

const matrixBegin, matrixEnd = "<!-- what TestRealClients has seen work; -update-readme rewrites it -->\n", "<!-- end -->\n"

// matrix returns the results as a table for people: a line for each scenario, a column for each version.
func matrix(results []clientResult) string {
	var versions, scenarios []string
	cells := map[string]string{}
	for _, r := range results {
		version := r.Client + " " + r.Version
		if !slices.Contains(versions, version) {
			versions = append(versions, version)
		}
		if !slices.Contains(scenarios, r.Scenario) {
			scenarios = append(scenarios, r.Scenario)
		}
		cells[version+r.Scenario] = map[string]string{"ok": "yes", "n/a": "–"}[r.Result]
	}
	var b strings.Builder
	b.WriteString("| | " + strings.Join(versions, " | ") + " |\n|---" + strings.Repeat("|---", len(versions)) + "|\n")
	for _, scenario := range scenarios {
		b.WriteString("| " + scenario)
		for _, version := range versions {
			b.WriteString(" | " + cells[version+scenario])
		}
		b.WriteString(" |\n")
	}
	return b.String()
}

// checkREADME holds README.md's table against what has been seen.
func checkREADME(t *testing.T, want string) {
	t.Helper()
	const path = "../README.md"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(data), matrixBegin)
	got, after, ends := strings.Cut(rest, matrixEnd)
	switch {
	case !found || !ends:
		t.Errorf("README.md has no table between %q and %q", matrixBegin, matrixEnd)
	case got != want && *updateREADME:
		if err := os.WriteFile(path, []byte(before+matrixBegin+want+matrixEnd+after), 0o600); err != nil {
			t.Error(err)
		}
	case got != want:
		t.Errorf("README.md's table of clients is not what was seen (rewrite it with -update-readme):\n%s\nwant:\n%s", got, want)
	}
}

func TestMatrix(t *testing.T) {
	got := matrix([]clientResult{
		{"a", "1", "join", "ok", ""}, {"a", "1", "fly", "n/a", "later"}, {"a", "2", "join", "ok", ""}, {"a", "2", "fly", "ok", ""}, {"b", "9", "swim", "ok", ""},
	})
	want := "| | a 1 | a 2 | b 9 |\n|---|---|---|---|\n| join | yes | yes |  |\n| fly | – | yes |  |\n| swim |  |  | yes |\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// drive runs a client program, does to the cluster what it asks for, and fails the test for each scenario that failed.
func (s *clientSite) drive(t *testing.T, env []string, args ...string) []clientResult {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = dieWithParent()
	var stderr output
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var results []clientResult
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		var line clientLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatalf("%v in the output line %s", err, lines.Text())
		}
		if line.Ask != "" {
			s.do(t, stdin, line)
			continue
		}
		results = append(results, line.clientResult)
		say := t.Errorf
		if line.Result == "ok" || line.Result == "n/a" {
			say = t.Logf
		}
		say("%s %s, %s: %s %s", line.Client, line.Version, line.Scenario, line.Result, line.Detail)
	}
	if err := cmd.Wait(); err != nil || lines.Err() != nil {
		t.Errorf("%v: %v %v", args, err, lines.Err())
	}
	if len(results) == 0 || t.Failed() {
		t.Errorf("%d results; stderr:\n%s", len(results), stderr.String())
	}
	return results
}

// do does to the cluster what a program asks for, and answers it with the gateway's URL.
func (s *clientSite) do(t *testing.T, answer io.Writer, line clientLine) {
	t.Helper()
	if line.Gateway < 0 || line.Gateway >= len(s.gateways) {
		t.Fatalf("asked for gateway %d of %d", line.Gateway, len(s.gateways))
	}
	g := s.gateways[line.Gateway]
	switch line.Ask {
	case "kill":
		g.kill()
	case "term":
		g.signal(syscall.SIGTERM)
		g.exits(0)
	case "start":
		g.start(s.t)
	case "add":
		g = s.add()
	default:
		t.Fatalf("asked for %q", line.Ask)
	}
	if err := json.NewEncoder(answer).Encode(map[string]string{"url": g.url()}); err != nil {
		t.Fatal(err)
	}
}

// report logs the results as a table, and leaves it in the directory for what tests make.
func report(t *testing.T, name string, results []clientResult) {
	t.Helper()
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "client\tversion\tscenario\tresult")
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Client, r.Version, r.Scenario, r.Result)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", text.String())
	if err := os.WriteFile(filepath.Join(artefacts(t), name), []byte(text.String()), 0o644); err != nil {
		t.Error(err)
	}
}

// artefacts returns the directory for what tests make for people to look at. It is not checked in.
func artefacts(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../artefacts")
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// needNode returns the scripts directory, whose Node packages are installed then. It skips the test without node and npm.
func needNode(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"node", "npm"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not installed: no client library has been tried", name)
		}
	}
	dir, err := installed()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// installed returns the scripts directory after it has brought node_modules up to the lock file.
var installed = sync.OnceValues(func() (string, error) {
	dir, err := filepath.Abs("../scripts")
	if err != nil {
		return "", err
	}
	missing, err := missingPackage(dir)
	if err != nil || missing == "" {
		return dir, err
	}
	out, err := exec.Command("npm", "ci", "--prefix", dir, "--no-audit", "--no-fund").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s is missing and npm ci failed: %w\n%s", missing, err, out)
	}
	return dir, nil
})

// missingPackage returns a package of the lock file that node_modules lacks or has in another version, "" if there is
// none. Optional ones, which are for other platforms, do not count.
func missingPackage(dir string) (string, error) {
	type lock struct {
		Packages map[string]struct {
			Version  string
			Optional bool
		}
	}
	var want lock
	data, err := os.ReadFile(filepath.Join(dir, "package-lock.json"))
	if err == nil {
		err = json.Unmarshal(data, &want)
	}
	if err != nil {
		return "", err
	}
	for path, p := range want.Packages {
		if path != "" && !p.Optional && packageVersion(filepath.Join(dir, path)) != p.Version {
			return path, nil
		}
	}
	return "", nil
}

// packageVersion returns the version of an installed package, "" if it is not there or broken.
func packageVersion(dir string) string {
	var have struct{ Version string }
	data, err := os.ReadFile(filepath.Join(dir, "package.json"))
	if err != nil || json.Unmarshal(data, &have) != nil {
		return ""
	}
	return have.Version
}

func TestMissingPackage(t *testing.T) {
	dir := t.TempDir()
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(when, want string) {
		t.Helper()
		if got, err := missingPackage(dir); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", when, got, err, want)
		}
	}
	if _, err := missingPackage(dir); err == nil {
		t.Error("no error without a lock file")
	}
	write("package-lock.json", `{"packages": {"": {"name": "x"}, "node_modules/a": {"version": "1.2.3"},
		"node_modules/for-others": {"version": "1.0.0", "optional": true}}}`)
	expect("nothing installed", "node_modules/a")
	write("node_modules/a/package.json", `{"version": "1.2.2"}`)
	expect("an older version", "node_modules/a")
	write("node_modules/a/package.json", `{`)
	expect("a broken package", "node_modules/a")
	write("node_modules/a/package.json", `{"version": "1.2.3"}`)
	expect("all is there", "")
}
