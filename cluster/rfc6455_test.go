package cluster_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ringcast/ringcast/cluster"
	"github.com/ringcast/ringcast/gateway"
)

// rfcCase is a case of the Autobahn test suite for servers, by its number: what a client sends, one write for each piece, and
// what the gateway sends. It does not echo; messages are heartbeats here, and replies stand for echoes.
type rfcCase struct {
	id, name string
	send     [][]byte
	want     []string // "ok REF", "pong PAYLOAD", or last "close CODE REASON"; without one the test closes, and wants its 1000
}

// More first bytes of frames.
const (
	text   = 1 // a first fragment
	rest   = 0 // a fragment in the middle
	last   = fin
	finPon = fin | 10
)

// beat is a heartbeat with a ref and some bytes in its payload; sized one of exactly so many bytes.
func beat(ref, payload string) []byte {
	return []byte(`[null,"` + ref + `","phoenix","heartbeat",{"a":"` + payload + `"}]`)
}

func sized(ref string, size int) []byte {
	return beat(ref, strings.Repeat("x", size-len(beat(ref, ""))))
}

// binaryBeat is a heartbeat in a binary message of exactly so many bytes.
func binaryBeat(size int) []byte {
	head := "\x00\x00\x01\x07\x09bphoenixheartbeat"
	return []byte(head + `{"a":"` + strings.Repeat("x", size-len(head)-len(`{"a":""}`)) + `"}`)
}

func say(payload []byte) []byte     { return clientFrame(finText, payload) }
func ping(payload string) []byte    { return clientFrame(finPing, []byte(payload)) }
func goodbye(payload string) []byte { return clientFrame(finClose, []byte(payload)) }

// closing is the payload of a close frame.
func closing(code uint16, reason string) string {
	return string(binary.BigEndian.AppendUint16(nil, code)) + reason
}

// fragments cuts a message into frames with so many bytes each.
func fragments(first byte, message []byte, size int) [][]byte {
	var frames [][]byte
	for part := range slices.Chunk(message, size) {
		frames = append(frames, clientFrame(first, part))
		first = rest
	}
	frames[len(frames)-1][0] |= fin
	return frames
}

// chops cuts frames into writes of so many bytes.
func chops(size int, frames ...[]byte) [][]byte {
	return slices.Collect(slices.Chunk(bytes.Join(frames, nil), size))
}

func whole(frames ...[]byte) [][]byte { return [][]byte{bytes.Join(frames, nil)} }

const tooBig = "close 1009 message over 65536 bytes"

