package topic

import (
	"slices"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/topicserver/history"
)

// maxPast bounds the bytes of a Past's messages, but for a single one that is larger. It keeps a batch with one in it below the
// largest that a lane carries.
const maxPast = 512 << 10

// Past answers a History: messages that the topic remembers, oldest first. Who pages on from the last one's position
// gets every message of the epoch once, or is told that some are gone. It is called by the lane's receiver.
func (r *Registry) Past(tn *Turn, lane *Lane, req *linkpb.History) {
	t, code := r.need(req.Topic)
	if t == nil {
		tn.past(lane, &linkpb.Past{Ref: req.Ref, Code: code, Detail: absentDetail(code)})
		return
	}
	defer t.mu.Unlock()
	if !t.waiting {
		r.pastLocked(tn, t, lane, req)
		return
	}
	if !r.roomLocked(t, 0) {
		tn.past(lane, &linkpb.Past{Ref: req.Ref, Code: linkpb.Code_OVERLOADED, Detail: tooManyWait})
		return
	}
	own := &linkpb.History{Ref: req.Ref, Since: req.Since, Limit: req.Limit}
	t.parked = append(t.parked, parked{
		run: func(tn *Turn) { r.pastLocked(tn, t, lane, own) },
		refuse: func(tn *Turn) {
			tn.past(lane, &linkpb.Past{Ref: own.Ref, Code: linkpb.Code_NOT_OWNER, Detail: notOwnerDetail})
		},
	})
}

func (r *Registry) pastLocked(tn *Turn, t *Topic, lane *Lane, req *linkpb.History) {
	top := history.Position{Epoch: t.epoch, Offset: t.offset}
	since := history.Position{Epoch: t.epoch}
	asked := req.Since != nil && req.Since.Epoch == t.epoch && req.Since.Offset <= t.offset
	if asked {
		since.Offset = req.Since.Offset
	}
	found, complete := r.cfg.Store.After(t.name, since, top, tn.Now())
	limit := min(max(int(req.Limit), 1), len(found))
	if req.Since == nil {
		found = newest(found[len(found)-limit:])
	} else {
		found = oldest(found[:limit])
	}
	a := &linkpb.Past{Ref: req.Ref, Recovered: asked && complete}
	next := top
	for _, m := range found {
		a.Items = append(a.Items, m.Item)
		next = m.Position
	}
	a.Next, a.More = &linkpb.Position{Epoch: next.Epoch, Offset: next.Offset}, next != top
	if len(t.subs) == 0 {
		t.used = tn.Now() // who reads it now and then is not to find it begun anew
	}
	tn.past(lane, a)
}

func (tn *Turn) past(lane *Lane, a *linkpb.Past) {
	lane.Out.Append(linkpb.KindPast, a)
	tn.touch(lane)
}

// oldest returns as many messages as fit into a Past, from the first on.
func oldest(list []history.Message) []history.Message {
	size := 0
	for i, m := range list {
		if size += len(m.Item); size > maxPast && i > 0 {
			return list[:i]
		}
	}
	return list
}

// newest is oldest from the last one backwards.
func newest(list []history.Message) []history.Message {
	size := 0
	for i, m := range slices.Backward(list) {
		if size += len(m.Item); size > maxPast && i < len(list)-1 {
			return list[i+1:]
		}
	}
	return list
}
