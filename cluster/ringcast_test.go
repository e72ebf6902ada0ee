package cluster_test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/ringcast/ringcast/shared/ring"
)

const ringFile = "../scripts/ring.yaml"

// devAddrs are the addresses that ringcast dev promises: two topic servers, two gateways.
var devAddrs = []string{"127.0.0.1:7101", "127.0.0.1:7102", "127.0.0.1:4000", "127.0.0.1:4001"}

func TestRingcastDev(t *testing.T) {
	for _, addr := range devAddrs {
		lis, err := net.Listen("tcp", addr)
		if err != nil {
			t.Skipf("NOT TESTED: ringcast dev needs %v, and %v", devAddrs, err)
		}
		_ = lis.Close()
	}
	dev := spawn(t, "ringcast", nil, "dev")
	dev.prints("Ctrl-C stops the cluster.")
	out := dev.stdout.String()
	for i, want := range []string{
		"topic server ts-a  127.0.0.1:7101\n", "topic server ts-b  127.0.0.1:7102\n",
		"gateway      gw-a  ws://127.0.0.1:4000/socket\n", "gateway      gw-b  ws://127.0.0.1:4001/socket\n",
		"websocat 'ws://127.0.0.1:4000/socket/websocket?vsn=2.0.0'\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("line %d, %q, is not in\n%s", i, want, out)
		}
	}
	exchange(t, "topics:matrix", "ws://127.0.0.1:4000/socket/websocket?vsn=2.0.0", "ws://127.0.0.1:4001/socket/websocket?vsn=2.0.0")

	second := spawn(t, "ringcast", nil, "dev")
	second.exits(1)
	if text := second.stderr.String(); !strings.Contains(text, syscall.EADDRINUSE.Error()) {
		t.Errorf("a second ringcast dev says %q", text)
	}
	dev.alive()

	const url1, url2 = "ws://127.0.0.1:4000/socket", "ws://127.0.0.1:4001/socket"
	sub := spawn(t, "ringcast", nil, "sub", "-n", "2", url1, "topics:matrix")
	sub.prints("joined topics:matrix")
	for i := range 2 {
		pub := spawn(t, "ringcast", nil, "pub", url2, "topics:matrix", "event", fmt.Sprintf(`{"n":%d,"text":"a < b"}`, i))
		pub.exits(0)
		if text := pub.stdout.String() + pub.stderr.String(); text != "" {
			t.Errorf("pub prints %q", text)
		}
	}
	sub.exits(0)
	want := `{"topic":"topics:matrix","event":"event","payload":{"n":0,"text":"a < b"}}` + "\n" +
		`{"topic":"topics:matrix","event":"event","payload":{"n":1,"text":"a < b"}}` + "\n"
	if got := sub.stdout.String(); got != want {
		t.Errorf("sub prints\n%swant\n%s", got, want)
	}

	bad := spawn(t, "ringcast", nil, "pub", url1, "topics:a", "event", "{}")
	bad.exits(1)
	if text := bad.stderr.String(); !strings.Contains(text, "invalid topic name") {
		t.Errorf("pub to a bad topic says %q", text)
	}

	endless := spawn(t, "ringcast", nil, "sub", url1, "topics:matrix")
	endless.prints("joined topics:matrix")
	endless.signal(os.Interrupt)
	endless.exits(0)
	dev.signal(os.Interrupt)
	dev.exits(0)
	for _, addr := range devAddrs {
		if !refused(addr) {
			t.Errorf("somebody listens on %s after the end of ringcast dev", addr)
		}
	}
}

func TestRingcastSubWithoutGateway(t *testing.T) {
	t.Parallel()
	addr := freeAddr(t)
	for _, args := range [][]string{{"sub", "ws://" + addr + "/socket", "topics:matrix"}, {"pub", "ws://" + addr + "/socket", "topics:matrix", "event", "{}"}} {
		p := spawn(t, "ringcast", nil, args...)
		p.exits(1)
		if text := p.stderr.String(); !strings.Contains(text, addr) || !strings.Contains(text, syscall.ECONNREFUSED.Error()) {
			t.Errorf("ringcast %v says %q", args, text)
		}
	}
}

func TestRingcastRing(t *testing.T) {
	t.Parallel()
	rg, err := ring.Load(ringFile)
	if err != nil {
		t.Fatal(err)
	}
	check := spawn(t, "ringcast", nil, "ring", "check", ringFile)
	check.exits(0)
	if got, want := check.stdout.String(), fmt.Sprintf("ok: ring v1, 2 servers, content %016x\n", rg.Hash()); !strings.HasPrefix(got, want) {
		t.Errorf("ring check prints %q, want %q…", got, want)
	}

	topics := []string{"topics:matrix", "topics:other", "room:1", "room:2", "room:3"}
	var want strings.Builder
	for _, topic := range topics {
		owner := rg.Owner(topic)
		fmt.Fprintf(&want, "%s\t%s\t%s\n", topic, owner.ID, owner.Addr)
	}
	owner := spawn(t, "ringcast", nil, append([]string{"ring", "owner", ringFile}, topics...)...)
	owner.exits(0)
	if got := owner.stdout.String(); got != want.String() {
		t.Errorf("ring owner prints\n%swant\n%s", got, want.String())
	}

	broken := writeFile(t, "ring.yaml", "version: 0\nservers: []\n")
	check = spawn(t, "ringcast", nil, "ring", "check", broken)
	check.exits(1)
	for _, problem := range []string{":1:10: version is 0", ":2:10: servers is empty"} {
		if text := check.stderr.String(); !strings.Contains(text, "ring file "+broken+problem) {
			t.Errorf("ring check of a broken file says %q, and nothing of %q", text, problem)
		}
	}
}

func TestRingcastBadUsageIsExitCode2(t *testing.T) {
	t.Parallel()
	for _, args := range []string{
		"nonsense", "ring", "ring nonsense", "ring check", "ring check a b", "ring owner " + ringFile, "ring check -x a",
		"dev now", "sub", "sub ws://127.0.0.1:1/socket", "sub -n many ws://127.0.0.1:1/socket topics:matrix",
		"pub ws://127.0.0.1:1/socket topics:matrix event", "pub ws://127.0.0.1:1/socket topics:matrix event {", "-v dev",
	} {
		p := spawn(t, "ringcast", nil, strings.Fields(args)...)
		p.exits(2)
		if text := p.stderr.String(); !strings.HasPrefix(text, "ringcast: usage: ") {
			t.Errorf("ringcast %s says %q", args, text)
		}
	}
	for _, args := range []string{"", "help", "-h", "dev -h", "ring check -h"} {
		p := spawn(t, "ringcast", nil, strings.Fields(args)...)
		p.exits(0)
		if text := p.stdout.String(); !strings.HasPrefix(text, "usage: ringcast ") {
			t.Errorf("ringcast %s prints %q", args, text)
		}
	}
}