// rfcMessages are the cases about whole messages, pings and sizes: 1, 2, 9 and 10.
func rfcMessages() []rfcCase {
	long := strings.Repeat("\xfe", 125)
	cases := []rfcCase{
		{"1.1.1", "empty text, which is no frame of ours", whole(say(nil)), []string{"close 4400 bad frame: want [join_ref, ref, topic, event, payload]"}},
		{"1.1.8", "65536 bytes in writes of 997", chops(997, say(sized("1", 65536))), []string{"ok 1"}},
		{"1.2.1", "empty binary, which is no frame of ours", whole(clientFrame(finBinary, nil)), []string{"close 4400 bad binary frame: empty"}},
		{"1.2.8", "65536 bytes of binary in writes of 997", chops(997, clientFrame(finBinary, binaryBeat(65536))), []string{"ok b"}},
		{"2.1", "empty ping", whole(ping("")), []string{"pong "}},
		{"2.2", "ping with text", whole(ping("Hello, world!")), []string{"pong Hello, world!"}},
		{"2.3", "ping with bytes", whole(ping("\x00\xff\xfe\xfd\xfc\xfb\x00\xff")), []string{"pong \x00\xff\xfe\xfd\xfc\xfb\x00\xff"}},
		{"2.4", "ping of 125 bytes", whole(ping(long)), []string{"pong " + long}},
		{"2.5", "ping of 126 bytes", whole(ping(long + "x")), []string{"close 1002 control frame longer than 125 bytes"}},
		{"2.6", "ping of 125 bytes, byte by byte", chops(1, ping(long)), []string{"pong " + long}},
		{"2.7", "pong that nobody asked for", whole(clientFrame(finPon, nil), ping("p")), []string{"pong p"}},
		{"2.8", "pong with payload that nobody asked for", whole(clientFrame(finPon, []byte("what?")), ping("p")), []string{"pong p"}},
		{"2.9", "pong, then ping", whole(clientFrame(finPon, []byte("p")), ping("q")), []string{"pong q"}},
		{"10.1.1", "65536 bytes in fragments of 1300", whole(fragments(text, sized("1", 65536), 1300)...), []string{"ok 1"}},
		{"9.1.2", "text of 256 KiB", whole(say(sized("1", 256<<10))), []string{tooBig}},
		{"9.2.2", "binary of 256 KiB", whole(clientFrame(finBinary, make([]byte, 256<<10))), []string{tooBig}},
		{"9.1.6", "text of 16 MiB, of which no more than its header comes", whole(binary.BigEndian.AppendUint64([]byte{finText, 0xff}, 16<<20), make([]byte, 4)), []string{tooBig}},
		{"9.3.0", "65537 bytes in fragments of 256", whole(fragments(text, sized("1", 65537), 256)...), []string{tooBig}},
	}
	for i, size := range []int{125, 126, 127, 128, 65535, 65536} {
		cases = append(cases,
			rfcCase{fmt.Sprint("1.1.", i+2), fmt.Sprint("text of ", size), whole(say(sized("1", size))), []string{"ok 1"}},
			rfcCase{fmt.Sprint("1.2.", i+2), fmt.Sprint("binary of ", size), whole(clientFrame(finBinary, binaryBeat(size))), []string{"ok b"}})
	}
	var pings, pongs = [][]byte{}, []string{}
	for i := range 10 {
		pings, pongs = append(pings, ping(fmt.Sprint("payload-", i))), append(pongs, fmt.Sprint("pong payload-", i))
	}
	cases = append(cases, rfcCase{"2.10", "ten pings", whole(pings...), pongs}, rfcCase{"2.11", "ten pings, byte by byte", chops(1, pings...), pongs})
	for i, size := range []int{64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10} {
		message, n := sized("1", 64<<10), i+1
		cases = append(cases,
			rfcCase{fmt.Sprint("9.3.", n), fmt.Sprint("64 KiB in fragments of ", size), whole(fragments(text, message, size)...), []string{"ok 1"}},
			rfcCase{fmt.Sprint("9.4.", n), fmt.Sprint("64 KiB of binary in fragments of ", size), whole(fragments(2, binaryBeat(64<<10), size)...), []string{"ok b"}},
			rfcCase{fmt.Sprint("9.5.", n), fmt.Sprint("64 KiB in writes of ", size), chops(size, say(message)), []string{"ok 1"}},
			rfcCase{fmt.Sprint("9.6.", n), fmt.Sprint("64 KiB of binary in writes of ", size), chops(size, clientFrame(finBinary, binaryBeat(64<<10))), []string{"ok b"}})
	}
	for i, size := range []int{64, 256, 1024} {
		many, oks := make([][]byte, 100), make([]string, 100)
		for k := range many {
			many[k], oks[k] = say(sized(fmt.Sprint(k), size)), fmt.Sprint("ok ", k)
		}
		cases = append(cases, rfcCase{fmt.Sprint("9.7.", i+1), fmt.Sprint("a hundred messages of ", size), whole(many...), oks})
	}
	return cases
}

