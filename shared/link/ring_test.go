package link

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/ring"
)

const salt = "8b3f6c1d0e5a49c7b2d4f6a8091c3e5d"

func TestRingCrossesTheWire(t *testing.T) {
	r, err := ring.NewSalted(9, salt, []ring.Server{{ID: "ts-b", Addr: "b.example:7101", Weight: 3}, {ID: "ts-a", Addr: "127.0.0.1:7101"}})
	if err != nil {
		t.Fatal(err)
	}
	bytes, err := EncodeRing(r).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	m := new(linkpb.Ring)
	if err := m.UnmarshalVT(bytes); err != nil {
		t.Fatal(err)
	}
	got, err := DecodeRing(m)
	if err != nil {
		t.Fatal(err)
	}
	if got.Version() != 9 || got.Hash() != r.Hash() || got.Salt() != salt || fmt.Sprint(got.Servers()) != fmt.Sprint(r.Servers()) {
		t.Errorf("ring v%d of %v", got.Version(), got.Servers())
	}
}

func TestDecodeRingRefuses(t *testing.T) {
	good := &linkpb.RingServer{Id: "ts-a", Addr: "127.0.0.1:7101"}
	for name, m := range map[string]*linkpb.Ring{
		"nothing":       {},
		"no version":    {Servers: []*linkpb.RingServer{good}},
		"no servers":    {Version: 1},
		"nil server":    {Version: 1, Servers: []*linkpb.RingServer{nil}},
		"twice":         {Version: 1, Servers: []*linkpb.RingServer{good, good}},
		"bad id":        {Version: 1, Servers: []*linkpb.RingServer{{Id: "a#1", Addr: "127.0.0.1:7101"}}},
		"bad address":   {Version: 1, Servers: []*linkpb.RingServer{{Id: "a", Addr: "nowhere"}}},
		"a short salt":  {Version: 1, Servers: []*linkpb.RingServer{good}, HashSalt: salt[1:]},
		"a huge weight": {Version: 1, Servers: []*linkpb.RingServer{{Id: "a", Addr: "127.0.0.1:7101", Weight: 1 << 31}}},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := DecodeRing(m)
			var problems *ring.Error
			if r != nil || !errors.As(err, &problems) || !strings.HasPrefix(err.Error(), "link: ring of a peer: ") || strings.Contains(err.Error(), salt[1:]) {
				t.Errorf("ring %v, error %v", r, err)
			}
		})
	}
}

// FuzzDecodeRing: whatever a peer sends is a good ring or an error.
func FuzzDecodeRing(f *testing.F) {
	for _, m := range []*linkpb.Ring{
		{Version: 1, Servers: []*linkpb.RingServer{{Id: "ts-a", Addr: "127.0.0.1:7101"}}},
		{Version: 1 << 63, Servers: []*linkpb.RingServer{{Id: "ts-a", Addr: "[::1]:1", Weight: 2}, {Id: "ts-b", Addr: "b:2"}}},
		{Version: 2, Servers: []*linkpb.RingServer{{Id: "ts-a", Addr: "127.0.0.1:7101"}}, HashSalt: salt},
		{Servers: []*linkpb.RingServer{{}}},
	} {
		bytes, err := m.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(bytes)
	}
	f.Fuzz(func(t *testing.T, bytes []byte) {
		m := new(linkpb.Ring)
		if m.UnmarshalVT(bytes) != nil {
			return
		}
		r, err := DecodeRing(m)
		if err != nil {
			return
		}
		if again, err := DecodeRing(EncodeRing(r)); err != nil || again.Hash() != r.Hash() || again.Version() != m.Version {
			t.Errorf("ring %v came back as %v, %v", m, again, err)
		}
		if _, ok := r.Server(r.Owner("t:a").ID); !ok {
			t.Error("a topic has no owner")
		}
	})
}
