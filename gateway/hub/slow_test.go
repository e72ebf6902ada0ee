package hub

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
)

// slowRig is a loop whose connections can be slow, and a hub that they are relieved by.
func slowRig(t *testing.T, maxQueue int) *rig {
	t.Helper()
	loops, err := socket.New(socket.Config{Loops: 1, MaxQueueBytes: maxQueue, IdleTimeout: -1, WriteTimeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(loops.Close)
	r := &rig{t, loops, loops.Loop(0), New()}
	r.loop.Relieved(r.hub.Relieve)
	return r
}

// opaque hides what a connection is, so that a goroutine writes to it.
type opaque struct{ net.Conn }

// slowly adds channels to a connection that takes little.
func (r *rig) slowly(stream bool, channels ...*Channel) (*peer, *socket.Conn) {
	lis, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(r.t.TempDir(), "s")})
	if err != nil {
		r.t.Fatal(err)
	}
	defer lis.Close()
	client, err := net.DialUnix("unix", nil, lis.Addr().(*net.UnixAddr))
	if err != nil {
		r.t.Fatal(err)
	}
	server, err := lis.AcceptUnix()
	if err != nil {
		r.t.Fatal(err)
	}
	_ = server.SetWriteBuffer(4 << 10)
	conns := make(chan *socket.Conn, 1)
	open := func(c *socket.Conn) socket.Handler {
		for _, ch := range channels {
			ch.Conn = c
			r.hub.Add("room", ch, Position{Epoch: 1})
		}
		conns <- c
		return silent{}
	}
	if stream {
		go func() {
			_ = r.loops.Adopt(opaque{server}, open)
			_ = server.Close()
		}()
	} else {
		if err := r.loops.Adopt(server, open); err != nil {
			r.t.Fatal(err)
		}
		_ = server.Close()
	}
	r.t.Cleanup(func() { client.Close() })
	return newPeer(r.t, client), <-conns
}

// until waits for a condition on the loop.
func (r *rig) until(what string, cond func() bool) {
	r.t.Helper()
	for end, ok := time.Now().Add(patience), false; !ok; {
		r.turn(func() { ok = cond() })
		if !ok && time.Now().After(end) {
			r.t.Fatalf("never: %s", what)
		}
	}
}

// bulk is a message of about 3 KiB.
func bulk(offset uint64) *Message {
	return message(offset, fmt.Sprintf(`{"n":%d,"pad":%q}`, offset, strings.Repeat("x", 3000)))
}

// got is one frame that a channel was sent.
type got struct {
	event    string
	ref      string
	n        uint64 // of a message
	from, to Position
	count    int // of a notice
}

// parse reads a frame of either version's text.
func parse(t *testing.T, frame string, k codec.Kind) (g got) {
	t.Helper()
	frame = frame[strings.IndexAny(frame, "[{"):]
	var f struct {
		Event   string
		Ref     *string
		Payload json.RawMessage
	}
	var err error
	if k == codec.PhoenixV1 {
		err = json.Unmarshal([]byte(frame), &f)
	} else {
		var joinRef, topic string
		err = json.Unmarshal([]byte(frame), &[]any{&joinRef, &f.Ref, &topic, &f.Event, &f.Payload})
	}
	var body struct {
		N        uint64
		From, To string
		Count    int
	}
	if err == nil {
		err = json.Unmarshal(f.Payload, &body)
	}
	if err != nil {
		t.Fatalf("%.100q: %v", frame, err)
	}
	g = got{event: f.Event, n: body.N, count: body.Count}
	if f.Ref != nil {
		g.ref = *f.Ref
	}
	if f.Event == EventSkipped {
		var err1, err2 error
		g.from, err1 = ParsePosition(body.From)
		g.to, err2 = ParsePosition(body.To)
		if err1 != nil || err2 != nil {
			t.Fatalf("%.100q: %v, %v", frame, err1, err2)
		}
	}
	return g
}

// follow reads until the message at offset last, and checks that what is read and what is told to be skipped is every
// message, once and in order. It returns how many were skipped, in how many pieces, and how many came behind the last
// piece.
func follow(t *testing.T, p *peer, k codec.Kind, positions bool, last uint64) (skipped, pieces int, tail uint64) {
	t.Helper()
	next := uint64(1)
	for next <= last {
		g := parse(t, p.read(), k)
		want := uint64(0)
		if g.event == EventSkipped {
			if g.from.Offset != next || g.to.Offset < g.from.Offset || g.count != int(g.to.Offset-g.from.Offset+1) || g.from.Epoch != 1 {
				t.Fatalf("skipped %v to %v, %d, where %d is next", g.from, g.to, g.count, next)
			}
			skipped += g.count
			pieces++
			want, tail = g.to.Offset, 0
		} else {
			if g.event != "e" || g.n != next {
				t.Fatalf("event %q with message %d, want %d", g.event, g.n, next)
			}
			want = next
			tail++
		}
		if positions != (g.ref == Position{1, want}.String()) || !positions && g.ref != "" {
			t.Fatalf("ref %q of %d", g.ref, want)
		}
		next = want + 1
	}
	return skipped, pieces, tail
}

