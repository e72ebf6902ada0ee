package gateway

import (
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringcast/ringcast/gateway/auth"
	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/linkpb"
)

// times are the histograms of what messages take on their way through this gateway.
type times struct {
	publish, delivery prometheus.Histogram
}

func newTimes() times {
	buckets := []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	return times{
		publish: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "ringcast_gateway_publish_seconds", Buckets: buckets,
			Help: "From a client's publish to its owner's ok; one in 16 is measured.",
		}),
		delivery: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "ringcast_gateway_delivery_seconds", Buckets: buckets,
			Help: "From the arrival of a batch of messages to the writes on the sockets of an event loop; one batch in 16 is measured.",
		}),
	}
}

// links tells the live lanes to each topic server of the ring, whichever these are now.
type links struct {
	desc *prometheus.Desc
	of   func() map[string]int
}

func newLinks(of func() map[string]int) *links {
	return &links{of: of, desc: prometheus.NewDesc("ringcast_gateway_link_lanes", "Live lanes to a topic server now.", []string{"server"}, nil)}
}

// Describe implements prometheus.Collector.
func (l *links) Describe(ch chan<- *prometheus.Desc) { ch <- l.desc }

// Collect implements prometheus.Collector.
func (l *links) Collect(ch chan<- prometheus.Metric) {
	for server, lanes := range l.of() {
		ch <- prometheus.MustNewConstMetric(l.desc, prometheus.GaugeValue, float64(lanes), server)
	}
}

// register exposes the gateway's counts. They are read when scraped; nothing is counted twice.
func (g *Gateway) register(reg *prometheus.Registry) {
	gauge := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ringcast_gateway_" + name, Help: help}, value))
	}
	counter := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "ringcast_gateway_" + name, Help: help}, value))
	}
	gauge("sessions", "Client sockets now.", func() float64 { return float64(g.loops.Conns()) })
	gauge("waiting_clients", "Accepted connections of clients that wait for their turn to be served, now.",
		func() float64 { return float64(g.loops.Stats().Waiting) })
	gauge("queue_bytes", "Bytes that wait for clients that read slowly, now.",
		func() float64 { return float64(g.loops.Stats().QueueBytes) })
	gauge("answer_bytes", "Bytes of answers to HTTP requests that their clients have not taken, now.",
		func() float64 { return float64(g.answers.held.Load()) })
	gauge("queue_budget_bytes", "Bytes that may wait for all clients together.", func() float64 { return float64(g.cfg.queueBudget()) })
	gauge("input_bytes", "Bytes of client messages that have begun and are not whole, now.",
		func() float64 { return float64(g.loops.Stats().InputBytes) })
	gauge("body_bytes", "Bytes kept of bodies of HTTP requests, whole or not, now.",
		func() float64 { return float64(g.bodies.held.Load()) })
	gauge("input_budget_bytes", "Bytes of client messages that are not whole that may be kept for all clients together.",
		func() float64 { return float64(g.cfg.inputBudget()) })
	gauge("ring_version", "Version of the ring in use.", func() float64 { return float64(g.RingVersion()) })
	counter("accepted_total", "Client sockets accepted.", func() float64 { return float64(g.loops.Stats().Accepted) })
	counter("accept_failed_total", "Client sockets that could not be accepted, for want of file descriptors most likely; they are tried again.",
		func() float64 { return float64(g.accepts.shortage.Failed() + g.loops.Stats().AcceptFailed) })
	counter("frames_in_total", "Frames received from clients.", func() float64 { return float64(g.loops.Stats().Messages) })
	counter("frames_out_total", "Frames queued for clients.", func() float64 { return float64(g.loops.Stats().Frames) })
	counter("bytes_in_total", "Bytes received from clients.", func() float64 { return float64(g.loops.Stats().BytesIn) })
	counter("bytes_out_total", "Bytes written to clients.", func() float64 { return float64(g.loops.Stats().BytesOut) })
	counter("writes_total", "Write calls on client sockets.", func() float64 { return float64(g.loops.Stats().Writes) })
	counter("panics_total", "Panics; each closed one socket, failed one request or ended one lane.",
		func() float64 { return float64(g.allPanics()) })
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
	counter("api_limited_total", "API requests refused because their key or user had too many.", func() float64 { return float64(g.api.Limited()) })
	gauge("polls_forwarded", "Requests of long polls that are being forwarded to other gateways, now.",
		func() float64 { now, _ := g.polls.Forwarding(); return float64(now) })
	counter("polls_refused_total", "Requests of long polls that were not forwarded for want of room.",
		func() float64 { _, refused := g.polls.Forwarding(); return float64(refused) })
	counter("unserved_total", "Connections closed without an answer: no request came in time, or too many wait for the HTTP server.",
		func() float64 { return float64(g.loops.Stats().Unserved) })
	for i, status := range errorStatuses {
		g.registerErrors(reg, strconv.Itoa(status), &g.httpErrors.by[i])
	}
	g.registerErrors(reg, "other", &g.httpErrors.other)
	g.registerRouter(reg, gauge, counter)
	g.registerTokens(reg, gauge)
	g.registerIngest(gauge, counter)
	g.registerAdmission(reg, gauge)
	for end := range socket.End(socket.NumEnds) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "ringcast_gateway_closed_total", Help: "Client sockets ended, by reason.",
			ConstLabels: prometheus.Labels{"reason": end.String()},
		}, func() float64 { return float64(g.loops.Stats().Ended[end]) }))
	}
}

