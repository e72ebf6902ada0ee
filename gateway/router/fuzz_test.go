package router

import (
	"testing"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// FuzzDown: whatever a topic server sends, the gateway goes on: it ends the lane and dials again, or takes it, and it does
// not panic.
func FuzzDown(f *testing.F) {
	pack := func(kind linkpb.Kind, m linkpb.Item) []byte { return linkpb.AppendItem(nil, kind, m) }
	pos := &linkpb.Position{Epoch: 1, Offset: 3}
	for _, batch := range [][]byte{
		pack(linkpb.KindMessage, &linkpb.Message{Topic: "t:a", Event: "e", Payload: []byte(`{}`), Position: pos}),
		pack(linkpb.KindMessage, &linkpb.Message{Topic: "t:a", Event: "\"\x00", Payload: []byte("\xff{")}),
		pack(linkpb.KindReply, &linkpb.Reply{Ref: 2, Position: pos}), pack(linkpb.KindReply, &linkpb.Reply{Ref: 1, Code: 99}),
		pack(linkpb.KindDigest, &linkpb.Digest{Topic: "t:a", Position: pos}), pack(linkpb.KindDigest, &linkpb.Digest{Topic: "t:a"}),
		pack(linkpb.KindSealed, &linkpb.Sealed{Topic: "t:a", Position: pos}), pack(linkpb.KindSealed, &linkpb.Sealed{}),
		pack(linkpb.KindDownRing, &linkpb.Ring{Version: 2, Servers: []*linkpb.RingServer{{Id: "ts-1", Addr: "127.0.0.1:1"}, nil}}),
		pack(linkpb.KindDownRing, &linkpb.Ring{Version: 1<<64 - 1}), pack(linkpb.KindDownPing, &linkpb.Ping{}),
		pack(linkpb.KindPast, &linkpb.Past{Ref: 1}), pack(linkpb.KindListing, &linkpb.Listing{Ref: 1}),
		pack(linkpb.KindPresenceDiff, &linkpb.PresenceDiff{Topic: "t:a"}), pack(linkpb.KindNameMessage, &linkpb.NameMessage{Topic: "reg:a", Claim: 1}),
		pack(linkpb.KindNameLost, &linkpb.NameLost{Topic: "reg:a", Claim: 1}), pack(linkpb.KindDownRevoke, &linkpb.Revoke{}),
		pack(linkpb.KindWelcome, &linkpb.Welcome{Server: "ts-1"}), pack(linkpb.KindRefusal, &linkpb.Refusal{}),
		[]byte("\x0a\x02\x12\x05"), {}, {0xff},
	} {
		f.Add(batch)
	}
	f.Fuzz(func(t *testing.T, batch []byte) {
		w := newWorld(t, 1)
		o := w.start()
		m := w.member("t:a")
		m.onLoop(m.join)
		u := o.expect("subscribe t:a")
		u.accept(1, 2)
		m.wantOK(1, 2)
		u.wire.AppendEncoded(batch)
		u.wire.Flush()
		// The next thing that the gateway does on that lane, or on the one that it dials after it.
		m.onLoop(func() { m.local.Leave(m.topic, &m.channel) })
		w.eventually("the batch was taken, or the lane is another", func() bool {
			m.onLoop(func() {})
			return w.r.Ready() == nil
		})
		if n := w.logs.FilterMessageSnippet("panic").Len() + int(w.loops.Stats().Panics); n > 0 {
			t.Fatalf("%d panics: %v", n, w.logs.FilterMessageSnippet("panic").All())
		}
	})
}
