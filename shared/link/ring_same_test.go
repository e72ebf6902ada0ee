package link

import (
	"testing"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/ring"
)

func TestSameRing(t *testing.T) {
	r, err := ring.NewSalted(7, salt, []ring.Server{{ID: "b", Addr: "h:2", Weight: 3}, {ID: "a", Addr: "h:1"}})
	if err != nil {
		t.Fatal(err)
	}
	one := func(id, addr string, weight uint32) *linkpb.RingServer {
		return &linkpb.RingServer{Id: id, Addr: addr, Weight: weight}
	}
	for _, test := range []struct {
		name    string
		servers []*linkpb.RingServer
		salt    string
		want    bool
	}{
		{"itself", EncodeRing(r).Servers, salt, true},
		{"another salt", EncodeRing(r).Servers, salt[1:], false},
		{"no salt", EncodeRing(r).Servers, "", false},
		{"another order, weight left out", []*linkpb.RingServer{one("b", "h:2", 3), one("a", "h:1", 0)}, salt, true},
		{"another weight", []*linkpb.RingServer{one("a", "h:1", 1), one("b", "h:2", 2)}, salt, false},
		{"another address", []*linkpb.RingServer{one("a", "h:9", 1), one("b", "h:2", 3)}, salt, false},
		{"one less", []*linkpb.RingServer{one("a", "h:1", 1)}, salt, false},
		{"none", nil, salt, false},
		{"nothing", []*linkpb.RingServer{nil, nil}, salt, false},
	} {
		if got := SameRing(&linkpb.Ring{Version: 7, Servers: test.servers, HashSalt: test.salt}, r); got != test.want {
			t.Errorf("%s: %t", test.name, got)
		}
	}
}