// rfcFraming are the cases about reserved bits, opcodes and fragments: 3, 4 and 5.
func rfcFraming() []rfcCase {
	const rsv = "close 1002 reserved bits set"
	hello := say(beat("1", ""))
	cases := []rfcCase{
		{"3.1", "RSV 1", whole(clientFrame(finText|0x10, beat("2", ""))), []string{rsv}},
		{"3.2", "a good one, RSV 2, ping", whole(hello, clientFrame(finText|0x20, beat("2", "")), ping("")), []string{"ok 1", rsv}},
		{"3.3", "the same, frame by frame", [][]byte{hello, clientFrame(finText|0x20, beat("2", "")), ping("")}, []string{"ok 1", rsv}},
		{"3.4", "the same with RSV 3, byte by byte", chops(1, hello, clientFrame(finText|0x30, nil)[:2]), []string{"ok 1", rsv}},
		{"3.5", "RSV 4 of binary", whole(clientFrame(finBinary|0x40, []byte{0})), []string{rsv}},
		{"3.6", "RSV 5 of a ping", whole(clientFrame(finPing|0x50, nil)), []string{rsv}},
		{"3.7", "RSV 7 of a close", whole(clientFrame(finClose|0x70, nil)), []string{rsv}},
	}
	for i, op := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		id, bad := fmt.Sprintf("4.%d.%d", 1+i/5, 1+i%5), "close 1002 unknown opcode "+strconv.Itoa(int(op))
		cases = append(cases,
			rfcCase{id, fmt.Sprint("opcode ", op), whole(clientFrame(fin|op, nil)), []string{bad}},
			rfcCase{id, fmt.Sprint("a good one, opcode ", op, " with payload, ping"), whole(hello, clientFrame(fin|op, []byte("payload")), ping("")), []string{"ok 1", bad}})
	}
	const torn, nothing, within = "close 1002 fragmented control frame", "close 1002 continuation frame without a message", "close 1002 new message within a fragmented one"
	message := beat("1", "fragment1fragment2")
	half := len(message) / 2
	two := [][]byte{clientFrame(text, message[:half]), clientFrame(last, message[half:])}
	between := [][]byte{two[0], ping("p"), two[1]}
	five := fragments(text, beat("1", strings.Repeat("fragment", 20)), 50)
	five = [][]byte{five[0], five[1], ping("pongme 1!"), five[2], five[3], ping("pongme 2!"), five[4]}
	pieces := func(n int, name string, want []string, frames ...[]byte) []rfcCase { // as one, frame by frame, byte by byte
		return []rfcCase{
			{fmt.Sprint("5.", n), name, whole(frames...), want}, {fmt.Sprint("5.", n+1), name + ", frame by frame", frames, want},
			{fmt.Sprint("5.", n+2), name + ", byte by byte", chops(1, frames...), want},
		}
	}
	return slices.Concat(cases, []rfcCase{
		{"5.1", "ping in two fragments", whole(clientFrame(9, []byte("fragment1")), clientFrame(last, []byte("fragment2"))), []string{torn}},
		{"5.2", "pong in two fragments", whole(clientFrame(10, []byte("fragment1")), clientFrame(last, []byte("fragment2"))), []string{torn}},
	},
		pieces(3, "text in two fragments", []string{"ok 1"}, two...),
		pieces(6, "ping between two fragments", []string{"pong p", "ok 1"}, between...),
		pieces(9, "the end of nothing, then text", []string{nothing}, clientFrame(last, []byte("x")), hello)[:2],
		pieces(12, "the middle of nothing, then text", []string{nothing}, clientFrame(rest, []byte("x")), hello)[:2],
		[]rfcCase{
			{"5.15", "two fragments, then the middle of nothing", whole(two[0], two[1], clientFrame(rest, []byte("x")), hello), []string{"ok 1", nothing}},
			{"5.16", "the middle of nothing, then text, twice", whole(clientFrame(rest, []byte("x")), hello, clientFrame(rest, []byte("x")), hello), []string{nothing}},
			{"5.17", "the end of nothing, then text, twice", whole(clientFrame(last, []byte("x")), hello, clientFrame(last, []byte("x")), hello), []string{nothing}},
			{"5.18", "text within fragmented text", whole(two[0], hello), []string{within}},
		},
		pieces(19, "fragments with two pings between", []string{"pong pongme 1!", "pong pongme 2!", "ok 1"}, five...)[:2])
}

