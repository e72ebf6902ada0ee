package history

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"
)

func TestRingGrowsAndShrinks(t *testing.T) {
	p := newPast("a", Position{Epoch: 7, Offset: 1})
	lens := func(n, slots int) {
		t.Helper()
		if p.n != n || len(p.slots) != slots {
			t.Fatalf("%d messages in %d slots; want %d in %d", p.n, len(p.slots), n, slots)
		}
		if err := checkPast(p); err != nil {
			t.Fatal(err)
		}
	}
	push := func(n int) {
		for range n {
			p.push(fmt.Append(nil, p.next()), 0)
		}
	}
	pop := func(n int) {
		for range n {
			p.pop()
		}
	}
	push(4)
	lens(4, 4)
	pop(3)
	push(3) // wrapped around
	lens(4, 4)
	push(1)
	lens(5, 8)
	push(124)
	lens(129, 256)
	pop(128 - 64)
	kept := &p.slots[0]
	p.fit(p.n)
	lens(65, 256)
	if kept != &p.slots[0] {
		t.Fatal("the ring was copied for nothing")
	}
	pop(1)
	p.fit(p.n)
	lens(64, 128)
	push(1)
	lens(65, 128)
	pop(64)
	p.fit(p.n)
	lens(1, 4)
	if msgs, _ := p.between(0, p.next()-1); len(msgs) != 1 || string(msgs[0].Item) != fmt.Sprint(msgs[0].Offset) {
		t.Fatalf("left with %v", msgs)
	}
}

// However it is pushed and popped, a ring holds its messages in order, and is no longer than it says.
func TestRingKeepsOrder(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	p := newPast("a", Position{Epoch: 7, Offset: 1})
	for range 300 {
		for range rnd.IntN(1 << rnd.IntN(8)) {
			p.push(fmt.Append(nil, p.next()), 0)
		}
		for range min(rnd.IntN(1<<rnd.IntN(8)), p.n-1) {
			p.pop()
		}
		if p.n == 0 {
			continue
		}
		p.fit(p.n)
		if err := checkPast(p); err != nil {
			t.Fatal(err)
		}
		msgs, _ := p.between(0, p.next()-1)
		if len(msgs) != p.n {
			t.Fatalf("%d messages, want %d", len(msgs), p.n)
		}
		for i, m := range msgs {
			if m.Offset != p.first+uint64(i) || string(m.Item) != fmt.Sprint(m.Offset) {
				t.Fatalf("message %d is %d, %q", i, m.Offset, m.Item)
			}
		}
	}
}

// What a topic has forgotten can be collected.
func TestForgottenItemsAreGarbage(t *testing.T) {
	m := NewMemory(Config{Messages: 2})
	collected := make(chan struct{})
	item := make([]byte, 1<<16)
	runtime.AddCleanup(&item[0], func(c chan struct{}) { close(c) }, collected)
	now := time.Now()
	for o := uint64(1); o <= 3; o++ {
		if err := m.Append("a", Message{Position{7, o}, item}, now); err != nil {
			t.Fatal(err)
		}
		item = nil
	}
	deadline := time.After(time.Minute)
	for {
		runtime.GC()
		select {
		case <-collected:
			runtime.KeepAlive(m)
			return
		case <-deadline:
			t.Fatal("the first item is still held")
		default:
			runtime.Gosched()
		}
	}
}

func heap() int64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

