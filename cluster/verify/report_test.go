package verify

import (
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/cluster/verify/check"
	"github.com/ringcast/ringcast/cluster/verify/record"
)

func TestPrint(t *testing.T) {
	res := &Result{
		Report: &check.Report{
			Counts: check.Counts{
				Topics: 2, Faults: 3, Published: 100, Acked: 97, Failed: 1, Unknown: 2, Retried: 4, Reapplied: 1, Deliveries: 500,
				Joins: 12, Resumed: 5, Gaps: 1, PhxErrors: 2, Closes: 6, Epochs: 1, Probed: 2, Subscribers: 8, FinalPositionsSeen: 8,
			},
			Pauses: []check.PauseStats{
				{Class: check.Quiet, Times: []time.Duration{20 * time.Millisecond, 30 * time.Millisecond}},
				{Class: "ring", Times: []time.Duration{time.Millisecond, 120 * time.Millisecond, time.Second, 1300 * time.Millisecond}},
			},
		},
		Config: Config{Seed: 7, Faults: []Class{Churn, KillTopicServer}}, Took: 30123456 * time.Microsecond,
	}
	const head = `
verified in 30.123s: seed 7, faults churn,kill-topicserver (3)
promised: every acknowledged publish reaches every subscriber once and in order, or it is told of the gap
  publishes   100 on 2 topics: 97 acknowledged, 1 refused, 2 unknown; 4 tried again, 1 of them stand in two epochs
  deliveries  500
  joins       12: 5 resumed, 1 told of a gap; 2 phx_error, 6 sockets closed
  epochs      1 topics began anew
  at the end  2 of 2 topics take publishes; 8 of 8 memberships have everything

longest time that publishes waited and none was acknowledged, per fault and topic:
     fault  n    p50   p99   max
  no fault  2   20ms  30ms  30ms
      ring  4  120ms  1.3s  1.3s

`
	var out strings.Builder
	res.Print(&out, "again")
	if want := head + "no anomalies\n"; out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", &out, want)
	}
	for range shown + 2 {
		res.Anomalies = append(res.Anomalies, check.Anomaly{
			Invariant: check.Skip, Text: "s1 was at e:1 of a, and the next message is e:3", Records: []record.Record{{T: 5e8, Actor: "s1", Kind: record.Recv}},
		})
	}
	res.Dir = "dir"
	out.Reset()
	res.Print(&out, "again")
	const one = "I3 skip: s1 was at e:1 of a, and the next message is e:3\n      0.500000s s1        recv      \n"
	if want := head + "22 ANOMALIES\n" + strings.Repeat(one, shown) + "… and 2 more\nrecords: dir/records, logs and heap profiles: dir\nthe same faults again: again\n"; out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", &out, want)
	}
}
