package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/auth"
	"github.com/fanfare-hub/fanfare/internal/forwarded"
	"github.com/fanfare-hub/fanfare/pebblelog"
	"github.com/fanfare-hub/fanfare/server"
)

type serveCmd struct{ settings }

// Help implements kong.HelpProvider.
func (serveCmd) Help() string {
	return `Example: fanfare serve --data /var/lib/fanfare --retention 'logs/**=count:10000,age:2d'

Every flag can also be set by a variable (FANFARE_DATA for --data) or in the YAML file; fanfare config shows what is in
force. SIGTERM drains and ends; SIGHUP reads the settings again and applies those that can change while running.`
}

// shutdownGrace is how long after the drain window the process ends at the latest.
const shutdownGrace = 3 * time.Second

// leaveTime is how long connections have to hear with an answer that they end.
const leaveTime = 100 * time.Millisecond

// hub is one run of the command.
type hub struct {
	set    *settings
	level  *slog.LevelVar
	logger *slog.Logger
	log    *pebblelog.Log
	server *server.Server
	traces *traces
	listen *listeners
	auth   *auth.Authenticator // nil: no caller is asked for credentials
	certs  *certificates       // nil: no TLS

	leaving atomic.Bool // connections are asked to end; new ones wait in the held socket
}

func (c *serveCmd) Run(ctx context.Context, std *stdio, parsed *kong.Context, in *invocation) error {
	// The reader of the hub's log may go away. A record without a reader is lost, and the hub goes
	// on.
	signal.Ignore(syscall.SIGPIPE)
	h := &hub{set: &c.settings, level: new(slog.LevelVar)}
	h.level.Set(c.LogLevel)
	h.logger = c.newLogger(std.err, h.level)
	for _, name := range unknownVariables(parsed) {
		h.logger.Warn("an environment variable with the prefix FANFARE_ sets nothing", slog.String("name", name))
	}
	rules, err := c.check()
	if err != nil {
		return &exitError{exitUsage, err}
	}
	if h.listen, err = takeListeners(&c.settings); err != nil {
		return err
	}
	defer h.listen.close()
	if err := h.open(ctx, rules); err != nil {
		return err
	}
	if err := h.listen.open(&c.settings); err != nil {
		return errors.Join(err, h.close())
	}
	if h.certs, err = newCertificates(&c.settings, h.listen.public, h.logger); err != nil {
		return errors.Join(&exitError{exitUsage, err}, h.close())
	}
	c.warn(h.logger, h.listen.public.Addr().String())
	c.greet(std, h.listen)
	return h.serve(ctx, parsed, in)
}

// open opens the log and makes the server. With a socket that is held for the hub, a former one may
// still be ending: then it waits for the data directory.
func (h *hub) open(ctx context.Context, rules []fanfare.Rule) error {
	c := h.set
	o := pebblelog.Options{
		Dir: c.Data, Durability: durability(c.Durability), Retention: rules, Logger: h.logger,
		MinFreeBytes: orNever(int64(c.MinFreeBytes)), MaxQueueBytes: int(c.MaxQueueBytes),
		CacheBytes: int(c.CacheBytes), MaxScheduledBytes: int64(c.MaxScheduledBytes), MaxBytes: int64(c.MaxLogBytes),
	}
	deadline := time.Now()
	if h.listen.held {
		deadline = deadline.Add(time.Duration(c.DrainWindow) + 10*time.Second)
	}
	var err error
	for waited := false; ; waited = true {
		if h.log, err = pebblelog.Open(o); err == nil {
			break
		}
		if fanfare.CodeOf(err) != fanfare.CodeConflict || ctx.Err() != nil || !time.Now().Before(deadline) {
			return err
		}
		if !waited {
			h.logger.Info("waiting for the data directory: another hub is still ending", slog.String("data", c.Data))
		}
		time.Sleep(50 * time.Millisecond) // there is no event for a lock that becomes free
	}
	if h.traces, err = newTraces(ctx, c, h.logger); err != nil {
		return errors.Join(&exitError{exitUsage, err}, h.log.Close())
	}
	so := c.serverOptions(h.log, h.logger)
	if h.auth, err = c.authenticator(h.logger); err != nil {
		return errors.Join(&exitError{exitUsage, err}, h.log.Close(), h.traces.close())
	}
	if h.auth != nil {
		so.Access.Auth = h.auth
	}
	if c.Durability != "memory" {
		if so.Access.TicketKey, err = ticketKey(c.Data); err != nil {
			return errors.Join(err, h.log.Close(), h.traces.close())
		}
	}
	so.LogLevel, so.Version, so.Tracer = h.level, version(), h.traces.tracer()
	if h.server, err = server.New(so); err != nil {
		h.endAuth()
		return errors.Join(&exitError{exitUsage, err}, h.log.Close(), h.traces.close())
	}
	return nil
}

