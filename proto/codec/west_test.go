package codec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/ringcast/ringcast/proto/westpb"
)

var westKinds = []Kind{WestJSON, WestText, WestPB}

// pbText is a Protobuf record from `event channel from id data`, "-" being none.
func pbText(fields string) []byte {
	var m westpb.Message
	parts := strings.SplitN(fields, " ", 5)
	for i, field := range []**string{&m.Event, &m.Channel, &m.From, &m.Id} {
		if i < len(parts) && parts[i] != "-" {
			*field = proto.String(parts[i])
		}
	}
	if len(parts) == 5 {
		m.Data = []byte(parts[4])
	}
	b, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&m)
	if err != nil {
		panic(err)
	}
	return b
}

// showWest prints a frame or its error: event channel id data.
func showWest(f Frame, err error) string {
	if err != nil {
		return "refused: " + err.Error()
	}
	field := func(b []byte) string {
		if b == nil {
			return "-"
		}
		return strconv.Quote(string(b))
	}
	return fmt.Sprintf("%s %s %s %s", field(f.Event), field(f.Topic), field(f.Ref), field(f.Payload))
}

// showBytes prints what goes out: text as it is, Protobuf as its fields.
func showBytes(t *testing.T, k Kind, b []byte) string {
	t.Helper()
	if k != WestPB {
		if !utf8.Valid(b) {
			return strconv.Quote(string(b))
		}
		return string(b)
	}
	var m westpb.Message
	if err := m.UnmarshalVT(b); err != nil {
		t.Fatal(err)
	}
	text := "event:" + m.GetEvent()
	for _, f := range []struct {
		name  string
		value *string
	}{{"channel", m.Channel}, {"from", m.From}, {"id", m.Id}} {
		if f.value != nil {
			text += " " + f.name + ":" + *f.value
		}
	}
	if m.Data != nil {
		text += fmt.Sprintf(" data:%q", m.Data)
	}
	return text
}

