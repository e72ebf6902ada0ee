package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestPrinterEscapesWhatATerminalObeys(t *testing.T) {
	for text, want := range map[string]string{
		"plain, ä 日本 🙂\tand\n":  "plain, ä 日本 🙂\tand\n",
		"\x1b]0;owned\a\x1b[2J": `\u001b]0;owned\u0007\u001b[2J`,
		"\u009b2J\u202eabc":     `\u009b2J\u202eabc`,
		"\x9b\xff\ufffd":        `\ufffd\ufffd` + "\ufffd",
		"a\rb\x7f\U000e0041":    `a\u000db\u007f\udb40\udc41`,
	} {
		var out bytes.Buffer
		if n, err := fmt.Fprint(printer{&out}, text); n != len(text) || err != nil || out.String() != want {
			t.Errorf("%q is printed as %q, %d, %v; want %q", text, out.String(), n, err, want)
		}
	}
	// JSON says the same as before.
	const text = "\u009b \u202e \U000e0041 \x1b"
	var out bytes.Buffer
	var got string
	if err := json.NewEncoder(printer{&out}).Encode(text); err != nil || json.Unmarshal(out.Bytes(), &got) != nil || got != text {
		t.Errorf("%q became %q: %v", text, got, err)
	}
}

// A node that says it has a name of control sequences does not get them to the terminal.
func TestStatusOfAHostileNode(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"version":"\u001b[2J","ring":{"version":1,"id":"\u001b]0;owned\u0007\u001b[2J","role":"gateway\u009b"}}`)
	}))
	defer s.Close()
	var out bytes.Buffer
	err := run(t.Context(), printer{&out}, []string{"status", s.URL})
	if got := out.String() + fmt.Sprint(err); !strings.Contains(got, `\u001b]0;owned\u0007`) || strings.ContainsAny(got, "\x1b\a\u009b") {
		t.Errorf("printed %q", got)
	}
}
