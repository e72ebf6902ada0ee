package ring

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
)

// ringFile is a file of the given version with the given servers: "a" is at a.example:7101.
func ringFile(version int, extra string, ids ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "version: %d\n%sservers:\n", version, extra)
	for _, id := range ids {
		fmt.Fprintf(&b, "  - id: %s\n    addr: %s.example:7101\n", id, id)
	}
	return b.String()
}

func mustParse(tb testing.TB, data string) *Ring {
	tb.Helper()
	r, err := Parse("x", []byte(data))
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func TestFollow(t *testing.T) {
	inUse := mustParse(t, ringFile(7, "", "a", "b", "c", "d"))
	const force = "force: true\n"
	for _, c := range []struct {
		name, next string
		reason     error
		text       string
	}{
		{"higher", ringFile(8, "", "a", "b", "c", "d"), nil, ""},
		{"much higher", ringFile(7+MaxStep, "", "a", "b", "c", "d", "e"), nil, ""},
		{"too much higher", ringFile(8+MaxStep, "", "a", "b", "c", "d"), ErrTooFar,
			"version 2199023255560 is too far above 7 in use: the next one is 2199023255559 at most"},
		{"too much higher with force", ringFile(math.MaxInt, force, "a"), ErrTooFar,
			"version 9223372036854775807 is too far above 7 in use: the next one is 2199023255559 at most"},
		{"the same", ringFile(7, "", "a", "b", "c", "d"), ErrSame, "the ring is the one in use"},
		{"the same in other order", ringFile(7, force, "d", "c", "b", "a"), ErrSame, "the ring is the one in use"},
		{"older", ringFile(6, "", "a", "b", "c", "d"), ErrOlder, "version 6 is older than 7 in use"},
		{"older with force", ringFile(6, force, "a"), ErrOlder, "version 6 is older than 7 in use"},
		{"conflict", ringFile(7, "", "a", "b", "c", "e"), ErrConflict, "RING_CONFLICT version 7: content differs from the ring in use"},
		{"conflict with force", ringFile(7, force, "a"), ErrConflict, "RING_CONFLICT version 7: content differs from the ring in use"},
		{"half removed", ringFile(8, "", "a", "b"), nil, ""},
		{"half replaced", ringFile(8, "", "a", "b", "x", "y"), nil, ""},
		{"most removed", ringFile(8, "", "a"), ErrForce, "would move 75 % of topics; set force: true"},
		{"most replaced", ringFile(8, "", "a", "x", "y", "z"), ErrForce, "would move 86 % of topics; set force: true"},
		{"all replaced", ringFile(8, "", "w", "x", "y", "z"), ErrForce, "would move 100 % of topics; set force: true"},
		{"all replaced with force", ringFile(8, force, "w", "x", "y", "z"), nil, ""},
		{"most removed, force: false", ringFile(8, "force: false\n", "a"), ErrForce, "would move 75 % of topics; set force: true"},
		{"all at other addresses", strings.ReplaceAll(ringFile(8, "", "a", "b", "c", "d"), "7101", "7102"), nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := inUse.Follow(mustParse(t, c.next))
			if !errors.Is(err, c.reason) {
				t.Errorf("error %v, want %v", err, c.reason)
			}
			if err != nil && err.Error() != c.text {
				t.Errorf("text %q, want %q", err, c.text)
			}
		})
	}
}

func TestFollowGrowsFromOneServer(t *testing.T) {
	one := mustParse(t, ringFile(1, "", "a"))
	many := mustParse(t, ringFile(2, "", "a", "b", "c", "d", "e"))
	if err := one.Follow(many); err != nil {
		t.Errorf("added servers need force: %v", err)
	}
}

func TestSharesAreThoseOfTheTopics(t *testing.T) {
	r := mustParse(t, ringFile(1, "", "a", "b", "c", "d"))
	const topics = 10000
	owned := make(map[string]float64)
	for i := range topics { // other names than those that Shares looks up
		owned[r.Owner(fmt.Sprintf("room:%x", i)).ID] += 1.0 / topics
	}
	sum := 0.0
	for id, share := range r.Shares() {
		sum += share
		if math.Abs(share-owned[id]) > 0.02 {
			t.Errorf("%s: %.3f, but it owns %.3f", id, share, owned[id])
		}
	}
	if math.Abs(sum-1) > 1e-9 {
		t.Errorf("all together: %v", sum)
	}
}

func TestMovedIsTheShareThatMoves(t *testing.T) {
	four := mustParse(t, ringFile(1, "", "a", "b", "c", "d"))
	for _, c := range []struct {
		name string
		next *Ring
	}{
		{"itself", four},
		{"one less", mustParse(t, ringFile(2, "", "a", "b", "c"))},
		{"one more", mustParse(t, ringFile(2, "", "a", "b", "c", "d", "e"))},
		{"others", mustParse(t, ringFile(2, "", "e"))},
	} {
		// Other names than those that Moved looks up.
		const topics = 10000
		moved := 0
		for i := range topics {
			if topic := fmt.Sprintf("room:%x", i); four.Owner(topic).ID != c.next.Owner(topic).ID {
				moved++
			}
		}
		is, got := float64(moved)/topics, four.Moved(c.next)
		if math.Abs(got-is) > 0.02 {
			t.Errorf("%s: Moved() = %.3f, but %.3f of the topics move", c.name, got, is)
		}
		if back := c.next.Moved(four); back != got {
			t.Errorf("%s: %.3f there, %.3f back", c.name, got, back)
		}
	}
}
