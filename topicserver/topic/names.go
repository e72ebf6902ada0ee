package topic

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// Exclusive names. The name NAME is held by the owner of the topic reg:NAME, and moves with it: so there is one server that
// can give it away, and that one knows who has it. What it says counts; a gateway that has lost its link gives its names
// up by itself before the grace is over.
//
//	vacant ──register──► held ──lane lost, or moved here──► detached
//	  ▲                   │  ▲                               │  │
//	  └─────release───────┘  └──────────announce─────────────┘  │
//	  └───────────────────────grace is over─────────────────────┘
//
// A server that may have forgotten names (it has just started, or another one had them and cannot be reached) is in doubt
// for a while: then gateways may announce what they have, and nobody gets a name that nobody has announced. Requests that
// this concerns wait.
//
// Lock order: Topic.mu → Lane.mu, Topic.mu → nameClock.mu.

// maxNameWait is how long a request waits at most. It is shorter than the time that gateways give their requests, so that
// the answer is a definite one.
const maxNameWait = 4 * time.Second

// maxNameCalls is how many requests wait for one name, and maxNameBytes bounds what they take, but for a single one that
// is larger. What waits for all names counts with what waits for topics that move: maxParkedAll.
const (
	maxNameCalls = 256
	maxNameBytes = 1 << 20
)

// exclusive is what a topic has more that stands for a name. Guarded by its topic's mutex.
type exclusive struct {
	// The holder; claim is 0 if there is none.
	gateway   string
	instance  uint64
	claim     uint64
	since     time.Time // when it got the name, as far as anybody knows
	announced bool      // its gateway has brought it here
	lane      *Lane     // where its messages go; nil while it is detached
	detached  time.Time // since when

	calls []nameCall // that wait, in their order
	bytes int        // of calls
}

// nameCall is a request that waits until it is clear who holds the name.
type nameCall struct {
	from *Lane
	req  *linkpb.Publish
	at   time.Time
}

func (c nameCall) size() int { return len(c.req.Event) + len(c.req.Payload) + parkedCost }

// nameClock knows which names are to be looked at, and when.
type nameClock struct {
	mu  sync.Mutex
	due map[string]time.Time

	start time.Time    // static; has a monotonic reading, so a step of the wall clock ends no doubt
	doubt atomic.Int64 // until then, in nanoseconds from start
	held  atomic.Int64 // names that have a holder
}

// Doubt makes the registry give away no name before a time that nobody has announced until then.
func (r *Registry) Doubt(until time.Time) {
	for at := int64(until.Sub(r.names.start)); ; {
		old := r.names.doubt.Load()
		if old >= at || r.names.doubt.CompareAndSwap(old, at) {
			return
		}
	}
}

func (r *Registry) doubtsAt(now time.Time) bool { return now.Before(r.doubtEnd()) }

// doubtEnd is until when the registry is in doubt about names.
func (r *Registry) doubtEnd() time.Time {
	return r.names.start.Add(time.Duration(r.names.doubt.Load()))
}

// Names returns how many names have a holder.
func (r *Registry) Names() int64 { return r.names.held.Load() }

// Name handles a request about the name that its topic stands for. It is called by the receiver of from.
func (r *Registry) Name(tn *Turn, from *Lane, req *linkpb.Publish) {
	t, code := r.need(req.Topic)
	if t == nil {
		r.absent(tn, from, req.Ref, code)
		return
	}
	defer t.mu.Unlock()
	if t.waiting {
		own := cloneCall(req)
		size := len(own.Event) + len(own.Payload)
		r.park(tn, t, size, from, req.Ref, func(tn *Turn) { r.nameLocked(tn, t, nameCall{from, own, tn.Now()}) })
		return
	}
	r.nameLocked(tn, t, nameCall{from, req, tn.Now()})
}