// A client that reads too slowly for a channel that may skip gets what its policy leaves, and is told the rest; its queue
// stays within its bound, and nothing is skipped for it once it keeps up.
func TestSlowPolicies(t *testing.T) {
	for _, stream := range []bool{false, true} {
		for _, k := range []codec.Kind{codec.PhoenixV2, codec.PhoenixV1} {
			for _, policy := range []Slow{SlowDropOldest, SlowLatest} {
				for _, positions := range []bool{true, false} {
					t.Run(fmt.Sprintf("stream %v, codec %d, %v, positions %v", stream, k, policy, positions), func(t *testing.T) {
						testSlowPolicy(t, stream, &Channel{JoinRef: codec.Ref(`"1"`), Codec: k, Slow: policy, Positions: positions})
					})
				}
			}
		}
	}
}

func testSlowPolicy(t *testing.T, stream bool, c *Channel) {
	const limit, last = 256 << 10, 1000
	r := slowRig(t, limit)
	p, conn := r.slowly(stream, c)
	most, closing := 0, false
	for offset := uint64(1); offset <= last; offset++ {
		r.deliver(bulk(offset))
		r.turn(func() { most, closing = max(most, conn.Waiting()), conn.Closing() })
	}
	if most > limit || closing {
		t.Fatalf("%d bytes have waited, closing %v", most, closing)
	}
	waiting := 0
	r.turn(func() {
		waiting = len(r.hub.lags[c].waiting)
		if staged := r.hub.Staged(c); staged.Offset == 0 || staged.Offset >= last || !r.hub.Waits(c, Position{1, last}) || len(r.hub.Skipped(c)) == 0 {
			t.Errorf("staged %v", staged)
		}
	})
	if c.Slow == SlowLatest && waiting != 1 || c.Slow == SlowDropOldest && (waiting < 35 || waiting > limit/2/3000) {
		t.Errorf("%d messages wait", waiting)
	}
	skipped, pieces, tail := follow(t, p, c.Codec, c.Positions, last)
	if pieces != 1 && !stream || tail < uint64(waiting) { // behind a stream's writer some room may come late
		t.Errorf("skipped in %d pieces, then %d messages of %d", pieces, tail, waiting)
	}
	if n := r.hub.Skips().Skipped[c.Slow].Load(); n != uint64(skipped) || r.hub.Skips().Lagging.Load() != 0 {
		t.Errorf("%d counted, %d told, %d lagging", n, skipped, r.hub.Skips().Lagging.Load())
	}
	r.deliver(bulk(last + 1))
	if g := parse(t, p.read(), c.Codec); g.n != last+1 {
		t.Errorf("got %+v when it keeps up", g)
	}
	r.until("nothing waits", func() bool { return conn.Waiting() == 0 })
	r.turn(func() {
		if len(r.hub.lags)+len(r.hub.backlogs) != 0 || c.lagging {
			t.Error("a lag is left")
		}
		r.hub.Remove(c)
		if len(r.hub.ranges) != 0 {
			t.Error("ranges are left")
		}
	})
}

// What is sent to a slow channel and is no message of the topic, as the state of its presence, neither waits aside nor is skipped.
func TestWhatHasNoPositionIsNotSkipped(t *testing.T) {
	for _, policy := range []Slow{SlowDropOldest, SlowLatest} {
		t.Run(policy.String(), func(t *testing.T) {
			r := slowRig(t, 256<<10)
			c := &Channel{JoinRef: codec.Ref(`"1"`), Slow: policy, Positions: true}
			p, conn := r.slowly(false, c)
			full := uint64(0)
			for behind := false; !behind; {
				full++
				r.deliver(bulk(full))
				r.turn(func() { behind = conn.Behind() })
			}
			state := func() { r.hub.Send(c, NewPush("room", "presence_state", []byte(`{}`))) }
			r.turn(state)
			r.deliver(bulk(full + 1))
			r.turn(state)
			last := full + 200
			for offset := full + 2; offset <= last; offset++ {
				r.deliver(bulk(offset))
			}
			follow(t, p, c.Codec, true, full)
			for range 2 {
				if g := parse(t, p.read(), c.Codec); g.event != "presence_state" || g.ref != "" {
					t.Fatalf("got %+v, want the state", g)
				}
			}
			skipped := 0
			for next := full + 1; next <= last; next++ {
				g := parse(t, p.read(), c.Codec)
				if g.event == EventSkipped && g.from == (Position{1, next}) && g.count == int(g.to.Offset-g.from.Offset+1) {
					skipped += g.count
					next = g.to.Offset
				} else if g.n != next {
					t.Fatalf("%+v, where %d is next", g, next)
				}
			}
			if n := r.hub.Skips().Skipped[policy].Load(); skipped == 0 || n != uint64(skipped) {
				t.Errorf("%d counted, %d told", n, skipped)
			}
		})
	}
}