// rfcText are the cases about UTF-8, 6. The gateway judges a message when its end has come, not before: the suite calls that
// "non-strict", which RFC 6455 (8.1) allows.
func rfcText() []rfcCase {
	const bad = "close 1007 text is not UTF-8"
	const greek = "κόσμε"
	message := beat("1", greek)
	cases := []rfcCase{
		{"6.1.2", "three empty fragments", whole(clientFrame(text, nil), clientFrame(rest, nil), clientFrame(last, nil)), []string{"close 4400 bad frame: want [join_ref, ref, topic, event, payload]"}},
		{"6.1.3", "a fragment between two empty ones", whole(clientFrame(text, nil), clientFrame(rest, message), clientFrame(last, nil)), []string{"ok 1"}},
		{"6.2.1", "good text", whole(say(beat("1", "Hello-µ@ßöäüàá-UTF-8!!"))), []string{"ok 1"}},
		{"6.2.2", "in two fragments", whole(fragments(text, message, len(message)/2+1)...), []string{"ok 1"}},
		{"6.2.3", "in fragments of one byte", whole(fragments(text, message, 1)...), []string{"ok 1"}},
		{"6.2.4", "in fragments of one byte, byte by byte", chops(1, fragments(text, message, 1)...), []string{"ok 1"}},
		{"6.3.1", "a surrogate behind good text", whole(say(beat("1", greek+"\xed\xa0\x80edited"))), []string{bad}},
		{"6.3.2", "the same in fragments of one byte", whole(fragments(text, beat("1", greek+"\xed\xa0\x80edited"), 1)...), []string{bad}},
		{"6.4.1", "bad text is told at the message's end", [][]byte{clientFrame(text, []byte(greek)), clientFrame(rest, []byte("\xf4\x90\x80\x80")), ping("still here"), clientFrame(last, []byte("edited"))}, []string{"pong still here", bad}},
		{"6.4.2", "the same, cut within the character", [][]byte{clientFrame(text, []byte(greek+"\xf4")), clientFrame(rest, []byte("\x90")), ping("still here"), clientFrame(last, []byte("edited"))}, []string{"pong still here", bad}},
		{"6.4.3", "in one frame, whose end is late", [][]byte{say(beat("1", greek+"\xf4\x90\x80\x80"))[:50], say(beat("1", greek+"\xf4\x90\x80\x80"))[50:]}, []string{bad}},
	}
	groups := []struct {
		id        int
		what      string
		good, bad []string
	}{
		{5, "good characters", []string{greek, "\U00010000", "\U0001f600"}, nil},
		{6, "cut characters", []string{"\xce\xba"}, []string{"\xce", "\xce\xba\xe1", "\xce\xba\xe1\xbd", "\xce\xba\xe1\xbd\xb9\xcf"}},
		{7, "first of each length", []string{"\u0080", "\u0800", "\U00010000"}, nil},
		{8, "five and six bytes", nil, []string{"\xf8\x88\x80\x80\x80", "\xfc\x84\x80\x80\x80\x80"}},
		{9, "last of each length", []string{"\x7f", "\u07ff", "\uffff", "\U0010ffff"}, nil},
		{10, "last of five and six bytes", nil, []string{"\xfb\xbf\xbf\xbf\xbf", "\xfd\xbf\xbf\xbf\xbf\xbf"}},
		{11, "other bounds", []string{"\ud7ff", "\ue000", "\ufffd", "\U0010ffff"}, []string{"\xf4\x90\x80\x80"}},
		{12, "continuation bytes alone", nil, []string{"\x80", "\xbf", "\x80\xbf", "\x80\xbf\x80\xbf\x80\xbf"}},
		{13, "start bytes alone", nil, []string{"\xc0 \xc1 \xdf ", "\xe0 \xef ", "\xf0 \xf7 ", "\xf8 ", "\xfc "}},
		{14, "last byte missing", nil, []string{"\xc0", "\xe0\x80", "\xf0\x80\x80", "\xdf", "\xef\xbf", "\xf7\xbf\xbf"}},
		{15, "all of these in a row", nil, []string{"\xc0\xe0\x80\xf0\x80\x80\xf8\x80\x80\x80\xdf\xef\xbf\xf7\xbf\xbf"}},
		{16, "impossible bytes", nil, []string{"\xfe", "\xff", "\xfe\xfe\xff\xff"}},
		{17, "overlong", nil, []string{"\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf"}},
		{18, "longest overlong", nil, []string{"\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf"}},
		{19, "overlong NUL", nil, []string{"\xc0\x80", "\xe0\x80\x80", "\xf0\x80\x80\x80"}},
		{20, "surrogates", nil, []string{"\xed\xa0\x80", "\xed\xad\xbf", "\xed\xae\x80", "\xed\xbf\xbf"}},
		{21, "pairs of surrogates", nil, []string{"\xed\xa0\x80\xed\xb0\x80", "\xed\xaf\xbf\xed\xbf\xbf"}},
		{22, "noncharacters", []string{"\ufffe", "\uffff", "\U0001fffe", "\U0010fffe"}, nil},
		{23, "replacement character", []string{"\ufffd"}, nil},
	}
	for _, g := range groups {
		for i, s := range slices.Concat(g.good, g.bad) {
			want := "ok 1"
			if i >= len(g.good) {
				want = bad
			}
			cases = append(cases, rfcCase{fmt.Sprintf("6.%d.%d", g.id, i+1), fmt.Sprintf("%s, %q", g.what, s), whole(say(beat("1", s))), []string{want}})
		}
	}
	return cases
}