// cloneCall makes a request outlive the batch that it came in.
func cloneCall(req *linkpb.Publish) *linkpb.Publish {
	return &linkpb.Publish{
		Ref: req.Ref, Event: strings.Clone(req.Event), Payload: slices.Clone(req.Payload),
		IdHigh: req.IdHigh, IdLow: req.IdLow, Name: req.Name,
	}
}

// nameLocked answers a request, or has it wait.
func (r *Registry) nameLocked(tn *Turn, t *Topic, c nameCall) {
	if t.exclusive == nil {
		t.exclusive = &exclusive{}
	}
	x := t.exclusive
	t.used = tn.Now()
	reply := func(code linkpb.Code, detail string) { tn.Reply(c.from, c.req.Ref, code, detail, nil) }
	mine := x.claim == c.req.Name.Claim && x.claim != 0 && x.instance == c.from.Instance && x.gateway == c.from.Gateway
	switch c.req.Name.Op {
	case linkpb.NameOp_NAME_REGISTER:
		switch {
		case mine:
			r.attachLocked(tn, t, c.from)
		case x.claim == 0 && !r.doubtsAt(tn.Now()):
			r.grantLocked(tn, t, c, false)
		case x.claim == 0 || x.lane == nil:
			r.waitLocked(tn, t, c)
			return
		default:
			reply(linkpb.Code_NAME_TAKEN, "another session holds the name")
			return
		}
	case linkpb.NameOp_NAME_ANNOUNCE:
		switch {
		case mine:
			r.attachLocked(tn, t, c.from)
		case x.claim == 0 || r.olderLocked(tn, x, c):
			r.grantLocked(tn, t, c, true)
		default:
			reply(linkpb.Code_NAME_TAKEN, "another session holds the name")
			return
		}
	case linkpb.NameOp_NAME_RELEASE:
		for _, w := range r.takeCallsLocked(x) {
			if w.req.Name.Claim == c.req.Name.Claim && w.from.Instance == c.from.Instance && w.req.Name.Op != linkpb.NameOp_NAME_SEND {
				tn.Reply(w.from, w.req.Ref, linkpb.Code_UNAVAILABLE, "given up by the session", nil)
			} else {
				r.keepCallLocked(x, w)
			}
		}
		if !mine {
			reply(linkpb.Code_NAME_NOT_FOUND, "the session does not hold the name")
			return
		}
		r.vacateLocked(t)
	case linkpb.NameOp_NAME_SEND:
		r.forwardLocked(tn, t, c)
		return
	default:
		reply(linkpb.Code_INVALID, "unknown request about a name")
		return
	}
	reply(linkpb.Code_OK, "")
	r.runCallsLocked(tn, t)
}

// olderLocked reports whether an announced claim takes the place of one that was announced too: during doubt, who has had
// the name for longer keeps it.
func (r *Registry) olderLocked(tn *Turn, x *exclusive, c nameCall) bool {
	return r.doubtsAt(tn.Now()) && x.announced && tn.Now().Add(-heldFor(c.req.Name.HeldMs)).Before(x.since)
}

func heldFor(ms uint64) time.Duration {
	return time.Duration(min(ms, uint64(1000*time.Hour/time.Millisecond))) * time.Millisecond
}

// grantLocked gives the name to the claim of a request, and tells who has it instead.
func (r *Registry) grantLocked(tn *Turn, t *Topic, c nameCall, announced bool) {
	x := t.exclusive
	if x.claim != 0 {
		if x.lane != nil {
			x.lane.Out.Append(linkpb.KindNameLost, &linkpb.NameLost{Topic: t.name, Claim: x.claim})
			tn.touch(x.lane)
		}
		r.vacateLocked(t)
	}
	x.gateway, x.instance, x.claim, x.announced = c.from.Gateway, c.from.Instance, c.req.Name.Claim, announced
	x.since = tn.Now().Add(-heldFor(c.req.Name.HeldMs))
	x.detached = tn.Now()
	r.names.held.Add(1)
	r.attachLocked(tn, t, c.from)
}

