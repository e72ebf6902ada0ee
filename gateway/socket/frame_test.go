package socket

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
)

// The examples of RFC 6455, section 5.7, and the edges of the length forms.
func TestAppendFrame(t *testing.T) {
	tests := []struct {
		op         Opcode
		head, body string
		wantHeader string
	}{
		{OpText, "", "Hello", "8105"},
		{OpText, "Hel", "lo", "8105"},
		{OpBinary, "", "", "8200"},
		{opPing, "Hello", "", "8905"},
		{OpBinary, "", strings.Repeat("x", 125), "827d"},
		{OpBinary, "x", strings.Repeat("x", 125), "827e007e"},
		{OpBinary, "", strings.Repeat("x", 256), "827e0100"},
		{OpBinary, "xx", strings.Repeat("x", 65533), "827effff"},
		{OpBinary, "", strings.Repeat("x", 65536), "827f0000000000010000"},
	}
	for _, test := range tests {
		got := AppendFrame([]byte("before"), test.op, []byte(test.head), []byte(test.body))
		header, _ := hex.DecodeString(test.wantHeader)
		want := "before" + string(header) + test.head + test.body
		if string(got) != want {
			t.Errorf("AppendFrame(%d, %d bytes, %d bytes) = %x…, want %x…", test.op, len(test.head), len(test.body), got[:min(len(got), 20)], want[:min(len(want), 20)])
		}
		if n := frameSize(got[len("before"):]); n != len(got)-len("before") {
			t.Errorf("frameSize = %d, want %d", n, len(got)-len("before"))
		}
	}
}

func TestParseHeader(t *testing.T) {
	tests := []struct {
		in      string
		want    header
		ok      bool
		problem string
	}{
		{in: ""},
		{in: "81"},
		{in: "8185"},
		{in: "818537fa21"},
		{in: "818537fa213d", ok: true, want: header{fin: true, op: OpText, key: 0x3d21fa37, size: 6, length: 5}},
		{in: "018037fa213d", ok: true, want: header{op: OpText, key: 0x3d21fa37, size: 6}},
		{in: "82fe007e01020304", ok: true, want: header{fin: true, op: OpBinary, key: 0x04030201, size: 8, length: 126}},
		{in: "82fe007e"},
		{in: "82ff000000000001000001020304", ok: true, want: header{fin: true, op: OpBinary, key: 0x04030201, size: 14, length: 65536}},
		{in: "82ff7fffffffffffffff01020304", ok: true, want: header{fin: true, op: OpBinary, key: 0x04030201, size: 14, length: 1<<63 - 1}},
		{in: "c185", problem: "reserved bits set"},
		{in: "a185", problem: "reserved bits set"},
		{in: "9185", problem: "reserved bits set"},
		{in: "8385", problem: "unknown opcode 3"},
		{in: "8785", problem: "unknown opcode 7"},
		{in: "8b85", problem: "unknown opcode 11"},
		{in: "8f85", problem: "unknown opcode 15"},
		{in: "8105", problem: "unmasked frame"},
		{in: "0980", problem: "fragmented control frame"},
		{in: "0880", problem: "fragmented control frame"},
		{in: "89fe", problem: "control frame longer than 125 bytes"},
		{in: "88ff", problem: "control frame longer than 125 bytes"},
		{in: "82ff800000000000000001020304", problem: "frame length with the top bit set"},
		{in: "82ffffffffffffffffff01020304", problem: "frame length with the top bit set"},
		{in: "82fe007d01020304", problem: "frame length not in its shortest form"},
		{in: "82ff000000000000ffff01020304", problem: "frame length not in its shortest form"},
	}
	for _, test := range tests {
		b, err := hex.DecodeString(test.in)
		if err != nil {
			t.Fatal(err)
		}
		h, ok, problem := parseHeader(b)
		if ok != test.ok || problem != test.problem || ok && h != test.want {
			t.Errorf("parseHeader(%s) = %+v, %v, %q; want %+v, %v, %q", test.in, h, ok, problem, test.want, test.ok, test.problem)
		}
	}
}

