package topic

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// presence is who is present on one topic, and which gateways are told. Guarded by its topic's mutex.
//
// Gateways hold the intent: they tell the owner of their members, and tell a new owner again, with the references that
// the old one gave out. So nothing of it moves with a topic. What a gateway has been told is the last snapshot with all
// changes since; changes are collected and sent once per interval. A member whose gateway or client is gone without a
// leave stays as an orphan for the grace, where one that comes with the same key and meta takes its place unseen.
//
// What is told is paced by its bytes, since all who take part get it: until what was sent is paid for, changes collect,
// of which the last one of each member counts, and snapshots wait.
//
// Invariants: a member is in members under its ref and in held under its holder; it is in orphans, under its key, if and
// only if it expires. Joins are in members; leaves are not.
type presence struct {
	born     time.Time
	members  map[uint64]*member
	held     map[holder]*member
	orphans  map[string][]*member
	watchers []*Lane
	bytes    int           // of keys and metas
	count    *atomic.Int64 // of members over all topics

	// Since the last diff.
	joins  map[uint64]*member
	leaves map[uint64]struct{}
	left   int     // bytes of leaves
	coming []watch // whose snapshot waits; they get no diff before
	dirty  bool    // a diff is scheduled

	paid time.Time // nothing is sent before
}

// holder is a member's place at its gateway.
type holder struct {
	gateway            string
	instance, memberID uint64
}

// member is one presence.
type member struct {
	ref, prev uint64
	key       string
	meta      []byte
	holder    holder
	lane      *Lane     // that told of it last
	expires   time.Time // zero unless it is an orphan
}

// Presence configures presences. The zero value of a field means its default.
type Presence struct {
	Interval time.Duration // between two diffs of a topic; default 50 ms
	Grace    time.Duration // for members that are gone without a leave; default 2 s
	Max      int           // members per topic; default 10 000
}

func (c Presence) withDefaults() Presence {
	if c.Interval <= 0 {
		c.Interval = 50 * time.Millisecond
	}
	if c.Grace <= 0 {
		c.Grace = 2 * time.Second
	}
	if c.Max <= 0 {
		c.Max = 10_000
	}
	return c
}

const (
	// maxPresenceBytes bounds the keys and metas of one topic: a client gets all of them in one frame.
	maxPresenceBytes = 2 << 20
	// maxPresenceKey and maxPresenceMeta bound what one member brings, in bytes.
	maxPresenceKey  = 255
	maxPresenceMeta = 4 << 10
	// relink is the longest that a gateway usually needs to come back after a link is lost.
	relink = 3 * time.Second
)

func newPresence(now time.Time, count *atomic.Int64) *presence {
	return &presence{
		born: now, count: count, members: make(map[uint64]*member), held: make(map[holder]*member), orphans: make(map[string][]*member),
		joins: make(map[uint64]*member), leaves: make(map[uint64]struct{}),
	}
}

func (p *presence) empty() bool { return len(p.members)+len(p.watchers)+len(p.coming) == 0 && !p.dirty }

// changed reports whether there is something to send.
func (p *presence) changed() bool { return len(p.joins)+len(p.leaves)+len(p.coming) > 0 }

// size is what a member counts, in bytes.
func (m *member) size() int { return len(m.key) + len(m.meta) + 32 }

// add makes a member present.
func (p *presence) add(m *member) {
	p.members[m.ref], p.held[m.holder] = m, m
	p.count.Add(1)
	p.bytes += len(m.key) + len(m.meta)
	if _, was := p.leaves[m.ref]; was {
		delete(p.leaves, m.ref) // it comes back under its reference: nobody has seen it go
		p.left = max(0, p.left-m.size())
		return
	}
	p.joins[m.ref] = m
}

// remove takes a member away.
func (p *presence) remove(m *member) {
	p.revive(m)
	delete(p.members, m.ref)
	p.count.Add(-1)
	if p.held[m.holder] == m {
		delete(p.held, m.holder)
	}
	p.bytes -= len(m.key) + len(m.meta)
	if _, unseen := p.joins[m.ref]; unseen {
		delete(p.joins, m.ref)
		return
	}
	p.leaves[m.ref] = struct{}{}
	p.left += m.size()
}

// orphan makes a member expire.
func (p *presence) orphan(m *member, at time.Time) {
	if m.expires.IsZero() {
		m.expires = at
		p.orphans[m.key] = append(p.orphans[m.key], m)
	}
}

// revive makes a member no orphan any more.
func (p *presence) revive(m *member) {
	if m.expires.IsZero() {
		return
	}
	m.expires = time.Time{}
	list := p.orphans[m.key]
	if i := slices.Index(list, m); i >= 0 {
		list = slices.Delete(list, i, i+1)
	}
	if p.orphans[m.key] = list; len(list) == 0 {
		delete(p.orphans, m.key)
	}
}

