package api

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/proto/linkpb"
)

// Every outcome of a publish has an answer: which status and word, whether it is worth trying again, and whether nothing has happened.
func TestOutcomes(t *testing.T) {
	for code, want := range map[linkpb.Code]Error{
		linkpb.Code_NOT_OWNER:       {Status: 503, Code: "unavailable", RetryAfter: time.Second, Definite: true},
		linkpb.Code_OVERLOADED:      {Status: 429, Code: "busy", RetryAfter: time.Second, Definite: true},
		linkpb.Code_UNAVAILABLE:     {Status: 503, Code: "unavailable", RetryAfter: time.Second, Definite: true},
		linkpb.Code_RATE_LIMITED:    {Status: 429, Code: "rate_limited", RetryAfter: time.Millisecond, Precisely: true, Definite: true},
		linkpb.Code_TOO_LARGE:       {Status: 413, Code: "too_large", Definite: true},
		linkpb.Code_INVALID:         {Status: 400, Code: "bad_request", Definite: true},
		linkpb.Code_SHUTTING_DOWN:   {Status: 503, Code: "unavailable", RetryAfter: time.Second, Definite: true},
		linkpb.Code_INTERNAL:        {Status: 500, Code: "internal", Definite: true},
		linkpb.Code_UNKNOWN_OUTCOME: {Status: 504, Code: "unknown_outcome", PublishID: "id"},
		linkpb.Code_ID_REUSED:       {Status: 409, Code: "publish_id_reused", Detail: "the id was used with other content", Definite: true},
	} {
		if got := outcomeError(router.Outcome{Code: code}, "id"); got == nil || *got != want {
			t.Errorf("%v: %+v, want %+v", code, got, want)
		}
	}
	if got := outcomeError(router.Outcome{}, "id"); got != nil {
		t.Errorf("OK: %+v", got)
	}
}

func TestLimits(t *testing.T) {
	now := time.Now()
	l := newLimits("key", 10)
	take := func(name string, retryAfter int) {
		t.Helper()
		err := l.take(name, now)
		if (err == nil) != (retryAfter == 0) {
			t.Fatalf("%s: %v", name, err)
		}
		if err == nil {
			return
		}
		if most := time.Duration(retryAfter) * time.Second; err.(*Error).RetryAfter > most || err.(*Error).RetryAfter <= most-time.Second {
			t.Fatalf("%s: retry after %v, want %v or up to a second less", name, err.(*Error).RetryAfter, most)
		}
	}
	for range 10 {
		take("shop", 0)
	}
	take("shop", 1)
	take("other", 0) // has its own
	now = now.Add(time.Second)
	take("shop", 0)
	l.owe("shop", 34, now) // goes through whole, and what follows waits for it
	take("shop", 3)
	now = now.Add(2 * time.Second)
	take("shop", 1)
	now = now.Add(time.Second)
	take("shop", 0)
	if n := l.refused.Load(); n != 3 {
		t.Errorf("%d refused, want 3", n)
	}
	none := limits{}
	for range 100 {
		if err := none.take("shop", now); err != nil {
			t.Fatal(err)
		}
	}
	none.owe("shop", 1000, now)
}

// Users come and go; those whose rate is not used are forgotten, those who owe something are not.
func TestLimitsOfManyUsers(t *testing.T) {
	now := time.Now()
	l := newLimits("user", 10)
	l.owe("debtor", 1_000_000, now)
	for i := range 20 * manyUsers {
		if err := l.take(strconv.Itoa(i), now); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Millisecond)
	}
	if n := len(l.byKey); n > 3*manyUsers {
		t.Errorf("%d users are remembered", n)
	}
	if err := l.take("debtor", now); err == nil || !strings.Contains(err.Error(), "the user may have 10") {
		t.Errorf("a user who has had too much: %v", err)
	}
}