func TestUnmask(t *testing.T) {
	key := [4]byte{0xde, 0xad, 0x01, 0x7f}
	wide := uint32(key[0]) | uint32(key[1])<<8 | uint32(key[2])<<16 | uint32(key[3])<<24
	for n := range 200 {
		for off := range 8 { // also unaligned
			b := make([]byte, off+n)
			for i := range b {
				b[i] = byte(i * 7)
			}
			want := bytes.Clone(b)
			for i := range n {
				want[off+i] ^= key[i%4]
			}
			unmask(b[off:], wide)
			if !bytes.Equal(b, want) {
				t.Fatalf("unmask of %d bytes at %d = %x, want %x", n, off, b, want)
			}
		}
	}
}

// However writes cut the queue, the tail is the rest of the begun frame.
func TestFrameTail(t *testing.T) {
	var queue []byte
	var starts []int
	for _, n := range []int{0, 1, 125, 126, 300, 0, 70000, 5} {
		starts = append(starts, len(queue))
		queue = AppendFrame(queue, OpBinary, nil, make([]byte, n))
	}
	starts = append(starts, len(queue))
	want := func(pos int) int {
		for _, s := range starts {
			if s >= pos {
				return s - pos
			}
		}
		return -1
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		pos, tail := 0, 0
		for pos < len(queue) {
			n := 1 + rng.IntN(min(len(queue)-pos, 1+rng.IntN(80000)))
			tail = frameTail(queue[pos:], tail, n)
			pos += n
			if tail != want(pos) {
				t.Fatalf("tail at %d of %d = %d, want %d", pos, len(queue), tail, want(pos))
			}
		}
	}
}

func TestClosePayload(t *testing.T) {
	tests := []struct {
		code   int
		reason string
		want   string
	}{
		{1000, "", "\x03\xe8"},
		{1012, "restart", "\x03\xf4restart"},
		{4008, "slow", "\x0f\xa8slow"},
		{1005, "never on the wire", ""},
		{1006, "", ""},
		{1015, "", ""},
		{0, "", ""},
		{70000, "", ""},
		{1000, "a\xffb", "\x03\xe8a\uFFFDb"},
		{1000, strings.Repeat("x", 200), "\x03\xe8" + strings.Repeat("x", 123)},
		{1000, strings.Repeat("x", 122) + "é", "\x03\xe8" + strings.Repeat("x", 122)},
		{1000, strings.Repeat("x", 121) + "é", "\x03\xe8" + strings.Repeat("x", 121) + "é"},
		{1000, strings.Repeat("€", 60), "\x03\xe8" + strings.Repeat("€", 41)},
	}
	for _, test := range tests {
		got := closePayload(test.code, test.reason)
		if string(got) != test.want {
			t.Errorf("closePayload(%d, %q) = %q, want %q", test.code, test.reason, got, test.want)
		}
		if len(got) > maxControl || len(got) > 2 && !utf8.Valid(got[2:]) {
			t.Errorf("closePayload(%d, %q) cannot be sent: %q", test.code, test.reason, got)
		}
	}
}

func TestWireCode(t *testing.T) {
	good := map[int]bool{1000: true, 1001: true, 1002: true, 1003: true, 3000: true, 3999: true, 4000: true, 4999: true}
	for code := 1007; code <= 1014; code++ {
		good[code] = true
	}
	for _, code := range []int{-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		good[code] = false
	}
	for code, want := range good {
		if wireCode(code) != want {
			t.Errorf("wireCode(%d) = %v", code, !want)
		}
	}
}

// parked gives a connection that no loop serves: its handler runs in the
// caller, and what it queues stays in out.
func parked(h Handler) *Conn {
	cfg, _ := Config{MaxMessageBytes: 4096, MaxQueueBytes: 1 << 30}.withDefaults()
	l := &Loop{cfg: &cfg}
	c := &Conn{id: 1, loop: l, handler: h, fd: -1}
	l.enter(c)
	return c
}

