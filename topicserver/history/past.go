package history

import (
	"math/bits"
	"strings"
	"time"
)

// What a topic and each of its messages cost besides the bytes of its name and its items. A test compares them with
// the heap.
const (
	// topicBytes stands for a past, its share of the map, and the ring of a topic with few messages.
	topicBytes = 320

	// messageBytes stands for two slots of the ring, one used and one spare. A ring that only grows has no more spare
	// ones than that; one that has lost messages may have three for each used one before it shrinks.
	messageBytes = 64
)

// minSlots is the length of the smallest ring. Most topics of a large set have a message or two.
const minSlots = 4

// past is what is remembered of a topic in one epoch: a run of messages without holes, in a ring buffer that grows
// and shrinks with it. Memory.mu guards all of it.
//
// Invariant: message i of the run, 0 <= i < n, has offset first+i and stands in slots[(head+i)&(len(slots)-1)]. The
// next message has offset first+n, also when there is none.
// Invariant: the slots outside the run are zero, so that what was forgotten is garbage.
// Invariant: len(slots) is a power of two, at least n and minSlots; it is below 4n if it is not minSlots.
// Invariant: bytes == topicBytes + len(name) + the sum of messageBytes + len(item) over the run.
type past struct {
	name  string // static
	epoch uint64 // static

	first uint64
	slots []slot
	head  int
	n     int
	bytes int64

	newer, older *past // neighbours in Memory's order of use
}

// slot is one remembered message; its offset follows from where it stands.
type slot struct {
	item []byte
	at   time.Duration // when it came, on Memory's clock
}

func newPast(name string, next Position) *past {
	return &past{
		name:  strings.Clone(name), // those who have the name in a larger buffer keep the buffer
		epoch: next.Epoch,
		first: next.Offset,
		slots: make([]slot, minSlots),
		bytes: topicBytes + int64(len(name)),
	}
}

// cost is what a message with the item adds to bytes.
func cost(item []byte) int64 { return messageBytes + int64(len(item)) }

func (p *past) slot(i int) *slot { return &p.slots[(p.head+i)&(len(p.slots)-1)] }

// next is the offset of the message that has to come next: 0, which no message has, after the highest there can be.
func (p *past) next() uint64 { return p.first + uint64(p.n) }

// push adds the next message.
func (p *past) push(item []byte, at time.Duration) {
	p.fit(p.n + 1)
	*p.slot(p.n) = slot{item: item, at: at}
	p.n++
	p.bytes += cost(item)
}

// pop forgets the oldest message, which there must be, and returns what it cost. The caller pushes or calls fit next.
func (p *past) pop() int64 {
	s := p.slot(0)
	c := cost(s.item)
	*s = slot{}
	p.head = (p.head + 1) & (len(p.slots) - 1)
	p.first++
	p.n--
	p.bytes -= c
	return c
}

// fit gives the ring a length for n messages: at least one, and p.n at least. It doubles when it is full and shrinks
// when three quarters are empty, to a length that is about half full, so that changes of the length are far apart.
func (p *past) fit(n int) {
	var size int
	switch {
	case n > len(p.slots):
		size = len(p.slots) * 2
	case n <= len(p.slots)/4 && len(p.slots) > minSlots:
		size = max(minSlots, 1<<bits.Len(uint(2*n-1)))
	default:
		return
	}
	slots := make([]slot, size)
	k := copy(slots, p.slots[p.head:min(p.head+p.n, len(p.slots))])
	copy(slots[k:], p.slots[:p.n-k])
	p.slots, p.head = slots, 0
}

// between returns the messages behind offset after up to and with top, after < top, as Store.After says.
func (p *past) between(after, top uint64) (msgs []Message, complete bool) {
	if top < p.first || top-p.first >= uint64(p.n) {
		return nil, false
	}
	from := max(after+1, p.first)
	msgs = make([]Message, top-from+1)
	start := int(from - p.first)
	for i := range msgs {
		msgs[i] = Message{
			Position: Position{Epoch: p.epoch, Offset: from + uint64(i)},
			Item:     p.slot(start + i).item,
		}
	}
	return msgs, from == after+1
}
