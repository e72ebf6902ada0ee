// Package historytest is the conformance suite of history.Store: what topics rely on, whatever keeps their past.
package historytest

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringcast/ringcast/topicserver/history"
)

// Run runs the suite. open returns an empty Store, which the suite closes. Its bounds must be out of the suite's
// reach: 1000 messages and 1 MiB per topic, 16 MiB over all topics, one hour. What a Store does at its bounds is for
// its own tests.
func Run(t *testing.T, open func(t *testing.T) history.Store) {
	tests := []struct {
		name string
		test func(t *testing.T, s history.Store)
	}{
		{"After", testAfter},
		{"AfterWithoutAPast", testAfterWithoutAPast},
		{"AfterUpToAnOlderTop", testAfterUpToAnOlderTop},
		{"AfterBelongsToTheCaller", testAfterBelongsToTheCaller},
		{"AppendInOrderOnly", testAppendInOrderOnly},
		{"AppendStartsAnywhere", testAppendStartsAnywhere},
		{"NewEpochForgetsTheOld", testNewEpoch},
		{"HighestOffset", testHighestOffset},
		{"EmptyItems", testEmptyItems},
		{"TopicsAreApart", testTopicsAreApart},
		{"Restore", testRestore},
		{"RestoreRefusesWhatIsNoRun", testRestoreRefuses},
		{"Forget", testForget},
		{"SweepKeepsTheYoung", testSweepKeepsTheYoung},
		{"Stats", testStats},
		{"Close", testClose},
		{"Model", testModel},
		{"Parallel", testParallel},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t)
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			tt.test(t, s)
		})
	}
}

// now is the suite's clock: it stands still, since nothing in the suite gets old.
var now = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)

func pos(epoch, offset uint64) history.Position {
	return history.Position{Epoch: epoch, Offset: offset}
}

// msg makes a message whose item tells it from every other.
func msg(topic string, epoch, offset uint64) history.Message {
	return history.Message{Position: pos(epoch, offset), Item: fmt.Appendf(nil, "%s %d:%d", topic, epoch, offset)}
}

// run makes the messages from first to last.
func run(topic string, epoch, first, last uint64) []history.Message {
	var msgs []history.Message
	for o := first; o <= last; o++ {
		msgs = append(msgs, msg(topic, epoch, o))
	}
	return msgs
}

func fill(t *testing.T, s history.Store, topic string, epoch, first, last uint64) {
	t.Helper()
	for _, m := range run(topic, epoch, first, last) {
		if err := s.Append(topic, m, now); err != nil {
			t.Fatalf("Append(%q, %v): %v", topic, m.Position, err)
		}
	}
}

// check compares what stands behind since with the messages wanted.
func check(t *testing.T, s history.Store, topic string, since, top history.Position, want []history.Message, complete bool) {
	t.Helper()
	msgs, ok := s.After(topic, since, top, now)
	if ok != complete || !equal(msgs, want) {
		t.Fatalf("After(%q, %v, %v) = %s, %v; want %s, %v", topic, since, top, show(msgs), ok, show(want), complete)
	}
}

func equal(a, b []history.Message) bool {
	return slices.EqualFunc(a, b, func(a, b history.Message) bool {
		return a.Position == b.Position && bytes.Equal(a.Item, b.Item)
	})
}

func show(msgs []history.Message) string {
	var b strings.Builder
	for _, m := range msgs {
		fmt.Fprintf(&b, " %d:%d=%q", m.Epoch, m.Offset, m.Item)
	}
	return "[" + strings.TrimPrefix(b.String(), " ") + "]"
}

func testAfter(t *testing.T, s history.Store) {
	fill(t, s, "a", 7, 1, 20)
	top := pos(7, 20)
	for since := range uint64(20) {
		check(t, s, "a", pos(7, since), top, run("a", 7, since+1, 20), true)
	}
	check(t, s, "a", top, top, nil, true)
	check(t, s, "a", pos(7, 21), top, nil, false)
	check(t, s, "a", pos(7, math.MaxUint64), top, nil, false)
	check(t, s, "a", pos(8, 5), top, nil, false)
	check(t, s, "a", pos(8, 20), top, nil, false)
}