// transcript feeds input in pieces and tells everything that came of it.
func transcript(input []byte, cut func(left int) int) string {
	var log strings.Builder
	c := parked(&probe{message: func(c *Conn, op Opcode, data []byte) {
		fmt.Fprintf(&log, "message %d %x\n", op, data)
		switch {
		case bytes.HasPrefix(data, []byte("close")):
			c.Close(4000, "asked to")
		case bytes.HasPrefix(data, []byte("panic")):
			panic("asked to")
		}
		clear(data) // a handler may do this
	}})
	input = bytes.Clone(input)
	for len(input) > 0 {
		n := cut(len(input))
		c.received(input[:n:n])
		input = input[n:]
	}
	fmt.Fprintf(&log, "state %d end %v cause %v out %x pong %x panics %d", c.state, c.end, c.cause, c.out, c.pong, c.loop.count.Panics)
	return log.String()
}

// FuzzFrames: any bytes, cut in any way, have the same effect as the bytes in
// one piece, and torn input never takes more memory than the limit allows.
func FuzzFrames(f *testing.F) {
	join := func(frames ...[]byte) []byte { return bytes.Join(frames, nil) }
	seeds := [][]byte{
		{}, text("hello"), binMsg(strings.Repeat("b", 300)),
		join(clientFrame(0x01, "frag"), clientFrame(0x89, "ping"), clientFrame(0x00, "ment"), clientFrame(0x80, "ed")),
		join(text("close"), text("late"), clientFrame(0x02, "x"), closeFrame(4000, "ok")),
		join(text("panic"), text("late")),
		join(clientFrame(0x01, "a\xc3"), clientFrame(0x80, "\xa9b")),
		join(clientFrame(0x01, "a\xc3"), clientFrame(0x80, "b")),
		join(binMsg(strings.Repeat("z", 5000)), text("after"), closeFrame(1000, "")),
		join(clientFrame(0x02, strings.Repeat("z", 3000)), clientFrame(0x80, strings.Repeat("z", 3000)), closeFrame(1009, "x")),
		closeFrame(1000, "bye"), clientFrame(0x88, ""), clientFrame(0x88, "\x03"), clientFrame(0x88, "\x03\xec"), clientFrame(0x88, "\x03\xe8\xff"),
		{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, {0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5},
		{0x81, 0x05, 'h', 'e', 'l', 'l', 'o'}, {0xf1}, {0x80, 0x80, 0, 0, 0, 0}, {0x82, 0xfe, 0, 5, 1, 2, 3, 4},
	}
	for i, s := range seeds {
		f.Add(s, uint64(i))
	}
	f.Fuzz(func(t *testing.T, input []byte, seed uint64) {
		whole := transcript(input, func(left int) int { return left })
		bytewise := transcript(input, func(int) int { return 1 })
		if whole != bytewise {
			t.Fatalf("in one piece:\n%s\nbyte by byte:\n%s", whole, bytewise)
		}
		rng := rand.New(rand.NewPCG(seed, 1))
		pieces := transcript(input, func(left int) int { return 1 + rng.IntN(left) })
		if whole != pieces {
			t.Fatalf("in one piece:\n%s\nin random pieces:\n%s", whole, pieces)
		}
	})
}

func FuzzParseClose(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{3})
	f.Add([]byte("\x03\xe8bye"))
	f.Add([]byte("\x03\xee"))
	f.Add([]byte("\x0f\xa0\xc3\x28"))
	f.Fuzz(func(t *testing.T, p []byte) {
		code, reason, bad, problem := parseClose(p)
		if (bad == 0) != (problem == "") {
			t.Fatalf("bad %d with problem %q", bad, problem)
		}
		if bad == 0 && len(p) > 0 && len(p) <= maxControl && string(closePayload(code, reason)) != string(p) {
			t.Fatalf("%q parsed as %d %q", p, code, reason)
		}
	})
}
