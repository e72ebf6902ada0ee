package cluster_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/cluster/verify/chaos"
	"github.com/ringcast/ringcast/shared/ring"
)

// unmoved wants that a client has been told of no join and no leave.
func (a *attendee) unmoved(when string, since [3]int) {
	a.t.Helper()
	now := a.counts()
	a.mu.Lock()
	defer a.mu.Unlock()
	if now[0] != since[0] || now[1] != since[1] {
		a.t.Errorf("%s: %s was told of joins %v and leaves %v", when, a.name, a.joins[since[0]:], a.leaves[since[1]:])
	}
}

// gathering is clients on several gateways that are present on one topic.
type gathering struct {
	t     *testing.T
	topic string
	all   []*attendee
}

func gather(t *testing.T, topic string, perGateway int, urls ...string) *gathering {
	t.Helper()
	g := &gathering{t: t, topic: topic}
	for i := range perGateway * len(urls) {
		g.all = append(g.all, attend(t, fmt.Sprint("member ", i), urls[i%len(urls)], topic, fmt.Sprintf(`{"key":"u%02d"}`, i)))
	}
	g.agree(len(g.all))
	return g
}

// agree waits until all see the same members, so many.
func (g *gathering) agree(members int) {
	g.t.Helper()
	for _, a := range g.all {
		a.eventually(fmt.Sprintf("sees %d members", members), func() bool { return len(a.state) == members })
	}
	eventually(g.t, "all see the same", func() bool {
		for _, a := range g.all {
			if a.refs() != g.all[0].refs() {
				return false
			}
		}
		return true
	})
}

func (g *gathering) counts() (all [][3]int) {
	for _, a := range g.all {
		all = append(all, a.counts())
	}
	return all
}

// undisturbed wants that since then nobody has been told of anything, and that changes still come: a newcomer joins and
// leaves.
func (g *gathering) undisturbed(when, url string, since [][3]int) {
	g.t.Helper()
	late := attend(g.t, "late, "+when, url, g.topic, `{"key":"late"}`)
	members := len(g.all) + 1
	late.eventually("sees all", func() bool { return len(late.state) == members })
	for _, a := range g.all {
		a.eventually("sees the newcomer", func() bool { return len(a.joins) > 0 && a.joins[len(a.joins)-1] == "late" })
	}
	late.say(fmt.Sprintf(`["1","9",%q,"phx_leave",{}]`, g.topic))
	g.agree(len(g.all))
	for i, a := range g.all {
		since[i][0]++
		since[i][1]++
		a.unmoved(when, since[i])
	}
	check(g.t, g.all...)
}

// The members of a gateway that is killed leave in one diff, within five seconds; or, on a machine that is late, as much later as one
// who only hangs up at the same time.
func TestPhoenixPresence_AKilledGatewaysMembersLeaveInOneDiff(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.topicserver("ts-a")
	s.topicserver("ts-b")
	gw1, gw2 := s.gateway("GATEWAY_ID=gw-1"), s.gateway("GATEWAY_ID=gw-2")
	gw1.ready()
	gw2.ready()
	here := gather(t, "room:kill", 3, gw1.url()+"/websocket?vsn=2.0.0")
	var there []*attendee
	for i := range 30 {
		there = append(there, attend(t, fmt.Sprint("other ", i), gw2.webSocketURL(), "room:kill", fmt.Sprintf(`{"key":"x%02d"}`, i)))
	}
	here.agree(33)
	stays := attend(t, "stays", gw1.webSocketURL(), "room:other", `{"key":"stays"}`)
	goes := attend(t, "goes", gw1.webSocketURL(), "room:other", `{"key":"goes"}`)
	stays.sees("goes stays")
	before := here.counts()
	killed, late := time.Now(), make(chan time.Duration, 1)
	gw2.kill()
	_ = goes.ws.CloseNow()
	go func() {
		for stays.present() != "stays" && time.Since(killed) < patience {
			time.Sleep(2 * time.Millisecond)
		}
		late <- time.Since(killed) - 2*time.Second // PRESENCE_GRACE
	}()
	here.agree(3)
	took := time.Since(killed)
	for i, a := range here.all {
		if now := a.counts(); now != [3]int{before[i][0], before[i][1] + 30, before[i][2] + 1} {
			t.Errorf("%s was told of %v joins, leaves, diffs; before it was %v", a.name, now, before[i])
		}
	}
	if late := max(0, <-late); took > 5*time.Second+late {
		t.Errorf("it took %v; the machine is late by %v", took, late)
	}
	t.Logf("gone after %v", took)
	check(t, append(here.all, there[:0]...)...)
}

