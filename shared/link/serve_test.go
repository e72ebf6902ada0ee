package link

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"storj.io/drpc/drpcwire"

	"github.com/ringcast/ringcast/proto/linkpb"
)

func TestServeReturnsWithEveryHandle(t *testing.T) {
	const lanes = 5
	var handling atomic.Int32
	addr, stop := serve(t, ServeConfig{Handle: func(lane *Lane) {
		handling.Add(1)
		defer handling.Add(-1)
		handle(nil, nil)(lane)
	}})
	var gateways []*gateway
	for range lanes {
		g := dial(t, t.Context(), addr, Config{}, nil)
		await(t, "the welcome", g.live)
		gateways = append(gateways, g)
	}
	if n := handling.Load(); n != lanes {
		t.Fatalf("%d handlers, want %d", n, lanes)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if n := handling.Load(); n != 0 {
		t.Errorf("%d handlers outlive Serve", n)
	}
	for _, g := range gateways {
		if err := g.end(t); !errors.Is(err, io.EOF) {
			t.Errorf("lane ended with %v", err)
		}
	}
}

func TestServeReportsAListenerThatFails(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = lis.Close()
	if err := Serve(t.Context(), lis, ServeConfig{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve returned %v", err)
	}
}

func TestMaxLanes(t *testing.T) {
	log, logs := observe()
	var closed Closed
	addr, _ := serve(t, ServeConfig{MaxLanes: 2, Handle: handle(nil, nil), Log: log, Closed: &closed})
	a, b := dial(t, t.Context(), addr, Config{}, nil), dial(t, t.Context(), addr, Config{}, nil)
	await(t, "the welcome", a.live)
	await(t, "the welcome", b.live)

	// One too many is closed at once, in the middle of Dial or after it.
	admitted := func() bool {
		lane, err := Dial(t.Context(), addr, Config{}, &linkpb.Hello{})
		if err != nil {
			return false
		}
		g := receive(lane, nil)
		t.Cleanup(lane.Close)
		select {
		case <-g.live:
			return true
		case <-g.ended:
			return false
		}
	}
	if admitted() {
		t.Error("a third lane was admitted")
	}
	waitFor(t, "it to be counted and logged", func() bool {
		return closed.TooMany.Load() == 1 && logs.FilterMessage("too many lanes").Len() > 0
	})
	if lines := logs.FilterMessage("too many lanes").All(); len(lines) != 1 || lines[0].ContextMap()["max"] != int64(2) {
		t.Errorf("log %v", logs.All())
	}
	select {
	case <-a.ended:
		t.Error("a lane within the bound ended")
	default:
	}
	a.Close()
	waitFor(t, "room for another lane", admitted)
}

// A bug met on one lane ends that lane, with its stack in the log and nothing of it on the wire.
func TestPanicEndsOneLane(t *testing.T) {
	for _, test := range []struct {
		name   string
		handle func(*Lane)
	}{
		{"in an item", handle(func(_ *Lane, _ linkpb.Kind, body []byte) error {
			if p, _ := decodePublish(body); p.Event == "panic" {
				panic("secret")
			}
			return nil
		}, nil)},
		{"after a batch", func(lane *Lane) {
			panics := false
			_ = lane.Receive(func(kind linkpb.Kind, body []byte) error {
				if kind == linkpb.KindHello {
					lane.Greeted()
					lane.Append(linkpb.KindWelcome, &linkpb.Welcome{})
					lane.Flush()
					return nil
				}
				panics = true
				return nil
			}, func() {
				if panics {
					panic("secret")
				}
			})
		}},
		{"in the handler", func(lane *Lane) {
			ended := make(chan error, 1)
			handle(func(*Lane, linkpb.Kind, []byte) error { return errTest }, ended)(lane)
			if errors.Is(<-ended, errTest) {
				panic("secret")
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			log, logs := observe()
			var closed Closed
			addr, _ := serve(t, ServeConfig{Handle: test.handle, Log: log, Closed: &closed})
			bystander := dial(t, t.Context(), addr, Config{}, nil)
			g := dial(t, t.Context(), addr, Config{}, nil)
			await(t, "the welcome", bystander.live)
			await(t, "the welcome", g.live)
			g.send(&linkpb.Publish{Event: "panic"})
			if err := g.end(t); !errors.Is(err, io.EOF) || strings.Contains(err.Error(), "secret") {
				t.Errorf("lane ended with %v, want EOF", err)
			}
			waitFor(t, "the log line", func() bool { return logs.FilterMessage("lane handler panicked").Len() == 1 })
			line := logs.FilterMessage("lane handler panicked").All()[0].ContextMap()
			if stack, _ := line["stack"].(string); line["panic"] != "secret" || !strings.Contains(stack, "TestPanicEndsOneLane") {
				t.Errorf("log line %v, want the panic and where it was", line)
			}
			waitFor(t, "the panic to be counted", func() bool { return closed.Panics.Load() == 1 })
			select {
			case err := <-bystander.ended:
				t.Errorf("the other lane ended: %v", err)
			default:
			}
		})
	}
}

// frame is one dRPC frame of a stream.
func frame(message uint64, kind drpcwire.Kind, done bool, data string) []byte {
	return drpcwire.AppendFrame(nil, drpcwire.Frame{
		ID: drpcwire.ID{Stream: 1, Message: message}, Kind: kind, Done: done, Data: []byte(data),
	})
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func item(kind linkpb.Kind, m linkpb.Item) string { return string(linkpb.AppendItem(nil, kind, m)) }

// strangers are what reaches the port and is no gateway. None of them begins with a Hello.
var strangers = []struct {
	name  string
	bytes []byte
}{
	{"nothing", nil},
	{"plain HTTP", []byte("GET /metrics HTTP/1.1\r\nHost: ts-a:7101\r\nUser-Agent: curl/8.0\r\nAccept: */*\r\n\r\n")},
	{"TLS ClientHello", []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x5a\x13\xc0\x2f", 126))},
	{"SSH", []byte("SSH-2.0-OpenSSH_9.7\r\n")},
	{"endless garbage", bytes.Repeat([]byte("\x8e\x02\xff\x00\x31"), 1<<20)},
	{"endless zeros", make([]byte, 5<<20)},
	{"endless frame", drpcwire.AppendFrame(nil, drpcwire.Frame{ID: drpcwire.ID{Stream: 1, Message: 1}, Data: make([]byte, 5<<20)})},
	{"frames without done", bytes.Repeat(frame(1, drpcwire.KindMessage, false, strings.Repeat("x", 100)), 50_000)},
	{"metadata of 4 MiB", join(frame(1, drpcwire.KindInvokeMetadata, true, strings.Repeat("m", 4<<20)))},
	{"bad metadata", frame(1, drpcwire.KindInvokeMetadata, true, "\xff\xff\xff")},
	{"unknown RPC", frame(1, drpcwire.KindInvoke, true, "/nobody.Knows/This")},
	{"unknown RPCs", bytes.Repeat(frame(1, drpcwire.KindInvoke, true, "/nobody.Knows/This"), 100_000)},
	{"message ids going backwards", join(frame(5, drpcwire.KindInvoke, true, linkMethod), frame(2, drpcwire.KindMessage, true, "x"))},
	{"invoke and no more", frame(1, drpcwire.KindInvoke, true, linkMethod)},
	{"half a hello", join(frame(1, drpcwire.KindInvoke, true, linkMethod), frame(2, drpcwire.KindMessage, false, "\x0a\x10"))},
	{"item before the hello", join(frame(1, drpcwire.KindInvoke, true, linkMethod),
		frame(2, drpcwire.KindMessage, true, item(linkpb.KindPublish, &linkpb.Publish{Topic: "t:a"})))},
	{"hello that is too long", join(frame(1, drpcwire.KindInvoke, true, linkMethod),
		frame(2, drpcwire.KindMessage, true, item(linkpb.KindHello, &linkpb.Hello{Gateway: strings.Repeat("g", helloBytes)})))},
	{"empty batches", join(frame(1, drpcwire.KindInvoke, true, linkMethod), frame(2, drpcwire.KindMessage, true, ""))},
}

// strict is a Handle that takes nothing but a Hello first.
func strict(lane *Lane) {
	greeted := false
	_ = lane.Receive(func(kind linkpb.Kind, body []byte) error {
		if kind == linkpb.KindHello {
			greeted = true
			lane.Greeted()
		}
		if !greeted {
			return errors.New("item before the hello")
		}
		return nil
	}, func() {})
}

func TestRow39_42_StrangersAreShutOut(t *testing.T) {
	for _, test := range strangers {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, logs := observe()
				var closed Closed
				s, err := newServer(ServeConfig{Handle: strict, Log: log, Closed: &closed, Config: Config{HelloTimeout: 3 * time.Second}})
				if err != nil {
					t.Fatal(err)
				}
				near, far := net.Pipe()
				wrote := make(chan int)
				go func() { _, _ = io.Copy(io.Discard, far) }()
				go func() {
					n, _ := far.Write(test.bytes)
					wrote <- n
				}()
				begin := time.Now()
				s.serveConn(t.Context(), near)
				if took := time.Since(begin); took > 3*time.Second {
					t.Errorf("closed after %v, the bound is 3s", took)
				}
				if n := <-wrote; n > helloBytes {
					t.Errorf("read %d bytes of it, the bound is %d", n, helloBytes)
				}
				if _, err := far.Write([]byte("x")); err == nil {
					t.Error("the connection is open")
				}
				if n := closed.NoHello.Load(); n != 1 {
					t.Errorf("%d counted", n)
				}
				if lines := logs.All(); len(lines) != 1 || lines[0].Message != "closed a connection that sent no hello" {
					t.Errorf("log %v, want one line", lines)
				}
				_ = far.Close()
			})
		})
	}
}

// What a peer breaks after its hello ends its lane, with a reason, before it takes memory; the other lanes go on.
func TestRow42_GreetedPeersThatBreakTheProtocol(t *testing.T) {
	hello := join(frame(1, drpcwire.KindInvoke, true, linkMethod), frame(2, drpcwire.KindMessage, true, item(linkpb.KindHello, &linkpb.Hello{Protocol: Protocol, Gateway: "g"})))
	piece := strings.Repeat("x", 60<<10)
	for name, bytes := range map[string][]byte{
		"frames without done":         bytes.Repeat(frame(3, drpcwire.KindMessage, false, piece), 100),
		"endless frame":               drpcwire.AppendFrame(nil, drpcwire.Frame{ID: drpcwire.ID{Stream: 1, Message: 3}, Kind: drpcwire.KindMessage, Data: make([]byte, 5<<20)}),
		"message over 4 MiB":          frame(3, drpcwire.KindMessage, true, strings.Repeat("x", maxMessage+1)),
		"message ids going backwards": join(frame(9, drpcwire.KindMessage, true, ""), frame(3, drpcwire.KindMessage, true, "")),
		"torn batch":                  frame(3, drpcwire.KindMessage, true, "\x0a\x7f\x12"),
		"garbage":                     []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
		"another stream's invoke":     drpcwire.AppendFrame(nil, drpcwire.Frame{ID: drpcwire.ID{Stream: 2, Message: 1}, Kind: drpcwire.KindInvoke, Done: true, Data: []byte("/nobody.Knows/This")}),
	} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan error, 2)
			addr, _ := serve(t, ServeConfig{Handle: handle(nil, ended)})
			bystander := dial(t, t.Context(), addr, Config{}, nil)
			await(t, "the welcome", bystander.live)
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			go func() { _, _ = nc.Write(join(hello, bytes)) }()
			if err := await(t, "the lane to end", ended); err == nil || len(err.Error()) > 200 {
				t.Errorf("ended with %v", err)
			}
			if _, err := io.Copy(io.Discard, nc); err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("not closed: %v", err)
			}
			select {
			case err := <-bystander.ended:
				t.Errorf("the other lane ended: %v", err)
			default:
			}
		})
	}
}

