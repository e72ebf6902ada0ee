package router

import (
	"fmt"
	"testing"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
)

func TestDeparturesKeepTheLast(t *testing.T) {
	var d departures
	conns := []*socket.Conn{new(socket.Conn), new(socket.Conn)}
	for i := range uint64(3*maxGone + 7) {
		d.add(gone{conn: conns[i%2], topic: fmt.Sprint(i), from: i})
	}
	if len(d.list) != maxGone {
		t.Fatalf("%d are remembered, want %d", len(d.list), maxGone)
	}
	for i := range uint64(3*maxGone + 7) {
		if kept := d.find(conns[i%2], fmt.Sprint(i)) != nil; kept != (i >= 2*maxGone+7) {
			t.Fatalf("of %d, number %d is kept: %t", 3*maxGone+7, i, kept)
		}
	}
	d.add(gone{conn: conns[0], topic: "left twice", from: 1})
	d.add(gone{conn: conns[1], topic: "left twice", from: 2})
	d.add(gone{conn: conns[0], topic: "left twice", from: 3})
	if g := d.find(conns[0], "left twice"); g == nil || g.from != 3 {
		t.Errorf("found %v, want the last one", g)
	}
	if g := new(departures).find(conns[0], "left twice"); g != nil {
		t.Errorf("found %v where there are none", g)
	}
}

func TestIsMessage(t *testing.T) {
	ref, push := codec.Ref(`"1"`), &codec.Push{Topic: "room:1", Event: "e", Payload: []byte(`{"a":1}`)}
	frame := func(k codec.Kind, joinRef codec.Ref, p *codec.Push) []byte {
		c := codec.ForKind(k)
		return c.AppendBody(c.AppendHead(nil, joinRef, codec.Ref(`"7:9"`), p), p)
	}
	for _, k := range []codec.Kind{codec.PhoenixV1, codec.PhoenixV2} {
		for _, test := range []struct {
			name  string
			frame []byte
			want  bool
		}{
			{"message", frame(k, ref, push), true},
			{"of another topic", frame(k, ref, &codec.Push{Topic: "room:2", Event: "e"}), false},
			{"of another join", frame(k, codec.Ref(`"2"`), push), k == codec.PhoenixV1}, // which has no join_ref
			{"reply", codec.ForKind(k).AppendReply(nil, ref, ref, "room:1", "ok", nil), false},
			{"end", codec.AppendControl(nil, codec.ForKind(k), ref, "room:1", "phx_close"), false},
		} {
			if got := isMessage(test.frame, false, k, ref, "room:1"); got != test.want {
				t.Errorf("%v, %s: %t", k, test.name, got)
			}
		}
	}
	binary := &codec.Push{Topic: "room:1", Event: "e", Payload: []byte{1, 2}, Binary: true}
	whole := frame(codec.PhoenixV2, ref, binary)
	for i := range len(whole) {
		got := isMessage(whole[:i:i], true, codec.PhoenixV2, ref, "room:1")
		if i < 4 && got {
			t.Errorf("%d bytes of a binary frame are a message", i)
		}
	}
	if !isMessage(whole, true, codec.PhoenixV2, ref, "room:1") || isMessage(whole, true, codec.PhoenixV2, ref, "room:2") {
		t.Error("a binary frame is taken for another topic's")
	}
}

func TestFate(t *testing.T) {
	for _, test := range []struct {
		epoch, offset, from, last uint64
		want                      string
	}{
		{1, 5, 4, 9, Written}, {1, 9, 4, 9, Written}, {1, 4, 4, 9, Skipped}, {1, 10, 4, 9, Coming}, {2, 5, 4, 9, Skipped},
	} {
		state, why := fate(&Question{Position: hub.Position{Epoch: test.epoch, Offset: test.offset}}, test.from, hub.Position{Epoch: 1, Offset: test.last})
		if state != test.want || (why == "") != (state == Written) {
			t.Errorf("%+v: %s, %s", test, state, why)
		}
	}
}
