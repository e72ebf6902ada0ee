package history_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/ringcast/ringcast/topicserver/history"
	"github.com/ringcast/ringcast/topicserver/history/historytest"
)

func TestMemory(t *testing.T) {
	historytest.Run(t, func(*testing.T) history.Store {
		return history.NewMemory(history.Config{Messages: 1000, TTL: time.Hour})
	})
}

// noon is when these tests begin.
var noon = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)

// What Config says a topic and a message cost.
const (
	topicBytes   = 320
	messageBytes = 64
)

func at(offset uint64) history.Position { return history.Position{Epoch: 7, Offset: offset} }

// add appends the message with the offset and an item of size bytes.
func add(t testing.TB, m *history.Memory, topic string, offset uint64, size int, now time.Time) {
	t.Helper()
	if err := m.Append(topic, history.Message{Position: at(offset), Item: make([]byte, size)}, now); err != nil {
		t.Fatal(err)
	}
}

// wantRun checks that offsets from first to top are remembered and nothing before them; first 0: nothing at all.
func wantRun(t *testing.T, m *history.Memory, topic string, first, top uint64, now time.Time) {
	t.Helper()
	msgs, complete := m.After(topic, at(0), at(top), now)
	if first == 0 {
		if msgs != nil || complete {
			t.Fatalf("topic %q remembers %d messages, complete: %v; want none", topic, len(msgs), complete)
		}
		return
	}
	if complete != (first == 1) {
		t.Fatalf("topic %q: complete is %v; want it only from offset 1 on", topic, complete)
	}
	if uint64(len(msgs)) != top-first+1 || msgs[0].Offset != first || msgs[len(msgs)-1].Offset != top {
		t.Fatalf("topic %q remembers %v; want offsets %d to %d", topic, msgs, first, top)
	}
}

func TestTrimByMessages(t *testing.T) {
	m := history.NewMemory(history.Config{Messages: 3})
	for o := uint64(1); o <= 10; o++ {
		add(t, m, "a", o, 10, noon)
		wantRun(t, m, "a", max(o, 3)-2, o, noon)
	}
	want := history.Stats{Topics: 1, Messages: 3, Bytes: topicBytes + 1 + 3*(messageBytes+10), Trimmed: 7}
	if st := m.Stats(); st != want {
		t.Fatalf("%+v; want %+v", st, want)
	}
}

func TestTrimByBytes(t *testing.T) {
	room := 1000
	m := history.NewMemory(history.Config{Bytes: topicBytes + len("a") + room})
	add(t, m, "a", 1, 100, noon)
	add(t, m, "a", 2, 200, noon)
	add(t, m, "a", 3, room-3*messageBytes-300, noon) // fits to the byte
	wantRun(t, m, "a", 1, 3, noon)
	add(t, m, "a", 4, 0, noon)
	wantRun(t, m, "a", 2, 4, noon)
	add(t, m, "a", 5, room-2*messageBytes+1, noon) // one byte too many to leave the one before
	wantRun(t, m, "a", 5, 5, noon)
	if st := m.Stats(); st.Trimmed != 4 || st.Messages != 1 {
		t.Fatalf("%+v; want 4 trimmed and 1 left", st)
	}
}

func TestMessageThatIsTooLargeLeavesNothing(t *testing.T) {
	m := history.NewMemory(history.Config{Bytes: 1000})
	add(t, m, "a", 1, 10, noon)
	add(t, m, "a", 2, 1000, noon)
	wantRun(t, m, "a", 0, 2, noon)
	if want, st := (history.Stats{Trimmed: 2}), m.Stats(); st != want {
		t.Fatalf("%+v; want %+v", st, want)
	}
	add(t, m, "b", 1, 1000, noon)
	if want, st := (history.Stats{Trimmed: 3}), m.Stats(); st != want {
		t.Fatalf("%+v; want %+v", st, want)
	}
	add(t, m, "a", 3, 10, noon)
	wantRun(t, m, "a", 3, 3, noon)
}

