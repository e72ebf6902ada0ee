// Package trace carries W3C trace contexts along with messages and exports spans by OTLP over HTTP.
//
// A nil Tracer and a nil Span do nothing, at no cost: a process without an endpoint has a nil Tracer, and a message that
// is not sampled has no Span. A process without a Tracer still passes on the contexts that it is given.
package trace

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/url"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

const (
	exportEvery   = time.Second     // spans wait so long for others
	exportTimeout = 5 * time.Second // of one request to the collector
	closeTimeout  = 2 * time.Second // for the last spans
	complainEvery = time.Minute     // about spans that cannot be exported
)

// Config says where spans go.
type Config struct {
	Endpoint string  // base URL of the collector; "" means no tracing
	Service  string  // name of the service
	Instance string  // of this process
	Sample   float64 // share of those that Sample lets through, 0 to 1
	Log      *zap.Logger
}

// CheckEndpoint tells what is wrong with an endpoint.
func CheckEndpoint(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("want a URL, http://host:4318 or https://…")
	}
	return nil
}

// Tracer makes spans. Any goroutine may call its methods.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   oteltrace.Tracer
	sample   float64
}

// New returns a tracer that exports to cfg.Endpoint, nil if there is none. Headers, certificates and the like are as
// the OTEL_EXPORTER_OTLP_* variables say; what they or the endpoint have wrong is the error. It does not wait for the
// collector, and one that cannot be reached is no error: its spans are lost. The caller must Close it.
func New(cfg Config) (*Tracer, error) {
	if cfg.Endpoint == "" {
		return nil, nil
	}
	if err := CheckEndpoint(cfg.Endpoint); err != nil {
		return nil, fmt.Errorf("trace: endpoint %q: %w", cfg.Endpoint, err)
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	u, err := url.JoinPath(cfg.Endpoint, "v1/traces")
	if err != nil {
		return nil, fmt.Errorf("trace: endpoint %q: %w", cfg.Endpoint, err)
	}
	exporter, err := otlptracehttp.New(context.Background(), otlptracehttp.WithEndpointURL(u), otlptracehttp.WithTimeout(exportTimeout))
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	// What the environment says of the process is put over what the service says of itself.
	res, err := resource.New(context.Background(), resource.WithTelemetrySDK(), resource.WithAttributes(
		attribute.String("service.name", cfg.Service), attribute.String("service.instance.id", cfg.Instance)), resource.WithFromEnv())
	if err != nil {
		cfg.Log.Warn("OTEL_RESOURCE_ATTRIBUTES is not used in full", zap.Error(err))
	}
	t := &Tracer{sample: cfg.Sample}
	t.provider = sdktrace.NewTracerProvider(sdktrace.WithResource(res), sdktrace.WithSampler(sdktrace.AlwaysSample()),
		sdktrace.WithBatcher(&reported{SpanExporter: exporter, log: cfg.Log}, sdktrace.WithBatchTimeout(exportEvery), sdktrace.WithExportTimeout(exportTimeout)))
	t.tracer = t.provider.Tracer("github.com/ringcast/ringcast")
	return t, nil
}

// Close exports the spans that have ended and stops.
func (t *Tracer) Close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = t.provider.Shutdown(ctx) // what could not be exported was reported
}

// reported logs why spans cannot be exported, now and then.
type reported struct {
	sdktrace.SpanExporter
	log  *zap.Logger
	next time.Time // of the next line; the library exports one batch at a time
}

func (r *reported) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := r.SpanExporter.ExportSpans(ctx, spans)
	if now := time.Now(); err != nil && !now.Before(r.next) {
		r.next = now.Add(complainEvery)
		r.log.Warn("spans are not exported", zap.Int("spans", len(spans)), zap.Error(err))
	}
	return nil // reported; the library would print it where nobody reads
}

// Sample reports, at random, whether a message without a trace context is to be traced.
func (t *Tracer) Sample() bool {
	return t != nil && t.sample > 0 && rand.Float64() < t.sample
}