// Binary messages wait and are skipped like any others; their frames are binary, the notice is text.
func TestSlowBinary(t *testing.T) {
	const last = 200
	r := slowRig(t, 256<<10)
	c := &Channel{JoinRef: codec.Ref(`"1"`), Slow: SlowLatest, Positions: true}
	p, _ := r.slowly(false, c)
	for offset := uint64(1); offset <= last; offset++ {
		m := bulk(offset)
		m.Binary = true
		r.deliver(m)
	}
	next, notices := uint64(1), 0
	for next <= last {
		frame := p.read()
		if frame[0] == 0x82 {
			if want := fmt.Sprintf(`{"n":%d,`, next); !strings.Contains(frame, "1roome"+want) {
				t.Fatalf("%.60q, want %s", frame, want)
			}
			next++
			continue
		}
		g := parse(t, frame, codec.PhoenixV2)
		if g.event != EventSkipped || g.from.Offset != next || g.ref != g.to.String() {
			t.Fatalf("%+v, where %d is next", g, next)
		}
		next = g.to.Offset + 1
		notices++
	}
	if notices != 1 {
		t.Errorf("%d notices", notices)
	}
}

// A client that falls behind again and again is told each time.
func TestSlowReaderIsToldEachTime(t *testing.T) {
	const rounds, each = 5, 100
	r := slowRig(t, 64<<10)
	c := &Channel{JoinRef: codec.Ref(`"1"`), Slow: SlowDropOldest, Positions: true}
	p, _ := r.slowly(false, c)
	next := uint64(1)
	for round := uint64(1); round <= rounds; round++ {
		for range each {
			r.deliver(bulk(next))
			next++
		}
		for at := next - each; at < next; at++ {
			g := parse(t, p.read(), c.Codec)
			if g.event == EventSkipped && g.from.Offset == at && g.to.Offset < next-1 {
				at = g.to.Offset
			} else if g.n != at {
				t.Fatalf("round %d: %+v, where %d is next", round, g, at)
			}
		}
		r.turn(func() {
			if n := len(r.hub.Skipped(c)); n != int(round) {
				t.Errorf("told %d times in %d rounds", n, round)
			}
		})
	}
}

// Channels of one connection are apart: what may skip gives way to what may not, replies come through, and each channel
// that skips has its own account.
func TestSlowChannelsOfOneConnection(t *testing.T) {
	const limit, last = 256 << 10, 400
	r := slowRig(t, limit)
	latest := &Channel{JoinRef: codec.Ref(`"1"`), Slow: SlowLatest, Positions: true}
	oldest := &Channel{JoinRef: codec.Ref(`"2"`), Slow: SlowDropOldest}
	p, conn := r.slowly(false, latest, oldest)
	for offset := uint64(1); offset <= last; offset++ {
		r.deliver(bulk(offset))
	}
	reply := `["9","9","room","phx_reply",{}]`
	r.turn(func() {
		if conn.Closing() || len(r.hub.backlogs[conn].lags) != 2 || len(r.hub.lags[latest].waiting) != 1 {
			t.Error("not both lag")
		}
		conn.Send(socket.OpText, []byte(reply))
	})
	next := map[string]uint64{`"1"`: 1, `"2"`: 1}
	replied := false
	for next[`"1"`] <= last || next[`"2"`] <= last {
		frame := p.read()
		if strings.Contains(frame, reply) {
			replied = true
			continue
		}
		ref := frame[strings.IndexByte(frame, '[')+1:][:3]
		g := parse(t, frame, codec.PhoenixV2)
		if g.event == EventSkipped {
			if !replied || g.from.Offset != next[ref] {
				t.Fatalf("%s: skipped from %d, where %d is next; reply seen: %v", ref, g.from.Offset, next[ref], replied)
			}
			next[ref] = g.to.Offset + 1
			continue
		}
		if g.n != next[ref] {
			t.Fatalf("%s: message %d, want %d", ref, g.n, next[ref])
		}
		next[ref]++
	}
}

