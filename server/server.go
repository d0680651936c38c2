package server

import (
	"context"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/auth"
	"github.com/fanfare-hub/fanfare/examples"
	"github.com/fanfare-hub/fanfare/internal/adminapi"
	"github.com/fanfare-hub/fanfare/internal/audit"
	"github.com/fanfare-hub/fanfare/internal/commands"
	"github.com/fanfare-hub/fanfare/internal/console"
	"github.com/fanfare-hub/fanfare/internal/forwarded"
	"github.com/fanfare-hub/fanfare/internal/http1"
	"github.com/fanfare-hub/fanfare/internal/httpapi"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/internal/limit"
	"github.com/fanfare-hub/fanfare/internal/problem"
	"github.com/fanfare-hub/fanfare/internal/promstats"
	"github.com/fanfare-hub/fanfare/internal/publish"
	"github.com/fanfare-hub/fanfare/internal/stats"
	"github.com/fanfare-hub/fanfare/internal/storeapi"
	"github.com/fanfare-hub/fanfare/internal/stream"
	"github.com/fanfare-hub/fanfare/internal/wire"
)

// Log is the part of an engine that a server needs.
type Log interface {
	fanfare.Log
	fanfare.Keeper
	fanfare.Scheduler
}

// Tracer observes each publish. Its methods may be called from any goroutine, and must not block.
type Tracer = publish.Tracer

// Server is an http.Handler that serves a hub. Its methods may be called from any goroutine.
type Server struct {
	// Fixed after New.
	o         Options
	hub       *hub.Hub
	streams   *stream.Streams
	problems  *problem.Writer
	native    *httpapi.API
	publisher *publish.Publisher
	stores    *storeapi.API
	metrics   http.Handler
	stats     *stats.Stats
	figures   *stats.Handler
	admin     *adminapi.API
	guard     *guard
	router    router
	senders   *http1.Conns // nil: net/http serves them
	pages     []console.Pages
	inflight  *limit.Budget
	bodies    *publish.Bodies

	auth        Authenticator       // nil: no caller is asked for credentials
	tokens      *auth.Authenticator // auth, if that knows tokens; otherwise nil
	origin      *forwarded.Resolver
	tickets     *auth.Tickets
	revocations *auth.Revocations
	trail       *audit.Trail // nil: none

	draining  atomic.Bool
	accessLog atomic.Int64
	requests  atomic.Int64  // counted while accessLog is set
	stopping  chan struct{} // closed when request bodies must end
	stopOnce  sync.Once
	closeOnce sync.Once
}

// New makes a Server. It fails when an option cannot be used, and says which.
func New(o Options) (*Server, error) {
	o = o.withDefaults()
	if err := o.check(); err != nil {
		return nil, err
	}
	s := &Server{o: o, stopping: make(chan struct{}), problems: problem.NewWriter(o.Logger)}
	s.problems.SettingName = o.SettingName
	s.inflight = &limit.Budget{Most: o.Publish.MaxInflightBytes}
	s.bodies = &publish.Bodies{Budget: s.inflight, Timeout: o.Publish.BodyTimeout}
	var err error
	if s.guard, err = newGuard(o.Access.Hosts, o.Access.Origins, o.Logger, s.problems); err != nil {
		return nil, err
	}
	if err := s.secure(o); err != nil {
		return nil, err
	}
	s.accessLog.Store(int64(o.AccessLog))
	s.newStreams(o)
	s.newAdapters(o)
	s.newOperators(o)
	s.router = newRouter(s.routes())
	return s, nil
}

// newStreams makes the hub, and the streams that serve its subscribers.
func (s *Server) newStreams(o Options) {
	s.hub = hub.New(hub.Options{Log: o.Log, Encode: wire.Encode, MaxSubscribers: o.Streams.Max,
		TailBytes: o.Streams.TailBytes, MaxReplays: o.Streams.MaxReplays, StateBytes: o.Streams.LatestBytes})
	s.streams = stream.New(stream.Options{
		Hub: s.hub, Problems: s.problems, Logger: o.Logger, Heartbeat: o.Streams.Heartbeat,
		Limits: stream.Limits{
			PerAddress: o.Streams.MaxPerAddress, PerSubject: o.Streams.MaxPerSubject,
			PerChannel: o.Streams.MaxPerChannel, NewPerSecond: o.Streams.MaxNewPerSecond,
			RefusalsHeld: o.Streams.MaxRefusalsHeld, RefusalsHeldPerAddress: o.Streams.MaxRefusalsHeldPerAddress,
		},
		BareType: o.Streams.BareContentType, StallLimit: o.Streams.StallLimit, Attached: o.Streams.Attached,
		Stopping: s.stopping,
		Audit:    s.trail, TicketOpened: s.tickets.Opened, StillMay: s.stillMay,
		Step: step(o.Tracer), Adapters: []string{"native", "store"},
	})
	if s.tokens != nil {
		s.tokens.OnEnd(func(ended func(*fanfare.Principal) bool) {
			for h := range s.streams.Each() {
				if ended(h.Caller.Who) {
					h.End(stream.EndRevoked)
				}
			}
		})
	}
}

