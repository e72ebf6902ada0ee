package bench

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startTestFloor runs a Floor in this process, whose own CPU time then stands for the server's.
func startTestFloor(t *testing.T, coalesce bool) *target {
	t.Helper()
	f, err := ListenFloor("127.0.0.1:0", coalesce)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("floor: %v", err)
		}
	})
	addr := f.listener.Addr().(*net.TCPAddr)
	return &target{
		name: "floor", path: socketPath, addrs: []*net.TCPAddr{addr, addr},
		processes: []Process{{Name: "test", PID: os.Getpid()}},
	}
}

func measureLoad(t *testing.T, load Load, target *target) *Run {
	t.Helper()
	if err := load.Validate(); err != nil {
		t.Fatal(err)
	}
	run, err := measure(t.Context(), load, target, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if run.Faults.Any() {
		t.Errorf("faults: %s %s", run.Faults, run.Reason)
	}
	return run
}

func wantFigure(t *testing.T, r *Run, name string, low, high float64) {
	t.Helper()
	if v, ok := r.Figure(name); !ok || v < low || v > high {
		t.Errorf("%s is %g, %t; want %g to %g", name, v, ok, low, high)
	}
}

func TestPublishLoadsAgainstTheFloor(t *testing.T) {
	const d = 100 * time.Millisecond
	for _, load := range []Load{
		{Name: "fanout", Kind: Publish, Topics: 1, Connections: 50, Publishers: 1, Rate: 200, Payload: 128, Duration: d},
		{Name: "rooms", Kind: Publish, Topics: 7, Connections: 21, Publishers: 2, Rate: 200, Payload: minPayload, Duration: d},
	} {
		for _, coalesce := range []bool{false, true} {
			r := measureLoad(t, load, startTestFloor(t, coalesce))
			n := 20 * float64(load.Connections/load.Topics)
			wantFigure(t, r, "deliveries", n, n)
			wantFigure(t, r, "p50_ms", 0, 10_000)
			wantFigure(t, r, "publish_late_p99_ms", 0, 10_000)
		}
	}
}

// The connection that does not read gets all of it in the end, and the others' figures are without it.
func TestStalledLoadAgainstTheFloor(t *testing.T) {
	load := Load{
		Name: "stalled", Kind: Stalled, Topics: 2, Connections: 10, Publishers: 1, Rate: 100, Payload: 128, Pairs: 1, Duration: 100 * time.Millisecond,
	}
	r := measureLoad(t, load, startTestFloor(t, false))
	wantFigure(t, r, "calm_p99_ms", 0, 10_000)
	wantFigure(t, r, "stalled_p99_ms", 0, 10_000)
	load.Rate = 0
	if err := load.Validate(); err == nil {
		t.Error("a load without a rate is valid")
	}
}

// TestWhatNeverComesIsLost has the pacer wait for a subscriber that nobody delivers to.
func TestWhatNeverComesIsLost(t *testing.T) {
	for _, rate := range []float64{0, 500} {
		load := Load{Name: "x", Kind: Publish, Topics: 1, Connections: 2, Publishers: 1, Rate: rate, Window: 4, Payload: 100, Duration: 20 * time.Millisecond}
		r, err := newRunner(load, startTestFloor(t, false), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		defer r.loop.close()
		if err := r.populate(t.Context()); err != nil {
			t.Fatal(err)
		}
		deaf := &tracker{next: make([]uint32, 1)}
		r.topics[0].subscribers = append(r.topics[0].subscribers, deaf)
		p := newPacer(r)
		p.patience = 2 * time.Second // the others get theirs
		if err := p.publishFor(t.Context(), load.Duration); err != nil {
			t.Fatal(err)
		}
		verdict(&r.loop.faults, r.topics[0].subscribers, r.topics[0].sent)
		if p.published == 0 || r.loop.faults != (Faults{Lost: p.published}) {
			t.Errorf("rate %g: %d published, faults: %s", rate, p.published, r.loop.faults)
		}
	}
}

func TestFloodAgainstTheFloor(t *testing.T) {
	load := Load{Name: "flood", Kind: Publish, Topics: 1, Connections: 20, Publishers: 3, Window: 8, Payload: 500, Duration: 50 * time.Millisecond}
	for _, coalesce := range []bool{false, true} {
		r := measureLoad(t, load, startTestFloor(t, coalesce))
		wantFigure(t, r, "deliveries", 20*3*8, 1e9)
		wantFigure(t, r, "deliveries_per_s", 1, 1e9)
	}
}

func TestChurnAgainstTheFloor(t *testing.T) {
	load := Load{Name: "churn", Kind: Churn, Topics: 3, Connections: 8, Duration: 50 * time.Millisecond}
	for _, coalesce := range []bool{false, true} {
		r := measureLoad(t, load, startTestFloor(t, coalesce))
		wantFigure(t, r, "cycles", 8, 1e9)
		wantFigure(t, r, "cycles_per_s", 1, 1e9)
	}
}

func TestStormAgainstTheFloor(t *testing.T) {
	load := Load{
		Name: "storm", Kind: Storm, Topics: 3, Connections: 60, Established: 5, Publishers: 1, Rate: 100, Payload: minPayload,
		Duration: 50 * time.Millisecond,
	}
	r := measureLoad(t, load, startTestFloor(t, false))
	wantFigure(t, r, "back_s", 1e-6, 20)
	wantFigure(t, r, "refused", 0, 0)
	wantFigure(t, r, "failed_attempts", 0, 0)
	wantFigure(t, r, "rss_peak_mib", 1, 1e6)
}

// Attempts that fail are made again after phoenix.js's pauses, and counted by what became of them.
func TestACrowdComesAgain(t *testing.T) {
	c := &crowd{runner: &runner{loop: &loop{now: 1000}}, tries: make(map[*conn]int)}
	one := new(conn)
	for i, why := range []string{
		`handshake refused: HTTP/1.1 503 Service Unavailable: "full"`, "server: close 1013 retry_after_ms=5", "connection reset",
	} {
		if err := c.ended(one, upgrading, errors.New(why)); err != nil {
			t.Fatal(err)
		}
		if want := c.loop.now + int64(comebacks[i]); one.began != want || len(c.waiting[i]) != 1 {
			t.Errorf("attempt %d: due at %d, want %d", i, one.began, want)
		}
	}
	if c.refused != 2 || c.broken != 1 || c.run.Reason == "" {
		t.Errorf("%d refused, %d failed, reason %q", c.refused, c.broken, c.run.Reason)
	}
	if err := c.ended(one, joined, errors.New("gone")); err == nil {
		t.Error("one that was in is not missed")
	}
}

func TestIdleAgainstTheFloor(t *testing.T) {
	load := Load{Name: "idle", Kind: Idle, Topics: 3, Connections: 10, Duration: 10 * time.Millisecond}
	r := measureLoad(t, load, startTestFloor(t, false))
	wantFigure(t, r, "rss_after_mib", 1, 1e6)
	if len(r.Memory) != 1 || r.Memory[0].BeforeKiB == 0 || r.Memory[0].AfterKiB == 0 {
		t.Errorf("memory: %+v", r.Memory)
	}
}

// answering runs a server that gives each connection the same answer to its handshake, and keeps or closes it.
func answering(t *testing.T, answer string, hangUp bool) *target {
	t.Helper()
	lis, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
				continue
			}
			_, _ = io.WriteString(c, answer)
			if hangUp {
				_ = c.Close()
			}
		}
	}()
	t.Cleanup(func() {
		lis.Close()
		<-done
	})
	return &target{name: "scripted", path: socketPath, addrs: []*net.TCPAddr{lis.Addr().(*net.TCPAddr)}}
}

