package link

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// frozen is a Handle that does not receive until thawed, then reads everything and sends its size, bytes of payload.
func frozen(thaw <-chan struct{}, total chan<- int) func(*Lane) {
	return func(lane *Lane) {
		<-thaw
		n := 0
		handle(func(_ *Lane, _ linkpb.Kind, body []byte) error {
			p, err := decodePublish(body)
			n += len(p.Payload)
			return err
		}, nil)(lane)
		total <- n
	}
}

func TestFrozenPeerNeverDelaysAppend(t *testing.T) {
	thaw, total := make(chan struct{}), make(chan int, 1)
	addr, _ := serve(t, ServeConfig{Handle: frozen(thaw, total)})
	const queue = 1 << 20
	g := dial(t, t.Context(), addr, Config{MaxQueued: queue, WriteTimeout: time.Hour, HelloTimeout: time.Hour}, nil)

	// More than any kernel buffer and the queue hold: were one send to wait for the peer, this loop would not end.
	for sent := 0; sent < 64<<20; sent += 64 << 10 {
		g.send(&linkpb.Publish{Payload: make([]byte, 64<<10)})
		if n := g.Backlog(); n > queue {
			t.Fatalf("%d bytes queued, the bound is %d", n, queue)
		}
	}
	if err := g.end(t); !errors.Is(err, ErrSlowPeer) {
		t.Errorf("lane ended with %v, want ErrSlowPeer", err)
	}
	if g.Backlog() != 0 || g.conn.queued != nil {
		t.Error("the queue of an ended lane is still held")
	}
	if n, err := g.conn.Write([]byte("x")); n != 0 || !errors.Is(err, ErrSlowPeer) {
		t.Errorf("a write after the failure: %d, %v", n, err)
	}
	close(thaw)
	<-total
}

// What waited for a slow peer arrives, and the memory that it waited in is let go.
func TestQueueIsLetGo(t *testing.T) {
	thaw, total := make(chan struct{}), make(chan int, 1)
	addr, _ := serve(t, ServeConfig{Handle: frozen(thaw, total)})
	g := dial(t, t.Context(), addr, Config{MaxQueued: 64 << 20, WriteTimeout: time.Hour, HelloTimeout: time.Hour}, nil)
	sent := 0
	for g.Backlog() < 1<<20 {
		g.send(&linkpb.Publish{Payload: make([]byte, 64<<10)})
		sent += 64 << 10
	}
	close(thaw)
	waitFor(t, "the queue to drain", func() bool {
		g.conn.mu.Lock()
		defer g.conn.mu.Unlock()
		return !g.conn.draining
	})
	if g.Backlog() != 0 || g.conn.queued != nil {
		t.Error("an idle lane holds a queue")
	}
	g.send(&linkpb.Publish{Payload: make([]byte, 1)}) // the write deadline that has been is no more
	sent++
	// A close with input unread would overtake what is on its way.
	await(t, "the welcome", g.live)
	waitFor(t, "everything to be acknowledged", func() bool { return g.Backlog() == 0 })
	g.Close()
	if n := await(t, "the peer to have read", total); n != sent {
		t.Errorf("%d bytes arrived, want %d", n, sent)
	}
}

// The deadline of the last queued write must not meet a later write that is not queued.
func TestWriteLongAfterTheQueueHasDrained(t *testing.T) {
	t.Parallel()
	thaw, total := make(chan struct{}), make(chan int, 1)
	addr, _ := serve(t, ServeConfig{Handle: frozen(thaw, total)})
	const timeout = 4 * time.Second
	g := dial(t, t.Context(), addr, Config{MaxQueued: 64 << 20, WriteTimeout: timeout}, nil)
	for g.Backlog() == 0 {
		g.send(&linkpb.Publish{Payload: make([]byte, 64<<10)})
	}
	close(thaw)
	waitFor(t, "the queue to drain", func() bool { return g.Backlog() == 0 })
	time.Sleep(timeout + timeout/10)
	g.send(&linkpb.Publish{})
	if err := g.conn.reason(); err != nil {
		t.Errorf("lane ended: %v", err)
	}
	g.Close()
	<-total
}

