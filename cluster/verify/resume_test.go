package verify

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ringcast/ringcast/cluster/verify/chaos"
	"github.com/ringcast/ringcast/shared/ring"
)

// resumed is how many topics a gateway has in BenchmarkResume, on two topic servers.
const resumed = 100_000

// BenchmarkResume cuts the links between a gateway with very many topics and one of two topic servers for 0.3 s. It reports how
// long it takes until the gateway has subscribed all again, and how long publishes wait meanwhile, to that server and to the
// other.
func BenchmarkResume(b *testing.B) {
	d, owner := manyTopics(b)
	victim := d.servers[0]
	waits := map[string]*waits{victim.id: newWaits(b, d.urls[0], owner, victim.id), d.servers[1].id: newWaits(b, d.urls[0], owner, d.servers[1].id)}
	known := func() float64 {
		_, text := victim.ask(b.Context(), "/metrics")
		return gauges(text)["ringcast_topic_subscribers"]
	}
	before := known()
	var back time.Duration
	for b.Loop() {
		for _, w := range waits {
			w.reset()
		}
		d.proxies[victim.id].Set(d.gateways[0].id, chaos.Fault{Mode: chaos.Cut})
		sleep(b.Context(), 300*time.Millisecond)
		d.proxies[victim.id].Set(d.gateways[0].id, chaos.Fault{})
		for healed := time.Now(); known() < before; back = time.Since(healed) {
			if time.Since(healed) > time.Minute {
				b.Fatalf("%v of %v subscribers are known again", known(), before)
			}
			sleep(b.Context(), poll)
		}
		sleep(b.Context(), 300*time.Millisecond)
	}
	b.ReportMetric(float64(back.Milliseconds()), "ms-to-resume")
	for id, name := range map[string]string{victim.id: "cut", d.servers[1].id: "other"} {
		p99, most := waits[id].quantiles()
		b.ReportMetric(float64(p99.Microseconds())/1000, "ms-p99-"+name)
		b.ReportMetric(float64(most.Microseconds())/1000, "ms-max-"+name)
	}
}

// BenchmarkRingEdit adds a topic server to the ring of a gateway with very many topics, so that a third of them moves. It reports
// how long that takes, and how long publishes wait meanwhile, to a topic that moves and to one that does not.
func BenchmarkRingEdit(b *testing.B) {
	d, _ := manyTopics(b)
	before := d.current()
	after := topology{members: append(slices.Clone(before.members), d.servers[2].id)}
	moves := func(topic string) bool { return len(moved([]string{topic}, before, after)) == 1 }
	waits := map[string]*waits{
		"moving":  newWaits(b, d.urls[0], func(topic string) string { return fmt.Sprint(moves(topic)) }, "true"),
		"staying": newWaits(b, d.urls[0], func(topic string) string { return fmt.Sprint(moves(topic)) }, "false"),
	}
	count := func() float64 {
		_, text := d.gateways[0].ask(b.Context(), "/metrics")
		return gauges(text)["ringcast_gateway_moves_total"]
	}
	want := float64(len(moved(many(), before, after)))
	var took time.Duration
	for b.Loop() {
		for _, w := range waits {
			w.reset()
		}
		start, begun := count(), time.Now()
		if err := d.resize(b.Context(), 3, "", rand.New(rand.NewPCG(1, 1)), nobodyAsks); err != nil {
			b.Fatal(err)
		}
		for count()-start < want {
			if time.Since(begun) > time.Minute {
				b.Fatalf("%v of %v topics have moved", count()-start, want)
			}
			sleep(b.Context(), poll)
		}
		took = time.Since(begun)
		sleep(b.Context(), 300*time.Millisecond)
	}
	b.ReportMetric(float64(took.Milliseconds()), "ms-to-move")
	for name, w := range waits {
		p99, most := w.quantiles()
		b.ReportMetric(float64(p99.Microseconds())/1000, "ms-p99-"+name)
		b.ReportMetric(float64(most.Microseconds())/1000, "ms-max-"+name)
	}
}

// many lists the topics of manyTopics.
func many() []string {
	topics := make([]string, resumed)
	for i := range topics {
		topics[i] = fmt.Sprintf("topics:resumed%d", i)
	}
	return topics
}