// adopt gives an orphan with this key and meta to a new holder. It returns nil if there is none.
func (p *presence) adopt(h holder, lane *Lane, key string, meta []byte) *member {
	for _, m := range p.orphans[key] {
		if bytes.Equal(m.meta, meta) {
			p.revive(m)
			delete(p.held, m.holder)
			m.holder, m.lane = h, lane
			p.held[h] = m
			return m
		}
	}
	return nil
}

// fits reports whether there is room for so many bytes more.
func (p *presence) fits(more int) bool { return more <= 0 || p.bytes+more <= maxPresenceBytes }

// seenRef returns the reference that those who are told of changes know a member by, 0 if they do not know it yet.
func (p *presence) seenRef(m *member) uint64 {
	if _, unseen := p.joins[m.ref]; unseen {
		return m.prev
	}
	return m.ref
}

// newRef draws a reference that no member has.
func (p *presence) newRef() uint64 {
	for {
		if ref := rand.Uint64(); ref != 0 && p.members[ref] == nil {
			return ref
		}
	}
}

// Track makes a member present or changes its meta, and replies with its reference. It is called by the lane's receiver.
func (r *Registry) Track(tn *Turn, lane *Lane, req *linkpb.Track) {
	pr := req.Presence
	if pr == nil || pr.Key == "" || len(pr.Key) > maxPresenceKey || len(pr.Meta) > maxPresenceMeta || !utf8.ValidString(pr.Key) {
		tn.Reply(lane, req.Ref, linkpb.Code_INVALID, "a presence has a key of 1 to 255 bytes and a meta of at most 4 KiB", nil)
		return
	}
	// The request may alias the lane's input buffer.
	own := &linkpb.Track{Ref: req.Ref, Member: req.Member, Again: req.Again, Presence: &linkpb.Presence{
		Ref: pr.Ref, Prev: pr.Prev, Key: strings.Clone(pr.Key), Meta: slices.Clone(pr.Meta),
	}}
	who := holder{lane.Gateway, lane.Instance, req.Member}
	r.request(tn, lane, req.Topic, req.Ref, len(pr.Key)+len(pr.Meta), func(tn *Turn, t *Topic) { r.trackLocked(tn, t, lane, own) },
		attendanceOf(lane), memberOf(who))
}

// request runs run under the topic's lock, now or when the topic's state is here.
func (r *Registry) request(tn *Turn, lane *Lane, name string, ref uint64, size int, run func(*Turn, *Topic), gives ...stake) {
	t, code := r.need(name)
	if t == nil {
		r.absent(tn, lane, ref, code)
		return
	}
	defer t.mu.Unlock()
	if t.waiting {
		r.park(tn, t, size, lane, ref, func(tn *Turn) { run(tn, t) }, gives...)
		return
	}
	run(tn, t)
}

// presenceLocked returns the topic's presence, made now if need be.
func (r *Registry) presenceLocked(t *Topic, now time.Time) *presence {
	if t.presence == nil {
		t.presence = newPresence(now, &r.presences)
	}
	return t.presence
}

// attachLocked makes the lane's end be the topic's business too. It reports false when it has ended already.
func (t *Topic) attachLocked(lane *Lane) bool {
	lane.mu.Lock()
	defer lane.mu.Unlock()
	if lane.closed {
		return false
	}
	if lane.attached == nil {
		lane.attached = make(map[*Topic]struct{})
	}
	lane.attached[t] = struct{}{}
	return true
}

