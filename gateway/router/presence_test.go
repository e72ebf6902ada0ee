package router

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// frame returns the payload of the next frame, however long it is.
func (m *member) frame() []byte {
	m.t.Helper()
	_ = m.nc.SetReadDeadline(time.Now().Add(patience))
	var head [10]byte
	n := 0
	need := func(more int) {
		if _, err := io.ReadFull(m.br, head[n:n+more]); err != nil {
			m.t.Fatalf("member reads: %v", err)
		}
		n += more
	}
	need(2)
	size := uint64(head[1])
	switch size {
	case 126:
		need(2)
		size = uint64(binary.BigEndian.Uint16(head[2:4]))
	case 127:
		need(8)
		size = binary.BigEndian.Uint64(head[2:10])
	}
	if op := head[0] & 0xf; op != 1 {
		m.t.Fatalf("member got a frame of kind %d", op)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(m.br, body); err != nil {
		m.t.Fatalf("member reads: %v", err)
	}
	return body
}

// A client that does not read while others change what they show is not closed for it: when it has room again it is
// shown who is there, and what it was sent adds up to that.
func TestPhoenixPresence_SlowClientsAreShownTheLatest(t *testing.T) {
	const members, rounds = 100, 100
	w := newWorld(t, 1)
	m := w.member("t:a")
	var a *Attendance
	m.onLoop(func() {
		a = m.local.Attend(m.topic, &m.channel)
		a.Show()
	})
	s := w.r.shard("t:a")
	s.mu.Lock()
	p := s.presences["t:a"]
	p.watching = true
	in := &p.lane.in
	s.mu.Unlock()
	round := func(n int) {
		d := &linkpb.PresenceDiff{Topic: "t:a", Snapshot: n == 0}
		for i := range uint64(members) {
			meta := fmt.Appendf(nil, `{"n":%d,"long":%q}`, n, strings.Repeat("x", 2000))
			d.Joins = append(d.Joins, &linkpb.Presence{Ref: uint64(n)<<32 | i + 1, Key: fmt.Sprint(i), Meta: meta})
			if n > 0 {
				d.Leaves = append(d.Leaves, uint64(n-1)<<32|i+1)
			}
		}
		if err := in.presenceDiff(d); err != nil {
			t.Fatal(err)
		}
		closed := false
		m.onLoop(func() {
			closed = m.conn.Closing()
			m.local.expire(time.Now())
		})
		if closed {
			t.Fatalf("closed as slow after %d rounds", n)
		}
	}
	for n := range rounds {
		round(n)
	}
	if w.r.Stats().PresencesPostponed == 0 {
		t.Fatal("the client was not slow")
	}
	// It begins to read. Sooner or later there is room for the state.
	stop := make(chan struct{})
	var housekeeper sync.WaitGroup
	housekeeper.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case now := <-tick.C:
				m.local.loop.Post(func() { m.local.expire(now) })
			}
		}
	})
	defer housekeeper.Wait()
	defer close(stop)
	type metas map[string]struct {
		Metas []struct {
			Ref string `json:"phx_ref"`
			N   int    `json:"n"`
		} `json:"metas"`
	}
	seen := make(map[string]int) // by reference
	frames := 0
	done := func() bool {
		for _, n := range seen {
			if n != rounds-1 {
				return false
			}
		}
		return len(seen) == members
	}
	for ; !done(); frames++ {
		var f []json.RawMessage
		if err := json.Unmarshal(m.frame(), &f); err != nil {
			t.Fatal(err)
		}
		var joins, leaves metas
		switch event := string(f[3]); event {
		case `"presence_state"`:
			clear(seen)
			_ = json.Unmarshal(f[4], &joins)
		case `"presence_diff"`:
			var d struct{ Joins, Leaves metas }
			_ = json.Unmarshal(f[4], &d)
			joins, leaves = d.Joins, d.Leaves
		default:
			t.Fatalf("event %s", event)
		}
		for _, of := range leaves {
			for _, meta := range of.Metas {
				delete(seen, meta.Ref)
			}
		}
		for _, of := range joins {
			for _, meta := range of.Metas {
				seen[meta.Ref] = meta.N
			}
		}
		for _, n := range seen {
			if len(seen) != members {
				t.Fatalf("%d members are seen of %d after a frame about round %d", len(seen), members, n)
			}
		}
	}
	if frames >= rounds {
		t.Errorf("%d frames for %d rounds: nothing was left out", frames, rounds)
	}
	// From then on it is told of changes again.
	round(rounds)
	if f := string(m.frame()); !strings.Contains(f, `"presence_diff"`) {
		t.Errorf("got %.100s", f)
	}
}
