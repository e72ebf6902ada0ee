package cluster_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/cluster/verify/chaos"
	"github.com/ringcast/ringcast/shared/ring"
)

// behindProxies starts two topic servers, each behind a proxy that can cut the links of the gateways gw-1 and gw-2.
func behindProxies(t *testing.T, env ...string) (s *site, proxies []*chaos.Proxy) {
	t.Helper()
	s = &site{t: t, env: env}
	text := "version: 1\nservers:\n"
	var addrs []string
	for _, id := range []string{"ts-a", "ts-b"} {
		addr := freeAddr(t)
		p, err := chaos.Listen(addr, []string{"gw-1", "gw-2"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		proxies, addrs = append(proxies, p), append(addrs, addr)
		text += fmt.Sprintf("  - id: %s\n    addr: %s\n", id, p.Addr())
	}
	s.ringFile = writeFile(t, "ring.yaml", text)
	var err error
	if s.ring, err = ring.Load(s.ringFile); err != nil {
		t.Fatal(err)
	}
	for i, id := range []string{"ts-a", "ts-b"} {
		p := spawn(t, "topicserver", append([]string{"TOPICSERVER_ID=" + id, "TOPICSERVER_ADDR=" + addrs[i], "RING_FILE=" + s.ringFile, "ADMIN_ADDR=" + freeAddr(t)}, env...))
		p.prints("serving topics")
	}
	return s, proxies
}

// The links between the holder's gateway and the owners of its names are cut. For a short time nobody notices; when it
// takes longer the holder is told that its name is lost, then another may have it, and there are never two.
func TestW28_NamesOverACutLink(t *testing.T) {
	t.Parallel()
	// The rival asks again and again, more often than a client may.
	s, proxies := behindProxies(t, "NAME_GRACE=6s", "HEARTBEAT=700ms", "INSECURE_LINKS=true", "MAX_SESSION_JOINS_PER_SECOND=0")
	set := func(mode chaos.Mode) {
		for _, p := range proxies {
			p.Set("gw-1", chaos.Fault{Mode: mode})
		}
	}
	gw1, gw2 := s.gateway("GATEWAY_ID=gw-1"), s.gateway("GATEWAY_ID=gw-2")
	gw1.ready()
	gw2.ready()
	lanes := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprint("the holder's gateway has ", n, " lanes"), func() bool {
			_, text := fetch(gw1.admin, "/metrics")
			return strings.Contains(text, fmt.Sprintf("ringcast_gateway_lanes %d\n", n))
		})
	}
	holder := dial(t, "holder", "ws://"+gw1.addr+"/websocket/json/holder")
	holder.expect(`{"event":"connection_established","from":"west"}`)
	rival := newWestUser(t, "json", "rival", gw2.addr)
	const names = 4 // on both servers
	register := func(want string) {
		t.Helper()
		for n := range names {
			holder.say(fmt.Sprintf(`{"event":"register","channel":"r%d"}`, n))
			holder.expect(fmt.Sprintf(`{"event":%q,"channel":"r%d","from":"west"}`, want, n))
		}
	}
	register("registration_succeeded")

	set(chaos.Cut)
	lanes(0)
	asked := make(chan string, 1)
	go func() { asked <- rival.ask("register", "r0", "") }() // waits for what the holder's gateway says, if it comes back
	set(chaos.Pass)
	if got := <-asked; got != "registration_denied" {
		t.Errorf("the rival gets %s, want denied", got)
	}
	lanes(4)
	for n := range names {
		wants(t, rival, "send", fmt.Sprint("r", n), "still yours", "sending_succeeded")
		holder.expect(fmt.Sprintf(`{"event":"new_message","channel":"r%d","from":"rival","data":"still yours"}`, n))
	}
	register("registration_already_exist")

	// Bytes vanish, and nobody says so.
	set(chaos.Blackhole)
	lost := make(chan string, names)
	go func() {
		for range names {
			lost <- holder.hear()
		}
		close(lost)
	}()
	for n := range names {
		name := fmt.Sprint("r", n)
		eventually(t, name+" is free", func() bool {
			time.Sleep(50 * time.Millisecond) // who asks more often than it may is sent away
			return rival.ask("register", name, "") == "registration_succeeded"
		})
		if n == 0 && len(lost) != names {
			t.Errorf("the rival has a name, and the holder was told only of %d of %d lost ones", len(lost), names)
		}
	}
	told := map[string]bool{}
	for frame := range lost {
		told[frame] = true
	}
	for n := range names {
		if want := fmt.Sprintf(`{"event":"registration_lost","channel":"r%d","from":"west"}`, n); !told[want] {
			t.Errorf("the holder was not told %s, but %v", want, told)
		}
	}
	set(chaos.Pass)
	lanes(4)
	register("registration_denied")
	holder.say(`{"event":"send","channel":"r0","data":"yours now"}`)
	holder.expect(`{"event":"sending_succeeded","channel":"r0","from":"west"}`)
	wantsHeard(t, rival, "holder r0 yours now")
}