// rfcCloses are the cases about the closing handshake: 7.
func rfcCloses() []rfcCase {
	hello, bye := say(beat("1", "")), goodbye(closing(1000, ""))
	reason := strings.Repeat("*", 123)
	cases := []rfcCase{
		{"7.1.1", "message, close", whole(hello, bye), []string{"ok 1", "close 1000 "}},
		{"7.1.2", "two closes", whole(bye, bye), []string{"close 1000 "}},
		{"7.1.3", "close, ping", whole(bye, ping("late")), []string{"close 1000 "}},
		{"7.1.4", "close, message", whole(bye, hello), []string{"close 1000 "}},
		{"7.1.5", "close within a message", whole(clientFrame(text, beat("1", "")), bye, clientFrame(last, nil)), []string{"close 1000 "}},
		{"7.1.6", "256 KiB, close, ping", whole(say(sized("1", 256<<10)), bye, ping("late")), []string{tooBig}},
		{"7.3.1", "empty close", whole(goodbye("")), []string{"close"}},
		{"7.3.2", "close of one byte", whole(goodbye("a")), []string{"close 1002 close frame of one byte"}},
		{"7.3.3", "code alone", whole(bye), []string{"close 1000 "}},
		{"7.3.4", "code and reason", whole(goodbye(closing(1000, "Hello World!"))), []string{"close 1000 Hello World!"}},
		{"7.3.5", "longest reason", whole(goodbye(closing(1000, reason))), []string{"close 1000 " + reason}},
		{"7.3.6", "reason too long", whole(goodbye(closing(1000, reason+"*"))), []string{"close 1002 control frame longer than 125 bytes"}},
		{"7.5.1", "reason not UTF-8", whole(goodbye(closing(1000, "\xce\xba\xed\xa0\x80"))), []string{"close 1007 close reason is not UTF-8"}},
	}
	for i, code := range []uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		cases = append(cases, rfcCase{fmt.Sprint("7.7.", i+1), fmt.Sprint("code ", code), whole(goodbye(closing(code, ""))), []string{fmt.Sprintf("close %d ", code)}})
	}
	for i, code := range []uint16{0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535} {
		id := fmt.Sprint("7.9.", i+1)
		if code >= 5000 {
			id = fmt.Sprint("7.13.", i-8)
		}
		cases = append(cases, rfcCase{id, fmt.Sprint("code ", code), whole(goodbye(closing(code, ""))), []string{fmt.Sprintf("close 1002 invalid close code %d", code)}})
	}
	return cases
}

