package topic

import (
	"testing"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// A bug that is met by what runs for a topic elsewhere than on a lane leaves that one thing undone: the process lives, the topic
// is not locked for ever, and others notice nothing.
func TestABugOutsideOfLanes(t *testing.T) {
	t.Run("a request that has waited for its topic", func(t *testing.T) {
		r := registryOf(t, always(OursLater))
		g := gateways(t, 1, false)[0]
		g.publish(r, "t:a", "one")
		topic := r.lock("t:a")
		topic.parked = append(topic.parked, parked{run: func(*Turn) { panic("a bug") }})
		topic.mu.Unlock()
		g.publish(r, "t:a", "two")
		r.Install("t:a", nil)
		for want := range uint64(2) {
			if rep := next[*linkpb.Reply](t, g); rep.Code != linkpb.Code_OK || rep.Position.Offset != want+1 {
				t.Errorf("reply %v", rep)
			}
		}
		if n := r.Stats().Panics; n != 1 {
			t.Errorf("%d panics are counted", n)
		}
	})
	t.Run("a presence", func(t *testing.T) {
		s := newStage(t, 1, Presence{})
		a := s.gw[0]
		s.watch(a)
		s.at(a, func() {
			s.r.Track(&a.Turn, a.Lane, &linkpb.Track{Ref: 1, Topic: "t:bad", Member: 1, Presence: &linkpb.Presence{Key: "k", Meta: []byte("{}")}})
		})
		next[*linkpb.Reply](t, a)
		bad := s.r.lock("t:bad")
		bad.presence.joins[1] = nil
		bad.mu.Unlock()
		s.track(a, 2, "u={}")
		s.pass(50 * time.Millisecond)
		s.hears("+u={}", a)
		a.publish(s.r, "t:bad", "still here")
		next[*linkpb.Reply](t, a)
		if n := s.r.Stats().Panics; n != 1 {
			t.Errorf("%d panics are counted", n)
		}
	})
	t.Run("a name", func(t *testing.T) {
		r, gws := namesRegistry(t)
		r.Doubt(time.Now().Add(time.Hour))
		gws[0].askLater(r, register, 1, 0, "")
		topic := r.lock("reg:n")
		topic.exclusive.calls[0].req.Name = nil
		topic.mu.Unlock()
		r.SettleNames(time.Now().Add(2 * maxNameWait))
		if n := r.Stats().Panics; n != 1 || !topic.mu.TryLock() {
			t.Errorf("%d panics are counted, or the topic is locked", n)
		}
	})
	t.Run("a sweep", func(t *testing.T) {
		r := newRegistry(t)
		g := gateways(t, 1, false)[0]
		g.publish(r, "t:a", "x")
		next[*linkpb.Reply](t, g)
		s := r.shard("t:a")
		s.topics["bad"] = nil
		r.Sweep(time.Hour)
		if n := r.Stats().Panics; n != 1 || !s.mu.TryLock() {
			t.Errorf("%d panics are counted, or the shard is locked", n)
		}
	})
}
