package cluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/protobuf/proto"

	"github.com/ringcast/ringcast/client"
	"github.com/ringcast/ringcast/client/west"
	"github.com/ringcast/ringcast/cluster"
	"github.com/ringcast/ringcast/proto/westpb"
	"github.com/ringcast/ringcast/topicserver"
)

// westUser is a client of WEST in one of the ways that there are.
type westUser interface {
	// ask does one command and returns the event of its reply.
	ask(verb, channel, data string) string
	// hears returns the next message as "from channel data".
	hears() string
	// hearsNothing checks that no message is on its way.
	hearsNothing()
	hangUp()
}

// westKinds are the ways.
var westKinds = []string{"json", "text", "pb", "go"}

func newWestUser(t *testing.T, kind, name, addr string) westUser {
	t.Helper()
	if kind == "go" {
		u := &goUser{t: t, events: make(chan west.Event, 1000)}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		peer, err := west.Start(ctx, "ws://"+addr+"/socket", name, func(e west.Event) { u.events <- e }, client.Config{PushTimeout: patience})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = peer.Stop() })
		u.peer = peer
		return u
	}
	u := &frameUser{socket: dial(t, name, "ws://"+addr+"/websocket/"+kind+"/"+name), kind: kind}
	u.record() // the greeting
	return u
}

// frameUser speaks one of WEST's formats.
type frameUser struct {
	*socket
	kind     string
	messages []string
}

// record reads the next record; a message's event is new_message.
func (u *frameUser) record() (event, message string) {
	u.t.Helper()
	text := u.hear()
	switch u.kind {
	case "json":
		var m struct{ Event, Channel, From, Data string }
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			u.t.Fatalf("%s heard %s", u.name, text)
		}
		return m.Event, m.From + " " + m.Channel + " " + m.Data
	case "pb":
		var m westpb.Message
		if err := m.UnmarshalVT([]byte(text)); err != nil {
			u.t.Fatalf("%s heard %q", u.name, text)
		}
		return m.GetEvent(), m.GetFrom() + " " + m.GetChannel() + " " + string(m.Data)
	}
	if event, ok := strings.CutPrefix(text, "west:"); ok {
		return event, ""
	}
	from, rest, _ := strings.Cut(text, " ")
	channel, rest, _ := strings.Cut(rest, ":")
	event, data, _ := strings.Cut(rest, " ")
	return event, from + " " + channel + " " + data
}

func (u *frameUser) ask(verb, channel, data string) string {
	u.t.Helper()
	switch u.kind {
	case "text":
		short := map[string]string{"register": "reg", "unregister": "unreg", "subscribe": "sub", "unsubscribe": "unsub", "publish": "pub"}
		if s := short[verb]; s != "" {
			verb = s
		}
		line := strings.TrimSpace(verb + " " + channel)
		if data != "" {
			line += ` "` + data + `"`
		}
		u.say(line)
	case "json":
		m := map[string]string{"event": verb, "channel": channel}
		if data != "" {
			m["data"] = data
		}
		b, _ := json.Marshal(m)
		u.say(string(b))
	case "pb":
		m := westpb.Message{Event: proto.String(verb), Channel: proto.String(channel)}
		if data != "" {
			m.Data = []byte(data)
		}
		b, err := m.MarshalVT()
		if err != nil {
			u.t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(u.t.Context(), patience)
		defer cancel()
		if err := u.ws.Write(ctx, websocket.MessageBinary, b); err != nil {
			u.t.Fatal(err)
		}
	}
	for {
		event, message := u.record()
		if event != "new_message" {
			return event
		}
		u.messages = append(u.messages, message)
	}
}

func (u *frameUser) hears() string {
	u.t.Helper()
	if len(u.messages) > 0 {
		first := u.messages[0]
		u.messages = u.messages[1:]
		return first
	}
	event, message := u.record()
	if event != "new_message" {
		u.t.Fatalf("%s heard %s %s, want a message", u.name, event, message)
	}
	return message
}

func (u *frameUser) hearsNothing() {
	u.t.Helper()
	if got := u.ask("subscribe", "", ""); got != "subscription_failed" || len(u.messages) > 0 {
		u.t.Errorf("%s heard %s, %q", u.name, got, u.messages)
	}
}

func (u *frameUser) hangUp() { _ = u.ws.CloseNow() }

// goUser is a Go program.
type goUser struct {
	t      *testing.T
	peer   *west.Peer
	events chan west.Event
}

func (u *goUser) ask(verb, channel, data string) string {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), patience)
	defer cancel()
	var err error
	noun := map[string]string{
		"register": "registration", "unregister": "unregistration", "send": "sending", "subscribe": "subscription",
		"unsubscribe": "unsubscription", "publish": "publication",
	}[verb]
	switch verb {
	case "register":
		err = u.peer.Reg(ctx, channel)
	case "unregister":
		err = u.peer.Unreg(ctx, channel)
	case "send":
		err = u.peer.Send(ctx, channel, []byte(data))
	case "subscribe":
		err = u.peer.Sub(ctx, channel)
	case "unsubscribe":
		err = u.peer.Unsub(ctx, channel)
	case "publish":
		err = u.peer.Pub(ctx, channel, []byte(data))
	}
	switch {
	case err == nil:
		return noun + "_succeeded"
	case errors.Is(err, client.ErrNameRegistered):
		return "registration_already_exist"
	case errors.Is(err, client.ErrNameTaken):
		return "registration_denied"
	case errors.Is(err, client.ErrNameNotFound):
		return "registration_not_found"
	case errors.Is(err, west.ErrSubscribed):
		return "subscription_already_exist"
	case errors.Is(err, west.ErrNotSubscribed):
		return "subscription_not_found"
	}
	u.t.Logf("%s %s: %v", verb, channel, err)
	return noun + "_failed"
}

