package check

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/cluster/verify/record"
)

// script makes records of a text. Each line is one, a millisecond after the one before, unless "at DURATION" sets the
// clock. The topic is "a" unless the id or actor has another behind a slash (m1/b). The words are
//
//	begin P M      P sends publish M          join S [ASKED] POS [gap]   S joins; with ASKED it is recovered unless gap
//	retry P M      P sends it again           recv S POS M [SHA]         S receives M
//	ok P M POS     M is acknowledged          left S · error S           S leaves · gets phx_error
//	fail P M · info P M                       close S · bad S            S's socket ends · S gets no frame
//	fault CLASS · over CLASS · died NODE · heal · end
//	used NODE before|during|after GOROUTINES FDS HEAP RSS [QUEUED BOUND]     (sizes in MiB)
//
// where "-" is no position.
func script(t *testing.T, text string) []record.Record {
	t.Helper()
	var records []record.Record
	clock := time.Duration(0)
	for line := range strings.Lines(text) {
		w := strings.Fields(line)
		if len(w) == 0 {
			continue
		}
		if w[0] == "at" {
			d, err := time.ParseDuration(w[1])
			if err != nil {
				t.Fatal(err)
			}
			clock = d
			continue
		}
		clock += time.Millisecond
		r := record.Record{T: int64(clock), Actor: "nemesis", Topic: "a"}
		if len(w) > 1 {
			r.Actor = w[1]
		}
		if i := slices.IndexFunc(w, func(s string) bool { return strings.Contains(s, "/") }); i > 0 {
			w[i], r.Topic, _ = strings.Cut(w[i], "/")
			r.Actor = w[1]
		}
		scriptLine(t, &r, w)
		records = append(records, r)
	}
	return records
}

