package socket

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// inputShare is how much of Config.InputBudget the loop's connections may take: connections are spread over the loops. A few of the
// largest messages must always find room.
func (l *Loop) inputShare() uint64 {
	return uint64(max(l.cfg.InputBudget/len(l.all.loops), 8*l.cfg.MaxMessageBytes))
}

// shedInput closes those of the loop's connections that keep most of a message that is not whole, until the rest is an eighth below the
// loop's share. What they keep goes at once: the rest of their frames is skipped.
func (l *Loop) shedInput() {
	l.shedding = false
	share := l.inputShare()
	if l.count.InputBytes <= share {
		return
	}
	var keepers []*Conn
	for _, c := range l.slots {
		if c != nil && c.torn != nil && c.torn.counted > 0 && c.state == stateOpen {
			keepers = append(keepers, c)
		}
	}
	slices.SortFunc(keepers, func(x, y *Conn) int { return cmp.Compare(y.torn.counted, x.torn.counted) })
	for _, c := range keepers {
		if l.count.InputBytes <= share-share/8 {
			return
		}
		pause := (time.Millisecond + rand.N(time.Second)).Milliseconds()
		c.closeWith(&CloseError{Code: CloseTryAgain, Reason: fmt.Sprintf("too much waits for its end, of all clients together retry_after_ms=%d", pause)}, EndInputBudget)
		c.forgetTorn()
	}
}

// forgetTorn gives up the torn frame of a connection that is closing: what is still to come of it will be skipped.
func (c *Conn) forgetTorn() {
	t := c.torn
	if t == nil || len(t.raw) == 0 {
		c.releaseTorn()
		return
	}
	if h, whole, _ := parseHeader(t.raw); whole {
		c.discard(t.raw, nil, uint64(h.size)+h.length, true)
	}
}
