package socket

import (
	"bytes"
	"testing"
	"time"

	"github.com/ringcast/ringcast/shared/rate"
)

// pongs takes what is queued and counts the pongs in it.
func pongs(c *Conn) int {
	n := bytes.Count(c.out, []byte{0x8a, 1, 'p'})
	c.out = nil
	return n
}

// Bad input row 19: pings over the rate get no answer, and a peer that is over it in three seconds in a row is closed with
// 4429.
func TestRow19_PingsOverTheRate(t *testing.T) {
	messages := 0
	c := parked(newProbe(func(*Conn, Opcode, []byte) { messages++ }))
	c.loop.cfg.Frames = rate.PerSecond(10, 20)
	second := func(at time.Duration, input []byte) int {
		c.loop.now = at
		c.received(bytes.Clone(input))
		return pongs(c)
	}
	flood := repeat(clientFrame(0x89, "p"), 100)
	if n := second(0, flood); n != 20 {
		t.Errorf("%d pongs at once, want the burst of 20", n)
	}
	if n := second(10*time.Second, flood); n != 20 || c.strikes.Add(c.loop.now) != 1 {
		t.Errorf("%d pongs after a rest, want 20, and one strike", n)
	}
	if n := second(11*time.Second, raw(flood, text("x"), repeat(clientFrame(0x8a, ""), 100))); n != 10 || messages != 1 {
		t.Errorf("%d pongs and %d messages a second later; want 10 and 1", n, messages)
	}
	if c.Closing() {
		t.Fatal("closed after two seconds")
	}
	c.loop.now = 12 * time.Second
	c.received(bytes.Clone(flood))
	if want := closePayload(CloseRate, "rate limited"); !c.Closing() || !bytes.HasSuffix(c.out, want) || c.end != EndRate {
		t.Errorf("state %d, end %s, queue %q", c.state, c.end, c.out)
	}
	if n := c.loop.count.Excess; n < 80+80+90+100 {
		t.Errorf("%d excess frames counted", n)
	}
}

// Fragments are frames too: what a message is cut into does not come for nothing.
func TestFragmentsCount(t *testing.T) {
	c := parked(newProbe(nil))
	c.loop.cfg.Frames = rate.PerSecond(10, 20)
	flood := raw(clientFrame(0x01, ""), repeat(clientFrame(0x00, ""), 100), clientFrame(0x80, ""))
	for second := range 3 {
		c.loop.now = time.Duration(second) * time.Second
		c.received(bytes.Clone(flood))
	}
	if !c.Closing() || c.end != EndRate {
		t.Errorf("state %d, end %s", c.state, c.end)
	}
}

// Messages are counted by whoever handles them, on the same meter.
func TestTake(t *testing.T) {
	c := parked(newProbe(nil))
	limit := rate.PerSecond(10, 1)
	if wait := c.Take(limit); wait != 0 {
		t.Fatalf("refused: %v", wait)
	}
	if wait := c.Take(limit); wait != 100*time.Millisecond {
		t.Errorf("wait of %v, want 100ms", wait)
	}
	for range 100 {
		c.Strike()
	}
	if c.Closing() {
		t.Error("many strikes in one second closed the connection")
	}
}
