package codec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

// Each test here is one clause of the Phoenix serializer (v1_json_serializer.ex) or of Phoenix.Socket.Message, which
// reads the members of a frame; the comment names the function that has it.

func mustDecodeV1(t *testing.T, data string) Frame {
	t.Helper()
	return decodeAs(t, PhoenixV1, data, false)
}

// from_map!/1: the members are found by their keys, in any order, with any white space.
func TestV1FrameIsAnObject(t *testing.T) {
	const want = `"1" "2" "room:1" "shout" {"a":[1, 2]}`
	for _, text := range []string{
		`{"topic":"room:1","event":"shout","payload":{"a":[1, 2]},"ref":"2","join_ref":"1"}`,
		`{"join_ref":"1","ref":"2","payload":{"a":[1, 2]},"event":"shout","topic":"room:1"}`,
		" {\n\t\"ref\" : \"2\" ,\"payload\" : {\"a\":[1, 2]} , \"join_ref\":\"1\",\r\n \"topic\":\"room:1\",\"event\" :\"shout\" } ",
	} {
		if got := show(mustDecodeV1(t, text)); got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}

// from_map!/1: Map.fetch! of topic, event, payload and ref; Map.get of join_ref.
func TestV1FourMembersAreNeeded(t *testing.T) {
	all := []string{`"topic":"t"`, `"event":"e"`, `"payload":{}`, `"ref":"1"`}
	if got := show(mustDecodeV1(t, "{"+strings.Join(all, ",")+"}")); got != `nil "1" "t" "e" {}` {
		t.Errorf("without join_ref: got %s", got)
	}
	for i, member := range all {
		rest := append(append([]string{`"join_ref":"1"`}, all[:i]...), all[i+1:]...)
		text := "{" + strings.Join(rest, ",") + "}"
		if _, err := ForKind(PhoenixV1).Decode([]byte(text), false); err == nil {
			t.Errorf("%s accepted without %s", text, member)
		} else {
			wantError(t, err, `bad frame: want {"topic", "event", "payload", "ref"}`)
		}
	}
}

// from_map!/1: other members are not looked at. A key is compared as the text it means, case and all.
func TestV1KeysAreExact(t *testing.T) {
	const tail = `,"topic":"t","event":"e","payload":{},"ref":1}`
	for _, member := range []string{
		`"vsn":[{"topic":"x"}]`, `"":null`, `"Topic":"x"`, `"TOPIC":"x"`, `"topic ":7`, `"top":"x"`, `"topics":"x"`,
		`"\ud800topic":"x"`, `"topic\u0000":"x"`, `"joinRef":"x"`, `"` + strings.Repeat("k", 1000) + `":"x"`,
	} {
		if got := show(mustDecodeV1(t, "{"+member+tail)); got != `nil 1 "t" "e" {}` {
			t.Errorf("%.40s: got %s", member, got)
		}
	}
	got := show(mustDecodeV1(t, `{"t\u006Fpic":"t","\u0065vent":"e","pa\u0079load":[],"re\u0066":1,"join\u005fref":2}`))
	if want := `2 1 "t" "e" []`; got != want {
		t.Errorf("keys with escapes: got %s, want %s", got, want)
	}
}

// Jason.decode!/1: of members with the same key the last one counts, also if one before it has another type.
func TestV1TheLastOfTheSameKeyCounts(t *testing.T) {
	const base = `"topic":"t","event":"e","payload":{},"ref":1,"join_ref":1`
	for _, tt := range []struct{ in, want string }{
		{`{` + base + `,"topic":"u"}`, `1 1 "u" "e" {}`},
		{`{"topic":7,"event":null,"ref":{},"join_ref":[],"payload":0,` + base + `}`, `1 1 "t" "e" {}`},
		{`{"ref":"` + strings.Repeat("1", MaxRef) + `",` + base + `,"join_ref":null,"ref":null}`, `nil nil "t" "e" {}`},
		{`{` + base + `,"p\u0061yload":"x","payload":"y"}`, `1 1 "t" "e" "y"`},
		{`{` + base + `,"payload":"x","p\u0061yload":"y"}`, `1 1 "t" "e" "y"`},
	} {
		if got := show(mustDecodeV1(t, tt.in)); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.in, got, tt.want)
		}
	}
	_, err := ForKind(PhoenixV1).Decode([]byte(`{`+base+`,"event":7}`), false)
	wantError(t, err, "bad frame: event: want a string")
}

