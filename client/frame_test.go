package client

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

func TestDecodeText(t *testing.T) {
	tests := []struct {
		in   string
		want frame
		err  string
	}{
		{in: `["1",null,"t","ev",{"a": 1}]`, want: frame{joinRef: "1", topic: "t", event: "ev", payload: json.RawMessage(`{"a": 1}`)}},
		{in: `[null,"1:2","t","ev",[]]`, want: frame{ref: "1:2", topic: "t", event: "ev", payload: json.RawMessage(`[]`)}},
		{in: ` [ 0 , -7 , "t" , "ev" , null , "more" ] `, want: frame{joinRef: "0", ref: "-7", topic: "t", event: "ev", payload: json.RawMessage(`null`)}},
		{in: `["\u0031","2","t\"","phx_reply",{"status":"ok","response":{"x":[]}}]`,
			want: frame{joinRef: "1", ref: "2", topic: `t"`, event: "phx_reply", status: "ok", payload: json.RawMessage(`{"x":[]}`)}},
		{in: `["1","2","t","phx_reply",{"status":"error","response":"why"}]`,
			want: frame{joinRef: "1", ref: "2", topic: "t", event: "phx_reply", status: "error", payload: json.RawMessage(`"why"`)}},
		{in: `["1","2","t","phx_reply",{"status":"ok"}]`, want: frame{joinRef: "1", ref: "2", topic: "t", event: "phx_reply", status: "ok"}},

		{in: ``, err: "bad frame: unexpected end of JSON input"},
		{in: `{"topic":"t"}`, err: "bad frame: json: cannot unmarshal object into Go value of type []json.RawMessage"},
		{in: `null`, err: "bad frame: want [join_ref, ref, topic, event, payload]"},
		{in: `[]`, err: "bad frame: want [join_ref, ref, topic, event, payload]"},
		{in: `["1","2","t","ev"]`, err: "bad frame: want [join_ref, ref, topic, event, payload]"},
		{in: `["1","2",null,"ev",{}]`, err: "bad frame: want [join_ref, ref, topic, event, payload]"},
		{in: `["1","2","t",7,{}]`, err: "bad frame: want [join_ref, ref, topic, event, payload]"},
		{in: `[true,"2","t","ev",{}]`, err: "bad frame: true is no reference"},
		{in: `["1",{"long":"0123456789012345"},"t","ev",{}]`, err: `bad frame: {"long":"01234567890 is no reference`},
		{in: `["1","2","t","ev",{}`, err: "bad frame: unexpected end of JSON input"},
		{in: `["1","2","t","phx_reply",[]]`, err: `bad frame: the payload of a reply wants {"status", "response"}`},
		{in: `["1","2","t","phx_reply",{"response":{}}]`, err: `bad frame: the payload of a reply wants {"status", "response"}`},
	}
	for _, test := range tests {
		got, err := decodeText([]byte(test.in))
		if err != nil && err.Error() != test.err || err == nil && test.err != "" || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %+v, %v", test.in, got, err)
		}
	}
}

func TestDecodeBinary(t *testing.T) {
	tests := []struct {
		in   string
		want frame
		err  string
	}{
		{in: "\x00\x01\x03\x021t:aevdata", want: frame{joinRef: "1", topic: "t:a", event: "ev", binary: []byte("data")}},
		{in: "\x00\x00\x01\x01te", want: frame{topic: "t", event: "e", binary: []byte{}}},
		{in: "\x01\x01\x02\x01\x02112tokdata", want: frame{joinRef: "1", ref: "12", topic: "t", event: "phx_reply", status: "ok", payload: json.RawMessage("data")}},
		{in: "\x02\x01\x02tevdata", want: frame{topic: "t", event: "ev", binary: []byte("data")}},

		{in: "", err: "bad binary frame: empty"},
		{in: "\x03\x00\x00", err: "bad binary frame: unknown kind 3"},
		{in: "\x00\x01\x01", err: "bad binary frame: torn header"},
		{in: "\x01\x01\x01\x01", err: "bad binary frame: torn header"},
		{in: "\x02\x01\xfftev", err: "bad binary frame: lengths past its end"},
	}
	for _, test := range tests {
		got, err := decodeBinary([]byte(test.in))
		if err != nil {
			if err.Error() != test.err {
				t.Errorf("%q: %v, want %s", test.in, err, test.err)
			}
		} else if test.err != "" || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%q: got %+v", test.in, got)
		}
	}
}