// Strangers over TCP, while a gateway goes on working.
func TestStrangersDisturbNobody(t *testing.T) {
	t.Parallel()
	log, logs := observe()
	got := make(chan linkpb.Kind, 1)
	addr, _ := serve(t, ServeConfig{Log: log, Config: Config{HelloTimeout: 3 * time.Second},
		Handle: handle(func(_ *Lane, kind linkpb.Kind, _ []byte) error {
			got <- kind
			return nil
		}, nil)})
	g := dial(t, t.Context(), addr, Config{}, nil)
	await(t, "the welcome", g.live)
	gone := make(chan struct{})
	for _, s := range strangers {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = nc.Write(s.bytes)
		}()
		go func() {
			_, _ = io.Copy(io.Discard, nc) // until the server closes it
			_ = nc.Close()
			gone <- struct{}{}
		}()
	}
	for range strangers {
		await(t, "a stranger to be shut out", gone)
	}
	g.send(&linkpb.Publish{})
	await(t, "the gateway's item", got)
	if n := logs.FilterMessage("closed a connection that sent no hello").Len(); n == 0 || n >= len(strangers) {
		t.Errorf("%d lines for %d strangers", n, len(strangers))
	}
}

// However many strangers come, the log gets a line a second, which says how many it stands for.
func TestStrangersDoNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logs := observe()
		s, err := newServer(ServeConfig{Handle: strict, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		stranger := func() {
			near, far := net.Pipe()
			go func() {
				_, _ = far.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
				_ = far.Close()
			}()
			s.serveConn(t.Context(), near)
		}
		for range 50 {
			stranger()
		}
		time.Sleep(time.Second)
		stranger()
		lines := logs.All()
		if len(lines) != 2 {
			t.Fatalf("%d lines, want 2", len(lines))
		}
		if n := lines[1].ContextMap()["skipped_lines"]; n != int64(49) {
			t.Errorf("skipped_lines %v, want 49", n)
		}
	})
}

func TestLogLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logs := observe()
		limit := LogLimit{PerSecond: 3}
		for range 2 {
			for range 10 {
				limit.Log(log, zap.ErrorLevel, "odd", zap.String("peer", "x"))
			}
			time.Sleep(time.Second)
		}
		var skipped []int64
		for _, line := range logs.All() {
			skipped = append(skipped, line.ContextMap()["skipped_lines"].(int64))
			if line.Level != zap.ErrorLevel || line.ContextMap()["peer"] != "x" {
				t.Errorf("line %v", line)
			}
		}
		if !slices.Equal(skipped, []int64{0, 0, 0, 7, 0, 0}) {
			t.Errorf("skipped %v", skipped)
		}
	})
}

// A gateway that is refused reads why, although it has sent more than its Hello; then it closes the lane.
func TestRefusalArrives(t *testing.T) {
	ended := make(chan error, 1)
	addr, _ := serve(t, ServeConfig{Handle: func(lane *Lane) {
		ended <- lane.Receive(func(kind linkpb.Kind, _ []byte) error {
			if kind == linkpb.KindHello {
				lane.Refuse(linkpb.Code_RING_CONFLICT, "rings differ")
			}
			return nil
		}, func() {})
	}})
	var refusal linkpb.Refusal
	g := dial(t, t.Context(), addr, Config{}, func(_ *Lane, kind linkpb.Kind, body []byte) error {
		if err := refusal.UnmarshalVT(body); err != nil || kind != linkpb.KindRefusal {
			return errors.New("no refusal")
		}
		return errTest
	})
	for range 10 {
		g.send(&linkpb.Publish{Topic: "t:a"})
	}
	if err := g.end(t); !errors.Is(err, errTest) || refusal.Code != linkpb.Code_RING_CONFLICT || refusal.Detail != "rings differ" {
		t.Errorf("lane ended with %v, refusal %v", err, &refusal)
	}
	await(t, "the refused lane to end", ended)
}

