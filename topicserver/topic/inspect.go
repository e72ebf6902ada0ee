package topic

import (
	"strconv"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/topicserver/history"
)

// View is what a registry knows of a topic, for operators.
type View struct {
	Topic string `json:"topic"`
	Held  bool   `json:"held"` // the topic is here; all else is empty if not

	Epoch       string         `json:"epoch,omitempty"` // in base 36, as in positions
	Offset      uint64         `json:"offset"`          // of the last message
	History     HistoryView    `json:"history"`
	PublishIDs  int            `json:"publish_ids"` // remembered
	Subscribers map[string]int `json:"subscribers"` // by gateway that subscribes

	Waiting bool          `json:"waiting"` // its state is on its way from another server
	Parked  int           `json:"parked"`  // requests that wait for that
	Paused  time.Duration `json:"-"`       // how long the first of them has waited

	Message *MessageView `json:"message,omitempty"` // the one that was asked for, if it is remembered
}

// HistoryView is what is remembered of a topic.
type HistoryView struct {
	Messages int    `json:"messages"`
	Bytes    int    `json:"bytes"`           // of the encoded messages
	First    uint64 `json:"first,omitempty"` // offset of the oldest one
}

// MessageView describes one message.
type MessageView struct {
	Offset uint64 `json:"offset"`
	Event  string `json:"event"`
	Bytes  int    `json:"bytes"` // of the payload
	Binary bool   `json:"binary"`
}

// Inspect tells what is known of a topic, and of its message with an offset if that is not 0. Any goroutine may call it.
func (r *Registry) Inspect(name string, offset uint64) View {
	v := View{Topic: name}
	t := r.lock(name)
	if t == nil {
		return v
	}
	defer t.mu.Unlock()
	v.Held, v.Waiting, v.Parked = true, t.waiting, len(t.parked)
	if !t.parkedSince.IsZero() {
		v.Paused = time.Since(t.parkedSince)
	}
	v.Subscribers = make(map[string]int, len(t.subs))
	for _, sub := range t.subs {
		v.Subscribers[sub.lane.Gateway] += len(sub.subscribers)
	}
	if t.waiting {
		return v
	}
	v.Epoch, v.Offset, v.PublishIDs = strconv.FormatUint(t.epoch, 36), t.offset, len(t.ids.byID)
	top := history.Position{Epoch: t.epoch, Offset: t.offset}
	past, _ := r.cfg.Store.After(t.name, history.Position{Epoch: t.epoch}, top, time.Now())
	for _, m := range past {
		v.History.Bytes += len(m.Item)
		if m.Offset == offset {
			v.Message = describe(m)
		}
	}
	if v.History.Messages = len(past); len(past) > 0 {
		v.History.First = past[0].Offset
	}
	return v
}

// describe decodes a remembered message as far as operators may see it: its payload is the users' own.
func describe(m history.Message) (v *MessageView) {
	_ = linkpb.EachItem(m.Item, func(_ linkpb.Kind, body []byte) error {
		var msg linkpb.Message
		if err := msg.UnmarshalVT(body); err != nil {
			return err
		}
		v = &MessageView{Offset: m.Offset, Event: msg.Event, Bytes: len(msg.Payload), Binary: msg.Binary}
		return nil
	})
	return v
}
