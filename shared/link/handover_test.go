package link

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/certs"
)

// giver serves handovers with give, and lanes not at all.
func giver(t *testing.T, cfg Config, give func(*Handover) error) string {
	t.Helper()
	addr, _ := serve(t, ServeConfig{Config: cfg, Handle: handle(nil, nil), Handover: give})
	return addr
}

func take(t *testing.T, addr string, cfg Config, first *linkpb.Wants) *Taking {
	t.Helper()
	taking, err := Take(t.Context(), addr, unhurried(cfg), first)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(taking.Close)
	return taking
}

func TestHandover(t *testing.T) {
	addr := giver(t, Config{}, func(h *Handover) error {
		m, err := h.Receive()
		if err != nil {
			return err
		}
		h.Greeted()
		for err == nil {
			err = h.Send(&linkpb.Gives{Offers: append(m.Pull, m.Server)})
			if err == nil {
				m, err = h.Receive()
			}
		}
		return nil
	})
	h := take(t, addr, Config{}, &linkpb.Wants{Server: "ts-b"})
	m, err := h.Receive()
	if err != nil || len(m.Offers) != 1 || m.Offers[0] != "ts-b" {
		t.Fatalf("got %v, %v", m, err)
	}
	h.Greeted()
	for range 100 {
		if err := h.Send(&linkpb.Wants{Pull: []string{"t:a"}}); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		if m, err := h.Receive(); err != nil || len(m.Offers) != 2 {
			t.Fatalf("got %v, %v", m, err)
		}
	}
}

// The largest first message there may be passes, one that is larger does not.
func TestFirstMessageOfAHandover(t *testing.T) {
	addr := giver(t, Config{}, func(h *Handover) error {
		m, err := h.Receive()
		if err != nil {
			return err
		}
		h.Greeted()
		if err := h.Send(&linkpb.Gives{Offers: []string{m.Server}}); err != nil {
			return err
		}
		_, _ = h.Receive() // until the peer has read it
		return nil
	})
	for size, want := range map[int]bool{MaxWants - 8: true, helloBytes: false} {
		h := take(t, addr, Config{}, &linkpb.Wants{Server: string(bytes.Repeat([]byte("s"), size))})
		m, err := h.Receive()
		if got := err == nil && len(m.Offers[0]) == size; got != want {
			t.Errorf("%d bytes: passed %v, error %v", size, got, err)
		}
		h.Close()
	}
}

// The largest state passes; what a peer leaves unread is counted.
func TestLargestState(t *testing.T) {
	state := &linkpb.TopicState{History: [][]byte{nil}}
	state.History[0] = make([]byte, MaxState-state.SizeVT()-8)
	addr := giver(t, Config{}, func(h *Handover) error {
		if _, err := h.Receive(); err != nil {
			return err
		}
		h.Greeted()
		for h.Backlog() == 0 { // the peer does not read yet
			if err := h.Send(&linkpb.Gives{State: state}); err != nil {
				return err
			}
		}
		for {
			if _, err := h.Receive(); err != nil {
				return nil //nolint:nilerr // the peer is done
			}
		}
	})
	h := take(t, addr, Config{}, &linkpb.Wants{Server: "ts-b"})
	m, err := h.Receive()
	if err != nil || len(m.State.GetHistory()) != 1 || len(m.State.History[0]) != len(state.History[0]) {
		t.Errorf("error %v", err)
	}
}

func TestNoHandoversHere(t *testing.T) {
	addr, _ := serve(t, ServeConfig{Handle: handle(nil, nil)})
	h := take(t, addr, Config{}, &linkpb.Wants{Server: "ts-b"})
	if m, err := h.Receive(); err == nil {
		t.Errorf("got %v", m)
	}
}