func testAfterWithoutAPast(t *testing.T, s history.Store) {
	check(t, s, "a", pos(7, 0), pos(7, 0), nil, true)
	check(t, s, "a", pos(7, 5), pos(7, 5), nil, true)
	check(t, s, "a", pos(7, 4), pos(7, 5), nil, false)
	check(t, s, "a", pos(8, 5), pos(7, 5), nil, false)
	check(t, s, "a", pos(7, 6), pos(7, 5), nil, false)

	// A topic whose messages never got here: what is remembered of another epoch, or ends before top, is no answer.
	fill(t, s, "a", 7, 1, 3)
	check(t, s, "a", pos(8, 1), pos(8, 3), nil, false)
	check(t, s, "a", pos(8, 3), pos(8, 3), nil, true)
	check(t, s, "a", pos(7, 1), pos(7, 4), nil, false)
	check(t, s, "a", pos(7, 3), pos(7, 4), nil, false)
}

func testAfterUpToAnOlderTop(t *testing.T, s history.Store) {
	fill(t, s, "a", 7, 5, 12)
	check(t, s, "a", pos(7, 6), pos(7, 10), run("a", 7, 7, 10), true)
	check(t, s, "a", pos(7, 0), pos(7, 10), run("a", 7, 5, 10), false)
	check(t, s, "a", pos(7, 0), pos(7, 4), nil, false)
	check(t, s, "a", pos(7, 12), pos(7, 10), nil, false)
}

func testAfterBelongsToTheCaller(t *testing.T, s history.Store) {
	fill(t, s, "a", 7, 1, 4)
	first, _ := s.After("a", pos(7, 0), pos(7, 4), now)
	second, _ := s.After("a", pos(7, 0), pos(7, 4), now)
	clear(first)
	if want := run("a", 7, 1, 4); !equal(second, want) {
		t.Fatalf("two answers share a slice: the second is now %s, want %s", show(second), show(want))
	}
	check(t, s, "a", pos(7, 0), pos(7, 4), run("a", 7, 1, 4), true)

	fill(t, s, "a", 7, 5, 100)
	s.Forget("a")
	fill(t, s, "a", 9, 1, 100)
	if want := run("a", 7, 1, 4); !equal(second, want) {
		t.Fatalf("an answer changed when the topic moved on: %s, want %s", show(second), show(want))
	}
}

func testAppendInOrderOnly(t *testing.T, s history.Store) {
	refused := func(epoch, offset uint64) {
		t.Helper()
		if err := s.Append("a", msg("a", epoch, offset), now); !errors.Is(err, history.ErrOrder) {
			t.Fatalf("Append of %d:%d: %v; want ErrOrder", epoch, offset, err)
		}
	}
	refused(7, 0)
	fill(t, s, "a", 7, 1, 3)
	for _, offset := range []uint64{0, 1, 2, 3, 5, math.MaxUint64} {
		refused(7, offset)
	}
	refused(8, 0)
	check(t, s, "a", pos(7, 0), pos(7, 3), run("a", 7, 1, 3), true)
	fill(t, s, "a", 7, 4, 4)
	check(t, s, "a", pos(7, 0), pos(7, 4), run("a", 7, 1, 4), true)
}

func testAppendStartsAnywhere(t *testing.T, s history.Store) {
	fill(t, s, "a", 7, 41, 43)
	check(t, s, "a", pos(7, 40), pos(7, 43), run("a", 7, 41, 43), true)
	check(t, s, "a", pos(7, 39), pos(7, 43), run("a", 7, 41, 43), false)
	check(t, s, "a", pos(7, 0), pos(7, 43), run("a", 7, 41, 43), false)
}

func testNewEpoch(t *testing.T, s history.Store) {
	fill(t, s, "a", 7, 1, 5)
	fill(t, s, "a", 3, 1, 1) // a lower epoch is not an older one
	check(t, s, "a", pos(3, 0), pos(3, 1), run("a", 3, 1, 1), true)
	check(t, s, "a", pos(7, 3), pos(7, 5), nil, false)
	check(t, s, "a", pos(7, 0), pos(3, 1), nil, false)
	if st := s.Stats(); st.Messages != 1 || st.Topics != 1 {
		t.Fatalf("after the new epoch's first message: %+v; want 1 message of 1 topic", st)
	}
	fill(t, s, "a", 7, 6, 6) // the old epoch is as foreign as any other by now
	check(t, s, "a", pos(7, 4), pos(7, 6), run("a", 7, 6, 6), false)
	fill(t, s, "a", 0, 1, 2) // an epoch like any other
	check(t, s, "a", pos(0, 0), pos(0, 2), run("a", 0, 1, 2), true)
}

