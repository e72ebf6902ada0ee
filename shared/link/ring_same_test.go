package link

import (
	"testing"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/ring"
)

func TestSameRing(t *testing.T) {
	r, err := ring.New(7, []ring.Server{{ID: "b", Addr: "h:2", Weight: 3}, {ID: "a", Addr: "h:1"}})
	if err != nil {
		t.Fatal(err)
	}
	one := func(id, addr string, weight uint32) *linkpb.RingServer {
		return &linkpb.RingServer{Id: id, Addr: addr, Weight: weight}
	}
	for _, test := range []struct {
		name    string
		servers []*linkpb.RingServer
		want    bool
	}{
		{"itself", EncodeRing(r).Servers, true},
		{"another order, weight left out", []*linkpb.RingServer{one("b", "h:2", 3), one("a", "h:1", 0)}, true},
		{"another weight", []*linkpb.RingServer{one("a", "h:1", 1), one("b", "h:2", 2)}, false},
		{"another address", []*linkpb.RingServer{one("a", "h:9", 1), one("b", "h:2", 3)}, false},
		{"one less", []*linkpb.RingServer{one("a", "h:1", 1)}, false},
		{"none", nil, false},
		{"nothing", []*linkpb.RingServer{nil, nil}, false},
	} {
		if got := SameRing(&linkpb.Ring{Version: 7, Servers: test.servers}, r); got != test.want {
			t.Errorf("%s: %t", test.name, got)
		}
	}
}