func TestBadServersAreNamed(t *testing.T) {
	const upgraded = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: " + handshakeAccept + "\r\n\r\n"
	text := func(s string) string { return string(appendServerFrame(nil, opText, []byte(s))) }
	for name, c := range map[string]struct {
		answer string
		hangUp bool
		want   string
	}{
		"refuses":       {"HTTP/1.1 503 Service Unavailable\r\n\r\nfull", false, "(upgrading): handshake refused: HTTP/1.1 503"},
		"hangs up":      {"", true, "(upgrading): connection"},
		"refuses join":  {upgraded + text(`["1","1","x","phx_reply",{"status":"error","response":{"reason":"no"}}]`), false, "(joining): join refused"},
		"ends channel":  {upgraded + text(`["1","1","x","phx_error",{}]`), false, "channel ended by the server"},
		"closes":        {upgraded + "\x88\x06\x03\xf4away", false, "close 1012 away"},
		"fragments":     {upgraded + "\x01\x00", false, "fragmented frame"},
		"sends garbage": {upgraded + "\xff\xff", false, "reserved bits"},
	} {
		r, err := newRunner(Load{Name: name, Kind: Idle, Topics: 1, Connections: 1, Duration: time.Second}, answering(t, c.answer, c.hangUp), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		err = r.populate(t.Context())
		r.loop.close()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("server that %s: error is %v, want %q", name, err, c.want)
		}
	}
}