func testHighestOffset(t *testing.T, s history.Store) {
	const high = math.MaxUint64
	past := []history.Message{msg("a", 7, high-1), msg("a", 7, high)}
	for _, m := range past {
		if err := s.Append("a", m, now); err != nil {
			t.Fatal(err)
		}
	}
	check(t, s, "a", pos(7, high-2), pos(7, high), past, true)
	check(t, s, "a", pos(7, high-1), pos(7, high), past[1:], true)
	check(t, s, "a", pos(7, high), pos(7, high), nil, true)
	check(t, s, "a", pos(7, 0), pos(7, high), past, false)
	for _, offset := range []uint64{0, 1} {
		if err := s.Append("a", msg("a", 7, offset), now); !errors.Is(err, history.ErrOrder) {
			t.Fatalf("Append of offset %d after the highest: %v; want ErrOrder", offset, err)
		}
	}
}

func testEmptyItems(t *testing.T, s history.Store) {
	past := []history.Message{{Position: pos(7, 1)}, {Position: pos(7, 2), Item: []byte{}}}
	for _, m := range past {
		if err := s.Append("a", m, now); err != nil {
			t.Fatal(err)
		}
	}
	check(t, s, "a", pos(7, 0), pos(7, 2), past, true)
}

func testTopicsAreApart(t *testing.T, s history.Store) {
	names := []string{"topics:a", "topics:aa", "topics:A", "topics.a", "a:b:c", "topics:_-.1", strings.Repeat("x", 255)}
	for i, name := range names {
		fill(t, s, name, uint64(i), 1, uint64(i)+1)
	}
	for i, name := range names {
		e, top := uint64(i), uint64(i)+1
		check(t, s, name, pos(e, 0), pos(e, top), run(name, e, 1, top), true)
	}
}

func testRestore(t *testing.T, s history.Store) {
	restore := func(msgs []history.Message) {
		t.Helper()
		if err := s.Restore("a", msgs, now); err != nil {
			t.Fatalf("Restore of %s: %v", show(msgs), err)
		}
	}
	past := run("a", 7, 10, 90)
	restore(past)
	clear(past) // the slice is the caller's
	check(t, s, "a", pos(7, 9), pos(7, 90), run("a", 7, 10, 90), true)
	check(t, s, "a", pos(7, 8), pos(7, 90), run("a", 7, 10, 90), false)
	fill(t, s, "a", 7, 91, 95)
	check(t, s, "a", pos(7, 80), pos(7, 95), run("a", 7, 81, 95), true)

	restore(run("a", 7, 3, 4)) // also of the same epoch, also backwards
	check(t, s, "a", pos(7, 2), pos(7, 4), run("a", 7, 3, 4), true)
	restore(run("a", 8, 1, 2))
	check(t, s, "a", pos(8, 0), pos(8, 2), run("a", 8, 1, 2), true)
	restore(nil)
	check(t, s, "a", pos(8, 0), pos(8, 2), nil, false)
	if st := s.Stats(); st.Topics != 0 || st.Messages != 0 || st.Bytes != 0 {
		t.Fatalf("after a Restore of nothing: %+v; want nothing", st)
	}
}

func testRestoreRefuses(t *testing.T, s history.Store) {
	fill(t, s, "a", 7, 1, 3)
	for name, msgs := range map[string][]history.Message{
		"offset 0":        {msg("a", 7, 0), msg("a", 7, 1)},
		"hole":            {msg("a", 7, 1), msg("a", 7, 3)},
		"repeat":          {msg("a", 7, 1), msg("a", 7, 1)},
		"newest first":    {msg("a", 7, 2), msg("a", 7, 1)},
		"two epochs":      {msg("a", 7, 1), msg("a", 8, 2)},
		"past the end":    {msg("a", 7, math.MaxUint64), msg("a", 7, 0)},
		"hole at the end": append(run("a", 7, 1, 50), msg("a", 7, 52)),
	} {
		if err := s.Restore("a", msgs, now); !errors.Is(err, history.ErrOrder) {
			t.Errorf("%s: %v; want ErrOrder", name, err)
		}
		check(t, s, "a", pos(7, 0), pos(7, 3), run("a", 7, 1, 3), true)
	}
}

