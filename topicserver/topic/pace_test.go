package topic

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// told is what a gateway that watches has been told, by reference, and how many bytes that took.
type told struct {
	members map[uint64]*linkpb.Presence
	size    int
	diffs   int
}

// take takes all that has arrived by the Reply to a Track that changes nothing.
func (d *told) take(s *stage, g *gateway) {
	s.Helper()
	s.at(g, func() { s.r.Track(&g.Turn, g.Lane, &linkpb.Track{Ref: 99, Topic: "t:a"}) })
	for {
		switch m := next[any](s, g).(type) {
		case *linkpb.Reply:
			if m.Ref == 99 {
				return
			}
		case *linkpb.PresenceDiff:
			d.diffs++
			for _, pr := range m.Joins {
				d.size += len(pr.Key) + len(pr.Meta)
				d.members[pr.Ref] = pr
			}
			for _, ref := range m.Leaves {
				d.size += len(d.members[ref].GetKey()) + len(d.members[ref].GetMeta())
				delete(d.members, ref)
			}
		}
	}
}

// Members that change as fast as they can, as much as they can, cost those who watch what the topic may tell, and no
// more: of each member they are told the latest.
func TestPhoenixPresence_WhatIsToldIsPaced(t *testing.T) {
	s := newStage(t, 2, Presence{})
	a, b := s.gw[0], s.gw[1]
	s.watch(a)
	seen := told{members: make(map[uint64]*linkpb.Presence)}
	meta := strings.Repeat("m", 4000)
	const members, seconds = 300, 10
	last := 0
	change := func(n int) {
		last = n
		for id := range uint64(members) {
			s.track(b, id, fmt.Sprintf("%d=%d%s", id, n, meta))
		}
	}
	for range seconds {
		for range 4 {
			change(last + 1)
			s.pass(250 * time.Millisecond)
		}
		seen.take(s, a)
	}
	all := members * len(meta) * 2
	if most := seconds*presencePace + all + all/10; seen.size > most {
		t.Errorf("%d bytes were told in %d s, at most %d are wanted", seen.size, seconds, most)
	}
	if seen.size < seconds*presencePace/2 {
		t.Errorf("only %d bytes were told in %d s", seen.size, seconds)
	}
	if s.r.Stats().PresencePaced == 0 {
		t.Error("nothing is counted")
	}
	s.pass(10 * time.Second)
	seen.take(s, a)
	if len(seen.members) != members {
		t.Errorf("%d members are seen of %d", len(seen.members), members)
	}
	for _, pr := range seen.members {
		if want := fmt.Sprintf("%d%s", last, meta); string(pr.Meta) != want {
			t.Fatalf("member %s has %.10s, want %.10s", pr.Key, pr.Meta, want)
		}
	}

	// Little is told at once again.
	s.track(b, 1, "1=back")
	s.pass(50 * time.Millisecond)
	s.hears("+1=back -1", a)
}

// A gateway that comes while what was told is not paid for waits for its snapshot, and what it is told is whole.
func TestPhoenixPresence_SnapshotsArePaced(t *testing.T) {
	s := newStage(t, 3, Presence{})
	a, b, c := s.gw[0], s.gw[1], s.gw[2]
	s.watch(a)
	for id := range uint64(100) {
		s.track(b, id, fmt.Sprintf("%d=%s", id, strings.Repeat("m", 4000)))
	}
	s.pass(50 * time.Millisecond)
	for _, g := range []*gateway{b, c} {
		s.at(g, func() { s.r.Watch(&g.Turn, g.Lane, &linkpb.Watch{Ref: 5, Topic: "t:a"}) })
	}
	s.track(b, 700, "late={}")
	s.pass(50 * time.Millisecond)
	s.silent(b, c)
	s.at(c, func() { s.r.Unwatch(&c.Turn, c.Lane, "t:a") })
	if rep := next[*linkpb.Reply](t, c); rep.Ref != 5 {
		t.Errorf("reply to a watch that was given up: %v", rep)
	}
	s.pass(time.Second)
	next[*linkpb.Reply](t, b)
	seen := told{members: make(map[uint64]*linkpb.Presence)}
	seen.take(s, b)
	if len(seen.members) != 101 {
		t.Errorf("%d members are seen of 101", len(seen.members))
	}
	s.silent(c)
}
