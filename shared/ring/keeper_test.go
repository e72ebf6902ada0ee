package ring

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

// keeperRing is a ring of servers with one-letter names.
func keeperRing(t testing.TB, version uint64, ids string) *Ring {
	t.Helper()
	var servers []Server
	for _, id := range ids {
		servers = append(servers, Server{ID: string(id), Addr: fmt.Sprintf("127.0.0.1:%d", 7000+id)})
	}
	r, err := New(version, servers)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func versions(rings []*Ring) string {
	var b strings.Builder
	for _, r := range rings {
		fmt.Fprint(&b, r.Version(), " ")
	}
	return strings.TrimSpace(b.String())
}

func TestKeeperReplaceAndAdopt(t *testing.T) {
	for _, test := range []struct {
		name           string
		next           *Ring
		replace, adopt error
	}{
		{"newer", keeperRing(t, 8, "abcd"), nil, nil},
		{"the same", keeperRing(t, 7, "abc"), ErrSame, ErrSame},
		{"older", keeperRing(t, 6, "abcd"), ErrOlder, ErrOlder},
		{"conflict", keeperRing(t, 7, "abd"), ErrConflict, ErrConflict},
		{"without most of the servers", keeperRing(t, 8, "a"), ErrForce, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			for what, want := range map[string]error{"replace": test.replace, "adopt": test.adopt} {
				changes := 0
				k := NewKeeper(keeperRing(t, 7, "abc"), Hooks{Changed: func(_, _ *Ring) { changes++ }})
				err := k.Replace(test.next)
				if what == "adopt" {
					k = NewKeeper(keeperRing(t, 7, "abc"), Hooks{})
					err = k.Adopt(test.next)
				}
				if !errors.Is(err, want) {
					t.Errorf("%s: error %v, want %v", what, err, want)
				}
				if used := k.Current() == test.next; used != (want == nil) {
					t.Errorf("%s: the ring in use is v%d", what, k.Current().Version())
				}
			}
		})
	}
}

// Whatever comes in whatever order, a Keeper knows the ring in use and the newest of the older ones.
func TestKeeperKnowsTheNewestRings(t *testing.T) {
	rings := make([]*Ring, 41)
	for v := range rings[1:] {
		rings[v+1] = keeperRing(t, uint64(v+1), "ab")
	}
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		var told []*Ring
		first := 1 + rnd.IntN(20)
		k := NewKeeper(rings[first], Hooks{Changing: func(known []*Ring) { told = known }})
		model := []uint64{uint64(first)} // newest first
		for range 60 {
			v := uint64(1 + rnd.IntN(len(rings)-1))
			learn := rnd.IntN(3) > 0
			if !learn {
				v = min(v, model[0]+2)
			}
			known := slices.Contains(model, v)
			full := len(model) == maxKnown && v < model[maxKnown-1]
			if news := k.News(v); news != (!known && !full) {
				t.Fatalf("seed %d: v%d is news: %v, known are %v", seed, v, news, model)
			}
			told = nil
			var ok bool
			if learn {
				ok = k.Learn(rings[v])
			} else {
				ok = k.Replace(rings[v]) == nil
			}
			if want := !known && !full && learn == (v < model[0]); ok != want {
				t.Fatalf("seed %d: v%d was taken: %v, known are %v", seed, v, ok, model)
			}
			if ok {
				model = append(model, v)
				slices.Sort(model)
				slices.Reverse(model)
				model = model[:min(len(model), maxKnown)]
			}
			if got := versions(k.Known()); got != strings.Trim(fmt.Sprint(model), "[]") || ok && versions(told) != got || !ok && told != nil {
				t.Fatalf("seed %d: known are %s, told %s, want %v", seed, got, versions(told), model)
			}
		}
	}
}

// Changing comes before the ring is in use, Changed after; both come one change at a time.
func TestKeeperHooksAreInOrder(t *testing.T) {
	var k *Keeper
	var last uint64
	inside := false
	k = NewKeeper(keeperRing(t, 1, "ab"), Hooks{
		Changing: func(known []*Ring) {
			if inside || k.Current() == known[0] {
				t.Errorf("v%d is in use too early", known[0].Version())
			}
			inside = true
		},
		Changed: func(old, next *Ring) {
			if !inside || k.Current() != next || next.Version() <= old.Version() || old.Version() < last {
				t.Errorf("changed from v%d to v%d after v%d", old.Version(), next.Version(), last)
			}
			last, inside = next.Version(), false
		},
	})
	var all sync.WaitGroup
	for v := range uint64(20) {
		r := keeperRing(t, v+2, "ab")
		all.Go(func() { _ = k.Adopt(r) })
	}
	all.Wait()
	if k.Current().Version() != 21 || last != 21 {
		t.Errorf("v%d in use, v%d told", k.Current().Version(), last)
	}
}
