package router

import (
	"go.uber.org/zap"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/proto/linkpb"
)

// inbox handles what comes down the lane: it decides which loops get it and posts one task to each loop per batch.
// Owned by the lane's run goroutine.
type inbox struct {
	lane    *lane
	loops   [][]event // collected for each loop in this batch
	reply   linkpb.Reply
	message linkpb.Message
}

func (in *inbox) init(l *lane) {
	in.lane = l
	in.loops = make([][]event, l.r.cfg.Loops.Len())
}

// item handles one item of a Down.
func (in *inbox) item(kind linkpb.Kind, body []byte) error {
	switch kind {
	case linkpb.KindReply:
		in.reply = linkpb.Reply{}
		if err := in.reply.UnmarshalVT(body); err != nil {
			return err
		}
		in.replied(&in.reply)
	case linkpb.KindMessage:
		// The one copy of the message on this gateway: loops deliver from it after the lane's buffer is reused.
		own := append([]byte(nil), body...)
		in.message = linkpb.Message{}
		if err := in.message.UnmarshalVTUnsafe(own); err != nil {
			return err
		}
		in.deliver(&in.message)
	}
	return nil
}

func (in *inbox) replied(rep *linkpb.Reply) {
	p, ok := in.lane.take(rep.Ref)
	if !ok {
		return
	}
	o := Outcome{Code: rep.Code, Detail: rep.Detail, Position: position(rep.Position)}
	if p.done != nil {
		in.done(p, o)
		return
	}
	in.subscribed(p.topic, rep.Ref, o)
}

func (in *inbox) done(p pending, o Outcome) {
	if p.local == nil {
		p.done(o)
		return
	}
	in.post(p.local.loop.Index(), event{kind: eventDone, done: p.done, outcome: o})
}

// subscribed handles the Reply to a Subscribe. A subscription that has been given up since, and perhaps made again,
// has another ref: the old Reply must not open the new one, which has no message between the two.
func (in *inbox) subscribed(topic string, ref uint64, o Outcome) {
	r := in.lane.r
	s := r.shard(topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.topics[topic]
	if sub == nil || sub.ref != ref || sub.lane != in.lane {
		return
	}
	// Channels that were live before the link was lost have missed what lies between last and the position now.
	if sub.live != 0 && (sub.last != o.Position || !o.OK()) {
		r.stats.gaps.Add(1)
		in.lane.log.Warn("messages were lost with the link", zap.String("topic", topic), zap.Stringer("code", o.Code),
			zap.Uint64("from", sub.last.Offset), zap.Uint64("to", o.Position.Offset))
		in.postMask(sub.live, event{kind: eventEnd, sub: sub, outcome: o})
	}
	in.postMask(sub.waiting, event{kind: eventSubscribed, sub: sub, outcome: o})
	if !o.OK() {
		// Forgotten at once: the next join asks anew.
		delete(s.topics, topic)
		delete(s.idle, topic)
		return
	}
	sub.live, sub.waiting = sub.live|sub.waiting, 0
	sub.last, sub.subscribed = o.Position, true
}

// deliver hands a message to the loops that have subscribers.
func (in *inbox) deliver(m *linkpb.Message) {
	r := in.lane.r
	s := r.shard(m.Topic)
	s.mu.Lock()
	sub := s.topics[m.Topic]
	if sub == nil || !sub.subscribed || sub.lane != in.lane {
		s.mu.Unlock()
		r.stats.stray.Add(1)
		return
	}
	sub.last = position(m.Position)
	behind := in.behind(sub.live)
	sub.live &^= behind
	loops, last := sub.live, sub.last
	s.mu.Unlock()
	if behind != 0 {
		r.stats.overruns.Add(1)
		in.postMask(behind, event{kind: eventEnd, sub: sub, outcome: Outcome{Position: last}})
	}
	if loops == 0 {
		return
	}
	r.stats.messages.Add(1)
	in.postMask(loops, event{kind: eventMessage, message: hub.NewMessage(sub.name, m)})
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

func (in *inbox) postMask(loops uint64, e event) {
	for i := range in.loops {
		if loops&(1<<i) != 0 {
			in.post(i, e)
		}
	}
}

func (in *inbox) post(loop int, e event) { in.loops[loop] = append(in.loops[loop], e) }

// flush ends a batch: one task for each loop that has something to do.
func (in *inbox) flush() {
	for i, events := range in.loops {
		if len(events) == 0 {
			continue
		}
		in.loops[i] = nil
		size := int64(0)
		for j := range events {
			size += events[j].size()
		}
		local := in.lane.r.locals[i]
		local.backlog.Add(size)
		local.loop.Post(func() {
			local.backlog.Add(-size)
			local.handle(events)
		})
	}
}

func position(p *linkpb.Position) hub.Position {
	return hub.Position{Epoch: p.GetEpoch(), Offset: p.GetOffset()}
}
