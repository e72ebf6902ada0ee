package ops

import (
	"regexp"
	"strings"
	"testing"
)

// Each bound of the operations page names metrics that nodes have, variables that the README has, and tests that fill it.
func TestBoundsAreShownAndTested(t *testing.T) {
	t.Parallel()
	page := string(read(t, "docs/operations.md"))
	_, section, _ := strings.Cut(page, "\n### Bounds\n")
	section, _, _ = strings.Cut(section, "\n## ")
	rows := regexp.MustCompile(`(?m)^\| .* \|$`).FindAllString(section, -1)
	if len(rows) < 30 {
		t.Fatalf("only %d rows", len(rows))
	}
	real, tests, readme := realSeries(t), allTests(t), string(read(t, "README.md"))
	for _, row := range rows[1:] {
		cells := strings.Split(strings.Trim(row, "| "), " | ")
		if len(cells) != 5 {
			t.Errorf("%d cells: %s", len(cells), row)
			continue
		}
		where, bound, metrics, filled := cells[0], cells[1], quoted(cells[3]), quoted(cells[4])
		for _, variable := range quoted(bound) {
			if !strings.Contains(readme, "`"+variable+"`") {
				t.Errorf("%s: README has no %s", where, variable)
			}
		}
		for _, name := range metrics {
			if _, ok := real[name]; !ok {
				t.Errorf("%s: no node has a metric %s", where, name)
			}
		}
		for _, name := range filled {
			if !strings.Contains(tests, "\nfunc "+name+"(") {
				t.Errorf("%s: %s is no test", where, name)
			}
		}
		if len(metrics) == 0 && cells[3] != "the same" {
			t.Errorf("%s: nothing shows it", where)
		}
		if len(filled) == 0 {
			t.Errorf("%s: no test fills it", where)
		}
	}
}

// quoted returns what stands in back-quotes.
func quoted(text string) (names []string) {
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	return names
}