func TestDefaults(t *testing.T) {
	m := history.NewMemory(history.Config{})
	for o := uint64(1); o <= 300; o++ {
		add(t, m, "many", o, 1, noon)
	}
	wantRun(t, m, "many", 45, 300, noon)
	for o := uint64(1); o <= 20; o++ {
		add(t, m, "large", o, 100_000, noon)
	}
	wantRun(t, m, "large", 11, 20, noon)
	wantRun(t, m, "large", 11, 20, noon.Add(2*time.Minute))
	wantRun(t, m, "large", 0, 20, noon.Add(2*time.Minute+1))

	// The items are one array: it is the count that fills up, not the machine.
	shared := make([]byte, 1<<19)
	for i := range 3000 {
		pos := history.Position{Epoch: 7, Offset: 1}
		if err := m.Append(fmt.Sprint(i), history.Message{Position: pos, Item: shared}, noon); err != nil {
			t.Fatal(err)
		}
	}
	if st := m.Stats(); st.Bytes > 1<<30 || st.Bytes < 1<<30-1<<20 || st.Evicted == 0 {
		t.Fatalf("%+v; want just under 1 GiB", st)
	}
}

func TestNegativeBoundKeepsNothing(t *testing.T) {
	for name, cfg := range map[string]history.Config{
		"Messages": {Messages: -1}, "Bytes": {Bytes: -1}, "TTL": {TTL: -1}, "TotalBytes": {TotalBytes: -1},
	} {
		m := history.NewMemory(cfg)
		add(t, m, "a", 1, 10, noon)
		add(t, m, "a", 5, 10, noon)
		if err := m.Append("a", history.Message{}, noon); !errors.Is(err, history.ErrOrder) {
			t.Errorf("%s: Append of offset 0: %v; want ErrOrder", name, err)
		}
		if err := m.Restore("b", []history.Message{{Position: at(1)}}, noon); err != nil {
			t.Errorf("%s: Restore: %v", name, err)
		}
		wantRun(t, m, "a", 0, 5, noon)
		wantRun(t, m, "b", 0, 1, noon)
		if _, complete := m.After("a", at(5), at(5), noon); !complete {
			t.Errorf("%s: who missed nothing is told that something is gone", name)
		}
		if st := m.Stats(); st != (history.Stats{}) {
			t.Errorf("%s: %+v; want nothing", name, st)
		}
	}
}

func TestBoundsWithoutEnd(t *testing.T) {
	m := history.NewMemory(history.Config{
		Messages: math.MaxInt, Bytes: math.MaxInt, TTL: math.MaxInt64, TotalBytes: math.MaxInt64,
	})
	for o := uint64(1); o <= 5000; o++ {
		add(t, m, "a", o, 1, noon)
	}
	later := noon.AddDate(200, 0, 0)
	m.Sweep(later)
	wantRun(t, m, "a", 1, 5000, later)
}

func TestExpiry(t *testing.T) {
	const ttl = time.Minute
	m := history.NewMemory(history.Config{TTL: ttl})
	for o := uint64(1); o <= 5; o++ {
		add(t, m, "a", o, 10, noon.Add(time.Duration(o)*time.Second))
	}
	wantRun(t, m, "a", 1, 5, noon.Add(ttl+time.Second)) // as old as allowed
	wantRun(t, m, "a", 2, 5, noon.Add(ttl+time.Second+1))

	// A message that comes finds those before it too old, and is contiguous with them nevertheless.
	late := noon.Add(time.Hour)
	if err := m.Append("a", history.Message{Position: at(7)}, late); !errors.Is(err, history.ErrOrder) {
		t.Fatalf("Append with a hole: %v; want ErrOrder", err)
	}
	add(t, m, "a", 6, 10, late)
	wantRun(t, m, "a", 6, 6, late)
	if st := m.Stats(); st.Expired != 5 || st.Messages != 1 {
		t.Fatalf("%+v; want 5 expired", st)
	}

	// Reading is enough to be rid of a topic.
	wantRun(t, m, "a", 0, 6, late.Add(time.Hour))
	if want, st := (history.Stats{Expired: 6}), m.Stats(); st != want {
		t.Fatalf("%+v; want %+v", st, want)
	}
}

func TestRestoredPastIsYoung(t *testing.T) {
	m := history.NewMemory(history.Config{TTL: time.Minute, Messages: 3})
	var past []history.Message
	for o := uint64(1); o <= 5; o++ {
		past = append(past, history.Message{Position: at(o), Item: []byte{byte(o)}})
	}
	if err := m.Restore("a", past, noon); err != nil {
		t.Fatal(err)
	}
	wantRun(t, m, "a", 3, 5, noon.Add(time.Minute))
	wantRun(t, m, "a", 0, 5, noon.Add(time.Minute+1))
	if want, st := (history.Stats{Expired: 3, Trimmed: 2}), m.Stats(); st != want {
		t.Fatalf("%+v; want %+v", st, want)
	}
}

