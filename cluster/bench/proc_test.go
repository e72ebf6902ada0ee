package bench

import (
	"strings"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	const rest = " S 1 2 3 4 5 6 7 8 9 10 250 50 7 8 20 0 12 0 100 200 300"
	for name, text := range map[string]string{
		"plain":                "42 (gateway)" + rest,
		"blank and parens":     "42 (a) b (c)" + rest,
		"looks like the state": "42 (x) S 1 2)" + rest,
	} {
		if got, err := parseStat([]byte(text)); err != nil || got != 3*time.Second {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	for name, text := range map[string]string{
		"empty":    "",
		"no name":  "42 S 1 2",
		"short":    "42 (gateway) S 1 2 3",
		"no count": strings.Replace("42 (gateway)"+rest, "250", "x", 1),
	} {
		if got, err := parseStat([]byte(text)); err == nil {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestParseRSS(t *testing.T) {
	for name, text := range map[string]string{
		"smaps_rollup": "00400000-7ffd [rollup]\nRss:                1234 kB\nPss:                 99 kB\n",
		"status":       "Name:\tgateway\nVmHWM:\t9999 kB\nVmRSS:\t    1234 kB\n",
	} {
		if got, err := parseRSS([]byte(text)); err != nil || got != 1234 {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
	for _, text := range []string{"", "Rss:\n", "VmRSS: x kB\n", "Rss: 5 MB\n"} {
		if got, err := parseRSS([]byte(text)); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

func FuzzProc(f *testing.F) {
	f.Add([]byte("42 (gateway) S 1 2 3 4 5 6 7 8 9 10 250 50 7"))
	f.Add([]byte("Rss: 1234 kB\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if d, err := parseStat(text); err != nil && d != 0 {
			t.Errorf("%s with %v", d, err)
		}
		_, _ = parseRSS(text)
	})
}

func TestQuiet(t *testing.T) {
	for _, c := range []struct {
		sums []int64
		want bool
	}{
		{nil, false},
		{[]int64{5, 5, 5, 5, 5}, false},
		{[]int64{5, 5, 5, 5, 5, 5}, true},
		{[]int64{1, 1000, 1001, 1002, 1003, 1004, 1005}, true},
		{[]int64{1000, 1001, 1002, 1003, 1004, 1006}, false},
		{[]int64{1000, 1000, 1000, 1000, 1000, 900}, false},
	} {
		if got := quiet(c.sums); got != c.want {
			t.Errorf("%v: %t", c.sums, got)
		}
	}
}