// Topics move from owner to owner, and nobody sees anybody go or come.
func TestPhoenixPresence_RingEditsAreUnseen(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.env = []string{"PRESENCE_GRACE=1m"}
	a, b := s.topicserver("ts-a"), s.topicserver("ts-b")
	gw1, gw2 := s.gateway("GATEWAY_ID=gw-1"), s.gateway("GATEWAY_ID=gw-2")
	gw1.ready()
	gw2.ready()
	topic := s.topicOf("ts-a", 0)
	g := gather(t, topic, 5, gw1.webSocketURL(), gw2.webSocketURL())
	before := g.counts()
	s.edit(func(path string) (*ring.Ring, error) { return ring.Remove(path, "ts-a", false) }, a.admin, b.admin, gw1.admin, gw2.admin)
	g.undisturbed("moved to ts-b", gw2.webSocketURL(), before)

	before = g.counts()
	s.edit(func(path string) (*ring.Ring, error) {
		return ring.Add(path, ring.Server{ID: "ts-a", Addr: a.addr, Weight: 1})
	}, a.admin, b.admin, gw1.admin, gw2.admin)
	g.undisturbed("moved back to ts-a", gw1.webSocketURL(), before)
	eventually(t, "the members are at ts-a", func() bool {
		_, text := fetch(a.admin, "/metrics")
		return strings.Contains(text, "\nringcast_topic_presences 10\n")
	})
	// What a member does after all this still reaches everybody.
	g.all[3].say(fmt.Sprintf(`["1","7",%q,"presence_update",{"name":"new"}]`, topic))
	for _, one := range g.all {
		one.eventually("sees the update", func() bool {
			for _, m := range one.state {
				if m.Name == "new" {
					return m.Prev != ""
				}
			}
			return false
		})
	}
	g.agree(10)
}

