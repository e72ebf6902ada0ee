package router

import (
	"context"
	"time"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/proto/linkpb"
)

const (
	// maxAsks bounds the questions of a lane that wait for their answers.
	maxAsks = 1024
	// askPause is the time between two tries of a question that the ring, or a link, has just been changed under.
	askPause = 20 * time.Millisecond
)

// answer is what a topic's owner says to a question. A nil one says that the connection was lost.
type answer interface {
	GetRef() uint64
	GetCode() linkpb.Code
	GetDetail() string
}

// ask puts a question to the owner of a topic: an item that changes nothing there and is answered by one other item, in
// the order of the lane. It is asked again when the owner changes or the link is lost on the way, until ctx ends; the
// answer is nil when there is none with an OK outcome. item returns the question with its ref.
func (r *Router) ask(ctx context.Context, topic string, kind linkpb.Kind, item func(ref uint64) linkpb.Item) (answer, Outcome) {
	o := refusal(linkpb.Code_UNAVAILABLE)
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, o
		case <-pause.C:
		}
		a, again, code := r.askOnce(ctx, topic, kind, item)
		switch {
		case a != nil && a.GetCode() == linkpb.Code_OK:
			return a, Outcome{}
		case a != nil:
			if o = (Outcome{Code: a.GetCode(), Detail: a.GetDetail()}); !passing(o.Code) {
				return nil, o
			}
		case !again:
			return nil, refusal(code)
		}
		pause.Reset(askPause)
	}
}

// askOnce is one try of ask. Without an answer it may be worth another one.
func (r *Router) askOnce(ctx context.Context, topic string, kind linkpb.Kind, item func(ref uint64) linkpb.Item) (a answer, again bool, code linkpb.Code) {
	l := r.route(topic)
	answers := make(chan answer, 1)
	ref, code := l.ask(kind, item, answers)
	switch {
	case code == linkpb.Code_OVERLOADED:
		return nil, false, code
	case code != linkpb.Code_OK:
		return nil, !l.longLost(), code
	}
	l.flush()
	select {
	case a := <-answers:
		return a, true, linkpb.Code_OK
	case <-ctx.Done():
		l.take(ref)
		return nil, true, linkpb.Code_UNAVAILABLE
	}
}

// ask sends a question. Anything but OK means that it was not sent; otherwise answers, which has room for it, gets one.
func (l *lane) ask(kind linkpb.Kind, item func(ref uint64) linkpb.Item, answers chan<- answer) (ref uint64, code linkpb.Code) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.wire == nil:
		return 0, linkpb.Code_UNAVAILABLE
	case l.asks >= maxAsks || l.wire.Backlog() >= l.r.cfg.MaxBacklog:
		return 0, linkpb.Code_OVERLOADED
	}
	l.lastRef++
	l.pending[l.lastRef] = pending{ask: answers}
	l.asks++
	l.wire.Append(kind, item(l.lastRef))
	return l.lastRef, linkpb.Code_OK
}

// longLost reports whether the lane has been down for so long that publishes are refused.
func (l *lane) longLost() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wire == nil && time.Since(l.since) > l.r.cfg.PublishTimeout/2
}

// Past is some of what a topic's owner remembers of it.
type Past struct {
	Messages  []*hub.Message // contiguous, oldest first
	Next      hub.Position   // the place behind the last of them: where to go on
	Recovered bool           // nothing is missing between the place that was asked for and the first of them
	More      bool           // there are messages behind Next
}

// Past asks a topic's owner for up to limit messages: those behind since, or the newest ones if it is nil. It waits for the
// answer until ctx ends; so it is not for event loops.
func (r *Router) Past(ctx context.Context, topic string, since *hub.Position, limit int) (Past, Outcome) {
	req := &linkpb.History{Topic: topic, Limit: uint32(limit)}
	if since != nil {
		req.Since = &linkpb.Position{Epoch: since.Epoch, Offset: since.Offset}
	}
	a, o := r.ask(ctx, topic, linkpb.KindHistory, func(ref uint64) linkpb.Item {
		req.Ref = ref
		return req
	})
	m, ok := a.(*linkpb.Past)
	if !ok {
		return Past{}, o
	}
	past := Past{Next: position(m.Next), Recovered: m.Recovered, More: m.More}
	for _, item := range m.Items {
		err := linkpb.EachItem(item, func(kind linkpb.Kind, body []byte) error {
			if kind != linkpb.KindMessage {
				return nil
			}
			var msg linkpb.Message
			if err := msg.UnmarshalVT(body); err != nil {
				return err
			}
			past.Messages = append(past.Messages, hub.NewMessage(topic, &msg))
			return nil
		})
		if err != nil {
			return Past{}, Outcome{Code: linkpb.Code_INTERNAL, Detail: "the topic's owner sent what is no message"}
		}
	}
	return past, o
}