// pipe opens the dialing end of a lane over net.Pipe; peer is the raw other end.
func pipe(t *testing.T, cfg Config) (g *gateway, peer net.Conn) {
	t.Helper()
	near, peer := net.Pipe()
	lane, err := open(t.Context(), near, cfg.withDefaults(), &linkpb.Hello{Protocol: Protocol})
	if err != nil {
		t.Fatal(err)
	}
	return receive(lane, nil), peer
}

func TestRow44_PeerThatTakesNothingIsCutAfterWriteTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		g, peer := pipe(t, Config{WriteTimeout: 7 * time.Second, HelloTimeout: time.Hour})
		defer peer.Close()
		err := <-g.ended
		if took := time.Since(begin); !errors.Is(err, ErrSlowPeer) || took != 7*time.Second {
			t.Errorf("lane ended after %v with %v", took, err)
		}
		if want := "link: peer does not read fast enough: it took nothing for 7s"; err.Error() != want {
			t.Errorf("error %q, want %q", err, want)
		}
	})
}

// A byte now and then is little, but it is not nothing.
func TestPeerThatTakesLittleIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		g, peer := pipe(t, Config{WriteTimeout: 7 * time.Second, HelloTimeout: time.Hour})
		defer peer.Close()
		for range 10 {
			time.Sleep(6 * time.Second)
			if _, err := peer.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		err := <-g.ended
		if took := time.Since(begin); !errors.Is(err, ErrSlowPeer) || took < 67*time.Second || took > 74*time.Second {
			t.Errorf("lane ended after %v with %v", took, err)
		}
	})
}

func TestRow44_PeerThatReadsButNeverAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		g, peer := pipe(t, Config{})
		go func() { _, _ = io.Copy(io.Discard, peer) }()
		err := <-g.ended
		if took := time.Since(begin); !errors.Is(err, ErrNotGreeted) || took != 5*time.Second {
			t.Errorf("lane ended after %v with %v", took, err)
		}
		_ = peer.Close()
	})
}

// Writes through the queue, over a transport with no file descriptor: what comes out is what went in.
func TestWriteKeepsOrderThroughTheQueue(t *testing.T) {
	near, peer := net.Pipe()
	c := newConn(near, Config{}.withDefaults(), func() {})
	var want bytes.Buffer
	for i := range 1000 {
		p := bytes.Repeat([]byte{byte(i)}, 1+i%300)
		want.Write(p)
		if n, err := c.Write(p); n != len(p) || err != nil {
			t.Fatal(n, err)
		}
	}
	if n := c.backlog(); n != want.Len() {
		t.Errorf("backlog %d, want %d", n, want.Len())
	}
	got := make([]byte, want.Len())
	if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("other bytes, error %v", err)
	}
	waitFor(t, "an empty backlog", func() bool { return c.backlog() == 0 })
	_ = c.Close()
	c.drains.Wait()
}

// The bound counts what drain has in hand as well as what is queued behind it.
func TestMaxQueuedCountsEverything(t *testing.T) {
	near, peer := net.Pipe()
	defer peer.Close()
	c := newConn(near, Config{MaxQueued: 1000}.withDefaults(), func() {})
	defer c.drains.Wait()
	defer c.Close()
	for range 10 {
		if _, err := c.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "drain to take it", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.writing > 0
		})
	}
	if n := c.backlog(); n != 1000 {
		t.Errorf("backlog %d, want 1000", n)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, ErrSlowPeer) {
		t.Errorf("one byte more: %v, want ErrSlowPeer", err)
	}
}

// The first reason stays, whoever closes the connection after it.
func TestFirstReasonStays(t *testing.T) {
	near, peer := net.Pipe()
	defer peer.Close()
	c := newConn(near, Config{}.withDefaults(), func() {})
	c.fail(errTest)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() { _ = c.Close() })
	}
	all.Wait()
	if err := c.reason(); err != errTest {
		t.Errorf("reason %v", err)
	}
	if _, err := c.Write([]byte("x")); err != errTest {
		t.Errorf("write: %v", err)
	}
}
