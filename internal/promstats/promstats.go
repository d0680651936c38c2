// Package promstats shows the hub's figures to Prometheus. It is the only package that knows Prometheus: the core reports
// plain structs.
package promstats

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/hub"
	"github.com/fanfare-hub/fanfare/internal/stream"
)

// Sources are where the figures come from.
type Sources struct {
	Hub         func() hub.Stats
	Streams     func() stream.Stats
	Refused     func() map[fanfare.Code]uint64
	AsyncFailed func() uint64
	Log         fanfare.Log
}

// Handler returns the handler of /metrics, with a registry of its own.
func Handler(s Sources) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collector{s})
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

type collector struct{ s Sources }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("fanfare_"+name, help, labels, nil)
}

var (
	streamsOpen    = desc("streams_open", "Streams open now.")
	streamsOpened  = desc("streams_opened_total", "Streams opened.")
	streamsRefused = desc("streams_refused_total", "Streams refused: no room, shutting down, or no log.")
	streamsEnded   = desc("streams_ended_total", "Streams ended, by reason.", "reason")
	filters        = desc("filters", "Channels and patterns that somebody listens to.")
	tailBytes      = desc("tail_bytes", "Memory that holds the newest events.")
	turns          = desc("turns_total", "Turns of streams, by where their events came from.", "source")
	delivered      = desc("events_delivered_total", "Events handed to streams.")
	replayed       = desc("events_replayed_total", "Of the events delivered, those read from the log.")
	refused        = desc("requests_refused_total", "Requests refused, by code.", "code")
	asyncFailed    = desc("async_publishes_failed_total", "Commands that were answered 202 and could not be stored.")
	logUp          = desc("log_up", "1 when the log can store, 0 when it cannot.")
	position       = desc("log_position", "The newest position, as a number.")
)

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, out) }

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	h, st := c.s.Hub(), c.s.Streams()
	gauge(streamsOpen, float64(h.Subscribers))
	count(streamsOpened, st.Opened)
	count(streamsRefused, st.Refused)
	for reason, n := range st.Ended {
		count(streamsEnded, n, string(reason))
	}
	gauge(filters, float64(h.Filters))
	gauge(tailBytes, float64(h.TailBytes))
	count(turns, h.TailHits, "tail")
	count(turns, h.TailMisses, "log")
	count(delivered, h.Delivered)
	count(replayed, h.Replayed)
	for code, n := range c.s.Refused() {
		count(refused, n, string(code))
	}
	count(asyncFailed, c.s.AsyncFailed())
	status := c.s.Log.Status()
	up := 1.0
	if status.Err != nil {
		up = 0
	}
	gauge(logUp, up)
	gauge(position, float64(status.Durable))
}
