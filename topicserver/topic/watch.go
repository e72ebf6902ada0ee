package topic

import (
	"slices"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// Those who watch a topic's presence: each gets a snapshot first, and then a diff for each interval in which something has
// changed.

const (
	// presenceChunk is how many bytes of members go into one item.
	presenceChunk = 256 << 10
	// presencePace is how many bytes of presences a topic tells each gateway in a second, and so each client: what is
	// changed faster than that is told less often.
	presencePace = 512 << 10
)

// watch is a Watch that has no answer yet.
type watch struct {
	lane *Lane
	ref  uint64
}

// Watch makes the topic's presences, and all changes to them, go to the lane. It is called by the lane's receiver.
func (r *Registry) Watch(tn *Turn, lane *Lane, req *linkpb.Watch) {
	ref := req.Ref
	r.request(tn, lane, req.Topic, ref, 0, func(tn *Turn, t *Topic) { r.watchLocked(tn, t, lane, ref) }, attendanceOf(lane))
}

func (r *Registry) watchLocked(tn *Turn, t *Topic, lane *Lane, ref uint64) {
	if !t.attachLocked(lane) {
		return
	}
	p := r.presenceLocked(t, tn.Now())
	p.unwatch(lane)
	p.coming = append(p.coming, watch{lane, ref})
	if tn.Now().Before(p.paid) {
		r.changedLocked(t, tn.Now())
		return
	}
	// The snapshot is what the next diff is a change to, so what has changed before is told now: a member that is in the
	// snapshot and leaves before the tick must not be taken for one that nobody has seen.
	r.sendDiffLocked(tn, t)
}

// unwatch makes the lane get nothing any more. It returns the Watch that has no answer yet, if there is one.
func (p *presence) unwatch(lane *Lane) (ref uint64, waits bool) {
	p.watchers = slices.DeleteFunc(p.watchers, func(l *Lane) bool { return l == lane })
	if i := slices.IndexFunc(p.coming, func(w watch) bool { return w.lane == lane }); i >= 0 {
		ref, waits = p.coming[i].ref, true
		p.coming = slices.Delete(p.coming, i, i+1)
	}
	return ref, waits
}

// Unwatch ends a lane's Watch. It is called by the lane's receiver.
func (r *Registry) Unwatch(tn *Turn, lane *Lane, name string) {
	t := r.lock(name)
	if t == nil {
		return
	}
	defer t.mu.Unlock()
	detach := func(tn *Turn) {
		if t.presence != nil {
			if ref, waits := t.presence.unwatch(lane); waits {
				tn.Reply(lane, ref, linkpb.Code_OK, "", nil) // nobody waits for a Watch's answer for ever
			}
		}
		r.detachLocked(t, lane, tn.Now(), 0)
	}
	if t.waiting {
		t.parkEnd(attendanceOf(lane), detach)
		return
	}
	detach(tn)
}

// snapshotsLocked answers the Watches that wait with all members, and returns the bytes of that; 0 if none waits.
func (r *Registry) snapshotsLocked(tn *Turn, t *Topic) (size int) {
	p := t.presence
	if len(p.coming) == 0 {
		return 0
	}
	all := make([]*member, 0, len(p.members))
	for _, m := range p.members {
		all = append(all, m)
	}
	settling := max(0, p.born.Add(r.cfg.Presence.Grace+relink).Sub(tn.Now()))
	diff := linkpb.PresenceDiff{Topic: t.name, Snapshot: true, SettlingMs: uint32(settling.Milliseconds())}
	items := encodeDiff(&diff, all, nil)
	for _, w := range p.coming {
		tn.Reply(w.lane, w.ref, linkpb.Code_OK, "", nil)
		for _, item := range items {
			w.lane.Out.AppendEncoded(item)
		}
		p.watchers = append(p.watchers, w.lane)
	}
	p.coming = nil
	return p.bytes + 32*len(p.members)
}

// changedLocked has a diff sent with the next tick, or when the last one is paid for.
func (r *Registry) changedLocked(t *Topic, now time.Time) {
	p := t.presence
	if !p.dirty && p.changed() {
		p.dirty = true
		at := now.Add(1)
		if p.paid.After(at) {
			at = p.paid
			r.presencePaced.Add(1)
		}
		r.wheel.add(t, at)
	}
}

// TickPresence ends the grace of members and sends the diffs that are due. It is called once per interval, by one
// goroutine.
func (r *Registry) TickPresence(now time.Time) {
	var tn Turn
	for _, t := range r.wheel.due(now) {
		r.guard(func() { r.tickTopic(&tn, t, now) })
	}
	tn.Flush()
}

func (r *Registry) tickTopic(tn *Turn, t *Topic, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.presence
	if p == nil {
		return
	}
	for _, list := range p.orphans {
		for _, m := range slices.Clone(list) {
			if !m.expires.After(now) {
				p.remove(m)
			}
		}
	}
	if now.Before(p.paid) {
		r.changedLocked(t, now) // it was due for its orphans
	} else {
		tn.now = now
		r.sendDiffLocked(tn, t)
	}
	r.tidyLocked(t)
}

// sendDiffLocked tells the watching gateways what has changed: one send for each. Then it answers those who come.
func (r *Registry) sendDiffLocked(tn *Turn, t *Topic) {
	p := t.presence
	p.dirty = false
	size := r.diffLocked(tn, t)
	size += r.snapshotsLocked(tn, t)
	p.paid = tn.Now().Add(time.Duration(size) * time.Second / presencePace)
}

// diffLocked sends what has changed to the watchers, and returns the bytes of that.
func (r *Registry) diffLocked(tn *Turn, t *Topic) (size int) {
	p := t.presence
	if len(p.joins)+len(p.leaves) == 0 {
		return 0
	}
	size = p.left
	joins, leaves := make([]*member, 0, len(p.joins)), make([]uint64, 0, len(p.leaves))
	for _, m := range p.joins {
		joins = append(joins, m)
		size += m.size()
	}
	for ref := range p.leaves {
		leaves = append(leaves, ref)
	}
	clear(p.joins)
	clear(p.leaves)
	p.left = 0
	if len(p.watchers) == 0 {
		return 0
	}
	items := encodeDiff(&linkpb.PresenceDiff{Topic: t.name}, joins, leaves)
	for _, lane := range p.watchers {
		for _, item := range items {
			lane.Out.AppendEncoded(item)
		}
		tn.touch(lane)
	}
	r.presenceSends.Add(uint64(len(p.watchers)))
	return size
}

// encodeDiff encodes a diff as items of bounded size; head has what is neither joins nor leaves.
func encodeDiff(head *linkpb.PresenceDiff, joins []*member, leaves []uint64) (items [][]byte) {
	const leavesAtOnce = presenceChunk / 8
	size := 0
	put := func(more bool) {
		head.More = more
		items = append(items, linkpb.AppendItem(nil, linkpb.KindPresenceDiff, head))
		head.Joins, head.Leaves, size = nil, nil, 0
	}
	for len(leaves) > leavesAtOnce {
		head.Leaves, leaves = leaves[:leavesAtOnce], leaves[leavesAtOnce:]
		put(true)
	}
	head.Leaves, size = leaves, 8*len(leaves)
	for _, m := range joins {
		n := m.size()
		if size+n > presenceChunk && size > 0 {
			put(true)
		}
		head.Joins = append(head.Joins, &linkpb.Presence{Ref: m.ref, Prev: m.prev, Key: m.key, Meta: m.meta})
		size += n
	}
	put(false)
	return items
}
