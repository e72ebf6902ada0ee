package link

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/ring"
)

// EncodeRing makes the message that carries a ring to a peer. It has the ring's salt, so it is for no log.
func EncodeRing(r *ring.Ring) *linkpb.Ring {
	m := &linkpb.Ring{Version: r.Version(), HashSalt: r.Salt()}
	for _, s := range r.Servers() {
		m.Servers = append(m.Servers, &linkpb.RingServer{Id: s.ID, Addr: s.Addr, Weight: uint32(s.Weight)})
	}
	return m
}

// SameRing reports whether a peer's ring has the same servers and the same salt as r. It builds nothing.
func SameRing(m *linkpb.Ring, r *ring.Ring) bool {
	var servers []ring.Server
	for _, s := range m.GetServers() {
		servers = append(servers, ring.Server{ID: s.GetId(), Addr: s.GetAddr(), Weight: int(max(s.GetWeight(), 1))})
	}
	slices.SortFunc(servers, func(a, b ring.Server) int { return strings.Compare(a.ID, b.ID) })
	return m.GetHashSalt() == r.Salt() && slices.Equal(servers, r.Servers())
}

// DecodeRing makes the ring that a peer sent. It builds the whole ring, which takes milliseconds: callers compare
// versions first. A ring that breaks the rules of ring files is an error: peers are not trusted with those either.
func DecodeRing(m *linkpb.Ring) (*ring.Ring, error) {
	servers := make([]ring.Server, 0, len(m.Servers))
	for _, s := range m.Servers {
		servers = append(servers, ring.Server{ID: s.GetId(), Addr: s.GetAddr(), Weight: int(s.GetWeight())})
	}
	r, err := ring.NewSalted(m.Version, m.HashSalt, servers)
	if err != nil {
		return nil, fmt.Errorf("link: ring of a peer: %w", err)
	}
	return r, nil
}
