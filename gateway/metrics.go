package gateway

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringcast/ringcast/gateway/socket"
)

// register exposes the gateway's counts. They are read when scraped; nothing is counted twice.
func (g *Gateway) register(reg *prometheus.Registry) {
	gauge := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ringcast_gateway_" + name, Help: help}, value))
	}
	counter := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "ringcast_gateway_" + name, Help: help}, value))
	}
	gauge("sessions", "Client sockets now.", func() float64 { return float64(g.loops.Conns()) })
	gauge("queue_bytes", "Bytes that wait for clients that read slowly, now.",
		func() float64 { return float64(g.loops.Stats().QueueBytes) })
	gauge("lanes", "Live lanes to topic servers now.", func() float64 { return float64(g.router.Stats().LanesUp) })
	gauge("ring_version", "Version of the ring in use.", func() float64 { return float64(g.RingVersion()) })
	counter("accepted_total", "Client sockets accepted.", func() float64 { return float64(g.loops.Stats().Accepted) })
	counter("frames_in_total", "Frames received from clients.", func() float64 { return float64(g.loops.Stats().Messages) })
	counter("frames_out_total", "Frames queued for clients.", func() float64 { return float64(g.loops.Stats().Frames) })
	counter("bytes_in_total", "Bytes received from clients.", func() float64 { return float64(g.loops.Stats().BytesIn) })
	counter("bytes_out_total", "Bytes written to clients.", func() float64 { return float64(g.loops.Stats().BytesOut) })
	counter("writes_total", "Write calls on client sockets.", func() float64 { return float64(g.loops.Stats().Writes) })
	counter("panics_total", "Panics of session code; each closed one socket.", func() float64 { return float64(g.loops.Stats().Panics) })
	counter("publishes_total", "Publishes sent to owners.", func() float64 { return float64(g.router.Stats().Publishes) })
	counter("messages_total", "Messages received for topics with subscribers here.",
		func() float64 { return float64(g.router.Stats().Messages) })
	counter("deliveries_total", "Messages handed to channels.", func() float64 { return float64(g.router.Stats().Deliveries) })
	flag := func(b *atomic.Bool) func() float64 {
		return func() float64 {
			if b.Load() {
				return 1
			}
			return 0
		}
	}
	gauge("ring_file_failed", "1 while the ring file is of no use and the ring in use is an older one.", flag(&g.ringFailed))
	gauge("ring_file_stale", "1 while the ring in use came from a topic server and is newer than the ring file.", flag(&g.staleFile))
	counter("resyncs_total", "Subscriptions that asked for what they had missed.",
		func() float64 { return float64(g.router.Stats().Resyncs) })
	counter("replayed_total", "Messages from a topic's history handed to channels after a lost link.",
		func() float64 { return float64(g.router.Stats().Replayed) })
	counter("moves_total", "Subscriptions that went over to another owner.", func() float64 { return float64(g.router.Stats().Moves) })
	counter("gaps_total", "Subscriptions that came back from a lost link with messages missing; their channels were told.",
		func() float64 { return float64(g.router.Stats().Gaps) })
	counter("overruns_total", "Messages that ended their topic on an event loop too busy to deliver them; its channels were told.",
		func() float64 { return float64(g.router.Stats().Overruns) })
	counter("stray_total", "Messages received for topics that are not subscribed any more.",
		func() float64 { return float64(g.router.Stats().Stray) })
	counter("unfit_total", "Binary messages not handed to channels whose protocol version has no place for them.",
		func() float64 { return float64(g.router.Stats().Unfit) })
	for end := range socket.End(socket.NumEnds) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "ringcast_gateway_closed_total", Help: "Client sockets ended, by reason.",
			ConstLabels: prometheus.Labels{"reason": end.String()},
		}, func() float64 { return float64(g.loops.Stats().Ended[end]) }))
	}
}
