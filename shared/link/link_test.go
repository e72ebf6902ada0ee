package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"storj.io/drpc/drpcwire"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// Eight goroutines append and flush as they like: each one's items arrive in its order, once.
func TestOrderHoldsWithManySenders(t *testing.T) {
	const senders, each = 8, 3000
	next := make(map[string]uint64)
	got, done := 0, make(chan struct{})
	addr, _ := serve(t, ServeConfig{Handle: handle(func(_ *Lane, _ linkpb.Kind, body []byte) error {
		p, err := decodePublish(body)
		if err != nil {
			return err
		}
		if p.Ref != next[p.Topic] {
			return fmt.Errorf("item %d of %s, want %d", p.Ref, p.Topic, next[p.Topic])
		}
		next[p.Topic]++
		if got++; got == senders*each {
			close(done)
		}
		return nil
	}, nil)})
	g := dial(t, t.Context(), addr, Config{}, nil)
	for s := range senders {
		go func() {
			for i := range uint64(each) {
				p := &linkpb.Publish{Ref: i, Topic: fmt.Sprint("sender ", s)}
				if i%2 == 0 {
					g.Append(linkpb.KindPublish, p)
				} else {
					g.AppendEncoded(linkpb.AppendItem(nil, linkpb.KindPublish, p))
				}
				if i%uint64(s+1) == 0 || i == each-1 {
					g.Flush()
				}
			}
		}()
	}
	select {
	case <-done:
	case err := <-g.ended:
		t.Fatalf("lane ended: %v", err)
	case <-time.After(patience):
		t.Fatal("items are missing")
	}
}

// One Flush is one batch, and what is appended while another goroutine sends goes out together.
func TestBatchesForm(t *testing.T) {
	sizes := make(chan int, 10)
	n := 0
	addr, _ := serve(t, ServeConfig{Handle: func(lane *Lane) {
		_ = lane.Receive(func(kind linkpb.Kind, _ []byte) error {
			if kind == linkpb.KindHello {
				lane.Greeted()
				lane.Append(linkpb.KindWelcome, &linkpb.Welcome{})
				lane.Flush()
			} else {
				n++
			}
			return nil
		}, func() {
			sizes <- n
			n = 0
		})
	}})
	g := dial(t, t.Context(), addr, Config{}, nil)
	await(t, "the hello", sizes)

	for range 100 {
		g.Append(linkpb.KindJoin, &linkpb.Join{Topic: "t:a"})
	}
	g.Flush()
	if n := await(t, "a batch", sizes); n != 100 {
		t.Errorf("batch of %d items, want 100", n)
	}

	g.conn.mu.Lock() // holds the first sender inside its send
	first := make(chan struct{})
	go func() {
		g.send(&linkpb.Publish{})
		close(first)
	}()
	waitFor(t, "a sender at work", func() bool {
		g.Sender.mu.Lock()
		defer g.Sender.mu.Unlock()
		return g.flushing && len(g.batches) == 0
	})
	for range 50 {
		g.send(&linkpb.Publish{})
	}
	g.conn.mu.Unlock()
	await(t, "the first sender", first)
	if n := await(t, "a batch", sizes); n != 1 {
		t.Errorf("batch of %d items, want 1", n)
	}
	if n := await(t, "a batch", sizes); n != 50 {
		t.Errorf("batch of %d items, want 50", n)
	}
}

// A goroutine that flushes a lane on which others keep appending comes out again: it has a lane of its own to read.
// Here the rest is there from the start.
func TestNobodyIsHeldInFlush(t *testing.T) {
	addr, _ := serve(t, ServeConfig{Handle: handle(nil, nil)})
	g := dial(t, t.Context(), addr, Config{MaxQueued: 64 << 20}, nil)
	batch := linkpb.AppendItem(nil, linkpb.KindPublish, &linkpb.Publish{Payload: make([]byte, maxBatch)})
	idle := func() bool {
		g.Sender.mu.Lock()
		defer g.Sender.mu.Unlock()
		return !g.flushing && len(g.batches) == 0
	}
	// The one who takes over may be done before the look that finds it at work; then once more.
	waitFor(t, "Flush to return with something left to send", func() bool {
		waitFor(t, "the lane to be idle", func() bool { return idle() && g.Backlog() == 0 })
		for range 2 * maxRun {
			g.AppendEncoded(batch)
		}
		g.Flush()
		return !idle()
	})
	waitFor(t, "the rest to be sent", idle)
}

