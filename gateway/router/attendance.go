package router

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/proto/codec"
	"github.com/ringcast/ringcast/proto/linkpb"
)

// Attendance is one channel's part in its topic's presence: it may be a member, and it is shown who is there. It belongs
// to the channel's loop: all methods run there.
type Attendance struct {
	// Static.
	local   *Local
	topic   string
	channel *hub.Channel
	id      uint64 // of the member, unique within the gateway

	// Owned by the loop.
	audience *audience
	done     func(Outcome) // of a Track that has no outcome yet
	update   bool          // it changes a member that is there
	serial   uint64        // counts the Tracks
	index    int           // in audience.list; -1 when ended
	since    time.Time     // when it was asked for
	shows    bool          // Show was called
	shown    uint64        // the version up to which the channel has been told; 0 is nothing
}

// audience is a topic's attendances on one loop. Invariant: the loop's bit is in presence.loops.
type audience struct {
	presence *presence
	list     []*Attendance // unordered
}

// Attend begins an attendance, of which the channel gets nothing before Show. The channel need not be in the hub.
func (l *Local) Attend(topic string, c *hub.Channel) *Attendance {
	l.nextID++
	a := &Attendance{local: l, topic: topic, channel: c, id: l.nextID}
	a.audience = l.audiences[topic]
	if a.audience == nil {
		s := l.r.shard(topic)
		s.mu.Lock()
		p := l.r.presenceLocked(s, topic)
		p.loops |= 1 << l.loop.Index()
		lane := p.lane
		s.mu.Unlock()
		l.touch(lane)
		a.audience = &audience{presence: p}
		l.audiences[topic] = a.audience
	}
	a.index = len(a.audience.list)
	a.audience.list = append(a.audience.list, a)
	return a
}

// lock locks the shard of the attendance's presence.
func (a *Attendance) lock() (p *presence, unlock func()) {
	s := a.local.r.shard(a.topic)
	s.mu.Lock()
	return a.audience.presence, s.mu.Unlock
}

// Track makes the channel present under a key, with a meta that is a JSON object, or changes that. It calls done, on the
// loop, when the owner has answered or does not in time: UNAVAILABLE means that the channel is not present,
// UNKNOWN_OUTCOME that a change may come true. A later Track ends an earlier one with UNKNOWN_OUTCOME; Untrack and End do
// so without a word. Key and meta are kept.
func (a *Attendance) Track(key string, meta []byte, done func(Outcome)) {
	a.finish(Outcome{Code: linkpb.Code_UNKNOWN_OUTCOME, Detail: "another change came before this one was answered"})
	p, unlock := a.lock()
	m := p.members[a.id]
	a.update = m != nil
	if m == nil {
		m = &intent{attendance: a}
		p.members[a.id] = m
	}
	a.serial++
	m.wanted, m.current, m.waits = &linkpb.Presence{Key: key, Meta: meta}, false, a.serial
	p.track(a.id, m)
	lane := p.lane
	unlock()
	a.done, a.since = done, time.Now()
	a.local.tracks[a] = struct{}{}
	a.local.waits.Add(1)
	a.local.touch(lane)
}

// tracked ends a Track with the owner's answer, unless a later one has ended it.
func (a *Attendance) tracked(serial uint64, o Outcome) {
	if serial == a.serial {
		a.finish(o)
	}
}

// finish ends the Track under way, if there is one.
func (a *Attendance) finish(o Outcome) {
	if done := a.forget(); done != nil {
		done(o)
	}
}

// forget makes nobody wait for the Track under way, and returns who did.
func (a *Attendance) forget() func(Outcome) {
	done := a.done
	if done != nil {
		a.done = nil
		delete(a.local.tracks, a)
		a.local.waits.Add(-1)
	}
	return done
}

// Untrack ends the channel's being present: for others at once or, with grace, only if nobody comes in time who has the
// same key and meta. The channel is still shown who is there. It does nothing if the channel is not present.
func (a *Attendance) Untrack(grace bool) {
	a.forget()
	p, unlock := a.lock()
	defer unlock()
	m := p.members[a.id]
	if m == nil {
		return
	}
	delete(p.members, a.id)
	p.lane.giveUp(m.ref)
	p.lane.tell(linkpb.KindUntrack, &linkpb.Untrack{Topic: a.topic, Member: a.id, Grace: grace})
	a.local.touch(p.lane)
}

// Tracked reports whether the channel is present or about to be.
func (a *Attendance) Tracked() bool {
	p, unlock := a.lock()
	defer unlock()
	return p.members[a.id] != nil
}

// Has reports whether the channel is present with the meta, and nothing else is on its way.
func (a *Attendance) Has(meta []byte) bool {
	p, unlock := a.lock()
	defer unlock()
	m := p.members[a.id]
	return m != nil && m.confirmed == m.wanted && bytes.Equal(m.wanted.Meta, meta)
}