func scriptLine(t *testing.T, r *record.Record, w []string) {
	t.Helper()
	pos := func(s string) record.Position {
		if s == "-" {
			return record.Position{}
		}
		p, err := record.ParsePosition(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	kinds := map[string]record.Kind{
		"begin": record.Invoke, "retry": record.Retry, "ok": record.OK, "fail": record.Fail, "info": record.Info,
		"join": record.Join, "recv": record.Recv, "left": record.Left, "error": record.Error, "close": record.Close,
		"fault": record.FaultBegin, "over": record.FaultEnd, "died": record.Died, "used": record.Used, "bad": record.Bad, "heal": record.Heal, "end": record.End,
	}
	r.Kind = kinds[w[0]]
	switch w[0] {
	case "begin", "retry", "fail", "info":
		r.ID, r.SHA = w[2], "sha-"+w[2]
	case "ok":
		r.ID, r.Position = w[2], pos(w[3])
	case "join":
		r.Position = pos(w[2])
		if len(w) > 3 {
			r.Asked, r.Position, r.Recovered = pos(w[2]), pos(w[3]), len(w) == 4
		}
	case "recv":
		r.Position, r.ID, r.SHA = pos(w[2]), w[3], "sha-"+w[3]
		if len(w) > 4 {
			r.SHA = w[4]
		}
	case "fault", "over", "died":
		r.ID, r.Actor = w[1], "nemesis"
	case "used":
		numbers := make([]int64, 6)
		for i, word := range w[3:] {
			n, err := strconv.ParseInt(word, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			numbers[i] = n
		}
		r.ID, r.Actor, r.Reason = w[1], "verify", w[2]
		r.Usage = &record.Usage{Goroutines: int(numbers[0]), FDs: int(numbers[1]), Heap: numbers[2] << 20, RSS: numbers[3] << 20,
			Queued: numbers[4], Bound: numbers[5]}
	case "left", "error", "close", "bad", "heal", "end":
	default:
		t.Fatalf("no such line: %q", w)
	}
}

// ordinary is a history with a bit of everything, and nothing wrong.
const ordinary = `
	join s1 e:0
	join s2 e:0
	begin p1 m1
	begin p2 m2
	recv s1 e:1 m1
	ok p1 m1 e:1
	fault cut
	begin p1 m3
	begin p2 refused
	fail p2 refused
	close s2
	recv s1 e:2 m2
	ok p2 m2 e:2
	begin p1 lost
	info p1 lost
	over cut
	join s2 e:0 e:0
	recv s2 e:1 m1
	recv s2 e:2 m2
	retry p1 m3
	recv s2 e:3 m3
	recv s1 e:3 m3
	ok p1 m3 e:3
	error s1
	join s1 e:3 f:0 gap
	begin p1 m4
	recv s1 f:1 m4
	error s2
	ok p1 m4 f:1
	join s2 e:3 f:0 gap
	recv s2 f:1 m4
	join s3 f:1
	left s3
	close s3
	heal
	begin probe m5
	recv s1 f:2 m5
	recv s2 f:2 m5
	ok probe m5 f:2
	join final f:0 f:0
	recv final f:1 m4
	recv final f:2 m5
	end`

func TestAnOrdinaryHistoryHasNoAnomalies(t *testing.T) {
	rep := Check(script(t, ordinary), Options{Positions: true})
	for _, a := range rep.Anomalies {
		t.Error(a)
	}
	want := Counts{
		Topics: 1, Faults: 1, Published: 7, Acked: 5, Failed: 1, Unknown: 1, Retried: 1, Deliveries: 12,
		Joins: 7, Resumed: 2, Gaps: 2, PhxErrors: 2, Closes: 2, Epochs: 1, Probed: 1, Subscribers: 3, FinalPositionsSeen: 3,
	}
	if rep.Counts != want {
		t.Errorf("counts\n%+v, want\n%+v", rep.Counts, want)
	}
}

func TestAnomalies(t *testing.T) {
	positions := Options{Positions: true}
	bounded := Options{Positions: true, Bounds: &Bounds{Goroutines: 2, FDs: 2, Heap: 0.2, HeapSlack: 1 << 20, RSS: 0.1, RSSSlack: 15 << 20}}
	for _, tt := range []struct {
		name, text string
		opts       Options
		want       []string
	}{
		{"two messages at a position", `
			join s1 e:0
			join s2 e:0
			begin p1 m1
			begin p2 m2
			recv s1 e:1 m1
			recv s2 e:1 m2`, positions, []string{Order}},
		{"acknowledged at the position of another", `
			join s1 e:0
			begin p1 m1
			begin p2 m2
			recv s1 e:1 m1
			ok p2 m2 e:1`, positions, []string{Order}},
		{"twice", "join s1 e:0 \n begin p1 m1 \n recv s1 e:1 m1 \n recv s1 e:1 m1", positions, []string{Forward}},
		{"replayed again after a rejoin", `
			join s1 e:0
			begin p1 m1
			recv s1 e:1 m1
			close s1
			join s1 e:1 e:1
			recv s1 e:1 m1`, positions, []string{Forward}},
		{"backwards", `
			join s1 e:0
			begin p1 m1
			begin p1 m2
			begin p1 m3
			recv s1 e:1 m1
			recv s1 e:3 m3
			recv s1 e:2 m2`, positions, []string{Skip, Forward}},
		{"a join behind the front", `
			join s1 e:4
			close s1
			join s1 e:4 e:2 gap`, positions, []string{Forward}},
		{"a message left out", `
			join s1 e:0
			begin p1 m1
			begin p1 m2
			recv s1 e:2 m2`, positions, []string{Skip}},
		{"an acknowledged message left out", `
			join s1 e:0
			begin p1 m1
			ok p1 m1 e:1
			begin p1 m2
			recv s1 e:2 m2`, positions, []string{Skip, LostWrite}},
		{"a resume that skips", "join s1 e:0 \n close s1 \n join s1 e:0 e:2", positions, []string{Skip}},
		{"another epoch without notice", "join s1 e:0 \n begin p1 m1 \n recv s1 f:1 m1", positions, []string{Skip}},
		{"a gap that nothing explains", "join s1 e:0 \n error s1 \n join s1 e:0 f:0 gap", Options{Positions: true, Lossless: true}, []string{Skip}},
		{"a gap that the history should have filled", "join s1 e:0 \n close s1 \n join s1 e:1 e:11 gap",
			Options{Positions: true, Lossless: true, Retained: 10}, []string{Skip}},
		{"a gap that was too long", "join s1 e:0 \n close s1 \n join s1 e:1 e:12 gap",
			Options{Positions: true, Lossless: true, Retained: 10}, nil},
		{"a message without position", "join s1 e:0 \n begin p1 m1 \n recv s1 - m1", positions, []string{Skip}},
		{"a join without position", "join s1 -", positions, []string{Skip}},
		{"a message to nobody", "join s1 e:0 \n begin p1 m1 \n error s1 \n recv s1 e:1 m1", positions, []string{Skip}},
		{"an acknowledged message never arrives", `
			join s1 e:0
			join s2 e:0
			begin p1 m1
			recv s2 e:1 m1
			ok p1 m1 e:1
			end`, positions, []string{Stuck, LostWrite}},
		{"an acknowledged message missing from the final read", `
			begin p1 m1
			ok p1 m1 e:1
			begin p1 m2
			ok p1 m2 e:2
			join final e:0 e:0
			recv final e:1 m1
			end`, positions, []string{Stuck, LostWrite}},
		{"acknowledged in an epoch that nobody was told of", `
			join s1 e:0
			begin p1 m1
			ok p1 m1 f:1
			end`, positions, []string{Stuck, LostWrite}},
		{"the same, after a resume", `
			join s1 e:0
			begin p1 m1
			ok p1 m1 f:1
			close s1
			join s1 e:0 e:0
			end`, positions, []string{Stuck, LostWrite}},
		{"never published", "join s1 e:0 \n recv s1 e:1 m1", positions, []string{Phantom}},
		{"other bytes", "join s1 e:0 \n begin p1 m1 \n recv s1 e:1 m1 other", positions, []string{Phantom}},
		{"another topic", "join s1 e:0 \n begin p1 m1/b \n recv s1 e:1 m1", positions, []string{Phantom}},
		{"from the future", "join s1 e:0 \n recv s1 e:1 m1 \n begin p1 m1", positions, []string{Phantom}},
		{"no frame", "bad s1", positions, []string{Phantom}},
		{"refused for good", "join s1 e:0 \n begin p1 m1 \n recv s1 e:1 m1 \n fail p1 m1", positions, []string{Undead}},
		{"a retry applied twice", `
			join s1 e:0
			begin p1 m1
			retry p1 m1
			recv s1 e:1 m1
			recv s1 e:2 m1`, positions, []string{Duplicate}},
		{"a retry acknowledged elsewhere", `
			join s1 e:0
			begin p1 m1
			recv s1 e:1 m1
			retry p1 m1
			ok p1 m1 e:2`, positions, []string{Duplicate}},
		{"no position in the reply", "begin p1 m1 \n ok p1 m1 -", positions, []string{Duplicate}},
		{"an id used twice", "begin p1 m1 \n begin p1 m1", positions, []string{Duplicate}},
		{"before what was done", `
			begin p1 m1
			ok p1 m1 e:2
			begin p2 m2
			ok p2 m2 e:1`, positions, []string{RealTime}},
		{"back in an epoch that was over", `
			begin p1 m1
			ok p1 m1 e:1
			begin p1 m2
			ok p1 m2 f:1
			begin p2 m3
			ok p2 m3 e:2`, positions, []string{RealTime}},
		{"one publisher overtakes itself", `
			begin p1 m1
			begin p1 m2
			ok p1 m2 e:1
			ok p1 m1 e:2`, positions, []string{FIFO}},
		{"not joined again", "join s1 e:0 \n close s1 \n end", positions, []string{Stuck}},
		{"no publish succeeds", "join s1 e:0 \n heal \n begin probe m1 \n info probe m1", positions, []string{Stuck}},
		{"a publish succeeds too late", `
			heal
			begin probe m1
			at 11s
			ok probe m1 e:1`, positions, []string{Stuck}},
		{"subscribers disagree at the end", `
			join s1 e:0
			join s2 e:0
			begin p1 m1
			recv s1 e:1 m1
			end`, positions, []string{Stuck}},
		{"too long a pause", `
			begin p1 m1
			ok p1 m1 e:1
			begin p1 m2
			at 3s
			ok p1 m2 e:2`, Options{Positions: true, MaxPause: 2 * time.Second}, []string{Pause}},
		{"publishing does not come back in time", `
			fault kill
			over kill
			begin p1 m1
			at 3s
			ok p1 m1 e:1`, Options{Positions: true, BackWithin: 2 * time.Second, BackFrom: "kill"}, []string{Stuck}},
		{"an error that may not be", "join s1 e:0 \n error s1", Options{Positions: true, NoErrors: true}, []string{Skip}},
		{"a dead node", "died ts-1", positions, []string{NodeDied}},
		{"more goroutines than before", "used n before 20 9 5 30 \n used n after 23 9 5 30", bounded, []string{Resources}},
		{"more descriptors than before", "used n before 20 9 5 30 \n used n after 20 12 5 30", bounded, []string{Resources}},
		{"more heap than before", "used n before 20 9 5 30 \n used n after 20 9 8 30", bounded, []string{Resources}},
		{"more memory than before", "used n before 20 9 5 30 \n used n after 20 9 5 49", bounded, []string{Resources}},
		{"no answer at the end", "used n before 20 9 5 30 \n used m after 20 9 5 30", bounded, []string{Resources}},
		{"a queue beyond its bound", "used n during 20 9 5 30 1001 1000", positions, []string{Resources}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			expect(t, Check(script(t, tt.text), tt.opts), tt.want)
		})
	}
}

// expect compares the invariants that were broken, each named once, in the order of their first mention.
func expect(t *testing.T, rep *Report, want []string) {
	t.Helper()
	var got []string
	for _, a := range rep.Anomalies {
		if !slices.Contains(got, a.Invariant) {
			got = append(got, a.Invariant)
		}
		if len(a.Records) == 0 {
			t.Errorf("no records: %v", a)
		}
	}
	slices.Sort(got)
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		t.Errorf("found %q, want %q\n%v", got, want, rep.Anomalies)
	}
}

// What a node uses may go up and down, and stay a little higher. What is not bounded is measured.
func TestUsage(t *testing.T) {
	text := "used n before 20 9 5 30 1000 1000 \n used n during 200 90 5 300 \n used n after 22 11 7 48 \n used late after 99 99 99 99"
	rep := Check(script(t, text), Options{Bounds: &Bounds{Goroutines: 2, FDs: 2, Heap: 0.2, HeapSlack: 1 << 20, RSS: 0.1, RSSSlack: 15 << 20}})
	expect(t, rep, nil)
	if len(rep.Nodes) != 2 || rep.Nodes[1].Node != "n" || rep.Nodes[1].Base.FDs != 9 || rep.Nodes[1].Final.FDs != 11 ||
		rep.Nodes[1].Peak.Goroutines != 200 || rep.Nodes[1].Peak.RSS != 300<<20 || rep.Nodes[0].Base != nil {
		t.Errorf("nodes %+v", rep.Nodes)
	}
	expect(t, Check(script(t, "used n before 1 1 1 1 \n used n after 99 99 99 99"), Options{}), nil)
}

func TestWhatIsNoAnomaly(t *testing.T) {
	for _, tt := range []struct{ name, text string }{
		{"a retry stands behind what came later", `
			begin p1 m1
			begin p1 m2
			ok p1 m2 e:1
			retry p1 m1
			ok p1 m1 e:2`},
		{"one of unknown outcome stands behind what came later", `
			join s1 e:0
			begin p1 m1
			info p1 m1
			begin p1 m2
			recv s1 e:1 m2
			recv s1 e:2 m1`},
		{"a retry stands in the next epoch too", `
			join s1 e:0
			begin p1 m1
			recv s1 e:1 m1
			error s1
			join s1 e:1 f:0 gap
			retry p1 m1
			recv s1 f:1 m1
			ok p1 m1 f:1
			end`},
		{"an acknowledged message of a dead epoch, with notice", `
			join s1 e:0
			begin p1 m1
			ok p1 m1 e:1
			error s1
			join s1 e:0 f:0 gap
			begin p1 m2
			recv s1 f:1 m2
			ok p1 m2 f:1
			end`},
		{"a client that left", "join s1 e:0 \n left s1 \n begin p1 m1 \n ok p1 m1 e:1 \n end"},
		{"parallel publishes in any order", `
			begin p1 m1
			begin p2 m2
			ok p1 m1 e:2
			ok p2 m2 e:1`},
		{"a join again from now", `
			join s1 e:0
			begin p1 m1
			close s1
			join s1 e:1
			end`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			expect(t, Check(script(t, tt.text), Options{Positions: true}), nil)
		})
	}
}