func testForget(t *testing.T, s history.Store) {
	s.Forget("never heard of")
	fill(t, s, "a", 7, 1, 3)
	fill(t, s, "b", 7, 1, 3)
	s.Forget("a")
	check(t, s, "a", pos(7, 1), pos(7, 3), nil, false)
	check(t, s, "b", pos(7, 1), pos(7, 3), run("b", 7, 2, 3), true)
	fill(t, s, "a", 7, 9, 9) // nothing to be contiguous with
	check(t, s, "a", pos(7, 8), pos(7, 9), run("a", 7, 9, 9), true)
	check(t, s, "a", pos(7, 3), pos(7, 9), run("a", 7, 9, 9), false)
}

func testSweepKeepsTheYoung(t *testing.T, s history.Store) {
	if n := s.Sweep(now); n != 0 {
		t.Fatalf("Sweep of nothing = %d", n)
	}
	fill(t, s, "a", 7, 1, 3)
	fill(t, s, "b", 7, 1, 1)
	before := s.Stats()
	if n := s.Sweep(now); n != 0 {
		t.Fatalf("Sweep of young topics = %d; want 0", n)
	}
	if after := s.Stats(); after != before {
		t.Fatalf("Sweep changed the counts: %+v; before %+v", after, before)
	}
	check(t, s, "a", pos(7, 0), pos(7, 3), run("a", 7, 1, 3), true)
	check(t, s, "b", pos(7, 0), pos(7, 1), run("b", 7, 1, 1), true)
}

func testStats(t *testing.T, s history.Store) {
	if st := s.Stats(); st != (history.Stats{}) {
		t.Fatalf("of an empty store: %+v", st)
	}
	fill(t, s, "a", 7, 1, 3)
	one := s.Stats()
	fill(t, s, "b", 7, 1, 1)
	two := s.Stats()
	if one.Topics != 1 || one.Messages != 3 || two.Topics != 2 || two.Messages != 4 {
		t.Fatalf("%+v, then %+v; want 3 messages of 1 topic, then 4 of 2", one, two)
	}
	if floor := int64(len("a 7:1") * 3); one.Bytes < floor || two.Bytes <= one.Bytes {
		t.Fatalf("%d bytes, then %d; want %d at least, and more with more", one.Bytes, two.Bytes, floor)
	}
	s.Forget("b")
	if st := s.Stats(); st != one {
		t.Fatalf("%+v when b is forgotten; want %+v as before it", st, one)
	}
	s.Forget("a")
	if st := s.Stats(); st != (history.Stats{}) {
		t.Fatalf("%+v when all is forgotten; forgetting is not eviction", st)
	}
}

func testClose(t *testing.T, s history.Store) {
	fill(t, s, "a", 7, 1, 3)
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	if err := s.Append("a", msg("a", 7, 4), now); !errors.Is(err, history.ErrClosed) {
		t.Errorf("Append: %v; want ErrClosed", err)
	}
	if err := s.Restore("a", run("a", 7, 1, 3), now); !errors.Is(err, history.ErrClosed) {
		t.Errorf("Restore: %v; want ErrClosed", err)
	}
	check(t, s, "a", pos(7, 1), pos(7, 3), nil, false)
	check(t, s, "a", pos(7, 3), pos(7, 3), nil, true)
	s.Forget("a")
	if n := s.Sweep(now); n != 0 {
		t.Errorf("Sweep = %d; want 0", n)
	}
	if st := s.Stats(); st.Topics != 0 || st.Messages != 0 || st.Bytes != 0 {
		t.Errorf("Stats: %+v; want nothing", st)
	}
}

