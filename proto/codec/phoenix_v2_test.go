package codec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

// Each test here is one clause of the Phoenix serializer (v2_json_serializer.ex); the comment names the function that
// has it.

func mustDecode(t *testing.T, data string, binary bool) Frame {
	t.Helper()
	return decodeAs(t, PhoenixV2, data, binary)
}

func push(joinRef, ref Ref, p Push) string {
	return pushAs(PhoenixV2, joinRef, ref, p)
}

// decode!/2, decode_text/1: [join_ref, ref, topic, event, payload | _].
func TestV2TextIsAnArrayOfFive(t *testing.T) {
	f := mustDecode(t, `["1","2","room:1","shout",{"a":[1, 2]}]`, false)
	if got, want := show(f), `"1" "2" "room:1" "shout" {"a":[1, 2]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if f.Binary {
		t.Error("a text frame is binary")
	}
}

// decode_text/1: the tail of the list is not looked at.
func TestV2TextIgnoresWhatFollowsTheFive(t *testing.T) {
	f := mustDecode(t, `[null,"2","t","e",{},[[]],"more",null]`, false)
	if got, want := show(f), `nil "2" "t" "e" {}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// decode_text/1: refs are whatever JSON value was sent; they come back as they were, with their type.
func TestV2RefsAreEchoedVerbatim(t *testing.T) {
	for _, token := range []string{`"1"`, `0`, `7`, `-1.50e+3`, `""`, `"a\"\u00e9"`, `null`} {
		f := mustDecode(t, `[`+token+`,`+token+`,"t","e",{}]`, false)
		got := string(ForKind(PhoenixV2).AppendReply(nil, f.JoinRef, f.Ref, "t", "ok", nil))
		want := `[` + token + `,` + token + `,"t","phx_reply",{"response":{},"status":"ok"}]`
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// Phoenix.Socket.__in__/2 compares join_refs with ===.
func TestV2RefsAreComparedStrictly(t *testing.T) {
	f := mustDecode(t, `["1",1,"t","e",{}]`, false)
	if bytes.Equal(f.JoinRef, f.Ref) {
		t.Error(`"1" equals 1`)
	}
}

// decode_binary/1 gives the bare text of a ref; a text frame of the same client gives the same ref.
func TestV2BinaryRefsEqualTextRefs(t *testing.T) {
	text := mustDecode(t, `["a\"1",null,"t","e",{}]`, false)
	binary := mustDecode(t, "\x00\x03\x00\x01\x01a\"1te", true)
	if !bytes.Equal(text.JoinRef, binary.JoinRef) || text.JoinRef == nil {
		t.Errorf("text %s, binary %s", text.JoinRef, binary.JoinRef)
	}
	if binary.Ref != nil {
		t.Errorf("an empty ref became %s, want null", binary.Ref)
	}
}

// decode_text/1: the payload of a heartbeat may be null, and any JSON is a payload.
func TestV2PayloadIsAnyJSON(t *testing.T) {
	for _, payload := range []string{`null`, `{}`, `[]`, `true`, `false`, `0`, `"x"`, `{"a":{"b":[1.5e-3,"\u0000"]}}`} {
		f := mustDecode(t, "[null,\"5\",\"phoenix\",\"heartbeat\",\n "+payload+" ]", false)
		if string(f.Payload) != payload {
			t.Errorf("got %s, want %s", f.Payload, payload)
		}
	}
}

// decode_binary/1: <<0, sizes::8*4, join_ref, ref, topic, event, data>>.
func TestV2BinaryClientPush(t *testing.T) {
	f := mustDecode(t, "\x00\x01\x02\x06\x0512"+"3room:1shout\x00\xff{", true)
	if got, want := show(f), `"1" "23" "room:1" "shout" binary "\x00\xff{"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// decode_binary/1 has a clause for kind 0 only.
func TestV2BinaryServerKindsAreNotDecoded(t *testing.T) {
	for kind := 1; kind < 256; kind++ {
		_, err := ForKind(PhoenixV2).Decode([]byte{byte(kind), 0, 0, 0, 0}, true)
		wantError(t, err, fmt.Sprintf("bad binary frame: kind %d: want 0, a push", kind))
	}
}

// encode!(%Reply{}): [join_ref, ref, topic, "phx_reply", %{status: _, response: _}], the response being any JSON.
func TestV2Reply(t *testing.T) {
	c := ForKind(PhoenixV2)
	for _, tt := range []struct {
		joinRef, ref    Ref
		status          string
		response, frame string
	}{
		{Ref(`"1"`), Ref(`"2"`), "ok", `{}`, `["1","2","room:1","phx_reply",{"response":{},"status":"ok"}]`},
		{nil, Ref(`7`), "error", `{"reason":"unmatched topic"}`,
			`[null,7,"room:1","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]`},
		{Ref(`"1"`), nil, "odd\"", `"text"`, `["1",null,"room:1","phx_reply",{"response":"text","status":"odd\""}]`},
		{nil, nil, "ok", ``, `[null,null,"room:1","phx_reply",{"response":{},"status":"ok"}]`},
	} {
		got := c.AppendReply([]byte("x"), tt.joinRef, tt.ref, "room:1", tt.status, []byte(tt.response))
		if string(got) != "x"+tt.frame {
			t.Errorf("got %s, want x%s", got, tt.frame)
		}
		if !json.Valid(got[1:]) {
			t.Errorf("not JSON: %s", got[1:])
		}
	}
}

// encode!(%Message{}): [join_ref, null, topic, event, payload]; the head alone differs between subscribers.
func TestV2Push(t *testing.T) {
	c := ForKind(PhoenixV2)
	p := Push{Topic: "topics:matrix", Event: "event", Payload: []byte(`{"message":"red"}`)}
	if c.Binary(&p) {
		t.Error("a push of JSON is binary")
	}
	body := string(c.AppendBody([]byte("x"), &p))
	if want := `x"topics:matrix","event",{"message":"red"}]`; body != want {
		t.Errorf("body %s, want %s", body, want)
	}
	for _, tt := range []struct {
		joinRef, ref Ref
		head         string
	}{
		{Ref(`"1"`), nil, `x["1",null,`},
		{Ref(`1`), Ref(`"17:4"`), `x[1,"17:4",`},
	} {
		if got := string(c.AppendHead([]byte("x"), tt.joinRef, tt.ref, &p)); got != tt.head {
			t.Errorf("head %s, want %s", got, tt.head)
		}
	}
}

// fastlane!(%Broadcast{}): [null, null, topic, event, payload].
func TestV2Broadcast(t *testing.T) {
	got := push(nil, nil, Push{Topic: "room:1", Event: "presence_diff", Payload: []byte(`{"joins":{},"leaves":{}}`)})
	if want := `[null,null,"room:1","presence_diff",{"joins":{},"leaves":{}}]`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// encode!(%Message{}) of phx_close and phx_error: ref is the join_ref, the payload is empty.
func TestV2ControlHasItsJoinRefTwice(t *testing.T) {
	got := string(AppendControl([]byte("x"), ForKind(PhoenixV2), Ref(`"1"`), "room:1", "phx_close"))
	if want := `x["1","1","room:1","phx_close",{}]`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// encode!(%Message{payload: {:binary, data}}): <<0, sizes::8*3, join_ref, topic, event, data>>, without a ref.
func TestV2BinaryServerPush(t *testing.T) {
	p := Push{Topic: "room:1", Event: "shout", Payload: []byte{0, 0xff}, Binary: true}
	if !ForKind(PhoenixV2).Binary(&p) {
		t.Error("a push of bytes is text")
	}
	for _, tt := range []struct {
		joinRef Ref
		want    string
	}{
		{Ref(`"12"`), "\x00\x02\x06\x0512room:1shout\x00\xff"},
		{Ref(`12`), "\x00\x02\x06\x0512room:1shout\x00\xff"},
		{Ref(`"\u00e9"`), "\x00\x02\x06\x05éroom:1shout\x00\xff"},
		{nil, "\x00\x00\x06\x05room:1shout\x00\xff"},
	} {
		if got := push(tt.joinRef, Ref(`"17:4"`), p); got != tt.want {
			t.Errorf("join_ref %s: got %q, want %q", tt.joinRef, got, tt.want)
		}
	}
}

// byte_size!/3: a length has one byte. What Push.Validate refuses is cut, and the lengths fit what is there.
func TestV2BinaryLengthsHaveOneByte(t *testing.T) {
	long := strings.Repeat("x", 300)
	got := push(Ref(`"`+long+`"`), nil, Push{Topic: long, Event: long, Payload: []byte("data"), Binary: true})
	if want := "\x00\xff\xff\xff" + long[:255] + long[:255] + long[:255] + "data"; got != want {
		t.Errorf("got %q", got)
	}
}

func TestV2Golden(t *testing.T) {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	c := ForKind(PhoenixV2)

	line("# decode: the message, then join_ref ref topic event payload")
	for _, text := range []string{
		`["1","1","room:1","phx_join",{}]`,
		`["1","1","topics:matrix","publish",["event",{"message":"red pill or blue pill?"}]]`,
		`[null,"5","phoenix","heartbeat",null]`,
		`["1","9","room:1","phx_leave",{}]`,
		`[0, 1 , "caf\u00e9:\ud834\udd1e", "\ud800\/\b\f\n\r\t\"\\", { "a" : 1 } ]`,
		`["4","4","","",[],"extra",{}]`,
	} {
		line("\n%s\n%s", text, show(mustDecode(t, text, false)))
	}
	for _, data := range []string{
		"\x00\x01\x01\x06\x0517room:1shout\x01\x02\x03",
		"\x00\x00\x00\x00\x00",
	} {
		line("\n%q\n%s", data, show(mustDecode(t, data, true)))
	}

	line("\n# encode\n")
	line("%s", c.AppendReply(nil, Ref(`"1"`), Ref(`"1"`), "room:1", "ok", nil))
	line("%s", c.AppendReply(nil, nil, Ref(`7`), `a"b`, "error", []byte(`{"reason":"unmatched topic"}`)))
	line("%s", push(Ref(`"1"`), nil, Push{Topic: "topics:matrix", Event: "event", Payload: []byte(`{"message":"x"}`)}))
	line("%s", push(Ref(`1`), Ref(`"17:4"`), Push{Topic: "t", Event: "\x00é"}))
	line("%s", AppendControl(nil, c, Ref(`"3"`), "room:1", "phx_error"))
	line("%q", push(Ref(`"3"`), nil, Push{Topic: "room:1", Event: "e", Payload: []byte{1, 2}, Binary: true}))
	golden(t, "phoenix_v2.txt", b.String())
}

func TestV2TextRefuses(t *testing.T) {
	const shape = "bad frame: want [join_ref, ref, topic, event, payload]"
	nest := func(n int) string {
		return `["1","1","t","e",` + strings.Repeat("[", n) + strings.Repeat("]", n) + `]`
	}
	member := func(payload string) string { return `["1","1","t","e",` + payload + `]` }
	for _, tt := range []struct{ name, in, want string }{
		{"nothing", ``, shape},
		{"white space", " \n", shape},
		{"an open object", `{`, shape},
		{"an object", `{}`, shape},
		{"a string", `"x"`, shape},
		{"no JSON", `hello`, shape},
		{"an empty array", `[]`, shape},
		{"one element", `["1"]`, shape},
		{"two elements", `["1","1"]`, shape},
		{"three elements", `["1","1","t"]`, shape},
		{"four elements", `["1","1","t","e"]`, shape},
		{"1000 deep", `["1","1","t","e",` + strings.Repeat("[", 1000), "bad frame: depth > 32"},
		{"33 deep", nest(33), "bad frame: depth > 32"},
		{"33 objects deep", member(strings.Repeat(`{"a":`, 33)), "bad frame: depth > 32"},
		{"extra 33 deep", strings.Replace(nest(33), `"e",`, `"e",1,`, 1), "bad frame: depth > 32"},

		{"join_ref is an object", `[{},"1","t","e",{}]`, "bad frame: join_ref: want string, number or null"},
		{"ref is an array", `["1",[],"t","e",{}]`, "bad frame: ref: want string, number or null"},
		{"ref is true", `["1",true,"t","e",{}]`, "bad frame: ref: want string, number or null"},
		{"join_ref is long", `["` + strings.Repeat("1", 63) + `",1,"t","e",{}]`, "bad frame: join_ref over 64 bytes"},
		{"ref is long", `[1,` + strings.Repeat("1", 65) + `,"t","e",{}]`, "bad frame: ref over 64 bytes"},
		{"topic is null", `["1","1",null,"e",{}]`, "bad frame: topic: want a string"},
		{"event is a number", `["1","1","t",7,{}]`, "bad frame: event: want a string"},
		{"event is missing", `["1","1","t",]`, "bad frame: event: want a string"},

		{"torn", `["1","1","t","e",{}`, "bad frame: offset 19: unexpected end"},
		{"torn after four", `["1","1","t","e"`, "bad frame: offset 16: unexpected end"},
		{"torn before a ref", `[`, "bad frame: offset 1: unexpected end"},
		{"torn before the topic", `[1,1,`, "bad frame: offset 5: unexpected end"},
		{"torn in the payload", member(`{"a":tr`)[:24], "bad frame: offset 24: unexpected end"},
		{"no comma", `["1" "1","t","e",{}]`, "bad frame: offset 5: unexpected \""},
		{"wrong bracket", `["1","1","t","e",{}}`, "bad frame: offset 19: unexpected }"},
		{"trailing comma", `["1","1","t","e",{},]`, "bad frame: offset 20: unexpected ]"},
		{"trailing data", `["1","1","t","e",{}]]`, "bad frame: offset 20: data after the end"},
		{"bad extra", `["1","1","t","e",{},nul]`, "bad frame: offset 23: unexpected ]"},
		{"byte order mark", "\ufeff[]", shape},
	} {
		t.Run(tt.name, func(t *testing.T) { wantRefused(t, PhoenixV2, tt.in, tt.want) })
	}
}

func TestV2TextRefusesWhatIsNoJSON(t *testing.T) {
	member := func(payload string) string { return `["1","1","t","e",` + payload + `]` }
	for _, tt := range []struct{ name, in, want string }{
		{"no payload", member(``), "bad frame: offset 17: unexpected ]"},
		{"leading zero", member(`01`), "bad frame: offset 18: unexpected 1"},
		{"plus", member(`+1`), "bad frame: offset 17: unexpected +"},
		{"minus alone", member(`-`), "bad frame: offset 18: unexpected ]"},
		{"no fraction", member(`1.`), "bad frame: offset 19: unexpected ]"},
		{"no integer", member(`.5`), "bad frame: offset 17: unexpected ."},
		{"no exponent", member(`1e+`), "bad frame: offset 20: unexpected ]"},
		{"not a number", member(`NaN`), "bad frame: offset 17: unexpected N"},
		{"literal in capitals", member(`nuLl`), "bad frame: offset 19: unexpected L"},
		{"key is no string", member(`{1:2}`), "bad frame: offset 18: unexpected 1"},
		{"no colon", member(`{"a" 1}`), "bad frame: offset 22: unexpected 1"},
		{"comma in an empty object", member(`{,}`), "bad frame: offset 18: unexpected ,"},
		{"trailing comma in an object", member(`{"a":1,}`), "bad frame: offset 24: unexpected }"},
		{"trailing comma in an array", member(`[1,]`), "bad frame: offset 20: unexpected ]"},
		{"single quotes", member(`{'a':1}`), "bad frame: offset 18: unexpected '"},
		{"comment", member(`/**/1`), "bad frame: offset 17: unexpected /"},
		{"NUL", member("\x00"), "bad frame: offset 17: unexpected byte 0x00"},
		{"no-break space", member("\u00a01"), "bad frame: offset 17: unexpected byte 0xc2"},
		{"newline in a string", member("\"a\n\""), "bad frame: offset 19: control character in a string"},
		{"unknown escape", member(`"\x41"`), "bad frame: offset 19: unknown escape"},
		{"short escape", member(`"\u12g4"`), `bad frame: offset 22: want four hex digits after \u`},
		{"escape at the end", `["1","1","t\`, "bad frame: offset 12: unexpected end"},
		{"torn escape", `["1","1","t\u00`, "bad frame: offset 15: unexpected end"},
		{"open string", `["1","1","t`, "bad frame: offset 11: unexpected end"},
		{"not UTF-8", "[\"1\",\"1\",\"t\xff\",\"e\",{}]", "bad frame: offset 11: not UTF-8"},
		{"an encoded surrogate", member("\"\xed\xa0\x80\""), "bad frame: offset 18: not UTF-8"},
		{"torn UTF-8", member("\"\xe2\x82\""), "bad frame: offset 18: not UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) { wantRefused(t, PhoenixV2, tt.in, tt.want) })
	}
}

func TestV2TextAtTheLimits(t *testing.T) {
	deep := strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth)
	ref := `"` + strings.Repeat("é", (MaxRef-2)/2) + `"`
	number := strings.Repeat("9", MaxRef)
	f := mustDecode(t, `[`+ref+`,`+number+`,"t","e",`+deep+`,`+deep+`]`, false)
	if got, want := show(f), ref+" "+number+` "t" "e" `+deep; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestV2BinaryRefuses(t *testing.T) {
	x := strings.Repeat("x", 255)
	for _, tt := range []struct{ name, in, want string }{
		{"empty", "", "bad binary frame: empty"},
		{"torn header", "\x00\x01\x01", "bad binary frame: 3 bytes: the header has 5"},
		{"text", `["1","1","t","e",{}]`, "bad binary frame: kind 91: want 0, a push"},
		{"join_ref past the end", "\x00\x02\x00\x00\x001", "bad binary frame: join_ref ends at byte 7 of 6"},
		{"ref past the end", "\x00\x01\x01\x00\x001", "bad binary frame: ref ends at byte 7 of 6"},
		{"topic past the end", "\x00\x00\x00\xff\x00t", "bad binary frame: topic ends at byte 260 of 6"},
		{"event past the end", "\x00\x00\x00\x01\x02te", "bad binary frame: event ends at byte 8 of 7"},
		{"all past the end", "\x00\xff\xff\xff\xff" + x + x + x, "bad binary frame: event ends at byte 1025 of 770"},
		{"join_ref is long", "\x00\x3f\x00\x00\x00" + x, "bad binary frame: join_ref over 64 bytes"},
		{"ref is long", "\x00\x00\x3f\x00\x00" + x, "bad binary frame: ref over 64 bytes"},
		{"ref is long when escaped", "\x00\x00\x0b\x00\x00" + strings.Repeat("\x00", 11), "bad binary frame: ref over 64 bytes"},
		{"topic is not UTF-8", "\x00\x00\x00\x01\x00\xff", "bad binary frame: topic: not UTF-8"},
		{"ref is not UTF-8", "\x00\x00\x01\x01\x00\xc3t", "bad binary frame: ref: not UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := ForKind(PhoenixV2).Decode([]byte(tt.in), true)
			if got := show(f); got != `nil nil "" "" ` {
				t.Errorf("got %s with the error", got)
			}
			wantError(t, err, tt.want)
		})
	}
}

// A slice of a frame ends where its text ends, so appending to one does not write into its neighbour.
func TestV2FrameSlicesAreCapped(t *testing.T) {
	for _, binary := range []bool{false, true} {
		data := `["1","2","t","e",{},9]`
		if binary {
			data = "\x00\x01\x01\x01\x0112te{}"
		}
		raw := []byte(data)
		f, err := ForKind(PhoenixV2).Decode(raw, binary)
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
}

// Decode accepts what encoding/json takes for an array of at least five elements of the right types within the limits,
// and nothing else. One difference: encoding/json takes text that is not UTF-8.
func FuzzDecodeV2(f *testing.F) {
	for _, seed := range []string{
		push128[PhoenixV2], `[null,"5","phoenix","heartbeat",null]`, `[0,-1.5e+3,"\ud834\udd1e\ud800","\u0000",[[],{"a":{}}],9]`,
		` [ "" , 1 , "t" , "e" , "x" ] `, `{`, `[]`, `["1","1","t","e"]`, "[\"\xff\",1,\"t\",\"e\",1]", `[1,01,"t","e",1]`,
		`[1,1,"t","e",` + strings.Repeat("[", 33), `["1","1","a\/b","e",{"a":1,"a":2},]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		list, ok := elements(data)
		ok = ok && len(list) >= 5 && isRef(list[0]) && isRef(list[1]) && list[2][0] == '"' && list[3][0] == '"'
		if ok {
			for _, e := range list[4:] {
				ok = ok && depthOf(t, e) <= MaxDepth
			}
		}
		frame, err := ForKind(PhoenixV2).Decode(data, false)
		if (err == nil) != ok {
			t.Fatalf("%q: error %v, but encoding/json says %v", data, err, ok)
		}
		if err != nil {
			checkReason(t, err)
			return
		}
		checkRef(t, frame.JoinRef, list[0])
		checkRef(t, frame.Ref, list[1])
		if string(frame.Topic) != unquote(t, list[2]) || string(frame.Event) != unquote(t, list[3]) ||
			!bytes.Equal(frame.Payload, list[4]) || frame.Binary {
			t.Errorf("%q: got %s", data, show(frame))
		}
		checkRoundTrip(t, frame)
	})
}

// checkRoundTrip sends a frame out as a push and decodes that: nothing but escapes and white space may change.
func checkRoundTrip(t *testing.T, f Frame) {
	t.Helper()
	text := push(f.JoinRef, f.Ref, Push{Topic: string(f.Topic), Event: string(f.Event), Payload: f.Payload})
	if got, want := show(mustDecode(t, text, false)), show(f); got != want {
		t.Errorf("%s came back as %s", want, got)
	}
}

// A binary message is accepted if a reader of its layout finds every text in it; the frame then has those texts.
func FuzzDecodeV2Binary(f *testing.F) {
	for _, seed := range []string{
		"\x00\x01\x02\x06\x05123room:1shout\x00\xff", "\x00\x00\x00\x00\x00", "\x01\x00\x00\x00\x00", "\x00\x01",
		"\x00\xff\xff\xff\xff", "\x00\x01\x00\x00\x00\xff", "\x00\x02\x00\x00\x00\"\\", "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		frame, err := ForKind(PhoenixV2).Decode(data, true)
		var texts [4]string
		ok := len(data) >= 5 && data[0] == 0
		rest := string(data[min(5, len(data)):])
		for i := 0; ok && i < 4; i++ {
			n := int(data[1+i])
			if ok = n <= len(rest) && utf8.ValidString(rest[:min(n, len(rest))]); ok {
				texts[i], rest = rest[:n], rest[n:]
			}
		}
		if err != nil {
			checkReason(t, err)
			if ok && !strings.HasSuffix(err.Error(), "ref over 64 bytes") {
				t.Fatalf("%q: %v", data, err)
			}
			return
		}
		if !ok {
			t.Fatalf("%q accepted", data)
		}
		if string(frame.Topic) != texts[2] || string(frame.Event) != texts[3] || string(frame.Payload) != rest || !frame.Binary {
			t.Errorf("%q: got %s", data, show(frame))
		}
		for i, ref := range []Ref{frame.JoinRef, frame.Ref} {
			if len(ref) > MaxRef || ref == nil != (texts[i] == "") || ref != nil && unquote(t, ref) != texts[i] {
				t.Errorf("%q: ref %s, want %q", data, ref, texts[i])
			}
		}
		// A server push carries the same, without the ref.
		sent := push(frame.JoinRef, nil, Push{Topic: texts[2], Event: texts[3], Payload: frame.Payload, Binary: true})
		want := string([]byte{0, data[1], data[3], data[4]}) + texts[0] + texts[2] + texts[3] + rest
		if sent != want {
			t.Errorf("%q: sent %q, want %q", data, sent, want)
		}
	})
}