// A link is cut for less than the grace: nobody sees it. For longer: others see the gateway's members leave and come back.
func TestPhoenixPresence_ALinkCutIsUnseenWithinTheGrace(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var proxies []*chaos.Proxy
	text := "version: 1\nservers:\n"
	addrs := map[string]string{}
	for _, id := range []string{"ts-a", "ts-b"} {
		addrs[id] = freeAddr(t)
		p, err := chaos.Listen(addrs[id], []string{"gw-1", "gw-2"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		proxies = append(proxies, p)
		text += fmt.Sprintf("  - id: %s\n    addr: %s\n", id, p.Addr())
	}
	s.ringFile = writeFile(t, "ring.yaml", text)
	var err error
	if s.ring, err = ring.Load(s.ringFile); err != nil {
		t.Fatal(err)
	}
	for id, addr := range addrs {
		spawn(t, "topicserver", []string{"TOPICSERVER_ID=" + id, "TOPICSERVER_ADDR=" + addr, "RING_FILE=" + s.ringFile, "PRESENCE_GRACE=8s"}).
			prints("serving topics")
	}
	gw1, gw2 := s.gateway("GATEWAY_ID=gw-1"), s.gateway("GATEWAY_ID=gw-2")
	gw1.ready()
	gw2.ready()
	g := gather(t, "room:cut", 4, gw1.webSocketURL(), gw2.webSocketURL())
	cut := func(f chaos.Fault) {
		for _, p := range proxies {
			p.Set("gw-2", f)
		}
	}
	for range 3 {
		before := g.counts()
		cut(chaos.Fault{Mode: chaos.Cut})
		eventually(t, "the links of gw-2 are cut", func() bool { return proxies[0].Connections("gw-2")+proxies[1].Connections("gw-2") == 0 })
		cut(chaos.Fault{})
		gw2.ready()
		g.undisturbed("after a cut", gw2.webSocketURL(), before)
	}

	before := g.counts()
	cut(chaos.Fault{Mode: chaos.Cut})
	for _, i := range []int{0, 2, 4, 6} { // on gw-1
		g.all[i].eventually("sees half of them go", func() bool { return len(g.all[i].state) == 4 })
	}
	cut(chaos.Fault{})
	g.agree(8)
	for _, i := range []int{1, 3, 5, 7} { // on gw-2, which has had all of them all the time
		g.all[i].unmoved("behind a long cut", before[i])
	}
	check(t, g.all...)
}

// The owner is killed and comes back with nothing: the gateways tell it everything anew. The channels are told that
// messages may be lost, join again, and find everybody.
func TestPhoenixPresence_AKilledOwnerIsToldAnew(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a := s.topicserver("ts-a")
	s.topicserver("ts-b")
	gw1, gw2 := s.gateway("GATEWAY_ID=gw-1"), s.gateway("GATEWAY_ID=gw-2")
	gw1.ready()
	gw2.ready()
	g := gather(t, s.topicOf("ts-a", 0), 5, gw1.webSocketURL(), gw2.webSocketURL())
	a.kill()
	s.topicserver("ts-a")
	for _, one := range g.all {
		one.eventually("has joined again", func() bool { return one.shown > 1 })
	}
	g.agree(10)
	// Nobody was gone in between for anybody, by key.
	for _, one := range g.all {
		one.mu.Lock()
		for _, key := range one.leaves {
			if !strings.Contains(strings.Join(one.joins, " "), key) {
				t.Errorf("%s saw %s leave and not come", one.name, key)
			}
		}
		one.mu.Unlock()
	}
	late := attend(t, "late", gw1.webSocketURL(), g.topic, `{"key":"late"}`)
	g.all = append(g.all, late)
	g.agree(11)
	check(t, g.all...)
}

// A topic goes to another server and back while what the servers say is on its way to one gateway for long: that gateway sees the
// ring before and the one after that. Its clients see nobody go or come, and are told of changes afterwards. A name that one of
// them holds goes the same way, and stays theirs.
func TestPhoenixPresence_GivenBackUnseen(t *testing.T) {
	t.Parallel()
	s := &site{t: t, env: []string{"PRESENCE_GRACE=1m"}}
	addrs, servers, text := map[string]string{}, map[string]*topicProc{}, ""
	var proxies []*chaos.Proxy
	for _, id := range []string{"ts-a", "ts-b"} {
		addrs[id] = freeAddr(t)
		p, err := chaos.Listen(addrs[id], []string{"gw-1", "gw-2", "ts-a", "ts-b"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		proxies = append(proxies, p)
		text += fmt.Sprintf("  - id: %s\n    addr: %s\n", id, p.Addr())
	}
	s.ringFile = writeFile(t, "ring.yaml", "version: 1\nservers:\n"+text)
	var err error
	if s.ring, err = ring.Load(s.ringFile); err != nil {
		t.Fatal(err)
	}
	for id, addr := range addrs {
		servers[id] = &topicProc{addr: addr, admin: freeAddr(t)}
		servers[id].proc = spawn(t, "topicserver", append([]string{
			"TOPICSERVER_ID=" + id, "TOPICSERVER_ADDR=" + addr, "RING_FILE=" + s.ringFile, "ADMIN_ADDR=" + servers[id].admin,
		}, s.env...))
		servers[id].prints("serving topics")
	}
	a, b := servers["ts-a"], servers["ts-b"]
	own := writeFile(t, "own.yaml", "version: 1\nservers:\n"+text)
	gw1, gw2 := s.gateway("GATEWAY_ID=gw-1", "RING_FILE="+own), s.gateway("GATEWAY_ID=gw-2")
	gw1.ready()
	gw2.ready()
	g := gather(t, s.topicOf("ts-a", 0), 2, gw1.webSocketURL(), gw2.webSocketURL())
	before := g.counts()
	name := ""
	for i := 0; name == "" || s.ring.Owner("reg:"+name).ID != "ts-a"; i++ {
		name = fmt.Sprint("n", i)
	}
	holder, friend := dial(t, "holder", "ws://"+gw1.addr+"/websocket/json/holder"), newWestUser(t, "json", "friend", gw2.addr)
	holder.expect(`{"event":"connection_established","from":"west"}`)
	holder.say(fmt.Sprintf(`{"event":"register","channel":%q}`, name))
	holder.expect(fmt.Sprintf(`{"event":"registration_succeeded","channel":%q,"from":"west"}`, name))
	taken := func(ts *topicProc) {
		t.Helper()
		eventually(t, "both topics are at "+ts.admin, func() bool {
			_, text := fetch(ts.admin, "/metrics")
			return strings.Contains(text, "ringcast_topic_handovers_total{outcome=\"taken\"} 2\n")
		})
	}
	late := func(f chaos.Fault) {
		for _, p := range proxies {
			p.Set("gw-1", f)
		}
	}
	late(chaos.Fault{Mode: chaos.Freeze, Down: true})
	if _, err := ring.Remove(s.ringFile, "ts-a", false); err != nil {
		t.Fatal(err)
	}
	taken(b)
	if err := os.WriteFile(own, []byte("version: 3\nservers:\n"+text), 0o600); err != nil {
		t.Fatal(err)
	}
	taken(a)
	late(chaos.Fault{})
	g.undisturbed("back at ts-a", gw2.webSocketURL(), before)
	wants(t, friend, "send", name, "still there?", "sending_succeeded")
	holder.expect(fmt.Sprintf(`{"event":"new_message","channel":%q,"from":"friend","data":"still there?"}`, name))
	_, text = fetch(gw1.admin, "/metrics")
	if !strings.Contains(text, "\nringcast_gateway_lanes_lost_total 0\n") {
		t.Log("the machine was late: links were lost, and nothing was tested")
	}
}
