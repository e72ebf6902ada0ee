package history

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// model is a Memory by the letter of its documentation: slices, and no thought for speed.
type model struct {
	cfg    Config
	topics []*modelTopic // least recently used first
	stats  Stats         // the counts of what was forgotten
}

type modelTopic struct {
	name  string
	epoch uint64
	msgs  []modelMessage
}

type modelMessage struct {
	offset uint64
	item   []byte
	at     time.Time
}

func (t *modelTopic) bytes() int {
	n := topicBytes + len(t.name)
	for _, m := range t.msgs {
		n += messageBytes + len(m.item)
	}
	return n
}

// find returns the topic with the name, nil if there is none.
func (d *model) find(name string) *modelTopic {
	for _, t := range d.topics {
		if t.name == name {
			return t
		}
	}
	return nil
}

// use puts a topic, if it is one, at the end.
func (d *model) use(t *modelTopic) {
	if i := slices.Index(d.topics, t); i >= 0 {
		d.topics = append(slices.Delete(d.topics, i, i+1), t)
	}
}

func (d *model) forget(name string) {
	d.topics = slices.DeleteFunc(d.topics, func(t *modelTopic) bool { return t.name == name })
}

func (d *model) expire(t *modelTopic, now time.Time) {
	for len(t.msgs) > 0 && now.Sub(t.msgs[0].at) > d.cfg.TTL {
		t.msgs = t.msgs[1:]
		d.stats.Expired++
	}
}

// append reports whether the message was the next one.
func (d *model) append(name string, m Message, now time.Time) bool {
	t := d.find(name)
	if t != nil && t.epoch == m.Epoch && m.Offset != t.msgs[len(t.msgs)-1].offset+1 {
		return false
	}
	d.use(t)
	if t != nil && t.epoch != m.Epoch {
		d.forget(name)
		t = nil
	}
	if t == nil {
		t = &modelTopic{name: name, epoch: m.Epoch}
		d.topics = append(d.topics, t)
	}
	d.expire(t, now)
	t.msgs = append(slices.Clip(t.msgs), modelMessage{m.Offset, m.Item, now})
	for len(t.msgs) > d.cfg.Messages || len(t.msgs) > 0 && t.bytes() > d.cfg.Bytes {
		t.msgs = t.msgs[1:]
		d.stats.Trimmed++
	}
	if len(t.msgs) == 0 {
		d.forget(name)
	}
	for d.counts().Bytes > d.cfg.TotalBytes {
		d.stats.Evicted += uint64(len(d.topics[0].msgs))
		d.topics = d.topics[1:]
	}
	return true
}

func (d *model) restore(name string, msgs []Message, now time.Time) {
	d.forget(name)
	// The topic's own bounds come first: others are not evicted for messages that do not stay.
	total := d.cfg.TotalBytes
	d.cfg.TotalBytes = 1 << 60
	for i, m := range msgs {
		if i == len(msgs)-1 {
			d.cfg.TotalBytes = total
		}
		d.append(name, m, now)
	}
	d.cfg.TotalBytes = total
}

func (d *model) after(name string, since, top Position, now time.Time) (msgs []Message, complete bool) {
	if since.Epoch != top.Epoch || since.Offset > top.Offset {
		return nil, false
	}
	if since == top {
		return nil, true
	}
	t := d.find(name)
	if t == nil || t.epoch != top.Epoch {
		return nil, false
	}
	d.use(t)
	d.expire(t, now)
	for _, m := range t.msgs {
		if m.offset > since.Offset && m.offset <= top.Offset {
			msgs = append(msgs, Message{Position{t.epoch, m.offset}, m.item})
		}
	}
	if len(t.msgs) == 0 {
		d.forget(name)
	}
	if n := len(msgs); n > 0 && msgs[n-1].Offset != top.Offset {
		msgs = nil
	}
	return msgs, uint64(len(msgs)) == top.Offset-since.Offset
}

func (d *model) sweep(now time.Time) (dropped int) {
	for len(d.topics) > 0 {
		t := d.topics[0]
		if now.Sub(t.msgs[len(t.msgs)-1].at) <= d.cfg.TTL {
			break
		}
		d.stats.Expired += uint64(len(t.msgs))
		d.topics = d.topics[1:]
		dropped++
	}
	return dropped
}

func (d *model) counts() Stats {
	s := d.stats
	s.Topics = len(d.topics)
	for _, t := range d.topics {
		s.Messages += len(t.msgs)
		s.Bytes += int64(t.bytes())
	}
	return s
}

