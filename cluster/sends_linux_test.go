package cluster_test

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringcast/ringcast/cluster"
	"github.com/ringcast/ringcast/topicserver"
)

// received is what a socket of this process has got so far, by the kernel's count.
type received struct{ segments, bytes uint64 }

// receivedFrom returns the counts of every socket of this process whose peer has the address: the gateways' ends of
// their lanes to one topic server.
func receivedFrom(t *testing.T, addr string) map[int]received {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[int]received)
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		peer, err := unix.Getpeername(fd)
		if err != nil {
			continue // no socket, or not connected
		}
		in, ok := peer.(*unix.SockaddrInet4)
		if !ok || (&net.TCPAddr{IP: in.Addr[:], Port: in.Port}).String() != addr {
			continue
		}
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Fatal(err)
		}
		found[fd] = received{uint64(info.Data_segs_in), info.Bytes_received}
	}
	return found
}

// What a publish of 128 bytes costs between the nodes when its subscribers sit on k of n gateways: k sends, k segments,
// and at most 200 bytes each. The publisher's gateway gets the reply in the same segment.
func TestAPublishCostsASendForEachGatewayThatSubscribes(t *testing.T) {
	const gateways, publishes, perGateway = 8, 100, 3
	c := start(t, func(cfg *cluster.Config) {
		cfg.Gateways, cfg.TopicServers = gateways, 1
		cfg.TopicServer = func(s *topicserver.Config) { s.DigestInterval = time.Minute } // they are segments too
	})
	owner := c.TopicServers[0]
	payload := fmt.Sprintf(`{"text":"%s"}`, strings.Repeat("x", 128-len(`{"text":""}`)))
	for k := 1; k <= gateways; k++ {
		topic := fmt.Sprintf("room:of%d", k)
		var sockets []*socket
		for i := range k {
			for j := range perGateway {
				s := dial(t, fmt.Sprintf("subscriber %d.%d of %s", i, j, topic), c.Gateways[i].WebSocketURL())
				s.join(topic)
				sockets = append(sockets, s)
			}
		}
		eventually(t, "the owner knows all", func() bool { return len(owner.Subscribers(topic)) == k*perGateway })
		began := time.Now()
		sends, before := owner.Stats().FanoutSends, receivedFrom(t, owner.Addr)
		for i := range publishes {
			sockets[0].say(fmt.Sprintf(`["1","%d",%q,"publish",["say",%s]]`, i+10, topic, payload))
			sockets[0].expect(fmt.Sprintf(`["1","%d",%q,"phx_reply",{"response":{},"status":"ok"}]`, i+10, topic))
			for _, s := range sockets {
				s.expect(fmt.Sprintf(`["1",null,%q,"say",%s]`, topic, payload))
			}
		}
		if got := owner.Stats().FanoutSends - sends; got != uint64(k*publishes) {
			t.Errorf("%d of %d gateways: %d publishes took %d sends by the counter, want %d", k, gateways, publishes, got, k*publishes)
		}
		var segments uint64
		var bytes []uint64 // per publish, of each lane that carried them
		for fd, after := range receivedFrom(t, owner.Addr) {
			if n := after.bytes - before[fd].bytes; n >= 50*publishes {
				segments += after.segments - before[fd].segments
				bytes = append(bytes, n/publishes)
			}
		}
		slices.Sort(bytes)
		// Each lane has the answer to a ping every second, too.
		pings := uint64(k) * (uint64(time.Since(began)/time.Second) + 2)
		if len(bytes) != k || segments < uint64(k*publishes) || segments > uint64(k*publishes)+pings {
			t.Errorf("%d of %d gateways: %d publishes came in %d segments over %d lanes, want %d and at most %d pings over %d", k, gateways,
				publishes, segments, len(bytes), k*publishes, pings, k)
			continue
		}
		if k > 1 && bytes[k-2] > 200 || bytes[k-1] > 200+60 { // the last one has the replies
			t.Errorf("%d of %d gateways: %v bytes per publish, want at most 200, and 60 more with the reply", k, gateways, bytes)
		}
		t.Logf("%d of %d gateways: %.2f segments and %v bytes per publish", k, gateways, float64(segments)/publishes, bytes)
	}
}