// manyTopics starts a gateway and two topic servers, and clients that have joined very many topics.
func manyTopics(b *testing.B) (*deployment, func(topic string) string) {
	b.Helper()
	b.Setenv("MAX_CHANNELS", "10000")
	b.Setenv("MAX_SESSION_JOINS_PER_SECOND", "0")
	b.Setenv("ADMISSION_LAG", "0s") // else so many joins at once close the gateway for a while
	cfg, err := Config{Gateways: 1, Bin: os.Getenv("RINGCAST_BIN")}.withDefaults()
	if err != nil {
		b.Fatal(err)
	}
	d, err := deploy(b.Context(), cfg, b.TempDir(), func(id, why string) { b.Error(id, why) })
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = d.stop() })
	rg, err := ring.Load(d.gateways[0].ringFile())
	if err != nil {
		b.Fatal(err)
	}
	var joined atomic.Int64
	const conns = resumed / 10_000
	for c := range conns {
		ws := connect(b, d.urls[0])
		go func() {
			for {
				_, data, err := ws.Read(b.Context())
				if err != nil {
					return
				}
				if strings.Contains(string(data), `"status":"ok"`) {
					joined.Add(1)
				}
			}
		}()
		for i := c; i < resumed; i += conns {
			text := fmt.Appendf(nil, `["%d","%d","topics:resumed%d","phx_join",{}]`, i, i, i)
			if err := ws.Write(b.Context(), websocket.MessageText, text); err != nil {
				b.Fatal(err)
			}
		}
	}
	for deadline := time.Now().Add(time.Minute); joined.Load() < resumed; sleep(b.Context(), poll) {
		if time.Now().After(deadline) {
			b.Fatalf("%d of %d have joined", joined.Load(), resumed)
		}
	}
	return d, func(topic string) string { return rg.Owner(topic).ID }
}

func connect(b *testing.B, url string) *websocket.Conn {
	b.Helper()
	ws, _, err := websocket.Dial(b.Context(), url+"/websocket?vsn=2.0.0", nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = ws.CloseNow() })
	return ws
}

// waits measures how long publishes to a topic wait for their replies.
type waits struct {
	from atomic.Int64 // since when they count, in Unix nanoseconds
	took chan wait
}

type wait struct {
	sent int64
	took time.Duration
}

func newWaits(b *testing.B, url string, owner func(topic string) string, server string) *waits {
	b.Helper()
	topic := ""
	for i := 0; topic == "" || owner(topic) != server; i++ {
		topic = fmt.Sprintf("topics:waits%d", i)
	}
	w := &waits{took: make(chan wait, 1<<20)}
	ws := connect(b, url)
	// The ref of a publish is the time when it is sent.
	send := func(ctx context.Context, event, payload string) {
		text := fmt.Appendf(nil, `["1","%d",%q,%q,%s]`, time.Now().UnixNano(), topic, event, payload)
		_ = ws.Write(ctx, websocket.MessageText, text) // the reader sees the end
	}
	send(b.Context(), "phx_join", "{}")
	go func() {
		for sleep(b.Context(), 5*time.Millisecond) {
			send(b.Context(), "publish", `["e",{}]`)
		}
	}()
	go func() {
		for {
			_, data, err := ws.Read(b.Context())
			if err != nil {
				return
			}
			var sent int64
			if n, _ := fmt.Sscanf(string(data), `["1","%d",`, &sent); n == 1 && strings.Contains(string(data), "phx_reply") {
				w.took <- wait{sent, time.Duration(time.Now().UnixNano() - sent)}
			}
		}
	}()
	return w
}

func (w *waits) reset() { w.from.Store(time.Now().UnixNano()) }

func (w *waits) quantiles() (p99, most time.Duration) {
	var all []time.Duration
	for range len(w.took) {
		if x := <-w.took; x.sent >= w.from.Load() {
			all = append(all, x.took)
		}
	}
	slices.Sort(all)
	if len(all) == 0 {
		return 0, 0
	}
	return all[len(all)*99/100], all[len(all)-1]
}
