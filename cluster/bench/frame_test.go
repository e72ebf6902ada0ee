package bench

import (
	"bytes"
	"strings"
	"testing"
)

func TestFramesComeBack(t *testing.T) {
	for _, size := range []int{0, 1, 125, 126, 127, 65535 >> 1, maxFrame} {
		payload := bytes.Repeat([]byte("ab1"), size)[:size]
		for _, masked := range []bool{false, true} {
			build := appendServerFrame
			if masked {
				build = appendClientFrame
			}
			data := append(build(nil, opText, payload), "next"...)
			f, n, err := parseFrame(data, masked)
			if err != nil || n != len(data)-4 || f.op != opText || !bytes.Equal(f.payload, payload) {
				t.Errorf("%d bytes, masked %t: op %d, %d bytes of %d, %v", size, masked, f.op, n, len(data)-4, err)
			}
			for _, cut := range []int{0, 1, 2, 3, 5, 9, len(data) - 5} {
				part := build(nil, opText, payload)[:min(cut, len(data)-5)]
				if _, n, err := parseFrame(part, masked); n != 0 || err != nil {
					t.Errorf("%d of %d bytes, masked %t: size %d, %v", len(part), size, masked, n, err)
				}
			}
		}
	}
}

func TestParseFrameRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		data   []byte
		masked bool
		want   string
	}{
		"fragment":      {[]byte{0x01, 0x01, 'a'}, false, "fragmented"},
		"continuation":  {[]byte{0x80, 0x01, 'a'}, false, "fragmented"},
		"compressed":    {[]byte{0xc1, 0x01, 'a'}, false, "reserved bits"},
		"masked server": {appendClientFrame(nil, opText, []byte("a")), false, "masked: true, want false"},
		"plain client":  {appendServerFrame(nil, opText, []byte("a")), true, "masked: false, want true"},
		"too long":      {[]byte{0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0}, false, "65536 bytes"},
		"longest":       {[]byte{0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255}, false, "18446744073709551615 bytes"},
	} {
		if _, _, err := parseFrame(c.data, c.masked); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error is %v, want %q", name, err, c.want)
		}
	}
}

func FuzzParseFrame(f *testing.F) {
	f.Add(appendServerFrame(nil, opText, []byte("hello")), false)
	f.Add(appendClientFrame(nil, opClose, []byte{3, 232}), true)
	f.Add([]byte{0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255}, false)
	f.Fuzz(func(t *testing.T, data []byte, masked bool) {
		fr, n, err := parseFrame(bytes.Clone(data), masked)
		if n < 0 || n > len(data) || len(fr.payload) > n || err != nil && n != 0 {
			t.Fatalf("size %d of %d, payload %d, %v", n, len(data), len(fr.payload), err)
		}
	})
}

func TestParseReply(t *testing.T) {
	for _, c := range []struct {
		text, ref   string
		reply, okay bool
	}{
		{`["1","1","bench:x","phx_reply",{"response":{},"status":"ok"}]`, "1", true, true},
		{`["1","1","bench:x","phx_reply",{"status":"ok","response":{}}]`, "1", true, true},
		{`[null,"0000000042","bench:x","phx_reply",{"response":{"reason":"busy"},"status":"error"}]`, "0000000042", true, false},
		{`["1",null,"bench:x","m",{}]`, "", false, false},
		{`["1","1","bench:x","phx_close",{}]`, "", false, false},
		{`x`, "", false, false},
		{``, "", false, false},
	} {
		r, ok := parseReply([]byte(c.text))
		if ok != c.reply || r.ok != c.okay || string(r.ref) != c.ref {
			t.Errorf("%s: %q, %t, %t", c.text, r.ref, r.ok, ok)
		}
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`["1","1","bench:x","phx_reply",{"response":{},"status":"ok"}]`))
	f.Add([]byte(`["1",null,"bench:x","m",{}]`))
	f.Add([]byte("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: " + handshakeAccept + "\r\n\r\n"))
	d := newDelivery("bench:x", 128)
	f.Fuzz(func(t *testing.T, text []byte) {
		parseReply(text)
		isControl(text)
		closeText(text)
		readStamp(d.payload(text))
		readStamp(text)
		if n, err := parseUpgrade(text); n < 0 || n > len(text) || err != nil && n != 0 {
			t.Fatalf("size %d of %d, %v", n, len(text), err)
		}
	})
}

func TestIsControl(t *testing.T) {
	for text, want := range map[string][2]bool{
		`["1","1","bench:x","phx_close",{}]`: {true, false},
		`["1","1","bench:x","phx_error",{}]`: {true, true},
		`["1",null,"bench:x","m",{}]`:        {false, false},
	} {
		if control, failed := isControl([]byte(text)); control != want[0] || failed != want[1] {
			t.Errorf("%s: %t, %t", text, control, failed)
		}
	}
}

func TestParseUpgrade(t *testing.T) {
	const good = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + handshakeAccept + "\r\n\r\n"
	if n, err := parseUpgrade([]byte(good + "\x81\x00")); n != len(good) || err != nil {
		t.Errorf("size %d, %v", n, err)
	}
	if n, err := parseUpgrade([]byte(good[:len(good)-1])); n != 0 || err != nil {
		t.Errorf("unfinished: size %d, %v", n, err)
	}
	for text, want := range map[string]string{
		"HTTP/1.1 503 Service Unavailable\r\n\r\nno room": `503 Service Unavailable: "no room"`,
		"HTTP/1.1 101 Switching Protocols\r\n\r\n":        "Sec-WebSocket-Accept",
		strings.Repeat("x", 5000):                         "no end",
	} {
		if _, err := parseUpgrade([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: error is %v, want %q", text, err, want)
		}
	}
}

func TestCloseText(t *testing.T) {
	for payload, want := range map[string]string{
		"":             "close frame without a status",
		"\x03\xe8":     "close 1000",
		"\x03\xf5slow": "close 1013 slow",
	} {
		if got := closeText([]byte(payload)); got != want {
			t.Errorf("%q: %q, want %q", payload, got, want)
		}
	}
}