func TestRestoreOfMoreThanFits(t *testing.T) {
	m := history.NewMemory(history.Config{Bytes: 1000})
	past := []history.Message{
		{Position: at(1)},
		{Position: at(2), Item: make([]byte, 2000)}, // too large: what is before it is of no use
		{Position: at(3), Item: make([]byte, 300)},
		{Position: at(4), Item: make([]byte, 400)},
		{Position: at(5), Item: make([]byte, 100)},
	}
	if err := m.Restore("a", past, noon); err != nil {
		t.Fatal(err)
	}
	wantRun(t, m, "a", 4, 5, noon)
	if st := m.Stats(); st.Trimmed != 3 || st.Messages != 2 {
		t.Fatalf("%+v; want 3 trimmed and 2 left", st)
	}
}

func TestSweep(t *testing.T) {
	m := history.NewMemory(history.Config{TTL: time.Minute})
	const topics = 1000 // more than a sweep handles in one go
	for i := range topics {
		for o := uint64(1); o <= 20; o++ {
			add(t, m, fmt.Sprint(i), o, 10, noon)
		}
	}
	for i := 0; i < topics; i += 4 {
		add(t, m, fmt.Sprint(i), 21, 10, noon.Add(time.Minute))
	}
	if n := m.Sweep(noon.Add(time.Minute)); n != 0 {
		t.Fatalf("Sweep = %d before anything is too old", n)
	}
	if n := m.Sweep(noon.Add(2 * time.Minute)); n != topics*3/4 {
		t.Fatalf("Sweep = %d; want %d", n, topics*3/4)
	}
	if st := m.Stats(); st.Topics != topics/4 || st.Messages != 21*topics/4 || st.Expired != 20*topics*3/4 {
		t.Fatalf("%+v; want every fourth topic to be left", st)
	}
	wantRun(t, m, "400", 21, 21, noon.Add(2*time.Minute)) // used, and rid of what was too old
	if st := m.Stats(); st.Messages != 21*topics/4-20 {
		t.Fatalf("%+v; want 20 messages less", st)
	}
	if n := m.Sweep(noon.Add(2*time.Minute + 1)); n != topics/4 {
		t.Fatalf("Sweep = %d; want %d", n, topics/4)
	}
	if want, st := (history.Stats{Expired: 20*topics + topics/4}), m.Stats(); st != want {
		t.Fatalf("%+v; want %+v", st, want)
	}
}

// Reading a topic whose messages are too old does not keep it, nor what stands behind it.
func TestSweepAfterReading(t *testing.T) {
	m := history.NewMemory(history.Config{TTL: time.Minute})
	add(t, m, "a", 1, 10, noon)
	add(t, m, "b", 1, 10, noon)
	add(t, m, "c", 1, 10, noon.Add(30*time.Second))
	wantRun(t, m, "a", 1, 1, noon.Add(50*time.Second)) // a is used after c, and older
	if n := m.Sweep(noon.Add(80 * time.Second)); n != 1 {
		t.Fatalf("Sweep = %d; want only b, which nobody used for longest, gone", n)
	}
	wantRun(t, m, "c", 1, 1, noon.Add(80*time.Second))
	if n := m.Sweep(noon.Add(111 * time.Second)); n != 2 {
		t.Fatalf("Sweep = %d; want a and c gone", n)
	}
}

func TestEvictsTheLeastRecentlyUsedTopic(t *testing.T) {
	const each = topicBytes + 1 + messageBytes + 100 // a topic with one message
	m := history.NewMemory(history.Config{TotalBytes: 3 * each})
	add(t, m, "a", 1, 100, noon)
	add(t, m, "b", 1, 100, noon)
	add(t, m, "c", 1, 100, noon)
	wantRun(t, m, "a", 1, 1, noon) // used again
	add(t, m, "d", 1, 100, noon)   // b has to go
	wantRun(t, m, "b", 0, 1, noon)
	wantRun(t, m, "c", 1, 1, noon)
	add(t, m, "a", 2, 100, noon) // d is behind a and c now
	wantRun(t, m, "d", 0, 1, noon)
	wantRun(t, m, "c", 1, 1, noon)
	wantRun(t, m, "a", 1, 2, noon)
	if err := m.Restore("c", []history.Message{{Position: at(1), Item: make([]byte, 100+each)}}, noon); err != nil {
		t.Fatal(err)
	}
	wantRun(t, m, "a", 0, 2, noon)
	wantRun(t, m, "c", 1, 1, noon)
	want := history.Stats{Topics: 1, Messages: 1, Bytes: 2 * each, Evicted: 4}
	if st := m.Stats(); st != want {
		t.Fatalf("%+v; want %+v", st, want)
	}
}