// allPanics counts those of all parts of the gateway.
func (g *Gateway) allPanics() uint64 {
	return g.loops.Stats().Panics + g.router.Stats().Panics + g.panics.Load() + g.ingestStats().Panics
}

func (g *Gateway) registerErrors(reg *prometheus.Registry, status string, count *atomic.Uint64) {
	reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "ringcast_gateway_http_errors_total", Help: "Handshakes and other requests that failed, by status.",
		ConstLabels: prometheus.Labels{"status": status},
	}, func() float64 { return float64(count.Load()) }))
}

func (g *Gateway) registerRouter(reg *prometheus.Registry, gauge, counter func(name, help string, value func() float64)) {
	gauge("lagging_channels", "Channels that chose to skip messages rather than be closed and for which some wait, now.",
		func() float64 { return float64(g.router.Stats().Lagging) })
	gauge("lanes", "Live lanes to topic servers now.", func() float64 { return float64(g.router.Stats().LanesUp) })
	counter("publishes_total", "Publishes sent to owners.", func() float64 { return float64(g.router.Stats().Publishes) })
	counter("messages_total", "Messages received for topics with subscribers here.",
		func() float64 { return float64(g.router.Stats().Messages) })
	counter("deliveries_total", "Messages handed to channels.", func() float64 { return float64(g.router.Stats().Deliveries) })
	counter("resyncs_total", "Subscriptions that asked for what they had missed.",
		func() float64 { return float64(g.router.Stats().Resyncs) })
	counter("replayed_total", "Messages from a topic's history handed to channels after a lost link.",
		func() float64 { return float64(g.router.Stats().Replayed) })
	counter("moves_total", "Subscriptions that went over to another owner.", func() float64 { return float64(g.router.Stats().Moves) })
	counter("joins_postponed_total", "Joins whose client had no room for what it had missed; their owners are asked again when it has.",
		func() float64 { return float64(g.router.Stats().JoinsPostponed) })
	counter("presences_postponed_total", "Changes of presences that a slow client was not told; it is shown who is there when it has room.",
		func() float64 { return float64(g.router.Stats().PresencesPostponed) })
	counter("gaps_total", "Subscriptions that came back from a lost link with messages missing; their channels were told.",
		func() float64 { return float64(g.router.Stats().Gaps) })
	counter("overruns_total", "Messages that ended their topic on an event loop too busy to deliver them; its channels were told.",
		func() float64 { return float64(g.router.Stats().Overruns) })
	counter("stray_total", "Messages received for topics that are not subscribed any more.",
		func() float64 { return float64(g.router.Stats().Stray) })
	gauge("names", "Exclusive names that sessions hold now.", func() float64 { return float64(g.router.Stats().Names) })
	counter("names_lost_total", "Exclusive names that sessions have lost without releasing them.",
		func() float64 { return float64(g.router.Stats().NamesLost) })
	counter("ring_conflicts_total", "Rings of topic servers that have the version of the one in use and other content, or one too far above.",
		func() float64 { return float64(g.router.Stats().Conflicts) })
	counter("unfit_total", "Binary messages not handed to channels whose protocol version has no place for them.",
		func() float64 { return float64(g.router.Stats().Unfit) })
	for _, policy := range []hub.Slow{hub.SlowDropOldest, hub.SlowLatest} {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "ringcast_gateway_skipped_total", Help: "Messages that slow clients did not get, by the policy that they chose; they were told which.",
			ConstLabels: prometheus.Labels{"policy": policy.String()},
		}, func() float64 { return float64(g.router.Stats().Skipped[policy]) }))
	}
	gauge("channels", "Channels joined now.", func() float64 { return float64(g.router.Stats().Channels) })
	gauge("topics", "Topics subscribed now.", func() float64 { return float64(g.router.Topics()) })
	gauge("topics_moving", "Subscriptions on their way to another owner now.", func() float64 { return float64(g.router.Stats().Moving) })
	gauge("backlog_bytes", "Bytes of messages that wait for event loops, now.", func() float64 { return float64(g.router.Stats().Backlog) })
	gauge("parked_bytes", "Bytes of publishes that wait for a topic's new owner, now.", func() float64 { return float64(g.router.Stats().Parked) })
	gauge("lane_queue_bytes", "Bytes that topic servers have not taken from their lanes, now.",
		func() float64 { return float64(g.router.Stats().LaneQueue) })
	gauge("publishes_in_flight", "Publishes that wait for their outcome now.", func() float64 { return float64(g.router.InFlight()) })
	counter("lanes_lost_total", "Lanes to topic servers that were live and ended.",
		func() float64 { return float64(g.router.Stats().LanesLost) })
	reg.MustRegister(g.times.publish, g.times.delivery, newLinks(g.router.Links))
	outcomes := func(name, help string, count func(router.Outcomes) uint64) {
		for _, code := range outcomeCodes {
			reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
				Name: "ringcast_gateway_" + name, Help: help,
				ConstLabels: prometheus.Labels{"outcome": strings.ToLower(code.String())},
			}, func() float64 { return float64(count(g.router.Outcomes(code))) }))
		}
	}
	outcomes("publish_outcomes_total", "Publishes that have ended, by outcome.", func(o router.Outcomes) uint64 { return o.Publishes })
	outcomes("join_outcomes_total", "Joins that were answered, by outcome.", func(o router.Outcomes) uint64 { return o.Joins })
}