// What is asked comes out the same whatever the format.
func TestWestGolden(t *testing.T) {
	var out strings.Builder
	fmt.Fprintln(&out, "# decode: the message, then event channel id data")
	for _, in := range []string{
		`{"event":"ping"}`, `{"event":"ping","id":"7"}`, `{"event":"register","channel":"r1"}`, `{"event":"send","channel":"r1","data":"hi"}`,
		`{"data":"All","id":"x","from":"ignored","channel":"ps1","event":"publish","more":[1,{}]}`,
		` { "event" : "pub\u006cish", "channel":null, "id":null, "data":"caf\u00e9 \ud834\udd1e" } `,
		`{"event":"publish","channel":"ps1","data":"/w==","encoding":"base64"}`, `{"event":"publish","channel":"","data":""}`,
		`{"event":"bye","event":"ping"}`, `{"event":"anything else"}`,
		`bye`, `{"event":`, `{"event":"ping"} x`, `{}`, `[]`, `"ping"`, `7`, `{"event":7}`, `{"event":"ping","id":7}`, `{"event":"send","data":{}}`,
		`{"event":"send","data":"?","encoding":"base64"}`, `{"event":"send","data":"x","encoding":"rot13"}`, `{"event":null}`,
	} {
		f, err := ForKind(WestJSON).Decode([]byte(in), false)
		fmt.Fprintf(&out, "\n%s\n%s\n", in, showWest(f, err))
	}
	for _, in := range []string{
		`ping`, `reg r1`, `unreg r1`, `sub ps1`, `unsub ps1`, `send r1 hi`, `send r1 "hello world"`, `send r1 " padded "`, `send "hi there"`,
		`  pub   ps1   All  `, `pub ps1 ""`, `pub ps1`, `reg`, `reg "r one"`, `bye`, `ping pong`, `reg r1 r2`, `send r1 hello world`, `hello`, `hello world`, `"hello world"`,
		``, `   `, `"a" "b"`, `send r1 "a" "b"`, `send r1 "a`, `SEND r1 x`, "send r1 \"caf\u00e9\n\"",
	} {
		f, err := ForKind(WestText).Decode([]byte(in), false)
		fmt.Fprintf(&out, "\n%s\n%s\n", in, showWest(f, err))
	}
	for _, in := range []string{"ping", "register r1", "send r1 - 7 hi there", "publish ps1 ignored - \xff\x00", "- r1"} {
		f, err := ForKind(WestPB).Decode(pbText(in), true)
		fmt.Fprintf(&out, "\nprotobuf %q\n%s\n", in, showWest(f, err))
	}
	fmt.Fprintln(&out, "\n# replies")
	for _, k := range westKinds {
		fmt.Fprintln(&out)
		for _, r := range [][3]string{
			{"", "", WestEstablished}, {"", "", WestTimeout}, {"", "", WestPong}, {"7", "", WestPong}, {"", "r1", "registration_succeeded"},
			{"7", "r1", "registration_denied"}, {"", "", "sending_failed"}, {"", "", "action_not_allowed"}, {"\"7\"", "r\"1", "internal_error"},
		} {
			b := ForKind(k).AppendReply(nil, nil, Ref(r[0]), r[1], r[2], nil)
			fmt.Fprintln(&out, k, showBytes(t, k, b))
		}
	}
	fmt.Fprintln(&out, "\n# deliveries: topic, event and payload, then each format")
	for _, p := range []Push{
		{Topic: "west:ps1", Event: WestMessage, Payload: []byte(`{"channel":"ps1","from":"u1","data":"All"}`)},
		{Topic: "reg:r2", Event: WestMessage, Payload: []byte(`{"name":"r2","from":"u1","id":"7","data":"hello!"}`)},
		{Topic: "west:ps1", Event: WestMessage, Payload: []byte(`{"channel":"ps1","from":"u1","data":"/w==","encoding":"base64"}`)},
		{Topic: "west:ps1", Event: WestMessage, Payload: []byte(`{"data":"caf\u00e9 \"x\""}`)},
		{Topic: "west:ps1", Event: WestMessage, Payload: []byte(`{"data":{"n":[1, 2]},"from":"u1"}`)},
		{Topic: "west:ps1", Event: "shout", Payload: []byte(`{"message":"hi"}`)},
		{Topic: "west:ps1", Event: "shout"},
		{Topic: "west:ps1", Event: "bytes", Payload: []byte("\x00\xff"), Binary: true},
		{Topic: "west:ps1", Event: "bytes", Payload: []byte("text"), Binary: true},
		{Topic: "west:ps1", Event: WestMessage, Payload: []byte(`{"from":7,"id":[],"data":null}`)},
		{Topic: "west:ps1", Event: WestMessage, Payload: []byte(`{"data":"?","encoding":"base64","from":"u1"}`)},
	} {
		fmt.Fprintf(&out, "\n%s %s %q\n", p.Topic, p.Event, p.Payload)
		for _, k := range westKinds {
			b := []byte(pushAs(k, Ref(`"1"`), Ref(`"e:1"`), p))
			fmt.Fprintf(&out, "%s binary:%v %s\n", k, ForKind(k).Binary(&p), showBytes(t, k, b))
		}
	}
	golden(t, "west.txt", out.String())
}

func TestWestWrongOpcode(t *testing.T) {
	for k, data := range map[Kind][]byte{WestJSON: []byte(`{"event":"ping"}`), WestText: []byte(`ping`), WestPB: pbText("ping")} {
		_, err := ForKind(k).Decode(data, k != WestPB)
		wantError(t, err, WestBadEncoding)
		if _, err := ForKind(k).Decode(data, k == WestPB); err != nil {
			t.Errorf("%s: %v", k, err)
		}
	}
}

// Texts are kept for as long as a subscription lasts, so they have a bound.
func TestWestBoundsTexts(t *testing.T) {
	long, longer := strings.Repeat("x", maxWestText), strings.Repeat("x", maxWestText+1)
	for _, tt := range []struct {
		kind Kind
		ok   bool
		data []byte
	}{
		{WestJSON, true, []byte(`{"event":"register","channel":"` + long + `","id":"` + long + `"}`)},
		{WestJSON, false, []byte(`{"event":"register","channel":"` + longer + `"}`)},
		{WestJSON, false, []byte(`{"event":"ping","id":"` + longer + `"}`)},
		{WestPB, true, pbText("register " + long + " - " + long)},
		{WestPB, false, pbText("register " + longer)},
		{WestPB, false, pbText("ping - - " + longer)},
	} {
		_, err := ForKind(tt.kind).Decode(tt.data, tt.kind == WestPB)
		if (err == nil) != tt.ok {
			t.Errorf("%s %.60q: %v", tt.kind, tt.data, err)
		}
	}
	f, err := ForKind(WestText).Decode([]byte("reg "+longer), false)
	if err != nil || f.Topic != nil {
		t.Errorf("text: %s", showWest(f, err))
	}
	bad := pbText("ping")
	bad = append(bad, 0x12, 1, 0xff) // a channel that is not UTF-8
	_, err = ForKind(WestPB).Decode(bad, true)
	wantError(t, err, WestBadRequest)
}