// A gateway that stays although it was refused is held to the bounds of a stranger.
func TestRefusedPeerThatStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logs := observe()
		s, err := newServer(ServeConfig{Log: log, Handle: func(lane *Lane) {
			_ = lane.Receive(func(linkpb.Kind, []byte) error {
				lane.Refuse(linkpb.Code_WRONG_PROTOCOL, "no")
				return nil
			}, func() {})
		}})
		if err != nil {
			t.Fatal(err)
		}
		near, far := net.Pipe()
		go s.serveConn(t.Context(), near)
		begin := time.Now()
		lane, err := open(t.Context(), far, Config{HelloTimeout: time.Hour}.withDefaults(), &linkpb.Hello{})
		if err != nil {
			t.Fatal(err)
		}
		_ = lane.Receive(func(linkpb.Kind, []byte) error { return nil }, func() {})
		if took := time.Since(begin); took != 5*time.Second {
			t.Errorf("closed after %v, want 5s", took)
		}
		synctest.Wait()
		if logs.Len() != 0 {
			t.Errorf("log %v: who refuses logs it", logs.All())
		}
	})
}

// FuzzStranger feeds bytes to the accepting end: it must come to an end whatever they are.
func FuzzStranger(f *testing.F) {
	for _, s := range strangers {
		if len(s.bytes) < 1<<10 {
			f.Add(s.bytes)
		}
	}
	f.Add(join(frame(1, drpcwire.KindInvoke, true, linkMethod),
		frame(2, drpcwire.KindMessage, true, item(linkpb.KindHello, &linkpb.Hello{Protocol: 1, Gateway: "g"})),
		frame(3, drpcwire.KindMessage, true, item(linkpb.KindSubscribe, &linkpb.Subscribe{Ref: 1, Topic: "t:a"})),
		frame(4, drpcwire.KindCloseSend, true, "")))
	// dRPC waits for a stream when it gets a message of none: then the time allowed for a Hello is the end.
	s, err := newServer(ServeConfig{Handle: strict, Config: Config{HelloTimeout: 20 * time.Millisecond}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		near, far := net.Pipe()
		go func() {
			_, _ = far.Write(data)
			_ = far.Close()
		}()
		done := make(chan struct{})
		go func() {
			s.serveConn(context.Background(), near)
			close(done)
		}()
		await(t, "the connection to end", done)
	})
}