// 8 MiB appended at once arrive whole, in batches that the receiver's limit admits.
func TestBurstArrivesWhole(t *testing.T) {
	const items, size = 128, 64 << 10
	var next, batches uint64
	done := make(chan struct{})
	addr, _ := serve(t, ServeConfig{Handle: func(lane *Lane) {
		_ = lane.Receive(func(kind linkpb.Kind, body []byte) error {
			if kind == linkpb.KindHello {
				lane.Greeted()
				return nil
			}
			p, err := decodePublish(body)
			if err != nil || p.Ref != next || len(p.Payload) != size {
				return fmt.Errorf("item %d with %d bytes, error %v; want item %d", p.Ref, len(p.Payload), err, next)
			}
			next++
			return nil
		}, func() {
			if batches++; next == items {
				close(done)
			}
		})
	}})
	g := dial(t, t.Context(), addr, Config{}, nil)
	for i := range uint64(items) {
		g.Append(linkpb.KindPublish, &linkpb.Publish{Ref: i, Payload: make([]byte, size)})
	}
	g.Flush()
	select {
	case <-done:
	case err := <-g.ended:
		t.Fatalf("lane ended: %v", err)
	}
	if batches < items*size/(maxBatch+2*size) {
		t.Errorf("%d batches for %d bytes", batches, items*size)
	}
}

// The largest message fits behind a batch that is all but full. One over dRPC's limit is an error here, not a silent
// loss at the peer.
func TestRow42_LargestItem(t *testing.T) {
	got := make(chan int, 3)
	addr, _ := serve(t, ServeConfig{Handle: handle(func(_ *Lane, _ linkpb.Kind, body []byte) error {
		got <- len(body)
		return nil
	}, nil)})
	g := dial(t, t.Context(), addr, Config{}, nil)
	g.Append(linkpb.KindPublish, &linkpb.Publish{Payload: make([]byte, maxBatch-100)})
	g.send(&linkpb.Publish{
		Topic: strings.Repeat("t", 255), Event: strings.Repeat("e", MaxEvent), Payload: make([]byte, MaxItem),
	})
	await(t, "the small item", got)
	if n := await(t, "the largest item", got); n < MaxItem+MaxEvent {
		t.Errorf("item of %d bytes", n)
	}

	g.send(&linkpb.Publish{Payload: make([]byte, maxMessage)})
	if err := g.end(t); !strings.Contains(fmt.Sprint(err), "the limit is 4194304") {
		t.Errorf("lane ended with %v, want the limit", err)
	}
}

