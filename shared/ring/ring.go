// Package ring says which topic server owns which topic.
//
// A Ring is built once from a ring file and never changes; a service that learns of a newer file builds a new Ring
// and swaps a pointer. Two processes that hold rings of the same content give every topic the same owner, whatever
// the order of the servers in the file: only ids, weights and the salt decide, addresses do not.
package ring

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/lafikl/consistent"
)

// pointsPerWeight is the number of virtual members a server of weight 1 has on the ring. The hash places ten points
// per member, too few for an even share when a server is one member: the busiest of ten servers would own about
// twice the mean. With forty members each it owns 1.07 times the mean as a rule and 1.2 times at worst.
//
// The number is part of the placement: changing it moves topics.
const pointsPerWeight = 40

// Server is one topic server of a ring.
type Server struct {
	ID     string // stable name, 1 to 64 of A-Z a-z 0-9 _ . -; what the ring hashes
	Addr   string // host:port that gateways dial; may change without moving a topic
	Weight int    // share of the topics relative to the other servers, 1 to MaxWeight
}

// Ring is an immutable assignment of topics to servers. All its methods may be called from any goroutine and none
// of them blocks.
type Ring struct {
	version uint64
	hash    uint64
	force   bool
	salt    string            // before every topic that is hashed; a secret
	servers []Server          // sorted by id
	byID    map[string]int    // id → index in servers
	members map[string]Server // virtual member → its server

	// circle is only ever asked with Get. Its GetLeast and load methods count what this process sent where, so two
	// gateways that used them would disagree about the owner of a topic.
	circle *consistent.Consistent
}

// New is NewSalted without a salt.
func New(version uint64, servers []Server) (*Ring, error) { return NewSalted(version, "", servers) }

// NewSalted builds a ring that does not come from a file. It holds its arguments to the rules of a ring file, save
// that a weight of 0 means 1, and returns an *Error that names everything wrong. The slice is not kept. An empty salt
// is none.
//
// Building sorts the circle once per virtual member: 3 ms for three servers, about a second for a ring at the bounds.
func NewSalted(version uint64, salt string, servers []Server) (*Ring, error) {
	f := file{version: version, salt: salt, servers: make([]entry, len(servers))}
	for i, s := range servers {
		if s.Weight == 0 {
			s.Weight = 1
		}
		f.servers[i] = entry{Server: s, has: hasAll}
	}
	var rep report
	if version == 0 {
		rep.add(position{}, "version is 0: the first version is 1")
	}
	rep.checkSalt(position{}, salt)
	rep.checkServers(position{}, f.servers)
	if err := rep.err(""); err != nil {
		return nil, err
	}
	return build(f), nil
}

// build makes the ring of a file in which validation found nothing wrong.
func build(f file) *Ring {
	r := &Ring{
		version: f.version,
		force:   f.force,
		salt:    f.salt,
		servers: make([]Server, len(f.servers)),
		byID:    make(map[string]int, len(f.servers)),
		members: make(map[string]Server, len(f.servers)*pointsPerWeight),
		circle:  consistent.New(),
	}
	for i, e := range f.servers {
		r.servers[i] = e.Server
	}
	slices.SortFunc(r.servers, func(a, b Server) int { return strings.Compare(a.ID, b.ID) })
	for i, s := range r.servers {
		r.byID[s.ID] = i
		for n := range pointsPerWeight * s.Weight {
			// Ids hold no '#' and the library appends one digit per point, so no two members share a point.
			member := fmt.Sprintf("%s#%d", s.ID, n)
			r.members[member] = s
			r.circle.Add(member)
		}
	}
	r.hash = contentHash(r.servers, r.salt)
	return r
}

// contentHash is the first eight bytes of the SHA-256 of one line "id addr weight" per server, and one of two words if
// there is a salt. No word can hold a space or a line end, so different contents give different lines. The hash is no
// secret: what keeps a salt from being guessed by it is that a salt is long.
func contentHash(sorted []Server, salt string) uint64 {
	h := sha256.New()
	for _, s := range sorted {
		fmt.Fprintf(h, "%s %s %d\n", s.ID, s.Addr, s.Weight)
	}
	if salt != "" {
		fmt.Fprintf(h, "hash_salt %s\n", salt)
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// Version is the number in the ring file, at least 1. Every edit raises it; of two rings the higher one counts.
func (r *Ring) Version() uint64 { return r.version }

// Hash is a hash of the servers: ids, addresses and weights, in any order, and of the salt. Version and force are no part of it. Two rings
// of the same version and different hashes are a conflict: somebody edited the file without raising the version.
// The value is stable across processes, platforms and releases.
func (r *Ring) Hash() uint64 { return r.hash }

// Forced says that the file has "force: true": it may remove more than half of the servers at once (see Follow).
func (r *Ring) Forced() bool { return r.force }

// Salt returns the secret that decides the owners of topics together with the servers, or "" if the ring has none. It
// is for files and links between nodes, never for a log or a page.
func (r *Ring) Salt() string { return r.salt }

// String names the ring in logs: its version alone, and no secret.
func (r *Ring) String() string { return fmt.Sprintf("ring v%d", r.version) }

// Servers returns a copy of all servers, sorted by id.
func (r *Ring) Servers() []Server { return slices.Clone(r.servers) }

// Server returns the server with the given id, and whether the ring has it.
func (r *Ring) Server(id string) (Server, bool) {
	i, ok := r.byID[id]
	if !ok {
		return Server{}, false
	}
	return r.servers[i], true
}

// Owner returns the server that owns topic. Every string has an owner; whether it is a valid topic is not asked.
// It costs a cryptographic hash and a search, some hundred nanoseconds: resolve a topic once per ring, not once per
// message.
//
// The hash of the library is a public one, so anybody can find topics that it puts on one server. It is a strong one
// too: with a secret before the topic nobody can who does not know the secret.
func (r *Ring) Owner(topic string) Server {
	member, err := r.circle.Get(r.salt + topic)
	if err != nil {
		// The only error there is says that the circle is empty, and no ring without servers gets built.
		panic(fmt.Sprintf("ring: owner of %q: %v", topic, err))
	}
	return r.members[member]
}