// registerTokens exposes what there is about tokens; where clients need none, all of it is zero.
func (g *Gateway) registerTokens(reg *prometheus.Registry, gauge func(name, help string, value func() float64)) {
	stats := func() (s auth.Stats) {
		if g.auth != nil {
			s = g.auth.Stats()
		}
		return s
	}
	for reason := range auth.NumReasons {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "ringcast_gateway_tokens_refused_total", Help: "Tokens of clients that were refused, by reason.",
			ConstLabels: prometheus.Labels{"reason": reason.String()},
		}, func() float64 { return float64(stats().Refused[reason]) }))
	}
	gauge("token_keys", "Keys that verify tokens, now.", func() float64 { return float64(stats().Keys) })
	gauge("token_keys_failed", "1 while a source of keys is of no use and older ones are used.", func() float64 {
		if stats().Failed {
			return 1
		}
		return 0
	})
	gauge("tls_expires_seconds", "When the certificate for clients ends, in Unix seconds; 0 without one.", func() float64 {
		if g.tls == nil {
			return 0
		}
		return float64(g.tls.Expires().Unix())
	})
	gauge("link_expires_seconds", "When the certificate on links ends, in Unix seconds; 0 without one.", func() float64 {
		if g.identity == nil {
			return 0
		}
		return float64(g.identity.Expires().Unix())
	})
	gauge("revocations", "Revocations of clients that are remembered, now.", func() float64 { return float64(g.revoked.table.Len()) })
}

// outcomeCodes are those that a publish or a join can end with.
var outcomeCodes = []linkpb.Code{
	linkpb.Code_OK, linkpb.Code_NOT_OWNER, linkpb.Code_OVERLOADED, linkpb.Code_UNAVAILABLE, linkpb.Code_TOO_LARGE, linkpb.Code_INVALID,
	linkpb.Code_SHUTTING_DOWN, linkpb.Code_INTERNAL, linkpb.Code_UNKNOWN_OUTCOME, linkpb.Code_ID_REUSED,
	linkpb.Code_RATE_LIMITED,
}
