package codec

import (
	"strings"
	"testing"
)

func TestPlain(t *testing.T) {
	deep := strings.Repeat(`{"a":`, MaxDepth+1) + "1" + strings.Repeat("}", MaxDepth+1)
	for _, tt := range []struct{ text, payload string }{
		{`{"a":1}`, `{"a":1}`},
		{" {\"a\" : 1}\n", " {\"a\" : 1}\n"},
		{`hello`, `"hello"`},
		{`say "hi"` + "\n\x00\x1f\\ é €", `"say \"hi\"\n\u0000\u001f\\ é €"`},
		{``, `""`},
		{`"quoted"`, `"\"quoted\""`},
		{`[1,2]`, `"[1,2]"`},
		{`42`, `"42"`},
		{`{"a":1} `, `{"a":1} `},
		{`{"a":1`, `"{\"a\":1"`},
		{`{"a":1}{}`, `"{\"a\":1}{}"`},
		{deep, quoted(deep)},
	} {
		f, err := ForKind(Plain).Decode([]byte(tt.text), false)
		if err != nil || string(f.Payload) != tt.payload || f.Binary {
			t.Errorf("%q: %+v, %v", tt.text, f, err)
		}
		if got := pushAs(Plain, Ref(`"1"`), Ref(`"2:3"`), Push{Topic: "ws:x", Event: "message", Payload: f.Payload}); got != tt.text {
			t.Errorf("%q comes back as %q", tt.text, got)
		}
	}
	f, err := ForKind(Plain).Decode([]byte("{}\xff\x00"), true)
	if err != nil || !f.Binary || pushAs(Plain, nil, nil, Push{Payload: f.Payload, Binary: true}) != "{}\xff\x00" {
		t.Errorf("binary: %+v, %v", f, err)
	}
	if got := pushAs(Plain, nil, nil, Push{Topic: "a:b", Event: "e"}); got != "{}" {
		t.Errorf("empty payload: %q", got)
	}
}

// quoted is s as a JSON string.
func quoted(s string) string { return string(AppendString(nil, s)) }

// Every text comes back as it was, and what the topic carries in between is JSON.
func FuzzPlain(f *testing.F) {
	for _, seed := range []string{"", "hello", `{"a":1}`, `"`, "\\u0000", "\u2028", `{"a":"\ud800"}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.ToValidUTF8(text, "") != text {
			return // no WebSocket text
		}
		frame, err := ForKind(Plain).Decode([]byte(text), false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseValue(frame.Payload); err != nil {
			t.Fatalf("%q is carried as %q: %v", text, frame.Payload, err)
		}
		if got := pushAs(Plain, nil, nil, Push{Payload: frame.Payload}); got != text {
			t.Fatalf("%q comes back as %q", text, got)
		}
	})
}
