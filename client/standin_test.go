package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"

	"github.com/coder/websocket"
)

// standIn is what the examples connect to instead of a gateway: one process that does what they need, and nothing more.
type standIn struct {
	*httptest.Server

	mu      sync.Mutex
	lastRef int
	topics  map[string]*standInTopic
	names   map[string]*member // exclusive names
	ids     map[string]bool    // publish ids
}

type standInTopic struct {
	members  map[*websocket.Conn]*member
	messages []standInMessage // the message at offset i+1
}

type standInMessage struct{ event, payload json.RawMessage }

// member is one channel.
type member struct {
	ws        *websocket.Conn
	joinRef   json.RawMessage
	positions bool
	from      string // of a sender to names
	key, meta string // of one who is present
}

// newStandIn starts a stand-in; its URL is http://127.0.0.1:….
func newStandIn() *standIn {
	s := &standIn{topics: make(map[string]*standInTopic), names: make(map[string]*member), ids: make(map[string]bool)}
	s.Server = httptest.NewServer(s)
	return s
}

func (s *standIn) topic(name string) *standInTopic {
	t := s.topics[name]
	if t == nil {
		t = &standInTopic{members: make(map[*websocket.Conn]*member)}
		s.topics[name] = t
	}
	return t
}

// dropAll breaks every connection.
func (s *standIn) dropAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.topics {
		for ws := range t.members {
			_ = ws.CloseNow()
		}
	}
}

// publishTooFast publishes as many messages as a gateway would have to skip, all but the last, for channels that asked for it.
func (s *standIn) publishTooFast(topic, event string, payloads ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(payloads) - 1
	for _, m := range s.topic(topic).members {
		write(m.ws, m.joinRef, nil, topic, "phx_skipped", map[string]any{"from": position(0), "to": position(last - 1), "count": last})
		write(m.ws, m.joinRef, nil, topic, event, json.RawMessage(payloads[last]))
	}
}

// ServeHTTP implements http.Handler.
func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer s.gone(ws)
	for {
		kind, data, err := ws.Read(r.Context())
		if err != nil {
			return
		}
		s.mu.Lock()
		if kind == websocket.MessageBinary {
			s.binary(ws, data)
		} else {
			s.text(ws, data)
		}
		s.mu.Unlock()
	}
}

func write(ws *websocket.Conn, frame ...any) {
	data, _ := json.Marshal(frame)
	_ = ws.Write(context.Background(), websocket.MessageText, data) // a failure ends the next Read
}

func (s *standIn) gone(ws *websocket.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, t := range s.topics {
		m := t.members[ws]
		delete(t.members, ws)
		if m != nil && m.meta != "" {
			s.presence(name, "", "", m.key, m.meta)
		}
	}
	maps.DeleteFunc(s.names, func(_ string, m *member) bool { return m.ws == ws })
}

func (s *standIn) text(ws *websocket.Conn, data []byte) {
	var f [5]json.RawMessage
	var topic, event string
	if json.Unmarshal(data, &f) != nil || json.Unmarshal(f[2], &topic) != nil || json.Unmarshal(f[3], &event) != nil {
		return
	}
	reply := func(status string, response any) {
		write(ws, f[0], f[1], topic, "phx_reply", map[string]any{"status": status, "response": response})
	}
	switch {
	case event == "phx_join":
		s.join(ws, topic, f, reply)
	case topic == "names":
		s.name(ws, event, f[4], reply)
	case event == "publish":
		s.publish(topic, f[4], reply)
	default:
		reply("ok", struct{}{})
	}
}

// binary is a publish of bytes, which every member gets as they are.
func (s *standIn) binary(ws *websocket.Conn, data []byte) {
	joinRef, ref, topic, event, payload := split(data)
	write(ws, joinRef, ref, topic, "phx_reply", map[string]any{"status": "ok", "response": struct{}{}})
	frame := append([]byte{2, byte(len(topic)), byte(len(event))}, topic+event...)
	for to := range s.topic(topic).members {
		_ = to.Write(context.Background(), websocket.MessageBinary, append(frame, payload...))
	}
}