// Start begins a span as a child of the given context, or a new trace if that is nil.
func (t *Tracer) Start(parent Context, name string, kind oteltrace.SpanKind, at time.Time) *Span {
	if t == nil {
		return nil
	}
	ctx := context.Background()
	if parent.Valid() {
		ctx = oteltrace.ContextWithRemoteSpanContext(ctx, parent.spanContext())
	}
	_, span := t.tracer.Start(ctx, name, oteltrace.WithSpanKind(kind), oteltrace.WithTimestamp(at))
	return &Span{span}
}

// Kinds of spans, for those who do not otherwise need OpenTelemetry.
const (
	Producer = oteltrace.SpanKindProducer
	Broker   = oteltrace.SpanKindServer
	Consumer = oteltrace.SpanKindConsumer
)

// Span is a step in the life of a sampled message. A nil Span does nothing.
type Span struct {
	span oteltrace.Span
}

// Text notes something about the step.
func (s *Span) Text(key, value string) {
	if s != nil {
		s.span.SetAttributes(attribute.String(key, value))
	}
}

// Number is Text for numbers.
func (s *Span) Number(key string, value int64) {
	if s != nil {
		s.span.SetAttributes(attribute.Int64(key, value))
	}
}

// Fail notes that the step failed.
func (s *Span) Fail(why string) {
	if s != nil {
		s.span.SetStatus(codes.Error, why)
	}
}

// End ends the step.
func (s *Span) End(at time.Time) {
	if s != nil {
		s.span.End(oteltrace.WithTimestamp(at))
	}
}

// Context returns what the steps that follow have as their parent: this span, or parent when the span is nil.
func (s *Span) Context(parent Context) Context {
	if s == nil {
		return parent
	}
	sc := s.span.SpanContext()
	id, span := sc.TraceID(), sc.SpanID()
	c := make(Context, 0, contextSize)
	c = append(append(c, id[:]...), span[:]...)
	return append(c, byte(sc.TraceFlags()))
}

// Context is a trace context as it travels with a message: 16 bytes of trace id, 8 of the parent's span id, and the
// flags. Nil is none.
type Context []byte

const (
	contextSize = 16 + 8 + 1
	sampledFlag = 1
)

// Valid reports whether c is a context, sampled or not.
func (c Context) Valid() bool {
	return len(c) == contextSize && !zero(c[:16]) && !zero(c[16:24])
}

// Sampled reports whether c is a context of a message that is traced.
func (c Context) Sampled() bool { return c.Valid() && c[24]&sampledFlag != 0 }

func zero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

func (c Context) spanContext() oteltrace.SpanContext {
	return oteltrace.NewSpanContext(oteltrace.SpanContextConfig{
		TraceID: oteltrace.TraceID(c[:16]), SpanID: oteltrace.SpanID(c[16:24]), TraceFlags: oteltrace.TraceFlags(c[24]), Remote: true,
	})
}

// Parse reads a traceparent as W3C Trace Context defines it: "00-<32 hex>-<16 hex>-<2 hex>", in later versions perhaps
// with more behind it. It returns nil for what is none: the standard wants such a one ignored.
func Parse(traceparent string) Context {
	const size = 55
	s := traceparent
	if len(s) < size || s[2] != '-' || s[35] != '-' || s[52] != '-' || len(s) > size && (s[:2] == "00" || s[size] != '-') {
		return nil
	}
	var version [1]byte
	c := make(Context, contextSize)
	for _, part := range []struct {
		to   []byte
		from string
	}{{version[:], s[:2]}, {c[:16], s[3:35]}, {c[16:24], s[36:52]}, {c[24:], s[53:55]}} {
		for i := range len(part.from) {
			if b := part.from[i]; (b < '0' || b > '9') && (b < 'a' || b > 'f') {
				return nil
			}
		}
		_, _ = hex.Decode(part.to, []byte(part.from)) // it is hex
	}
	if version[0] == 0xff || !c.Valid() {
		return nil
	}
	return c
}
