package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/pebblelog"
	"github.com/fanfare-hub/fanfare/server"
)

type serveCmd struct {
	Config kong.ConfigFlag `help:"YAML file of settings: the flags' names without the dashes." placeholder:"FILE"`

	Addr       string `default:"127.0.0.1:8082" help:"Where to listen. Without authentication only loopback is allowed."`
	Data       string `default:"./data" help:"The data directory, for one process at a time." placeholder:"DIR"`
	Durability string `default:"sync" enum:"sync,async,memory" help:"What an acknowledged event survives: a power cut (sync), kill -9 (async), nothing (memory)."`

	Heartbeat      span  `default:"15s" help:"Sign of life on a stream after so much idle time."`
	StreamLifetime *span `help:"End streams after so long, jittered; 0 is for ever. Default: 299s on store streams, 1h on native ones."`
	DrainWindow    span  `default:"5s" help:"Spread the ends of streams over this time when shutting down."`

	Retention    []string `sep:"none" help:"What to keep, such as 'logs/**=count:1000,age:2d,bytes:10MiB'; repeatable, the most specific pattern wins. Default: **=age:7d." placeholder:"PATTERN=RULE"`
	MaxLogBytes  byteSize `default:"10GiB" help:"Remove the oldest events when the log's files take more; 0: no limit."`
	MinFreeBytes byteSize `default:"64MiB" help:"Refuse publishes while the disk has less."`

	MaxEventBytes        byteSize `default:"1MiB" help:"Most bytes of one event's data."`
	MaxRequestBytes      byteSize `default:"16MiB" help:"Most bytes of one request's body, or of one NDJSON line."`
	MaxQueueBytes        byteSize `default:"64MiB" help:"Most bytes of events that wait to be stored."`
	MaxStreams           int      `default:"0" help:"Most streams at once. Default: the process's file descriptors less 500."`
	MaxStreamsPerAddress limit    `default:"off" help:"Most streams of one remote address; loopback is not counted."`
	IngestIdle           span     `default:"10m" help:"End an NDJSON body that brings nothing for so long."`

	StoreResumeFor span `default:"24h" help:"How long the hub keeps a PC's position after its stream has ended."`
	StoreGapReplay span `default:"1h" help:"After a gap a PC gets only events younger than this."`

	AllowedHost        []string `help:"A host name that requests may name besides loopback; repeatable." placeholder:"HOST"`
	CorsOrigin         []string `help:"An origin whose pages may use the hub, or *; repeatable." placeholder:"ORIGIN"`
	ContentTypeCharset bool     `default:"true" negatable:"" help:"Send '; charset=utf-8' on streams."`

	LogLevel slog.Level `default:"info" help:"Least level to log: debug, info, warn, error."`
}

// Help implements kong.HelpProvider.
func (serveCmd) Help() string {
	return `Example: fanfare serve --data /var/lib/fanfare --retention 'logs/**=count:10000,age:2d'

Every flag can also be set by a variable (FANFARE_DATA for --data) or in the YAML file.`
}

// shutdownGrace is how long after the drain window the process ends at the latest.
const shutdownGrace = 3 * time.Second

func (c *serveCmd) Run(ctx context.Context, std *stdio, parsed *kong.Context) error {
	logger := slog.New(slog.NewTextHandler(std.err, &slog.HandlerOptions{Level: c.LogLevel}))
	for _, name := range unknownVariables(parsed) {
		logger.Warn("an environment variable with the prefix FANFARE_ sets nothing", slog.String("name", name))
	}
	if err := c.check(); err != nil {
		return &exitError{exitUsage, err}
	}
	rules, err := retention(c.Retention)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	log, err := pebblelog.Open(pebblelog.Options{
		Dir: c.Data, Durability: durability(c.Durability), Retention: rules, Logger: logger,
		MinFreeBytes: orNever(int64(c.MinFreeBytes)), MaxQueueBytes: int(c.MaxQueueBytes), MaxBytes: int64(c.MaxLogBytes),
	})
	if err != nil {
		return err
	}
	s, err := server.New(c.serverOptions(log, logger))
	if err != nil {
		return errors.Join(&exitError{exitUsage, err}, log.Close())
	}
	listener, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return errors.Join(fmt.Errorf("listen on %s: %w", c.Addr, err), s.Close(), log.Close())
	}
	c.greet(std, listener.Addr().String())
	return c.serve(ctx, listener, s, log, logger)
}

// serve serves until ctx ends, and then shuts down.
func (c *serveCmd) serve(ctx context.Context, listener net.Listener, s *server.Server, log *pebblelog.Log, logger *slog.Logger) error {
	web := &http.Server{
		Handler: s, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 256 << 10, // a stream may name 100 channels of 512 bytes, each byte escaped
		ErrorLog:       slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(listener) }()
	select {
	case err := <-failed:
		return errors.Join(fmt.Errorf("serve: %w", err), s.Close(), log.Close())
	case <-ctx.Done():
	}
	logger.Info("shutting down", slog.Duration("window", time.Duration(c.DrainWindow)))
	deadline := time.Now().Add(time.Duration(c.DrainWindow) + shutdownGrace - 300*time.Millisecond)
	done := make(chan error, 1)
	go func() { done <- c.shutDown(deadline, web, s, log) }()
	timer := time.NewTimer(time.Until(deadline.Add(200 * time.Millisecond)))
	defer timer.Stop()
	select {
	case err := <-done:
		<-failed
		return err
	case <-timer.C:
		logger.Warn("some requests did not end in time and were cut")
		return nil
	}
}

