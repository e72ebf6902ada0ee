package topic

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
)

// ask does one request about the name reg:n and returns the code of its reply.
func (g *gateway) ask(t testing.TB, r *Registry, op linkpb.NameOp, claim uint64) linkpb.Code {
	t.Helper()
	g.askLater(r, op, claim, 0, "")
	return next[*linkpb.Reply](t, g).Code
}

func (g *gateway) askLater(r *Registry, op linkpb.NameOp, claim, heldMs uint64, payload string) {
	r.Name(&g.Turn, g.Lane, &linkpb.Publish{
		Ref: claim, Topic: "reg:n", Event: "e", Payload: []byte(payload), IdLow: uint64(len(payload)) << 32,
		Name: &linkpb.NameCall{Op: op, Claim: claim, HeldMs: heldMs},
	})
	g.Flush()
}

const (
	register = linkpb.NameOp_NAME_REGISTER
	announce = linkpb.NameOp_NAME_ANNOUNCE
	release  = linkpb.NameOp_NAME_RELEASE
	send     = linkpb.NameOp_NAME_SEND
)

func namesRegistry(t testing.TB) (*Registry, []*gateway) {
	t.Helper()
	r := newRegistry(t)
	r.cfg.NameGrace = time.Hour
	return r, gateways(t, 2, false)
}

func TestNames_OneHolder(t *testing.T) {
	r, gws := namesRegistry(t)
	a, b := gws[0], gws[1]
	for i, step := range []struct {
		gw    *gateway
		op    linkpb.NameOp
		claim uint64
		want  linkpb.Code
	}{
		{a, send, 0, linkpb.Code_NAME_NOT_FOUND},
		{a, release, 1, linkpb.Code_NAME_NOT_FOUND},
		{a, register, 1, linkpb.Code_OK},
		{a, register, 1, linkpb.Code_OK}, // the same request again, over another connection perhaps
		{a, register, 2, linkpb.Code_NAME_TAKEN},
		{b, register, 1, linkpb.Code_NAME_TAKEN}, // the same number at another gateway
		{b, announce, 1, linkpb.Code_NAME_TAKEN},
		{b, release, 1, linkpb.Code_NAME_NOT_FOUND},
		{a, announce, 1, linkpb.Code_OK},
		{a, release, 1, linkpb.Code_OK},
		{b, register, 1, linkpb.Code_OK},
		{a, register, 1, linkpb.Code_NAME_TAKEN},
		{b, linkpb.NameOp(9), 1, linkpb.Code_INVALID},
	} {
		if got := step.gw.ask(t, r, step.op, step.claim); got != step.want {
			t.Errorf("step %d, %s of claim %d: %s, want %s", i, step.op, step.claim, got, step.want)
		}
	}
	if n := r.Names(); n != 1 {
		t.Errorf("%d names held", n)
	}
	if r.Sweep(-time.Hour); r.Names() != 1 || r.Stats().Topics != 1 {
		t.Error("a held name was forgotten")
	}
}

// A message goes to the holder's gateway, behind the sender's reply, and only once however often it is sent.
func TestNames_Send(t *testing.T) {
	r, gws := namesRegistry(t)
	a, b := gws[0], gws[1]
	a.ask(t, r, register, 7)
	for range 2 {
		b.askLater(r, send, 0, 0, "hello")
		if rep := next[*linkpb.Reply](t, b); rep.Code != linkpb.Code_OK {
			t.Errorf("reply %s", rep.Code)
		}
	}
	if m := next[*linkpb.NameMessage](t, a); m.Claim != 7 || string(m.Payload) != "hello" || m.Event != "e" || m.Topic != "reg:n" {
		t.Errorf("message %v", m)
	}
	a.nothingElse(t, r)
}

