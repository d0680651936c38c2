// Package promstats shows the hub's figures to Prometheus. It is the only package that knows
// Prometheus: the core reports plain structs.
package promstats

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/histogram"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/internal/stream"
)

// Sources are where the figures come from.
type Sources struct {
	Hub         func() hub.Stats
	Streams     func() stream.Stats
	Publish     func() histogram.Counts
	Refused     func() map[fanfare.Code]uint64
	Reasons     func() map[fanfare.Reason]uint64
	AsyncFailed func() uint64
	Commands    func() map[string]uint64 // answers and cancels of commands, by state
	Cut         func() map[string]uint64

	InflightBytes func() int
	InflightMost  int
	Stores        func() Stores

	Revocations  func() int
	JWKSFailures func() uint64
	Ready        func() bool
	Log          fanfare.Log
	Version      string
}

// Stores are counts of the store API.
type Stores struct {
	SharedReaders  map[string]uint64 // by whether the readers are the same or different
	DroppedReaders uint64
	Forgotten      uint64
	Looks          map[string]uint64 // by why
}

// Handler returns the handler of /metrics, with a registry of its own.
func Handler(s Sources) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collector{s})
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// Metric is one line of the manual's table.
type Metric struct{ Name, Kind, Labels, Help string }

// figures are what one scrape has gathered.
type figures struct {
	hub     hub.Stats
	streams stream.Stats
	log     fanfare.LogStats
	hasLog  bool // the engine gives figures
	status  fanfare.Status
	oldest  float64 // seconds
	refused map[fanfare.Code]uint64
	stores  Stores
	s       Sources
}

type sample struct {
	value  float64
	labels []string
	counts *histogram.Counts
}

// metric is a Metric and where its values come from.
type metric struct {
	Metric
	kind   prometheus.ValueType
	desc   *prometheus.Desc
	ofLog  bool // only where the engine gives figures
	values func(f *figures) []sample
}

func one(v float64) []sample { return []sample{{value: v}} }

func define(name, kind, label, help string, values func(*figures) []sample) metric {
	m := metric{Metric: Metric{"fanfare_" + name, kind, label, help}, values: values}
	m.kind = prometheus.GaugeValue
	if kind == "counter" {
		m.kind = prometheus.CounterValue
	}
	var labels []string
	if label != "" {
		labels = []string{label}
	}
	m.desc = prometheus.NewDesc(m.Name, help, labels, nil)
	return m
}

func gauge(name, help string, value func(*figures) float64) metric {
	return define(name, "gauge", "", help, func(f *figures) []sample { return one(value(f)) })
}

func counter(name, help string, value func(*figures) uint64) metric {
	return define(name, "counter", "", help, func(f *figures) []sample { return one(float64(value(f))) })
}

func durations(name, help string, value func(*figures) histogram.Counts) metric {
	return define(name, "histogram", "", help, func(f *figures) []sample {
		counts := value(f)
		return []sample{{counts: &counts}}
	})
}

// labelled makes the samples of a map, one a key.
func labelled[K ~string, V int | uint64](of map[K]V) (samples []sample) {
	for key, v := range of {
		samples = append(samples, sample{value: float64(v), labels: []string{string(key)}})
	}
	return samples
}

func logMetrics(list ...metric) []metric {
	for i := range list {
		list[i].ofLog = true
	}
	return list
}

func metrics() []metric {
	return slices.Concat(
		processMetrics(), streamMetrics(), requestMetrics(), storeMetrics(), memoryMetrics(), storageMetrics(),
	)
}

func processMetrics() []metric {
	return []metric{
		define("build_info", "gauge", "version", "Always 1; the label is the version that runs.",
			func(f *figures) []sample {
				return []sample{{value: 1, labels: []string{f.s.Version}}}
			}),
		gauge("ready", "1 when the hub takes publishes and streams, 0 while it shuts down or its log has failed.",
			func(f *figures) float64 {
				if f.s.Ready() {
					return 1
				}
				return 0
			}),
	}
}

