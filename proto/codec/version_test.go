package codec

import (
	"regexp"
	"strings"
	"testing"
)

// Version.match?/2 of Elixir, with the requirements that Phoenix has for its serializers.
func TestForVersion(t *testing.T) {
	for vsn, want := range map[string]Kind{
		"1.0.0": PhoenixV1, "1.0.1": PhoenixV1, "1.0.17": PhoenixV1, "1.0.99999999999999999999999": PhoenixV1,
		"2.0.0": PhoenixV2, "2.0.9": PhoenixV2, "2.0.10+build": PhoenixV2,
		// Tags of a build say nothing of the order.
		"2.0.0+1": PhoenixV2, "2.0.0+a-b.007.C": PhoenixV2, "2.0.0+-": PhoenixV2,
		// A pre-release is below its release.
		"2.0.1-rc.1": PhoenixV2, "1.0.1-0": PhoenixV1, "1.0.2-a.b-c.0.D+e": PhoenixV1, "1.0.1--": PhoenixV1, "1.0.1-0a": PhoenixV1,
	} {
		if got, ok := ForVersion(vsn); !ok || got != want {
			t.Errorf("%s: got %s, %v, want %s", vsn, got, ok, want)
		}
	}
	for name, list := range map[string][]string{
		"below or above":     {"0.9.9", "0.0.0", "1.1.0", "1.2.0", "1.10.0", "2.1.0", "2.1.0-rc.1", "3.0.0", "10.0.0", "20.0.0"},
		"before the release": {"1.0.0-rc.1", "2.0.0-rc.1", "2.0.0-0", "2.0.0-rc.1+build"},
		"parts":              {"", "1", "1.0", "2.0", "1.0.0.0", "1..0", "1.0.", ".0.0", "1.0.0.", "."},
		"digits":             {"01.0.0", "1.00.0", "1.0.00", "1.0.01", "+1.0.0", "-1.0.0", "1.0.x", "1.0.1e1", "a.0.0", "1.0.٣"},
		"white space":        {" 1.0.0", "1.0.0 ", "1.0.0\n", "1. 0.0"},
		"no version":         {"v1.0.0", "latest", "~> 1.0.0", "1.0.0/", "2,0,0", "\xff", "\x00"},
		"pre-release tag":    {"1.0.1-", "1.0.1-a..b", "1.0.1-.a", "1.0.1-a.", "1.0.1-01", "1.0.1-a.00", "1.0.1-a_b", "1.0.1-é", "1.0.1-+a"},
		"build tag":          {"1.0.0+", "1.0.0+a..b", "1.0.0+a+b", "1.0.0+a_b", "1.0.0+a/", "1.0.0+a b", "1.0.0+[", "1.0.0+@", "1.0.0+:", "1.0.0+{"},
	} {
		for _, vsn := range list {
			if got, ok := ForVersion(vsn); ok {
				t.Errorf("%s: %q: got %s", name, vsn, got)
			}
		}
	}
}

// Any version parses by the grammar of semantic versioning, written out here.
func FuzzForVersion(f *testing.F) {
	for _, seed := range []string{"1.0.0", "2.0.1-rc.1+b.01", "2.0.0-a", "1.0.1-00", "1.0.0+", "2.1.0", "1.0.0.0", "\xff"} {
		f.Add(seed)
	}
	grammar := regexp.MustCompile(`\A([12])\.0\.(0|[1-9][0-9]*)` +
		`(-(?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*)?` +
		`(?:\+[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*)?\z`)
	f.Fuzz(func(t *testing.T, vsn string) {
		m := grammar.FindStringSubmatch(vsn)
		want := m != nil && (m[3] == "" || m[2] != "0")
		got, ok := ForVersion(vsn)
		if ok != want {
			t.Fatalf("%q: got %v, want %v", vsn, ok, want)
		}
		if ok && (got == PhoenixV1) != strings.HasPrefix(vsn, "1") {
			t.Errorf("%q: got %s", vsn, got)
		}
	})
}
