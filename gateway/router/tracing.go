package router

import (
	"slices"
	"strings"
	"time"

	"github.com/ringcast/ringcast/gateway/hub"
	"github.com/ringcast/ringcast/shared/trace"
)

// beginSpan makes the publish a traced one, if its context or chance say so. A context that says no is obeyed.
func (p *publish) beginSpan(given trace.Context) {
	tracer := p.local.r.cfg.Tracer
	if given.Valid() && !given.Sampled() || !given.Valid() && !tracer.Sample() {
		return
	}
	p.span = tracer.Start(given, "publish", trace.Producer, p.since)
	p.span.Text("ringcast.topic", p.req.Topic)
	p.span.Text("ringcast.gateway", p.local.r.cfg.Gateway)
	p.span.Number("ringcast.bytes", int64(len(p.req.Payload)))
	p.req.Trace = p.span.Context(slices.Clone(given))
}

// endSpan ends the span of a publish with its outcome.
func (p *publish) endSpan(o Outcome) {
	p.span.Text("ringcast.outcome", strings.ToLower(o.Code.String()))
	if o.OK() {
		p.span.Text("ringcast.position", o.Position.String())
	} else {
		p.span.Fail(o.Detail)
	}
	p.span.End(time.Now())
}

// traceDelivery makes a span of what this loop did for a traced message, from its receipt until the sockets were written.
func (l *Local) traceDelivery(m *hub.Message, delivered int) {
	span := l.r.cfg.Tracer.Start(m.Traced.Context, "deliver", trace.Consumer, m.Traced.Received)
	if span == nil {
		return
	}
	span.Text("ringcast.topic", m.Topic)
	span.Text("ringcast.gateway", l.r.cfg.Gateway)
	span.Text("ringcast.position", m.Position.String())
	span.Number("ringcast.loop", int64(l.loop.Index()))
	span.Number("ringcast.channels", int64(delivered))
	l.loop.AfterFlush(func() { span.End(time.Now()) })
}
