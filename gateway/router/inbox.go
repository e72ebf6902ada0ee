package router

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/proto/linkpb"
)

// inbox handles what comes down the lane: it decides which loops get it and posts one task to each loop per batch.
// Owned by the lane's run goroutine.
type inbox struct {
	lane    *lane
	loops   []*batch // for each loop, what was collected in this batch of the lane; nil: nothing
	reply   linkpb.Reply
	decoded linkpb.Message
	touched []*lane // have items appended in this batch
	batch   uint64  // counts the batches of events posted to loops
	clock   clock

	again    []*subscription // topics that this connection has still to resume
	resuming int             // Subscribes that have no Reply yet, about
	stalled  bool            // no Reply to one has come since the last ping
	gathered int             // bytes of answers that were incomplete at the last checkGathered, or that came since

	sealedNames map[string]bool // topics of names that were sealed in this batch; nil while there are none

	mu      sync.Mutex
	flushed uint64   // the last batch that the loops have
	after   []string // topics for which another inbox holds something until this one has flushed
}

func (in *inbox) init(l *lane) {
	in.lane = l
	in.loops = make([]*batch, l.r.cfg.Loops.Len())
	in.batch = 1 // none is flushed yet
}

// item handles one item of a Down.
func (in *inbox) item(kind linkpb.Kind, body []byte) error {
	switch kind {
	case linkpb.KindReply:
		in.reply = linkpb.Reply{}
		if err := in.reply.UnmarshalVT(body); err != nil {
			return err
		}
		in.reply.Detail = in.reply.Detail[:min(len(in.reply.Detail), maxDetail)]
		in.answer(&in.reply)
	case linkpb.KindMessage:
		// The one copy of the message on this gateway: loops deliver from it after the lane's buffer is reused.
		own := append([]byte(nil), body...)
		in.clock.start(in)
		in.decoded = linkpb.Message{}
		if err := in.decoded.UnmarshalVTUnsafe(own); err != nil {
			return err
		}
		in.receive(&in.decoded)
		if in.gathered > maxGathered {
			return in.checkGathered()
		}
	case linkpb.KindPast:
		m := new(linkpb.Past)
		if err := m.UnmarshalVT(body); err != nil {
			return err
		}
		in.told(m)
	case linkpb.KindListing:
		m := new(linkpb.Listing)
		if err := m.UnmarshalVT(body); err != nil {
			return err
		}
		in.told(m)
	default:
		return in.news(kind, body)
	}
	return nil
}

// news handles the items that answer nothing, but for messages.
func (in *inbox) news(kind linkpb.Kind, body []byte) error {
	switch kind {
	case linkpb.KindDigest:
		var d linkpb.Digest
		if err := d.UnmarshalVT(body); err != nil {
			return err
		}
		in.digest(d.Topic, position(d.Position))
	case linkpb.KindSealed:
		var m linkpb.Sealed
		if err := m.UnmarshalVT(body); err != nil {
			return err
		}
		in.sealed(m.Topic, position(m.Position))
	case linkpb.KindPresenceDiff:
		d := new(linkpb.PresenceDiff)
		if err := d.UnmarshalVT(body); err != nil {
			return err
		}
		return in.presenceDiff(d)
	case linkpb.KindDownRing:
		var m linkpb.Ring
		if err := m.UnmarshalVT(body); err != nil {
			return err
		}
		in.lane.learn(&m)
	case linkpb.KindNameMessage:
		m := new(linkpb.NameMessage)
		if err := m.UnmarshalVT(body); err != nil {
			return err
		}
		in.nameMessage(m)
	case linkpb.KindNameLost:
		var m linkpb.NameLost
		if err := m.UnmarshalVT(body); err != nil {
			return err
		}
		in.nameLost(&linkpb.NameMessage{Topic: m.Topic, Claim: m.Claim})
	case linkpb.KindDownPing:
		in.sweepMoves()
		in.hurry()
	case linkpb.KindDownLoad:
		m := new(linkpb.Load)
		if err := m.UnmarshalVT(body); err != nil {
			return err
		}
		in.lane.r.heardLoad(in.lane.server, m)
	case linkpb.KindDownRevoke:
		m := new(linkpb.Revoke)
		if err := m.UnmarshalVT(body); err != nil {
			return err
		}
		if told := in.lane.r.cfg.Revoked; told != nil {
			told(in.lane.server, m)
		}
	}
	return nil
}

