package ring

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Bounds of a ring.
const (
	MaxServers     = 64      // servers in a ring
	MaxWeight      = 10      // weight of one server
	MaxTotalWeight = 64      // sum of all weights; building takes time in the square of it
	MaxFileSize    = 1 << 20 // bytes of a ring file
	MaxStep        = 1 << 41 // from one version to the next; the time in milliseconds is less than that, so dates of all kinds do
	MinSalt        = 32      // bytes of a salt: 128 bits in hex
	MaxSalt        = 128     // bytes of a salt
)

// maxProblems is how many problems one report spells out. Nobody mends more than that at once, and a hostile file of
// a megabyte must not make a report of ten.
const maxProblems = 50

// Problem is one thing wrong with a ring.
type Problem struct {
	Line, Column int    // counted from 1; 0 if the problem has no such place
	Text         string // what is wrong, and what would be right; one line
}

// Error reports everything that is wrong with a ring file, in the order of its lines.
type Error struct {
	Path     string    // the file as it was named; empty if the ring did not come from a file
	Problems []Problem // at least one
	Omitted  int       // problems beyond the first 50
}

// Error returns one line per problem: "ring file PATH:LINE:COLUMN: text", without a last line end.
func (e *Error) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(e.place(p))
		b.WriteString(": ")
		b.WriteString(p.Text)
	}
	if e.Omitted > 0 {
		fmt.Fprintf(&b, "\n%s: and %d more problems", e.place(Problem{}), e.Omitted)
	}
	return b.String()
}

func (e *Error) place(p Problem) string {
	switch {
	case e.Path == "":
		return "ring"
	case p.Line == 0:
		return "ring file " + e.Path
	case p.Column == 0:
		return fmt.Sprintf("ring file %s:%d", e.Path, p.Line)
	}
	return fmt.Sprintf("ring file %s:%d:%d", e.Path, p.Line, p.Column)
}

type position struct{ line, column int }

// A file is what was read of a ring file. Its entries may be wrong or incomplete until a report without problems
// vouches for them.
type file struct {
	version uint64
	force   bool
	salt    string
	saltAt  position
	servers []entry
}

// entry is one element of the list of servers. Only the fields in has were given and are of the right type; at says
// where each of them stands, and where the entry begins.
type entry struct {
	Server
	has field
	at  struct{ entry, id, addr, weight position }
}

type field uint8

const (
	hasID field = 1 << iota
	hasAddr
	hasWeight
	hasAll = hasID | hasAddr | hasWeight
)

// name is how problems speak of the entry: by id if it has one, else by its place in the list, from 1.
func (e *entry) name(i int) string {
	if e.has&hasID != 0 {
		return "server " + quote(e.ID)
	}
	return fmt.Sprintf("server number %d", i+1)
}

// report collects problems.
type report struct{ problems []Problem }

func (r *report) add(at position, format string, args ...any) {
	r.problems = append(r.problems, Problem{at.line, at.column, fmt.Sprintf(format, args...)})
}