// TestEveryRecordCounts takes one delivery at a time out of a history, doubles it, and swaps it with the next one of
// the same client: each of these must be noticed.
func TestEveryRecordCounts(t *testing.T) {
	for _, positions := range []bool{true, false} {
		records := bulk(positions)
		if rep := Check(records, Options{Positions: positions}); len(rep.Anomalies) > 0 {
			t.Fatalf("positions %t: the history itself: %v", positions, rep.Anomalies)
		}
		for i, r := range records {
			if r.Kind != record.Recv {
				continue
			}
			for _, m := range mutants(records, i) {
				if rep := Check(m.records, Options{Positions: positions}); len(rep.Anomalies) == 0 {
					t.Errorf("positions %t: %s %v: not noticed", positions, m.name, r)
				}
			}
		}
	}
}

// bulk is a history of two publishers and three clients on a topic.
func bulk(positions bool) []record.Record {
	var records []record.Record
	add := func(r record.Record) {
		r.T, r.Topic = int64(len(records)), "a"
		if !positions {
			r.Position = record.Position{}
		}
		records = append(records, r)
	}
	clients := []string{"s1", "s2", "s3"}
	for _, s := range clients {
		add(record.Record{Actor: s, Kind: record.Join, Position: record.Position{Epoch: "e"}})
	}
	for i := range 20 {
		id, pos := fmt.Sprint("m", i), record.Position{Epoch: "e", Offset: uint64(i + 1)}
		actor := "p" + strconv.Itoa(i%2)
		add(record.Record{Actor: actor, Kind: record.Invoke, ID: id, SHA: id})
		for _, s := range clients {
			add(record.Record{Actor: s, Kind: record.Recv, ID: id, SHA: id, Position: pos})
		}
		add(record.Record{Actor: actor, Kind: record.OK, ID: id, Position: pos})
	}
	add(record.Record{Actor: "nemesis", Kind: record.End})
	return records
}

type mutant struct {
	name    string
	records []record.Record
}

func mutants(records []record.Record, i int) []mutant {
	dropped := mutant{"dropping", slices.Delete(slices.Clone(records), i, i+1)}
	doubled := mutant{"doubling", slices.Insert(slices.Clone(records), i, records[i])}
	all := []mutant{dropped, doubled}
	for j := i + 1; j < len(records); j++ {
		if records[j].Kind == record.Recv && records[j].Actor == records[i].Actor {
			swapped := slices.Clone(records)
			swapped[i], swapped[j] = swapped[j], swapped[i]
			swapped[i].T, swapped[j].T = swapped[j].T, swapped[i].T
			return append(all, mutant{"swapping", swapped})
		}
	}
	return all
}
