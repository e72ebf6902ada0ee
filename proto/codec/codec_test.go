package codec

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

var update = flag.Bool("update", false, "rewrite the goldens in testdata")

// golden compares got with testdata/name, or writes it there with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (rewrite with -update):\n got:\n%s\nwant:\n%s", path, got, want)
	}
}

// wantError checks the text of an *Error and that it fits into a close frame.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v (%T), want an *Error", err, err)
	}
	if e.Reason != want {
		t.Errorf("error\n %s\nwant\n %s", e.Reason, want)
	}
	checkReason(t, err)
}

func checkReason(t *testing.T, err error) {
	t.Helper()
	if text := err.Error(); len(text) > 123 || !utf8.ValidString(text) {
		t.Errorf("error %q is not fit for a close frame", text)
	}
}

func decodeAs(t *testing.T, k Kind, data string, binary bool) Frame {
	t.Helper()
	f, err := ForKind(k).Decode([]byte(data), binary)
	if err != nil {
		t.Fatalf("%s: %q: %v", k, data, err)
	}
	return f
}

func pushAs(k Kind, joinRef, ref Ref, p Push) string {
	c := ForKind(k)
	return string(c.AppendBody(c.AppendHead(nil, joinRef, ref, &p), &p))
}

// show prints a frame on one line: refs and JSON as they are, texts and binary data quoted.
func show(f Frame) string {
	payload := string(f.Payload)
	if f.Binary {
		payload = fmt.Sprintf("binary %q", f.Payload)
	}
	ref := func(r Ref) string {
		if r == nil {
			return "nil"
		}
		return string(r)
	}
	return fmt.Sprintf("%s %s %q %q %s", ref(f.JoinRef), ref(f.Ref), f.Topic, f.Event, payload)
}

// wantRefused checks that a text message is refused, with that error and nothing else.
func wantRefused(t *testing.T, k Kind, data, want string) {
	t.Helper()
	f, err := ForKind(k).Decode([]byte(data), false)
	if got := show(f); got != `nil nil "" "" ` {
		t.Errorf("got %s with the error", got)
	}
	wantError(t, err, want)
}

func TestEveryKindHasACodec(t *testing.T) {
	names := map[string]bool{}
	for k := range Kind(NumKinds) {
		c := ForKind(k)
		if c == nil || c.Kind() != k {
			t.Errorf("ForKind(%d) = %v", k, c)
		}
		if name := k.String(); strings.Contains(name, "(") || names[name] {
			t.Errorf("Kind(%d) is named %q", k, name)
		} else {
			names[name] = true
		}
	}
	if got := Kind(255).String(); got != "codec(255)" {
		t.Errorf("name of no kind: %q", got)
	}
	defer func() {
		if recover() == nil {
			t.Error("ForKind of no kind did not panic")
		}
	}()
	_ = ForKind(NumKinds)
}

// A push that a codec carries comes out with its payload; one that it does not carry comes out without.
func TestKindCarries(t *testing.T) {
	for k := range Kind(NumKinds) {
		wantBinary := k != PhoenixV1
		for _, binary := range []bool{false, true} {
			p := Push{Topic: "t", Event: "e", Payload: []byte(`{"a":"some bytes"}`), Binary: binary}
			carries := k.Carries(&p)
			if want := !binary || wantBinary; carries != want {
				t.Errorf("%s carries a push with binary %v: %v", k, binary, carries)
			}
			if got := strings.Contains(pushAs(k, nil, nil, p), `some bytes`); got != carries {
				t.Errorf("%s with binary %v: payload sent: %v", k, binary, got)
			}
			if got, want := ForKind(k).Binary(&p), binary && (k == PhoenixV2 || k == Plain || k == Realtime) || k == WestPB; got != want {
				t.Errorf("%s with binary %v: Binary = %v", k, binary, got)
			}
		}
	}
}

