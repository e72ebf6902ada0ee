package cluster_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// value returns a metric's value, of a histogram the number of observations, with the label value if one is given; -1
// if there is none.
func value(t *testing.T, reg *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			if label != "" && (len(m.GetLabel()) != 1 || m.GetLabel()[0].GetValue() != label) {
				continue
			}
			if h := m.GetHistogram(); h != nil {
				return float64(h.GetSampleCount())
			}
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return -1
}

// What is told of joins, publishes and deliveries, with how long they take.
func TestD9_MetricsSayWhatHappened(t *testing.T) {
	t.Parallel()
	c := start(t)
	a, b := dial(t, "a", c.Gateways[0].WebSocketURL()), dial(t, "b", c.Gateways[1].WebSocketURL())
	a.join("room:1")
	b.join("room:1")
	a.join("room:2")
	a.say(`["1","2","room:1","n",{}]`)
	a.expect(`["1","2","room:1","phx_reply",{"response":{},"status":"ok"}]`, `["1",null,"room:1","n",{}]`)
	b.expect(`["1",null,"room:1","n",{}]`)
	gw, other, owner := c.Gateways[0].Metrics, c.Gateways[1].Metrics, c.Owner("room:1").Metrics
	for _, want := range []struct {
		reg         *prometheus.Registry
		name, label string
		value       float64
	}{
		{gw, "ringcast_gateway_channels", "", 2},
		{gw, "ringcast_gateway_topics", "", 2},
		{gw, "ringcast_gateway_join_outcomes_total", "ok", 2},
		{gw, "ringcast_gateway_join_outcomes_total", "unavailable", 0},
		{gw, "ringcast_gateway_publish_outcomes_total", "ok", 1},
		{gw, "ringcast_gateway_publishes_in_flight", "", 0},
		{gw, "ringcast_gateway_publish_seconds", "", 1},
		{gw, "ringcast_gateway_link_lanes", "ts-a", 2},
		{gw, "ringcast_gateway_link_lanes", "ts-b", 2},
		{gw, "ringcast_gateway_lanes_lost_total", "", 0},
		{other, "ringcast_gateway_publish_seconds", "", 0},
		{other, "ringcast_gateway_delivery_seconds", "", 1},
		{owner, "ringcast_topic_fanout_seconds", "", 1},
		{owner, "ringcast_topic_fanout_sends_total", "", 2},
	} {
		eventually(t, want.name+" "+want.label+" is right", func() bool { return value(t, want.reg, want.name, want.label) == want.value })
	}
	_ = a.ws.CloseNow()
	eventually(t, "its channels are gone", func() bool { return value(t, gw, "ringcast_gateway_channels", "") == 0 })
	eventually(t, "its topics are gone", func() bool { return value(t, gw, "ringcast_gateway_topics", "") == 0 })
}
