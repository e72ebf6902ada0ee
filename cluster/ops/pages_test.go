package ops

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// allTests returns the text of all tests of the project.
func allTests(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, module := range []string{"client", "cluster", "gateway", "proto", "shared", "topicserver"} {
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

// The tests that pages name are there. A name that ends in … stands for all that begin so.
func TestPagesNameTestsThatExist(t *testing.T) {
	t.Parallel()
	all := allTests(t)
	for page, least := range map[string]int{"docs/security.md": 20, "docs/compat.md": 40} {
		names := regexp.MustCompile("`((?:Test|Fuzz|Benchmark)\\w*)(…?)`").FindAllStringSubmatch(string(read(t, page)), -1)
		if len(names) < least {
			t.Errorf("only %d tests are named in %s", len(names), page)
		}
		for _, name := range names {
			want := "\nfunc " + name[1]
			if name[2] == "" {
				want += "("
			}
			if !strings.Contains(all, want) {
				t.Errorf("%s names %s%s, which is no test", page, name[1], name[2])
			}
		}
	}
}

// Every row of the lists that ringcast was built from has its place on the page, once.
func TestCompatPageHasEveryRow(t *testing.T) {
	t.Parallel()
	rows := make(map[string]int)
	for _, cell := range regexp.MustCompile(`(?m)^\| ([WGDS]\d[^|]*) \|`).FindAllStringSubmatch(string(read(t, "docs/compat.md")), -1) {
		for _, part := range strings.Split(cell[1], ", ") {
			first, last, isRange := strings.Cut(part, "–")
			if !isRange {
				last = first
			}
			from, err1 := strconv.Atoi(first[1:])
			to, err2 := strconv.Atoi(last[1:])
			if err1 != nil || err2 != nil || first[0] != last[0] {
				t.Fatalf("row %q", cell[1])
			}
			for n := from; n <= to; n++ {
				rows[fmt.Sprint(first[:1], n)]++
			}
		}
	}
	want := 0
	for _, list := range []struct {
		letter   string
		from, to int
	}{{"W", 1, 12}, {"W", 20, 33}, {"G", 1, 11}, {"D", 1, 12}, {"S", 1, 7}} {
		for n := list.from; n <= list.to; n++ {
			want++
			if id := fmt.Sprint(list.letter, n); rows[id] != 1 {
				t.Errorf("row %s is there %d times", id, rows[id])
			}
		}
	}
	if len(rows) != want {
		t.Errorf("%d rows, want %d: %v", len(rows), want, rows)
	}
}

// Every row of the page on bad input has a test that carries its number, TestRowN_… or TestRowN_M_…, and no other number has one.
func TestEveryRowOfBadInputHasATest(t *testing.T) {
	t.Parallel()
	tested := make(map[int][]string)
	for _, name := range regexp.MustCompile(`(?m)^func (TestRow(\d+(?:_\d+)*)_\w+)\(`).FindAllStringSubmatch(allTests(t), -1) {
		for number := range strings.SplitSeq(name[2], "_") {
			row, err := strconv.Atoi(number)
			if err != nil {
				t.Fatal(err)
			}
			tested[row] = append(tested[row], name[1])
		}
	}
	rows := regexp.MustCompile(`(?m)^\| (\d+) \|`).FindAllStringSubmatch(string(read(t, "docs/bad-input.md")), -1)
	if len(rows) != 44 {
		t.Errorf("%d rows", len(rows))
	}
	for i, row := range rows {
		if n, _ := strconv.Atoi(row[1]); n != i+1 || tested[n] == nil {
			t.Errorf("row %d of docs/bad-input.md, number %d, has the tests %v", i+1, n, tested[n])
		}
		delete(tested, i+1)
	}
	for n, names := range tested {
		t.Errorf("there is no row %d, but %v", n, names)
	}
}