// A bound of 1 GiB is worth something only if the bytes counted are those on the heap.
func TestBytesAreThoseOnTheHeap(t *testing.T) {
	for _, tt := range []struct{ topics, messages, size int }{
		{50_000, 1, 20}, {20_000, 5, 100}, {500, 256, 20}, {500, 200, 0}, {100, 256, 1000}, {50, 129, 10_000},
	} {
		t.Run(fmt.Sprintf("%d topics %d messages %d bytes", tt.topics, tt.messages, tt.size), func(t *testing.T) {
			names := make([]string, tt.topics)
			for i := range names {
				names[i] = fmt.Sprintf("topics:%020d", i)
			}
			now := time.Now()
			before := heap()
			m := NewMemory(Config{})
			for _, name := range names {
				for o := range uint64(tt.messages) {
					if err := m.Append(name, Message{Position{7, o + 1}, make([]byte, tt.size)}, now); err != nil {
						t.Fatal(err)
					}
				}
			}
			real, counted := heap()-before, m.Stats().Bytes
			runtime.KeepAlive(names)
			ratio := float64(real) / float64(counted)
			t.Logf("%d bytes on the heap, %d counted: %.2f", real, counted, ratio)
			if ratio > 1.1 || ratio < 0.5 {
				t.Errorf("%d bytes on the heap, %d counted: %.2f", real, counted, ratio)
			}
		})
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	now := time.Now()
	for name, cfg := range map[string]Config{
		"trim":   {Messages: 100},
		"expire": {TTL: 100 * time.Second, Messages: 1 << 20},
	} {
		m, item, o := NewMemory(cfg), make([]byte, 100), uint64(0)
		next := func() {
			o++
			if err := m.Append("topics:a", Message{Position{7, o}, item}, now.Add(time.Duration(o)*time.Second)); err != nil {
				t.Fatal(err)
			}
		}
		for range 300 {
			next()
		}
		if n := testing.AllocsPerRun(1000, next); n != 0 {
			t.Errorf("%s: %v allocations per Append to a topic at its bound; want 0", name, n)
		}
	}
}

func TestAfterAllocatesItsAnswerOnly(t *testing.T) {
	now, m := time.Now(), NewMemory(Config{})
	for o := range uint64(256) {
		if err := m.Append("topics:a", Message{Position: Position{7, o + 1}}, now); err != nil {
			t.Fatal(err)
		}
	}
	for since, want := range map[uint64]float64{0: 1, 255: 1, 256: 0} {
		if n := testing.AllocsPerRun(100, func() {
			_, _ = m.After("topics:a", Position{7, since}, Position{7, 256}, now)
		}); n != want {
			t.Errorf("%v allocations per After of offset %d; want %v", n, since, want)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, topics := range []int{1, 1000, 100_000} {
		b.Run(fmt.Sprint("topics=", topics), func(b *testing.B) {
			m, item, now := NewMemory(Config{Messages: 8}), make([]byte, 100), time.Now()
			names, tops := make([]string, topics), make([]uint64, topics)
			for i := range names {
				names[i] = fmt.Sprintf("topics:%08d", i)
			}
			next := func(i int) {
				t := i * 7919 % topics
				tops[t]++
				if err := m.Append(names[t], Message{Position{7, tops[t]}, item}, now); err != nil {
					b.Fatal(err)
				}
			}
			for i := range 8 * topics {
				next(i)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				next(i)
			}
		})
	}
}

func BenchmarkAppendEvicting(b *testing.B) {
	m, item, now := NewMemory(Config{TotalBytes: 1 << 20}), make([]byte, 100), time.Now()
	names := make([]string, 10_000)
	for i := range names {
		names[i] = fmt.Sprintf("topics:%08d", i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := m.Append(names[i%len(names)], Message{Position{7, 1}, item}, now); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAfter(b *testing.B) {
	m, now := NewMemory(Config{}), time.Now()
	for o := range uint64(256) {
		if err := m.Append("topics:a", Message{Position{7, o + 1}, make([]byte, 100)}, now); err != nil {
			b.Fatal(err)
		}
	}
	for _, missed := range []uint64{1, 16, 256} {
		b.Run(fmt.Sprint("missed=", missed), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if msgs, _ := m.After("topics:a", Position{7, 256 - missed}, Position{7, 256}, now); len(msgs) != int(missed) {
					b.Fatal(len(msgs))
				}
			}
		})
	}
}

// BenchmarkSweep is a sweep of 1000 topics with one message each.
func BenchmarkSweep(b *testing.B) {
	now, names := time.Now(), make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprintf("topics:%08d", i)
	}
	m := NewMemory(Config{TTL: 1})
	for b.Loop() {
		b.StopTimer()
		for _, name := range names {
			if err := m.Append(name, Message{Position: Position{7, 1}}, now); err != nil {
				b.Fatal(err)
			}
		}
		now = now.Add(time.Second)
		b.StartTimer()
		if n := m.Sweep(now); n != len(names) {
			b.Fatal(n)
		}
	}
}