func (h *hub) endAuth() {
	if h.auth != nil {
		h.auth.Close()
	}
}

func (h *hub) close() error {
	if h.certs != nil {
		h.certs.stop()
	}
	err := h.server.Close()
	h.endAuth()
	return errors.Join(err, h.log.Close(), h.traces.close())
}

func (h *hub) newWeb(handler http.Handler) *http.Server {
	body := time.Duration(h.set.BodyTimeout)
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: time.Duration(h.set.HeaderTimeout),
		IdleTimeout: time.Duration(h.set.IdleTimeout),
		// Streams, NDJSON and backups set their own, and detached streams have none.
		ReadTimeout: body, WriteTimeout: 2 * body,
		MaxHeaderBytes: 256 << 10, // a stream may name 100 channels of 512 bytes, each byte escaped
		ErrorLog:       slog.NewLogLogger(h.logger.Handler(), slog.LevelDebug),
	}
}

// ServeHTTP has connections end with their next answer while the hub leaves, so that the next hub
// gets them.
func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.leaving.Load() {
		w.Header().Set("Connection", "close")
	}
	h.server.ServeHTTP(w, r)
}

// serve serves until ctx ends, and then shuts down.
func (h *hub) serve(ctx context.Context, parsed *kong.Context, in *invocation) error {
	web, admin := h.newWeb(h), h.newWeb(adminHandler(h.server))
	admin.ReadTimeout, admin.WriteTimeout = 0, 0 // a profile takes as long as was asked for
	if most := int(h.set.MaxConnectionsPerAddress); most > 0 {
		origin, err := forwarded.New(h.set.TrustedProxy, h.set.ProxyHeader)
		if err != nil {
			return errors.Join(&exitError{exitUsage, err}, h.close())
		}
		web.ConnState = newConnections(most, origin).changed
	}
	failed := make(chan error, 3)
	var secure *tls.Config
	switch {
	case h.certs != nil:
		secure = h.certs.config
	case h.set.H2c:
		web.Protocols = new(http.Protocols)
		web.Protocols.SetHTTP1(true)
		web.Protocols.SetUnencryptedHTTP2(true)
	}
	public := h.server.Listener(web, h.listen.public, secure)
	go func() { failed <- web.Serve(public) }()
	if h.certs != nil {
		if err := h.certs.begin(ctx); err != nil {
			failed <- err
		}
	}
	if h.listen.admin != nil {
		go func() { failed <- admin.Serve(h.listen.admin) }()
		defer admin.Close()
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	stopWatchdog := watchdog(h.log)
	defer stopWatchdog()
	go giveMemoryBack(ctx)
	notify("READY=1")
	for {
		select {
		case err := <-failed:
			return errors.Join(fmt.Errorf("serve: %w", err), h.close())
		case <-hangups:
			h.reload(parsed, in)
			continue
		case <-ctx.Done():
		}
		break
	}
	notify("STOPPING=1")
	return h.shutDown(web)
}

// shutDown ends within the drain window and the grace.
func (h *hub) shutDown(web *http.Server) error {
	window := time.Duration(h.set.DrainWindow)
	h.logger.Info("shutting down", slog.Duration("window", window))
	if h.listen.held {
		// The process that gave the socket keeps it open: new connections wait there for the next
		// hub.
		closeHeld(h.listen.public)
	}
	deadline := time.Now().Add(window + shutdownGrace - 300*time.Millisecond)
	done := make(chan error, 1)
	go func() { done <- h.drain(deadline, window, web) }()
	timer := time.NewTimer(time.Until(deadline.Add(200 * time.Millisecond)))
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		h.logger.Warn("some requests did not end in time and were cut")
		return nil
	}
}

