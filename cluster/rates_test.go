package cluster_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// burst has a client say so many frames at once, and returns how many were answered before the first that is rate_limited, and how
// long all of that took.
func burst(t *testing.T, s *rawSocket, frame string, n int) (before int, took time.Duration) {
	t.Helper()
	began := time.Now()
	s.write(bytes.Repeat(clientFrame(finText, []byte(frame)), n))
	before = n
	for i := range n {
		first, payload, err := s.read()
		if err != nil || first != finText {
			t.Fatalf("answer %d: frame %#x %q, %v", i, first, payload, err)
		}
		if limited := strings.Contains(string(payload), `"reason":"rate_limited","retry_after_ms":`); limited {
			before = min(before, i)
		}
	}
	return before, time.Since(began)
}

// What a client may do in a second is what the gateway's variables say, for each kind of thing by itself; twice as much at once,
// and no more. Who goes on is sent away, and nobody else notices.
func TestRow19_RatesOfAGateway(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ts := s.topicserver("ts-a")
	s.topicserver("ts-b")
	gw := s.gateway("MAX_PUBLISHES_PER_SECOND=10", "MAX_SESSION_JOINS_PER_SECOND=20", "MAX_FRAMES_PER_SECOND=30", "MAX_PUBLISHES_IN_FLIGHT=4", "PUBLISH_TIMEOUT=1m")
	free := s.gateway("MAX_SESSION_JOINS_PER_SECOND=0", "MAX_FRAMES_PER_SECOND=0") // the others are 0 here
	gw.ready()
	free.ready()
	topic := s.topicOf("ts-a", 0)
	witness := dial(t, "witness", gw.webSocketURL())
	witness.join(topic)
	for _, tt := range []struct {
		frame string
		rate  int
	}{
		{`["1","1","room:1","say",{}]`, 10}, // not joined, which is found out later
		{`["1","1","a b","phx_join",{}]`, 20},
		{`[null,"1","phoenix","heartbeat",{}]`, 30},
	} {
		// All come in one read, mostly. Where they do not, some time has passed, and a few more are let through.
		n, took := burst(t, dialRaw(t, gw.addr), tt.frame, 4*tt.rate)
		if most := 2*tt.rate + 1 + int(float64(tt.rate)*took.Seconds()); n < 2*tt.rate || n > most {
			t.Errorf("%s: %d of %d are let through, want %d, and no more than %d in %v", tt.frame, n, 4*tt.rate, 2*tt.rate, most, took)
		}
		if n, _ := burst(t, dialRaw(t, free.addr), tt.frame, 4*tt.rate); n != 4*tt.rate {
			t.Errorf("%s: %d of %d are let through where any number may be", tt.frame, n, 4*tt.rate)
		}
	}

	// So many publishes may be without an answer.
	ts.freeze()
	for i := range 6 {
		witness.say(fmt.Sprintf(`["1","%d",%q,"e",{}]`, i, topic))
	}
	for i := range 2 {
		witness.expect(fmt.Sprintf(`["1","%d",%q,"phx_reply",{"response":{"reason":"busy","retry_after_ms":100},"status":"error"}]`, 4+i, topic))
	}
	ts.signal(syscall.SIGCONT)
	var heard []string
	for range 8 {
		heard = append(heard, witness.hear())
	}
	slices.Sort(heard)
	for i, frame := range heard {
		want := fmt.Sprintf(`["1","%d",%q,"phx_reply",{"response":{},"status":"ok"}]`, i, topic)
		if i >= 4 {
			want = fmt.Sprintf(`["1",null,%q,"e",{}]`, topic)
		}
		if frame != want {
			t.Errorf("heard %s, want %s", frame, want)
		}
	}

	flood, began := dialRaw(t, gw.addr), time.Now()
	pace := time.NewTicker(50 * time.Millisecond)
	defer pace.Stop()
	closed := make(chan string, 1)
	go func() {
		for {
			first, payload, err := flood.readWithin(time.Minute)
			if err != nil || first == finClose {
				closed <- fmt.Sprintf("%#x %q %v", first, payload, err)
				return
			}
		}
	}()
	for said := ""; said == ""; {
		select {
		case said = <-closed:
			if want := fmt.Sprintf("0x88 %q <nil>", "\x11\x4drate limited"); said != want {
				t.Errorf("the flood heard %s, want %s", said, want)
			}
		case <-pace.C:
			if time.Since(began) > time.Minute {
				t.Fatal("it goes on for ever")
			}
			flood.write(bytes.Repeat(clientFrame(finPing, []byte("p")), 100))
		}
	}
	witness.silence()
	eventually(t, "it is counted", func() bool {
		return metric(gw.admin, `ringcast_gateway_closed_total{reason="rate"}`) == 1 &&
			metric(gw.admin, `ringcast_gateway_refused_total{reason="rate_limited",what="publish"}`) >= 10 &&
			metric(gw.admin, `ringcast_gateway_refused_total{reason="rate_limited",what="join"}`) >= 20 &&
			metric(gw.admin, `ringcast_gateway_refused_total{reason="rate_limited",what="frame"}`) >= 30 &&
			metric(gw.admin, `ringcast_gateway_refused_total{reason="busy",what="publish"}`) == 2
	})
}
