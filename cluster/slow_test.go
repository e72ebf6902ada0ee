package cluster_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// account follows what one channel with positions is sent: every message, once and in order, or a notice in its place.
type account struct {
	t       *testing.T
	name    string
	first   int // offset of the first message to come
	last    int // of the last one that came, or was told to be skipped
	skipped int
	notices int
}

// note takes one frame of the channel.
func (a *account) note(frame []byte) {
	a.t.Helper()
	var joinRef, ref, topic, event string
	var body struct {
		From, To string
		Count    int
	}
	if err := json.Unmarshal(frame, &[]any{&joinRef, &ref, &topic, &event, &body}); err != nil {
		a.t.Fatalf("%s: %.100q: %v", a.name, frame, err)
	}
	from, to := ref, ref
	switch event {
	case "n":
	case "phx_skipped":
		from, to = body.From, body.To
		a.skipped += body.Count
		a.notices++
		if body.Count != offset(a.t, to)-offset(a.t, from)+1 || to != ref {
			a.t.Fatalf("%s: %.200s", a.name, frame)
		}
	default:
		a.t.Fatalf("%s: %.100s", a.name, frame)
	}
	if a.last == 0 {
		a.first = offset(a.t, from)
	} else if offset(a.t, from) != a.last+1 {
		a.t.Fatalf("%s: %s from %s behind offset %d", a.name, event, from, a.last)
	}
	a.last = offset(a.t, to)
}

// offset returns the offset of a position.
func offset(t *testing.T, position string) int {
	t.Helper()
	_, text, _ := strings.Cut(position, ":")
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("position %q: %v", position, err)
	}
	return n
}

// numbered is a payload of 48 KiB.
func numbered(n int) string { return fmt.Sprintf(`{"n":%d,"fill":%q}`, n, strings.Repeat("x", 48<<10)) }

// sluggard is a client that reads a frame only now and then.
type sluggard struct {
	*rawSocket
	account
}

func newSluggard(t *testing.T, gw *gatewayProc, topic, slow string) *sluggard {
	t.Helper()
	s := &sluggard{rawSocket: dialRaw(t, gw.addr), account: account{t: t, name: slow}}
	_ = s.conn.(*net.TCPConn).SetReadBuffer(64 << 10)
	s.rawSocket.say(fmt.Sprintf(`["1","1",%q,"phx_join",{"since":null,"slow":%q}]`, topic, slow))
	if _, reply, err := s.read(); err != nil || !strings.Contains(string(reply), `"status":"ok"`) {
		t.Fatalf("%s: %q, %v", slow, reply, err)
	}
	return s
}

// readOne reads one frame. The kernel has at least that much, mostly, so it does not wait.
func (s *sluggard) readOne() {
	s.rawSocket.t.Helper()
	first, payload, err := s.read()
	if err != nil || first != finText {
		s.rawSocket.t.Fatalf("%s: frame %#x %.100q, error %v", s.name, first, payload, err)
	}
	s.note(payload)
}

// slowPoller is a client by long polls.
type slowPoller struct {
	account
	url string
}

func newSlowPoller(t *testing.T, gw *gatewayProc, topic, slow string) *slowPoller {
	t.Helper()
	p := &slowPoller{account: account{t: t, name: "poller, " + slow}, url: "http://" + gw.addr + "/socket/longpoll?vsn=2.0.0"}
	p.url += "&token=" + p.ask(http.MethodGet, "").Token
	p.ask(http.MethodPost, fmt.Sprintf(`["1","1",%q,"phx_join",{"since":null,"slow":%q}]`, topic, slow))
	if got := p.ask(http.MethodGet, ""); len(got.Messages) != 1 || !strings.Contains(got.Messages[0], `"status":"ok"`) {
		t.Fatalf("%s: %+v", p.name, got)
	}
	return p
}

type slowPoll struct {
	Status   int
	Token    string
	Messages []string
}

func (p *slowPoller) ask(method, body string) (got slowPoll) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.url, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(text, &got)
	}
	if err != nil {
		p.t.Fatalf("%s: %.100q: %v", p.name, text, err)
	}
	return got
}

// take polls once, for messages that there are.
func (p *slowPoller) take() {
	p.t.Helper()
	got := p.ask(http.MethodGet, "")
	if got.Status != http.StatusOK {
		p.t.Fatalf("%s: status %d behind message %d", p.name, got.Status, p.last)
	}
	for _, frame := range got.Messages {
		p.note([]byte(frame))
	}
}

