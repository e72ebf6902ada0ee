package check

import (
	"fmt"
	"testing"
	"time"

	"github.com/ringcast/ringcast/cluster/verify/record"
)

func TestAnomaliesWithoutPositions(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"nothing wrong", `
			join s1 -
			begin p1 m1
			begin p2 m2
			recv s1 - m2
			ok p2 m2 -
			close s1
			begin p1 m3
			ok p1 m1 -
			join s1 -
			recv s1 - m3
			ok p1 m3 -
			heal
			begin p1 m4
			ok p1 m4 -
			recv s1 - m4
			join s2 -
			left s2
			end`, nil},
		{"twice, after a rejoin", `
			join s1 -
			begin p1 m1
			recv s1 - m1
			close s1
			join s1 -
			recv s1 - m1`, []string{Forward}},
		{"one of a publisher left out", `
			join s1 -
			begin p1 m1
			begin p1 m2
			ok p1 m1 -
			recv s1 - m2
			close s1`, []string{Skip}},
		{"the last one never arrives", "join s1 - \n begin p1 m1 \n ok p1 m1 - \n end", []string{LostWrite}},
		{"one publisher's in the wrong order", `
			join s1 -
			begin p1 m1
			begin p1 m2
			recv s1 - m2
			recv s1 - m1
			ok p1 m1 -`, []string{FIFO}},
		{"one of unknown outcome comes late", `
			join s1 -
			begin p1 m1
			info p1 m1
			begin p1 m2
			recv s1 - m2
			recv s1 - m1`, nil},
		{"two clients see two orders", `
			join s1 -
			join s2 -
			begin p1 m1
			begin p2 m2
			recv s1 - m1
			recv s1 - m2
			recv s2 - m2
			recv s2 - m1`, []string{Order}},
		{"three clients see parts that do not fit", `
			join s1 -
			join s2 -
			join s3 -
			begin p1 m1
			begin p2 m2
			begin p3 m3
			recv s1 - m1
			recv s1 - m2
			recv s2 - m2
			recv s2 - m3
			recv s3 - m3
			recv s3 - m1`, []string{Order}},
		{"what was done before stands behind", `
			join s1 -
			begin p1 m1
			ok p1 m1 -
			begin p2 m2
			recv s1 - m2
			recv s1 - m1`, []string{RealTime}},
		{"to nobody", "begin p1 m1 \n join s1 - \n left s1 \n recv s1 - m1", []string{Skip}},
		{"not joined again", "join s1 - \n error s1 \n end", []string{Stuck}},
		{"never published", "join s1 - \n recv s1 - m1", []string{Phantom}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			expect(t, Check(script(t, tt.text), Options{}), tt.want)
		})
	}
}

func TestPauses(t *testing.T) {
	rep := Check(script(t, `
		begin p1 m1
		ok p1 m1 e:1
		at 1s
		fault ring
		at 1100ms
		begin p1 m2
		at 1200ms
		ok p1 m2 e:2
		over ring
		at 1300ms
		begin p1 m3
		at 9999ms
		ok p1 m3 e:3
		at 20s
		begin p1 m4
		ok p1 m4 e:4
		begin p1 m5
		at 20501ms
		ok p1 m5 e:5
		begin p1 n1/b
		ok p1 n1/b e:1
		heal
		begin p1 m6
		ok p1 m6 e:6
		begin p1 n2/b
		ok p1 n2/b e:2`), Options{Positions: true})
	if len(rep.Anomalies) > 0 {
		t.Fatal(rep.Anomalies)
	}
	got := fmt.Sprint(rep.Pauses)
	if want := "[{no fault [499ms]} {ring [8.699s]}]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// A fault that is known to hit some topics explains nothing about the others.
func TestPausesOfOtherTopics(t *testing.T) {
	records := script(t, `
		begin p1 m1
		ok p1 m1 e:1
		begin p1 n1/b
		ok p1 n1/b e:1
		fault ring
		begin p1 m2
		begin p1 n2/b
		at 1s
		ok p1 m2 e:2
		ok p1 n2/b e:2
		over ring`)
	for i := range records {
		if records[i].Kind == record.FaultBegin {
			records[i].Topics = "b"
		}
	}
	got := fmt.Sprint(Check(records, Options{Positions: true}).Pauses)
	if want := "[{no fault [995ms]} {ring [995ms]}]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestQuantile(t *testing.T) {
	sorted := []time.Duration{1, 2, 3, 4}
	for q, want := range map[float64]time.Duration{0: 1, 0.25: 1, 0.5: 2, 0.51: 3, 0.99: 4, 1: 4} {
		if got := (&PauseStats{Times: sorted}).Quantile(q); got != want {
			t.Errorf("quantile %v is %d, want %d", q, got, want)
		}
	}
}
