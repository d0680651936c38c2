package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/pebblelog"
	"github.com/fanfare-hub/fanfare/server"
)

// settings are all of a hub's: the flags, the variables and the keys of the file come from this
// struct.
type settings struct {
	Config kong.ConfigFlag `help:"YAML file of settings: the flags' names without the dashes." placeholder:"FILE"`

	Addr       string `default:"127.0.0.1:8082" help:"The address to listen on. Without authentication only loopback is allowed."`
	AdminAddr  string `help:"The address to listen on for operators: /metrics, /livez, /readyz, and /debug/pprof/ for this machine." placeholder:"HOST:PORT"`
	Data       string `default:"./data" help:"The data directory, for one process at a time." placeholder:"DIR"`
	Durability string `default:"sync" enum:"sync,async,memory" help:"What an acknowledged event survives: a power cut (sync), kill -9 (async), nothing (memory)."`

	Heartbeat      span  `default:"15s" help:"How long a stream may be idle before the hub sends a sign of life."`
	StreamLifetime *span `help:"How long a stream lives, shortened at random by up to a tenth; 0 is for ever. Default: 299s on store streams, 1h on native ones."`
	DrainWindow    span  `default:"5s" help:"Spread the ends of streams over this time when shutting down."`

	Retention         []string `sep:"none" help:"The events to keep, such as 'logs/**=count:1000,age:2d,bytes:10MiB'; repeatable, the most specific pattern wins. Default: **=age:7d." placeholder:"PATTERN=RULE"`
	MaxLogBytes       byteSize `default:"10GiB" help:"Remove the oldest events when the log's files take more disk than this; 0: no limit."`
	MaxScheduledBytes byteSize `default:"1GiB" help:"Refuse to store more bytes of events that are to be published later."`
	MinFreeBytes      byteSize `default:"64MiB" help:"Refuse publishes while less than this is free on the disk."`

	MaxEventBytes        byteSize  `default:"1MiB" help:"Most bytes of one event's data."`
	MaxRequestBytes      byteSize  `default:"16MiB" help:"Most bytes of one request's body, or of one NDJSON line."`
	MaxInflightBytes     *byteSize `help:"Most bytes that the requests under way hold together: bodies, lines, answers, pages. Default: 256MiB, or four times --max-request-bytes if that is more."`
	CacheBytes           byteSize  `default:"64MiB" help:"Memory for data that was read from the log's files."`
	MaxQueueBytes        byteSize  `default:"64MiB" help:"Most bytes of events that wait to be stored."`
	MaxStreams           int       `default:"0" help:"Most streams at once. Default: the process's file descriptors less 500."`
	MaxStreamsPerAddress limit     `default:"off" help:"Most streams of one remote address; loopback and trusted proxies are not counted."`
	MaxLatestBytes       byteSize  `default:"64MiB" help:"Memory for what streams with replay=latest have yet to be sent, 8 bytes for each channel; more are refused."`
	TailBytes            byteSize  `default:"64MiB" help:"Memory for the newest events, and for events that were read for clients that resume."`
	DetachPublishers     bool      `default:"true" negatable:"" help:"Serve publishers' connections over plain HTTP/1.1 without a goroutine each (Linux)."`
	DetachStreams        bool      `default:"true" negatable:"" help:"Serve streams over HTTP/1.1, plain or with TLS, without a goroutine each (Linux)."`
	IngestIdle           span      `default:"10m" help:"End an NDJSON body that brings no bytes for this long."`

	StoreResumeFor *span `help:"How long the hub keeps a PC's position after its stream has ended; 0: not at all. Default: as long as the PC's events are retained." placeholder:"DURATION"`
	StoreGapReplay span  `default:"1h" help:"After a gap a PC gets only events younger than this."`

	AllowedHost        []string `help:"A host that requests may name besides loopback; repeatable." placeholder:"HOST"`
	CorsOrigin         []string `help:"An origin whose pages may use the hub, or *; repeatable." placeholder:"ORIGIN"`
	ContentTypeCharset bool     `default:"true" negatable:"" help:"Send '; charset=utf-8' on streams."`

	LogLevel  slog.Level `default:"info" help:"The lowest level to log: debug, info, warn, error. POST /v1/admin/log-level changes it too."`
	LogFormat string     `default:"text" enum:"text,json" help:"How log records are written: text or json."`
	AccessLog limit      `default:"off" help:"Log one of N requests, without its query; off: none."`

	securitySettings

	TraceEndpoint string   `help:"Send traces of publishes to this OpenTelemetry collector (OTLP over HTTP), such as http://127.0.0.1:4318." placeholder:"URL"`
	TraceHeader   []string `secret:"" sep:"none" help:"A header for the collector, NAME=VALUE; repeatable." placeholder:"NAME=VALUE"`
	TraceSample   float64  `default:"0.01" help:"The share of publishes to trace, from 0 to 1; a publish with a traceparent follows that instead."`
}