// End ends the attendance, as Untrack does, and all that the channel gets of it.
func (a *Attendance) End(grace bool) {
	if a.index < 0 {
		return
	}
	a.Untrack(grace)
	a.forgetPostponed()
	l, list := a.local, a.audience.list
	last := len(list) - 1
	list[a.index] = list[last]
	list[a.index].index = a.index
	list[last], a.index = nil, -1
	if a.audience.list = list[:last]; last > 0 {
		return
	}
	delete(l.audiences, a.topic)
	s := l.r.shard(a.topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := a.audience.presence
	if p.loops &^= 1 << l.loop.Index(); p.loops == 0 {
		delete(s.presences, a.topic)
		p.lane.tell(linkpb.KindUnwatch, &linkpb.Unwatch{Topic: a.topic})
		p.lane.giveUp(p.watchRef)
		l.touch(p.lane)
	}
}

// Show sends the channel who is there, as soon as that is known and the client's queue has room, and from then on each
// change.
func (a *Attendance) Show() {
	a.shows = true
	p, unlock := a.lock()
	var state *hub.Message
	version := p.version
	if p.synced {
		state = p.stateMessage()
	}
	unlock()
	switch {
	case state == nil:
		return
	case a.shown > 0 && a.channel.Conn.Behind() || !makeRoom(a.channel, state):
		a.postpone()
		return
	}
	a.forgetPostponed()
	a.shown = version
	a.local.hub.Send(a.channel, state)
}

// largeDiff is the size from which a change, with what waits before it, is looked at as a state is: members that come,
// go and change are no fault of those who are told of it.
const largeDiff = 64 << 10

// keepsUp reports whether the channel's client has room for a change. One that has not is shown who is there anew when
// it has: for clients that is the same, and of a member that has changed ten times they get the last.
func (a *Attendance) keepsUp(diff *hub.Message) bool {
	conn := a.channel.Conn
	return diff == nil || conn.Waiting()+len(diff.Payload) <= largeDiff || !conn.Behind() && makeRoom(a.channel, diff)
}

// frameMargin is more than what a frame has beside its payload.
const frameMargin = 1 << 10

// makeRoom reports whether the client's queue takes the message now. A topic's state, or a change of very many members, may
// be longer than a queue may be; an empty one takes it all the same.
func makeRoom(c *hub.Channel, m *hub.Message) bool {
	return c.Conn.MakeRoom(len(m.Payload) + frameMargin)
}

// postpone has expire call Show again.
func (a *Attendance) postpone() {
	l := a.local
	if a.isPostponed() {
		return
	}
	if l.postponed == nil {
		l.postponed = make(map[*Attendance]struct{})
	}
	l.postponed[a] = struct{}{}
	l.waits.Add(1)
}

func (a *Attendance) isPostponed() bool {
	_, ok := a.local.postponed[a]
	return ok
}

func (a *Attendance) forgetPostponed() {
	l := a.local
	if _, ok := l.postponed[a]; ok {
		delete(l.postponed, a)
		l.waits.Add(-1)
	}
}

// presenceChanged tells the loop's channels of a change. Channels that have been shown a state since it was made have it
// already: the copy runs ahead of the loop. The change that brings the first state is no diff. Those whose state is
// postponed will be shown this change in it.
func (l *Local) presenceChanged(p *presence, version uint64, diff *hub.Message) {
	au := l.audiences[p.name]
	if au == nil || au.presence != p {
		return
	}
	l.told = l.told[:0]
	for _, a := range au.list {
		switch {
		case !a.shows || a.shown >= version || a.isPostponed():
		case a.shown == 0:
			a.Show()
		case !a.keepsUp(diff):
			l.r.stats.presencesPostponed.Add(1)
			a.postpone()
		default:
			a.shown = version
			l.told = append(l.told, a.channel)
		}
	}
	if diff != nil {
		l.hub.Broadcast(l.loop, l.told, diff)
	}
	clear(l.told)
}

// expireTracks ends the Tracks that have waited too long.
func (l *Local) expireTracks(now time.Time) {
	for a := range l.tracks {
		if now.Sub(a.since) < l.r.cfg.JoinTimeout {
			continue
		}
		done := a.forget()
		if a.update {
			done(Outcome{Code: linkpb.Code_UNKNOWN_OUTCOME, Detail: "the topic's owner does not answer"})
			continue
		}
		a.Untrack(false)
		done(Outcome{Code: linkpb.Code_UNAVAILABLE, Detail: "the topic's owner does not answer"})
	}
}

// appendKey appends the beginning of what is present under a key.
func appendKey(dst []byte, key string) []byte {
	return append(codec.AppendString(dst, key), `:{"metas":[`...)
}

// appendMeta appends the meta with its references. It is a JSON object without them.
func appendMeta(dst []byte, pr *linkpb.Presence) []byte {
	dst = appendPresenceRef(append(dst, `{"phx_ref":`...), pr.Ref)
	if pr.Prev != 0 {
		dst = appendPresenceRef(append(dst, `,"phx_ref_prev":`...), pr.Prev)
	}
	if rest := pr.Meta; len(rest) > 2 {
		dst = append(append(dst, ','), rest[1:]...)
		return dst
	}
	return append(dst, '}')
}

// appendPresenceRef appends a reference as clients see it.
func appendPresenceRef(dst []byte, ref uint64) []byte {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], ref)
	dst = base64.RawURLEncoding.AppendEncode(append(dst, '"'), b[:])
	return append(dst, '"')
}
