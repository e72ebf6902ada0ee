package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringcast/ringcast/client"
	"github.com/ringcast/ringcast/client/west"
	"github.com/ringcast/ringcast/cluster"
	"github.com/ringcast/ringcast/shared/ring"
)

// W1 to W12 byte by byte are transcripts of gateway/session; here they are heard over the network, once in each format.
func TestW1_W10_CommandsAndReplies(t *testing.T) {
	c := start(t, quickNames)
	url := func(format string) string { return "ws://" + c.Gateways[0].Addr + "/websocket/" + format + "/u1" }
	j := dial(t, "json", url("json"))
	j.expect(`{"event":"connection_established","from":"west"}`)
	for _, one := range [][2]string{
		{`{"event":"ping","id":"1"}`, `{"event":"pong","from":"west","id":"1"}`},
		{`{"event":"register","channel":"r1"}`, `{"event":"registration_succeeded","channel":"r1","from":"west"}`},
		{`{"event":"register","channel":"r1","id":"2"}`, `{"event":"registration_already_exist","channel":"r1","from":"west","id":"2"}`},
		{`{"event":"register"}`, `{"event":"registration_failed","from":"west"}`},
		{`{"event":"unregister"}`, `{"event":"unregistration_failed","from":"west"}`},
		{`{"event":"unregister","channel":"r2"}`, `{"event":"registration_not_found","channel":"r2","from":"west"}`},
		{`{"event":"send","channel":"r1"}`, `{"event":"sending_failed","channel":"r1","from":"west"}`},
		{`{"event":"send","data":"x"}`, `{"event":"sending_failed","from":"west"}`},
		{`{"event":"fly","channel":"r1","id":"3"}`, `{"event":"action_not_allowed","channel":"r1","from":"west","id":"3"}`},
		{`{"event"`, `invalid_json`},
		{`[1]`, `decoding_error`},
	} {
		j.say(one[0])
		j.expect(one[1])
	}
	x := dial(t, "text", url("text"))
	x.expect("Welcome !")
	for _, one := range [][2]string{
		{`ping`, `west pong`}, {`reg r1`, `west r1:registration_denied`}, {`reg t1`, `west t1:registration_succeeded`},
		{`send r1 "hello there"`, `west r1:sending_succeeded`}, {`send rX x`, `west rX:registration_not_found`}, {`dance`, `west:action_not_allowed`},
	} {
		x.say(one[0])
		x.expect(one[1])
	}
	j.expect(`{"event":"new_message","channel":"r1","from":"u1","data":"hello there"}`)
	j.say(`{"event":"send","channel":"t1","data":"hi","id":"7"}`)
	j.expect(`{"event":"sending_succeeded","channel":"t1","from":"west","id":"7"}`)
	x.expect("u1 t1:new_message hi")
	x.say("bye")
	x.expect("Goodbye !", "6 text messages received", "0 binary messages received")
	x.expectClose(1000, "bye")
}

// Who dies has no names and no subscriptions any more.
func TestWest_NamesEndWithTheirSocket(t *testing.T) {
	for _, kind := range westKinds {
		t.Run(kind, func(t *testing.T) {
			c := start(t, quickNames)
			u1, u2 := newWestUser(t, kind, "u1", c.Gateways[0].Addr), newWestUser(t, "json", "u2", c.Gateways[1].Addr)
			wants(t, u1, "register", "r1", "", "registration_succeeded")
			wants(t, u2, "register", "r1", "", "registration_denied")
			u1.hangUp()
			eventually(t, "the name is free", func() bool { return u2.ask("register", "r1", "") == "registration_succeeded" })
			wants(t, u2, "send", "r1", "mine", "sending_succeeded")
			wantsHeard(t, u2, "u2 r1 mine")
		})
	}
}

