package cluster_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/ringcast/ringcast/gateway"
	sockets "github.com/ringcast/ringcast/gateway/socket"
)

// Each test here is a row of a table of bad input: what a client sends, what it is answered, and that nobody beside it
// notices.

func TestRow07_FramesThatBreakTheProtocolClose1002(t *testing.T) {
	n := newNeighborhood(t)
	long := []byte{0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 5}
	for _, test := range []struct {
		name   string
		bytes  []byte
		reason string
	}{
		{"unmasked", []byte{finText, 2, '[', ']'}, "unmasked frame"},
		{"unmasked and empty", []byte{finText, 0}, "unmasked frame"},
		{"RSV1", clientFrame(finText|0x40, []byte("[]")), "reserved bits set"},
		{"RSV2", clientFrame(finText|0x20, []byte("[]")), "reserved bits set"},
		{"RSV3", clientFrame(finText|0x10, []byte("[]")), "reserved bits set"},
		{"RSV1 on a ping", clientFrame(finPing|0x40, nil), "reserved bits set"},
		{"opcode 3", clientFrame(fin|3, nil), "unknown opcode 3"},
		{"opcode 7", clientFrame(fin|7, nil), "unknown opcode 7"},
		{"opcode 11", clientFrame(fin|11, nil), "unknown opcode 11"},
		{"top bit of the length", masked(append([]byte{finBinary}, long...), []byte("hello")), "frame length with the top bit set"},
		{"length in a longer form", masked([]byte{finText, 0x80 | 126, 0, 2}, []byte("[]")), "frame length not in its shortest form"},
		{"long ping", clientFrame(finPing, make([]byte, 126)), "control frame longer than 125 bytes"},
		{"long close", clientFrame(finClose, make([]byte, 70000)), "control frame longer than 125 bytes"},
		{"fragmented ping", clientFrame(finPing&^fin, []byte("a")), "fragmented control frame"},
		{"fragmented close", clientFrame(finClose&^fin, nil), "fragmented control frame"},
		{"continuation of nothing", clientFrame(fin, []byte("a")), "continuation frame without a message"},
		{"message within a message",
			append(clientFrame(finText&^fin, []byte("[")), clientFrame(finText, []byte("]"))...), "new message within a fragmented one"},
		{"close of one byte", clientFrame(finClose, []byte{3}), "close frame of one byte"},
		{"close with 1005", clientFrame(finClose, []byte{1005 >> 8, 1005 & 0xff}), "invalid close code 1005"},
		{"close with 65535", clientFrame(finClose, []byte{0xff, 0xff}), "invalid close code 65535"},
	} {
		n.rejected(test.name, func(s *rawSocket) { s.write(test.bytes) }, 1002, test.reason, sockets.EndProtocol)
	}
}

// Frames that come before the bad one are answered, those after it are not.
func TestRow07_WhatStandsBeforeTheBadFrameIsAnswered(t *testing.T) {
	n := newNeighborhood(t)
	s := dialRaw(t, n.gateway.Addr)
	heartbeat := clientFrame(finText, []byte(`[null,"1","phoenix","heartbeat",{}]`))
	s.write(bytes.Join([][]byte{heartbeat, {finText, 0}, heartbeat}, nil))
	s.expect(`[null,"1","phoenix","phx_reply",{"response":{},"status":"ok"}]`)
	s.expectClose(1002, "unmasked frame")
	n.unharmed(sockets.EndProtocol)
}

func TestRow08_TextThatIsNotUTF8Closes1007(t *testing.T) {
	n := newNeighborhood(t)
	frame := func(text string) string { return `[null,"1","phoenix","heartbeat",{"a":"` + text + `"}]` }
	for name, text := range map[string]string{
		"lone byte":            "\xff",
		"continuation byte":    "\x80",
		"cut sequence":         "\xe2\x82",
		"surrogate":            "\xed\xa0\x80",
		"overlong":             "\xc0\xaf",
		"above the last point": "\xf4\x90\x80\x80",
	} {
		n.rejected(name, func(s *rawSocket) { s.say(frame(text)) }, 1007, "text is not UTF-8", sockets.EndProtocol)
	}
	n.rejected("reason of a close", func(s *rawSocket) { s.write(clientFrame(finClose, []byte{3, 0xe8, 0xff})) },
		1007, "close reason is not UTF-8", sockets.EndProtocol)

	// A character may be cut by a fragment's end: the message counts, not the fragment.
	s := dialRaw(t, n.gateway.Addr)
	whole := frame("€")
	cut := strings.Index(whole, "€") + 1
	s.write(clientFrame(finText&^fin, []byte(whole[:cut])))
	s.write(clientFrame(fin, []byte(whole[cut:])))
	s.expect(`[null,"1","phoenix","phx_reply",{"response":{},"status":"ok"}]`)
}