// A holder without a link keeps its name for the grace; what concerns it waits.
func TestNames_LostLane(t *testing.T) {
	for _, back := range []bool{true, false} {
		t.Run(fmt.Sprint("back ", back), func(t *testing.T) {
			r, gws := namesRegistry(t)
			a, b := gws[0], gws[1]
			lost := NewLane(a.Gateway, a.Out)
			r.Name(&a.Turn, lost, &linkpb.Publish{Ref: 1, Topic: "reg:n", Name: &linkpb.NameCall{Op: register, Claim: 7}})
			a.Flush()
			next[*linkpb.Reply](t, a)
			r.Drop(lost, 0)
			b.askLater(r, register, 1, 0, "")
			b.askLater(r, send, 2, 0, "hello")
			r.SettleNames(time.Now())
			b.nothingElse(t, r)
			if back {
				if got := a.ask(t, r, announce, 7); got != linkpb.Code_OK {
					t.Errorf("announced: %s", got)
				}
				if rep := next[*linkpb.Reply](t, b); rep.Code != linkpb.Code_NAME_TAKEN {
					t.Errorf("the rival is answered %s", rep.Code)
				}
				if m := next[*linkpb.NameMessage](t, a); string(m.Payload) != "hello" {
					t.Errorf("message %v", m)
				}
				return
			}
			r.cfg.NameGrace = 0
			r.SettleNames(time.Now().Add(5 * time.Second)) // when waiting is over, too
			if rep := next[*linkpb.Reply](t, b); rep.Code != linkpb.Code_OK {
				t.Errorf("the rival is answered %s", rep.Code)
			}
			if got := a.ask(t, r, announce, 7); got != linkpb.Code_NAME_TAKEN {
				t.Errorf("announced too late: %s", got)
			}
		})
	}
}

// Who waits for too long gets a definite answer.
func TestNames_WaitingEnds(t *testing.T) {
	r, gws := namesRegistry(t)
	r.Doubt(time.Now().Add(time.Hour))
	gws[0].askLater(r, register, 1, 0, "")
	gws[0].nothingElse(t, r)
	x := r.lock("reg:n")
	x.exclusive.calls[0].at = time.Now().Add(-maxNameWait)
	r.scheduleLocked(x)
	x.mu.Unlock()
	r.SettleNames(time.Now())
	if rep := next[*linkpb.Reply](t, gws[0]); rep.Ref != 1 || rep.Code != linkpb.Code_UNAVAILABLE {
		t.Errorf("answer %v", rep)
	}
	for i := range uint64(maxNameCalls) {
		gws[0].askLater(r, register, i+1, 0, "")
	}
	if got := gws[0].ask(t, r, register, 1000); got != linkpb.Code_OVERLOADED {
		t.Errorf("one too many: %s", got)
	}
	gws[0].askLater(r, release, 5, 0, "") // who gives up is answered, and the release too
	first, second := next[*linkpb.Reply](t, gws[0]), next[*linkpb.Reply](t, gws[0])
	if first.Code != linkpb.Code_UNAVAILABLE || second.Code != linkpb.Code_NAME_NOT_FOUND {
		t.Errorf("answers %v, %v", first, second)
	}
}

// Long messages that wait for a name are bounded by what they take: of one name, and of all with what waits for topics. A
// single one may be as long as it likes.
func TestNames_WhatWaitsIsBounded(t *testing.T) {
	r, gws := namesRegistry(t)
	g := gws[0]
	r.Doubt(time.Now().Add(time.Hour))
	g.askLater(r, send, 1, 0, strings.Repeat("x", maxNameBytes+1))
	g.nothingElse(t, r)
	g.askLater(r, send, 2, 0, "y")
	if rep := next[*linkpb.Reply](t, g); rep.Ref != 2 || rep.Code != linkpb.Code_OVERLOADED {
		t.Fatalf("one more: %v", rep)
	}
	if n := r.parked.Load(); n < maxNameBytes || r.Stats().ParkedRefused != 1 {
		t.Errorf("%d bytes are counted, %d refused", n, r.Stats().ParkedRefused)
	}
	r.names.doubt.Store(0)
	r.SettleNames(time.Now().Add(time.Hour))
	if rep := next[*linkpb.Reply](t, g); rep.Ref != 1 || rep.Code != linkpb.Code_NAME_NOT_FOUND {
		t.Errorf("answer %v", rep)
	}
	if n := r.parked.Load(); n != 0 {
		t.Errorf("%d bytes are counted though nothing waits", n)
	}

	r.Doubt(time.Now().Add(time.Hour))
	const short = 64 << 10
	for i := range uint64(maxNameBytes / short) {
		g.askLater(r, register, i+1, 0, strings.Repeat("z", short-parkedCost-1))
	}
	g.askLater(r, register, 99, 0, "z")
	g.askLater(r, release, 5, 0, "") // who gives up makes room
	g.askLater(r, register, 98, 0, "z")
	r.parked.Add(maxParkedAll)
	g.askLater(r, register, 97, 0, "")
	r.parked.Add(-maxParkedAll)
	for _, want := range []*linkpb.Reply{
		{Ref: 99, Code: linkpb.Code_OVERLOADED}, {Ref: 5, Code: linkpb.Code_UNAVAILABLE}, {Ref: 5, Code: linkpb.Code_NAME_NOT_FOUND},
		{Ref: 97, Code: linkpb.Code_OVERLOADED},
	} {
		if rep := next[*linkpb.Reply](t, g); rep.Ref != want.Ref || rep.Code != want.Code {
			t.Errorf("answer %v, want %v", rep, want)
		}
	}
	r.Seal("reg:n", 8)
	if n := r.parked.Load(); n != 0 {
		t.Errorf("%d bytes are counted after the name has moved", n)
	}
}