// One topic is never worth evicting for itself: its own bound is at most that of all.
func TestTotalBoundsATopic(t *testing.T) {
	m := history.NewMemory(history.Config{Bytes: 1 << 20, TotalBytes: 1000})
	add(t, m, "b", 1, 100, noon)
	for o := uint64(1); o <= 10; o++ {
		add(t, m, "a", o, 200, noon)
	}
	wantRun(t, m, "a", 9, 10, noon)
	if st := m.Stats(); st.Evicted != 1 || st.Trimmed != 8 {
		t.Fatalf("%+v; want b evicted and 8 trimmed", st)
	}
}

// A name in the middle of a receive buffer changes when the next batch comes.
func TestNameIsCopied(t *testing.T) {
	m := history.NewMemory(history.Config{})
	buf := []byte("topics:a")
	add(t, m, unsafe.String(&buf[0], len(buf)), 1, 1, noon)
	copy(buf, "XXXXXXXX")
	m.Forget("topics:a")
	if st := m.Stats(); st != (history.Stats{}) {
		t.Fatalf("%+v; want nothing", st)
	}
}

// TestClock has the process's own clock, with its monotonic reading, run in a bubble.
func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := history.NewMemory(history.Config{TTL: time.Minute})
		add(t, m, "a", 1, 1, time.Now())
		time.Sleep(time.Minute)
		wantRun(t, m, "a", 1, 1, time.Now())
		time.Sleep(time.Nanosecond)
		wantRun(t, m, "a", 0, 1, time.Now())
	})
}

// TestEvictionUnderFire has all the bounds at work while topics are written, read and swept in parallel.
func TestEvictionUnderFire(t *testing.T) {
	m := history.NewMemory(history.Config{Messages: 16, Bytes: 4096, TTL: time.Minute, TotalBytes: 400_000})
	const topics, rounds = 1000, 20
	var clock atomic.Int64
	var writers, others sync.WaitGroup
	for w := range 2 {
		writers.Go(func() {
			for o := uint64(1); o <= rounds; o++ {
				for i := w; i < topics; i += 2 {
					now := noon.Add(time.Duration(clock.Add(1)) * time.Millisecond * 10)
					name := fmt.Sprint(i)
					item := binary.LittleEndian.AppendUint64(make([]byte, i%200), o)
					if err := m.Append(name, history.Message{Position: at(o), Item: item}, now); err != nil {
						t.Error(err)
						return
					}
					msgs, _ := m.After(name, at(0), at(o), now)
					if len(msgs) > 16 {
						t.Errorf("topic %s remembers %d messages", name, len(msgs))
					}
					for j, msg := range msgs {
						want := o - uint64(len(msgs)-1-j)
						if msg.Offset != want || !bytes.HasSuffix(msg.Item, binary.LittleEndian.AppendUint64(nil, want)) {
							t.Errorf("topic %s at %d: message %d is %d", name, o, j, msg.Offset)
						}
					}
				}
			}
		})
	}
	done := make(chan struct{})
	others.Go(func() {
		for running := true; running; {
			select {
			case <-done:
				running = false
			default:
			}
			m.Sweep(noon.Add(time.Duration(clock.Load()) * time.Millisecond * 10))
			if st := m.Stats(); st.Bytes > 400_000 || st.Bytes < 0 || st.Messages < st.Topics {
				t.Errorf("impossible counts %+v", st)
			}
			m.Forget("7")
			runtime.Gosched()
		}
	})
	writers.Wait()
	close(done)
	others.Wait()
	if st := m.Stats(); st.Evicted == 0 || st.Topics == 0 {
		t.Errorf("%+v; the total bound was not reached", st)
	}
}
