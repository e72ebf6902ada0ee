package linkpb

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

type packed struct {
	kind Kind
	item Item
}

// ups is one Up of every kind, with the Protobuf tree that says the same.
func ups() ([]packed, *Up) {
	hello := &Hello{Protocol: 1, Gateway: "gw-a", Instance: 1 << 63, Lane: 1, Lanes: 2, RingVersion: 7, RingHash: 3}
	subscribe := &Subscribe{Ref: 1, Topic: "topics:matrix"}
	join := &Join{Topic: "topics:matrix", Subscriber: 9}
	leave := &Leave{Topic: "topics:matrix", Subscriber: 9}
	publish := &Publish{Ref: 300, Topic: "topics:matrix", Event: "e", Payload: bytes.Repeat([]byte("x"), 1000), Binary: true}
	unsubscribe := &Unsubscribe{Topic: "topics:matrix"}
	return []packed{
			{KindHello, hello}, {KindSubscribe, subscribe}, {KindJoin, join}, {KindLeave, leave},
			{KindPublish, publish}, {KindUnsubscribe, unsubscribe}, {KindPublish, &Publish{}},
		}, &Up{Items: []*UpItem{
			{Item: &UpItem_Hello{hello}}, {Item: &UpItem_Subscribe{subscribe}}, {Item: &UpItem_Join{join}},
			{Item: &UpItem_Leave{leave}}, {Item: &UpItem_Publish{publish}}, {Item: &UpItem_Unsubscribe{unsubscribe}},
			{Item: &UpItem_Publish{&Publish{}}},
		}}
}

// downs is ups for Down.
func downs() ([]packed, *Down) {
	welcome := &Welcome{Server: "ts-a", Instance: 5, RingVersion: 7, RingHash: 3}
	reply := &Reply{Ref: 1, Code: Code_NOT_OWNER, Detail: "no", Position: &Position{Epoch: 1 << 60, Offset: 2}}
	message := &Message{Topic: "t:a", Position: &Position{Epoch: 1, Offset: 3}, Event: "e", Payload: []byte(`{"a":1}`)}
	refusal := &Refusal{Code: Code_RING_CONFLICT, Detail: "differ"}
	return []packed{{KindWelcome, welcome}, {KindReply, reply}, {KindMessage, message}, {KindRefusal, refusal}},
		&Down{Items: []*DownItem{
			{Item: &DownItem_Welcome{welcome}}, {Item: &DownItem_Reply{reply}}, {Item: &DownItem_Message{message}},
			{Item: &DownItem_Refusal{refusal}},
		}}
}

func pack(items []packed) (batch []byte) {
	for _, it := range items {
		batch = AppendItem(batch, it.kind, it.item)
	}
	return batch
}

func TestBatchIsWhatProtobufDecodes(t *testing.T) {
	upItems, upTree := ups()
	downItems, downTree := downs()
	for _, test := range []struct {
		name      string
		items     []packed
		tree, got proto.Message
	}{
		{"up", upItems, upTree, new(Up)},
		{"down", downItems, downTree, new(Down)},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := proto.Unmarshal(pack(test.items), test.got); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(test.got, test.tree) {
				t.Errorf("decoded\n %v\nwant\n %v", test.got, test.tree)
			}
		})
	}
}

func TestEachItemReadsWhatProtobufEncodes(t *testing.T) {
	upItems, upTree := ups()
	downItems, downTree := downs()
	for _, test := range []struct {
		name  string
		items []packed
		tree  proto.Message
		fresh func(Kind) proto.Message
	}{
		{"up", upItems, upTree, func(k Kind) proto.Message {
			return []proto.Message{new(Hello), new(Subscribe), new(Unsubscribe), new(Join), new(Leave), new(Publish)}[k-1]
		}},
		{"down", downItems, downTree, func(k Kind) proto.Message {
			return []proto.Message{new(Welcome), new(Refusal), new(Reply), new(Message)}[k-1]
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			batch, err := proto.Marshal(test.tree)
			if err != nil {
				t.Fatal(err)
			}
			i := 0
			err = EachItem(batch, func(kind Kind, body []byte) error {
				want := test.items[i]
				i++
				got := test.fresh(kind)
				if err := proto.Unmarshal(body, got); err != nil {
					return err
				}
				if kind != want.kind || !proto.Equal(got, want.item.(proto.Message)) {
					t.Errorf("item %d is %d %v, want %d %v", i, kind, got, want.kind, want.item)
				}
				return nil
			})
			if err != nil || i != len(test.items) {
				t.Errorf("%d items, error %v; want %d", i, err, len(test.items))
			}
		})
	}
}

// collect returns what EachItem yields, as "kind:body".
func collect(batch []byte) (items []string, err error) {
	err = EachItem(batch, func(kind Kind, body []byte) error {
		items = append(items, string(rune('0'+kind))+":"+string(body))
		return nil
	})
	return items, err
}

func field(num protowire.Number, value string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, num, protowire.BytesType), value)
}

func varint(num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), v)
}

func group(num protowire.Number, inner []byte) []byte {
	b := append(protowire.AppendTag(nil, num, protowire.StartGroupType), inner...)
	return protowire.AppendTag(b, num, protowire.EndGroupType)
}