// attachLocked makes the holder's messages go over a lane. A lane that has ended already, as one may have by the time a
// request that waited runs, leaves the holder detached.
func (r *Registry) attachLocked(tn *Turn, t *Topic, lane *Lane) {
	x := t.exclusive
	if x.lane == lane {
		return
	}
	t.leaveNameLocked()
	x.detached = tn.Now()
	lane.mu.Lock()
	defer lane.mu.Unlock()
	if lane.closed {
		r.scheduleLocked(t)
		return
	}
	if lane.names == nil {
		lane.names = make(map[*Topic]struct{})
	}
	lane.names[t] = struct{}{}
	x.lane = lane
}

// leaveNameLocked takes the name off its lane.
func (t *Topic) leaveNameLocked() {
	x := t.exclusive
	if x.lane == nil {
		return
	}
	x.lane.mu.Lock()
	delete(x.lane.names, t)
	x.lane.mu.Unlock()
	x.lane = nil
}

// vacateLocked takes the name from its holder.
func (r *Registry) vacateLocked(t *Topic) {
	t.leaveNameLocked()
	*t.exclusive = exclusive{calls: t.exclusive.calls, bytes: t.exclusive.bytes}
	r.names.held.Add(-1)
}

// forwardLocked hands a message to the holder's gateway. OK means that it is on its way there, on a lane that lives as far
// as this server knows.
func (r *Registry) forwardLocked(tn *Turn, t *Topic, c nameCall) {
	x, id := t.exclusive, publishID{c.req.IdHigh, c.req.IdLow}
	if _, ok := t.ids.find(id, tn.Now(), r.cfg.IDTTL); ok {
		r.repeats.Add(1)
		tn.Reply(c.from, c.req.Ref, linkpb.Code_OK, "", nil)
		return
	}
	switch {
	case x.claim == 0 && !r.doubtsAt(tn.Now()):
		tn.Reply(c.from, c.req.Ref, linkpb.Code_NAME_NOT_FOUND, "nobody holds the name", nil)
		return
	case x.lane == nil:
		r.waitLocked(tn, t, c)
		return
	}
	if id != (publishID{}) {
		t.ids.add(id, idEntry{at: tn.Now()}, r.cfg.IDs)
	}
	tn.Reply(c.from, c.req.Ref, linkpb.Code_OK, "", nil)
	x.lane.Out.Append(linkpb.KindNameMessage, &linkpb.NameMessage{
		Topic: t.name, Claim: x.claim, Event: c.req.Event, Payload: c.req.Payload,
	})
	tn.touch(x.lane)
}

// waitLocked has a request wait until it is clear who holds the name, unless it has waited long enough.
func (r *Registry) waitLocked(tn *Turn, t *Topic, c nameCall) {
	x := t.exclusive
	switch {
	case tn.Now().Sub(c.at) >= maxNameWait:
		tn.Reply(c.from, c.req.Ref, linkpb.Code_UNAVAILABLE, "it is not clear yet who holds the name", nil)
		return
	case len(x.calls) >= maxNameCalls, x.bytes > 0 && x.bytes+c.size() > maxNameBytes, r.parked.Load()+int64(c.size()) > maxParkedAll:
		r.parkedRefused.Add(1)
		tn.Reply(c.from, c.req.Ref, linkpb.Code_OVERLOADED, "too many requests wait for the name", nil)
		return
	}
	c.req = cloneCall(c.req)
	r.keepCallLocked(x, c)
	r.scheduleLocked(t)
}

func (r *Registry) keepCallLocked(x *exclusive, c nameCall) {
	x.calls = append(x.calls, c)
	x.bytes += c.size()
	r.parked.Add(int64(c.size()))
}

// takeCallsLocked takes the requests that wait.
func (r *Registry) takeCallsLocked(x *exclusive) []nameCall {
	calls := x.calls
	r.parked.Add(-int64(x.bytes))
	x.calls, x.bytes = nil, 0
	return calls
}