func TestRow09_BadBinaryFramesClose4400(t *testing.T) {
	n := newNeighborhood(t)
	good := "\x00\x01\x01\x0d\x05" + "12" + "topics:matrix" + "event" + "\xff\x00data"
	for _, test := range []struct{ name, frame, reason string }{
		{"empty", "", "empty"},
		{"kind of a reply", "\x01\x01\x01\x01\x01abcd", "kind 1: want 0, a push"},
		{"unknown kind", "\x07" + good[1:], "kind 7: want 0, a push"},
		{"text in a binary frame", `["1","1","topics:matrix","phx_join",{}]`, "kind 91: want 0, a push"},
		{"torn header", good[:3], "3 bytes: the header has 5"},
		{"no more than a header", good[:5], "join_ref ends at byte 6 of 5"},
		{"torn topic", good[:12], "topic ends at byte 20 of 12"},
		{"event past the end", good[:4] + "\xff" + good[5:], "event ends at byte 275 of 31"},
		{"topic not UTF-8", strings.Replace(good, "topics:", "topics\xff", 1), "topic: not UTF-8"},
	} {
		n.rejected(test.name, func(s *rawSocket) { s.write(clientFrame(finBinary, []byte(test.frame))) },
			4400, "bad binary frame: "+test.reason, sockets.EndLocal)
	}

	// The frame that these were made from is a good one.
	s := dialRaw(t, n.gateway.Addr)
	s.say(`["1","1","topics:matrix","phx_join",{}]`)
	s.expect(`["1","1","topics:matrix","phx_reply",{"response":{},"status":"ok"}]`)
	s.write(clientFrame(finBinary, []byte(good)))
	s.expect(`["1","2","topics:matrix","phx_reply",{"response":{},"status":"ok"}]`)
	first, payload, err := s.read()
	if want := "\x00\x01\x0d\x05" + "1" + "topics:matrix" + "event" + "\xff\x00data"; first != finBinary || string(payload) != want || err != nil {
		t.Fatalf("heard frame %#x %q, error %v, want %q", first, payload, err, want)
	}
}