// check refuses settings that cannot be, or name files that cannot be used, and returns the
// retention rules. It is all that serve refuses before it opens anything.
func (c *settings) check() ([]fanfare.Rule, error) {
	switch {
	case c.Heartbeat < span(10*time.Millisecond):
		return nil, errors.New("--heartbeat must be at least 10ms")
	case c.MaxEventBytes < 1 || c.MaxRequestBytes < 1 || c.MaxQueueBytes < 1 || c.CacheBytes < 1:
		return nil, errors.New("--max-event-bytes, --max-request-bytes, --max-queue-bytes and --cache-bytes must " +
			"be at least 1")
	case c.MaxInflightBytes != nil && *c.MaxInflightBytes < 4*max(c.MaxRequestBytes, c.MaxEventBytes):
		return nil, fmt.Errorf("--max-inflight-bytes is %d, want at least %d: four times the larger of "+
			"--max-request-bytes and --max-event-bytes, or a body of that size might never fit",
			*c.MaxInflightBytes, 4*max(c.MaxRequestBytes, c.MaxEventBytes))
	case c.MaxScheduledBytes < 1:
		return nil, errors.New("--max-scheduled-bytes must be at least 1")
	case c.MaxLatestBytes < 1:
		return nil, errors.New("--max-latest-bytes must be at least 1")
	case c.TailBytes < 1:
		return nil, errors.New("--tail-bytes must be at least 1")
	case c.MaxStreams < 0:
		return nil, errors.New("--max-streams must not be negative")
	case c.IngestIdle < span(10*time.Millisecond):
		return nil, errors.New("--ingest-idle must be at least 10ms")
	case c.MaxLogBytes > 0 && c.MaxLogBytes < 1<<20:
		return nil, errors.New("--max-log-bytes must be at least 1MiB, or 0 for no limit")
	case c.MaxLogBytes > 0 && c.MaxLogBytes < c.MaxEventBytes:
		return nil, fmt.Errorf("--max-log-bytes %d is less than --max-event-bytes %d: one event would not fit "+
			"into the log", c.MaxLogBytes, c.MaxEventBytes)
	case c.AdminAddr != "" && c.AdminAddr == c.Addr && !strings.HasSuffix(c.Addr, ":0"):
		return nil, fmt.Errorf("--admin-addr and --addr are both %s: want two different ones", c.Addr)
	case c.TraceSample < 0 || c.TraceSample > 1:
		return nil, errors.New("--trace-sample must be from 0 to 1")
	case len(c.TraceHeader) > 0 && c.TraceEndpoint == "":
		return nil, errors.New("--trace-header is set, and --trace-endpoint is not: there is nowhere to send it")
	}
	if err := c.securitySettings.check(); err != nil {
		return nil, err
	}
	if err := c.checkAddrs(); err != nil {
		return nil, err
	}
	if err := server.CheckHosts(c.AllowedHost, c.CorsOrigin); err != nil {
		return nil, fmt.Errorf("--allowed-host, --cors-origin: %w", err)
	}
	if info, err := os.Stat(c.Data); err == nil && !info.IsDir() && c.Durability != "memory" {
		return nil, fmt.Errorf("--data %s is a file: want a folder", c.Data)
	}
	if c.TraceEndpoint != "" {
		if _, _, err := c.collector(); err != nil {
			return nil, err
		}
	}
	return retention(c.Retention)
}

