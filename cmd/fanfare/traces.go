package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/fanfare-hub/fanfare/server"
)

// traces sends spans to a collector. It implements server.Tracer.
type traces struct {
	provider *sdk.TracerProvider
	spans    trace.Tracer
}

var _ server.Tracer = (*traces)(nil)

// newTraces returns nil when no endpoint is set. It does not wait for the collector: spans that
// cannot be sent are dropped.
func newTraces(ctx context.Context, c *settings, logger *slog.Logger) (*traces, error) {
	if c.TraceEndpoint == "" {
		return nil, nil
	}
	u, headers, err := c.collector()
	if err != nil {
		return nil, err
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(u.String()),
		otlptracehttp.WithHeaders(headers))
	if err != nil {
		return nil, fmt.Errorf("--trace-endpoint: %w", err)
	}
	res := resource.NewSchemaless(attribute.String("service.name", "fanfare"),
		attribute.String("service.version", version()))
	provider := sdk.NewTracerProvider(
		sdk.WithBatcher(reporting{exporter, logger}), sdk.WithResource(res),
		sdk.WithSampler(sdk.ParentBased(sdk.TraceIDRatioBased(c.TraceSample))),
	)
	return &traces{provider: provider, spans: provider.Tracer("fanfare")}, nil
}

// collector is the address that spans go to, and the headers to send.
func (c *settings) collector() (u *url.URL, headers map[string]string, err error) {
	u, err = url.Parse(c.TraceEndpoint)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, nil, errors.New("--trace-endpoint must be a URL such as http://127.0.0.1:4318")
	}
	if strings.Trim(u.Path, "/") == "" {
		u.Path = "/v1/traces"
	}
	headers = map[string]string{}
	if u.User != nil { // the exporter would leave it out
		password, _ := u.User.Password()
		headers["Authorization"] = "Basic " + base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password))
	}
	for _, h := range c.TraceHeader {
		name, value, ok := strings.Cut(h, "=")
		if !ok {
			return nil, nil, errors.New("--trace-header must be NAME=VALUE")
		}
		headers[strings.TrimSpace(name)] = value
	}
	return u, headers, nil
}

// reporting says in the log that spans could not be sent.
type reporting struct {
	sdk.SpanExporter
	logger *slog.Logger
}

// ExportSpans implements the exporter.
func (r reporting) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := r.SpanExporter.ExportSpans(ctx, spans)
	if err != nil {
		r.logger.Warn("traces could not be sent", slog.Int("spans", len(spans)), slog.Any("err", err))
	}
	return nil
}

// tracer is t as an option: a nil pointer must not become an interface that is not nil.
func (t *traces) tracer() server.Tracer {
	if t == nil {
		return nil
	}
	return t
}

func (t *traces) close() error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("send the last traces: %w", err)
	}
	return nil
}

var traceContext = propagation.TraceContext{}

func parent(traceparent string) context.Context {
	return traceContext.Extract(context.Background(), propagation.MapCarrier{"traceparent": traceparent})
}

// Publish implements server.Tracer.
func (t *traces) Publish(traceparent string) (keep string, end func(error)) {
	ctx, span := t.spans.Start(parent(traceparent), "publish", trace.WithSpanKind(trace.SpanKindServer))
	if !span.SpanContext().IsSampled() {
		span.End()
		return "", func(error) {}
	}
	carrier := propagation.MapCarrier{}
	traceContext.Inject(ctx, carrier)
	return carrier["traceparent"], func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}

// Step implements server.Tracer.
func (t *traces) Step(traceparent, name string, began, ended time.Time) {
	_, span := t.spans.Start(parent(traceparent), name, trace.WithTimestamp(began))
	span.End(trace.WithTimestamp(ended))
}
