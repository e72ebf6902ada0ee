package router

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/proto/linkpb"
)

// presence is a topic's presence as this gateway has it: the members that its own clients are, and a copy of all that
// the owner knows. Guarded by its shard's mutex.
//
// The gateway holds the intent, as it does with subscriptions: over a new connection, or to a new owner, it tells of its
// members again, with the references that they have, and then asks for a snapshot. Clients are told the difference
// between the copy and the snapshot, so whatever happens to owners, what a client was sent adds up to the copy.
// An owner that has just begun does not know the members of other gateways yet: those that its snapshot lacks stay in
// the copy until it has settled.
//
// A presence moves to the lane of a new owner as soon as the ring says so, unlike the topic's messages: there is nothing
// in it that could be lost or overtaken.
type presence struct {
	name     string
	lane     *lane
	loops    uint64             // that have attendances
	members  map[uint64]*intent // that are clients of this gateway
	watchRef uint64             // of the Watch on its way; 0 if there is none
	watching bool               // the owner behind lane has accepted the Watch
	behind   bool               // something was refused in passing, and is to be tried again

	// The copy. Versions count its changes; loops are posted each of them in order.
	synced  bool // there has been a snapshot
	version uint64
	present map[uint64]*linkpb.Presence // by ref
	state   *hub.Message                // presence_state of version; nil until somebody needs it

	parts   []*linkpb.PresenceDiff // of a diff whose rest is to come
	changes int                    // bytes of parts
	bytes   int                    // of present
	missing map[uint64]struct{}    // in the copy and not in the last snapshot
	until   time.Time              // then what is missing is gone
}

// intent is a client of this gateway that is present, or is to be.
type intent struct {
	attendance *Attendance      // who is told the outcome
	wanted     *linkpb.Presence // what the owner is to know
	confirmed  *linkpb.Presence // what it knows, as far as has been heard; nil if nothing
	current    bool             // the owner behind the connection has confirmed what is wanted
	ref        uint64           // of the Track on its way; 0 if there is none
	waits      uint64           // which of the attendance's Tracks waits for the outcome; 0 if none
}

// presenceLocked returns the topic's presence, made now if need be.
func (r *Router) presenceLocked(s *shard, topic string) *presence {
	p := s.presences[topic]
	if p == nil {
		p = &presence{
			name: topic, lane: r.route(topic), members: make(map[uint64]*intent), present: make(map[uint64]*linkpb.Presence),
		}
		if s.presences == nil {
			s.presences = make(map[string]*presence)
		}
		s.presences[topic] = p
		p.announce()
	}
	return p
}

// announce tells the owner of the members that it may not know, and then asks for a snapshot, if the lane is live and that
// is not under way.
func (p *presence) announce() {
	for id, m := range p.members {
		p.track(id, m)
	}
	if !p.watching && p.watchRef == 0 {
		p.watchRef = p.lane.request(pending{topic: p.name, kind: pendingWatch}, func(ref uint64) (linkpb.Kind, linkpb.Item) {
			return linkpb.KindWatch, &linkpb.Watch{Ref: ref, Topic: p.name}
		})
	}
}

// track tells the owner what is wanted of a member. There is one Track of a member on its way at a time.
func (p *presence) track(id uint64, m *intent) {
	if m.current || m.ref != 0 {
		return
	}
	req := &linkpb.Track{Topic: p.name, Member: id, Presence: &linkpb.Presence{Key: m.wanted.Key, Meta: m.wanted.Meta}}
	if c := m.confirmed; c != nil && c == m.wanted {
		req.Presence.Ref, req.Presence.Prev, req.Again = c.Ref, c.Prev, true
	} else if c != nil {
		req.Presence.Prev = c.Ref
	}
	wanted := m.wanted
	m.ref = p.lane.request(pending{topic: p.name, kind: pendingTrack, member: id, wanted: wanted}, func(ref uint64) (linkpb.Kind, linkpb.Item) {
		req.Ref = ref
		return linkpb.KindTrack, req
	})
}

// disconnected forgets what was under way on a connection that is lost, or is not the presence's any more.
func (p *presence) disconnected() {
	p.watchRef, p.watching, p.parts, p.changes = 0, false, nil, 0
	for _, m := range p.members {
		m.ref, m.current = 0, false
	}
}