func TestDialFails(t *testing.T) {
	const addr = "127.0.0.1:1"
	if _, err := Dial(t.Context(), addr, Config{}, &linkpb.Hello{}); err == nil || !strings.HasPrefix(err.Error(), "link: dial topic server: ") {
		t.Errorf("nobody listens: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, addr, Config{}, &linkpb.Hello{}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestListenerThatNeverAnswers(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	lane, err := Dial(t.Context(), lis.Addr().String(), Config{HelloTimeout: 20 * time.Millisecond}, &linkpb.Hello{})
	if err == nil {
		defer lane.Close()
		err = receive(lane, nil).end(t)
	} // else it took so long to say hello
	if !errors.Is(err, ErrNotGreeted) {
		t.Errorf("lane ended with %v, want ErrNotGreeted", err)
	}
}

// Each end learns why the lane ended.
func TestEnds(t *testing.T) {
	for _, test := range []struct {
		name    string
		end     func(g *gateway, cancel func())
		gateway error // at the dialing end
		server  error
	}{
		{"ctx canceled", func(_ *gateway, cancel func()) { cancel() }, context.Canceled, io.EOF},
		{"gateway closes", func(g *gateway, _ func()) { g.Close() }, net.ErrClosed, io.EOF},
		{"server's item fails", func(g *gateway, _ func()) { g.send(&linkpb.Publish{Event: "fail"}) }, io.EOF, errTest},
		{"server closes", func(g *gateway, _ func()) { g.send(&linkpb.Publish{Event: "close"}) }, io.EOF, net.ErrClosed},
		{"gateway's item fails", func(g *gateway, _ func()) { g.send(&linkpb.Publish{Event: "echo"}) }, errTest, io.EOF},
	} {
		t.Run(test.name, func(t *testing.T) {
			ended := make(chan error, 1)
			addr, _ := serve(t, ServeConfig{Handle: handle(func(lane *Lane, _ linkpb.Kind, body []byte) error {
				switch p, _ := decodePublish(body); p.Event {
				case "fail":
					return errTest
				case "close":
					lane.Close()
				case "echo":
					lane.Append(linkpb.KindReply, &linkpb.Reply{})
					lane.Flush()
				}
				return nil
			}, ended)})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			g := dial(t, ctx, addr, Config{}, func(*Lane, linkpb.Kind, []byte) error { return errTest })
			await(t, "the welcome", g.live)
			test.end(g, cancel)
			if err := g.end(t); !errors.Is(err, test.gateway) {
				t.Errorf("dialing end: %v, want %v", err, test.gateway)
			}
			if err := await(t, "the accepting end", ended); !errors.Is(err, test.server) {
				t.Errorf("accepting end: %v, want %v", err, test.server)
			}
			g.send(&linkpb.Publish{}) // harmless, and nothing is left to wait
			if n := g.Backlog(); n != 0 {
				t.Errorf("%d bytes wait on a lane that has ended", n)
			}
		})
	}
}

// Closing from within Receive, from many goroutines, and again must not wait for the receiver.
func TestCloseFromAnywhere(t *testing.T) {
	addr, _ := serve(t, ServeConfig{Handle: handle(nil, nil)})
	lane, err := Dial(t.Context(), addr, Config{}, &linkpb.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	var others sync.WaitGroup
	ended := make(chan error)
	go func() {
		ended <- lane.Receive(func(linkpb.Kind, []byte) error {
			for range 4 {
				others.Go(lane.Close)
			}
			lane.Close()
			return nil
		}, func() {})
	}()
	if err := await(t, "Receive to return", ended); err == nil {
		t.Error("no reason")
	}
	others.Wait()
	lane.Close()
}

// A lane that nobody receives from leaves nothing behind; goleak looks.
func TestCloseWithoutReceive(t *testing.T) {
	addr, _ := serve(t, ServeConfig{Handle: handle(nil, nil)})
	lane, err := Dial(t.Context(), addr, Config{}, &linkpb.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	lane.Close()
}

// dRPC admits a second stream on a connection once the first is over. Here the first is the whole connection.
func TestSecondStreamEndsTheLane(t *testing.T) {
	ended := make(chan error, 2)
	addr, stop := serve(t, ServeConfig{Handle: handle(nil, ended)})
	g := dial(t, t.Context(), addr, Config{}, nil)
	await(t, "the welcome", g.live)
	if _, err := g.conn.Write(drpcwire.AppendFrame(nil, drpcwire.Frame{
		ID: drpcwire.ID{Stream: 2, Message: 1}, Kind: drpcwire.KindInvoke, Done: true, Data: []byte(linkMethod),
	})); err != nil {
		t.Fatal(err)
	}
	if err := g.end(t); !errors.Is(err, io.EOF) {
		t.Errorf("lane ended with %v", err)
	}
	await(t, "the handler", ended)
	_ = stop()
	if len(ended) != 0 {
		t.Error("a second handler ran")
	}
}

const linkMethod = "/ringcast.link.v1.Links/Link"

func TestPanicAtTheDialingEndGoesOn(t *testing.T) {
	addr, _ := serve(t, ServeConfig{Handle: handle(nil, nil)})
	lane, err := Dial(t.Context(), addr, Config{}, &linkpb.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	panicked := make(chan any)
	go func() {
		defer func() { panicked <- recover() }()
		_ = lane.Receive(func(linkpb.Kind, []byte) error { panic("a bug") }, func() {})
	}()
	p, ok := await(t, "the panic", panicked).(error)
	if !ok || !strings.Contains(p.Error(), "a bug") || !strings.Contains(p.Error(), "TestPanicAtTheDialingEndGoesOn") {
		t.Errorf("panic %v, want the bug and its stack", p)
	}
}
