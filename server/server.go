package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/hub"
	"github.com/fanfare-hub/fanfare/internal/httpapi"
	"github.com/fanfare-hub/fanfare/internal/problem"
	"github.com/fanfare-hub/fanfare/internal/promstats"
	"github.com/fanfare-hub/fanfare/internal/publish"
	"github.com/fanfare-hub/fanfare/internal/storeapi"
	"github.com/fanfare-hub/fanfare/internal/stream"
	"github.com/fanfare-hub/fanfare/sse"
)

// Log is what a server needs of an engine.
type Log interface {
	fanfare.Log
	fanfare.Keeper
}

// Options set up a Server. The zero value of each field but Log is good.
type Options struct {
	Log    Log          // required; the caller closes it, after Close
	Logger *slog.Logger // default: discard

	Heartbeat      time.Duration // sign of life on an idle stream; default 15 s
	StoreLifetime  time.Duration // of store streams; default 299 s, negative: for ever
	NativeLifetime time.Duration // of native streams; default 1 h, negative: for ever
	StallLimit     time.Duration // end a stream whose peer takes nothing for so long; default 30 s

	MaxEventBytes        int           // of one event's data; default 1 MiB
	MaxRequestBytes      int           // of one request's body, of one line with NDJSON; default 16 MiB
	MaxStreams           int           // default: no limit
	MaxStreamsPerAddress int           // default: no limit; loopback is not counted
	IngestIdle           time.Duration // end an NDJSON body that brings nothing for so long; default 10 min
	TailBytes            int           // memory for the newest frames; default 64 MiB

	StoreResumeFor time.Duration // how long a PC's position is kept after its stream's end; default 24 h, negative: not at all
	StoreGapReplay time.Duration // after a gap replay to a PC only events younger than this; default 1 h

	AllowedHosts    []string // hosts that a request may name besides loopback
	CORSOrigins     []string // origins whose pages may use the hub, such as https://app.example.com; "*" is any, without credentials
	BareContentType bool     // streams without `; charset=utf-8`
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
	setDefault(&o.IngestIdle, 10*time.Minute)
	setDefault(&o.StoreResumeFor, 24*time.Hour)
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
	o        Options
	hub      *hub.Hub
	streams  *stream.Streams
	problems *problem.Writer
	native   *httpapi.API
	stores   *storeapi.API
	metrics  http.Handler
	guard    *guard

	draining  atomic.Bool
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
	var err error
	if s.guard, err = newGuard(o.AllowedHosts, o.CORSOrigins, o.Logger); err != nil {
		return nil, err
	}
	s.hub = hub.New(hub.Options{Log: o.Log, Encode: Encode, MaxSubscribers: o.MaxStreams, TailBytes: o.TailBytes})
	s.streams = stream.New(stream.Options{
		Hub: s.hub, Problems: s.problems, Logger: o.Logger, Heartbeat: o.Heartbeat,
		MaxPerAddress: o.MaxStreamsPerAddress, BareType: o.BareContentType, StallLimit: o.StallLimit, Stopping: s.stopping,
	})
	publisher := &publish.Publisher{Log: o.Log, MaxEventBytes: o.MaxEventBytes, MaxRequestBytes: o.MaxRequestBytes, Logger: o.Logger}
	s.native = httpapi.New(httpapi.Options{
		Log: o.Log, Publisher: publisher, Streams: s.streams, Problems: s.problems, Logger: o.Logger,
		Lifetime: o.NativeLifetime, IngestIdle: o.IngestIdle, Stopping: s.stopping,
	})
	s.stores = storeapi.New(storeapi.Options{
		Log: o.Log, Keeper: o.Log, Publisher: publisher, Streams: s.streams, Problems: s.problems, Logger: o.Logger,
		Lifetime: o.StoreLifetime, ResumeFor: o.StoreResumeFor, GapReplay: o.StoreGapReplay,
	})
	s.metrics = promstats.Handler(promstats.Sources{
		Hub: s.hub.Stats, Streams: s.streams.Stats, Refused: s.problems.Counts, AsyncFailed: s.stores.AsyncFailed, Log: o.Log,
	})
	return s, nil
}

// Encode makes the frame of an event: the SSE block, and the same as an HTTP/1.1 chunk, in one array.
func Encode(e fanfare.Event) hub.Frame {
	const room = 10 // for a chunk's length in hexadecimal, and CRLF
	kind := ""
	if !e.Type.IsDefault() {
		kind = e.Type.String()
	}
	var id [fanfare.PositionTextBytes]byte
	buf := make([]byte, room, room+len(e.Data)+len(kind)+64)
	buf = sse.AppendEvent(buf, string(e.Position.Append(id[:0])), kind, e.Data)
	size := len(buf) - room
	begin := room - 2
	buf[begin], buf[begin+1] = '\r', '\n'
	for n := size; n > 0; n >>= 4 {
		begin--
		buf[begin] = "0123456789abcdef"[n&15]
	}
	buf = append(buf, '\r', '\n')
	return hub.Frame{Body: buf[room : room+size : room+size], Chunk: buf[begin:]}
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

// Close lets go of the log, after storing the positions that are kept for PCs. Call it when no request runs any more.
func (s *Server) Close() error {
	s.closeOnce.Do(func() {
		s.stopOnce.Do(func() { close(s.stopping) })
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
	if err := s.guard.check(w, r); err != nil {
		s.problems.Write(w, r, err)
		return
	}
	s.route(w, r)
}