// When there is nothing to skip any more, the connection closes as any slow one does.
func TestNothingLeftToSkip(t *testing.T) {
	r := slowRig(t, 16<<10)
	var channels []*Channel
	for i := range 10 {
		channels = append(channels, &Channel{JoinRef: codec.Ref(fmt.Sprint(i)), Slow: SlowLatest})
	}
	_, conn := r.slowly(false, channels...)
	closed := false
	for offset := uint64(1); offset <= 1000 && !closed; offset++ {
		r.deliver(bulk(offset))
		r.turn(func() { closed = conn.Closing() })
	}
	if !closed {
		t.Error("ten newest messages fit into a queue of five")
	}
	r.turn(func() {
		for _, c := range channels {
			r.hub.Forget(c)
			r.hub.Remove(c)
		}
		if len(r.hub.lags)+len(r.hub.backlogs) != 0 || r.hub.Skips().Lagging.Load() != 0 {
			t.Error("a lag is left")
		}
	})
}

// A channel that ends is told of what waited for it.
func TestEndOfALaggingChannel(t *testing.T) {
	for _, how := range []string{"Remove", "Clear"} {
		t.Run(how, func(t *testing.T) {
			const last = 200
			r := slowRig(t, 256<<10)
			c := &Channel{JoinRef: codec.Ref(`"1"`), Slow: SlowDropOldest, Positions: true}
			p, conn := r.slowly(false, c)
			for offset := uint64(1); offset <= last; offset++ {
				r.deliver(bulk(offset))
			}
			r.turn(func() {
				if !c.lagging {
					t.Error("it does not lag")
				}
				if how == "Remove" {
					r.hub.Remove(c)
				} else {
					r.hub.Clear("room")
				}
			})
			_, pieces, tail := follow(t, p, codec.PhoenixV2, true, last)
			if pieces != 1 || tail != 0 {
				t.Errorf("%d pieces, %d messages behind the last one", pieces, tail)
			}
			r.until("nothing waits", func() bool { return conn.Waiting() == 0 })
			r.turn(func() {
				if len(r.hub.lags)+len(r.hub.backlogs)+len(r.hub.ranges) != 0 {
					t.Error("something is left")
				}
			})
		})
	}
}

// What a channel missed while it was away comes before what is live, also when it does not take either. Binary messages
// that its protocol has no place for, and its own ones if it does not want them, are neither sent nor told.
func TestReplayToASlowClient(t *testing.T) {
	r := slowRig(t, 256<<10)
	first := &Channel{JoinRef: codec.Ref(`"0"`), Slow: SlowLatest, Codec: codec.PhoenixV1}
	p, conn := r.slowly(false, first)
	full := uint64(0)
	for behind := false; !behind; {
		full++
		r.deliver(bulk(full))
		r.turn(func() { behind = conn.Behind() })
	}
	c := &Channel{Conn: conn, JoinRef: codec.Ref(`"1"`), Slow: SlowDropOldest, Codec: codec.PhoenixV1, NoEcho: true}
	r.turn(func() {
		r.hub.Remove(first)
		for offset := uint64(11); offset <= 20; offset++ {
			r.hub.Send(c, bulk(offset))
		}
		r.hub.Add("room", c, Position{1, 20})
		r.hub.Own(c, Position{1, 22})
	})
	binary := bulk(21)
	binary.Binary = true
	r.turn(func() {
		if d, u := r.hub.Deliver(r.loop, binary, bulk(22), bulk(23)); d != 1 || u != 1 {
			t.Errorf("%d delivered, %d unfit", d, u)
		}
	})
	follow(t, p, codec.PhoenixV1, false, full)
	for _, want := range []uint64{11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 23} {
		if g := parse(t, p.read(), codec.PhoenixV1); g.n != want || g.event != "e" {
			t.Fatalf("got %+v, want message %d", g, want)
		}
	}
}

func TestParseSlow(t *testing.T) {
	for s := range NumSlow {
		if got, err := ParseSlow(s.String()); got != s || err != nil {
			t.Errorf("%v: %v, %v", s, got, err)
		}
	}
	for _, bad := range []string{"", "Close", "drop", "newest"} {
		if _, err := ParseSlow(bad); err == nil || err.Error() != "want close, drop_oldest or latest" {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
