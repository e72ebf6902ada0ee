package hub

import (
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/shared/mutant"
)

// mangle is Deliver of one message in builds with mutants: it does something else with one message in fifty of each topic.
func (h *Hub) mangle(loop *socket.Loop, m *Message) (delivered, unfit int) {
	t := h.topics[m.Topic]
	if t == nil || m.Position.Epoch != t.last.Epoch || m.Position.Offset <= t.last.Offset {
		return 0, 0
	}
	chosen := m.Position.Offset%50 == 49
	again := func(m *Message, last Position) {
		t.last = last
		delivered, unfit = h.deliver(loop, m)
	}
	switch {
	case chosen && mutant.Is(mutant.Drop):
		t.last = m.Position
		return 0, 0
	case chosen && mutant.Is(mutant.Double):
		before := t.last
		h.deliver(loop, m)
		again(m, before)
	case chosen && mutant.Is(mutant.Swap):
		if h.late == nil {
			h.late = make(map[string]*Message)
		}
		h.late[m.Topic], t.last = m, m.Position
	case h.late[m.Topic] != nil:
		late := h.late[m.Topic]
		delete(h.late, m.Topic)
		h.deliver(loop, m)
		top := t.last
		again(late, Position{late.Position.Epoch, late.Position.Offset - 1})
		t.last = top
	default:
		return h.deliver(loop, m)
	}
	return delivered, unfit
}
