package ring

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
)

// servers makes n servers of weight 1 whose ids begin with prefix.
func servers(prefix string, n int) []Server {
	list := make([]Server, n)
	for i := range list {
		list[i] = Server{ID: fmt.Sprintf("%s%d", prefix, i), Addr: fmt.Sprintf("10.0.0.%d:7101", i+1), Weight: 1}
	}
	return list
}

func mustNew(tb testing.TB, version uint64, list []Server) *Ring {
	tb.Helper()
	r, err := New(version, list)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// share returns, per server id, how many of n topics the server owns.
func share(r *Ring, n int) map[string]int {
	count := map[string]int{}
	for i := range n {
		count[r.Owner(fmt.Sprintf("topics:t%d", i)).ID]++
	}
	return count
}

// If this fails, the release it would go into cannot share a cluster with the release before it: two gateways would
// disagree about owners.
func TestOwnersNeverChange(t *testing.T) {
	r := mustNew(t, 1, []Server{
		{ID: "ts-a", Addr: "127.0.0.1:7101"},
		{ID: "ts-b", Addr: "127.0.0.1:7102"},
		{ID: "ts-c", Addr: "127.0.0.1:7103", Weight: 2},
	})
	want := map[string]string{
		"":                       "ts-b",
		"topics:a":               "ts-a",
		"topics:b":               "ts-b",
		"topics:matrix":          "ts-c",
		"room:lobby":             "ts-c",
		"room:1":                 "ts-c",
		"room:2":                 "ts-b",
		"west:news":              "ts-c",
		"日本語":                    "ts-a",
		strings.Repeat("x", 300): "ts-c",
	}
	for topic, id := range want {
		if got := r.Owner(topic).ID; got != id {
			t.Errorf("Owner(%.20q) = %s, want %s", topic, got, id)
		}
	}
	if got, want := r.Hash(), uint64(0x17dfe3d305f4bd65); got != want {
		t.Errorf("Hash() = %#x, want %#x", got, want)
	}
}

func TestOwnerIsAServerOfTheRing(t *testing.T) {
	list := servers("ts-", 5)
	r := mustNew(t, 3, list)
	count := share(r, 2000)
	if len(count) != 5 {
		t.Errorf("owners are %v, want all five servers", count)
	}
	for i := range 100 {
		s := r.Owner(fmt.Sprint(i))
		if !slices.Contains(list, s) {
			t.Fatalf("Owner(%d) = %+v, not in the list", i, s)
		}
		if again := r.Owner(fmt.Sprint(i)); again != s {
			t.Fatalf("Owner(%d) = %+v, then %+v", i, s, again)
		}
	}
}

func TestBusiestOfTenServersIsNearTheMean(t *testing.T) {
	const topics = 20000
	for _, prefix := range []string{"ts-", "a", "topic.eu-west."} {
		t.Run(prefix, func(t *testing.T) {
			count := share(mustNew(t, 1, servers(prefix, 10)), topics)
			busiest := 0
			for _, n := range count {
				busiest = max(busiest, n)
			}
			if ratio := float64(busiest) / (topics / 10); ratio > 1.2 {
				t.Errorf("the busiest server owns %.2f times the mean: %v", ratio, count)
			}
		})
	}
}

func TestWeightScalesTheShare(t *testing.T) {
	list := servers("ts-", 4)
	list[2].Weight = 3
	count := share(mustNew(t, 1, list), 12000)
	// Half of the weight is on one server.
	if n := count["ts-2"]; n < 5000 || n > 7000 {
		t.Errorf("the server of weight 3 of 6 owns %d of 12000 topics: %v", n, count)
	}
}

func TestAddedServerOnlyTakes(t *testing.T) {
	before := mustNew(t, 1, servers("ts-", 5))
	after := mustNew(t, 2, append(servers("ts-", 5), Server{ID: "new", Addr: "10.1.0.1:7101"}))
	const topics = 6000
	moved := 0
	for i := range topics {
		topic := fmt.Sprintf("topics:t%d", i)
		was, is := before.Owner(topic), after.Owner(topic)
		if was == is {
			continue
		}
		moved++
		if is.ID != "new" {
			t.Fatalf("%s moved from %s to %s", topic, was.ID, is.ID)
		}
	}
	if moved < topics/6*7/10 || moved > topics/6*13/10 {
		t.Errorf("%d of %d topics moved, want about a sixth", moved, topics)
	}
}

func TestRaisedWeightOnlyTakes(t *testing.T) {
	list := servers("ts-", 4)
	before := mustNew(t, 1, list)
	list[0].Weight = 2
	after := mustNew(t, 2, list)
	for i := range 3000 {
		topic := fmt.Sprintf("topics:t%d", i)
		if was, is := before.Owner(topic), after.Owner(topic); was.ID != is.ID && is.ID != "ts-0" {
			t.Fatalf("%s moved from %s to %s", topic, was.ID, is.ID)
		}
	}
}

func TestAddressMovesNoTopic(t *testing.T) {
	list := servers("ts-", 4)
	before := mustNew(t, 1, list)
	for i := range list {
		list[i].Addr = fmt.Sprintf("host-%d.example:9000", i)
	}
	after := mustNew(t, 2, list)
	for i := range 1000 {
		topic := fmt.Sprintf("topics:t%d", i)
		was, is := before.Owner(topic), after.Owner(topic)
		if was.ID != is.ID {
			t.Fatalf("%s moved from %s to %s", topic, was.ID, is.ID)
		}
		if is.Addr == was.Addr {
			t.Fatalf("%s: owner still at %s", topic, is.Addr)
		}
	}
}

func TestOrderOfServersIsIrrelevant(t *testing.T) {
	list := servers("ts-", 6)
	a := mustNew(t, 1, list)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	b := mustNew(t, 1, list)
	if a.Hash() != b.Hash() {
		t.Errorf("hashes differ: %x and %x", a.Hash(), b.Hash())
	}
	if !reflect.DeepEqual(a.Servers(), b.Servers()) {
		t.Errorf("Servers() = %v and %v", a.Servers(), b.Servers())
	}
	for i := range 1000 {
		topic := fmt.Sprint(i)
		if a.Owner(topic) != b.Owner(topic) {
			t.Fatalf("owners of %s differ", topic)
		}
	}
}

func TestHashCoversContentButNotVersion(t *testing.T) {
	base := []Server{{ID: "a", Addr: "h:1", Weight: 1}, {ID: "b", Addr: "h:2", Weight: 1}}
	r := mustNew(t, 1, base)
	if other := mustNew(t, 2, base); other.Hash() != r.Hash() {
		t.Error("the version changes the hash")
	}
	for what, change := range map[string]func([]Server) []Server{
		"id":     func(l []Server) []Server { l[0].ID = "c"; return l },
		"addr":   func(l []Server) []Server { l[0].Addr = "h:3"; return l },
		"weight": func(l []Server) []Server { l[0].Weight = 2; return l },
		"fewer":  func(l []Server) []Server { return l[:1] },
		"swap":   func(l []Server) []Server { l[0].Addr, l[1].Addr = l[1].Addr, l[0].Addr; return l },
	} {
		if other := mustNew(t, 1, change(slices.Clone(base))); other.Hash() == r.Hash() {
			t.Errorf("%s: the hash stays the same", what)
		}
	}
}

func TestNewTakesZeroWeightForOne(t *testing.T) {
	r := mustNew(t, 7, []Server{{ID: "b", Addr: "h:2"}, {ID: "a", Addr: "h:1"}})
	want := []Server{{ID: "a", Addr: "h:1", Weight: 1}, {ID: "b", Addr: "h:2", Weight: 1}}
	if got := r.Servers(); !reflect.DeepEqual(got, want) {
		t.Errorf("Servers() = %v, want %v", got, want)
	}
	if r.Version() != 7 {
		t.Errorf("Version() = %d, want 7", r.Version())
	}
	if s, ok := r.Server("b"); !ok || s != want[1] {
		t.Errorf("Server(b) = %v, %v", s, ok)
	}
	if s, ok := r.Server("c"); ok || s != (Server{}) {
		t.Errorf("Server(c) = %v, %v, want none", s, ok)
	}
}

func TestServersIsACopy(t *testing.T) {
	list := []Server{{ID: "a", Addr: "h:1"}}
	r := mustNew(t, 1, list)
	list[0].ID = "changed"
	r.Servers()[0].ID = "changed"
	if got := r.Servers()[0].ID; got != "a" {
		t.Errorf("a caller changed the ring: id is %q", got)
	}
}

func TestNewReportsEverythingWrong(t *testing.T) {
	_, err := New(0, []Server{
		{ID: "a#1", Addr: "h:1"},
		{ID: "b", Addr: "h"},
		{ID: "c", Addr: "h:70000", Weight: 11},
		{ID: "c", Addr: "h:5", Weight: -1},
	})
	want := strings.Join([]string{
		`ring: version is 0: the first version is 1`,
		`ring: server id "a#1": an id is 1 to 64 of A-Z a-z 0-9 _ . -`,
		`ring: server "b": addr "h": want host:port, e.g. 10.0.0.5:7101`,
		`ring: server "c": addr "h:70000": port 70000 is not from 1 to 65535`,
		`ring: server "c": weight 11 is not from 1 to 10`,
		`ring: server id "c" is taken: server number 3 has it`,
		`ring: server "c": weight -1 is not from 1 to 10`,
	}, "\n")
	if err == nil || err.Error() != want {
		t.Errorf("error:\n%v\nwant:\n%s", err, want)
	}
	var report *Error
	if !errors.As(err, &report) || len(report.Problems) != 7 || report.Path != "" {
		t.Errorf("report = %+v", report)
	}
}

// Building a ring at the bounds takes about a second (see BenchmarkNew), so this asks validation alone.
func TestBoundsOfTheServers(t *testing.T) {
	problems := func(weights ...int) string {
		var rep report
		list := make([]entry, len(weights))
		for i, s := range servers("ts-", len(weights)) {
			s.Weight = weights[i]
			list[i] = entry{Server: s, has: hasAll}
		}
		rep.checkServers(position{}, list)
		if err := rep.err(""); err != nil {
			return err.Error()
		}
		return ""
	}
	for _, c := range []struct {
		weights []int
		want    string
	}{
		{slices.Repeat([]int{1}, 64), ""},
		{slices.Repeat([]int{1}, 65), "ring: 65 servers: a ring has at most 64"},
		{[]int{10, 10, 10, 10, 10, 10, 4}, ""},
		{[]int{10, 10, 10, 10, 10, 10, 5}, "ring: the weights add up to 65: a ring takes at most 64, so divide them by a common factor"},
		{[]int{11}, `ring: server "ts-0": weight 11 is not from 1 to 10`},
		{nil, "ring: servers is empty: a ring needs at least one server"},
	} {
		if got := problems(c.weights...); got != c.want {
			t.Errorf("weights %v: %q, want %q", c.weights, got, c.want)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	r := mustNew(t, 1, servers("ts-", 3))
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 200 {
				r.Owner(fmt.Sprint(g, i))
				r.Server("ts-1")
				r.Servers()[0].ID = "mine"
			}
		})
	}
	wg.Wait()
}

func TestOwnerDoesNotAllocate(t *testing.T) {
	r := mustNew(t, 1, servers("ts-", 3))
	if n := testing.AllocsPerRun(100, func() { r.Owner("topics:matrix") }); n > 0 {
		t.Errorf("Owner allocates %v times, want none", n)
	}
}

func BenchmarkOwner(b *testing.B) {
	for _, n := range []int{2, 10} {
		benchmarkOwner(b, fmt.Sprintf("servers=%d", n), mustNew(b, 1, servers("ts-", n)))
	}
	benchmarkOwner(b, "salted", salted(b, 1, salt, servers("ts-", 2)))
}

func benchmarkOwner(b *testing.B, name string, r *Ring) {
	b.Run(name, func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.Owner("topics:matrix")
		}
	})
}

func BenchmarkNew(b *testing.B) {
	for _, n := range []int{3, 10, MaxServers} {
		list := servers("ts-", n)
		b.Run(fmt.Sprintf("servers=%d", n), func(b *testing.B) {
			for b.Loop() {
				mustNew(b, 1, list)
			}
		})
	}
}