// reroute goes over to the lane that the ring wants. Called under the shard's lock.
func (p *presence) reroute(r *Router, touch func(*lane)) {
	target := r.route(p.name)
	if target == p.lane {
		return
	}
	p.lane.tell(linkpb.KindUnwatch, &linkpb.Unwatch{Topic: p.name})
	touch(p.lane)
	touch(target)
	p.retract()
	p.lane = target
	p.announce()
}

// retract is disconnected for a connection that goes on: nobody waits there for an answer any more.
func (p *presence) retract() {
	p.lane.giveUp(p.watchRef)
	for _, m := range p.members {
		p.lane.giveUp(m.ref)
	}
	p.disconnected()
}

// sealed notes that the owner has forgotten the presence with its topic. That may come back to it without the ring's having
// changed here, so tickPresence tells it anew; if the ring is about to change, reroute does so elsewhere.
func (p *presence) sealed() {
	p.retract()
	p.behind = true
}

// presenceReplied takes the Reply to a Watch or a Track.
func (in *inbox) presenceReplied(ask pending, rep *linkpb.Reply) {
	s := in.lane.r.shard(ask.topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.presences[ask.topic]
	switch {
	case p == nil || p.lane != in.lane:
	case ask.kind == pendingWatch && p.watchRef == rep.Ref:
		p.watchRef, p.watching = 0, rep.Code == linkpb.Code_OK
		p.behind = p.behind || !p.watching
	case ask.kind == pendingTrack:
		if m := p.members[ask.member]; m != nil && m.ref == rep.Ref {
			m.ref = 0
			in.tracked(p, ask, m, rep)
		}
	}
}

// tracked takes the outcome of a member's Track. What is refused in passing is tried again by tickPresence.
func (in *inbox) tracked(p *presence, ask pending, m *intent, rep *linkpb.Reply) {
	o := Outcome{Code: rep.Code, Detail: rep.Detail}
	latest := m.wanted == ask.wanted
	switch {
	case o.OK():
		ask.wanted.Ref, ask.wanted.Prev = rep.PresenceRef, rep.PresencePrev
		m.confirmed, m.current = ask.wanted, latest
	case passing(o.Code):
		p.behind = true
		return
	case !latest:
	case m.confirmed != nil && m.confirmed != m.wanted:
		m.wanted = m.confirmed // as it was before
	default:
		delete(p.members, ask.member)
		in.lane.r.refused.Log(in.lane.log, zap.WarnLevel, "a member is refused", zap.String("topic", p.name), zap.Stringer("code", o.Code), zap.String("detail", o.Detail))
	}
	if m.waits != 0 && latest {
		a, serial := m.attendance, m.waits
		m.waits = 0
		a.local.loop.Post(func() { a.tracked(serial, o) })
	}
	if p.members[ask.member] == m {
		p.track(ask.member, m)
		in.touch(p.lane)
	}
}

// maxPresences bounds, in bytes, a topic's presences with what is to be done to them. An owner has 2 MiB of them, and
// 100 000 members at most: that is a third of it, before and after a change of them all.
const maxPresences = 32 << 20

// presenceSize is what a presence counts, in bytes.
func presenceSize(pr *linkpb.Presence) int { return len(pr.Key) + len(pr.Meta) + 32 }

// presenceDiff takes a part of a diff or a snapshot. An error ends the lane.
func (in *inbox) presenceDiff(d *linkpb.PresenceDiff) error {
	r := in.lane.r
	s := r.shard(d.Topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.presences[d.Topic]
	if p == nil || p.lane != in.lane || !p.watching || !p.synced && !d.Snapshot {
		return nil
	}
	p.parts = append(p.parts, d)
	p.changes += 32 + 8*len(d.Leaves)
	for _, pr := range d.Joins {
		p.changes += presenceSize(pr)
	}
	if p.bytes+p.changes > maxPresences {
		return fmt.Errorf("topic server sends presences without an end: %d bytes of one topic so far", p.bytes+p.changes)
	}
	if d.More {
		return nil
	}
	var joins []*linkpb.Presence
	var leaves []uint64
	for _, part := range p.parts {
		joins, leaves = append(joins, part.Joins...), append(leaves, part.Leaves...)
	}
	p.parts, p.changes = nil, 0
	if d.Snapshot {
		leaves = p.snapshot(joins, time.Duration(d.SettlingMs)*time.Millisecond)
	}
	p.apply(r, joins, leaves)
	return nil
}

// snapshot compares the copy with all that the owner knows. It returns what is gone.
func (p *presence) snapshot(all []*linkpb.Presence, settling time.Duration) (leaves []uint64) {
	p.missing = make(map[uint64]struct{})
	for ref := range p.present {
		p.missing[ref] = struct{}{}
	}
	for _, pr := range all {
		delete(p.missing, pr.Ref)
	}
	p.until = time.Now().Add(settling)
	if settling > 0 {
		return nil
	}
	return p.takeMissing()
}

func (p *presence) takeMissing() (leaves []uint64) {
	for ref := range p.missing {
		leaves = append(leaves, ref)
	}
	p.missing = nil
	return leaves
}

// settle ends the wait for members that the last snapshot did not have.
func (p *presence) settle(r *Router, now time.Time) {
	if len(p.missing) > 0 && p.watching && now.After(p.until) {
		p.apply(r, nil, p.takeMissing())
	}
}

// apply changes the copy and tells the loops of what is new in it. References that are known already, or not, as the
// case may be, are no news: the owner's snapshot may be ahead of its next diff.
func (p *presence) apply(r *Router, joins []*linkpb.Presence, leaves []uint64) {
	var joined, left []*linkpb.Presence
	for _, pr := range joins {
		delete(p.missing, pr.Ref)
		if p.present[pr.Ref] == nil {
			p.present[pr.Ref] = pr
			p.bytes += presenceSize(pr)
			joined = append(joined, pr)
		}
	}
	for _, ref := range leaves {
		delete(p.missing, ref)
		if pr := p.present[ref]; pr != nil {
			delete(p.present, ref)
			p.bytes -= presenceSize(pr)
			left = append(left, pr)
		}
	}
	first := !p.synced
	if !first && len(joined)+len(left) == 0 {
		return
	}
	p.synced, p.state = true, nil
	p.version++
	var diff *hub.Message
	if !first {
		diff = hub.NewPush(p.name, "presence_diff", appendDiff(nil, joined, left))
	}
	// Posted under the lock, so that loops get the versions in their order, whichever goroutine makes them.
	version := p.version
	for loops := p.loops; loops != 0; loops &= loops - 1 {
		local := r.locals[bits.TrailingZeros64(loops)]
		local.loop.Post(func() { local.presenceChanged(p, version, diff) })
	}
}

// stateMessage returns the presence_state of the copy, encoded once for all that need it.
func (p *presence) stateMessage() *hub.Message {
	if p.state == nil {
		all := make([]*linkpb.Presence, 0, len(p.present))
		for _, pr := range p.present {
			all = append(all, pr)
		}
		p.state = hub.NewPush(p.name, "presence_state", appendPresences(nil, all))
	}
	return p.state
}

// eachPresence calls do with every presence, under its shard's lock.
func (r *Router) eachPresence(do func(p *presence)) {
	for i := range r.shards {
		r.shards[i].do(func(s *shard) {
			for _, p := range s.presences {
				do(p)
			}
		})
	}
}

// tickPresence tries again what was refused, and ends what has settled.
func (r *Router) tickPresence(now time.Time) {
	touched := make(map[*lane]bool)
	r.eachPresence(func(p *presence) {
		if p.behind {
			p.behind = false
			p.announce()
			touched[p.lane] = true
		}
		p.settle(r, now)
	})
	for l := range touched {
		l.flush()
	}
}

// appendDiff appends the payload of presence_diff.
func appendDiff(dst []byte, joins, leaves []*linkpb.Presence) []byte {
	dst = appendPresences(append(dst, `{"joins":`...), joins)
	dst = appendPresences(append(dst, `,"leaves":`...), leaves)
	return append(dst, '}')
}

// appendPresences appends presences as Phoenix has them: {key: {"metas": [{"phx_ref": …, …meta}, …]}, …}. It sorts the
// list.
func appendPresences(dst []byte, list []*linkpb.Presence) []byte {
	slices.SortFunc(list, func(a, b *linkpb.Presence) int { return strings.Compare(a.Key, b.Key) })
	dst = append(dst, '{')
	for i, pr := range list {
		switch {
		case i > 0 && list[i-1].Key == pr.Key:
			dst = append(dst, ',')
		default:
			if i > 0 {
				dst = append(dst, `]},`...)
			}
			dst = appendKey(dst, pr.Key)
		}
		dst = appendMeta(dst, pr)
	}
	if len(list) > 0 {
		dst = append(dst, `]}`...)
	}
	return append(dst, '}')
}
