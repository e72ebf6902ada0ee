package topicserver

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// moves counts the topics that went from server to server, by how that ended.
type moves struct {
	taken     atomic.Uint64        // came over from others
	discarded atomic.Uint64        // came over from others when they had begun anew here already
	lost      atomic.Uint64        // were on offer from a server that could not be reached any more; they begin anew
	refused   atomic.Uint64        // came over from others and were not as they must be; they begin anew
	given     atomic.Uint64        // went to others
	time      prometheus.Histogram // of those taken: from asking for it to having it
}

// times are the histograms of what topics do.
type times struct {
	fanOut, pause prometheus.Histogram
}

// timeBuckets are upper bounds in seconds.
func timeBuckets() []float64 {
	return []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
}

func newHandoverTime() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "ringcast_topic_handover_seconds", Buckets: timeBuckets(),
		Help: "From asking another server for a topic to having its state.",
	})
}

func newTimes() times {
	return times{
		fanOut: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "ringcast_topic_fanout_seconds", Buckets: timeBuckets(),
			Help: "From the arrival of a batch of publishes to the sending of all its messages; one in 16 publishes is measured.",
		}),
		pause: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "ringcast_topic_pause_seconds", Buckets: timeBuckets(),
			Help: "How long requests for a topic waited for its state from another server.",
		}),
	}
}

// registerHistory is register for what is remembered: messages, and ids of publishes.
func (s *Server) registerHistory(gauge, counter func(name, help string, value func() float64)) {
	gauge("history_messages", "Messages remembered now.", func() float64 { return float64(s.store.Stats().Messages) })
	gauge("history_bytes", "Bytes remembered now.", func() float64 { return float64(s.store.Stats().Bytes) })
	counter("history_evicted_total", "Messages forgotten with their whole topic, for want of room.",
		func() float64 { return float64(s.store.Stats().Evicted) })
	gauge("publish_ids", "Publish ids remembered now.", func() float64 { return float64(s.topics.Stats().IDs) })
	counter("publish_ids_evicted_total", "Publish ids forgotten before their time because those of all topics took too much.",
		func() float64 { return float64(s.topics.Stats().IDsEvicted) })
}

// register exposes the server's counts. They are read when scraped; nothing is counted twice.
func (s *Server) register(reg *prometheus.Registry) {
	gauge := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ringcast_topic_" + name, Help: help}, value))
	}
	counter := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "ringcast_topic_" + name, Help: help}, value))
	}
	gauge("topics", "Topics held now.", func() float64 { return float64(s.topics.Stats().Topics) })
	gauge("subscribers", "Subscribers now, over all topics and gateways.",
		func() float64 { return float64(s.topics.Stats().Subscribers) })
	gauge("presences", "Members present now, over all topics.", func() float64 { return float64(s.topics.Stats().Presences) })
	counter("presence_sends_total", "Changes of presences sent to gateways: one per topic, interval and gateway.",
		func() float64 { return float64(s.topics.Stats().PresenceSends) })
	counter("presence_paced_total", "Changes of a topic's presences that waited because those before were long.",
		func() float64 { return float64(s.topics.Stats().PresencePaced) })
	gauge("names", "Exclusive names that somebody holds now.", func() float64 { return float64(s.topics.Names()) })
	gauge("lanes", "Lanes from gateways now.", func() float64 { return float64(s.Lanes()) })
	gauge("lane_queue_bytes", "Bytes that gateways have not taken from their lanes, now.", func() (sum float64) {
		for _, l := range s.openLanes() {
			sum += float64(l.wire.Backlog())
		}
		return sum
	})
	gauge("link_expires_seconds", "When the certificate on links ends, in Unix seconds; 0 without one.", func() float64 {
		if s.identity == nil {
			return 0
		}
		return float64(s.identity.Expires().Unix())
	})
	gauge("revocations", "Revocations of clients that are remembered, now.", func() float64 { return float64(s.revoked.Len()) })
	gauge("ring_version", "Version of the ring in use.", func() float64 { return float64(s.rings.Current().Version()) })
	counter("refused_lanes_total", "Lanes answered with a refusal: wrong protocol, bad hello, or a ring conflict.",
		func() float64 { return float64(s.refused.Load()) })
	counter("ring_conflicts_total", "Rings of peers that have the version of the one in use and other content, or one too far above.",
		func() float64 { return float64(s.conflicts.Load()) })
	counter("slow_lanes_total", "Lanes ended because the gateway did not read what was sent to it.",
		func() float64 { return float64(s.slowLanes.Load()) })
	registerEach(reg, "closed_lanes_total", "Connections closed for being too many, or for what their peers sent or did not send, by reason.", "reason",
		map[string]*atomic.Uint64{"too_many": &s.closed.TooMany, "no_hello": &s.closed.NoHello, "protocol": &s.badLanes})
	counter("panics_total", "Panics; each ended one lane or handover, or left one thing undone.",
		func() float64 { return float64(s.closed.Panics.Load() + s.panics.Load() + s.topics.Stats().Panics) })
	flag := func(b *atomic.Bool) func() float64 {
		return func() float64 {
			if b.Load() {
				return 1
			}
			return 0
		}
	}
	gauge("ring_file_failed", "1 while the ring file is of no use and the ring in use is an older one.", flag(&s.ringFailed))
	gauge("ring_file_stale", "1 while the ring in use came from a peer and is newer than the ring file.", flag(&s.staleFile))
	s.registerHistory(gauge, counter)
	counter("rate_limited_total", "Publishes over MAX_PUBLISHES_PER_TOPIC of their topic, refused.",
		func() float64 { return float64(s.topics.Stats().RateLimited) })
	counter("topics_refused_total", "Requests for a topic over MAX_TOPICS, refused.",
		func() float64 { return float64(s.topics.Stats().Refused) })
	counter("parked_refused_total", "Requests for a topic whose state is on its way from another server, or for a name, refused because too many wait for it.",
		func() float64 { return float64(s.topics.Stats().ParkedRefused) })
	counter("repeats_total", "Publishes whose id was known, answered and not appended again.",
		func() float64 { return float64(s.topics.Stats().Repeats) })
	registerEach(reg, "handovers_total", "Topics that went from server to server, by how that ended.", "outcome", map[string]*atomic.Uint64{
		"taken": &s.moves.taken, "discarded": &s.moves.discarded, "lost": &s.moves.lost, "refused": &s.moves.refused, "given": &s.moves.given,
	})
	reg.MustRegister(s.moves.time, s.times.fanOut, s.times.pause)
	gauge("topics_waiting", "Topics whose state is on its way from another server, now.",
		func() float64 { return float64(len(s.topics.Waiting())) })
	counter("publishes_total", "Messages appended.", func() float64 { return float64(s.topics.Stats().Publishes) })
	counter("fanout_sends_total", "Messages sent to gateways: one per publish and gateway that subscribes the topic.",
		func() float64 { return float64(s.topics.Stats().FanoutSends) })
}

// registerEach registers one counter for each value of a label.
func registerEach(reg *prometheus.Registry, name, help, label string, counts map[string]*atomic.Uint64) {
	for value, count := range counts {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "ringcast_topic_" + name, Help: help, ConstLabels: prometheus.Labels{label: value},
		}, func() float64 { return float64(count.Load()) }))
	}
}
