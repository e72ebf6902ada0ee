package hub

import "testing"

// A publisher that does not want its own messages gets all others, in whatever order replies and messages come.
func TestOwnMessagesAreKeptBack(t *testing.T) {
	h := New()
	c := &Channel{NoEcho: true}
	at := func(offset uint64) Position { return Position{Epoch: 7, Offset: offset} }
	h.Add("t", c, at(10))
	h.Own(c, at(10)) // came before its reply
	h.Own(c, at(12))
	h.Own(c, at(13))
	h.Own(c, at(15))
	for offset, want := range []bool{11: false, 12: true, 13: true, 14: false, 15: true, 16: false} {
		if offset > 10 && h.isOwn(c, at(uint64(offset))) != want {
			t.Errorf("offset %d: %v", offset, !want)
		}
	}
	if len(h.own) != 0 {
		t.Errorf("left: %v", h.own)
	}
	h.Own(c, at(20))
	if h.isOwn(c, Position{Epoch: 8, Offset: 1}) || len(h.own) != 0 {
		t.Error("a position of another epoch is kept")
	}
	h.Own(c, at(21))
	h.Remove(c)
	h.Own(c, at(22))
	if len(h.own) != 0 {
		t.Errorf("left after the channel's end: %v", h.own)
	}
}