// TestMemoryAgainstModel does random things to a Memory with tight bounds and to the model, and wants the same of
// both after every step, and the invariants to hold.
func TestMemoryAgainstModel(t *testing.T) {
	const topic = topicBytes + messageBytes // and a bit: the least that a topic takes
	for name, cfg := range map[string]Config{
		"messages": {Messages: 5, Bytes: 1 << 30, TTL: time.Hour, TotalBytes: 1 << 40},
		"bytes":    {Messages: 1 << 30, Bytes: 1500, TTL: time.Hour, TotalBytes: 1 << 40},
		"age":      {Messages: 1 << 30, Bytes: 1 << 30, TTL: 100 * time.Millisecond, TotalBytes: 1 << 40},
		"total":    {Messages: 1 << 30, Bytes: 2500, TTL: time.Hour, TotalBytes: 2500},
		"all":      {Messages: 8, Bytes: 4 * topic, TTL: 200 * time.Millisecond, TotalBytes: 6 * topic},
	} {
		t.Run(name, func(t *testing.T) {
			mem, mod := NewMemory(cfg), &model{cfg: cfg}
			rnd := rand.New(rand.NewPCG(3, 4))
			now := time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)
			tops := make(map[string]Position)
			for step := range 10_000 {
				now = now.Add(time.Duration(rnd.Int64N(int64(4 * time.Millisecond))))
				name := fmt.Sprint("topic ", rnd.IntN(12))
				if top, ok := tops[name]; !ok || rnd.IntN(500) == 0 {
					tops[name] = Position{top.Epoch + 1, 0}
				}
				if err := randomStep(rnd, mem, mod, name, tops, now); err != nil {
					t.Fatalf("step %d: topic %q at %v: %v", step, name, tops[name], err)
				}
				if got, want := mem.Stats(), mod.counts(); got != want {
					t.Fatalf("step %d: Stats %+v; want %+v", step, got, want)
				}
				if err := checkInvariants(mem, mod); err != nil {
					t.Fatalf("step %d: topic %q: %v", step, name, err)
				}
			}
			t.Logf("%+v", mem.Stats())
		})
	}
}

// randomStep does one thing to both; the error tells what they disagree on.
func randomStep(rnd *rand.Rand, mem *Memory, mod *model, name string, tops map[string]Position, now time.Time) error {
	top := tops[name]
	switch p := rnd.IntN(100); {
	case p < 50:
		top.Offset++
		m := Message{top, make([]byte, rnd.IntN(8)*rnd.IntN(40))}
		if rnd.IntN(50) == 0 {
			m.Item = make([]byte, 3000)
		}
		tops[name] = top
		if err := mem.Append(name, m, now); err != nil || !mod.append(name, m, now) {
			return fmt.Errorf("Append: %w", err)
		}
	case p < 52:
		m := Message{Position: Position{top.Epoch, top.Offset + 2}}
		err := mem.Append(name, m, now)
		if next := mod.append(name, m, now); next != (err == nil) {
			return fmt.Errorf("Append with a hole: %w; want it accepted: %v", err, next)
		}
		if err == nil {
			tops[name] = m.Position
		}
	case p < 55:
		var msgs []Message
		for range rnd.IntN(40) {
			top.Offset++
			msgs = append(msgs, Message{top, make([]byte, rnd.IntN(120)*rnd.IntN(10))})
		}
		tops[name] = top
		if err := mem.Restore(name, msgs, now); err != nil {
			return err
		}
		mod.restore(name, msgs, now)
	case p < 56:
		mem.Forget(name)
		mod.forget(name)
	case p < 58:
		if got, want := mem.Sweep(now), mod.sweep(now); got != want {
			return fmt.Errorf("Sweep = %d; want %d", got, want)
		}
	default:
		since := Position{top.Epoch, top.Offset - min(top.Offset, rnd.Uint64N(12))}
		top.Offset -= min(top.Offset, rnd.Uint64N(3)*rnd.Uint64N(2))
		got, gotOK := mem.After(name, since, top, now)
		want, wantOK := mod.after(name, since, top, now)
		same := slices.EqualFunc(got, want, func(a, b Message) bool {
			return a.Position == b.Position && len(a.Item) == len(b.Item)
		})
		if !same || gotOK != wantOK {
			return fmt.Errorf("After(%v, %v): %d messages, %v; want %d, %v", since, top, len(got), gotOK, len(want), wantOK)
		}
	}
	return nil
}

// checkInvariants checks what past and Memory say holds of them, and the order of use.
func checkInvariants(m *Memory, mod *model) error {
	i := 0
	for p := m.use.newer; p != &m.use; p = p.newer {
		if p.newer.older != p || p.older.newer != p {
			return fmt.Errorf("%q is not where its neighbours think it is", p.name)
		}
		if m.topics[p.name] != p {
			return fmt.Errorf("%q is in the order of use, not in the map", p.name)
		}
		if i == len(mod.topics) || mod.topics[i].name != p.name {
			return fmt.Errorf("%q is not the number %d in the order of use", p.name, i)
		}
		if err := checkPast(p); err != nil {
			return fmt.Errorf("%q: %w", p.name, err)
		}
		i++
	}
	if i != len(m.topics) {
		return fmt.Errorf("%d topics in the order of use, %d in the map", i, len(m.topics))
	}
	return nil
}

func checkPast(p *past) error {
	spare := len(p.slots) > minSlots && len(p.slots) >= 4*p.n
	if p.n < 1 || p.n > len(p.slots) || len(p.slots)&(len(p.slots)-1) != 0 || spare {
		return fmt.Errorf("%d messages in %d slots", p.n, len(p.slots))
	}
	bytes := topicBytes + int64(len(p.name))
	for i := range p.slots {
		s := p.slot(i)
		if i < p.n {
			bytes += messageBytes + int64(len(s.item))
		} else if s.item != nil || s.at != 0 {
			return fmt.Errorf("slot %d behind the %d messages is not zero", i, p.n)
		}
	}
	if bytes != p.bytes {
		return fmt.Errorf("%d bytes counted, %d there", p.bytes, bytes)
	}
	return nil
}
