//go:build linux

package bench

import "testing"

// arrivals feeds one subscriber the messages in the order given and returns the verdict on it.
func arrivals(sent []uint32, order ...missed) (Faults, int) {
	var f Faults
	t := &tracker{next: make([]uint32, len(sent))}
	first := 0
	for _, m := range order {
		if t.observe(&f, m.publisher, m.sequence, sent) {
			first++
		}
	}
	verdict(&f, []*tracker{t}, sent)
	return f, first
}

func TestTrackerCatches(t *testing.T) {
	for _, c := range []struct {
		name  string
		sent  []uint32
		order []missed
		want  Faults
		first int
	}{
		{"nothing wrong", []uint32{3}, []missed{{0, 0}, {0, 1}, {0, 2}}, Faults{}, 3},
		{"nothing sent", []uint32{0}, nil, Faults{}, 0},
		{"two publishers interleaved", []uint32{2, 2}, []missed{{1, 0}, {0, 0}, {0, 1}, {1, 1}}, Faults{}, 4},
		{"first lost", []uint32{3}, []missed{{0, 1}, {0, 2}}, Faults{Lost: 1}, 2},
		{"middle lost", []uint32{5}, []missed{{0, 0}, {0, 3}, {0, 4}}, Faults{Lost: 2}, 3},
		{"last lost", []uint32{3}, []missed{{0, 0}, {0, 1}}, Faults{Lost: 1}, 2},
		{"all lost", []uint32{3, 1}, nil, Faults{Lost: 4}, 0},
		{"one publisher's lost", []uint32{2, 2}, []missed{{0, 0}, {0, 1}, {1, 1}}, Faults{Lost: 1}, 3},
		{"doubled", []uint32{2}, []missed{{0, 0}, {0, 0}, {0, 1}}, Faults{Doubled: 1}, 2},
		{"doubled later", []uint32{3}, []missed{{0, 0}, {0, 1}, {0, 2}, {0, 0}}, Faults{Doubled: 1}, 3},
		{"swapped", []uint32{3}, []missed{{0, 0}, {0, 2}, {0, 1}}, Faults{Reordered: 1}, 3},
		{"late and doubled", []uint32{3}, []missed{{0, 0}, {0, 2}, {0, 1}, {0, 1}}, Faults{Reordered: 1, Doubled: 1}, 3},
		{"lost and swapped", []uint32{4}, []missed{{0, 3}, {0, 1}}, Faults{Reordered: 1, Lost: 2}, 2},
		{"never sent", []uint32{1}, []missed{{0, 0}, {0, 1}}, Faults{Malformed: 1}, 1},
		{"unknown publisher", []uint32{1}, []missed{{0, 0}, {1, 0}}, Faults{Malformed: 1}, 1},
	} {
		got, first := arrivals(c.sent, c.order...)
		if got != c.want || first != c.first {
			t.Errorf("%s: %d first arrivals, faults %s; want %d, %s", c.name, first, got, c.first, c.want)
		}
		if got.Any() != (c.want != Faults{}) {
			t.Errorf("%s: Any is %t", c.name, got.Any())
		}
	}
}

func TestVerdictComparesSubscribers(t *testing.T) {
	sent := []uint32{2, 2}
	var f Faults
	follow := func(order ...missed) *tracker {
		tr := &tracker{next: make([]uint32, len(sent))}
		for _, m := range order {
			tr.observe(&f, m.publisher, m.sequence, sent)
		}
		return tr
	}
	verdict(&f, []*tracker{
		follow(missed{0, 0}, missed{1, 0}, missed{0, 1}, missed{1, 1}),
		follow(missed{0, 0}, missed{1, 0}, missed{0, 1}, missed{1, 1}),
		follow(missed{1, 0}, missed{0, 0}, missed{0, 1}, missed{1, 1}), // each publisher in order, yet not as the others
		follow(missed{1, 0}, missed{0, 0}, missed{0, 1}),               // lost one: not compared
	}, sent)
	if want := (Faults{Disagreed: 1, Lost: 1}); f != want {
		t.Errorf("faults: %s, want %s", f, want)
	}
}

func TestFaultsInWords(t *testing.T) {
	if got := (Faults{}).String(); got != "none" {
		t.Errorf("none: %q", got)
	}
	all := Faults{1, 2, 3, 4, 5, 6, 7}
	all.add(Faults{1, 1, 1, 1, 1, 1, 1})
	want := "2 lost, 3 doubled, 4 reordered, 5 disagreed, 6 malformed, 7 refused, 8 failed"
	if got := all.String(); got != want {
		t.Errorf("all: %q", got)
	}
}

func TestTrackerAllocatesNothingForADelivery(t *testing.T) {
	frame := newPublishFrame("bench:x", 0, 128)
	tp := &topic{name: "bench:x", delivery: newDelivery("bench:x", 128), sent: []uint32{1 << 31}}
	l := &loop{latency: new(histogram)}
	c := &conn{topic: tp, tracker: tracker{next: make([]uint32, 1)}}
	seq := uint32(0)
	text := append(append(deliveryHead("bench:x", event), newPayload(128)...), ']')
	data := appendServerFrame(nil, opText, text)
	at := len(data) - len(text) + len(tp.delivery.head) + sequenceAt
	if n := testing.AllocsPerRun(1000, func() {
		frame.stamp(seq, int64(seq))
		for i, v := at+sequenceDigits-1, seq; i >= at; i, v = i-1, v/10 {
			data[i] = byte('0' + v%10)
		}
		f, _, err := parseFrame(data, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.received(c, f); err != nil {
			t.Fatal(err)
		}
		seq++
	}); n != 0 {
		t.Errorf("%g allocations per delivery", n)
	}
	if l.deliveries != int64(seq) || l.faults.Any() {
		t.Errorf("%d of %d deliveries counted, faults: %s", l.deliveries, seq, l.faults)
	}
}