// Whatever the data, subscribers of every format get its bytes.
func TestWestPayloadKeepsBytes(t *testing.T) {
	for _, data := range []string{"", "hi", "caf\u00e9 \U0001d11e", "\x00\x1f\"\\\n", "\xff\xfe", string(bytes.Repeat([]byte{0x80}, 1000))} {
		payload := AppendWestPayload(nil, "channel", "ps1", "u\"1", "i\n7", []byte(data))
		if !json.Valid(payload) {
			t.Fatalf("%q: %s", data, payload)
		}
		if got, want := bytes.Contains(payload, []byte(`"encoding":"base64"`)), !utf8.ValidString(data); got != want {
			t.Errorf("%q: base64 %v", data, got)
		}
		p := Push{Topic: "west:ps1", Event: WestMessage, Payload: payload}
		r := recordOf(&p)
		if string(r.data) != data || r.from != "u\"1" || r.id != "i\n7" || r.channel != "ps1" {
			t.Errorf("%s: %+v", payload, r)
		}
		var pb westpb.Message
		if err := pb.UnmarshalVT([]byte(pushAs(WestPB, nil, nil, p))); err != nil || string(pb.Data) != data {
			t.Errorf("protobuf: %q, %v", pb.Data, err)
		}
		// A JSON delivery is a record that a JSON client could have sent.
		f, err := ForKind(WestJSON).Decode([]byte(pushAs(WestJSON, nil, nil, p)), false)
		if err != nil || string(f.Payload) != data {
			t.Errorf("json: %s", showWest(f, err))
		}
		if text := pushAs(WestText, nil, nil, p); text != "u\"1 ps1:new_message "+data {
			t.Errorf("text: %q", text)
		}
	}
}

func FuzzDecodeWest(f *testing.F) {
	for _, seed := range []string{
		`{"event":"send","channel":"r1","data":"hi","id":"7"}`, `{"event":"ping","encoding":"base64","data":"/w=="}`, `{"a":{}}`, `[]`, `bye`,
		`send r1 "hello world"`, `pub ps1 All`, `"a" "b"`, string(pbText("send r1 - 7 hi")), "\xff", "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, k := range westKinds {
			before := slices.Clone(data)
			frame, err := ForKind(k).Decode(data, k == WestPB)
			if !bytes.Equal(before, data) {
				t.Fatalf("%s changed its input", k)
			}
			if err != nil {
				checkReason(t, err)
				continue
			}
			if k != WestText && len(frame.Event) > maxWestText || len(frame.Topic) > maxWestText || len(frame.Ref) > maxWestText {
				t.Errorf("%s: %s", k, showWest(frame, err))
			}
			if k == WestText {
				continue
			}
			// What was understood is understood again.
			r := record{event: string(frame.Event), channel: string(frame.Topic), id: string(frame.Ref), data: frame.Payload}
			again := r.appendJSON(nil)
			if k == WestPB {
				again = r.appendPB(nil)
			}
			second, err := ForKind(k).Decode(again, k == WestPB)
			if err != nil || string(second.Event) != r.event || string(second.Topic) != r.channel ||
				string(second.Ref) != r.id || !bytes.Equal(second.Payload, r.data) {
				t.Errorf("%s: %s became %s", k, showWest(frame, nil), showWest(second, err))
			}
		}
	})
}

// A payload of any client comes out of every format well formed.
func FuzzWestDelivery(f *testing.F) {
	for _, seed := range []string{
		`{"channel":"ps1","from":"u1","data":"All"}`, `{"data":"/w==","encoding":"base64"}`, `{"data":{"a":1}}`, `{}`, `{"from":7,"data":null}`, "\xff",
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, payload []byte, binary bool) {
		if !binary && !json.Valid(payload) {
			return
		}
		p := Push{Topic: "west:ps1", Event: "e", Payload: payload, Binary: binary}
		if text := pushAs(WestJSON, nil, nil, p); !json.Valid([]byte(text)) {
			t.Errorf("JSON: %s", text)
		}
		var m westpb.Message
		if err := m.UnmarshalVT([]byte(pushAs(WestPB, nil, nil, p))); err != nil || m.GetEvent() != "e" {
			t.Errorf("Protobuf: %v %v", &m, err)
		}
		if text := pushAs(WestText, nil, nil, p); !ForKind(WestText).Binary(&p) && !utf8.ValidString(text) && utf8.Valid(payload) {
			t.Errorf("text: %q", text)
		}
	})
}
