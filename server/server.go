package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/auth"
	"github.com/fanfare-hub/fanfare/examples"
	"github.com/fanfare-hub/fanfare/hub"
	"github.com/fanfare-hub/fanfare/internal/adminapi"
	"github.com/fanfare-hub/fanfare/internal/audit"
	"github.com/fanfare-hub/fanfare/internal/console"
	"github.com/fanfare-hub/fanfare/internal/forwarded"
	"github.com/fanfare-hub/fanfare/internal/http1"
	"github.com/fanfare-hub/fanfare/internal/httpapi"
	"github.com/fanfare-hub/fanfare/internal/limit"
	"github.com/fanfare-hub/fanfare/internal/problem"
	"github.com/fanfare-hub/fanfare/internal/promstats"
	"github.com/fanfare-hub/fanfare/internal/publish"
	"github.com/fanfare-hub/fanfare/internal/stats"
	"github.com/fanfare-hub/fanfare/internal/storeapi"
	"github.com/fanfare-hub/fanfare/internal/stream"
	"github.com/fanfare-hub/fanfare/internal/wire"
)

// Log is what a server needs of an engine.
type Log interface {
	fanfare.Log
	fanfare.Keeper
}

// Tracer observes each publish. Its methods may be called from any goroutine, and must not block.
type Tracer = publish.Tracer

// Options set up a Server. The zero value of each field but Log is good.
type Options struct {
	Log    Log          // required; the caller closes it, after Close
	Logger *slog.Logger // default: discard

	Heartbeat      time.Duration // sign of life on an idle stream; default 15 s
	StoreLifetime  time.Duration // of store streams; default 299 s, negative: for ever
	NativeLifetime time.Duration // of native streams; default 1 h, negative: for ever
	StallLimit     time.Duration // end a stream, or a long answer, whose peer takes nothing for so long; default 30 s

	// AttachedStreams gives each stream a goroutine of its own, as over HTTP/2. Without it, streams
	// over HTTP/1.1 on Linux, plain or by the TLS of Listener, share goroutines, and need a fraction
	// of the memory.
	AttachedStreams bool

	// DetachPublishers takes connections over plain HTTP/1.1 over after their first publish, on
	// Linux, and serves further publishes on them without the http.Server; other requests on them
	// go back to it. A handler around the Server must then not write after the Server has returned,
	// and must not keep its request, which is used again.
	DetachPublishers bool

	MaxEventBytes             int           // of one event's data; default 1 MiB
	MaxRequestBytes           int           // of one request's body, of one line with NDJSON; default 16 MiB
	MaxStreams                int           // default: no limit
	MaxStreamsPerAddress      int           // default: no limit; loopback is not counted
	MaxRefusalsHeld           int           // refused streams whose answer waits for 1 to 3 s, since their clients would come back at once; default 1,000
	MaxRefusalsHeldPerAddress int           // of these, of one address, loopback and proxies' own included; default 32
	MaxInflightBytes          int           // held by requests under way: bodies, lines, answers and pages; default 256 MiB, at least four times MaxRequestBytes
	BodyTimeout               time.Duration // in which a body over 16 KiB must come; default 1 min
	IngestIdle                time.Duration // end an NDJSON body that brings nothing for so long; default 10 min
	TailBytes                 int           // memory for the newest frames; default 64 MiB

	StoreResumeFor time.Duration // how long a PC's position is good after its stream's end; default: as long as the PC's events are retained, negative: not at all
	StoreGapReplay time.Duration // after a gap replay to a PC only events younger than this; default 1 h

	AllowedHosts    []string // hosts that a request may name besides loopback
	CORSOrigins     []string // origins whose pages may use the hub, such as https://app.example.com; "*" is any, without credentials
	BareContentType bool     // streams without `; charset=utf-8`

	// Auth, when set, identifies the senders of requests and says what they may do. It serves one
	// Server; the caller closes it, after Close.
	Auth       *auth.Authenticator
	QueryToken bool   // take a token from the query, as ?access_token=: it then stands in the logs of proxies
	TicketKey  []byte // seals tickets, auth.TicketKeyBytes long; kept, they survive restarts; default: a new one

	TrustedProxies []string // addresses and ranges of proxies whose X-Forwarded-For or Forwarded is believed
	ProxyHeader    string   // in which of X-Forwarded-For (the default) and Forwarded, where a request has both

	MaxStreamsPerSubject int     // default: no limit
	MaxStreamsPerChannel int     // streams of one channel, or of one pattern; default: no limit
	MaxNewStreams        float64 // streams that may begin in a second; default: no limit
	MaxReplays           int     // streams and pages of history that read the log at once, others wait; default 16
	PublishRate          float64 // events a second of one caller; default: no limit
	PublishBytesRate     float64 // bytes a second of one caller; default: no limit
	PublishBurst         float64 // how many seconds' worth of these may come at once; default 1
	MaxRevocations       int     // default 100,000
	AuditRate            int     // records of each kind a second in the audit trail, one of a thousand beyond; default: no trail

	// Authorize, when set, returns the name of the principal that sends a request; it counts as
	// configured authentication. The principal may do everything, and owns its idempotency keys;
	// Rights can say more. The hub answers a *fanfare.Error with its own code, and any other error
	// with 401.
	Authorize func(*http.Request) (principal string, err error)

	// Rights is Authorize for a program that also says what they may do. One of Auth, Authorize and Rights may be set.
	Rights func(*http.Request) (*fanfare.Principal, error)

	AccessLog int            // log one of so many requests, without their queries; 0: none
	Tracer    Tracer         // told of publishes; nil: nobody
	LogLevel  *slog.LevelVar // of Logger, where it can be changed while running; nil: it cannot
	Version   string         // of the program, for /v1/stats and /metrics
	NoPage    bool           // leave out the page at / and /examples/
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&o.Heartbeat, 15*time.Second)
	setDefault(&o.StoreLifetime, 299*time.Second)
	setDefault(&o.NativeLifetime, time.Hour)
	setDefault(&o.MaxEventBytes, 1<<20)
	setDefault(&o.MaxRequestBytes, 16<<20)
	setDefault(&o.MaxInflightBytes, max(256<<20, 4*max(o.MaxRequestBytes, o.MaxEventBytes)))
	setDefault(&o.BodyTimeout, time.Minute)
	setDefault(&o.IngestIdle, 10*time.Minute)
	setDefault(&o.StallLimit, 30*time.Second)
	setDefault(&o.StoreGapReplay, time.Hour)
	return o
}

func setDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

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
	senders   *http1.Conns // nil: net/http serves them
	pages     []console.Pages
	inflight  *limit.Budget
	bodies    *publish.Bodies

	origin      *forwarded.Resolver
	tickets     *auth.Tickets
	revocations *auth.Revocations
	trail       *audit.Trail // nil: none

	draining  atomic.Bool
	accessLog atomic.Int64
	requests  atomic.Int64  // counted while accessLog is set
	stopping  chan struct{} // closed when request bodies must come to their end
	stopOnce  sync.Once
	closeOnce sync.Once
}

// New makes a Server. It fails when an option cannot be used, and says which.
func New(o Options) (*Server, error) {
	if o.Log == nil {
		return nil, errors.New("server: Options.Log is required")
	}
	o = o.withDefaults()
	s := &Server{o: o, stopping: make(chan struct{}), problems: problem.NewWriter(o.Logger)}
	if least := 4 * max(o.MaxRequestBytes, o.MaxEventBytes); o.MaxInflightBytes < least {
		return nil, fmt.Errorf("server: Options.MaxInflightBytes is %d, want at least %d: four times the largest body, or one caller's might never fit", o.MaxInflightBytes, least)
	}
	s.inflight = &limit.Budget{Most: o.MaxInflightBytes}
	s.bodies = &publish.Bodies{Budget: s.inflight, Timeout: o.BodyTimeout}
	var err error
	if s.guard, err = newGuard(o.AllowedHosts, o.CORSOrigins, o.Logger); err != nil {
		return nil, err
	}
	if err := s.secure(o); err != nil {
		return nil, err
	}
	s.hub = hub.New(hub.Options{Log: o.Log, Encode: wire.Encode, MaxSubscribers: o.MaxStreams, TailBytes: o.TailBytes, MaxReplays: o.MaxReplays})
	s.streams = stream.New(stream.Options{
		Hub: s.hub, Problems: s.problems, Logger: o.Logger, Heartbeat: o.Heartbeat,
		MaxPerAddress: o.MaxStreamsPerAddress, MaxPerSubject: o.MaxStreamsPerSubject, MaxPerChannel: o.MaxStreamsPerChannel, NewPerSecond: o.MaxNewStreams,
		MaxRefusalsHeld: o.MaxRefusalsHeld, MaxRefusalsHeldPerAddress: o.MaxRefusalsHeldPerAddress,
		BareType: o.BareContentType, StallLimit: o.StallLimit, Attached: o.AttachedStreams, Stopping: s.stopping,
		Audit: s.trail, TicketOpened: s.tickets.Opened, StillMay: s.stillMay,
		Step: step(o.Tracer), Adapters: []string{"native", "store"},
	})
	if o.Auth != nil {
		o.Auth.OnEnd(func(ended func(*fanfare.Principal) bool) {
			for h := range s.streams.Each() {
				if ended(h.Caller.Who) {
					h.End(stream.EndRevoked)
				}
			}
		})
	}
	s.publisher = &publish.Publisher{
		Log: o.Log, Bodies: s.bodies, MaxEventBytes: o.MaxEventBytes, MaxRequestBytes: o.MaxRequestBytes, Logger: o.Logger, Tracer: o.Tracer, Audit: s.trail,
		Rates: &limit.Rates{Events: o.PublishRate, Bytes: o.PublishBytesRate, Burst: o.PublishBurst},
	}
	s.native = httpapi.New(httpapi.Options{
		Log: o.Log, Publisher: s.publisher, Streams: s.streams, Problems: s.problems, Logger: o.Logger,
		Lifetime: o.NativeLifetime, StallLimit: o.StallLimit, IngestIdle: o.IngestIdle, Stopping: s.stopping, Replay: s.hub.Replay, StillMay: s.stillMay,
	})
	s.stores = storeapi.New(storeapi.Options{
		Log: o.Log, Keeper: o.Log, Publisher: s.publisher, Streams: s.streams, Problems: s.problems, Logger: o.Logger,
		Lifetime: o.StoreLifetime, ResumeFor: o.StoreResumeFor, MaxAge: maxAge(o.Log), GapReplay: o.StoreGapReplay,
	})
	s.metrics = publish.PacedHandler(promstats.Handler(promstats.Sources{
		Hub: s.hub.Stats, Streams: s.streams.Stats, Publish: s.publisher.Latency.Counts, Refused: s.problems.Counts, Reasons: s.problems.Reasons,
		Revocations: s.revocations.Len, JWKSFailures: s.jwksFailures,
		InflightBytes: s.inflight.Held, InflightMost: o.MaxInflightBytes, Cut: s.native.Cut.Counts,
		AsyncFailed: s.stores.AsyncFailed, Stores: s.storeCounts, Ready: func() bool { return s.ready() == nil }, Log: o.Log, Version: o.Version,
	}), o.StallLimit)
	s.stats = stats.New(stats.Options{
		Log: o.Log, Hub: s.hub, Streams: s.streams, Publish: &s.publisher.Latency, Ready: s.ready, Version: o.Version,
		Known: s.knownPCs, Present: s.presentPCs, Readers: s.storeReaders,
	})
	if o.DetachPublishers {
		s.senders = http1.New(http1.Options{Takes: isPublish, Budget: s.inflight, Logger: o.Logger})
	}
	s.pages = []console.Pages{console.Page(), console.Below("/examples/", examples.Files)}
	s.accessLog.Store(int64(o.AccessLog))
	s.figures = &stats.Handler{Stats: s.stats, Problems: s.problems, Stopping: s.stopping}
	s.admin = &adminapi.API{
		Log: o.Log, Problems: s.problems, Logger: o.Logger, Level: o.LogLevel, Bodies: s.bodies, Streams: s.streams, Revocations: s.revocations, Audit: s.trail,
	}
	if o.Auth != nil {
		s.admin.Everybody = o.Auth.Anonymous()
	}
	return s, nil
}

func step(t Tracer) func(traceparent, name string, began, ended time.Time) {
	if t == nil {
		return nil
	}
	return t.Step
}

// Drain begins the shutdown (P7): new streams are refused, the running ones end, spread over the window, and it returns when
// the last one has, or with ctx's error. Publishes are still taken; afterwards NDJSON bodies, and refusals that were put off,
// are brought to their end, so that http.Server.Shutdown does not wait for them.
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
	if s.senders == nil || !s.senders.Wants(w, r) || !isPublish(r) || len(w.Header()["Content-Encoding"]) > 0 {
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
	if err != nil {
		e, _ := s.find(r)
		s.refuse(w, r, e, s.nobody(r), err)
		return
	}
	s.route(w, r)
}