func split(b []byte) (joinRef, ref, topic, event, payload string) {
	lengths, rest := b[1:5], b[5:]
	for i, part := range []*string{&joinRef, &ref, &topic, &event} {
		*part, rest = string(rest[:lengths[i]]), rest[lengths[i]:]
	}
	return joinRef, ref, topic, event, string(rest)
}

func (s *standIn) join(ws *websocket.Conn, topic string, f [5]json.RawMessage, reply func(string, any)) {
	var params struct {
		From     string
		Presence *struct {
			Key  string
			Meta json.RawMessage
		}
	}
	var keys map[string]any
	_, _ = json.Unmarshal(f[4], &params), json.Unmarshal(f[4], &keys)
	t, m := s.topic(topic), &member{ws: ws, joinRef: f[0], from: params.From}
	since, positions := keys["since"]
	m.positions = positions
	t.members[ws] = m
	reply("ok", struct{}{})
	if p := params.Presence; p != nil {
		m.key, m.meta = p.Key, s.meta(p.Meta)
		write(ws, f[0], nil, topic, "presence_state", json.RawMessage("{}"))
		s.presence(topic, m.key, m.meta, "", "")
	}
	for i, message := range t.messages {
		if text, ok := since.(string); ok && position(i) > text {
			m.send(topic, i, message)
		}
	}
}

func (s *standIn) meta(object json.RawMessage) string {
	s.lastRef++
	return fmt.Sprintf(`{"phx_ref":"%d",%s`, s.lastRef, object[1:])
}

func (s *standIn) presence(topic, joined, meta, left, leftMeta string) {
	diff := map[string]map[string]any{"joins": {}, "leaves": {}}
	if joined != "" {
		diff["joins"][joined] = map[string]any{"metas": []json.RawMessage{json.RawMessage(meta)}}
	}
	if left != "" {
		diff["leaves"][left] = map[string]any{"metas": []json.RawMessage{json.RawMessage(leftMeta)}}
	}
	for _, m := range s.topic(topic).members {
		write(m.ws, nil, nil, topic, "presence_diff", diff)
	}
}

func position(i int) string { return fmt.Sprintf("epoch:%d", i+1) }

func (m *member) send(topic string, i int, message standInMessage) {
	var ref any
	if m.positions {
		ref = position(i)
	}
	write(m.ws, m.joinRef, ref, topic, message.event, message.payload)
}

func (s *standIn) publish(topic string, payload json.RawMessage, reply func(string, any)) {
	var parts []json.RawMessage
	if json.Unmarshal(payload, &parts) != nil || len(parts) < 2 {
		reply("error", map[string]string{"reason": "bad publish"})
		return
	}
	reply("ok", struct{}{})
	if len(parts) > 2 {
		if id := string(parts[2]); s.ids[id] {
			return
		} else {
			s.ids[id] = true
		}
	}
	t := s.topic(topic)
	message := standInMessage{parts[0], parts[1]}
	t.messages = append(t.messages, message)
	for _, m := range t.members {
		m.send(topic, len(t.messages)-1, message)
	}
}

func (s *standIn) name(ws *websocket.Conn, event string, payload json.RawMessage, reply func(string, any)) {
	var p struct {
		Name, ID string
		Data     json.RawMessage
	}
	_ = json.Unmarshal(payload, &p)
	from := s.topic("names").members[ws]
	holder := s.names[p.Name]
	switch {
	case event == "register" && holder != nil && holder != from:
		reply("error", map[string]string{"reason": "name_taken"})
	case event == "register":
		s.names[p.Name] = from
		reply("ok", struct{}{})
	case event == "send" && holder == nil:
		reply("error", map[string]string{"reason": "not_registered"})
	case event == "send":
		reply("ok", struct{}{})
		write(holder.ws, holder.joinRef, nil, "names", "new_message",
			map[string]any{"name": p.Name, "from": from.from, "id": p.ID, "data": p.Data})
	}
}