func (c *settings) checkAddrs() error {
	if err := checkAddr("--addr", c.Addr); err != nil {
		return err
	}
	if c.AdminAddr != "" {
		if err := checkAddr("--admin-addr", c.AdminAddr); err != nil {
			return err
		}
	}
	return c.checkLoopback("--addr", c.Addr)
}

func (c *settings) serverOptions(log *pebblelog.Log, logger *slog.Logger) server.Options {
	o := server.Options{
		Log:         log,
		Logger:      logger,
		AccessLog:   int(c.AccessLog),
		SettingName: flagOf,
		Streams: server.StreamOptions{Heartbeat: time.Duration(c.Heartbeat), Max: c.MaxStreams,
			MaxPerAddress: int(c.MaxStreamsPerAddress), BareContentType: !c.ContentTypeCharset,
			LatestBytes: int(c.MaxLatestBytes), TailBytes: int(c.TailBytes), Attached: !c.DetachStreams},
		Publish: server.PublishOptions{MaxEventBytes: int(c.MaxEventBytes), MaxRequestBytes: int(c.MaxRequestBytes),
			IngestIdle: time.Duration(c.IngestIdle), Detach: c.DetachPublishers && c.MaxConnectionsPerAddress == 0},
		Stores: server.StoreOptions{GapReplay: max(time.Duration(c.StoreGapReplay), 1)},
		Access: server.AccessOptions{Hosts: c.AllowedHost, Origins: c.CorsOrigin},
	}
	c.apply(&o)
	if c.MaxInflightBytes != nil {
		o.Publish.MaxInflightBytes = int(*c.MaxInflightBytes)
	}
	o.Publish.BodyTimeout = time.Duration(c.BodyTimeout)
	if c.StreamLifetime != nil {
		o.Stores.Lifetime = orNever(time.Duration(*c.StreamLifetime))
		o.Streams.Lifetime = o.Stores.Lifetime
	}
	if c.StoreResumeFor != nil {
		o.Stores.ResumeFor = orNever(time.Duration(*c.StoreResumeFor))
	}
	if o.Streams.Max == 0 {
		o.Streams.Max = roomForStreams()
	}
	return o
}

func (c *settings) newLogger(w io.Writer, level slog.Leveler) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// orNever turns a flag's 0 into the negative value that options take for "not at all".
func orNever[T ~int64](v T) T {
	if v == 0 {
		return -1
	}
	return v
}

func durability(name string) pebblelog.Durability {
	return map[string]pebblelog.Durability{
		"sync": pebblelog.DurabilitySync, "async": pebblelog.DurabilityAsync, "memory": pebblelog.DurabilityMemory,
	}[name]
}

// retention reads the rules; the default is added unless one names `**`. A variable may hold
// several, between semicolons.
func retention(texts []string) ([]fanfare.Rule, error) {
	var rules []fanfare.Rule
	named := map[fanfare.Pattern]bool{}
	for _, text := range texts {
		for _, one := range strings.Split(text, ";") {
			rule, err := fanfare.ParseRule(strings.TrimSpace(one))
			if err != nil {
				return nil, fmt.Errorf("--retention: %w", err)
			}
			if named[rule.Pattern] {
				return nil, fmt.Errorf("--retention: the pattern %s is given twice", rule.Pattern)
			}
			named[rule.Pattern] = true
			rules = append(rules, rule)
		}
	}
	for _, rule := range fanfare.DefaultRetention() {
		if !named[rule.Pattern] {
			rules = append(rules, rule)
		}
	}
	return rules, nil
}