func (c *serveCmd) shutDown(deadline time.Time, web *http.Server, s *server.Server, log *pebblelog.Log) error {
	drain, cancel := context.WithDeadline(context.Background(), deadline.Add(-400*time.Millisecond))
	defer cancel()
	_ = s.Drain(drain, time.Duration(c.DrainWindow)) // streams that have not ended by then are cut with the process
	rest, cancelRest := context.WithDeadline(context.Background(), minTime(deadline.Add(-200*time.Millisecond), time.Now().Add(1500*time.Millisecond)))
	defer cancelRest()
	if err := web.Shutdown(rest); err != nil {
		_ = web.Close()
	}
	return errors.Join(s.Close(), log.Close())
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func (c *serveCmd) serverOptions(log *pebblelog.Log, logger *slog.Logger) server.Options {
	o := server.Options{
		Log: log, Logger: logger, Heartbeat: time.Duration(c.Heartbeat),
		MaxEventBytes: int(c.MaxEventBytes), MaxRequestBytes: int(c.MaxRequestBytes),
		MaxStreams: c.MaxStreams, MaxStreamsPerAddress: int(c.MaxStreamsPerAddress), IngestIdle: time.Duration(c.IngestIdle),
		StoreResumeFor: orNever(time.Duration(c.StoreResumeFor)), StoreGapReplay: max(time.Duration(c.StoreGapReplay), 1),
		AllowedHosts: c.AllowedHost, CORSOrigins: c.CorsOrigin, BareContentType: !c.ContentTypeCharset,
	}
	if c.StreamLifetime != nil {
		o.StoreLifetime = orNever(time.Duration(*c.StreamLifetime))
		o.NativeLifetime = o.StoreLifetime
	}
	if o.MaxStreams == 0 {
		o.MaxStreams = roomForStreams()
	}
	return o
}

// orNever turns a flag's 0 into the negative that options understand as "not at all".
func orNever[T ~int64](v T) T {
	if v == 0 {
		return -1
	}
	return v
}

// check refuses settings that cannot be.
func (c *serveCmd) check() error {
	switch {
	case c.Heartbeat < span(10*time.Millisecond):
		return errors.New("--heartbeat must be at least 10ms")
	case c.MaxEventBytes < 1 || c.MaxRequestBytes < 1 || c.MaxQueueBytes < 1:
		return errors.New("--max-event-bytes, --max-request-bytes and --max-queue-bytes must be at least 1")
	case c.MaxStreams < 0:
		return errors.New("--max-streams must not be negative")
	case c.IngestIdle < span(10*time.Millisecond):
		return errors.New("--ingest-idle must be at least 10ms")
	}
	return checkLoopback(c.Addr)
}

// checkLoopback refuses to listen where strangers could reach a hub that asks nobody who they are.
func checkLoopback(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("--addr %q: want host:port, such as 127.0.0.1:8082", addr)
	}
	if strings.EqualFold(host, "localhost") {
		return nil
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("--addr %s would let everybody in: no authentication is configured, so the hub listens on loopback only. "+
		"Use --addr 127.0.0.1:8082 behind a proxy that authenticates (and --allowed-host for its name), or configure authentication once this version has it", addr)
}

func durability(name string) pebblelog.Durability {
	return map[string]pebblelog.Durability{
		"sync": pebblelog.DurabilitySync, "async": pebblelog.DurabilityAsync, "memory": pebblelog.DurabilityMemory,
	}[name]
}

// retention reads the rules; the default is added unless one names `**`. A variable may hold several, between semicolons.
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

// roomForStreams leaves 500 descriptors for the log and for requests.
func roomForStreams() int {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return 500
	}
	return int(min(max(int64(lim.Cur)-500, 100), 1<<30))
}

// greet says where the hub is, and what to paste.
func (c *serveCmd) greet(std *stdio, addr string) {
	where := "in " + c.Data + ", durability " + c.Durability
	if c.Durability == "memory" {
		where = "in memory only"
	}
	fmt.Fprintf(std.out, `fanfare listens on http://%[1]s, its log is %[2]s.
No authentication is configured: everything is allowed, from this machine only. To try it, paste:
  curl -N 'http://%[1]s/v1/events?channel=greetings'
  curl -d 'hello' http://%[1]s/v1/channels/greetings
  curl -d '{"objectId":"o1","event":"REBOOT"}' http://%[1]s/v1/stores/42/pcs/7/events
`, addr, where)
}
