package cluster_test

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// crowd is many idle clients of one gateway, which answer its closes.
type crowd struct {
	sockets []*rawSocket
	gone    atomic.Int32 // closed with 1012 and answered
	wrong   atomic.Pointer[string]
	reading sync.WaitGroup
}

func newCrowd(t *testing.T, addr string, n int) *crowd {
	t.Helper()
	c := &crowd{}
	for range n {
		c.sockets = append(c.sockets, dialRaw(t, addr))
	}
	for _, s := range c.sockets {
		c.reading.Go(func() {
			first, payload, err := s.readWithin(time.Minute)
			if err != nil || first != finClose || len(payload) < 2 || binary.BigEndian.Uint16(payload) != 1012 {
				text := fmt.Sprintf("heard frame %#x %q, error %v, want close 1012", first, payload, err)
				c.wrong.Store(&text)
				return
			}
			c.gone.Add(1)
			_, _ = s.conn.Write(clientFrame(finClose, payload[:2])) // the gateway may not wait for it
		})
	}
	return c
}

// all waits until everybody was closed.
func (c *crowd) all(t *testing.T) {
	t.Helper()
	c.reading.Wait()
	if wrong := c.wrong.Load(); wrong != nil || int(c.gone.Load()) != len(c.sockets) {
		t.Fatalf("%d of %d were closed with 1012", c.gone.Load(), len(c.sockets))
	}
}

// knock tries to connect and returns the status of the answer; 0 is none.
func knock(addr string) int {
	req, err := http.NewRequest(http.MethodGet, "http://"+addr+"/socket/websocket?vsn=2.0.0", nil)
	if err != nil {
		return 0
	}
	for name, value := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13", "Sec-Websocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	} {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// A stopping gateway is not ready any more, takes nobody in, and sends its clients away batch by batch: the next one leaves only while
// joins at the others do not take long. When all are gone it ends.
func TestProcess_ADrainWaitsForTheOthers(t *testing.T) {
	t.Parallel()
	const clients = 600 // 12 batches of 50
	s := newSite(t)
	s.topicserver("ts-a")
	b := s.topicserver("ts-b")
	idle := s.gateway("GATEWAY_ID=gw-idle", "DRAIN=1h")
	idle.ready()
	began := time.Now()
	idle.signal(syscall.SIGTERM)
	idle.exits(0) // who has no clients does not wait

	gw := s.gateway("GATEWAY_ID=gw-stops", "EVENT_LOOPS=1", "DRAIN=40s", "DRAIN_JOIN_TIME=100ms")
	survivor := s.gateway("GATEWAY_ID=gw-stays", "JOIN_TIMEOUT=30s")
	gw.ready()
	survivor.ready()
	c := newCrowd(t, gw.addr, clients)

	// The survivor is slow: the owner of what is joined there stands still most of the time.
	joiner := dial(t, "joiner", survivor.webSocketURL())
	slowly := func(i int) (took time.Duration) {
		topic := s.topicOf("ts-b", i)
		b.freeze()
		frozen := time.Now()
		joiner.say(fmt.Sprintf(`["1","1",%q,"phx_join",{}]`, topic))
		time.Sleep(400 * time.Millisecond) // how slow it is
		b.signal(syscall.SIGCONT)
		joiner.expect(fmt.Sprintf(`["1","1",%q,"phx_reply",{"response":{},"status":"ok"}]`, topic))
		return time.Since(frozen)
	}
	n := 0
	for range 3 { // its report is of the last second
		if took := slowly(n); took < 400*time.Millisecond {
			t.Errorf("a join took %v", took)
		}
		n++
	}
	gw.signal(syscall.SIGTERM)
	type look struct{ ready, newcomer, gone int }
	looked := make(chan look, 1)
	go func() {
		l := look{ready: http.StatusOK}
		for began := time.Now(); l.ready == http.StatusOK && time.Since(began) < patience; {
			l.ready, _ = fetch(gw.admin, "/readyz")
		}
		l.gone, l.newcomer = int(c.gone.Load()), knock(gw.addr)
		looked <- l
	}()
	// The others are slow for as long as it takes to look, and then some.
	for i, seen := 0, false; i < 4 || !seen; i++ {
		slowly(n)
		n++
		select {
		case l := <-looked:
			seen = true
			if l.ready != http.StatusServiceUnavailable || l.gone == clients {
				t.Errorf("/readyz gives %d when %d of %d are gone", l.ready, l.gone, clients)
			}
			if l.newcomer != http.StatusServiceUnavailable && l.newcomer != 0 {
				t.Errorf("a newcomer gets %d", l.newcomer)
			}
		default:
		}
	}
	c.all(t)
	gw.exits(0)
	log := gw.stderr.String()
	said := regexp.MustCompile(`"msg":"sent clients away","gateway":"gw-stops","sockets":600,"held":"([^"]+)"`).FindStringSubmatch(log)
	if said == nil || said[1] == "0s" {
		t.Errorf("it has not waited for the others: %q", said)
	}
	if strings.Contains(log, "cut client sockets") {
		t.Error("it has cut clients that answer")
	}
	t.Logf("%q, all in %v", said, time.Since(began))
}