func TestNobodyListens(t *testing.T) {
	addrs, err := freeAddrs(1)
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRunner(Load{Name: "x", Kind: Idle, Topics: 1, Connections: 1}, &target{path: socketPath, addrs: addrs}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer r.loop.close()
	if err := r.populate(t.Context()); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("error is %v", err)
	}
}

func TestCanceledMeasurementEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	load := Load{Name: "x", Kind: Idle, Topics: 1, Connections: 1, Duration: time.Hour}
	if _, err := measure(ctx, load, startTestFloor(t, false), io.Discard); !errors.Is(err, why) {
		t.Errorf("error is %v", err)
	}
}

func TestTooFewDescriptors(t *testing.T) {
	err := checkDescriptors(1 << 30)
	if err == nil || !strings.Contains(err.Error(), "ulimit -n") {
		t.Errorf("error is %v", err)
	}
	if err := checkDescriptors(10); err != nil {
		t.Error(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur >= 1_000_000 {
		t.Skipf("the limit is %d: no valid load exceeds it", limit.Cur)
	}
	load := Load{Name: "x", Kind: Idle, Topics: 1, Connections: 1_000_000, Duration: time.Second}
	if _, err := Measure(t.Context(), Config{Load: load, BinDir: "/nowhere"}); err == nil || !strings.Contains(err.Error(), "ulimit -n") {
		t.Errorf("Measure starts servers nonetheless: %v", err)
	}
}

// TestLoopCatches feeds the loop frames as a server at fault would send them.
func TestLoopCatches(t *testing.T) {
	const name = "bench:x"
	text := func(n uint32) []byte {
		f, _, err := parseFrame([]byte(string(newPublishFrame(name, 0, 100).stamp(n, 1))), true)
		if err != nil {
			t.Fatal(err)
		}
		start := strings.Index(string(f.payload), "{")
		return append(append(deliveryHead(name, event), f.payload[start:len(f.payload)-2]...), ']')
	}
	for what, c := range map[string]struct {
		order []uint32
		extra string
		want  Faults
	}{
		"nothing wrong":     {[]uint32{0, 1, 2}, "", Faults{}},
		"a loss":            {[]uint32{0, 2}, "", Faults{Lost: 1}},
		"a double":          {[]uint32{0, 1, 1, 2}, "", Faults{Doubled: 1}},
		"disorder":          {[]uint32{1, 0, 2}, "", Faults{Reordered: 1}},
		"a phantom":         {[]uint32{0, 1, 2, 3}, "", Faults{Malformed: 1}},
		"another's message": {[]uint32{0, 1, 2}, `["1",null,"bench:y","m",{}]`, Faults{Malformed: 1}},
		"a stray reply":     {[]uint32{0, 1, 2}, `["1","7","bench:x","phx_reply",{"response":{},"status":"ok"}]`, Faults{Malformed: 1}},
	} {
		l := &loop{latency: new(histogram)}
		tp := &topic{name: name, delivery: newDelivery(name, 100), sent: []uint32{3}}
		co := &conn{topic: tp, state: joined, tracker: tracker{next: make([]uint32, 1)}}
		for _, n := range c.order {
			if err := l.received(co, frame{op: opText, payload: text(n)}); err != nil {
				t.Fatal(err)
			}
		}
		if c.extra != "" {
			if err := l.received(co, frame{op: opText, payload: []byte(c.extra)}); err != nil {
				t.Fatal(err)
			}
		}
		verdict(&l.faults, []*tracker{&co.tracker}, tp.sent)
		if l.faults != c.want {
			t.Errorf("%s: faults are %s, want %s", what, l.faults, c.want)
		}
	}
}

func TestSourceAddress(t *testing.T) {
	local := net.IPv4(127, 0, 0, 1)
	seen := make(map[string]bool)
	for n := range 1000 {
		ip := sourceAddress(local, n)
		if seen[ip.String()] || !ip.IsLoopback() || ip[3] == 0 || ip[3] == 255 {
			t.Fatalf("source %d is %s", n, ip)
		}
		seen[ip.String()] = true
	}
	if ip := sourceAddress(net.IPv4(10, 0, 0, 1), 5); ip != nil {
		t.Errorf("for a server elsewhere: %s", ip)
	}
	if ip := sourceAddress(net.IPv6loopback, 5); ip != nil {
		t.Errorf("for IPv6: %s", ip)
	}
}

func TestRunningTargetRefuses(t *testing.T) {
	for want, urls := range map[string][]string{
		"want ws://host:port/path": {"wss://127.0.0.1:4000/socket"},
		"same path":                {"ws://127.0.0.1:1/socket", "ws://127.0.0.1:1/other"},
	} {
		if _, err := runningTarget(t.Context(), &Config{URLs: urls}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %q", err, want)
		}
	}
}

func TestMeasureRunningServers(t *testing.T) {
	tg := startTestFloor(t, false)
	report, err := Measure(t.Context(), Config{
		Load: Load{Name: "fanout", Kind: Publish, Topics: 1, Connections: 4, Publishers: 1, Rate: 100, Payload: 100, Duration: 50 * time.Millisecond},
		Runs: 2, URLs: []string{"ws://" + tg.addrs[0].String() + "/socket"}, Processes: tg.processes,
	})
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := spread(report.Runs, "deliveries"); !ok || s != (Spread{20, 20, 20}) || report.Faults().Any() {
		t.Errorf("deliveries %+v, faults %s", s, report.Faults())
	}
}

func TestChildThatEndsIsNamedWithItsLastWords(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"gateway", "topicserver"} {
		if err := os.WriteFile(dir+"/"+name, []byte("#!/bin/sh\necho no ring >&2\nexit 2\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Measure(t.Context(), Config{Load: Loads()[0], BinDir: dir})
	if err == nil || !strings.Contains(err.Error(), "ended: exit status 2; it said:\nno ring") {
		t.Errorf("error is %v", err)
	}
}

// What /proc/net/tcp shows of a connection whose peer does not read is what has been written to it.
func TestKernelQueuesAreTheServersEnds(t *testing.T) {
	lis, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	addr := lis.Addr().(*net.TCPAddr)
	client, err := net.DialTCP("tcp4", nil, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	server, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	raw, err := client.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	c := &conn{addr: addr}
	if err := raw.Control(func(fd uintptr) { c.fd = int(fd) }); err != nil {
		t.Fatal(err)
	}
	const more = 64 << 20 // than the sockets take
	written := make(chan error, 1)
	go func() {
		_, err := server.Write(make([]byte, more))
		written <- err
	}()
	queues := make([]int64, 1)
	for queues[0] == 0 && t.Context().Err() == nil {
		if err := kernelQueues([]*conn{c}, queues); err != nil {
			t.Fatal(err)
		}
	}
	if queues[0] > more {
		t.Errorf("queue is %d bytes", queues[0])
	}
	_ = server.Close()
	if err := <-written; err == nil {
		t.Error("the sockets took it all")
	}
	c.addr = &net.TCPAddr{IP: addr.IP, Port: addr.Port ^ 1}
	if err := kernelQueues([]*conn{c}, queues); err == nil {
		t.Error("found a connection that is not there")
	}
}

func TestProcAddr(t *testing.T) {
	got := procAddr(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4000})
	if got != "0100007F:0FA0" && got != "7F000001:0FA0" { // by the machine's byte order
		t.Errorf("got %s", got)
	}
}