// answer handles a Reply.
func (in *inbox) answer(rep *linkpb.Reply) {
	p, ok := in.lane.take(rep.Ref)
	if !ok || p.ask != nil {
		in.resuming = max(in.resuming-1, 0) // it may have been a topic's that was given up
		return
	}
	if p.publish != nil {
		in.landed(p.publish, Outcome{
			Code: rep.Code, Detail: rep.Detail, Position: position(rep.Position), RetryAfter: time.Duration(rep.RetryAfterMs) * time.Millisecond,
		})
		return
	}
	if p.kind != pendingSubscribe {
		in.presenceReplied(p, rep)
		return
	}
	in.stalled, in.resuming = false, max(in.resuming-1, 0)
	s := in.lane.r.shard(p.topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	// A subscription that has been given up since, and perhaps made again, has another ref: the old Reply must not
	// answer the new one, which has no message between the two.
	switch sub := s.topics[p.topic]; {
	case sub == nil:
	case sub.lane == in.lane && sub.fetch.ref == rep.Ref:
		in.replied(&sub.fetch, sub, rep)
	case sub.next != nil && sub.next.lane == in.lane && sub.next.fetch.ref == rep.Ref:
		in.replied(&sub.next.fetch, sub, rep)
	}
}

// told handles the answer to a question.
func (in *inbox) told(a answer) {
	if p, ok := in.lane.take(a.GetRef()); ok && p.ask != nil {
		p.ask <- a
	}
}

// landed gives a publish its outcome, unless it is to be sent to another server.
func (in *inbox) landed(p *publish, o Outcome) {
	bounced := o.Code == linkpb.Code_NOT_OWNER
	in.touch(in.lane.r.landed(p, bounced))
	if !bounced {
		p.ended(o)
		in.post(p.local.loop.Index(), event{kind: eventDone, done: p.done, outcome: o})
	}
}

// receive sorts a message: part of an answer, the next one, an old one, or a sign that some are missing.
func (in *inbox) receive(m *linkpb.Message) {
	r := in.lane.r
	s := r.shard(m.Topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.topics[m.Topic]
	switch {
	case sub == nil || !sub.wanted:
		r.stats.stray.Add(1)
	case sub.lane == in.lane:
		if sub.fetch.missing > 0 {
			in.past(&sub.fetch, sub, m)
			return
		}
		own := hub.NewMessage(sub.name, m)
		if in.mayPost(sub, held{lane: in.lane, message: own}) {
			in.message(sub, own)
		}
	case sub.next != nil && sub.next.lane == in.lane:
		n := sub.next
		switch {
		case n.fetch.missing > 0:
			in.past(&n.fetch, sub, m)
		case n.fetch.replied:
			n.buffer = append(n.buffer, hub.NewMessage(sub.name, m))
			if n.bytes += len(m.Payload) + 256; n.bytes > maxMoveBuffer {
				in.arrive(sub)
			}
		default:
			r.stats.stray.Add(1)
		}
	default:
		r.stats.stray.Add(1)
	}
}

// past takes a message that belongs to an answer.
func (in *inbox) past(f *fetch, sub *subscription, m *linkpb.Message) {
	f.past = append(f.past, hub.NewMessage(sub.name, m))
	size := len(m.Payload) + len(m.Event) + 256
	f.bytes += size
	in.gathered += size
	if f.missing--; f.missing == 0 {
		in.answered(f, sub)
	}
}

const (
	// maxGathered bounds, in bytes, what a lane keeps of answers whose rest is to come. An owner sends each answer in one go,
	// and remembers 2 MiB of a topic at most.
	maxGathered = 64 << 20
	// maxDetail bounds the text of a Reply, in bytes: clients get it, and their queues are bounded.
	maxDetail = 1 << 10
)

// checkGathered ends the lane if its server has sent more of answers than it may without an end to them.
func (in *inbox) checkGathered() error {
	in.gathered = 0
	r := in.lane.r
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		for _, sub := range s.topics {
			if sub.lane == in.lane && sub.fetch.missing > 0 {
				in.gathered += sub.fetch.bytes
			}
			if n := sub.next; n != nil && n.lane == in.lane && n.fetch.missing > 0 {
				in.gathered += n.fetch.bytes
			}
		}
		s.mu.Unlock()
	}
	if in.gathered > maxGathered {
		return fmt.Errorf("topic server sends answers without an end: %d bytes so far", in.gathered)
	}
	return nil
}

// message hands the next message on, and lets the topic move if that was the last one to wait for.
func (in *inbox) message(sub *subscription, m *hub.Message) {
	in.deliver(sub, m)
	if sub.next != nil && sub.next.fetch.answered() {
		in.arrive(sub)
	}
}

// deliver hands the next message to the loops that have subscribers. One that was delivered already is dropped; one
// that does not follow the last one shows that some are missing, and is fetched with them.
func (in *inbox) deliver(sub *subscription, m *hub.Message) {
	r := in.lane.r
	if !sub.flowing {
		r.stats.stray.Add(1)
		return
	}
	if m.Position.Epoch == sub.last.Epoch && m.Position.Offset <= sub.last.Offset {
		r.stats.stray.Add(1)
		return
	}
	if m.Position.Epoch != sub.last.Epoch || m.Position.Offset != sub.last.Offset+1 {
		sub.resync(r)
		in.touch(sub.lane)
		return
	}
	sub.last = m.Position
	if behind := in.behind(sub.live); behind != 0 {
		sub.live &^= behind
		r.stats.overruns.Add(1)
		in.postMask(sub, behind, event{kind: eventEnd, sub: sub, outcome: Outcome{Position: sub.last}})
	}
	if sub.live != 0 {
		r.stats.messages.Add(1)
		in.postMask(sub, sub.live, event{kind: eventMessage, message: m})
	}
}

// digest compares a subscription with what its owner says to have sent: a lost tail shows nowhere else, nor does an owner
// that has gone back and whose messages look like old ones.
func (in *inbox) digest(topic string, top hub.Position) {
	s := in.lane.r.shard(topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.topics[topic]
	if sub == nil || sub.lane != in.lane || !sub.flowing || len(sub.held) > 0 || sub.last == top {
		return
	}
	sub.resync(in.lane.r)
	in.touch(sub.lane)
}

// sealed takes the owner's last word about a topic. What it says is missing is fetched from the next owner.
func (in *inbox) sealed(topic string, _ hub.Position) {
	r := in.lane.r
	in.nameSealed(topic)
	s := r.shard(topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.presences[topic]; p != nil && p.lane == in.lane {
		p.sealed()
	}
	sub := s.topics[topic]
	if sub == nil || sub.lane != in.lane || !in.mayPost(sub, held{lane: in.lane, sealed: true}) {
		return
	}
	in.seal(sub)
}

// seal is sealed, when all that came before it has been handled.
func (in *inbox) seal(sub *subscription) {
	r := in.lane.r
	sub.sealed = true
	switch {
	case sub.next != nil:
		if sub.ask(r, true) {
			in.touch(sub.next.lane)
		}
		in.arrive(sub)
	case r.route(sub.name) == sub.lane:
		// The ring gives it back to the one that has just let it go, or is older than the owner's.
		sub.sealed, sub.untold = false, true
		sub.resync(r)
		in.touch(sub.lane)
	}
}

// touch makes the lane be flushed at the end of the batch.
func (in *inbox) touch(l *lane) {
	if !slices.Contains(in.touched, l) {
		in.touched = append(in.touched, l)
	}
}

// behind returns those of the loops that have more messages waiting than they may have. The topic that has one more
// ends there: its clients are told, and join again when they find the time.
func (in *inbox) behind(loops uint64) (behind uint64) {
	for i, local := range in.lane.r.locals {
		if loops&(1<<i) != 0 && local.backlog.Load() > int64(in.lane.r.cfg.MaxLoopBacklog) {
			behind |= 1 << i
		}
	}
	return behind
}

// postMask posts an event of a subscription to some loops. The caller holds the shard's lock and may post.
func (in *inbox) postMask(sub *subscription, loops uint64, e event) {
	sub.poster, sub.posted = in, in.batch
	for i := range in.loops {
		if loops&(1<<i) != 0 {
			in.post(i, e)
		}
	}
}

func (in *inbox) post(loop int, e event) {
	b := in.loops[loop]
	if b == nil {
		b = in.lane.r.locals[loop].newBatch()
		in.loops[loop] = b
	}
	b.events = append(b.events, e)
	b.size += e.size()
}

// flush ends a batch: one task for each loop that has something to do.
func (in *inbox) flush() {
	for i, b := range in.loops {
		if b == nil {
			continue
		}
		in.loops[i] = nil
		in.clock.stopAfter(b)
		b.local.backlog.Add(b.size)
		b.local.loop.Run(b.isSmall, b.handleAll)
	}
	in.clock.began = time.Time{}
	if len(in.sealedNames) > 0 {
		in.noteSealed()
	}
	if len(in.again) > 0 && in.resuming <= resubscribes/2 {
		in.resumeSome(resubscribes - in.resuming)
	}
	for i, l := range in.touched {
		l.flush()
		in.touched[i] = nil
	}
	in.touched = in.touched[:0]
	in.goOn()
}

// resubscribes is how many of the topics that a new connection has to subscribe again may be without an answer. More would not
// be served sooner, and whatever else goes over the lane, or happens on the loops, would wait for all of them.
const resubscribes = 512

// resume subscribes a topic over a new connection, with the place up to which its channels have it, and has the loops announce
// their subscribers. It reports whether it had to subscribe. The caller holds the shard's lock.
func (in *inbox) resume(sub *subscription) (sent bool) {
	if sub.fetch.ref == 0 && !sub.flowing {
		in.lane.subscribe(sub)
		sent = true
	}
	for i := range in.loops {
		if sub.live&(1<<i) != 0 {
			in.post(i, event{kind: eventAnnounce, sub: sub})
		}
	}
	return sent
}

// resumeSome resumes some of the topics that nobody waited for when the connection was new. A join that has come meanwhile has
// subscribed its topic already.
func (in *inbox) resumeSome(most int) {
	for ; len(in.again) > 0 && most > 0; in.again = in.again[1:] {
		if in.resumeOne(in.again[0]) {
			in.resuming++
			most--
		}
	}
	if len(in.again) == 0 {
		in.again = nil
	}
	in.touch(in.lane)
}

// resumeOne resumes a topic if it is still to be, and reports whether it had to subscribe.
func (in *inbox) resumeOne(sub *subscription) bool {
	s := in.lane.r.shard(sub.name)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.topics[sub.name] == sub && sub.lane == in.lane && sub.wanted && in.resume(sub)
}

// hurry resumes all that is left when the server has answered nothing for a whole heartbeat: topics that it answers late, since
// another server has them yet, must not hold up the rest.
func (in *inbox) hurry() {
	if in.stalled && len(in.again) > 0 {
		in.resumeSome(len(in.again))
	}
	in.stalled = len(in.again) > 0
}

func position(p *linkpb.Position) hub.Position {
	return hub.Position{Epoch: p.GetEpoch(), Offset: p.GetOffset()}
}
