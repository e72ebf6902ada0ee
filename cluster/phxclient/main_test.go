package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// play plays scenarios with these answers to what they ask for, and returns what is printed.
func play(t *testing.T, answers string, scenarios func(*player) []scenario) string {
	t.Helper()
	var out strings.Builder
	p := &player{answers: bufio.NewScanner(strings.NewReader(answers)), out: json.NewEncoder(&out)}
	if err := p.run("9.9", scenarios(p)); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestAScenarioThatFailsKeepsNoOtherFromRunning(t *testing.T) {
	got := play(t, "", func(p *player) []scenario {
		return []scenario{
			{"waits", func() string {
				p.until(func() bool { return false }, func() string { return "the moon" })
				p.fail(fmt.Errorf("a later failure"))
				return "unsaid"
			}},
			{"compares", func() string { p.same("n", "1", "2"); return "" }},
			{"works", func() string { p.until(func() bool { return true }, nil); return "well" }},
		}
	})
	want := `{"client":"phx","detail":"never: the moon","result":"failed","scenario":"waits","version":"9.9"}
{"client":"phx","detail":"n: got 1, want 2","result":"failed","scenario":"compares","version":"9.9"}
{"client":"phx","detail":"well","result":"ok","scenario":"works","version":"9.9"}
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestAsk(t *testing.T) {
	got := play(t, "{}\n", func(p *player) []scenario {
		return []scenario{
			{"answered", func() string { p.ask("kill", 1); return "" }},
			{"unanswered", func() string { p.ask("start", 1); p.ask("never", 0); return "" }},
		}
	})
	want := `{"ask":"kill","gateway":1}
{"client":"phx","detail":"","result":"ok","scenario":"answered","version":"9.9"}
{"ask":"start","gateway":1}
{"client":"phx","detail":"no answer to start: EOF","result":"failed","scenario":"unanswered","version":"9.9"}
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