func TestTakeFails(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = lis.Close()
	if _, err := Take(t.Context(), lis.Addr().String(), Config{}, &linkpb.Wants{}); err == nil {
		t.Error("took from nobody")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Take(ctx, lis.Addr().String(), Config{}, &linkpb.Wants{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// A giver that does not answer, one that stops answering, and a taker that is told to stop.
func TestHandoverEnds(t *testing.T) {
	addr := giver(t, Config{}, func(h *Handover) error {
		m, err := h.Receive()
		if err != nil {
			return err
		}
		h.Greeted()
		if m.Server == "answer" {
			if err := h.Send(&linkpb.Gives{}); err != nil {
				return err
			}
		}
		<-h.Context().Done()
		return nil
	})
	t.Run("no answer", func(t *testing.T) {
		h, err := Take(t.Context(), addr, Config{HelloTimeout: 50 * time.Millisecond}, &linkpb.Wants{})
		if err != nil {
			return // it took so long to ask
		}
		defer h.Close()
		if m, err := h.Receive(); err == nil {
			t.Errorf("got %v", m)
		}
	})
	t.Run("silence", func(t *testing.T) {
		h := take(t, addr, Config{Silence: 50 * time.Millisecond}, &linkpb.Wants{Server: "answer"})
		if _, err := h.Receive(); err != nil {
			t.Fatal(err)
		}
		h.Greeted()
		if m, err := h.Receive(); !errors.Is(err, ErrSilentPeer) {
			t.Errorf("got %v, %v", m, err)
		}
	})
	t.Run("for a reason", func(t *testing.T) {
		h := take(t, addr, Config{}, &linkpb.Wants{Server: "answer"})
		if _, err := h.Receive(); err != nil {
			t.Fatal(err)
		}
		why := errors.New("enough")
		time.AfterFunc(time.Millisecond, func() { h.End(why) })
		if m, err := h.Receive(); !errors.Is(err, why) {
			t.Errorf("got %v, %v", m, err)
		}
		if err := h.Send(&linkpb.Wants{}); !errors.Is(err, why) {
			t.Errorf("sent with %v", err)
		}
	})
	t.Run("canceled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		h, err := Take(ctx, addr, Config{}, &linkpb.Wants{})
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Millisecond, cancel)
		if m, err := h.Receive(); err == nil {
			t.Errorf("got %v", m)
		}
		h.Close()
	})
}

// A greeted peer that sends nothing, not even pings, is cut off after Silence; one that pings is kept.
func TestSilentPeer(t *testing.T) {
	for _, test := range []struct {
		name  string
		pings int
		want  time.Duration
	}{
		{"at once", 0, 7 * time.Second},
		{"after some pings", 10, 10*6*time.Second + 7*time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, peer := net.Pipe()
				defer peer.Close()
				c := newConn(near, Config{Silence: 7 * time.Second}.withDefaults(), func() {})
				c.prove()
				begin := time.Now()
				go func() {
					for range test.pings {
						time.Sleep(6 * time.Second)
						_, _ = peer.Write([]byte("ping"))
					}
				}()
				var err error
				for err == nil {
					_, err = c.Read(make([]byte, 16))
				}
				if took := time.Since(begin); !errors.Is(err, ErrSilentPeer) || took != test.want {
					t.Errorf("ended after %v with %v, want %v", took, err, test.want)
				}
				if err := c.reason(); !errors.Is(err, ErrSilentPeer) || err.Error() != "link: peer is silent for 7s" {
					t.Errorf("reason %v", err)
				}
			})
		})
	}
}

// A peer that has to wait for this end is not silent meanwhile.
func TestAPeerThatHasToWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, peer := net.Pipe()
		defer peer.Close()
		c := newConn(near, Config{Silence: 3 * time.Second}.withDefaults(), func() {})
		c.await() // a stranger is given no more than before
		c.prove()
		begin := time.Now()
		time.AfterFunc(2*time.Second, c.await)
		time.AfterFunc(4*time.Second, c.await)
		_, err := c.Read(make([]byte, 16))
		if took := time.Since(begin); !errors.Is(err, ErrSilentPeer) || took != 7*time.Second {
			t.Errorf("ended after %v with %v", took, err)
		}
	})
}

// A reader that waits already when the peer is proven is under the bound too.
func TestSilenceCountsFromTheGreeting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, peer := net.Pipe()
		defer peer.Close()
		c := newConn(near, Config{Silence: time.Second, HelloTimeout: time.Hour}.withDefaults(), func() {})
		time.AfterFunc(time.Minute, c.prove)
		begin := time.Now()
		_, err := c.Read(make([]byte, 16))
		if took := time.Since(begin); !errors.Is(err, ErrSilentPeer) || took != time.Minute+time.Second {
			t.Errorf("ended after %v with %v", took, err)
		}
	})
}

// A peer that has taken the connection and is too busy for its TLS handshake is connected all the same.
func TestATakeIsConnectedBeforeItsHandshake(t *testing.T) {
	a := newAuthority(t)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close() // nobody accepts
	ctx, cancel := context.WithCancel(t.Context())
	me := Config{Identity: a.identity("ts-b", certs.Request{Server: "ts-b"}), Server: "ts-a", HelloTimeout: time.Hour}
	connected, ended := make(chan struct{}), make(chan error)
	me.Connected = func() { close(connected) }
	go func() {
		_, err := Take(ctx, lis.Addr().String(), me, &linkpb.Wants{Server: "ts-b"})
		ended <- err
	}()
	await(t, "the connection", connected)
	cancel()
	if err := await(t, "its end", ended); err == nil {
		t.Error("no error")
	}
}

// Over TLS, a peer that closes without a word has refused, and does not want plain text.
func TestARefusalWithoutAWord(t *testing.T) {
	a := newAuthority(t)
	addr := giver(t, Config{Identity: a.identity("ts-a", certs.Request{Server: "ts-a"})}, func(h *Handover) error {
		_, _ = h.Receive()
		return errors.New("a stranger")
	})
	me := Config{Identity: a.identity("ts-b", certs.Request{Server: "ts-b"}), Server: "ts-a"}
	h, err := Take(t.Context(), addr, me, &linkpb.Wants{Server: "ts-c"})
	if err == nil { // else it was turned away while it still greeted
		defer h.Close()
		_, err = h.Receive()
	}
	if err == nil || !strings.Contains(err.Error(), "its log may say why") {
		t.Errorf("error %v", err)
	}
}
