package session

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
)

// FuzzParseJoin: params of any kind are understood or refused with a reason that a client can be shown.
func FuzzParseJoin(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"since":null}`, `{"since":"1:2"}`, `{"since":"zzz"}`, `{"since":7}`, `{"\u0073ince":"ffffffffffffffff:18446744073709551615"}`,
		`{"presence":true}`, `{"presence":{"key":"ada","meta":{"device":"phone"}}}`, `{"presence":{"key":"__proto__"}}`, `{"presence":[]}`,
		`{"presence":{"meta":{"a":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}}}`, `[]`, `"since"`, `{"since":`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, params []byte) {
		j, err := parseJoin(params)
		switch {
		case err != nil && (!strings.HasPrefix(err.Error(), "invalid ") || len(err.Error()) > 200 || !utf8.ValidString(err.Error())):
			t.Errorf("%q is refused with %q", params, err)
		case err == nil && j.place != nil && !j.positions:
			t.Errorf("%q: a place, and no positions", params)
		}
	})
}

// hostile writes a message in one frame. The gateway may have closed the socket before.
func (c *client) hostile(first byte, payload string) {
	b := []byte{first}
	if len(payload) < 126 {
		b = append(b, 0x80|byte(len(payload)))
	} else {
		payload = payload[:min(len(payload), 0xffff)]
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(len(payload)))
	}
	_, _ = c.nc.Write(append(append(b, 0, 0, 0, 0), payload...))
}

// FuzzConversation: whatever a client says in whatever format, before or after a join, it harms no session but its own.
func FuzzConversation(f *testing.F) {
	kinds := []codec.Kind{codec.PhoenixV1, codec.PhoenixV2, codec.Realtime, codec.WestJSON, codec.WestText, codec.WestPB, codec.Plain}
	joins := map[codec.Kind]string{
		codec.PhoenixV1: `{"topic":"t:1","event":"phx_join","payload":{"presence":{"key":"ada"}},"ref":"1","join_ref":"1"}`,
		codec.PhoenixV2: `["1","1","t:1","phx_join",{"presence":{"key":"ada"},"since":null}]`,
		codec.Realtime:  `["1","1","realtime:1","phx_join",{"config":{"broadcast":{"ack":true,"self":true}}}]`,
		codec.WestJSON:  `{"event":"subscribe","channel":"c1"}`, codec.WestText: `sub c1`,
	}
	for _, seed := range []string{
		`["1","2","t:1","publish",["e",{"a":1},{"id":"x"}]]`, `["1","2","t:1","phx_leave",{}]`, `["2","2","t:1","phx_join",{"since":"zzz"}]`,
		`["1","2","t:1","presence_update",{"meta":{}}]`, `["1","2","names","phx_join",{"from":"u1"}]`, `["1","2","t:1","access_token",{"access_token":7}]`,
		`{"topic":"t:1","event":"e","payload":{},"ref":"2"}`, `["1","2","realtime:1","broadcast",{"type":"broadcast","event":"e","payload":{}}]`,
		`{"event":"publish","channel":"c1","data":"x"}`, `{"event":"register","channel":"n1"}`, `pub c1 "hello world"`, `reg n1`, `bye`, `ping`,
		"\x00\x01\x01\x03\x0112t:1edata", "\x03\x01\x01\x0a\x01\x00\x0112realtime:1e{}", "\x0a\x04ping", ``, "\x00", `[]`, `{`,
	} {
		for i := range kinds {
			f.Add(byte(i), true, seed[:len(seed)/2], seed)
		}
	}
	h := newHouse(f, "*:*", 100)
	witness := h.connect(f, codec.PhoenixV2)
	f.Fuzz(func(t *testing.T, kind byte, joined bool, first, second string) {
		witness.t = t
		k := kinds[int(kind)%len(kinds)]
		c := h.connectTo(t, func(conn *socket.Conn) socket.Handler {
			switch k {
			case codec.Realtime:
				return h.sessions.OpenRealtime(conn, k, nil)
			case codec.WestJSON, codec.WestText, codec.WestPB:
				return h.sessions.OpenWest(conn, k, WestOptions{Key: "u1"}, nil)
			case codec.Plain:
				return h.sessions.OpenPlain(conn, PlainOptions{Topics: []string{"t:1"}, Publish: true}, nil)
			}
			return h.sessions.Open(conn, k, nil)
		})
		opcode := byte(0x81)
		if k == codec.WestPB || len(second)%2 == 1 {
			opcode = 0x82
		}
		c.hostile(0x81, joins[k])
		c.hostile(opcode, first)
		c.hostile(opcode, second)
		c.hostile(0x89, "") // its pong comes when all that was handled, or the end does
		for buf := make([]byte, 4096); ; {
			n, err := c.nc.Read(buf)
			if err != nil || bytes.Contains(buf[:n], []byte{0x8a, 0}) {
				break
			}
			if bytes.Contains(buf[:n], []byte{0x88}) {
				c.nc.Close()
			}
		}
		c.nc.Close()
		witness.say(`[null,"7","phoenix","heartbeat",{}]`)
		witness.expect(`[null,"7","phoenix","phx_reply",{"response":{},"status":"ok"}]`)
		if n := h.loops.Stats().Panics; n > 0 {
			t.Fatalf("%s: panic", fmt.Sprint(k))
		}
	})
}
