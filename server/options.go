package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/auth"
)

// Options set up a Server. The zero value of each field but Log is good.
type Options struct {
	Log     Log          // required; the caller closes it, after Close
	Logger  *slog.Logger // default: discard
	Version string       // of the program, for /v1/stats and /metrics

	Access  AccessOptions
	Publish PublishOptions
	Streams StreamOptions
	Stores  StoreOptions

	AccessLog int // log one of so many requests, without their queries; 0: none
	// records of each kind a second in the audit trail, one of a thousand beyond; default: no trail
	AuditRate int
	Tracer    Tracer         // told of publishes; nil: nobody
	LogLevel  *slog.LevelVar // of Logger, where it can be changed while running; nil: it cannot
	// SettingName spells a setting in answers and log records as the program's operator knows it:
	// as a flag, say. Nil leaves it as in a settings file of the command fanfare: max-streams.
	SettingName func(fanfare.Setting) string
	NoPage      bool // leave out the page at / and /examples/
}

// AccessOptions say who may send requests, and from where.
type AccessOptions struct {
	// Auth says who sends a request, and what they may do: an *auth.Authenticator for tokens and
	// API keys, or AuthFunc for a program that has a login of its own. Nil: everybody may do
	// everything, and requests may name only loopback and Hosts. It serves one Server; the caller
	// closes it, after Close.
	Auth Authenticator

	QueryToken bool     // take a token from the query, as ?access_token=: it then stands in the logs of proxies
	TicketKey  []byte   // seals tickets, auth.TicketKeyBytes long; kept, they survive restarts; default: a new one
	Hosts      []string // hosts that a request may name besides loopback
	// origins whose pages may use the hub, such as https://app.example.com; "*" is any, without
	// credentials
	Origins        []string
	TrustedProxies []string // addresses and ranges whose word on where a request comes from is taken
	ProxyHeader    string   // in which of X-Forwarded-For (the default) and Forwarded, where a request has both
	MaxRevocations int      // default 100,000
}

// PublishOptions limit requests that publish, and what all requests hold.
type PublishOptions struct {
	MaxEventBytes   int // of one event's data; default 1 MiB
	MaxRequestBytes int // of one request's body, of one line with NDJSON; default 16 MiB
	// held by requests under way: bodies, lines, answers and pages; default 256 MiB, at least four
	// times MaxRequestBytes
	MaxInflightBytes int
	BodyTimeout      time.Duration // in which a body over 16 KiB must come; default 1 min
	IngestIdle       time.Duration // end an NDJSON body that brings nothing for so long; default 10 min

	Rate      float64 // events a second of one caller; default: no limit
	BytesRate float64 // bytes a second of one caller; default: no limit
	Burst     float64 // how many seconds' worth of these may come at once; default 1

	// Detach has connections over plain HTTP/1.1 taken over after their first publish, on Linux,
	// and be served by code that knows publishes alone; other requests on them go back to the
	// http.Server. A handler around the Server must then not write after the Server has returned,
	// nor keep a request of theirs, which is used again.
	Detach bool
}

// StreamOptions are of streams, and of pages of history.
type StreamOptions struct {
	Heartbeat       time.Duration // sign of life on an idle stream; default 15 s
	Lifetime        time.Duration // of native streams; default 1 h, negative: for ever
	StallLimit      time.Duration // end a stream, or a long answer, whose peer takes nothing for so long; default 30 s
	BareContentType bool          // without `; charset=utf-8`

	Max             int     // default: no limit
	MaxPerAddress   int     // default: no limit; loopback is not counted
	MaxPerSubject   int     // default: no limit
	MaxPerChannel   int     // streams of one channel, or of one pattern; default: no limit
	MaxNewPerSecond float64 // default: no limit
	// refused streams whose answer waits for 1 to 3 s, since their clients would come back at once;
	// default 1,000
	MaxRefusalsHeld           int
	MaxRefusalsHeldPerAddress int // of these, of one address, loopback and proxies' own included; default 32

	TailBytes  int // memory for the newest frames; default 64 MiB
	MaxReplays int // streams and pages of history that read the log at once, others wait; default 16

	// Attached has each stream run in a goroutine of its own, as over HTTP/2, also where its
	// connection could be taken over and be served with many others, at a fraction of the memory:
	// HTTP/1.1 on Linux, plain or by the TLS of Server.Listener.
	Attached bool
}

// StoreOptions are of the streams of stores' PCs.
type StoreOptions struct {
	Lifetime time.Duration // default 299 s, negative: for ever
	// how long a PC's position is good after its stream's end; default: as long as the PC's events
	// are retained, negative: not at all
	ResumeFor time.Duration
	GapReplay time.Duration // after a gap replay to a PC only events younger than this; default 1 h
}

// Authenticator says who sends a request. Its methods may be called from any goroutine.
type Authenticator interface {
	// Authenticate returns who sends r, and what they may do; nil is somebody without any rights.
	// The hub answers a *fanfare.Error with its own code, and any other error with 401.
	Authenticate(r *http.Request) (*fanfare.Principal, error)
}

// AuthFunc is the Authenticator of a program that has a login of its own. Who may do everything is
// &fanfare.Principal{Subject: name, Unlimited: true}: the name owns idempotency keys.
type AuthFunc func(r *http.Request) (*fanfare.Principal, error)

// Authenticate implements Authenticator.
func (f AuthFunc) Authenticate(r *http.Request) (*fanfare.Principal, error) { return f(r) }

var _ Authenticator = (*auth.Authenticator)(nil)

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	p := &o.Publish
	setDefault(&p.MaxEventBytes, 1<<20)
	setDefault(&p.MaxRequestBytes, 16<<20)
	setDefault(&p.MaxInflightBytes, max(256<<20, 4*max(p.MaxRequestBytes, p.MaxEventBytes)))
	setDefault(&p.BodyTimeout, time.Minute)
	setDefault(&p.IngestIdle, 10*time.Minute)
	setDefault(&o.Streams.Heartbeat, 15*time.Second)
	setDefault(&o.Streams.Lifetime, time.Hour)
	setDefault(&o.Streams.StallLimit, 30*time.Second)
	setDefault(&o.Stores.Lifetime, 299*time.Second)
	setDefault(&o.Stores.GapReplay, time.Hour)
	return o
}

func setDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

func (o *Options) check() error {
	if o.Log == nil {
		return errors.New("server: Options.Log is required")
	}
	if least := 4 * max(o.Publish.MaxRequestBytes, o.Publish.MaxEventBytes); o.Publish.MaxInflightBytes < least {
		return fmt.Errorf("server: Options.Publish.MaxInflightBytes is %d, want at least %d: four times the largest "+
			"body, or one caller's might never fit",
			o.Publish.MaxInflightBytes, least)
	}
	return nil
}