func TestEncodeFrame(t *testing.T) {
	tests := []struct{ joinRef, topic, event, want string }{
		{"1", "topics:a", "ev", `["1","2","topics:a","ev",{}]`},
		{"", "phoenix", "heartbeat", `[null,"2","phoenix","heartbeat",{}]`},
		{"1", "a\"b\\\n", "é", `["1","2","a\"b\\\n","é",{}]`},
	}
	for _, test := range tests {
		kind, got := encodeFrame(test.joinRef, "2", test.topic, test.event, []byte("{}"))
		if kind != websocket.MessageText || string(got) != test.want {
			t.Errorf("got %v %s, want %s", kind, got, test.want)
		}
	}
	kind, got := encodeBinary("1", "22", "t:a", "ev", []byte("\x00\xff"))
	if kind != websocket.MessageBinary || string(got) != "\x00\x01\x02\x03\x02122t:aev\x00\xff" {
		t.Errorf("got %v %q", kind, got)
	}
}

// A frame is taken exactly if it is a JSON array of at least five elements of the right types, and nothing is lost.
func FuzzDecodeText(f *testing.F) {
	for _, seed := range []string{
		`["1",null,"t","ev",{"a":1}]`, `[null,"1:2","t","ev",[]]`, `[0,-7,"t","ev",null,"more"]`, `[ "1" , "2","t","phx_reply",{"status":"ok","response":{}}]`,
		`["1","2","t","phx_reply",{"status":""}]`, `[true,"2","t","ev",{}]`, `["1","2","t",7,{}]`, `[]`, `null`, `{`, "[\"\xff\",\"\\ud800\",\"\",\"\",0]",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := decodeText(data)
		var parts []any
		valid := json.Unmarshal(data, &parts) == nil && len(parts) >= 5
		for i := 0; valid && i < 4; i++ {
			switch parts[i].(type) {
			case string:
			case nil, float64:
				valid = i < 2
			default:
				valid = false
			}
		}
		if valid && parts[3] == eventReply {
			var reply struct{ Status string }
			body, _ := json.Marshal(parts[4])
			valid = json.Unmarshal(body, &reply) == nil && reply.Status != ""
		}
		if valid != (err == nil) {
			// Numbers beyond float64 are JSON all the same.
			if err == nil && json.Valid(data) {
				return
			}
			t.Fatalf("%q: error %v, valid %v", data, err, valid)
		}
		if err != nil {
			if !strings.HasPrefix(err.Error(), "bad frame") {
				t.Errorf("error text %q", err)
			}
			return
		}
		if got.topic != parts[2] || got.event != parts[3] {
			t.Errorf("%q: got %+v", data, got)
		}
		if got.event != eventReply && !bytes.Contains(data, got.payload) {
			t.Errorf("%q: payload %q is not its own", data, got.payload)
		}
	})
}

func FuzzDecodeBinary(f *testing.F) {
	f.Add([]byte("\x00\x01\x03\x021t:aevdata"))
	f.Add([]byte("\x01\x01\x02\x01\x02112tokdata"))
	f.Add([]byte("\x02\x01\x02tevdata"))
	f.Add([]byte("\x02\x01\xfftev"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := decodeBinary(data)
		if err != nil {
			return
		}
		parts := []string{got.joinRef, got.topic, got.event}
		rest := got.binary
		switch data[0] {
		case binaryReply:
			parts, rest = []string{got.joinRef, got.ref, got.topic, got.status}, got.payload
		case binaryBroadcast:
			parts = parts[1:]
		}
		again := []byte{data[0]}
		for _, part := range parts {
			again = append(again, byte(len(part)))
		}
		again = append(append(again, strings.Join(parts, "")...), rest...)
		if !bytes.Equal(again, data) {
			t.Errorf("%q comes back as %q", data, again)
		}
	})
}

// What is encoded is valid JSON and comes back, whatever the names.
func FuzzEncodeFrame(f *testing.F) {
	f.Add("1", "2", "topics:a", "ev")
	f.Add("", "2", "a\"\\\x00", "<&>\u2028")
	f.Fuzz(func(t *testing.T, joinRef, ref, topic, event string) {
		for _, s := range []string{joinRef + "x", ref + "x", topic, event} {
			if checkName("name", s) != nil {
				return
			}
		}
		if event == eventReply {
			return
		}
		_, encoded := encodeFrame(joinRef, ref, topic, event, []byte(`{"a":1}`))
		got, err := decodeText(encoded)
		want := frame{joinRef: joinRef, ref: ref, topic: topic, event: event, payload: json.RawMessage(`{"a":1}`)}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	})
}

func BenchmarkDecodeText(b *testing.B) {
	data := []byte(`["1","1:12345","topics:matrix","event",{"message":"` + strings.Repeat("x", 100) + `"}]`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decodeText(data); err != nil {
			b.Fatal(err)
		}
	}
}