func streamMetrics() []metric {
	return []metric{
		define("streams_open", "gauge", "adapter", "Streams open now.",
			func(f *figures) []sample { return labelled(f.streams.Open) }),
		define("streams_opened_total", "counter", "adapter", "Streams opened.",
			func(f *figures) []sample { return labelled(f.streams.Opened) }),
		define("streams_ended_total", "counter", "reason", "Streams ended, by reason.",
			func(f *figures) []sample { return labelled(f.streams.Ended) }),
		counter("streams_refused_total", "Streams refused: no room, shutting down, or no log.",
			func(f *figures) uint64 { return f.streams.Refused }),
		counter("refusals_paced_total",
			"Refusals of streams, of any code, whose answer waited for 1 to 3 s because the client would come "+
				"back at once.",
			func(f *figures) uint64 { return f.streams.RefusalsPaced }),
		gauge("refusals_held",
			"Refusals whose answer waits now (settings max-refusals-held and max-refusals-held-per-address).",
			func(f *figures) float64 { return float64(f.streams.RefusalsHeld) }),
		counter("refusals_cut_total",
			"Refusals that could not wait because the limit was reached: the hub closed the connection without an "+
				"answer, or "+
				"answered at once when to come back.", func(f *figures) uint64 { return f.streams.RefusalsCut }),
		counter("streams_stopped_total", "Streams answered 204, because another client has their ticket.",
			func(f *figures) uint64 { return f.streams.Stopped }),
		gauge("slowest_stream_lag_positions",
			"Positions between the newest one and the stream that is furthest behind and has events to get.",
			func(f *figures) float64 { return float64(f.hub.SlowestLag) }),
		counter("events_conflated_total",
			"Events that a stream with conflate=true did not get, because a newer event of their channel had come.",
			func(f *figures) uint64 { return f.hub.Conflated }),
		gauge("latest_bytes",
			"Memory for the positions that streams with replay=latest are still to get (setting max-latest-bytes).",
			func(f *figures) float64 { return float64(f.hub.StateBytes) }),
		counter("events_delivered_total", "Events handed to streams.",
			func(f *figures) uint64 { return f.streams.Delivered }),
		counter("delivered_bytes_total", "Bytes of the delivered events, as they are on the wire.",
			func(f *figures) uint64 { return f.streams.DeliveredBytes }),
		counter("events_replayed_total", "Delivered events that were read from the log.",
			func(f *figures) uint64 { return f.streams.Replayed }),
		counter("replayed_bytes_total", "Bytes of the replayed events, as they are on the wire.",
			func(f *figures) uint64 { return f.streams.ReplayedBytes }),
	}
}

func requestMetrics() []metric {
	return []metric{
		durations("publish_seconds", "Time from handing a publish to the log until its answer.",
			func(f *figures) histogram.Counts { return f.s.Publish() }),
		durations("delivery_seconds",
			"Time from an event's becoming visible until a stream handed it to the kernel; replays do not count.",
			func(f *figures) histogram.Counts { return f.streams.Delivery }),
		define("requests_refused_total", "counter", "code", "Requests refused, by the code of the answer.",
			func(f *figures) []sample { return labelled(f.refused) }),
		define("refusals_total", "counter", "reason",
			"Refused requests and streams that have a reason: rights, tokens, origins, limits.",
			func(f *figures) []sample { return labelled(f.s.Reasons()) }),
		counter("events_withheld_total",
			"Replayed events held back from a stream that may not hear them; any value but 0 is a fault of the hub.",
			func(f *figures) uint64 { return f.streams.Withheld }),
		gauge("replays_waiting",
			"Streams and pages of history that wait for their turn to read the log (setting max-replays).",
			func(f *figures) float64 { return float64(f.hub.Waiting) }),
		counter("replays_waited_total", "Streams and pages of history that have had to wait for their turn.",
			func(f *figures) uint64 { return f.hub.Waits }),
		gauge("inflight_bytes",
			"Bytes that requests under way hold: bodies, lines, answers and pages beyond the first 16 KiB (64 KiB "+
				"with NDJSON).",
			func(f *figures) float64 { return float64(f.s.InflightBytes()) }),
		gauge("inflight_max_bytes", "Most bytes that requests under way may hold (setting max-inflight-bytes).",
			func(f *figures) float64 { return float64(f.s.InflightMost) }),
		define("answers_cut_total", "counter", "reason",
			"Pages of history that ended in the middle: the peer took no bytes or closed the connection, or the "+
				"log failed.",
			func(f *figures) []sample { return labelled(f.s.Cut()) }),
		gauge("revocations", "Revoked tokens and subjects.",
			func(f *figures) float64 { return float64(f.s.Revocations()) }),
		counter("jwks_failures_total", "Fetches of the JWKS that failed.",
			func(f *figures) uint64 { return f.s.JWKSFailures() }),
		counter("async_publishes_failed_total", "Commands that were answered 202 and could not be stored.",
			func(f *figures) uint64 { return f.s.AsyncFailed() }),
		define("commands_changed_total", "counter", "state",
			"Answers to commands, and cancels, that were stored, by state.",
			func(f *figures) []sample { return labelled(f.s.Commands()) }),
	}
}

