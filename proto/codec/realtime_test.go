package codec

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// broadcastFrame is what realtime-js sends for channel.send({type: "broadcast"}).
func broadcastFrame(joinRef, ref, topic, event, meta string, encoding byte, data string) []byte {
	texts := []string{joinRef, ref, topic, event, meta}
	b := []byte{broadcastPush}
	for _, text := range texts {
		b = append(b, byte(len(text)))
	}
	b = append(b, encoding)
	return append(b, strings.Join(texts, "")+data...)
}

func TestRealtimeBroadcastOfJSON(t *testing.T) {
	f, err := ForKind(Realtime).Decode(broadcastFrame("1", "7", "realtime:lobby", `sh"out`, `{"persist":true}`, encodingJSON, ` {"n": [1, "é"]} `), true)
	if err != nil {
		t.Fatal(err)
	}
	if string(f.JoinRef) != `"1"` || string(f.Ref) != `"7"` || string(f.Topic) != "realtime:lobby" || string(f.Event) != "broadcast" || f.Binary {
		t.Errorf("%+v", f)
	}
	if want := `{"type":"broadcast","event":"sh\"out","payload":{"n": [1, "é"]}}`; string(f.Payload) != want {
		t.Errorf("payload %s, want %s", f.Payload, want)
	}
}

func TestRealtimeBroadcastOfBytes(t *testing.T) {
	f, err := ForKind(Realtime).Decode(broadcastFrame("", "", "realtime:lobby", "shout", "", encodingBinary, "\x00\xff"), true)
	if err != nil {
		t.Fatal(err)
	}
	if f.JoinRef != nil || f.Ref != nil || string(f.Event) != "shout" || !f.Binary || string(f.Payload) != "\x00\xff" {
		t.Errorf("%+v", f)
	}
	p := Push{Topic: "realtime:lobby", Event: "shout", Payload: f.Payload, Binary: true}
	cd := ForKind(Realtime)
	got := cd.AppendBody(cd.AppendHead(nil, Ref(`"1"`), nil, &p), &p)
	if want := "\x04\x0e\x05\x00\x00realtime:lobbyshout\x00\xff"; string(got) != want || !cd.Binary(&p) {
		t.Errorf("%q, want %q", got, want)
	}
}

// All else is Phoenix V2.
func TestRealtimeIsPhoenixV2(t *testing.T) {
	cd, v2 := ForKind(Realtime), ForKind(PhoenixV2)
	for _, text := range []string{`["1","2","t","broadcast",{"type":"broadcast","event":"e","payload":{}}]`, `[null,"1","phoenix","heartbeat",{}]`, `{}`} {
		got, err := cd.Decode([]byte(text), false)
		want, wantErr := v2.Decode([]byte(text), false)
		if string(got.Payload) != string(want.Payload) || string(got.Event) != string(want.Event) || (err == nil) != (wantErr == nil) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	p := Push{Topic: "t", Event: "broadcast", Payload: []byte(`{}`)}
	if got := cd.AppendBody(cd.AppendHead(nil, Ref(`"1"`), nil, &p), &p); string(got) != `["1",null,"t","broadcast",{}]` || cd.Binary(&p) {
		t.Errorf("push: %s", got)
	}
	if f, err := cd.Decode([]byte("\x00\x01\x01\x01\x0112tedata"), true); err != nil || !f.Binary || string(f.Payload) != "data" {
		t.Errorf("Phoenix's own binary push: %+v, %v", f, err)
	}
}

func TestRealtimeRefuses(t *testing.T) {
	good := broadcastFrame("1", "2", "t", "e", "", encodingJSON, "{}")
	deep := strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth)
	for name, tt := range map[string]struct {
		frame []byte
		want  string
	}{
		"torn header":     {good[:6], "bad binary frame: 6 bytes: the header has 7"},
		"torn event":      {good[:9], "bad binary frame: topic ends at byte 10 of 9"},
		"event past end":  {broadcastFrame("1", "2", "t", "e", "", encodingJSON, "")[:10], "bad binary frame: event ends at byte 11 of 10"},
		"not UTF-8":       {broadcastFrame("1", "2", "\xff", "e", "", encodingJSON, "{}"), "bad binary frame: topic: not UTF-8"},
		"long ref":        {broadcastFrame("1", strings.Repeat("r", 70), "t", "e", "", encodingJSON, "{}"), "bad binary frame: ref over 64 bytes"},
		"long join_ref":   {broadcastFrame(strings.Repeat("r", 70), "1", "t", "e", "", encodingJSON, "{}"), "bad binary frame: join_ref over 64 bytes"},
		"encoding":        {broadcastFrame("1", "2", "t", "e", "", 2, "{}"), "bad binary frame: encoding 2: want 0, binary, or 1, JSON"},
		"no JSON":         {broadcastFrame("1", "2", "t", "e", "", encodingJSON, "{"), "bad binary frame: offset 1: unexpected end"},
		"two values":      {broadcastFrame("1", "2", "t", "e", "", encodingJSON, "{}{}"), "bad binary frame: offset 2: data after the end"},
		"too deep inside": {broadcastFrame("1", "2", "t", "e", "", encodingJSON, deep), "bad binary frame: depth > 32"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ForKind(Realtime).Decode(tt.frame, true)
			wantError(t, err, tt.want)
		})
	}
}

// Whatever bytes come as a broadcast, what comes out of them is fit for all formats.
func FuzzDecodeRealtime(f *testing.F) {
	f.Add(broadcastFrame("1", "2", "realtime:lobby", "shout", `{"persist":true}`, encodingJSON, `{"n":1}`))
	f.Add(broadcastFrame("", "", "t", "\"\\", "", encodingBinary, "\xff"))
	f.Add([]byte{broadcastPush, 255, 255, 255, 255, 255, 1})
	f.Add([]byte("\x00\x01\x01\x01\x0112tedata"))
	f.Fuzz(func(t *testing.T, data []byte) {
		frame, err := ForKind(Realtime).Decode(bytes.Clone(data), true)
		if err != nil {
			checkReason(t, err)
			return
		}
		if len(frame.JoinRef) > MaxRef || len(frame.Ref) > MaxRef || !frame.Binary && (!json.Valid(frame.Payload) || !IsObject(frame.Payload)) {
			t.Errorf("%q: %+v", data, frame)
		}
	})
}
