package topic

import (
	"strconv"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/trace"
)

// beginSpan makes a span of a publish that is traced.
func (r *Registry) beginSpan(tn *Turn, t *Topic, req *linkpb.Publish) *trace.Span {
	if len(req.Trace) == 0 || r.cfg.Tracer == nil || !trace.Context(req.Trace).Sampled() {
		return nil
	}
	span := r.cfg.Tracer.Start(req.Trace, "append and fan out", trace.Broker, tn.Now())
	span.Text("ringcast.topic", t.name)
	return span
}

// endSpan ends the span when the turn has sent what it caused.
func (tn *Turn) endSpan(span *trace.Span, t *Topic) {
	span.Text("ringcast.position", strconv.FormatUint(t.epoch, 36)+":"+strconv.FormatUint(t.offset, 10))
	span.Number("ringcast.gateways", int64(len(t.subs)))
	tn.spans = append(tn.spans, span)
}

func (tn *Turn) endSpans() {
	now := time.Now()
	for _, span := range tn.spans {
		span.End(now)
	}
	tn.spans = nil
}
