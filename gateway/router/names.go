package router

import (
	"maps"
	"strings"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// Exclusive names. A name's owner on the ring decides who holds it; requests about it go the way of publishes to the topic
// that stands for it, reg:NAME, so they keep their order over link losses and ring changes. The gateway keeps the claims
// of its sessions and brings those that hold a name to whoever the owner is: over each new connection, and to the new
// owner when the ring changes. When the owner has not been reachable for half of its grace, the names are given up here;
// the owner gives them to others only after all of it.

// NameTopic is the topic that stands for a name.
func NameTopic(name string) string { return namePrefix + name }

const namePrefix = "reg:"

// Name is one session's claim to an exclusive name. It belongs to the session's loop.
type Name struct {
	// Received is called with each message for the name. The payload is the callee's to keep.
	Received func(event string, payload []byte)
	// Lost is called when the name is not the session's any more, though it has not released it.
	Lost func()

	// Owned by the loop.
	topic     string
	claim     uint64
	held      bool
	since     time.Time // when it was granted
	announces int       // on their way
}

// Register asks for a name and calls done with the outcome, on the loop. After an OK outcome the session holds the name
// until Lost is called or it releases it. If Release comes first, done is not called.
func (l *Local) Register(name string, n *Name, done func(Outcome)) {
	l.nextID++
	n.topic, n.claim = NameTopic(name), l.nextID
	if l.names == nil {
		l.names = make(map[uint64]*Name)
	}
	l.names[n.claim] = n
	l.call(n.topic, &linkpb.NameCall{Op: linkpb.NameOp_NAME_REGISTER, Claim: n.claim}, func(o Outcome) {
		if l.names[n.claim] != n {
			return
		}
		if o.OK() {
			n.held, n.since = true, time.Now()
			l.r.stats.names.Add(1)
		} else {
			l.drop(n)
			if o.Code != linkpb.Code_NAME_TAKEN {
				l.release(n, nil) // it may have been granted, or may yet be
			}
		}
		done(o)
	})
}

// Release ends what Register began, and calls done, if there is one, with the outcome. Whatever that is, the session does
// not hold the name any more. It does nothing to a name that was lost.
func (l *Local) Release(n *Name, done func(Outcome)) {
	if l.names[n.claim] != n {
		return
	}
	l.drop(n)
	l.release(n, done)
}

func (l *Local) release(n *Name, done func(Outcome)) {
	if done == nil {
		done = func(Outcome) {}
	}
	l.call(n.topic, &linkpb.NameCall{Op: linkpb.NameOp_NAME_RELEASE, Claim: n.claim}, done)
}

// drop forgets a claim.
func (l *Local) drop(n *Name) {
	if n.held {
		n.held = false
		l.r.stats.names.Add(-1)
	}
	delete(l.names, n.claim)
}

// SendTo sends a message to the holder of a name and calls done, on the loop: with OK when it is on its way to the holder's
// gateway, with NAME_NOT_FOUND when nobody holds the name. Payload is copied.
func (l *Local) SendTo(name, event string, payload []byte, done func(Outcome)) {
	l.Publish(&linkpb.Publish{
		Topic: NameTopic(name), Event: event, Payload: payload, Name: &linkpb.NameCall{Op: linkpb.NameOp_NAME_SEND},
	}, done)
}

// call sends a request about a claim.
func (l *Local) call(topic string, c *linkpb.NameCall, done func(Outcome)) {
	l.Publish(&linkpb.Publish{Topic: topic, Name: c}, done)
}

// announceNames tells the owners of some names that they are held here.
func (l *Local) announceNames(which func(topic string) bool) {
	for _, n := range l.names {
		if n.held && which(n.topic) {
			l.announceName(n)
		}
	}
}

// announceName tells the owner of a name that it is held here. Only the last of several announcements that are on their way
// at once may fail for good.
func (l *Local) announceName(n *Name) {
	n.announces++
	c := &linkpb.NameCall{Op: linkpb.NameOp_NAME_ANNOUNCE, Claim: n.claim, HeldMs: uint64(time.Since(n.since) / time.Millisecond)}
	l.call(n.topic, c, func(o Outcome) {
		n.announces--
		if l.names[n.claim] != n || o.OK() || n.announces > 0 && o.Code != linkpb.Code_NAME_TAKEN {
			return
		}
		l.lose(n)
	})
}

// lose ends a claim that the session has not released.
func (l *Local) lose(n *Name) {
	l.drop(n)
	l.release(n, nil)
	l.r.stats.namesLost.Add(1)
	n.Lost()
}

// nameLost is lose for what the owner says.
func (l *Local) nameLost(m *linkpb.NameMessage) {
	if n := l.names[m.Claim]; n != nil && n.topic == m.Topic {
		l.lose(n)
	}
}

// nameMessage hands a message to the session that it is for. An owner that takes somebody for the holder who is not is
// told, but not another one in its place.
func (l *Local) nameMessage(m *linkpb.NameMessage, fromOwner bool) {
	n := l.names[m.Claim]
	if n == nil || n.topic != m.Topic {
		l.r.stats.stray.Add(1)
		if !fromOwner {
			return
		}
		l.call(m.Topic, &linkpb.NameCall{Op: linkpb.NameOp_NAME_RELEASE, Claim: m.Claim}, func(Outcome) {})
		return
	}
	n.Received(m.Event, m.Payload)
}

// loopOf returns the loop that a claim belongs to; see Local.nextID.
func (in *inbox) loopOf(claim uint64) (int, bool) {
	loop := int(claim >> 56)
	return loop, loop < len(in.loops)
}

// nameMessage passes a message on to the loop of its claim. A loop that is too far behind loses the name instead: its
// session is told.
func (in *inbox) nameMessage(m *linkpb.NameMessage) {
	loop, ok := in.loopOf(m.Claim)
	if !ok {
		in.lane.r.stats.stray.Add(1)
		return
	}
	if in.behind(1<<loop) != 0 {
		in.lane.r.stats.overruns.Add(1)
		in.nameLost(m)
		return
	}
	e := event{kind: eventName, name: m}
	if in.lane.r.route(m.Topic) != in.lane {
		e.outcome.Code = linkpb.Code_NOT_OWNER
	}
	in.post(loop, e)
}

// nameLost passes on that a claim's name is another's. Whom the ring does not give the name has no say in that; a new owner is
// told of the claim, and answers.
func (in *inbox) nameLost(m *linkpb.NameMessage) {
	if loop, ok := in.loopOf(m.Claim); ok && in.lane.r.route(m.Topic) == in.lane {
		in.post(loop, event{kind: eventNameLost, name: &linkpb.NameMessage{Topic: m.Topic, Claim: m.Claim}})
	}
}

// nameSealed notes that the owner of a name has let its topic go. It may come back to it without the ring's having changed
// here, and nobody would tell the owner then that the holder is still there.
func (in *inbox) nameSealed(topic string) {
	if !strings.HasPrefix(topic, namePrefix) || in.lane.r.route(topic) != in.lane {
		return
	}
	if in.sealedNames == nil {
		in.sealedNames = make(map[string]bool)
	}
	in.sealedNames[topic] = true
}

// maxSealed is of how many names a lane notes that they were sealed.
const maxSealed = 64 << 10

// noteSealed leaves to announceSealed what nameSealed has noted in a batch. It is called when the loops have been given what came
// before that: who was granted a name holds it by then.
func (in *inbox) noteSealed() {
	l := in.lane
	l.mu.Lock()
	if l.sealedNames == nil {
		l.sealedNames = in.sealedNames
	} else {
		maps.Copy(l.sealedNames, in.sealedNames)
	}
	full := len(l.sealedNames) >= maxSealed
	l.mu.Unlock()
	in.sealedNames = nil
	if full {
		l.announceSealed()
	}
}

// announceSealed has the loops announce the names that were sealed since it was called last, but for those that are not the lane's any
// more: these were announced when the ring changed. It is for the housekeeper: each loop looks at all the names that it has, and an owner
// may let thousands go, one after another, before the ring changes here.
func (l *lane) announceSealed() {
	l.mu.Lock()
	sealed := l.sealedNames
	l.sealedNames = nil
	l.mu.Unlock()
	if len(sealed) == 0 {
		return
	}
	for _, local := range l.r.locals {
		local.loop.Post(func() {
			local.announceNames(func(topic string) bool { return sealed[topic] && l.r.route(topic) == l })
		})
	}
}

// namesOverdue reports, once for each time that the lane is lost, that its names are to be given up.
func (l *lane) namesOverdue(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wire != nil || l.unnamed || now.Sub(l.since) < l.hold {
		return false
	}
	l.unnamed = true
	return true
}

// giveUpNames ends the claims that the server behind a lane decides on.
func (r *Router) giveUpNames(lane *lane) {
	for _, l := range r.locals {
		l.loop.Post(func() {
			for _, n := range l.names {
				if n.held && r.route(n.topic) == lane && !lane.live() {
					l.lose(n)
				}
			}
		})
	}
}