// A server that may have forgotten names gives away none that was not announced; who had it for longer keeps it.
func TestNames_Doubt(t *testing.T) {
	r, gws := namesRegistry(t)
	a, b := gws[0], gws[1]
	r.Doubt(time.Now().Add(time.Hour))
	r.Doubt(time.Now()) // takes nothing back
	b.askLater(r, register, 1, 0, "")
	b.nothingElse(t, r)
	a.askLater(r, announce, 2, 1000, "")
	if rep := next[*linkpb.Reply](t, a); rep.Code != linkpb.Code_OK {
		t.Errorf("announced: %s", rep.Code)
	}
	if rep := next[*linkpb.Reply](t, b); rep.Code != linkpb.Code_NAME_TAKEN {
		t.Errorf("the one who waited: %s", rep.Code)
	}
	b.askLater(r, announce, 3, 10, "")
	if rep := next[*linkpb.Reply](t, b); rep.Code != linkpb.Code_NAME_TAKEN {
		t.Errorf("a younger claim: %s", rep.Code)
	}
	b.askLater(r, announce, 4, 1_000_000, "")
	if rep := next[*linkpb.Reply](t, b); rep.Code != linkpb.Code_OK {
		t.Errorf("an older claim: %s", rep.Code)
	}
	if m := next[*linkpb.NameLost](t, a); m.Claim != 2 {
		t.Errorf("lost %v", m)
	}
	r.names.doubt.Store(0)
	a.askLater(r, announce, 5, 10_000_000, "")
	if rep := next[*linkpb.Reply](t, a); rep.Code != linkpb.Code_NAME_TAKEN {
		t.Errorf("an older claim when the doubt is over: %s", rep.Code)
	}
}

// A name moves with its topic: its holder keeps it, who waits asks the next owner.
func TestNames_Move(t *testing.T) {
	old, gws := namesRegistry(t)
	a, b := gws[0], gws[1]
	a.ask(t, old, register, 7)
	state, pending := old.Seal("reg:n", 2)
	if pending || state.GetName().GetClaim() != 7 || state.Name.Gateway != "gw-a" || old.Names() != 0 {
		t.Fatalf("state %v", state)
	}
	next[*linkpb.Sealed](t, a)
	r := newRegistry(t)
	r.cfg.NameGrace = time.Hour
	if !r.Expect("reg:n") {
		t.Fatal("not expected")
	}
	a.askLater(r, announce, 7, 0, "")
	b.askLater(r, register, 8, 0, "")
	b.askLater(r, send, 9, 0, "hello")
	if !r.Install("reg:n", state) {
		t.Fatal("not installed")
	}
	if rep := next[*linkpb.Reply](t, a); rep.Code != linkpb.Code_OK {
		t.Errorf("announced: %s", rep.Code)
	}
	if rep := next[*linkpb.Reply](t, b); rep.Code != linkpb.Code_NAME_TAKEN {
		t.Errorf("the rival: %s", rep.Code)
	}
	if m := next[*linkpb.NameMessage](t, a); m.Claim != 7 {
		t.Errorf("message %v", m)
	}
	if rep := next[*linkpb.Reply](t, b); rep.Code != linkpb.Code_OK {
		t.Errorf("sent: %s", rep.Code)
	}
	// Detached, with somebody waiting, it moves on.
	r.Drop(a.Lane, 0)
	b.askLater(r, register, 10, 0, "")
	b.nothingElse(t, r)
	state, _ = r.Seal("reg:n", 3)
	if err := CheckState(state); len(state.GetIds()) != 1 || err != nil {
		t.Errorf("after a message to it: %v, %v", state, err)
	}
	if rep := next[*linkpb.Reply](t, b); rep.Ref != 10 || rep.Code != linkpb.Code_NOT_OWNER || state.GetName().GetClaim() != 7 {
		t.Errorf("answer %v, state %v", rep, state)
	}
}