func TestPushValidate(t *testing.T) {
	long := strings.Repeat("x", MaxBinaryText+1)
	for _, tt := range []struct {
		name string
		push Push
		want string
	}{
		{"zero", Push{}, ""},
		{"text of any length", Push{Topic: long, Event: long}, ""},
		{"binary with room", Push{Topic: long[1:], Event: long[1:], Binary: true}, ""},
		{"binary topic", Push{Topic: long, Binary: true}, "bad push: topic of 256 bytes: a binary push has room for 255"},
		{"binary event", Push{Event: long, Binary: true}, "bad push: event of 256 bytes: a binary push has room for 255"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.push.Validate()
			if tt.want != "" {
				wantError(t, err, tt.want)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAppendString(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", `""`},
		{"room:1", `"room:1"`},
		{`a"b\c/d`, `"a\"b\\c/d"`},
		{"\b\f\n\r\t", `"\b\f\n\r\t"`},
		{"\x00\x1f\x7f", "\"\\u0000\\u001f\x7f\""},
		{"<&>\u2028é€𝄞", "\"<&>\u2028é€𝄞\""},
		{"a\xffb\xc3", "\"a\ufffdb\ufffd\""},
		{"\ufffd", "\"\ufffd\""},
	} {
		got := AppendString([]byte("x"), tt.in)
		if string(got) != "x"+tt.want {
			t.Errorf("%q: got %s, want x%s", tt.in, got, tt.want)
		}
	}
}

func TestIsObject(t *testing.T) {
	for in, want := range map[string]bool{
		`{}`: true, " \t\r\n{}": true, `[{}]`: false, `null`: false, `"{"`: false, `1`: false, ``: false,
	} {
		if got := IsObject([]byte(in)); got != want {
			t.Errorf("IsObject(%q) = %v", in, got)
		}
	}
}

func TestSplitPublish(t *testing.T) {
	deep := strings.Repeat(`{"a":`, MaxDepth-1) + "1" + strings.Repeat("}", MaxDepth-1)
	for _, tt := range []struct{ in, event, object, options string }{
		{`["event",{"message":"red pill or blue pill?"}]`, "event", `{"message":"red pill or blue pill?"}`, ""},
		{" [ \"e\" , {\t} ] ", "e", "{\t}", ""},
		{`["",{}]`, "", `{}`, ""},
		{`["caf\u00e9 \"\ud834\udd1e",{}]`, `café "𝄞`, `{}`, ""},
		{`["e",` + deep + `]`, "e", deep, ""},
		{`["e",{},{"id":"x"}]`, "e", `{}`, `{"id":"x"}`},
		{" [ \"e\" , {\t} , { \"id\" : [1] } ] ", "e", "{\t}", `{ "id" : [1] }`},
		{`["e",{},{}]`, "e", `{}`, `{}`},
		{`["e",` + deep + `,` + deep + `]`, "e", deep, deep},
	} {
		event, object, options, err := SplitPublish([]byte(tt.in))
		if err != nil || string(event) != tt.event || string(object) != tt.object || string(options) != tt.options {
			t.Errorf("%s: got %q, %s, %s, %v", tt.in, event, object, options, err)
		}
		if (options == nil) != (tt.options == "") {
			t.Errorf("%s: options %#v", tt.in, options)
		}
	}
}

func TestSplitPublishSlicesAreCapped(t *testing.T) {
	const text = `["e",{},{}]`
	payload := []byte(text)
	event, object, options, err := SplitPublish(payload)
	if err != nil {
		t.Fatal(err)
	}
	_, _, _ = append(event, '!'), append(object, '!'), append(options, '!')
	if string(payload) != text {
		t.Errorf("appending to what came out made %s of %s", payload, text)
	}
}

// plain stops at each byte that needs a look, wherever it is among the eight, and at no other.
func TestPlainStopsWhereItMust(t *testing.T) {
	for c := range 256 {
		stops := c < ' ' || c >= 0x80 || c == '"' || c == '\\'
		for at := range 20 {
			b := bytes.Repeat([]byte("~"), 20)
			b[at] = byte(c)
			want := len(b)
			if stops {
				want = at
			}
			if got := plain(b); got != want {
				t.Fatalf("byte 0x%02x at %d: stopped at %d, want %d", c, at, got, want)
			}
			b[19-at] = '"' // a second hit does not hide the first
			if got, want := plain(b), min(want, 19-at); got != want {
				t.Fatalf("byte 0x%02x at %d, quote at %d: stopped at %d, want %d", c, at, 19-at, got, want)
			}
		}
	}
}

func TestSplitPublishRefuses(t *testing.T) {
	const shape = "bad publish: want [event, object]"
	for _, tt := range []struct{ name, in, want string }{
		{"nothing", ``, shape},
		{"no array", `{"event":{}}`, shape},
		{"empty array", ` [ ] `, shape},
		{"one element", `["e"]`, shape},
		{"four elements", `["e",{},{},{}]`, shape},
		{"options are a string", `["e",{},"id"]`, "bad publish: options: want an object"},
		{"options are null", `["e",{},null]`, "bad publish: options: want an object"},
		{"options are missing", `["e",{},]`, "bad publish: options: want an object"},
		{"torn options", `["e",{},{`, "bad publish: offset 9: unexpected end"},
		{"torn after the options", `["e",{},{}`, "bad publish: offset 10: unexpected end"},
		{"options 33 deep", `["e",{},` + strings.Repeat(`{"a":`, 32), "bad publish: depth > 32"},
		{"event is no string", `[1,{}]`, "bad publish: event: want a string"},
		{"payload is an array", `["e",[]]`, "bad publish: payload: want an object"},
		{"payload is null", `["e",null]`, "bad publish: payload: want an object"},
		{"payload is missing", `["e",]`, "bad publish: payload: want an object"},
		{"torn after the bracket", `[`, "bad publish: offset 1: unexpected end"},
		{"torn event", `["e`, "bad publish: offset 3: unexpected end"},
		{"torn after the event", `["e"`, "bad publish: offset 4: unexpected end"},
		{"torn after the comma", `["e",`, "bad publish: offset 5: unexpected end"},
		{"torn object", `["e",{`, "bad publish: offset 6: unexpected end"},
		{"torn after the object", `["e",{}`, "bad publish: offset 7: unexpected end"},
		{"no comma", `["e"{}]`, "bad publish: offset 4: unexpected {"},
		{"wrong bracket", `["e",{}}`, "bad publish: offset 7: unexpected }"},
		{"trailing data", `["e",{}] x`, "bad publish: offset 9: data after the end"},
		{"bad object", `["e",{"a":01}]`, "bad publish: offset 11: unexpected 1"},
		{"33 deep", `["e",` + strings.Repeat(`{"a":`, 32), "bad publish: depth > 32"},
		{"deep", `["e",` + strings.Repeat(`{"a":`, 1000), "bad publish: depth > 32"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			event, object, options, err := SplitPublish([]byte(tt.in))
			if event != nil || object != nil || options != nil {
				t.Errorf("got %q, %s, %s with the error", event, object, options)
			}
			wantError(t, err, tt.want)
		})
	}
}

func isRef(token []byte) bool {
	c := token[0]
	return string(token) == "null" || len(token) <= MaxRef && (c == '"' || c == '-' || c >= '0' && c <= '9')
}

func checkRef(t *testing.T, got Ref, token []byte) {
	t.Helper()
	if want := string(token); string(got) != want && (got != nil || want != "null") {
		t.Errorf("ref %s, want %s", got, want)
	}
}

// depthOf returns how deep well-formed JSON nests.
func depthOf(t *testing.T, text []byte) int {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	depth, deepest := 0, 0
	for d.More() || depth > 0 {
		token, err := d.Token()
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		switch token {
		case json.Delim('['), json.Delim('{'):
			depth++
			deepest = max(deepest, depth)
		case json.Delim(']'), json.Delim('}'):
			depth--
		}
	}
	return deepest
}

// elements returns the elements of data if it is an array in well-formed JSON. It differs from encoding/json in one
// thing: text that is not UTF-8 is refused, where encoding/json puts U+FFFD.
func elements(data []byte) ([]json.RawMessage, bool) {
	var list []json.RawMessage
	if !utf8.Valid(data) || json.Unmarshal(data, &list) != nil {
		return nil, false
	}
	return list, list != nil
}

// unquote returns what a JSON string means, as encoding/json has it: U+FFFD for lone surrogates.
func unquote(t *testing.T, token []byte) string {
	t.Helper()
	var s string
	if err := json.Unmarshal(token, &s); err != nil {
		t.Fatalf("%s: %v", token, err)
	}
	return s
}

func FuzzSplitPublish(f *testing.F) {
	for _, seed := range []string{
		`["event",{"message":"red pill or blue pill?"}]`, ` [ "\ud834\udd1e\ud800" , { "a" : [ 1e5 , null ] } ] `,
		`["e",{},{}]`, `["e",{},{"id":"x"}]`, `["e",{},{},{}]`, `["e",{},[]]`, `["e",[]]`, `[]`, `null`, "[\"\xff\",{}]", `["e",` + strings.Repeat(`{"a":`, 33),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		list, ok := elements(data)
		ok = ok && (len(list) == 2 || len(list) == 3 && list[2][0] == '{')
		ok = ok && list[0][0] == '"' && list[1][0] == '{' && depthOf(t, data) <= MaxDepth
		event, object, options, err := SplitPublish(data)
		if (err == nil) != ok {
			t.Fatalf("%q: error %v, but encoding/json says %v", data, err, ok)
		}
		if err != nil {
			checkReason(t, err)
			return
		}
		list = append(list, nil)
		if string(event) != unquote(t, list[0]) || !bytes.Equal(object, list[1]) || !bytes.Equal(options, list[2]) {
			t.Errorf("%q: got %q, %s, %s", data, event, object, options)
		}
	})
}

func FuzzAppendString(f *testing.F) {
	f.Add("room:1")
	f.Add("\x00\"\\\xff\u2028𝄞")
	f.Fuzz(func(t *testing.T, in string) {
		token := AppendString(nil, in)
		if got, want := unquote(t, token), strings.ToValidUTF8(in, "\ufffd"); got != want && utf8.ValidString(in) {
			t.Errorf("%q came back as %q", in, got)
		}
		s := scanner{data: token}
		text, err := s.text()
		if err != nil || s.pos != len(token) || string(text) != unquote(t, token) {
			t.Errorf("%s: the scanner reads %q, %v", token, text, err)
		}
	})
}