// testModel does random things to a Store and to the plainest thing that could be one, and wants the same answers.
func testModel(t *testing.T, s history.Store) {
	const steps, topics = 20_000, 6
	rnd := rand.New(rand.NewPCG(1, 2))
	model := make(map[string][]history.Message)
	for step := range steps {
		name := string(rune('a' + rnd.IntN(topics)))
		past := model[name]
		epoch, last := uint64(1), uint64(0)
		if n := len(past); n > 0 {
			epoch, last = past[n-1].Epoch, past[n-1].Offset
		}
		switch p := rnd.IntN(1000); {
		case p < 600 && len(past) < 400:
			m := msg(name, epoch, last+1)
			if err := s.Append(name, m, now); err != nil {
				t.Fatalf("step %d: Append(%q, %v): %v", step, name, m.Position, err)
			}
			model[name] = append(past, m)
		case p < 620 && len(past) > 0:
			m := msg(name, epoch, last+2-uint64(rnd.IntN(2))*2)
			if err := s.Append(name, m, now); !errors.Is(err, history.ErrOrder) {
				t.Fatalf("step %d: Append(%q, %v) after %d: %v; want ErrOrder", step, name, m.Position, last, err)
			}
		case p < 630:
			m := msg(name, epoch+1, 1+uint64(rnd.IntN(3)))
			if err := s.Append(name, m, now); err != nil {
				t.Fatalf("step %d: Append(%q, %v): %v", step, name, m.Position, err)
			}
			model[name] = []history.Message{m}
		case p < 640:
			first := 1 + rnd.Uint64N(50)
			model[name] = run(name, 1+rnd.Uint64N(3), first, first+rnd.Uint64N(60)-1)
			if err := s.Restore(name, model[name], now); err != nil {
				t.Fatalf("step %d: Restore of %d messages: %v", step, len(model[name]), err)
			}
		case p < 645:
			s.Forget(name)
			delete(model, name)
		case p < 650:
			if n := s.Sweep(now); n != 0 {
				t.Fatalf("step %d: Sweep = %d; want 0", step, n)
			}
		default:
			top := pos(epoch, last+1-min(last, uint64(rnd.IntN(3))))
			since := pos(epoch-uint64(rnd.IntN(20)/19), rnd.Uint64N(last+4))
			want, complete := modelAfter(past, since, top)
			check(t, s, name, since, top, want, complete)
		}
	}
	count := 0
	for _, past := range model {
		count += len(past)
	}
	if st := s.Stats(); st.Messages != count || st.Evicted+st.Expired+st.Trimmed != 0 {
		t.Fatalf("%+v; want %d messages, and nothing forgotten for a bound", st, count)
	}
}

// modelAfter is Store.After by the letter: the remembered messages between since and top, if they end at top.
func modelAfter(past []history.Message, since, top history.Position) (msgs []history.Message, complete bool) {
	if since.Epoch != top.Epoch || since.Offset > top.Offset {
		return nil, false
	}
	for _, m := range past {
		if m.Epoch == top.Epoch && m.Offset > since.Offset && m.Offset <= top.Offset {
			msgs = append(msgs, m)
		}
	}
	if n := len(msgs); n > 0 && msgs[n-1].Offset != top.Offset {
		msgs = nil
	}
	return msgs, uint64(len(msgs)) == top.Offset-since.Offset
}

// testParallel has each topic written and read by a goroutine of its own, which stands for the topic's lock, and
// forgotten, swept and counted by others.
func testParallel(t *testing.T, s history.Store) {
	const topics, messages = 4, 300
	var writers, others sync.WaitGroup
	for i := range topics {
		name := fmt.Sprintf("topic %d", i)
		writers.Go(func() {
			for o := uint64(1); o <= messages; o++ {
				if err := s.Append(name, msg(name, 7, o), now); err != nil {
					t.Errorf("Append(%q, %d): %v", name, o, err)
					return
				}
				since := o - min(o, 10)
				want := run(name, 7, since+1, o)
				if msgs, ok := s.After(name, pos(7, since), pos(7, o), now); !ok || !equal(msgs, want) {
					t.Errorf("After(%q, %d, %d) = %s, %v", name, since, o, show(msgs), ok)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	others.Go(func() {
		for i := uint64(1); ; i++ {
			select {
			case <-done:
				return
			default:
			}
			if n := s.Sweep(now); n != 0 {
				t.Errorf("Sweep = %d; want 0", n)
			}
			if st := s.Stats(); st.Topics > topics+1 || st.Messages > topics*messages+3 || st.Bytes < 0 {
				t.Errorf("impossible counts %+v", st)
			}
			if err := s.Restore("another", run("another", i, 1, 3), now); err != nil {
				t.Errorf("Restore: %v", err)
			}
			// Whoever reads without the topic's lock sees some of it, and what it sees is right.
			msgs, _ := s.After("topic 0", pos(7, 0), pos(7, messages/2), now)
			if len(msgs) > 0 && !equal(msgs, run("topic 0", 7, 1, messages/2)) {
				t.Errorf("After by another goroutine = %s", show(msgs))
			}
			s.Forget("another")
		}
	})
	writers.Wait()
	close(done)
	others.Wait()
	if st := s.Stats(); st.Topics != topics || st.Messages != topics*messages {
		t.Errorf("%+v at the end; want %d messages of %d topics", st, topics*messages, topics)
	}
}