// runCallsLocked looks at the requests that wait, in their order.
func (r *Registry) runCallsLocked(tn *Turn, t *Topic) {
	for _, c := range r.takeCallsLocked(t.exclusive) {
		r.nameLocked(tn, t, c)
	}
}

// scheduleLocked notes when the name is to be looked at again.
func (r *Registry) scheduleLocked(t *Topic) {
	x := t.exclusive
	var at time.Time
	consider := func(when time.Time) {
		if at.IsZero() || when.Before(at) {
			at = when
		}
	}
	if x.claim != 0 && x.lane == nil {
		consider(x.detached.Add(r.cfg.NameGrace))
	}
	if len(x.calls) > 0 {
		consider(x.calls[0].at.Add(maxNameWait))
		if x.claim == 0 {
			consider(r.doubtEnd())
		}
	}
	r.names.mu.Lock()
	defer r.names.mu.Unlock()
	if at.IsZero() {
		delete(r.names.due, t.name)
		return
	}
	if r.names.due == nil {
		r.names.due = make(map[string]time.Time)
	}
	r.names.due[t.name] = at
}

// SettleNames takes names from holders whose grace is over and answers the requests that need not wait any more. It is to
// be called several times in a grace.
func (r *Registry) SettleNames(now time.Time) {
	var due []string
	r.names.mu.Lock()
	for name, at := range r.names.due {
		if !at.After(now) {
			due = append(due, name)
		}
	}
	r.names.mu.Unlock()
	var tn Turn
	for _, name := range due {
		r.guard(func() { r.settleName(&tn, name, now) })
	}
	tn.Flush()
}

func (r *Registry) settleName(tn *Turn, name string, now time.Time) {
	t := r.lock(name)
	if t == nil {
		r.names.mu.Lock()
		delete(r.names.due, name)
		r.names.mu.Unlock()
		return
	}
	defer t.mu.Unlock()
	x := t.exclusive
	if x == nil {
		return
	}
	if x.claim != 0 && x.lane == nil && now.Sub(x.detached) >= r.cfg.NameGrace {
		r.vacateLocked(t)
		t.used = now
	}
	r.runCallsLocked(tn, t)
	r.scheduleLocked(t)
}

// detachNameLocked notes that a lane has ended over which the holder's messages went.
func (r *Registry) detachNameLocked(t *Topic, lane *Lane, now time.Time) {
	if x := t.exclusive; x != nil && x.lane == lane {
		x.lane, x.detached = nil, now
		r.scheduleLocked(t)
	}
}

// namedLocked reports whether the topic is a name that somebody holds or waits for.
func (t *Topic) namedLocked() bool {
	return t.exclusive != nil && (t.exclusive.claim != 0 || len(t.exclusive.calls) > 0)
}

// sealNameLocked ends the name here: who waits asks the next owner, which gets to know the holder.
func (r *Registry) sealNameLocked(tn *Turn, t *Topic) *linkpb.NameHolder {
	x := t.exclusive
	if x == nil {
		return nil
	}
	for _, c := range r.takeCallsLocked(x) {
		r.notOwner(tn, c.from, c.req.Ref)
	}
	if x.claim == 0 {
		return nil
	}
	h := &linkpb.NameHolder{
		Gateway: x.gateway, Instance: x.instance, Claim: x.claim, HeldMs: uint64(max(tn.Now().Sub(x.since), 0) / time.Millisecond),
	}
	r.vacateLocked(t)
	return h
}

// restoreNameLocked makes a holder that came over keep the name until its gateway has announced it, or the grace is over.
func (r *Registry) restoreNameLocked(tn *Turn, t *Topic, h *linkpb.NameHolder) {
	if h.GetClaim() == 0 {
		return
	}
	t.exclusive = &exclusive{
		gateway: h.Gateway, instance: h.Instance, claim: h.Claim, since: tn.Now().Add(-heldFor(h.HeldMs)), detached: tn.Now(),
	}
	r.names.held.Add(1)
	r.scheduleLocked(t)
}