func concat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestEachItem(t *testing.T) {
	a := field(1, string(field(4, "aa")))
	for _, test := range []struct {
		name  string
		batch []byte
		want  string // items, space between
		torn  bool
	}{
		{name: "nothing"},
		{name: "one", batch: a, want: "4:aa"},
		{name: "order", batch: concat(a, field(1, string(field(2, "b"))), a), want: "4:aa 2:b 4:aa"},
		{name: "empty body", batch: field(1, string(field(3, ""))), want: "3:"},
		{name: "item of no kind", batch: concat(field(1, ""), a), want: "4:aa"},
		{name: "unknown kind", batch: concat(field(1, string(field(9, "later"))), a), want: "9:later 4:aa"},
		{name: "two kinds in one item", batch: field(1, string(concat(field(4, "x"), field(5, "y")))), want: "4:x 5:y"},
		{name: "unknown field of the batch", batch: concat(field(2, "later"), a, field(15, "later")), want: "4:aa"},
		{name: "unknown field that is no bytes", batch: concat(varint(7, 1<<40), a, group(3, varint(1, 1))), want: "4:aa"},
		{name: "items that are no bytes", batch: concat(varint(1, 4), a), want: "4:aa"},
		{name: "kind that is no bytes", batch: field(1, string(concat(varint(4, 1), field(5, "y")))), want: "5:y"},

		{name: "no length", batch: a[:1], torn: true},
		{name: "short item", batch: a[:len(a)-1], torn: true},
		{name: "short body", batch: field(1, string(field(4, "aa")[:3])), torn: true},
		{name: "no body length", batch: field(1, "\x22"), torn: true},
		{name: "good, then torn", batch: concat(a, a[:3]), want: "4:aa", torn: true},
		{name: "field number 0", batch: concat(a, []byte{0x02, 0}), want: "4:aa", torn: true},
		{name: "field number too high", batch: concat(a, []byte("\x80\x80\x80\x80\x300")), want: "4:aa", torn: true},
		{name: "endless varint", batch: concat(a, bytes.Repeat([]byte{0xff}, 12)), want: "4:aa", torn: true},
		{name: "length past the end", batch: []byte("\x0a\xff\xff\xff\xff\x0f"), torn: true},
		{name: "open group", batch: concat(a, protowire.AppendTag(nil, 3, protowire.StartGroupType)), want: "4:aa", torn: true},
		{name: "plain HTTP", batch: []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), torn: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			items, err := collect(test.batch)
			if got := strings.Join(items, " "); got != test.want {
				t.Errorf("items %q, want %q", got, test.want)
			}
			if test.torn != (err != nil) || test.torn && !errors.Is(err, errTorn) {
				t.Errorf("error %v, want torn = %v", err, test.torn)
			}
		})
	}
}

func TestEachItemStopsAtTheFirstError(t *testing.T) {
	items, _ := ups()
	stop := errors.New("stop")
	seen := 0
	err := EachItem(pack(items), func(kind Kind, _ []byte) error {
		seen++
		if kind == KindSubscribe {
			return stop
		}
		return nil
	})
	if err != stop || seen != 2 {
		t.Errorf("error %v after %d items, want stop after 2", err, seen)
	}
}

func TestAppendItemKeepsWhatIsThere(t *testing.T) {
	items, _ := downs()
	batch := []byte{}
	for i := range items {
		before := slices.Clone(batch)
		batch = AppendItem(batch, items[i].kind, items[i].item)
		if !bytes.HasPrefix(batch, before) {
			t.Fatalf("item %d changed what stood before it", i)
		}
	}
}

// The topic server encodes every message it fans out this way, at every publish.
func TestAppendItemDoesNotAllocate(t *testing.T) {
	m := &Message{Topic: "topics:matrix", Position: &Position{Epoch: 1, Offset: 2}, Event: "event", Payload: make([]byte, 4096)}
	buf := AppendItem(nil, KindMessage, m)
	if n := testing.AllocsPerRun(100, func() { buf = AppendItem(buf[:0], KindMessage, m) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
	batch := slices.Clone(buf)
	yield := func(Kind, []byte) error { return nil }
	if n := testing.AllocsPerRun(100, func() { _ = EachItem(batch, yield) }); n != 0 {
		t.Errorf("EachItem: %v allocations, want 0", n)
	}
}

// FuzzEachItem checks EachItem against the reference decoder, which validates the wire format of a message that has
// none of the fields, and checks that what is yielded survives being packed again.
func FuzzEachItem(f *testing.F) {
	upItems, _ := ups()
	downItems, _ := downs()
	f.Add([]byte{})
	f.Add(pack(upItems))
	f.Add(pack(downItems))
	f.Add(pack(downItems)[:60])
	f.Add(concat(varint(7, 1<<40), field(1, string(concat(varint(4, 1), field(5, "y")))), group(3, varint(1, 1))))
	f.Add([]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"))
	f.Fuzz(func(t *testing.T, batch []byte) {
		items, err := collect(batch)
		whole := proto.Unmarshal(batch, new(emptypb.Empty)) == nil
		for rest := batch; whole && len(rest) > 0; {
			num, typ, n := protowire.ConsumeTag(rest)
			m := protowire.ConsumeFieldValue(num, typ, rest[n:])
			if num == 1 && typ == protowire.BytesType {
				item, _ := protowire.ConsumeBytes(rest[n:])
				whole = proto.Unmarshal(item, new(emptypb.Empty)) == nil
			}
			rest = rest[n+m:]
		}
		if whole != (err == nil) {
			t.Fatalf("error %v, but the reference decoder says whole = %v", err, whole)
		}
		var again []byte
		_ = EachItem(batch, func(kind Kind, body []byte) error {
			again = append(again, field(1, string(field(kind, string(body))))...)
			return nil
		})
		if items2, err := collect(again); err != nil || !slices.Equal(items, items2) {
			t.Fatalf("packed again: %q, %v; want %q", items2, err, items)
		}
	})
}
