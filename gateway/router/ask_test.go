package router

import (
	"context"
	"testing"
	"time"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/proto/linkpb"
)

// read asks for a past while the test plays the owner.
func (w *world) read(ctx context.Context, topic string, since *hub.Position) <-chan pastRead {
	done := make(chan pastRead, 1)
	go func() {
		p, o := w.r.Past(ctx, topic, since, 10)
		done <- pastRead{p, o}
	}()
	return done
}

type pastRead struct {
	Past
	outcome Outcome
}

func pastOf(ref, epoch uint64, offsets ...uint64) *linkpb.Past {
	p := &linkpb.Past{Ref: ref, Recovered: true, Next: &linkpb.Position{Epoch: epoch}}
	for _, o := range offsets {
		p.Items = append(p.Items, linkpb.AppendItem(nil, linkpb.KindMessage, messageItem("t:a", epoch, o)))
		p.Next.Offset = o
	}
	return p
}

func TestPast(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	done := w.read(t.Context(), "t:a", &hub.Position{Epoch: 5, Offset: 40})
	u := o.expect("history t:a since 5:40 limit 10")
	u.send(linkpb.KindPast, pastOf(u.ref, 5, 41, 42))
	got := <-done
	if !got.outcome.OK() || len(got.Messages) != 2 || got.Messages[1].Position != (hub.Position{Epoch: 5, Offset: 42}) ||
		got.Next.Offset != 42 || !got.Recovered || got.More {
		t.Errorf("got %+v", got)
	}
}

// A question is asked again when its link is lost, or its owner does not know the ring yet.
func TestPastIsAskedAgain(t *testing.T) {
	w := newWorld(t, 1)
	o := w.start()
	done := w.read(t.Context(), "t:a", nil)
	u := o.expect("history t:a since 0:0 limit 10")
	u.send(linkpb.KindPast, &linkpb.Past{Ref: u.ref, Code: linkpb.Code_NOT_OWNER})
	o.expect("history t:a since 0:0 limit 10").cut()
	for u = o.next(); u.text != "history t:a since 0:0 limit 10"; u = o.next() { // a hello comes before
	}
	u.send(linkpb.KindPast, pastOf(u.ref, 5, 1))
	if got := <-done; !got.outcome.OK() || len(got.Messages) != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestPastFails(t *testing.T) {
	t.Run("refused", func(t *testing.T) {
		w := newWorld(t, 1)
		o := w.start()
		done := w.read(t.Context(), "t:a", nil)
		u := o.next()
		u.send(linkpb.KindPast, &linkpb.Past{Ref: u.ref, Code: linkpb.Code_INVALID, Detail: "no"})
		if got := <-done; got.outcome.Code != linkpb.Code_INVALID || got.outcome.Detail != "no" {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("no answer", func(t *testing.T) {
		w := newWorld(t, 1)
		o := w.start()
		ctx, cancel := context.WithCancel(t.Context())
		done := w.read(ctx, "t:a", nil)
		u := o.next()
		cancel() // the time is over
		if got := <-done; got.outcome.Code != linkpb.Code_UNAVAILABLE {
			t.Errorf("got %+v", got)
		}
		u.send(linkpb.KindPast, pastOf(u.ref, 5, 1)) // nobody waits for it
	})
	t.Run("no link", func(t *testing.T) {
		w := newWorld(t, 1, func(c *Config) { c.PublishTimeout = 20 * time.Millisecond })
		if got := <-w.read(t.Context(), "t:a", nil); got.outcome.Code != linkpb.Code_UNAVAILABLE {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("no message", func(t *testing.T) {
		w := newWorld(t, 1)
		o := w.start()
		done := w.read(t.Context(), "t:a", nil)
		u := o.next()
		p := pastOf(u.ref, 5)
		p.Items = [][]byte{{0xff}}
		u.send(linkpb.KindPast, p)
		if got := <-done; got.outcome.Code != linkpb.Code_INTERNAL {
			t.Errorf("got %+v", got)
		}
	})
}
