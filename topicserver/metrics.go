package topicserver

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

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
	gauge("lanes", "Lanes from gateways now.", func() float64 { return float64(s.Lanes()) })
	gauge("ring_version", "Version of the ring in use.", func() float64 { return float64(s.rings.Current().Version()) })
	counter("refused_lanes_total", "Lanes answered with a refusal: wrong protocol, bad hello, or a ring conflict.",
		func() float64 { return float64(s.refused.Load()) })
	counter("slow_lanes_total", "Lanes ended because the gateway did not read what was sent to it.",
		func() float64 { return float64(s.slowLanes.Load()) })
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
	gauge("history_messages", "Messages remembered now.", func() float64 { return float64(s.store.Stats().Messages) })
	gauge("history_bytes", "Bytes remembered now.", func() float64 { return float64(s.store.Stats().Bytes) })
	counter("history_evicted_total", "Messages forgotten with their whole topic, for want of room.",
		func() float64 { return float64(s.store.Stats().Evicted) })
	counter("repeats_total", "Publishes whose id was known, answered and not appended again.",
		func() float64 { return float64(s.topics.Stats().Repeats) })
	counter("handovers_total", "Topics that came over from other servers.", func() float64 { return float64(s.moved.Load()) })
	counter("publishes_total", "Messages appended.", func() float64 { return float64(s.topics.Stats().Publishes) })
	counter("fanout_sends_total", "Messages sent to gateways: one per publish and gateway that subscribes the topic.",
		func() float64 { return float64(s.topics.Stats().FanoutSends) })
}
