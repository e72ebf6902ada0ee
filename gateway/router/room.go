package router

import (
	"slices"
	"time"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/gateway/socket"
)

// A client that comes back may have missed more, on all its topics together, than its queue may hold. Its joins then take
// turns: one whose past finds no room is postponed, and its owner asked again when there is. What was answered is not
// kept meanwhile. A postponed join waits as long as the client takes what is sent to it, or until the client gives it up.

// roomDelay is how long a client that reads as fast as it can has for that, before it is looked at again.
const roomDelay = 50 * time.Millisecond

// postponed reports whether the join waits for its client, not for an answer.
func (j *join) postponed() bool { return j.needs > 0 && !j.asked }

// postponed reports whether all of the joins are.
func (w *waiting) postponed() bool {
	return !slices.ContainsFunc(w.joins, func(j join) bool { return !j.postponed() })
}

func (l *Local) postponeJoin(w *waiting, j join, needs int) {
	l.r.stats.joinsPostponed.Add(1)
	j.needs, j.asked = needs, false
	w.joins = append(w.joins, j)
	l.lookForRoom()
}

// lookForRoom has askPostponed called after roomDelay: a join was postponed, or one that was is completed and another may
// have its turn. Those that have no room then are looked at when the housekeeper calls expire.
func (l *Local) lookForRoom() {
	if l.looking {
		return
	}
	l.looking = true
	time.AfterFunc(roomDelay, func() {
		l.loop.Post(func() {
			l.looking = false
			l.askPostponed(time.Now())
		})
	})
}

// askPostponed asks the owners again for joins whose clients have room now: for each client as much as its queue takes, or
// one join that needs more than that if nothing waits for the client.
func (l *Local) askPostponed(now time.Time) {
	asked := l.askedAgain()
	for topic, w := range l.joins {
		var ready []join
		w.joins = slices.DeleteFunc(w.joins, func(j join) bool {
			conn := j.channel.Conn
			if !j.postponed() || !conn.HasRoom(asked[conn], j.needs) {
				return false
			}
			asked[conn] += j.needs
			ready = append(ready, j)
			return true
		})
		for _, j := range ready {
			j.asked, j.since = true, now
			l.ask(topic, w, j)
		}
		if len(w.joins) == 0 && l.joins[topic] == w {
			l.settle(topic)
		}
	}
}

// askedAgain gives the bytes that are under way to clients whose joins were postponed.
func (l *Local) askedAgain() map[*socket.Conn]int {
	asked := make(map[*socket.Conn]int)
	for _, w := range l.joins {
		for i := range w.joins {
			if j := &w.joins[i]; j.asked {
				asked[j.channel.Conn] += j.needs
			}
		}
	}
	return asked
}

// missedBehind gives those of past, which is in order, that are behind the offset.
func missedBehind(past []*hub.Message, offset uint64) []*hub.Message {
	for i, m := range past {
		if m.Position.Offset > offset {
			return past[i:]
		}
	}
	return nil
}

// bytesOf is at least what the frames of missed take in a queue, with the reply to their join; 0 if nothing was missed.
func bytesOf(missed []*hub.Message) (n int) {
	if len(missed) == 0 {
		return 0
	}
	for _, m := range missed {
		n += m.FrameBytes() + frameMargin/16
	}
	return n + frameMargin
}