// newAdapters makes the APIs, and the parts that they share.
func (s *Server) newAdapters(o Options) {
	s.publisher = &publish.Publisher{
		Log: o.Log, Bodies: s.bodies, MaxEventBytes: o.Publish.MaxEventBytes,
		MaxRequestBytes: o.Publish.MaxRequestBytes, Logger: o.Logger, Tracer: o.Tracer, Audit: s.trail,
		Rates: &limit.Rates{Events: o.Publish.Rate, Bytes: o.Publish.BytesRate, Burst: o.Publish.Burst},
	}
	s.native = httpapi.New(httpapi.Options{
		Log: o.Log, Scheduler: o.Log, Publisher: s.publisher, Streams: s.streams, Problems: s.problems,
		Logger:   o.Logger,
		Lifetime: o.Streams.Lifetime, StallLimit: o.Streams.StallLimit, IngestIdle: o.Publish.IngestIdle,
		Stopping: s.stopping, Replay: s.hub.Replay, StillMay: s.stillMay,
	})
	s.stores = storeapi.New(storeapi.Options{
		Log: o.Log, Keeper: o.Log, Commands: &commands.Service{Log: o.Log, Scheduler: o.Log, Hub: s.hub},
		Publisher: s.publisher, Streams: s.streams, Problems: s.problems, Logger: o.Logger,
		Lifetime: o.Stores.Lifetime, ResumeFor: o.Stores.ResumeFor, MaxAge: maxAge(o.Log),
		GapReplay: o.Stores.GapReplay,
	})
	if o.Publish.Detach {
		s.senders = http1.New(http1.Options{Takes: s.isPublish, Budget: s.inflight, Logger: o.Logger})
	}
}

// newOperators makes the figures, the pages and the operators' calls.
func (s *Server) newOperators(o Options) {
	s.pages = []console.Pages{console.Page(), console.Below("/examples/", examples.Files)}
	s.metrics = publish.PacedHandler(promstats.Handler(promstats.Sources{
		Hub: s.hub.Stats, Streams: s.streams.Stats, Publish: s.publisher.Latency.Counts, Refused: s.problems.Counts,
		Reasons:     s.problems.Reasons,
		Revocations: s.revocations.Len, JWKSFailures: s.jwksFailures,
		InflightBytes: s.inflight.Held, InflightMost: o.Publish.MaxInflightBytes, Cut: s.native.Cut.Counts,
		AsyncFailed: s.stores.AsyncFailed, Commands: s.stores.CommandCounts, Stores: s.storeCounts,
		Ready: func() bool { return s.ready() == nil },
		Log:   o.Log, Version: o.Version,
	}), o.Streams.StallLimit)
	s.stats = stats.New(stats.Options{
		Log: o.Log, Hub: s.hub, Streams: s.streams, Publish: &s.publisher.Latency, Problems: s.problems, Ready: s.ready,
		Version: o.Version,
		Known:   s.knownPCs, Present: s.presentPCs, Readers: s.storeReaders,
	})
	s.figures = &stats.Handler{Stats: s.stats, Problems: s.problems, Stopping: s.stopping}
	s.admin = &adminapi.API{
		Log: o.Log, Problems: s.problems, Logger: o.Logger, Level: o.LogLevel, Bodies: s.bodies, Streams: s.streams,
		Revocations: s.revocations, Audit: s.trail,
	}
	if s.tokens != nil {
		s.admin.Everybody = s.tokens.Anonymous()
	}
}

func step(t Tracer) func(traceparent, name string, began, ended time.Time) {
	if t == nil {
		return nil
	}
	return t.Step
}

// Drain begins the shutdown (P7): new streams are refused, the running ones end, spread over the
// window, and it returns when the last one has, or with ctx's error. Publishes are still taken;
// afterwards NDJSON bodies, and refusals that were put off, are brought to their end, so that
// http.Server.Shutdown does not wait for them.
func (s *Server) Drain(ctx context.Context, window time.Duration) error {
	s.draining.Store(true)
	err := s.hub.Drain(ctx, window)
	s.stopOnce.Do(func() { close(s.stopping) })
	return err
}

// Close stores the positions of PCs, and uses the log no more. Call it when no request of an
// http.Server is running; requests on publishers' connections that were taken over are answered
// first.
func (s *Server) Close() error {
	s.closeOnce.Do(func() {
		s.stopOnce.Do(func() { close(s.stopping) })
		if s.senders != nil {
			s.senders.Close()
		}
		s.stats.Close()
		s.streams.Close()
		s.stores.Close()
		s.hub.Close()
	})
	return nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if p := recover(); p != nil {
			if p != http.ErrAbortHandler {
				s.o.Logger.Error("a request panicked", slog.Any("panic", p), slog.String("method", r.Method),
					slog.String("stack", string(debug.Stack())))
			}
			panic(http.ErrAbortHandler)
		}
	}()
	if s.senders == nil || !s.senders.Wants(w, r) || !s.isPublish(r) || len(w.Header()["Content-Encoding"]) > 0 {
		s.handle(w, r)
		return
	}
	noted := &statusNote{ResponseWriter: w}
	s.handle(noted, r)
	if noted.status/100 == 2 { // so its body has been read to the end
		s.senders.Take(w, r)
	}
}

// nosniff tells browsers to believe the content type.
var nosniff = []string{"nosniff"}

// handle answers a request.
func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	if n := s.accessLog.Load(); n > 0 && s.requests.Add(1)%n == 0 {
		record := newAccessRecord(w)
		w = record
		defer record.log(s.o.Logger, r, time.Now())
	}
	w.Header()["X-Content-Type-Options"] = nosniff // streams take it away again
	err := refuseManyHeaders(w, r)
	if err == nil {
		err = s.guard.check(w, r)
	}
	e, ok := s.find(r)
	switch {
	case err != nil:
		s.refuse(w, r, e, s.nobody(r), err)
	case !ok:
		s.problems.Write(w, r, fanfare.Errorf(fanfare.CodeNotFound, "there is nothing at this path"))
	default:
		s.dispatch(w, r, e)
	}
}