func TestW20_GoClient(t *testing.T) {
	c := start(t, quickNames)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	events := make(chan west.Event, 10)
	u1, err := west.Start(ctx, c.Gateways[0].URL(), "u1", nil, client.Config{PushTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	defer u1.Stop()
	u2, err := west.Start(ctx, c.Gateways[1].URL(), "u2", nil, client.Config{PushTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	defer u2.Stop()
	u2.SetCallback(func(e west.Event) { events <- e })
	if err := errors.Join(u1.Reg(ctx, "r1"), u2.Reg(ctx, "r2"), u1.Sub(ctx, "ps1"), u1.Send(ctx, "r2", []byte("hello!"))); err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-events:
		if e.From != "u1" || e.Channel != "r2" || string(e.Data) != "hello!" {
			t.Errorf("u2's callback gets %+v", e)
		}
	case <-ctx.Done():
		t.Fatal("u2's callback is not called")
	}
	if names, channels := u1.Events(); fmt.Sprint(names, channels) != "[r1] [ps1]" {
		t.Errorf("u1 has %v and %v", names, channels)
	}
	if err := u1.Stop(); err != nil {
		t.Error(err)
	}
	eventually(t, "u1's name has gone with it", func() bool { return errors.Is(u2.Send(ctx, "r1", nil), client.ErrNameNotFound) })
}

// Both subscribe; what one publishes comes to both, itself included, and it is told that it was published.
func TestW21_PublishReachesTheSenderToo(t *testing.T) {
	c := start(t)
	u1, u2 := newWestUser(t, "json", "u1", c.Gateways[0].Addr), newWestUser(t, "json", "u2", c.Gateways[1].Addr)
	for _, u := range []westUser{u1, u2} {
		wants(t, u, "subscribe", "ps1", "", "subscription_succeeded")
	}
	for i, u := range []westUser{u1, u2} {
		wants(t, u, "publish", "ps1", "All", "publication_succeeded")
		for _, other := range []westUser{u1, u2} {
			wantsHeard(t, other, fmt.Sprintf("u%d ps1 All", i+1))
		}
	}
	u1.hearsNothing()
	u2.hearsNothing()
}

// A request is a message to a server's name that carries an id; the reply is one to the requester's name with the same id.
func TestW23_RequestAndReply(t *testing.T) {
	c := start(t, quickNames)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	connect := func(gw int, cfg client.NamesConfig) *client.Names {
		t.Helper()
		conn, err := client.Dial(ctx, c.Gateways[gw].URL(), client.Config{PushTimeout: patience})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		n, err := conn.Names(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	requests := make(chan client.NameMessage, 10)
	server := connect(0, client.NamesConfig{From: "adder", OnMessage: func(m client.NameMessage) { requests <- m }})
	if err := server.Register(ctx, "adder"); err != nil {
		t.Fatal(err)
	}
	go func() {
		for range 2 {
			m := <-requests
			_ = server.Reply(ctx, m, map[string]any{"sum": 5, "of": m.Data})
		}
	}()
	asker := connect(1, client.NamesConfig{From: "u1"})
	reply, err := asker.Request(ctx, "adder", []int{2, 3})
	if err != nil || string(reply.Data) != `{"of":[2,3],"sum":5}` || reply.From != "adder" {
		t.Errorf("reply %+v, %v", reply, err)
	}
	if _, err := asker.Request(ctx, "nobody", nil); !errors.Is(err, client.ErrNameNotFound) {
		t.Errorf("a request to nobody: %v", err)
	}
	if err := asker.Register(ctx, "silent"); err != nil {
		t.Fatal(err)
	}
	short, stop := context.WithTimeout(ctx, 500*time.Millisecond)
	defer stop()
	if _, err := asker.Request(short, "silent", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a request that nobody answers: %v", err)
	}

	// The same by hand, with a client of WEST.
	u := dial(t, "u2", "ws://"+c.Gateways[1].Addr+"/websocket/json/u2")
	u.expect(`{"event":"connection_established","from":"west"}`)
	u.say(`{"event":"register","channel":"u2"}`)
	u.expect(`{"event":"registration_succeeded","channel":"u2","from":"west"}`)
	u.say(`{"event":"send","channel":"adder","data":"2+3","id":"q7"}`)
	got := []string{u.hear(), u.hear()}
	if got[0] != `{"event":"sending_succeeded","channel":"adder","from":"west","id":"q7"}` {
		got[0], got[1] = got[1], got[0]
	}
	if got[0] != `{"event":"sending_succeeded","channel":"adder","from":"west","id":"q7"}` ||
		got[1] != `{"event":"new_message","channel":"u2","from":"adder","id":"q7","data":"{\"of\":\"2+3\",\"sum\":5}"}` {
		t.Errorf("heard %s", got)
	}
}

// What a client of any kind publishes comes to clients of every kind on every gateway with the same bytes.
func TestW24_FormatsInteroperate(t *testing.T) {
	c := start(t, quickNames)
	var users []westUser
	for i, kind := range westKinds {
		u := newWestUser(t, kind, "u-"+kind, c.Gateways[i%2].Addr)
		wants(t, u, "subscribe", "ps1", "", "subscription_succeeded")
		users = append(users, u)
	}
	phoenix := dial(t, "phoenix", c.Gateways[1].WebSocketURL())
	phoenix.join("west:ps1")
	for i, u := range users {
		data := "caf\u00e9 <&> \U0001d11e from " + westKinds[i]
		wants(t, u, "publish", "ps1", data, "publication_succeeded")
		for _, other := range users {
			wantsHeard(t, other, "u-"+westKinds[i]+" ps1 "+data)
		}
		phoenix.expect(fmt.Sprintf(`["1",null,"west:ps1","new_message",{"channel":"ps1","from":"u-%s","data":%q}]`, westKinds[i], data))
	}
	phoenix.say(`["1","2","west:ps1","new_message",{"channel":"ps1","from":"p","data":"from Phoenix"}]`)
	for _, u := range users {
		wantsHeard(t, u, "p ps1 from Phoenix")
	}
	// Bytes that are no text: from Protobuf to Protobuf and to Go as they are.
	const raw = "\x00\xff\xfe raw"
	wants(t, users[2], "publish", "ps1", raw, "publication_succeeded")
	for _, i := range []int{1, 2, 3} {
		wantsHeard(t, users[i], "u-pb ps1 "+raw)
	}
	wantsHeard(t, users[0], "u-pb ps1 AP/+IHJhdw==") // base64, as its encoding member says
}

// One process with one of each serves all that a cluster does.
func TestW25_SingleNode(t *testing.T) {
	c := start(t, quickNames, func(cfg *cluster.Config) { cfg.TopicServers, cfg.Gateways = 1, 1 })
	var users []westUser
	for i, kind := range []string{"json", "text", "go"} {
		users = append(users, newWestUser(t, kind, fmt.Sprint("u", i+1), c.Gateways[0].Addr))
	}
	namesScript(t, users)
	channelsScript(t, users)
}

// Three nodes of each kind: every name has one owner, whoever asks from wherever.
func TestW26_Sharding(t *testing.T) {
	c := start(t, quickNames, func(cfg *cluster.Config) { cfg.TopicServers, cfg.Gateways = 3, 3 })
	var users []westUser
	for i, kind := range []string{"json", "text", "pb"} {
		users = append(users, newWestUser(t, kind, fmt.Sprint("u", i+1), c.Gateways[i].Addr))
	}
	owners := map[string]bool{}
	for n := range 30 {
		name := fmt.Sprint("device", n)
		owners[c.Owner("reg:"+name).ID] = true
		a, b, far := users[n%3], users[(n+1)%3], users[(n+2)%3]
		wants(t, a, "register", name, "", "registration_succeeded")
		wants(t, b, "register", name, "", "registration_denied")
		wants(t, far, "send", name, "x", "sending_succeeded")
		wantsHeard(t, a, fmt.Sprintf("u%d %s x", (n+2)%3+1, name))
	}
	if len(owners) != 3 {
		t.Errorf("the names belong to %v", owners)
	}
	held := int64(0)
	for _, ts := range c.TopicServers {
		held += ts.Names()
	}
	if held != 30 {
		t.Errorf("%d names are held, want 30", held)
	}
}

// Servers come and go while names are held and sent to: no name is lost or held twice, and every message that was accepted
// arrives, once.
func TestW28_RingEditsLoseNoRegistration(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b := s.topicserver("ts-a"), s.topicserver("ts-b")
	gw1, gw2 := s.gateway("GATEWAY_ID=gw-1"), s.gateway("GATEWAY_ID=gw-2")
	gw1.ready()
	gw2.ready()
	holder, rival := newWestUser(t, "json", "holder", gw1.addr), newWestUser(t, "text", "rival", gw2.addr)
	const names = 12
	for n := range names {
		wants(t, holder, "register", fmt.Sprint("r", n), "", "registration_succeeded")
	}
	sent := 0
	check := func() {
		t.Helper()
		for n := range names {
			name := fmt.Sprint("r", n)
			wants(t, rival, "register", name, "", "registration_denied")
			sent++
			wants(t, rival, "send", name, fmt.Sprint("n", sent), "sending_succeeded")
			wantsHeard(t, holder, fmt.Sprintf("rival %s n%d", name, sent))
		}
		holder.hearsNothing()
	}
	check()
	addr := freeAddr(t)
	add := func(path string) (*ring.Ring, error) {
		return ring.Add(path, ring.Server{ID: "ts-c", Addr: addr, Weight: 1})
	}
	// The new server is there when the others hear of it: names are given up whose new owner is away for 3 s.
	c := s.newcomer("ts-c", add)
	s.edit(add)
	check() // while some have read the new ring and others have not
	s.uses(2, a.admin, b.admin, c.admin, gw1.admin, gw2.admin)
	check()
	s.edit(func(path string) (*ring.Ring, error) { return ring.Remove(path, "ts-a", false) }, b.admin, c.admin, gw1.admin, gw2.admin)
	check()
	a.signal(syscall.SIGTERM)
	a.exits(0)
	check()
	if _, text := fetch(gw1.admin, "/metrics"); !strings.Contains(text, fmt.Sprintf("ringcast_gateway_names %d\n", names)) ||
		!strings.Contains(text, "ringcast_gateway_names_lost_total 0\n") {
		t.Errorf("the gateway has lost names:\n%s", text)
	}
}

// A topic server is killed and comes back: the gateways bring their names back before anybody else gets one. A gateway is
// killed: its names are free when the grace is over.
func TestW28_CrashesKeepNamesExclusive(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.env = []string{"NAME_GRACE=4s"}
	s.topicserver("ts-b")
	s.env = []string{"NAME_GRACE=12s"} // this one may take half of it to come back
	a := s.topicserver("ts-a")
	gw1, gw2 := s.gateway("GATEWAY_ID=gw-1"), s.gateway("GATEWAY_ID=gw-2")
	gw1.ready()
	gw2.ready()
	holder, rival := newWestUser(t, "pb", "holder", gw1.addr), newWestUser(t, "json", "rival", gw2.addr)
	const names = 8
	for n := range names { // not before the servers have been there for half of their grace
		eventually(t, fmt.Sprint("r", n, " is had"), func() bool { return holder.ask("register", fmt.Sprint("r", n), "") == "registration_succeeded" })
	}
	a.kill()
	s.topicserver("ts-a")
	for n := range names {
		name := fmt.Sprint("r", n)
		var got string
		eventually(t, name+" has an owner again", func() bool {
			got = rival.ask("register", name, "")
			return got != "internal_error"
		})
		if got != "registration_denied" {
			t.Errorf("%s: %s, want denied", name, got)
		}
		wants(t, rival, "send", name, "still yours", "sending_succeeded")
		wantsHeard(t, holder, "rival "+name+" still yours")
	}
	gw1.kill()
	freed := 0
	for n := range names {
		name := fmt.Sprint("r", n)
		if s.ring.Owner("reg:"+name).ID == "ts-b" {
			eventually(t, name+" is free", func() bool { return rival.ask("register", name, "") == "registration_succeeded" })
			freed++
		}
	}
	if freed == 0 || freed == names {
		t.Errorf("ts-b has %d of %d names: want some, but not all", freed, names)
	}
}