// decode!/2 does not look at its options, where the opcode is.
func TestV1IgnoresTheOpcode(t *testing.T) {
	for _, data := range []string{
		`{"topic":"t","event":"e","payload":{},"ref":1}`, `{"topic":"t"}`, `["1","1","t","e",{}]`, "\x00\x00\x00\x01\x01te",
		"{\"topic\":\"\xff\",\"event\":\"e\",\"payload\":{},\"ref\":1}", "",
	} {
		text, textErr := ForKind(PhoenixV1).Decode([]byte(data), false)
		binary, binaryErr := ForKind(PhoenixV1).Decode([]byte(data), true)
		if show(text) != show(binary) || fmt.Sprint(textErr) != fmt.Sprint(binaryErr) {
			t.Errorf("%q: text %s, %v; binary %s, %v", data, show(text), textErr, show(binary), binaryErr)
		}
		if binary.Binary {
			t.Errorf("%q: the frame is binary", data)
		}
	}
}

// decode!/2, encode!(%Reply{}): a ref comes back as it was, with its type.
func TestV1RefsAreEchoedVerbatim(t *testing.T) {
	for _, token := range []string{`"1"`, `0`, `7`, `-1.50e+3`, `""`, `"a\"\u00e9"`, `null`} {
		f := mustDecodeV1(t, `{"topic":"t","event":"e","payload":{},"ref": `+token+` ,"join_ref": `+token+` }`)
		if !bytes.Equal(f.JoinRef, f.Ref) {
			t.Errorf("join_ref %s, ref %s", f.JoinRef, f.Ref)
		}
		got := string(ForKind(PhoenixV1).AppendReply(nil, f.JoinRef, f.Ref, "t", "ok", nil))
		want := `{"event":"phx_reply","payload":{"response":{},"status":"ok"},"ref":` + token + `,"topic":"t"}`
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// A page that writes its frames by hand sends the number 0 as the ref of every frame, and no join_ref.
func TestV1RefZeroStaysZero(t *testing.T) {
	c := ForKind(PhoenixV1)
	for _, text := range []string{
		`{"topic":"room:1","event":"phx_join","payload":{},"ref":0}`,
		`{"topic":"room:1","event":"shout","payload":{"message":"hello"},"ref":0}`,
		`{"topic":"room:1","event":"shout","payload":{"message":"hello"},"ref":0}`,
	} {
		f := mustDecodeV1(t, text)
		if string(f.Ref) != "0" || f.JoinRef != nil {
			t.Errorf("%s: ref %s, join_ref %s", text, f.Ref, f.JoinRef)
		}
		got := string(c.AppendReply(nil, f.JoinRef, f.Ref, string(f.Topic), "ok", nil))
		if want := `{"event":"phx_reply","payload":{"response":{},"status":"ok"},"ref":0,"topic":"room:1"}`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	got := pushAs(PhoenixV1, nil, nil, Push{Topic: "room:1", Event: "shout", Payload: []byte(`{"message":"hello"}`)})
	if want := `{"ref":null,"topic":"room:1","event":"shout","payload":{"message":"hello"}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// from_map!/1: any JSON is a payload; heartbeats have null.
func TestV1PayloadIsAnyJSON(t *testing.T) {
	for _, payload := range []string{`null`, `{}`, `[]`, `true`, `false`, `0`, `"x"`, `{"a":{"b":[1.5e-3,"\u0000"]}}`} {
		f := mustDecodeV1(t, "{\"payload\":\n "+payload+" ,\"topic\":\"phoenix\",\"event\":\"heartbeat\",\"ref\":\"5\"}")
		if string(f.Payload) != payload {
			t.Errorf("got %s, want %s", f.Payload, payload)
		}
	}
}

// membersOf returns the members of a frame by key, and fails unless they are the four that encode_v1_fields_only/1
// takes.
func membersOf(t *testing.T, frame string) map[string]string {
	t.Helper()
	var raw map[string]json.RawMessage
	if err := json.Unmarshal([]byte(frame), &raw); err != nil {
		t.Fatalf("%s: %v", frame, err)
	}
	m := map[string]string{}
	for _, key := range []string{"topic", "event", "payload", "ref"} {
		value, ok := raw[key]
		if !ok {
			t.Errorf("%s: no %s", frame, key)
		}
		m[key] = string(value)
	}
	if len(raw) != len(m) {
		t.Errorf("%s: more than four members", frame)
	}
	return m
}

// encode!(%Reply{}): topic, "phx_reply", %{status: _, response: _} and ref; no join_ref.
func TestV1Reply(t *testing.T) {
	for _, tt := range []struct {
		joinRef, ref    Ref
		topic, status   string
		response, frame string
	}{
		{Ref(`"1"`), Ref(`"2"`), "room:1", "ok", `{}`,
			`{"event":"phx_reply","payload":{"response":{},"status":"ok"},"ref":"2","topic":"room:1"}`},
		{nil, Ref(`7`), "a\"b", "error", `{"reason":"unmatched topic"}`,
			`{"event":"phx_reply","payload":{"response":{"reason":"unmatched topic"},"status":"error"},"ref":7,"topic":"a\"b"}`},
		{Ref(`"1"`), nil, "t", "odd\"", `"text"`,
			`{"event":"phx_reply","payload":{"response":"text","status":"odd\""},"ref":null,"topic":"t"}`},
		{nil, nil, "t", "ok", ``, `{"event":"phx_reply","payload":{"response":{},"status":"ok"},"ref":null,"topic":"t"}`},
	} {
		got := string(ForKind(PhoenixV1).AppendReply([]byte("x"), tt.joinRef, tt.ref, tt.topic, tt.status, []byte(tt.response)))
		if got != "x"+tt.frame {
			t.Errorf("got %s, want x%s", got, tt.frame)
		}
		membersOf(t, got[1:])
	}
}

// encode!(%Message{}): topic, event, payload and ref; the ref alone differs between subscribers.
func TestV1Push(t *testing.T) {
	c := ForKind(PhoenixV1)
	p := Push{Topic: "topics:matrix", Event: "event", Payload: []byte(`{"message":"red"}`)}
	if c.Binary(&p) {
		t.Error("a push of JSON is binary")
	}
	body := string(c.AppendBody([]byte("x"), &p))
	if want := `x"topic":"topics:matrix","event":"event","payload":{"message":"red"}}`; body != want {
		t.Errorf("body %s, want %s", body, want)
	}
	for _, tt := range []struct {
		joinRef, ref Ref
		head         string
	}{
		{Ref(`"1"`), nil, `x{"ref":null,`},
		{Ref(`1`), Ref(`"17:4"`), `x{"ref":"17:4",`},
		{nil, Ref(`"17:4"`), `x{"ref":"17:4",`},
	} {
		head := string(c.AppendHead([]byte("x"), tt.joinRef, tt.ref, &p))
		if head != tt.head {
			t.Errorf("head %s, want %s", head, tt.head)
		}
		membersOf(t, head[1:]+body[1:])
	}
}

// fastlane!(%Broadcast{}): the same with ref null. A payload that is missing is empty.
func TestV1Broadcast(t *testing.T) {
	m := membersOf(t, pushAs(PhoenixV1, nil, nil, Push{Topic: "room:\"1\"", Event: "pr\u00e9sence\x00"}))
	want := map[string]string{"topic": `"room:\"1\""`, "event": "\"pr\u00e9sence\\u0000\"", "payload": "{}", "ref": "null"}
	if fmt.Sprint(m) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", m, want)
	}
}

// encode!(%Message{}) of phx_close and phx_error: ref is the join_ref, null for a client that joined without one.
func TestV1ControlHasTheJoinRefAsItsRef(t *testing.T) {
	for _, tt := range []struct {
		joinRef    Ref
		event, ref string
	}{
		{Ref(`"1"`), "phx_close", `"1"`}, {Ref(`0`), "phx_error", `0`}, {nil, "phx_close", `null`},
	} {
		got := string(AppendControl([]byte("x"), ForKind(PhoenixV1), tt.joinRef, "room:1", tt.event))
		want := `x{"ref":` + tt.ref + `,"topic":"room:1","event":"` + tt.event + `","payload":{}}`
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// encode!(%Message{payload: {:binary, data}}) raises: the JSON library cannot encode a tuple.
func TestV1HasNoBinaryPush(t *testing.T) {
	c := ForKind(PhoenixV1)
	p := Push{Topic: "room:1", Event: "shout", Payload: []byte("\x00\xff\"}"), Binary: true}
	if PhoenixV1.Carries(&p) || c.Binary(&p) {
		t.Errorf("Carries %v, Binary %v", PhoenixV1.Carries(&p), c.Binary(&p))
	}
	got := pushAs(PhoenixV1, nil, nil, p)
	if want := `{"ref":null,"topic":"room:1","event":"shout","payload":null}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestV1Golden(t *testing.T) {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	c := ForKind(PhoenixV1)

	line("# decode: the message, then join_ref ref topic event payload")
	for _, text := range []string{
		`{"topic":"room:1","event":"phx_join","payload":{},"ref":0}`,
		`{"topic":"room:1","event":"shout","payload":{"message":"hello"},"ref":0}`,
		`{"topic":"topics:matrix","event":"publish","payload":["event",{"message":"red pill or blue pill?"}],"ref":"2","join_ref":"1"}`,
		`{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"5"}`,
		`{"event":"phx_leave","join_ref":null,"payload":{},"ref":"9","topic":"room:1"}`,
		`{ "topic" : "caf\u00e9:\ud834\udd1e", "event":"\ud800\/\b\f\n\r\t\"\\" , "payload":{ "a" : 1 } , "ref": 1e3, "more":[{}] }`,
		`{"ref":1,"topic":"a","topic":"b","event":"e","payl\u006fad":null,"ref":"2"}`,
	} {
		line("\n%s\n%s", text, show(mustDecodeV1(t, text)))
	}

	line("\n# encode\n")
	line("%s", c.AppendReply(nil, Ref(`"1"`), Ref(`"1"`), "room:1", "ok", nil))
	line("%s", c.AppendReply(nil, nil, Ref(`0`), `a"b`, "error", []byte(`{"reason":"unmatched topic"}`)))
	line("%s", pushAs(PhoenixV1, Ref(`"1"`), nil, Push{Topic: "topics:matrix", Event: "event", Payload: []byte(`{"message":"x"}`)}))
	line("%s", pushAs(PhoenixV1, nil, Ref(`"17:4"`), Push{Topic: "t", Event: "\x00é"}))
	line("%s", AppendControl(nil, c, Ref(`"3"`), "room:1", "phx_error"))
	line("%s", AppendControl(nil, c, nil, "room:1", "phx_close"))
	golden(t, "phoenix_v1.txt", b.String())
}

func TestV1Refuses(t *testing.T) {
	const shape = `bad frame: want {"topic", "event", "payload", "ref"}`
	with := func(members string) string { return `{"topic":"t","event":"e",` + members + `}` }
	nest := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, tt := range []struct{ name, in, want string }{
		{"nothing", ``, shape},
		{"white space", " \n", shape},
		{"an array", `["1","1","t","e",{}]`, shape},
		{"a string", `"x"`, shape},
		{"null", `null`, shape},
		{"no JSON", `hello`, shape},
		{"byte order mark", "\ufeff{}", shape},
		{"an empty object", ` { } `, shape},
		{"two of four", with(`"join_ref":"1"`), shape},
		{"three of four", with(`"payload":{}`), shape},
		{"a member is missing, another is wrong", `{"topic":1,"event":"e","payload":{}}`, shape},

		{"join_ref is an object", with(`"payload":{},"ref":1,"join_ref":{}`), "bad frame: join_ref: want string, number or null"},
		{"ref is an array", with(`"payload":{},"ref":[]`), "bad frame: ref: want string, number or null"},
		{"ref is true", with(`"payload":{},"ref":true`), "bad frame: ref: want string, number or null"},
		{"join_ref is long", with(`"payload":{},"ref":1,"join_ref":"` + strings.Repeat("1", 63) + `"`), "bad frame: join_ref over 64 bytes"},
		{"ref is long", with(`"payload":{},"ref":` + strings.Repeat("1", 65)), "bad frame: ref over 64 bytes"},
		{"topic is null", with(`"payload":{},"ref":1,"topic":null`), "bad frame: topic: want a string"},
		{"event is a number", with(`"payload":{},"ref":1,"event":7`), "bad frame: event: want a string"},

		{"1000 deep", with(`"payload":` + strings.Repeat("[", 1000)), "bad frame: depth > 32"},
		{"33 deep", with(`"payload":` + nest(33) + `,"ref":1`), "bad frame: depth > 32"},
		{"33 objects deep", with(`"payload":` + strings.Repeat(`{"a":`, 33)), "bad frame: depth > 32"},
		{"another member 33 deep", with(`"x":` + nest(33) + `,"payload":{},"ref":1`), "bad frame: depth > 32"},
		{"a replaced member 33 deep", with(`"ref":` + nest(33) + `,"payload":{},"ref":1`), "bad frame: depth > 32"},

		{"torn at the start", `{`, "bad frame: offset 1: unexpected end"},
		{"torn in a key", `{"top`, "bad frame: offset 5: unexpected end"},
		{"torn after a key", `{"topic"`, "bad frame: offset 8: unexpected end"},
		{"torn after a colon", `{"topic":`, "bad frame: offset 9: unexpected end"},
		{"torn after a value", `{"topic":"t"`, "bad frame: offset 12: unexpected end"},
		{"torn after a comma", `{"topic":"t",`, "bad frame: offset 13: unexpected end"},
		{"key is no string", `{topic:"t"}`, "bad frame: offset 1: unexpected t"},
		{"key is not UTF-8", "{\"\xff\":1}", "bad frame: offset 2: not UTF-8"},
		{"no colon", `{"topic" "t"}`, "bad frame: offset 9: unexpected \""},
		{"no value", `{"topic":}`, "bad frame: offset 9: unexpected }"},
		{"no comma", `{"topic":"t" "event":"e"}`, "bad frame: offset 13: unexpected \""},
		{"comma first", `{,"topic":"t"}`, "bad frame: offset 1: unexpected ,"},
		{"trailing comma", `{"topic":"t",}`, "bad frame: offset 13: unexpected }"},
		{"wrong bracket", `{"topic":"t"]`, "bad frame: offset 12: unexpected ]"},
		{"trailing data", with(`"payload":{},"ref":1`) + ` {}`, "bad frame: offset 47: data after the end"},
		{"bad ref", with(`"ref":01`), "bad frame: offset 32: unexpected 1"},
		{"bad value of another member", with(`"x":nul`), "bad frame: offset 32: unexpected }"},
		{"bad value of a replaced member", with(`"topic":+1,"topic":"t"`), "bad frame: offset 33: unexpected +"},
		{"topic is not UTF-8", "{\"topic\":\"t\xff\"}", "bad frame: offset 11: not UTF-8"},
		{"unknown escape in a key", `{"\x":1}`, "bad frame: offset 3: unknown escape"},
	} {
		t.Run(tt.name, func(t *testing.T) { wantRefused(t, PhoenixV1, tt.in, tt.want) })
	}
}

func TestV1AtTheLimits(t *testing.T) {
	deep := strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth)
	ref := `"` + strings.Repeat("é", (MaxRef-2)/2) + `"`
	number := strings.Repeat("9", MaxRef)
	f := mustDecodeV1(t, `{"join_ref":`+ref+`,"ref":`+number+`,"topic":"t","event":"e","payload":`+deep+`,"x":`+deep+`}`)
	if got, want := show(f), ref+" "+number+` "t" "e" `+deep; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A slice of a frame ends where its text ends, so appending to one does not write into its neighbour.
func TestV1FrameSlicesAreCapped(t *testing.T) {
	const data = `{"join_ref":1,"ref":"2","topic":"t","event":"e","payload":{},"x":9}`
	raw := []byte(data)
	f, err := ForKind(PhoenixV1).Decode(raw, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range [][]byte{f.JoinRef, f.Ref, f.Topic, f.Event, f.Payload} {
		_ = append(s, "!!"...)
	}
	if string(raw) != data {
		t.Errorf("appending to a slice of the frame made %q of %q", raw, data)
	}
}

// Decode accepts what encoding/json takes for an object with the members of a frame, of the right types within the
// limits, and nothing else. One difference: encoding/json takes text that is not UTF-8. (It reads into a map, as it
// would find the fields of a struct whatever the case of a key.)
func FuzzDecodeV1(f *testing.F) {
	for _, seed := range []string{
		push128[PhoenixV1], `{"topic":"room:1","event":"phx_join","payload":{},"ref":0}`,
		` { "ref" : null , "t\u006fpic" : "\ud834\udd1e\ud800" , "x" : [1e5,{}], "event" : "" , "payload" : -0.5 } `,
		`{"topic":1,"topic":"t","event":"e","payload":[],"ref":{},"ref":"1","join_ref":7}`, `{"Topic":"t"}`, `{`, `{}`, `null`,
		"{\"topic\":\"\xff\"}", `{"topic":"t","event":"e","payload":` + strings.Repeat(`[`, 33), `{"\ud800":1,"join_ref":[]}`,
	} {
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, binary bool) {
		var m map[string]json.RawMessage
		ok := utf8.Valid(data) && json.Unmarshal(data, &m) == nil && m != nil
		ok = ok && m["topic"] != nil && m["event"] != nil && m["payload"] != nil && m["ref"] != nil
		ok = ok && m["topic"][0] == '"' && m["event"][0] == '"' && isRef(m["ref"])
		ok = ok && (m["join_ref"] == nil || isRef(m["join_ref"])) && depthOf(t, data) <= 1+MaxDepth
		frame, err := ForKind(PhoenixV1).Decode(data, binary)
		if (err == nil) != ok {
			t.Fatalf("%q: error %v, but encoding/json says %v", data, err, ok)
		}
		if err != nil {
			checkReason(t, err)
			return
		}
		checkRef(t, frame.Ref, m["ref"])
		if m["join_ref"] == nil && frame.JoinRef != nil {
			t.Errorf("%q: join_ref %s out of nothing", data, frame.JoinRef)
		} else if m["join_ref"] != nil {
			checkRef(t, frame.JoinRef, m["join_ref"])
		}
		if string(frame.Topic) != unquote(t, m["topic"]) || string(frame.Event) != unquote(t, m["event"]) ||
			!bytes.Equal(frame.Payload, m["payload"]) || frame.Binary {
			t.Errorf("%q: got %s", data, show(frame))
		}
		// As a push it comes back without its join_ref, and otherwise as it was but for escapes and white space.
		p := Push{Topic: string(frame.Topic), Event: string(frame.Event), Payload: frame.Payload}
		sent := pushAs(PhoenixV1, frame.JoinRef, frame.Ref, p)
		frame.JoinRef = nil
		if got, want := show(mustDecodeV1(t, sent)), show(frame); got != want {
			t.Errorf("%s came back as %s", want, got)
		}
	})
}
