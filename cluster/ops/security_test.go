package ops

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// allTests returns the text of all tests of the project.
func allTests(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, module := range []string{"cluster", "gateway", "shared", "topicserver"} {
		err := filepath.WalkDir(filepath.Join("..", "..", module), func(path string, _ os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			data, err := os.ReadFile(path)
			all.Write(data)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}

// The tests that the page on security names are there. A name that ends in … stands for all that begin so.
func TestSecurityPageNamesTestsThatExist(t *testing.T) {
	t.Parallel()
	all := allTests(t)
	names := regexp.MustCompile("`((?:Test|Fuzz)\\w*)(…?)`").FindAllStringSubmatch(string(read(t, "docs/security.md")), -1)
	if len(names) < 20 {
		t.Errorf("only %d tests are named", len(names))
	}
	for _, name := range names {
		want := "\nfunc " + name[1]
		if name[2] == "" {
			want += "("
		}
		if !strings.Contains(all, want) {
			t.Errorf("docs/security.md names %s%s, which is no test", name[1], name[2])
		}
	}
}