func storeMetrics() []metric {
	return []metric{
		define("store_shared_total", "counter", "readers",
			"Times a PC's stream was read twice at once, by the same reader (one token and address) or by "+
				"different ones.",
			func(f *figures) []sample { return labelled(f.stores.SharedReaders) }),
		counter("store_readers_dropped_total", "Positions dropped because a PC had more readers than it may have.",
			func(f *figures) uint64 { return f.stores.DroppedReaders }),
		counter("store_forgotten_total",
			"Streams of PCs that were away longer than their position is kept, and began with a gap.",
			func(f *figures) uint64 { return f.stores.Forgotten }),
		define("store_looks_total", "counter", "why",
			"Streams of PCs that moved no position: the request asked to look, or the caller is not the PC.",
			func(f *figures) []sample { return labelled(f.stores.Looks) }),
	}
}

func memoryMetrics() []metric {
	return []metric{
		gauge("filters", "Channels and patterns that have a subscriber.",
			func(f *figures) float64 { return float64(f.hub.Filters) }),
		counter("tail_hits_total", "Turns of streams that were served from memory.",
			func(f *figures) uint64 { return f.hub.TailHits }),
		counter("tail_misses_total", "Turns of streams that read the log.",
			func(f *figures) uint64 { return f.hub.TailMisses }),
		gauge("tail_bytes", "Bytes of memory that hold the newest events.",
			func(f *figures) float64 { return float64(f.hub.TailBytes) }),
		gauge("log_up", "1 when the log can store, 0 when it cannot.", func(f *figures) float64 {
			if f.status.Err != nil {
				return 0
			}
			return 1
		}),
		gauge("log_position", "The newest position, as a number.",
			func(f *figures) float64 { return float64(f.status.Durable) }),
	}
}