// trackLocked finds out what a Track means, in this order: more of a member that the holder has here; the return of one
// that an owner has known, under its reference; the successor of an orphan; a new member.
//
// A member that comes back under a reference which another holder has got meanwhile, because the link was lost and the
// client went elsewhere, is a second one: it gets a reference of its own.
func (r *Registry) trackLocked(tn *Turn, t *Topic, lane *Lane, req *linkpb.Track) {
	if !t.attachLocked(lane) {
		return
	}
	p, pr := r.presenceLocked(t, tn.Now()), req.Presence
	h := holder{lane.Gateway, lane.Instance, req.Member}
	m := p.held[h]
	switch {
	case m != nil && m.key == pr.Key && bytes.Equal(m.meta, pr.Meta):
		p.revive(m)
		m.lane = lane
	case m != nil && !p.fits(len(pr.Key)+len(pr.Meta)-len(m.key)-len(m.meta)):
		r.tooMany(tn, lane, req.Ref)
		return
	case m != nil:
		// An update; those who know the old one are to find it in the new one.
		prev := p.seenRef(m)
		p.remove(m)
		m = &member{ref: p.newRef(), prev: prev, key: pr.Key, meta: pr.Meta, holder: h, lane: lane}
		p.add(m)
	case pr.Ref != 0 && p.members[pr.Ref] == nil:
		m = &member{ref: pr.Ref, prev: pr.Prev, key: pr.Key, meta: pr.Meta, holder: h, lane: lane}
		p.add(m)
	default:
		if m = p.adopt(h, lane, pr.Key, pr.Meta); m != nil {
			break
		}
		if !req.Again && (len(p.members) >= r.cfg.Presence.Max || !p.fits(len(pr.Key)+len(pr.Meta))) {
			r.tooMany(tn, lane, req.Ref)
			return
		}
		m = &member{ref: p.newRef(), prev: pr.Prev, key: pr.Key, meta: pr.Meta, holder: h, lane: lane}
		p.add(m)
	}
	rep := &tn.reply
	rep.Ref, rep.Code, rep.Detail, rep.Position, rep.From, rep.Replayed = req.Ref, linkpb.Code_OK, "", nil, nil, 0
	rep.PresenceRef, rep.PresencePrev = m.ref, m.prev
	tn.send(lane)
	rep.PresenceRef, rep.PresencePrev = 0, 0
	r.changedLocked(t, tn.Now())
}

func (r *Registry) tooMany(tn *Turn, lane *Lane, ref uint64) {
	tn.Reply(lane, ref, linkpb.Code_TOO_MANY, "the topic has as many presences as it may have", nil)
}

// Untrack takes a member of the lane's gateway away, at once or after the grace. It is called by the lane's receiver.
func (r *Registry) Untrack(tn *Turn, lane *Lane, req *linkpb.Untrack) {
	t := r.lock(req.Topic)
	if t == nil {
		return
	}
	defer t.mu.Unlock()
	who, grace := holder{lane.Gateway, lane.Instance, req.Member}, req.Grace
	// What waits runs in another goroutine's turn.
	untrack := func(tn *Turn) { r.untrackLocked(tn, t, who, grace) }
	if t.waiting {
		t.parkEnd(memberOf(who), untrack)
		return
	}
	untrack(tn)
}

func (r *Registry) untrackLocked(tn *Turn, t *Topic, who holder, grace bool) {
	if t.presence == nil {
		return
	}
	m := t.presence.held[who]
	switch {
	case m == nil:
	case grace:
		r.orphanLocked(t, m, tn.Now().Add(r.cfg.Presence.Grace))
	default:
		t.presence.remove(m)
		r.changedLocked(t, tn.Now())
		r.tidyLocked(t)
	}
}

// detachLocked ends the lane's part in the topic's presence. Its members become orphans, all until the same moment, so
// that they leave in one diff. Who has been silent has used up some of the grace, but no more than half: the gateway may
// be alive and only its link dead.
func (r *Registry) detachLocked(t *Topic, lane *Lane, now time.Time, silence time.Duration) {
	lane.mu.Lock()
	delete(lane.attached, t)
	lane.mu.Unlock()
	p := t.presence
	if p == nil {
		return
	}
	p.unwatch(lane)
	grace := r.cfg.Presence.Grace
	until := now.Add(max(grace-silence, grace/2))
	for _, m := range p.members {
		if m.lane == lane {
			r.orphanLocked(t, m, until)
		}
	}
	r.tidyLocked(t)
}

// abandonLocked forgets the topic's presence: gateways, which are told that the topic is sealed, tell the next owner.
func (t *Topic) abandonLocked() {
	p := t.presence
	if p == nil {
		return
	}
	t.presence = nil
	p.count.Add(-int64(len(p.members)))
	p.eachLane(func(lane *Lane) {
		lane.mu.Lock()
		delete(lane.attached, t)
		lane.mu.Unlock()
	})
}

// eachLane calls do with every lane that has a part in the presence, with some more than once.
func (p *presence) eachLane(do func(*Lane)) {
	for _, lane := range p.watchers {
		do(lane)
	}
	for _, w := range p.coming {
		do(w.lane)
	}
	for _, m := range p.members {
		do(m.lane)
	}
}

func (r *Registry) orphanLocked(t *Topic, m *member, until time.Time) {
	t.presence.orphan(m, until)
	r.wheel.add(t, until)
}

// tidyLocked forgets a presence that nobody has a part in.
func (r *Registry) tidyLocked(t *Topic) {
	if p := t.presence; p != nil && p.empty() {
		t.presence = nil
		t.used = time.Now()
	}
}