// play sends what a case sends and checks what comes.
func (c *rfcCase) play(t *testing.T, s *rawSocket) {
	t.Helper()
	for _, piece := range c.send {
		s.write(piece)
	}
	for i, want := range c.want {
		first, payload, err := s.read()
		got := fmt.Sprintf("frame %#x %q, error %v", first, payload, err)
		switch {
		case first == finPon:
			got = "pong " + string(payload)
		case first == finText:
			ref, _, _ := strings.Cut(strings.TrimPrefix(string(payload), `[null,"`), `"`)
			if string(payload) == `[null,"`+ref+`","phoenix","phx_reply",{"response":{},"status":"ok"}]` {
				got = "ok " + ref
			}
		case first == finClose && len(payload) == 0:
			got = "close"
		case first == finClose:
			got = fmt.Sprintf("close %d %s", binary.BigEndian.Uint16(payload), payload[2:])
		}
		if got != want {
			t.Fatalf("answer %d of %d: %.200q, want %.200q", i+1, len(c.want), got, want)
		}
		if strings.HasPrefix(want, "close") {
			s.write(goodbye(string(payload)))
			s.expectEnd()
			return
		}
	}
	s.write(goodbye(closing(1000, "done")))
	s.expectClose(1000, "done")
}

func TestRFC6455(t *testing.T) {
	t.Parallel()
	n := newNeighborhood(t)
	for _, c := range slices.Concat(rfcMessages(), rfcFraming(), rfcText(), rfcCloses()) {
		t.Run(c.id+" "+c.name, func(t *testing.T) { c.play(t, dialRaw(t, n.gateway.Addr)) })
	}
	// 12 and 13: no compression, whatever a client offers; so a compressed message breaks the protocol.
	for i, offer := range []string{
		"permessage-deflate", "permessage-deflate; client_no_context_takeover; client_max_window_bits", "permessage-deflate; server_no_context_takeover",
		"permessage-deflate; server_max_window_bits=9", "permessage-deflate; client_max_window_bits=15, permessage-deflate", "x-webkit-deflate-frame", "permessage-bzip2",
	} {
		t.Run(fmt.Sprintf("13.%d %s", i+1, offer), func(t *testing.T) {
			conn, err := net.Dial("tcp", n.gateway.Addr)
			if err != nil {
				t.Fatal(err)
			}
			s := shakeRaw(t, conn, n.gateway.Addr, offer)
			if s.extensions != "" {
				t.Fatalf("the gateway agrees to %q", s.extensions)
			}
			c := rfcCase{send: whole(clientFrame(finText|0x40, []byte("\xaaVJT\xb2RP\xaa\x05\x00"))), want: []string{"close 1002 reserved bits set"}}
			c.play(t, s)
		})
	}
	n.witness.silence()
	eventually(t, "only the witness is connected", func() bool { stats, _ := n.gateway.Stats(); return stats.Open == 1 })
	if stats, _ := n.gateway.Stats(); stats.Panics != 0 {
		t.Errorf("%d panics", stats.Panics)
	}
}

// The same over TLS, where a goroutine reads: messages, fragments and closes.
func TestRFC6455_TLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	c := start(t, a.encrypt, func(cfg *cluster.Config) {
		encrypted := cfg.Gateway
		cfg.Gateways = 1
		cfg.Gateway = func(g *gateway.Config) { encrypted(g); g.Loops = 1 }
	})
	addr := c.Gateways[0].Addr
	roots := a.client(nil).Transport.(*http.Transport).TLSClientConfig
	for _, c := range slices.Concat(rfcMessages(), rfcFraming(), rfcCloses()) {
		t.Run(c.id+" "+c.name, func(t *testing.T) {
			conn, err := tls.Dial("tcp", addr, roots)
			if err != nil {
				t.Fatal(err)
			}
			c.play(t, shakeRaw(t, conn, addr, "permessage-deflate"))
		})
	}
}
