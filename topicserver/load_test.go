package topicserver

import (
	"testing"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/link"
)

// A gateway that sends its clients away is told the load of those that they go to: not its own, nor that of others that
// are leaving too, nor what is old.
func TestALeavingGatewayIsToldTheLoadOfTheOthers(t *testing.T) {
	s := start(t, Config{})
	loads := make(chan *linkpb.Load, 10)
	connect := func(name string, load *linkpb.Load) *link.Lane {
		hello := s.hello()
		hello.Gateway = name
		lane, err := link.Dial(t.Context(), s.addr, unhurried, hello)
		if err != nil {
			t.Fatal(err)
		}
		lane.Append(linkpb.KindUpLoad, load)
		lane.Flush()
		ended := make(chan error, 1)
		go func() {
			ended <- lane.Receive(func(kind linkpb.Kind, body []byte) error {
				lane.Greeted()
				if kind != linkpb.KindDownLoad {
					return nil
				}
				m := new(linkpb.Load)
				err := m.UnmarshalVT(body)
				loads <- m
				return err
			}, func() {})
		}()
		t.Cleanup(func() { lane.Close(); await(t, "the lane to end", ended) })
		return lane
	}
	leaving := connect("gw-leaving", &linkpb.Load{JoinMs: 9000, Refusing: true, Draining: true})
	if m := await(t, "the answer", loads); m.Gateways != 0 || m.JoinMs != 0 || m.Refusing {
		t.Errorf("alone: %v", m)
	}
	stay := map[*link.Lane]*linkpb.Load{}
	for name, load := range map[string]*linkpb.Load{"gw-a": {JoinMs: 20}, "gw-b": {JoinMs: 300}} {
		stay[connect(name, load)] = load
	}
	connect("gw-also-leaving", &linkpb.Load{JoinMs: 8000, Draining: true})
	await(t, "the other one's answer", loads)
	told := func() *linkpb.Load {
		for lane, load := range stay { // what they have said counts for some time only
			lane.Append(linkpb.KindUpLoad, load)
			lane.Flush()
		}
		leaving.Append(linkpb.KindUpLoad, &linkpb.Load{JoinMs: 9000, Draining: true})
		leaving.Flush()
		return await(t, "the answer", loads)
	}
	var m *linkpb.Load
	waitFor(t, "the load of both that stay", func() bool { m = told(); return m.Gateways == 2 })
	if m.JoinMs != 300 || m.Refusing {
		t.Errorf("told %v, want the longer of two", m)
	}
	full := &linkpb.Load{Refusing: true}
	stay[connect("gw-full", full)] = full
	waitFor(t, "that one refuses", func() bool { return told().Refusing })
	if m := s.loadBut(laneKey{}, time.Now().Add(loadCounts+time.Second)); m.Gateways != 0 {
		t.Errorf("what is old counts: %v", m)
	}
}