func TestRow10_MessagesOver64KiBClose1009(t *testing.T) {
	const limit = 64 << 10
	n := newNeighborhood(t)
	// fill is a heartbeat of exactly so many bytes.
	fill := func(size int) []byte {
		text := `[null,"1","phoenix","heartbeat",{"a":""}]`
		return []byte(strings.Replace(text, `""`, `"`+strings.Repeat("x", size-len(text))+`"`, 1))
	}
	const tooBig = "message over 65536 bytes"
	n.rejected("one frame", func(s *rawSocket) { s.write(clientFrame(finText, fill(limit+1))) }, 1009, tooBig, sockets.EndTooBig)
	n.rejected("binary", func(s *rawSocket) { s.write(clientFrame(finBinary, fill(limit+1))) }, 1009, tooBig, sockets.EndTooBig)
	n.rejected("claimed by a header, never sent", func(s *rawSocket) {
		s.write(masked([]byte{finText, 0x80 | 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, nil))
		s.write(make([]byte, 100))
		_ = s.conn.(interface{ CloseWrite() error }).CloseWrite()
	}, 1009, tooBig, sockets.EndTooBig)
	n.rejected("fragments", func(s *rawSocket) {
		whole := fill(limit + 1)
		s.write(clientFrame(finText&^fin, whole[:limit/2]))
		s.write(clientFrame(0, whole[limit/2:limit]))
		s.write(clientFrame(fin, whole[limit:]))
	}, 1009, tooBig, sockets.EndTooBig)
	n.rejected("fragments of one byte", func(s *rawSocket) {
		whole := fill(limit + 1)
		stream := clientFrame(finText&^fin, whole[:1])
		for i := 1; i < len(whole); i++ {
			stream = append(stream, clientFrame(0, whole[i:i+1])...)
		}
		s.write(stream)
	}, 1009, "message of more than 1024 fragments", sockets.EndTooBig)

	t.Run("compressed", func(t *testing.T) {
		s := dialRaw(t, n.gateway.Addr)
		if s.extensions != "" {
			t.Fatalf("the server agreed to %q", s.extensions)
		}
		s.write(clientFrame(finText|0x40, []byte{0xaa, 0x56, 0x4a, 0x54, 0xb2, 0x52, 0x50, 0xaa, 0x05, 0x00}))
		s.expectClose(1002, "reserved bits set")
	})
	n.unharmed(sockets.EndTooBig, sockets.EndProtocol)

	t.Run("exactly 64 KiB", func(t *testing.T) {
		s := dialRaw(t, n.gateway.Addr)
		whole := fill(limit)
		s.write(clientFrame(finText, whole))
		s.expect(`[null,"1","phoenix","phx_reply",{"response":{},"status":"ok"}]`)
		s.write(clientFrame(finText&^fin, whole[:limit-1]))
		s.write(clientFrame(fin, whole[limit-1:]))
		s.expect(`[null,"1","phoenix","phx_reply",{"response":{},"status":"ok"}]`)
	})
}

func TestRow11_TextThatIsNoFrameCloses4400(t *testing.T) {
	n := newNeighborhood(t)
	const shape = "bad frame: want [join_ref, ref, topic, event, payload]"
	nested := func(depth int) string {
		return `[null,"1","phoenix","heartbeat",` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + `]`
	}
	for _, test := range []struct{ name, text, reason string }{
		{"nothing", ``, shape},
		{"half an object", `{`, shape},
		{"object", `{}`, shape},
		{"string", `"phx_join"`, shape},
		{"empty list", `[]`, shape},
		{"one element", `["1"]`, shape},
		{"four elements", `["1","1","topics:matrix","phx_join"]`, shape},
		{"cut", `["1","1","topics:matrix","phx_join",{`, "bad frame: offset 37: unexpected end"},
		{"topic a number", `["1","1",7,"phx_join",{}]`, "bad frame: topic: want a string"},
		{"event null", `["1","1","topics:matrix",null,{}]`, "bad frame: event: want a string"},
		{"ref a list", `["1",[],"topics:matrix","phx_join",{}]`, "bad frame: ref: want string, number or null"},
		{"ref of 65 bytes", `["1","` + strings.Repeat("7", 63) + `","topics:matrix","phx_join",{}]`, "bad frame: ref over 64 bytes"},
		{"nested 33 deep", nested(33), "bad frame: depth > 32"},
		{"nested 1000 deep", nested(1000), "bad frame: depth > 32"},
		{"nested 30000 deep, never closed", `["1","1","t","e",` + strings.Repeat(`[`, 30000), "bad frame: depth > 32"},
		{"two frames in one", `["1","1","phoenix","heartbeat",{}]["1","2","phoenix","heartbeat",{}]`, "bad frame: offset 34: data after the end"},
	} {
		n.rejected(test.name, func(s *rawSocket) { s.say(test.text) }, 4400, test.reason, sockets.EndLocal)
	}
	t.Run("served", func(t *testing.T) {
		s := dialRaw(t, n.gateway.Addr)
		for _, text := range []string{nested(32), `[null,"1","phoenix","heartbeat",{},"and",{"more":[]}]`} {
			s.say(text)
			s.expect(`[null,"1","phoenix","phx_reply",{"response":{},"status":"ok"}]`)
		}
	})
}

func TestRow12_BadTopicNamesAreRefused(t *testing.T) {
	n := newNeighborhood(t)
	s := dial(t, "client", n.gateway.WebSocketURL())
	const letters = "invalid topic: only ASCII letters, digits and _ . : - are allowed"
	for _, test := range []struct{ topic, joinRef, reason string }{
		{``, `"1"`, "invalid topic: empty"},
		{`room:` + strings.Repeat("x", 251), `"1"`, "invalid topic: 256 bytes, at most 255 are allowed"},
		{`room:a b`, `"1"`, letters},
		{`a b`, `"1"`, letters},
		{`room:\u0000`, `"1"`, letters},
		{`room:a\nb`, `"1"`, letters},
		{`room:ä`, `"1"`, letters},
		{`room:*`, `"1"`, letters},
		{`reg:neo`, `"1"`, "invalid topic: reserved"},
		{`room`, `null`, "unmatched topic"},
		{`room:`, `null`, "unmatched topic"},
		{`:room`, `null`, "unmatched topic"},
	} {
		s.say(fmt.Sprintf(`["1","2","%s","phx_join",{}]`, test.topic))
		s.expect(fmt.Sprintf(`[%s,"2","%s","phx_reply",{"response":{"reason":"%s"},"status":"error"}]`, test.joinRef, test.topic, test.reason))
	}
	s.join("room:" + strings.Repeat("x", 250))
	s.silence()
	_ = s.ws.CloseNow()
	n.unharmed(sockets.EndError)
}

func TestRow12_AnUnknownPrefixIsUnmatched(t *testing.T) {
	n := newNeighborhood(t, func(cfg *gateway.Config) { cfg.Topics = "topics:*,room:lobby" })
	s := dial(t, "client", n.gateway.WebSocketURL())
	for _, topic := range []string{"room:1", "room:lobby2", "rooms:lobby", "topic:matrix"} {
		s.say(fmt.Sprintf(`["1","2","%s","phx_join",{}]`, topic))
		s.expect(fmt.Sprintf(`[null,"2","%s","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]`, topic))
	}
	s.join("room:lobby")
	_ = s.ws.CloseNow()
	n.unharmed(sockets.EndError)
}

func TestRow13_PushToATopicNotJoinedIsUnmatched(t *testing.T) {
	n := newNeighborhood(t)
	s := dial(t, "client", n.gateway.WebSocketURL())
	s.join("room:1")
	s.say(`["1","2","room:1","phx_leave",{}]`)
	s.expect(`["1","2","room:1","phx_reply",{"response":{},"status":"ok"}]`, `["1","1","room:1","phx_close",{}]`)
	// The witness has joined the last of these, which gives this client no right to it.
	for _, topic := range []string{"room:1", "room:2", "phoenix", "a b", "", "topics:witness"} {
		for _, event := range []string{`"publish",["event",{}]`, `"shout",{}`, `"publish",7`} {
			s.say(fmt.Sprintf(`["1","3","%s",%s]`, topic, event))
			s.expect(fmt.Sprintf(`[null,"3","%s","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]`, topic))
		}
	}
	s.silence()
	n.witness.silence()
	_ = s.ws.CloseNow()
	n.unharmed(sockets.EndError)
}

func TestRow14_JoiningTwiceEndsTheOldJoin(t *testing.T) {
	n := newNeighborhood(t)
	s := dial(t, "client", n.gateway.WebSocketURL())
	s.join("room:1")
	s.say(`["2","2","room:1","phx_join",{}]`)
	s.expect(`["2","2","room:1","phx_reply",{"response":{},"status":"ok"}]`, `["1","1","room:1","phx_close",{}]`)

	// What still comes for the old join is neither done nor answered.
	s.say(`["1","3","room:1","publish",["old",{}]]`)
	s.say(`["1","4","room:1","phx_leave",{}]`)
	s.silence()
	s.say(`["2","5","room:1","publish",["new",{}]]`)
	s.expect(`["2","5","room:1","phx_reply",{"response":{},"status":"ok"}]`, `["2",null,"room:1","new",{}]`)

	// Joins that overtake each other: each old one is closed, the last one stays, alone.
	s.say(`["3","6","room:1","phx_join",{}]`)
	s.say(`["4","7","room:1","phx_join",{}]`)
	s.expect(
		`["3","6","room:1","phx_reply",{"response":{},"status":"ok"}]`, `["2","2","room:1","phx_close",{}]`,
		`["4","7","room:1","phx_reply",{"response":{},"status":"ok"}]`, `["3","3","room:1","phx_close",{}]`)
	s.say(`["4","8","room:1","publish",["new",{}]]`)
	s.expect(`["4","8","room:1","phx_reply",{"response":{},"status":"ok"}]`, `["4",null,"room:1","new",{}]`)
	s.silence()
	eventually(t, "one subscriber", func() bool { return len(n.cluster.Owner("room:1").Subscribers("room:1")) == 1 })
	_ = s.ws.CloseNow()
	n.unharmed(sockets.EndError)
}

func TestRow15_The101stJoinIsRefused(t *testing.T) {
	n := newNeighborhood(t)
	s := dial(t, "client", n.gateway.WebSocketURL())
	for i := range 100 {
		s.join(fmt.Sprintf("room:%d", i))
	}
	refused := `["1","1","room:100","phx_reply",{"response":{"reason":"too many channels joined"},"status":"error"}]`
	s.say(`["1","1","room:100","phx_join",{}]`)
	s.expect(refused)

	// To join one of the hundred again takes no more room; to leave one makes some.
	s.say(`["2","2","room:7","phx_join",{}]`)
	s.expect(`["2","2","room:7","phx_reply",{"response":{},"status":"ok"}]`, `["1","1","room:7","phx_close",{}]`)
	s.say(`["1","1","room:100","phx_join",{}]`)
	s.expect(refused)
	s.say(`["2","3","room:7","phx_leave",{}]`)
	s.expect(`["2","3","room:7","phx_reply",{"response":{},"status":"ok"}]`, `["2","2","room:7","phx_close",{}]`)
	s.join("room:100")
	other := dial(t, "other", n.gateway.WebSocketURL())
	other.join("room:7")
	_, _ = other.ws.CloseNow(), s.ws.CloseNow()
	n.unharmed(sockets.EndError)
}

func TestRow17_PublishesThatCannotBe(t *testing.T) {
	n := newNeighborhood(t)
	s := dial(t, "client", n.gateway.WebSocketURL())
	s.join("topics:witness")
	for _, test := range []struct{ push, reason string }{
		{`"shout",[]`, "payload must be an object"},
		{`"shout",null`, "payload must be an object"},
		{`"shout","{}"`, "payload must be an object"},
		{`"publish",["event",1]`, "bad publish: payload: want an object"},
		{`"publish",["event",[{}]]`, "bad publish: payload: want an object"},
		{`"publish",{"event":{}}`, "bad publish: want [event, object]"},
		{`"publish",["event"]`, "bad publish: want [event, object]"},
		{`"publish",["event",{},{}]`, `bad publish: options: want {\"id\": \"…\"}`},
		{`"publish",["event",{},{"id":"x"},{}]`, "bad publish: want [event, object]"},
		{`"publish",[null,{}]`, "bad publish: event: want a string"},
		{`"publish",["phx_reply",{}]`, "reserved event"},
		{`"publish",["phx_",{}]`, "reserved event"},
		{`"phx_reply",{}`, "reserved event"},
		{`"phx_error",{}`, "reserved event"},
		{`"phx_close",{}`, "reserved event"},
		{`"phx_\u006fwn",{}`, "reserved event"},
		{`"",{}`, "invalid event: empty"},
		{`"` + strings.Repeat("e", 65) + `",{}`, "invalid event: more than 64 bytes"},
		{`"publish",["` + strings.Repeat("e", 65) + `",{}]`, "invalid event: more than 64 bytes"},
	} {
		s.say(`["1","2","topics:witness",` + test.push + `]`)
		s.expect(`["1","2","topics:witness","phx_reply",{"response":{"reason":"` + test.reason + `"},"status":"error"}]`)
	}
	s.say(`["1","3","phoenix","phx_join",{}]`)
	s.expect(`["1","3","phoenix","phx_reply",{"response":{"reason":"reserved event"},"status":"error"}]`)

	// Nobody heard any of them, the publisher included, and it is still joined.
	s.silence()
	n.witness.silence()
	s.say(`["1","4","topics:witness","shout",{}]`)
	s.expect(`["1","4","topics:witness","phx_reply",{"response":{},"status":"ok"}]`, `["1",null,"topics:witness","shout",{}]`)
	n.witness.expect(`["1",null,"topics:witness","shout",{}]`)
	_ = s.ws.CloseNow()
	n.unharmed(sockets.EndError)
}