func (u *goUser) hears() string {
	u.t.Helper()
	select {
	case e := <-u.events:
		return e.From + " " + e.Channel + " " + string(e.Data)
	case <-time.After(patience):
		u.t.Fatal("no message")
		return ""
	}
}

func (u *goUser) hearsNothing() {
	u.t.Helper()
	if len(u.events) > 0 {
		u.t.Errorf("heard %v", <-u.events)
	}
}

func (u *goUser) hangUp() { _ = u.peer.Stop() }

func wants(t *testing.T, u westUser, verb, channel, data, want string) {
	t.Helper()
	if got := u.ask(verb, channel, data); got != want {
		t.Errorf("%s %s: %s, want %s", verb, channel, got, want)
	}
}

func wantsHeard(t *testing.T, u westUser, want string) {
	t.Helper()
	if got := u.hears(); got != want {
		t.Errorf("heard %q, want %q", got, want)
	}
}

// quickNames shortens what a server waits for before it gives names away.
func quickNames(cfg *cluster.Config) {
	cfg.TopicServer = func(c *topicserver.Config) { c.NameGrace = 400 * time.Millisecond }
}

// WEST's own script of tests: three users, everything that can be asked about names and channels.
func TestW22_Script(t *testing.T) {
	for _, kind := range append(westKinds, "mixed") {
		t.Run(kind, func(t *testing.T) {
			c := start(t, quickNames)
			var users []westUser
			for i, name := range []string{"u1", "u2", "u3"} {
				k := kind
				if kind == "mixed" {
					k = []string{"json", "pb", "text"}[i]
				}
				users = append(users, newWestUser(t, k, name, c.Gateways[i%2].Addr))
			}
			namesScript(t, users)
			channelsScript(t, users)
		})
	}
}

func namesScript(t *testing.T, users []westUser) {
	t.Helper()
	u1, u2, u3 := users[0], users[1], users[2]
	for i, u := range users {
		wants(t, u, "register", fmt.Sprintf("r%d", i+1), "", "registration_succeeded")
	}
	wants(t, u1, "register", "r1", "", "registration_already_exist")
	wants(t, u2, "register", "r1", "", "registration_denied")
	wants(t, u1, "send", "r2", "hello!", "sending_succeeded")
	wantsHeard(t, u2, "u1 r2 hello!")
	wants(t, u2, "send", "r1", "hi there", "sending_succeeded")
	wantsHeard(t, u1, "u2 r1 hi there")
	wants(t, u3, "send", "r3", "to myself", "sending_succeeded")
	wantsHeard(t, u3, "u3 r3 to myself")
	wants(t, u1, "send", "rX", "x", "registration_not_found")
	wants(t, u1, "unregister", "r1", "", "unregistration_succeeded")
	for _, u := range users {
		wants(t, u, "send", "r1", "x", "registration_not_found")
	}
	wants(t, u2, "unregister", "r3", "", "registration_not_found")
	wants(t, u1, "unregister", "r1", "", "registration_not_found")
	wants(t, u2, "register", "r1", "", "registration_succeeded")
	wants(t, u1, "send", "r1", "yours now", "sending_succeeded")
	wantsHeard(t, u2, "u1 r1 yours now")
	for _, u := range users {
		u.hearsNothing()
	}
}

