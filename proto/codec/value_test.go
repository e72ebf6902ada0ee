package codec

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestParseValue(t *testing.T) {
	for _, tt := range []struct{ text, problem string }{
		{`{"a":1}`, ""},
		{" \n[1,{}] ", ""},
		{`"x"`, ""},
		{``, "bad JSON: offset 0: unexpected end"},
		{`{"a":1} x`, "bad JSON: offset 8: data after the end"},
		{`{"a":1}{}`, "bad JSON: offset 7: data after the end"},
		{`{"a":01}`, "bad JSON: offset 6: unexpected 1"},
		{`{'a':1}`, "bad JSON: offset 1: unexpected '"},
		{`{"a":1,}`, "bad JSON: offset 7: unexpected }"},
		{"{\"a\":\"\xff\"}", "bad JSON: offset 6: not UTF-8"},
		{strings.Repeat("[", MaxDepth+envelope+1), "bad JSON: depth > 32"},
		{strings.Repeat("\n", 8<<20), "bad JSON: offset 8388608: unexpected end"},
	} {
		v, err := ParseValue([]byte(tt.text))
		if tt.problem == "" {
			if err != nil || string(v.Text) != strings.TrimSpace(tt.text) || tt.text[v.Offset:v.Offset+len(v.Text)] != string(v.Text) {
				t.Errorf("%q: %q at %d, %v", tt.text, v.Text, v.Offset, err)
			}
			continue
		}
		var input *InputError
		if !errors.As(err, &input) || input.Reason != tt.problem {
			t.Errorf("%.20q: %v, want %s", tt.text, err, tt.problem)
		}
	}
}

func parse(t *testing.T, text string) Value {
	t.Helper()
	v, err := ParseValue([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestMembers(t *testing.T) {
	text := ` { "a" : [1, 2] , "b\u0063":"x\n", "d":{}}`
	var got []string
	err := parse(t, text).Members(func(key string, v Value) error {
		if text[v.Offset:v.Offset+len(v.Text)] != string(v.Text) {
			t.Errorf("%s: offset %d", key, v.Offset)
		}
		got = append(got, key, string(v.Text))
		return nil
	})
	if want := []string{"a", "[1, 2]", "bc", `"x\n"`, "d", "{}"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	none := func(string, Value) error { return nil }
	for text, want := range map[string]string{
		`{"a":1,"b":2,"a":3}`:      `offset 13: duplicate key "a"`,
		`{"a":1,"\u0061":3}`:       `offset 7: duplicate key "a"`,
		`[]`:                       "offset 0: want an object",
		` "x"`:                     "offset 1: want an object",
		`{"":{"a":1,"a":2},"":{}}`: `offset 18: duplicate key ""`,
	} {
		if err := parse(t, text).Members(none); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	stop := errors.New("stop")
	if err := parse(t, `{"a":1,"b":2}`).Members(func(string, Value) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
}

func TestElements(t *testing.T) {
	text := ` [ 1 , "a,]" , [2,3],{"a":[]} ] `
	var got []string
	err := parse(t, text).Elements(4, func(i int, v Value) error {
		if i != len(got) || text[v.Offset:v.Offset+len(v.Text)] != string(v.Text) {
			t.Errorf("element %d: offset %d", i, v.Offset)
		}
		got = append(got, string(v.Text))
		return nil
	})
	if want := []string{"1", `"a,]"`, "[2,3]", `{"a":[]}`}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	never := func(int, Value) error { t.Error("called"); return nil }
	if err := parse(t, text).Elements(3, never); err == nil || err.Error() != "offset 1: batch > 3" {
		t.Errorf("four of three: %v", err)
	}
	if err := parse(t, `[ ]`).Elements(0, never); err != nil {
		t.Errorf("empty: %v", err)
	}
	if err := parse(t, `{}`).Elements(1, never); err == nil || err.Error() != "offset 0: want an array" {
		t.Errorf("no array: %v", err)
	}
}

// What a batch has too much of costs no memory.
func TestTooLongABatchAllocatesNextToNothing(t *testing.T) {
	body := []byte("[" + strings.Repeat(`{"topic":"a:b"},`, 10_000) + "{}]")
	n := testing.AllocsPerRun(5, func() {
		v, err := ParseValue(body)
		if err == nil {
			err = v.Elements(1000, func(int, Value) error { return nil })
		}
		if err == nil {
			t.Error("no error")
		}
	})
	if n > 8 {
		t.Errorf("%v allocations", n)
	}
}

func TestStringsAndPayloads(t *testing.T) {
	if s, err := parse(t, ` "a\u00e9\n"`).String(); s != "aé\n" || err != nil {
		t.Errorf("%q %v", s, err)
	}
	if _, err := parse(t, ` 7`).String(); err == nil || err.Error() != "offset 1: want a string" {
		t.Error(err)
	}
	deep := strings.Repeat(`{"a":`, MaxDepth) + "1" + strings.Repeat("}", MaxDepth)
	if p, err := parse(t, deep).Payload(); string(p) != deep || err != nil {
		t.Error(err)
	}
	if _, err := parse(t, `{"a":`+deep+"}").Payload(); err == nil || err.Error() != "offset 0: payload: depth > 32" {
		t.Error(err)
	}
	if _, err := parse(t, `[]`).Payload(); err == nil || err.Error() != "offset 0: payload must be an object" {
		t.Error(err)
	}
}

// What ParseValue takes, encoding/json takes too, and both find the same members.
func FuzzValue(f *testing.F) {
	for _, seed := range []string{`{"a":[1,{"b":"\u00e9"}],"c":null}`, `[[],{},"",-1.5e3]`, `{"a":1,"a":2}`, "\xff", `{"":0}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := ParseValue(data)
		if err != nil {
			return
		}
		if !json.Valid(data) {
			t.Fatalf("%q is not JSON", data)
		}
		var want map[string]json.RawMessage
		if json.Unmarshal(data, &want) != nil || want == nil {
			_ = v.Elements(10, func(int, Value) error { return nil })
			return
		}
		got := make(map[string]string)
		if v.Members(func(key string, member Value) error { got[key] = string(member.Text); return nil }) != nil {
			return // keys repeat
		}
		for key, text := range want {
			// encoding/json reads a lone surrogate as the scanner does.
			if got[key] != strings.TrimSpace(string(text)) {
				t.Errorf("%q: %q, want %q", key, got[key], text)
			}
		}
	})
}
