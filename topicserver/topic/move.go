package topic

import (
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/mutant"
	"github.com/ringcast/ringcast/topicserver/history"
)

// A topic moves in three steps: its new owner expects it, its old owner seals it, and the new owner installs what it
// got. A topic that is asked for before that waits as well, until it is installed.

// Foreign lists the topics here for which foreign is true: those that a ring change has given to others. Topics whose
// own state is still on its way here are listed too; they can be sealed once it has come. No lock is held while foreign
// is called.
func (r *Registry) Foreign(foreign func(topic string) bool) []string {
	var names []string
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		here := slices.Collect(maps.Keys(s.topics))
		s.mu.Unlock()
		for _, name := range here {
			if foreign(name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// Expect makes a topic that is not here, and ours, wait for its state. It reports false, and does nothing, when the
// topic is not here and another's.
func (r *Registry) Expect(name string) bool {
	s := r.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.topics[name] != nil {
		return true
	}
	if r.cfg.Claim(name) == NotOurs {
		return false
	}
	t := r.newTopic(name)
	s.topics[t.name] = t
	s.waitLocked(t)
	return true
}

// Waiting lists the topics that wait for their state. It is called for each attempt to reach a server, however many topics
// there are, so it looks at none that has not waited since the last call.
func (r *Registry) Waiting() []string {
	var names []string
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		s.waiting = slices.DeleteFunc(s.waiting, func(t *Topic) bool {
			t.mu.Lock()
			defer t.mu.Unlock()
			if !t.waiting || t.gone {
				return true
			}
			names = append(names, t.name)
			return false
		})
		if len(s.waiting) == 0 {
			s.waiting = nil // not to keep its memory
		}
		s.mu.Unlock()
	}
	return names
}

// Seal ends a topic here: it takes no more requests, its gateways are told how far it went, and its state is returned
// for the server that the ring of the given version gives it to. The state is nil when the topic is not here, and
// pending is true when it is not here yet.
func (r *Registry) Seal(name string, ringVersion uint64) (state *linkpb.TopicState, pending bool) {
	var tn Turn
	defer tn.Flush()
	s := r.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.topics[name]
	if t == nil {
		return nil, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting {
		return nil, true
	}
	state = &linkpb.TopicState{Topic: t.name, Position: t.positionLocked(), Ids: t.ids.export()}
	past, _ := r.cfg.Store.After(t.name, history.Position{Epoch: t.epoch}, history.Position{Epoch: t.epoch, Offset: t.offset}, tn.Now())
	for _, m := range past {
		state.History = append(state.History, m.Item)
	}
	sealed := &linkpb.Sealed{Topic: t.name, Position: t.positionLocked(), RingVersion: ringVersion}
	for lane := range t.lanesLocked() {
		lane.Out.Append(linkpb.KindSealed, sealed)
		tn.touch(lane)
		r.dropLocked(t, lane, tn.Now())
	}
	t.abandonLocked()
	state.Name = r.sealNameLocked(&tn, t)
	r.removeLocked(s, t)
	return state, false
}

// lanesLocked returns the lanes that have a part in the topic: as subscribed gateways, in its presence, or as its name's holder.
func (t *Topic) lanesLocked() map[*Lane]struct{} {
	lanes := make(map[*Lane]struct{}, len(t.subs))
	for i := range t.subs {
		lanes[t.subs[i].lane] = struct{}{}
	}
	if p := t.presence; p != nil {
		p.eachLane(func(lane *Lane) { lanes[lane] = struct{}{} })
	}
	if x := t.exclusive; x != nil && x.lane != nil {
		lanes[x.lane] = struct{}{}
	}
	return lanes
}

// Install ends the wait of a topic: with its state, or, when state is nil or absent, with a new epoch. Then the
// requests that waited run, in their order. It reports false, and does nothing, when the topic does not wait.
func (r *Registry) Install(name string, state *linkpb.TopicState) bool {
	var tn Turn
	defer tn.Flush()
	t := r.lock(name)
	if t == nil {
		return false
	}
	defer t.mu.Unlock()
	if !t.waiting {
		if p := state.GetPosition(); p != nil && p.Epoch != t.epoch {
			r.moved.Log(r.cfg.Log, zap.WarnLevel, "discarded what another server had of a topic that has begun anew here",
				zap.String("topic", t.name), zap.Uint64("messages", p.Offset))
		}
		return false
	}
	if !state.GetAbsent() && state.GetPosition() != nil {
		r.restoreLocked(&tn, t, state)
		r.restoreNameLocked(&tn, t, state.Name)
	}
	t.waiting = false
	if r.cfg.PauseTime != nil && !t.parkedSince.IsZero() {
		r.cfg.PauseTime.Observe(time.Since(t.parkedSince).Seconds())
	}
	for _, p := range r.unparkLocked(t) {
		r.guard(func() { p.run(&tn) }) // each is another client's
	}
	return true
}

// Abandon ends the wait of a topic that is another's by now and of which nothing is to come here: it is forgotten, and
// the requests that waited are answered NOT_OWNER.
func (r *Registry) Abandon(name string) {
	var tn Turn
	defer tn.Flush()
	s := r.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.topics[name]
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.waiting {
		return
	}
	for _, p := range r.unparkLocked(t) {
		if p.refuse != nil {
			p.refuse(&tn)
		}
	}
	r.removeLocked(s, t)
}

func (r *Registry) restoreLocked(tn *Turn, t *Topic, state *linkpb.TopicState) {
	t.epoch, t.offset = state.Position.Epoch, state.Position.Offset
	n := uint64(len(state.History))
	past := make([]history.Message, 0, n)
	for i, item := range state.History {
		past = append(past, history.Message{
			Position: history.Position{Epoch: t.epoch, Offset: t.offset - n + uint64(i) + 1}, Item: item,
		})
	}
	if err := r.cfg.Store.Restore(t.name, past, tn.Now()); err != nil {
		// The positions go on all the same; those who come for the past are told that it is gone.
		r.moved.Log(r.cfg.Log, zap.ErrorLevel, "history of a topic that came over is lost", zap.String("topic", t.name), zap.Error(err))
	}
	if !mutant.Is(mutant.ForgetIDs) {
		t.ids.restore(state.Ids, tn.Now(), r.cfg.IDs)
	}
}