// Clients that read too slowly, or not at all, cost the gateway no more than their bounds, and others nothing: these have
// all messages in order, on the same gateway too. Those who chose to skip have the rest, and know what they have not.
func TestRow21_SlowClientsHaveTheirPolicy(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.topicserver("ts-a")
	s.topicserver("ts-b")
	gw, other := s.gateway("GATEWAY_ID=gw-1", "LONGPOLL_WINDOW=1m"), s.gateway("GATEWAY_ID=gw-2") // the poller stays away for long
	gw.ready()
	other.ready()
	topic := s.topicOf("ts-a", 0)
	readers := []*listener{
		listenTo(t, "a reader", gw.url(), topic), listenTo(t, "a reader elsewhere", other.url(), topic),
	}
	stall(t, gw, topic)
	slow := []*sluggard{newSluggard(t, gw, topic, "drop_oldest"), newSluggard(t, gw, topic, "latest")}
	poll := newSlowPoller(t, gw, topic, "latest")

	p := newFlooder(t, other.webSocketURL(), topic)
	read, polled := time.Now(), time.Now()
	flood := func(n int) {
		for range n {
			offset := p.publish(numbered(p.last + 1))
			if offset%20 == 0 || time.Since(read) > 2*time.Second { // a socket that takes nothing for long is cut
				for _, s := range slow {
					s.readOne()
				}
				read = time.Now()
			}
			if time.Since(polled) > 40*time.Second { // so is a poller that stays away for 90 s
				poll.take()
				polled = time.Now()
			}
		}
	}
	value := func(series string) float64 { return metric(gw.admin, "ringcast_gateway_"+series) }
	for value(`skipped_total{policy="drop_oldest"}`) < 1 || value(`skipped_total{policy="latest"}`) < 2 || value("lagging_channels") != 3 {
		if flood(20); p.last > 1000 {
			t.Fatal("sockets take everything")
		}
	}
	if n := value("queue_bytes"); n > 3<<20 {
		t.Errorf("%v bytes wait", n)
	}
	before := metric(gw.admin, "process_resident_memory_bytes")
	flood(400) // 19 MiB for each of the slow ones
	if grown := metric(gw.admin, "process_resident_memory_bytes") - before; grown > 16<<20 {
		t.Errorf("the gateway has grown by %v MiB while 19 MiB were published", grown/(1<<20))
	} else {
		t.Logf("%d messages; the gateway has %v MiB, and has grown by %v MiB", p.last, before/(1<<20), grown/(1<<20))
	}

	for _, l := range readers {
		l.hears(t, topic, p.last)
		l.check(t, topic, 1, p.last, 0)
	}
	skipped := 0
	for _, s := range slow {
		for s.last < p.last {
			s.readOne()
		}
		skipped += s.skipped
	}
	for poll.last < p.last {
		poll.take()
	}
	for _, a := range []*account{&slow[0].account, &slow[1].account, &poll.account} {
		if a.first != 1 || a.skipped == 0 {
			t.Errorf("%s: began at %d, skipped %d messages", a.name, a.first, a.skipped)
		}
		t.Logf("%s: %d of %d messages skipped, in %d pieces", a.name, a.skipped, p.last, a.notices)
	}
	if counted := value(`skipped_total{policy="drop_oldest"}`) + value(`skipped_total{policy="latest"}`); int(counted) != skipped+poll.skipped {
		t.Errorf("%v counted as skipped, %d told", counted, skipped+poll.skipped)
	}
	eventually(t, "nothing waits", func() bool { return value("lagging_channels") == 0 && value("queue_bytes") == 0 })

	eventually(t, "the one that has stopped is gone", func() bool {
		return value(`closed_total{reason="slow"}`)+value(`closed_total{reason="slow_long"}`) == 1
	})
}

// The queues of a gateway together have a bound, and a queue that stays long has one in time.
func TestSlow_QueuesTogetherAndInTime(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.topicserver("ts-a")
	s.topicserver("ts-b")
	const budget = 2 << 20
	tight := s.gateway("GATEWAY_ID=gw-1", "MAX_QUEUE_BYTES=1048576", "SOFT_QUEUE_BYTES=0", fmt.Sprint("QUEUE_BUDGET_BYTES=", budget))
	brief := s.gateway("GATEWAY_ID=gw-2", "SOFT_QUEUE_BYTES=65536", "SOFT_QUEUE_TIME=200ms")
	tight.ready()
	brief.ready()
	topic := s.topicOf("ts-b", 0)
	thin := listenTo(t, "thin", tight.url(), topic)
	for range 8 {
		stall(t, tight, topic)
	}
	p := newFlooder(t, tight.webSocketURL(), topic)
	value := func(gw *gatewayProc, series string) float64 { return metric(gw.admin, "ringcast_gateway_"+series) }
	publish := func(p *flooder) {
		if p.publish(numbered(p.last+1)) > 500 {
			t.Fatal("sockets take everything")
		}
	}
	for value(tight, "queue_bytes") < budget/2 {
		publish(p)
	}
	for range 15 { // 6 MiB for all eight, and less than MAX_QUEUE_BYTES for each
		publish(p)
	}
	if n := value(tight, "queue_budget_bytes"); n != budget {
		t.Errorf("a budget of %v bytes", n)
	}
	eventually(t, "the longest queues are gone", func() bool {
		return value(tight, "queue_bytes") <= budget && value(tight, `closed_total{reason="budget"}`) >= 1
	})
	// On another topic, since kernels take of one socket more than of another.
	other := s.topicOf("ts-a", 0)
	stall(t, brief, other)
	long := newFlooder(t, brief.webSocketURL(), other)
	for value(brief, "queue_bytes") < 128<<10 && value(brief, `closed_total{reason="slow_long"}`) < 1 { // it may be gone as soon as much waits
		publish(long)
	}
	eventually(t, "the one that was long for too long is gone", func() bool { return value(brief, `closed_total{reason="slow_long"}`) == 1 })
	if n := value(tight, `closed_total{reason="slow"}`) + value(brief, `closed_total{reason="slow"}`); n != 0 {
		t.Errorf("%v closed for MAX_QUEUE_BYTES", n)
	}
	thin.hears(t, topic, p.last)
	thin.check(t, topic, 1, p.last, 0)
}