func storageMetrics() []metric {
	return logMetrics(
		counter("events_published_total", "Events stored.", func(f *figures) uint64 { return f.log.Events }),
		counter("published_bytes_total", "Bytes of data of the stored events.",
			func(f *figures) uint64 { return f.log.Bytes }),
		counter("publishes_replayed_total", "Publishes that were answered by their idempotency key.",
			func(f *figures) uint64 { return f.log.ReplayedKeys }),
		counter("conditions_not_met_total",
			"Publishes that were not stored because the channel's newest event was another than their condition says.",
			func(f *figures) uint64 { return f.log.NotMet }),
		counter("events_expired_total",
			"Events that were deleted, or not published when they fell due, because their ttl was over.",
			func(f *figures) uint64 { return f.log.Expired }),
		gauge("scheduled_events", "Events that are to be published later.",
			func(f *figures) float64 { return float64(f.log.Scheduled) }),
		gauge("scheduled_bytes", "Bytes of events that are to be published later (setting max-scheduled-bytes).",
			func(f *figures) float64 { return float64(f.log.ScheduledBytes) }),
		counter("scheduled_published_total", "Scheduled events that were published.",
			func(f *figures) uint64 { return f.log.FellDue }),
		counter("scheduled_late_total",
			"Scheduled events that were published more than a second after they were due, as after a stop of the hub.",
			func(f *figures) uint64 { return f.log.Late }),
		counter("log_appends_refused_total",
			"Publishes that the log did not store: the disk is full, slow or failed, or too many bytes wait.",
			func(f *figures) uint64 { return f.log.Refused }),
		durations("log_fsync_seconds", "Time from handing a group of publishes to the disk until it is stored there.",
			func(f *figures) histogram.Counts { return f.log.Fsync }),
		gauge("log_queue_bytes", "Bytes of events that wait to be stored.",
			func(f *figures) float64 { return float64(f.log.QueueBytes) }),
		gauge("log_bytes", "Bytes that the log's files take on disk, counted in blocks.",
			func(f *figures) float64 { return float64(f.log.DiskBytes) }),
		gauge("log_set_aside_bytes",
			"Part of fanfare_log_bytes that is set aside for the next writes; it follows the rate of publishes.",
			func(f *figures) float64 { return float64(f.log.SetAsideBytes) }),
		gauge("log_max_bytes", "Most bytes that the log's files may take (setting max-log-bytes); 0 is no limit.",
			func(f *figures) float64 { return float64(f.log.MaxBytes) }),
		gauge("log_oldest_event_age_seconds", "Age of the oldest event in the log; 0 when the log is empty.",
			func(f *figures) float64 { return f.oldest }),
		counter("log_written_bytes_total",
			"Bytes written to the log's files, including those that flushes and compactions write again.",
			func(f *figures) uint64 { return f.log.WrittenBytes }),
		counter("log_trimmed_events_total", "Events that retention removed channel by channel.",
			func(f *figures) uint64 { return f.log.Trimmed }),
		counter("log_forgotten_channels_total", "Channels that became empty and were forgotten.",
			func(f *figures) uint64 { return f.log.Forgotten }),
		counter("log_size_limited_total", "Times the oldest events were removed because of the setting max-log-bytes.",
			func(f *figures) uint64 { return f.log.Limited }),
		counter("log_limit_waits_total",
			"Times publishers waited for room because they were faster than the log could remove the oldest events.",
			func(f *figures) uint64 { return f.log.LimitWaits }),
		counter("log_reopened_total", "Times the log failed and was opened again.",
			func(f *figures) uint64 { return f.log.Reopened }),
		counter("log_corruption_total", "Times the log read a damaged file.",
			func(f *figures) uint64 { return f.log.Corrupt }),
		counter("log_lost_events_total",
			"Events that had been stored, and were not there any more when the log was opened.",
			func(f *figures) uint64 { return f.log.Lost }),
		counter("clock_jumps_total", "Times the clock was found to have jumped by more than a minute.",
			func(f *figures) uint64 { return f.log.ClockJumps }),
		gauge("clock_ahead_seconds",
			"How far the machine's clock is ahead of the time by which events grow old and are removed; below "+
				"zero: behind. "+
				"Near 0 when the hub believes the clock.",
			func(f *figures) float64 { return f.log.ClockAhead.Seconds() }),
	)
}

// Metrics lists all metrics but those of the process and of Go, for the manual.
func Metrics() (list []Metric) {
	for _, m := range metrics() {
		list = append(list, m.Metric)
	}
	return list
}

var all = metrics()

type collector struct{ s Sources }

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range all {
		out <- m.desc
	}
}

func (c collector) gather() *figures {
	f := &figures{s: c.s, hub: c.s.Hub(), streams: c.s.Streams(), refused: c.s.Refused(), stores: c.s.Stores(),
		status: c.s.Log.Status()}
	if engine, ok := c.s.Log.(fanfare.Operable); ok {
		f.hasLog, f.log = true, engine.Stats()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if t, ok, err := engine.Oldest(ctx); ok && err == nil {
			f.oldest = max(time.Since(t).Seconds(), 0)
		}
	}
	return f
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	f := c.gather()
	for _, m := range all {
		if m.ofLog && !f.hasLog {
			continue
		}
		for _, s := range m.values(f) {
			if s.counts != nil {
				out <- prometheus.MustNewConstHistogram(m.desc, s.counts.Count, s.counts.Sum.Seconds(),
					cumulative(*s.counts))
				continue
			}
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, s.value, s.labels...)
		}
	}
}

func cumulative(c histogram.Counts) map[float64]uint64 {
	buckets := make(map[float64]uint64, len(c.Bounds))
	sum := uint64(0)
	for i, bound := range c.Bounds {
		sum += c.Counts[i]
		buckets[bound.Seconds()] = sum
	}
	return buckets
}
