package cluster_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/ringcast/ringcast/"

// importRule forbids packages to others, however many imports lie between. A path that ends in /... means everything
// below it, too.
type importRule struct {
	from   string
	except []string // packages of from that the rule leaves alone
	not    []string
	why    string
}

var importRules = []importRule{
	{
		from: module + "gateway/...", not: []string{module + "topicserver/..."},
		why: "a gateway and a topic server meet on the wire only, so that each can be rolled out without the other",
	},
	{
		from: module + "topicserver/...", not: []string{module + "gateway/..."},
		why: "a topic server knows gateways by their links only, whatever their clients speak",
	},
	{
		from: module + "topicserver/...",
		not:  []string{"github.com/gofiber/...", "github.com/valyala/fasthttp/...", "github.com/fasthttp/..."},
		why:  "a topic server serves no clients, and so no HTTP but its operators'",
	},
	{
		from: module + "client/...",
		not: []string{
			module + "gateway/...", module + "topicserver/...", module + "shared/...", module + "proto/...", module + "cluster/...",
		},
		why: "users go get the client alone: it speaks the public protocol and has no part of the service in it",
	},
	{
		from: module + "client/...",
		not: []string{
			"github.com/gofiber/...", "github.com/valyala/fasthttp/...", "github.com/fasthttp/...", "storj.io/drpc/...", "go.uber.org/zap/...",
		},
		why: "what the service is built of must not end up in the programs of its users",
	},
	{
		from: module + "proto/...", not: []string{module + "..."}, except: []string{module + "proto/..."},
		why: "the wire formats are what everything else stands on",
	},
	{
		from: module + "shared/...",
		not:  []string{module + "gateway/...", module + "topicserver/...", module + "client/...", module + "cluster/..."},
		why:  "what both services share knows neither",
	},
	{
		from: module + "gateway/hub/...", not: []string{module + "gateway/router/...", module + "gateway/session/..."},
		why: "a hub delivers what it is given: where messages come from and whom they reach is for others to know",
	},
	{
		from: module + "gateway/router/...", not: []string{module + "gateway/session/..."},
		why: "sessions call the router; it answers through what they handed in, so that neither waits for the other",
	},
	{
		from: module + "gateway/socket/...",
		not:  []string{module + "gateway/hub/...", module + "gateway/router/...", module + "gateway/session/..."},
		why:  "the event loops carry frames of any protocol",
	},
	{
		from: module + "topicserver/topic/...", not: []string{module + "topicserver"},
		why: "topics know lanes to append to, and nothing of who accepts them",
	},
}

// matches tells whether a pattern means a package.
func matches(pattern, pkg string) bool {
	root, below := strings.CutSuffix(pattern, "/...")
	return pkg == root || below && strings.HasPrefix(pkg, root+"/")
}

func matchesAny(patterns []string, pkg string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, pkg) })
}

// breaches returns what breaks the rule. deps has, for each package of this project, all that it imports, directly or not.
func (r *importRule) breaches(deps map[string][]string) (found []string) {
	applied := false
	for pkg, imported := range deps {
		if !matches(r.from, pkg) {
			continue
		}
		applied = true
		for _, dep := range imported {
			if matchesAny(r.not, dep) && !matchesAny(r.except, dep) {
				found = append(found, fmt.Sprintf("%s imports %s", pkg, dep))
			}
		}
	}
	if !applied {
		found = append(found, r.from+" matches no package: is this rule about one that has moved?")
	}
	slices.Sort(found)
	return found
}

// listDeps asks go list about all packages of the project.
func listDeps(t *testing.T) map[string][]string {
	t.Helper()
	args := []string{"list", "-json=ImportPath,Deps"}
	for _, name := range []string{"client", "cluster", "gateway", "proto", "shared", "topicserver"} {
		args = append(args, module+name+"/...")
	}
	var stderr bytes.Buffer
	cmd := exec.Command("go", args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	deps := make(map[string][]string)
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var pkg struct {
			ImportPath string
			Deps       []string
		}
		err := dec.Decode(&pkg)
		if errors.Is(err, io.EOF) {
			return deps
		}
		if err != nil {
			t.Fatal(err)
		}
		deps[pkg.ImportPath] = pkg.Deps
	}
}

func TestImportsRunOneWay(t *testing.T) {
	t.Parallel()
	deps := listDeps(t)
	for _, rule := range importRules {
		for _, breach := range rule.breaches(deps) {
			t.Errorf("%s\n\tagainst the rule: %s", breach, rule.why)
		}
	}
}

// The rules can be broken.
func TestImportRulesNoticeABreach(t *testing.T) {
	deps := map[string][]string{
		"a/b":   {"fmt", "x/y", "x/y/z", "x/yz"},
		"a/b/c": {"x/y/ok", "x"},
		"ab":    {"x/y"},
	}
	for _, test := range []struct {
		rule importRule
		want []string
	}{
		{importRule{from: "a/b", not: []string{"x/y"}}, []string{"a/b imports x/y"}},
		{importRule{from: "a/b", not: []string{"x/y/..."}}, []string{"a/b imports x/y", "a/b imports x/y/z"}},
		{importRule{from: "a/...", not: []string{"x/y/..."}, except: []string{"x/y/ok/..."}}, []string{"a/b imports x/y", "a/b imports x/y/z"}},
		{importRule{from: "a/b/...", not: []string{"x", "q"}}, []string{"a/b/c imports x"}},
		{importRule{from: "a/b/...", not: []string{"q/..."}}, nil},
		{importRule{from: "a", not: []string{"x"}}, []string{"a matches no package: is this rule about one that has moved?"}},
	} {
		if got := test.rule.breaches(deps); !slices.Equal(got, test.want) {
			t.Errorf("%+v finds %q, want %q", test.rule, got, test.want)
		}
	}
}