func channelsScript(t *testing.T, users []westUser) {
	t.Helper()
	for n, channel := range []string{"ps1", "ps2", "ps3"} {
		for _, u := range users[:3-n] {
			wants(t, u, "subscribe", channel, "", "subscription_succeeded")
		}
	}
	wants(t, users[0], "subscribe", "ps1", "", "subscription_already_exist")
	for round := range 2 {
		for n, channel := range []string{"ps1", "ps2", "ps3"} {
			wants(t, users[0], "publish", channel, fmt.Sprint("round ", round), "publication_succeeded")
			for _, u := range users[min(round, 3-n) : 3-n] { // in the second round the first user has gone
				wantsHeard(t, u, fmt.Sprintf("u1 %s round %d", channel, round))
			}
		}
		if round == 0 {
			for _, channel := range []string{"ps1", "ps2", "ps3"} {
				wants(t, users[0], "unsubscribe", channel, "", "unsubscription_succeeded")
				wants(t, users[0], "unsubscribe", channel, "", "subscription_not_found")
			}
		}
	}
	for _, u := range users {
		u.hearsNothing()
	}
}

// Phoenix clients have names too, and send to those of others and to themselves.
func TestNames_PhoenixClients(t *testing.T) {
	c := start(t, quickNames)
	a, b := dial(t, "a", c.Gateways[0].WebSocketURL()), dial(t, "b", c.Gateways[1].WebSocketURL())
	w := newWestUser(t, "text", "w", c.Gateways[0].Addr)
	for _, s := range []*socket{a, b} {
		s.say(`["1","1","names","phx_join",{"from":"` + s.name + `"}]`)
		s.expect(`["1","1","names","phx_reply",{"response":{},"status":"ok"}]`)
	}
	const ok = `"names","phx_reply",{"response":{},"status":"ok"}]`
	a.say(`["1","2","names","register",{"name":"alice"}]`)
	a.expect(`["1","2",` + ok)
	a.say(`["1","3","names","register",{"name":"alice"}]`)
	a.expect(`["1","3","names","phx_reply",{"response":{"reason":"already_registered"},"status":"error"}]`)
	b.say(`["1","2","names","register",{"name":"alice"}]`)
	b.expect(`["1","2","names","phx_reply",{"response":{"reason":"name_taken","detail":"another session holds the name"},"status":"error"}]`)
	b.say(`["1","3","names","send",{"name":"alice","id":"q1","data":{"n": [1, 2]}}]`)
	b.expect(`["1","3",` + ok)
	a.expect(`["1",null,"names","new_message",{"name":"alice","from":"b","id":"q1","data":{"n": [1, 2]}}]`)
	wants(t, w, "send", "alice", "from WEST", "sending_succeeded")
	a.expect(`["1",null,"names","new_message",{"name":"alice","from":"w","data":"from WEST"}]`)
	b.say(`["1","4","names","send",{"name":"nobody","data":1}]`)
	b.expect(`["1","4","names","phx_reply",{"response":{"reason":"not_registered","detail":"nobody holds the name"},"status":"error"}]`)
	a.say(`["1","4","names","phx_leave",{}]`)
	a.expect(`["1","4",`+ok, `["1","1","names","phx_close",{}]`)
	eventually(t, "alice is free", func() bool { return w.ask("register", "alice", "") == "registration_succeeded" })
	b.say(`["1","5","names","send",{"name":"alice","data":"hi"}]`)
	b.expect(`["1","5",` + ok)
	wantsHeard(t, w, "b alice hi")
}