// err returns what was collected as an *Error, or nil if there is nothing.
func (r *report) err(path string) error {
	if len(r.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(r.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	e := &Error{Path: path, Problems: r.problems}
	if n := len(e.Problems); n > maxProblems {
		e.Problems, e.Omitted = e.Problems[:maxProblems], n-maxProblems
	}
	return e
}

// saltPattern has the digits of hex and of every base64, none of which means anything to YAML.
var saltPattern = regexp.MustCompile(fmt.Sprintf(`^[A-Za-z0-9+/=_.-]{%d,%d}$`, MinSalt, MaxSalt))

// checkSalt reports a salt that is no good, without its text.
func (r *report) checkSalt(at position, salt string) {
	if salt != "" && !saltPattern.MatchString(salt) {
		r.add(at, "hash_salt has %d bytes: want %d to %d of A-Z a-z 0-9 + / = _ . -, as openssl rand -hex 32 prints",
			len(salt), MinSalt, MaxSalt)
	}
}

// checkExposed reports a salt in a file that must not hold a secret.
func (r *report) checkExposed(f file, exposed error) {
	if f.salt != "" && exposed != nil {
		r.add(f.saltAt, "hash_salt is a secret, and the file's %v", exposed)
	}
}

var idPattern = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// checkServers reports what is wrong with the values of the list at list. Fields that an entry does not have were
// reported before, or may be absent.
func (r *report) checkServers(list position, servers []entry) {
	if len(servers) == 0 {
		r.add(list, "servers is empty: a ring needs at least one server")
	}
	if len(servers) > MaxServers {
		r.add(list, "%d servers: a ring has at most %d", len(servers), MaxServers)
	}
	ids, addrs := map[string]int{}, map[string]int{}
	total := 0
	for i := range servers {
		e := &servers[i]
		if e.has&hasID != 0 {
			r.checkID(servers, i, ids)
		}
		if e.has&hasAddr != 0 {
			r.checkAddr(servers, i, addrs)
		}
		switch {
		case e.has&hasWeight == 0:
		case e.Weight < 1 || e.Weight > MaxWeight:
			r.add(e.at.weight, "%s: weight %d is not from 1 to %d", e.name(i), e.Weight, MaxWeight)
		default:
			total += e.Weight
		}
	}
	// With too many servers the sum says nothing that was not said above.
	if total > MaxTotalWeight && len(servers) <= MaxServers {
		r.add(list, "the weights add up to %d: a ring takes at most %d, so divide them by a common factor", total, MaxTotalWeight)
	}
}

func (r *report) checkID(servers []entry, i int, seen map[string]int) {
	e := &servers[i]
	if !idPattern.MatchString(e.ID) {
		r.add(e.at.id, "server id %s: an id is 1 to 64 of A-Z a-z 0-9 _ . -", quote(e.ID))
		return
	}
	if first, dup := seen[e.ID]; dup {
		r.add(e.at.id, "server id %q is taken: %s", e.ID, servers[first].where(first))
		return
	}
	seen[e.ID] = i
}

func (r *report) checkAddr(servers []entry, i int, seen map[string]int) {
	e := &servers[i]
	canonical, err := canonicalAddr(e.Addr)
	if err != nil {
		r.add(e.at.addr, "%s: addr %s: %v", e.name(i), quote(e.Addr), err)
		return
	}
	if first, dup := seen[canonical]; dup {
		r.add(e.at.addr, "%s: addr %q is taken: %s has it", e.name(i), e.Addr, servers[first].name(first))
		return
	}
	seen[canonical] = i
}

// where tells the reader of a report which entry bears an id first.
func (e *entry) where(i int) string {
	if e.at.id.line == 0 {
		return fmt.Sprintf("server number %d has it", i+1)
	}
	return fmt.Sprintf("the server on line %d has it", e.at.id.line)
}

var hostPattern = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?$`)

// canonicalAddr checks host:port and returns a form in which two spellings of one address are equal. It asks no
// resolver: a name and its address stay two addresses.
func canonicalAddr(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", errors.New("want host:port, e.g. 10.0.0.5:7101")
	}
	n, err := strconv.Atoi(port)
	if err != nil || strconv.Itoa(n) != port {
		return "", fmt.Errorf("port %s is not a plain number", quote(port))
	}
	if n < 1 || n > 65535 {
		return "", fmt.Errorf("port %d is not from 1 to 65535", n)
	}
	if host == "" {
		return "", errors.New("the host is missing: gateways on other machines dial it")
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.IsUnspecified() {
			return "", fmt.Errorf("%s is an address to listen on, not one to dial", host)
		}
		// The zone of an IPv6 address is any text to the library.
		if ip.Zone() != "" && !idPattern.MatchString(ip.Zone()) {
			return "", fmt.Errorf("zone %s is not the name of an interface", quote(ip.Zone()))
		}
		return net.JoinHostPort(ip.Unmap().String(), port), nil
	}
	if len(host) > 253 || !hostPattern.MatchString(host) || strings.Trim(host, "0123456789.") == "" {
		return "", fmt.Errorf("host %s is neither a name nor an IP address", quote(host))
	}
	return strings.TrimSuffix(strings.ToLower(host), ".") + ":" + port, nil
}

// quote makes text from a file fit for a terminal and a log: escaped, and cut after 64 bytes. Where a colon lacks its space,
// a salt sticks to its name.
func quote(s string) string {
	if name, _, found := strings.Cut(s, "hash_salt"); found && len(s) < 1<<10 {
		return strconv.Quote(name+"hash_salt") + "…"
	}
	if len(s) > 64 {
		return strconv.Quote(s[:64]) + "…"
	}
	return strconv.Quote(s)
}

// bare is quote without the quotes.
func bare(s string) string { return strings.Replace(strings.Trim(quote(s), `"`), `"…`, "…", 1) }
