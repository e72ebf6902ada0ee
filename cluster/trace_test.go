package cluster_test

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// collector is an OpenTelemetry collector that keeps all spans.
type collector struct {
	*httptest.Server
	t *testing.T

	mu    sync.Mutex
	spans []span
}

type span struct {
	*tracepb.Span
	service, instance string
}

func newCollector(t *testing.T) *collector {
	c := &collector{t: t}
	c.Server = httptest.NewServer(http.HandlerFunc(c.serve))
	t.Cleanup(c.Close)
	return c
}

func (c *collector) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var req coltrace.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &req)
	}
	if err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		c.t.Errorf("collector got %s %v: %v", r.URL, r.Header, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range req.ResourceSpans {
		var s span
		for _, kv := range resource.Resource.Attributes {
			switch kv.Key {
			case "service.name":
				s.service = kv.Value.GetStringValue()
			case "service.instance.id":
				s.instance = kv.Value.GetStringValue()
			}
		}
		for _, scope := range resource.ScopeSpans {
			for _, one := range scope.Spans {
				s.Span = one
				c.spans = append(c.spans, s)
			}
		}
	}
}

// of returns the spans of a trace, by name and instance.
func (c *collector) of(trace string) map[string]span {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := map[string]span{}
	for _, s := range c.spans {
		if hex.EncodeToString(s.TraceId) == trace {
			found[s.Name+" at "+s.instance] = s
		}
	}
	return found
}

func (c *collector) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.spans)
}

// attribute returns an attribute of a span as text.
func (s span) attribute(key string) string {
	for _, kv := range s.Attributes {
		if kv.Key == key {
			if text := kv.Value.GetStringValue(); text != "" {
				return text
			}
			return fmt.Sprint(kv.Value.GetIntValue())
		}
	}
	return ""
}

// One publish, one trace over three processes.
func TestTrace_OnePublishOverThreeProcesses(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	s := newSite(t)
	s.env = []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.URL}
	s.topicserver("ts-a")
	s.topicserver("ts-b")
	topic := s.topicOf("ts-a", 0)
	gw1, gw2 := s.gateway("GATEWAY_ID=gw-1", "EVENT_LOOPS=1"), s.gateway("GATEWAY_ID=gw-2", "EVENT_LOOPS=1")
	gw1.ready()
	gw2.ready()
	var subscribers []*socket
	for _, gw := range []*gatewayProc{gw2, gw2, gw1} {
		sub := dial(t, "subscriber", gw.webSocketURL())
		sub.join(topic)
		subscribers = append(subscribers, sub)
	}
	p := subscribers[2]
	publish := func(options string) {
		t.Helper()
		p.say(fmt.Sprintf(`["1","2",%q,"publish",["n",{"a":1}%s]]`, topic, options))
		p.expect(fmt.Sprintf(`["1","2",%q,"phx_reply",{"response":{},"status":"ok"}]`, topic))
		for _, sub := range subscribers {
			sub.expect(fmt.Sprintf(`["1",null,%q,"n",{"a":1}]`, topic))
		}
	}
	const trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	publish(``)
	publish(`,{"traceparent":"00-` + strings.Repeat("1", 32) + `-` + parent + `-00"}`) // not sampled
	publish(`,{"traceparent":"nonsense"}`)
	publish(`,{"traceparent":"00-` + trace + `-` + parent + `-01"}`)

	var spans map[string]span
	eventually(t, "the trace is complete", func() bool { spans = c.of(trace); return len(spans) == 4 })
	publishSpan, appendSpan := spans["publish at gw-1"], spans["append and fan out at ts-a"]
	near, far := spans["deliver at gw-1"], spans["deliver at gw-2"]
	for i, s := range []span{publishSpan, appendSpan, near, far} {
		if s.Span == nil {
			t.Fatalf("span %d is missing among %v", i, spans)
		}
		if s.EndTimeUnixNano < s.StartTimeUnixNano || s.attribute("ringcast.topic") != topic {
			t.Errorf("span %v", s)
		}
	}
	position := publishSpan.attribute("ringcast.position")
	for _, check := range []struct{ what, got, want string }{
		{"parent of publish", hex.EncodeToString(publishSpan.ParentSpanId), parent},
		{"parent of append", string(appendSpan.ParentSpanId), string(publishSpan.SpanId)},
		{"parent of deliver at gw-1", string(near.ParentSpanId), string(appendSpan.SpanId)},
		{"parent of deliver at gw-2", string(far.ParentSpanId), string(appendSpan.SpanId)},
		{"service", publishSpan.service + appendSpan.service, "ringcast-gatewayringcast-topicserver"},
		{"outcome", publishSpan.attribute("ringcast.outcome"), "ok"},
		{"position", position, appendSpan.attribute("ringcast.position")},
		{"position", position, far.attribute("ringcast.position")},
		{"gateways", appendSpan.attribute("ringcast.gateways"), "2"},
		{"channels", near.attribute("ringcast.channels") + far.attribute("ringcast.channels"), "12"},
	} {
		if check.got != check.want {
			t.Errorf("%s: %q, want %q", check.what, check.got, check.want)
		}
	}
	if n := c.count(); n != 4 {
		t.Errorf("%d spans, want those 4 only", n)
	}
}

// By chance, and to the end: a process that stops exports what it has.
func TestTrace_SampledByChance(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	s := newSite(t)
	s.topicserver("ts-a") // without an endpoint: it passes the trace on
	s.topicserver("ts-b")
	gw := s.gateway("GATEWAY_ID=gw-1", "EVENT_LOOPS=1", "TRACE_SAMPLE=1", "OTEL_EXPORTER_OTLP_ENDPOINT="+c.URL)
	gw.ready()
	p := dial(t, "publisher", gw.webSocketURL())
	p.join("room:1")
	p.say(`["1","2","room:1","n",{}]`)
	p.expect(`["1","2","room:1","phx_reply",{"response":{},"status":"ok"}]`, `["1",null,"room:1","n",{}]`)
	_ = p.ws.CloseNow()
	gw.signal(syscall.SIGTERM)
	gw.exits(0)
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for _, s := range c.spans {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"deliver", "publish"}) {
		t.Fatalf("spans %q", names)
	}
	a, b := c.spans[0], c.spans[1]
	if string(a.TraceId) != string(b.TraceId) || (string(a.ParentSpanId) == string(b.SpanId)) == (string(b.ParentSpanId) == string(a.SpanId)) {
		t.Errorf("no one trace: %v, %v", a, b)
	}
}
