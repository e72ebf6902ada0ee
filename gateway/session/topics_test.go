package session

import (
	"regexp"
	"strings"
	"testing"
)

func TestParseTopics(t *testing.T) {
	for _, tt := range []struct{ list, problem string }{
		{"*:*", ""},
		{"topics:*", ""},
		{" room:* , lobby,a.b-c_d:e:*", ""},
		{"", `pattern "": want *:*, prefix:* or a topic`},
		{"room:*,", `pattern "": want *:*, prefix:* or a topic`},
		{"*", `pattern "*": want *:*, prefix:* or a topic`},
		{"room*", `pattern "room*": want *:*, prefix:* or a topic`},
		{":*", `pattern ":*": want *:*, prefix:* or a topic`},
		{"a:*:*", `pattern "a:*:*": want *:*, prefix:* or a topic`},
		{"röm:*", `pattern "röm:*": want *:*, prefix:* or a topic`},
		{"a b", `pattern "a b": want *:*, prefix:* or a topic`},
		{"phoenix", `pattern "phoenix": reserved`},
		{"reg:*", `pattern "reg:*": reserved`},
		{strings.Repeat("x", 256), `pattern "` + strings.Repeat("x", 32) + `"…: 256 bytes, at most 255 are allowed`},
		{"*,ok:*,:", "pattern \"*\": want *:*, prefix:* or a topic"},
		{"?,ok:*,!", "pattern \"?\": want *:*, prefix:* or a topic\npattern \"!\": want *:*, prefix:* or a topic"},
	} {
		_, err := ParseTopics(tt.list)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != tt.problem {
			t.Errorf("%q: got %q, want %q", tt.list, got, tt.problem)
		}
	}
}

func TestJudge(t *testing.T) {
	const characters = "invalid topic: only ASCII letters, digits and _ . : - are allowed"
	x := func(n int) string { return strings.Repeat("x", n) }
	for _, tt := range []struct {
		patterns, topic string
		want            verdict
		text            string
	}{
		{"*:*", "room:a", served, ""},
		{"*:*", "room:a:b", served, ""},
		{"*:*", "A_1.b-c:d", served, ""},
		{"*:*", "room", unmatched, ""},
		{"*:*", "room:", unmatched, ""},
		{"*:*", ":a", unmatched, ""},
		{"*:*", ":", unmatched, ""},
		{"*:*", "", invalid, "invalid topic: empty"},
		{"*:*", "a:" + x(253), served, ""},
		{"*:*", "a:" + x(254), invalid, "invalid topic: 256 bytes, at most 255 are allowed"},
		{"*:*", "a:b c", invalid, characters},
		{"*:*", "a:ü", invalid, characters},
		{"*:*", "a:\x00", invalid, characters},
		{"*:*", "a:\n", invalid, characters},
		{"*:*", "a:*", invalid, characters},
		{"*:*", "phoenix", invalid, "invalid topic: reserved"},
		{"*:*", "reg:a", invalid, "invalid topic: reserved"},
		{"*:*", "phoenix:a", served, ""},

		{"room:*,lobby", "room:a", served, ""},
		{"room:*,lobby", "room:a:b", served, ""},
		{"room:*,lobby", "lobby", served, ""},
		{"room:*,lobby", "lobby:a", unmatched, ""},
		{"room:*,lobby", "room:", unmatched, ""},
		{"room:*,lobby", "room", unmatched, ""},
		{"room:*,lobby", "rooms:a", unmatched, ""},
		{"room:*,lobby", "topics:a", unmatched, ""},
		{"room:*,lobby", "topics:!", invalid, characters},

		{"topics:*", "topics:ab", served, ""},
		{"topics:*", "topics:" + x(64), served, ""},
		{"topics:*", "topics:", invalidSeedName, seedNameError},
		{"topics:*", "topics:a", invalidSeedName, seedNameError},
		{"topics:*", "topics:" + x(65), invalidSeedName, seedNameError},
		{"topics:*", "topics:" + x(300), invalidSeedName, seedNameError},
		{"topics:*", "topics:a-b", invalidSeedName, seedNameError},
		{"topics:*", "topics:a b", invalidSeedName, seedNameError},
		{"topics:*", "topics:üü", invalidSeedName, seedNameError},
		{"topics:*", "topics", unmatched, ""},
		{"topics:*", "room:a", unmatched, ""},
		{"*:*", "topics:a", invalidSeedName, seedNameError},
		{"topics:ab", "topics:ab", served, ""},
		{"topics:ab", "topics:cd", unmatched, ""},
	} {
		topics, err := ParseTopics(tt.patterns)
		if err != nil {
			t.Fatal(err)
		}
		if got, text := topics.judge(tt.topic); got != tt.want || text != tt.text {
			t.Errorf("%q under %q: got %d %q, want %d %q", tt.topic, tt.patterns, got, text, tt.want, tt.text)
		}
	}
}

// Whatever a client names, it joins only a topic that the patterns and the rules for names allow.
func FuzzJudge(f *testing.F) {
	for _, seed := range []string{"room:a", "topics:ab", "topics:a", "topics:a-b", "phoenix", "reg:a", "", ":", "a:\x00", "lobby", "x:\xff"} {
		f.Add(seed)
	}
	topics, err := ParseTopics("*:*,lobby")
	if err != nil {
		f.Fatal(err)
	}
	wanted := regexp.MustCompile(`^([A-Za-z0-9_.-][A-Za-z0-9_.:-]*:[A-Za-z0-9_.:-]+|[A-Za-z0-9_.-]+:[A-Za-z0-9_.:-]+|lobby)$`)
	unwanted := regexp.MustCompile(`^(reg:|topics:(.|.{65,}|.*[^A-Za-z0-9].*)$)`)
	f.Fuzz(func(t *testing.T, topic string) {
		want := wanted.MatchString(topic) && !unwanted.MatchString(topic) && len(topic) <= MaxTopicBytes
		v, text := topics.judge(topic)
		if (v == served) != want {
			t.Errorf("%q: verdict %d, want served: %v", topic, v, want)
		}
		if (text == "") != (v == served || v == unmatched) {
			t.Errorf("%q: verdict %d with the text %q", topic, v, text)
		}
	})
}
