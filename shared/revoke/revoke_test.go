package revoke

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func user(name string, at time.Time) *linkpb.Revoke {
	r := New(at, time.Hour)
	r.Target = &linkpb.Revoke_User{User: name}
	return r
}

func token(id string, at time.Time) *linkpb.Revoke {
	r := New(at, time.Hour)
	r.Target = &linkpb.Revoke_TokenId{TokenId: id}
	return r
}

func unsubscription(topic, user, session string) *linkpb.Revoke {
	r := New(noon, time.Hour)
	r.Target = &linkpb.Revoke_Unsubscription{Unsubscription: &linkpb.Unsubscription{Topic: topic, User: user, Session: session}}
	return r
}

// The end of a user's channels is passed on like a revocation, and is none.
func TestUnsubscriptionsRevokeNothing(t *testing.T) {
	t.Parallel()
	var table Table
	if !table.Add(unsubscription("room:1", "neo", ""), noon) || !table.Add(unsubscription("room:1", "", "1-1"), noon) || table.Len() != 2 {
		t.Error("news are none")
	}
	if table.Revoked("neo", "", 0, noon) || table.Revoked("", "1-1", 0, noon) {
		t.Error("a token is revoked")
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	var table Table
	if table.Revoked("neo", "t", 0, noon) {
		t.Error("the empty table revokes")
	}
	neo := user("neo", noon)
	for i, want := range []bool{true, false} {
		if got := table.Add(neo, noon); got != want {
			t.Errorf("Add number %d: %v", i, got)
		}
	}
	if !table.Add(token("t1", noon), noon) || !table.Add(user("neo", noon.Add(-time.Minute)), noon) {
		t.Error("news are none")
	}
	at := noon.Unix()
	for _, test := range []struct {
		user, token string
		issued      int64
		now         time.Time
		want        bool
	}{
		{"neo", "", at - 100, noon, true}, {"neo", "", at, noon, true}, {"neo", "", at + 1, noon, false}, {"trinity", "", at - 100, noon, false},
		{"trinity", "t1", at + 100, noon, true}, {"trinity", "t2", at, noon, false}, {"t1", "neo", at, noon, false},
		{"neo", "", at, noon.Add(time.Hour), false}, {"trinity", "t1", at, noon.Add(time.Hour), false},
	} {
		if got := table.Revoked(test.user, test.token, test.issued, test.now); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
	if table.Len() != 3 || len(table.All()) != 3 {
		t.Errorf("%d revocations, want 3", table.Len())
	}
	table.Sweep(noon.Add(59*time.Minute + 30*time.Second))
	if table.Len() != 2 {
		t.Errorf("%d revocations after the sweep, want 2", table.Len())
	}
	table.Sweep(noon.Add(time.Hour))
	if table.Len() != 0 || table.Revoked("neo", "t1", 0, noon) {
		t.Error("the sweep has left something")
	}
}

func TestTableRefusesNonsense(t *testing.T) {
	t.Parallel()
	var table Table
	none := New(noon, time.Hour)
	long := user(string(make([]byte, MaxTarget+1)), noon)
	far := user("neo", noon)
	far.Until = noon.Add(2 * maxUntil).Unix()
	backwards := user("neo", noon)
	backwards.At = backwards.Until + 1
	for name, r := range map[string]*linkpb.Revoke{
		"no target": none, "long target": long, "ended": user("neo", noon.Add(-time.Hour)), "far": far, "backwards": backwards,
		"no topic": unsubscription("", "neo", ""), "nobody": unsubscription("room:1", "", ""), "two": unsubscription("room:1", "neo", "1-1"),
		"long topic": unsubscription(string(make([]byte, MaxTarget+1)), "neo", ""),
	} {
		if table.Add(r, noon) || Check(r, noon) == nil {
			t.Errorf("%s: added", name)
		}
	}
}

func TestTableIsBounded(t *testing.T) {
	t.Parallel()
	var table Table
	for i := range MaxKept {
		table.Add(user(fmt.Sprint(i), noon.Add(time.Duration(i)*time.Second)), noon)
	}
	table.Add(user("last", noon), noon)
	if table.Len() != MaxKept || table.Forgotten() != 1 || table.Revoked("0", "", 0, noon) || !table.Revoked("1", "", 0, noon) || !table.Revoked("last", "", 0, noon) {
		t.Errorf("%d kept, %d forgotten: want the one that ends first to be gone", table.Len(), table.Forgotten())
	}
}

// Gateways and topic servers pass on what is news to them. Two revocations that end before all others, in tables that are full,
// must come to rest: each is told by everybody, more than once.
func TestFullTablesComeToRest(t *testing.T) {
	t.Parallel()
	var gateway, server Table
	for i := range MaxKept {
		r := user(strconv.Itoa(i), noon.Add(time.Minute))
		gateway.Add(r, noon)
		server.Add(r, noon)
	}
	a, b := user("a", noon), user("b", noon)
	type told struct {
		to *Table
		r  *linkpb.Revoke
	}
	queue := []told{{&gateway, a}, {&gateway, b}}
	for handled := 0; len(queue) > 0; handled++ {
		if handled > 100 {
			t.Fatalf("%d are still on their way", len(queue))
		}
		m := queue[0]
		if queue = queue[1:]; m.to.Add(m.r, noon) {
			other := &gateway
			if m.to == other {
				other = &server
			}
			queue = append(queue, told{other, m.r})
		}
	}
	if gateway.Len() != MaxKept || server.Len() != MaxKept || gateway.Forgotten() != 2 || server.Forgotten() != 2 {
		t.Errorf("%d and %d kept, %d and %d forgotten", gateway.Len(), server.Len(), gateway.Forgotten(), server.Forgotten())
	}
}

// That a revocation was forgotten is remembered of so many only.
func TestWhatWasForgottenIsBounded(t *testing.T) {
	t.Parallel()
	var table Table
	first := IDOf(user("first", noon))
	table.noteGoneLocked(first)
	for range MaxKept {
		table.noteGoneLocked(IDOf(user("next", noon)))
	}
	if _, still := table.gone[first]; still || len(table.gone) != MaxKept || len(table.wasGone) != MaxKept {
		t.Errorf("%d of %d remembered; the first one: %v", len(table.gone), len(table.wasGone), still)
	}
}
