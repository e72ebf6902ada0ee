package codec

import "testing"

const text110 = `01234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789`

// push128 is an ordinary frame of each Phoenix codec, with a payload of 124 bytes. WEST's codecs encode once per message,
// not once per subscriber, and may allocate.
var push128 = [NumKinds]string{
	PhoenixV2: `["1","42","topics:matrix","shout",{"message":"` + text110 + `"}]`,
	PhoenixV1: `{"topic":"topics:matrix","event":"shout","payload":{"message":"` + text110 + `"},"ref":"42","join_ref":"1"}`,
}

func TestAllocations(t *testing.T) {
	p := Push{Topic: "topics:matrix", Event: "shout", Payload: []byte(`{}`)}
	buf := make([]byte, 0, 256)
	joinRef, ref := Ref(`"1"`), Ref(`"17:4"`)
	for k := range Kind(NumKinds) {
		if push128[k] == "" {
			continue
		}
		c, data := ForKind(k), []byte(push128[k])
		for _, tt := range []struct {
			name string
			f    func()
		}{
			{"Decode", func() {
				if _, err := c.Decode(data, false); err != nil {
					t.Fatal(err)
				}
			}},
			{"AppendHead", func() { c.AppendHead(buf, joinRef, ref, &p) }},
			{"AppendBody", func() { c.AppendBody(buf, &p) }},
			{"AppendReply", func() { c.AppendReply(buf, joinRef, ref, "topics:matrix", "ok", nil) }},
		} {
			if n := testing.AllocsPerRun(100, tt.f); n != 0 {
				t.Errorf("%s: %s allocates %v times", k, tt.name, n)
			}
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	for k := range Kind(NumKinds) {
		if push128[k] == "" {
			continue
		}
		b.Run(k.String(), func(b *testing.B) {
			c, data := ForKind(k), []byte(push128[k])
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Decode(data, false); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendBody(b *testing.B) {
	for k := range Kind(NumKinds) {
		if push128[k] == "" {
			continue
		}
		b.Run(k.String(), func(b *testing.B) {
			c := ForKind(k)
			f, err := c.Decode([]byte(push128[k]), false)
			if err != nil {
				b.Fatal(err)
			}
			p := Push{Topic: string(f.Topic), Event: string(f.Event), Payload: f.Payload}
			buf := make([]byte, 0, 256)
			b.SetBytes(int64(len(c.AppendBody(buf, &p))))
			b.ReportAllocs()
			for b.Loop() {
				c.AppendBody(buf, &p)
			}
		})
	}
}
