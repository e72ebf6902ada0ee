package hub

import (
	"math"
	"testing"

	"github.com/ringcast/ringcast/proto/codec"
	"github.com/ringcast/ringcast/proto/linkpb"
)

func TestPositionAsText(t *testing.T) {
	for _, tt := range []struct {
		p    Position
		text string
	}{
		{Position{}, `"0:0"`},
		{Position{35, 36}, `"z:36"`},
		{Position{36, 0}, `"10:0"`},
		{Position{math.MaxUint64, math.MaxUint64}, `"3w5e11264sgsf:18446744073709551615"`},
	} {
		if got := string(tt.p.AppendRef([]byte("x"))); got != "x"+tt.text {
			t.Errorf("%+v: %s, want x%s", tt.p, got, tt.text)
		}
		if got, err := ParsePosition(tt.text[1 : len(tt.text)-1]); err != nil || got != tt.p {
			t.Errorf("%s: %+v, %v", tt.text, got, err)
		}
	}
}

func TestParsePositionRefuses(t *testing.T) {
	for _, text := range []string{
		"", ":", "1", "1:", ":1", "1:2:3", "1:-1", "-1:1", "+1:1", "1:+1", " 1:1", "1:1 ", "1:a", "é:1", "1_0:1", `"1:1"`,
		"3w5e11264sgsg:0", "0:18446744073709551616",
	} {
		if p, err := ParsePosition(text); err == nil || err.Error() != `want "epoch:offset"` {
			t.Errorf("%q: %+v, %v", text, p, err)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	for _, seed := range []string{"0:0", "3w5e11264sgsf:18446744073709551615", "ZZ:007", "1:", ":", "1:2:3"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePosition(text)
		if err != nil {
			if p != (Position{}) {
				t.Errorf("%q: %+v with the error", text, p)
			}
			return
		}
		ref := p.AppendRef(nil)
		if len(ref) > codec.MaxRef {
			t.Errorf("%s is longer than a ref", ref)
		}
		if again, err := ParsePosition(string(ref[1 : len(ref)-1])); err != nil || again != p {
			t.Errorf("%q: %+v, then %s: %+v, %v", text, p, ref, again, err)
		}
	})
}

// Channels that asked for positions get them in the ref slot, in whatever format, and the others beside them do not.
func TestFramesWithPositions(t *testing.T) {
	r := newRig(t)
	var peers []*peer
	for _, k := range []codec.Kind{codec.PhoenixV2, codec.PhoenixV1} {
		peers = append(peers, r.connect("room", `"1"`, k), r.connect("room", `"1"`, k))
	}
	r.turn(func() {
		for i, c := range r.hub.topics["room"].channels {
			c.Positions = i%2 == 1
		}
	})
	m := NewMessage("room", &linkpb.Message{Event: "e", Payload: []byte("1"), Position: &linkpb.Position{Epoch: 1, Offset: 37}})
	r.deliver(m)
	peers[0].want(text(`["1",null,"room","e",1]`))
	peers[1].want(text(`["1","1:37","room","e",1]`))
	peers[2].want(text(`{"ref":null,"topic":"room","event":"e","payload":1}`))
	peers[3].want(text(`{"ref":"1:37","topic":"room","event":"e","payload":1}`))
}

// Send is for one channel, in the hub or not, and says nothing of where the hub is.
func TestSendToOneChannel(t *testing.T) {
	r := newRig(t)
	p, other := r.connect("room", `"1"`, codec.PhoenixV2), r.connect("room", `"2"`, codec.PhoenixV1)
	r.turn(func() {
		for _, c := range r.hub.topics["room"].channels {
			away := &Channel{Conn: c.Conn, JoinRef: c.JoinRef, Codec: c.Codec, Positions: true}
			r.hub.Send(away, message(7, "7"))
			binary := message(8, "8")
			binary.Binary = true
			r.hub.Send(away, binary)
		}
	})
	r.deliver(message(1, "1"))
	p.want(text(`["1","1:7","room","e",7]`), data("\x00\x01\x04\x01"+"1roome8"), text(`["1",null,"room","e",1]`))
	other.want(text(`{"ref":"1:7","topic":"room","event":"e","payload":7}`), text(`{"ref":null,"topic":"room","event":"e","payload":1}`))
}