func (h *hub) drain(deadline time.Time, window time.Duration, web *http.Server) error {
	drain, cancel := context.WithDeadline(context.Background(), deadline.Add(-400*time.Millisecond))
	defer cancel()
	_ = h.server.Drain(drain, window) // streams that have not ended by then are cut with the process
	if h.listen.held {
		// Publishers were served to the end of the window. The next answer to a busy publisher says
		// that it is the last one on this connection, so the connection is not cut while the
		// publisher writes.
		h.leaving.Store(true)
		time.Sleep(leaveTime)
	}
	rest, cancelRest := context.WithDeadline(context.Background(),
		minTime(deadline.Add(-200*time.Millisecond), time.Now().Add(1500*time.Millisecond)))
	defer cancelRest()
	if err := web.Shutdown(rest); err != nil {
		_ = web.Close()
	}
	return h.close()
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// greet prints the address of the hub, and lines to paste.
func (c *settings) greet(std *stdio, l *listeners) {
	where := "in " + c.Data + ", durability " + c.Durability
	if c.Durability == "memory" {
		where = "in memory only"
	}
	addr := l.public.Addr().String()
	scheme := "http"
	if c.tlsConfigured() {
		scheme = "https"
	}
	if l.public.Addr().Network() == "unix" {
		fmt.Fprintf(std.out, "fanfare listens on the socket %s, its log is %s.\n", addr, where)
		return
	}
	if c.authConfigured() {
		fmt.Fprintf(std.out, `fanfare listens on %[3]s://%[1]s, its log is %[2]s.
Authentication is configured: requests bring a token or an API key (docs/guide/security.md). To try it, with one in $TOKEN, paste:
  curl -N -H "Authorization: Bearer $TOKEN" '%[3]s://%[1]s/v1/events?channel=greetings'
  curl -H "Authorization: Bearer $TOKEN" -d 'hello' %[3]s://%[1]s/v1/channels/greetings
  curl -H "Authorization: Bearer $TOKEN" -d '{"objectId":"o1","event":"REBOOT"}' %[3]s://%[1]s/v1/stores/42/pcs/7/events
`, addr, where, scheme)
		if l.admin != nil {
			fmt.Fprintf(std.out, "For operators: http://%s\n", l.admin.Addr())
		}
		return
	}
	fmt.Fprintf(std.out, `fanfare listens on %[3]s://%[1]s, its log is %[2]s.
No authentication is configured: everything is allowed, from this machine only. To try it, paste:
  curl -N '%[3]s://%[1]s/v1/events?channel=greetings'
  curl -d 'hello' %[3]s://%[1]s/v1/channels/greetings
  curl -d '{"objectId":"o1","event":"REBOOT"}' %[3]s://%[1]s/v1/stores/42/pcs/7/events
`, addr, where, scheme)
	if l.admin != nil {
		fmt.Fprintf(std.out, "For operators: http://%s\n", l.admin.Addr())
	}
}

// checkLoopback refuses to listen where strangers could reach a hub without authentication.
func (c *settings) checkLoopback(flag, addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return checkAddr(flag, addr)
	}
	if host == "localhost" || c.authConfigured() {
		return nil
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("%s %s would let everybody in: no authentication is configured, so the hub listens on "+
		"loopback only. "+
		"Configure it with --jwt-key, --jwks-url or --api-keys (docs/guide/security.md), or use --addr "+
		"127.0.0.1:8082 behind a proxy that authenticates, and --allowed-host for its name", flag, addr)
}

// checkAddr refuses addresses that no machine can listen on. It does not look up the host's
// address.
func checkAddr(flag, addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err == nil && port != "" {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		return fmt.Errorf("%s %q: want host:port, such as 127.0.0.1:8082, the port from 0 to 65535", flag, addr)
	}
	return nil
}
