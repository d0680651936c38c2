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

	AccessLog int // log one of N requests, without its query; 0: none
	// most records of each kind a second in the audit trail; beyond that one of a thousand;
	// default: no trail
	AuditRate int
	Tracer    Tracer         // traces publishes; nil: no traces
	LogLevel  *slog.LevelVar // the level of Logger, to change while running; nil: it cannot change
	// SettingName returns the name by which the program's operator knows a setting, such as a flag;
	// answers and log records show it. Nil leaves the name as in a settings file of the command
	// fanfare: max-streams.
	SettingName func(fanfare.Setting) string
	NoPage      bool // leave out the page at / and /examples/
}

// AccessOptions say which clients may send requests, and from which hosts and origins.
type AccessOptions struct {
	// Auth identifies the caller of a request and its rights: an *auth.Authenticator for tokens and
	// API keys, or AuthFunc for a program with a login of its own. Nil: every caller may do
	// everything, and requests may name only loopback and Hosts. An Authenticator serves one
	// Server; the program closes it, after Close.
	Auth Authenticator

	QueryToken bool     // accept a token in the query, ?access_token=, too: it then stands in the logs of proxies
	TicketKey  []byte   // seals tickets; auth.TicketKeyBytes long. Default: a new key, so tickets end at a restart
	Hosts      []string // hosts that a request may name besides loopback
	// origins whose pages may use the hub, such as https://app.example.com; "*" is any, without
	// credentials
	Origins        []string
	TrustedProxies []string // addresses and ranges of proxies that are trusted to say where a request comes from
	ProxyHeader    string   // the header that counts if a request has both: X-Forwarded-For (default) or Forwarded
	MaxRevocations int      // default 100,000
}

// PublishOptions limit requests that publish, and the memory that all requests hold.
type PublishOptions struct {
	MaxEventBytes   int // most bytes of one event's data; default 1 MiB
	MaxRequestBytes int // most bytes of one request's body, or of one line with NDJSON; default 16 MiB
	// most bytes that all requests under way hold: bodies, lines, answers and pages; default 256
	// MiB, at least four times MaxRequestBytes
	MaxInflightBytes int
	BodyTimeout      time.Duration // how long a body over 16 KiB may take to come; default 1 min
	IngestIdle       time.Duration // end an NDJSON body that brings no bytes for this long; default 10 min

	Rate      float64 // most events a second of one caller; default: no limit
	BytesRate float64 // most bytes a second of one caller; default: no limit
	Burst     float64 // how many seconds' worth of the two rates may come at once; default 1

	// Detach, on Linux, takes over connections over plain HTTP/1.1 after their first publish. Code
	// that knows publishes alone then serves them; other requests on them go back to the
	// http.Server. A handler around the Server must then not write after the Server has returned,
	// nor keep a request of such a connection, because the request is used again.
	Detach bool
}

// StreamOptions are for streams, and for pages of history.
type StreamOptions struct {
	Heartbeat       time.Duration // how long a stream may be idle before a sign of life; default 15 s
	Lifetime        time.Duration // of native streams; default 1 h, negative: for ever
	StallLimit      time.Duration // end a stream or a long answer whose peer takes no bytes for this long; default 30 s
	BareContentType bool          // send the content type without `; charset=utf-8`

	Max             int     // most open streams; default: no limit
	MaxPerAddress   int     // default: no limit; loopback is not counted
	MaxPerSubject   int     // default: no limit
	MaxPerChannel   int     // streams of one channel, or of one pattern; default: no limit
	MaxNewPerSecond float64 // default: no limit
	// most refused streams whose answer waits for 1 to 3 s at once, because their clients would
	// come back at once; default 1,000
	MaxRefusalsHeld           int
	MaxRefusalsHeldPerAddress int // most of these for one address, loopback and proxies' own included; default 32

	// memory for what streams with replay=latest have yet to be sent; more are refused; default 64
	// MiB
	LatestBytes int

	TailBytes  int // memory for the newest frames; default 64 MiB
	MaxReplays int // most streams and pages of history that read the log at once; others wait; default 16

	// Attached runs each stream in a goroutine of its own, as over HTTP/2. By default, streams over
	// HTTP/1.1 on Linux, plain or by the TLS of Server.Listener, are served with many others by a
	// few goroutines, at a fraction of the memory.
	Attached bool
}

// StoreOptions are for the streams of stores' PCs.
type StoreOptions struct {
	Lifetime time.Duration // default 299 s, negative: for ever
	// how long a PC's position is good after its stream's end; default: as long as the PC's events
	// are retained, negative: not at all
	ResumeFor time.Duration
	GapReplay time.Duration // after a gap a PC gets only events younger than this; default 1 h
}

// Authenticator identifies the caller of a request. Its methods may be called from any goroutine.
type Authenticator interface {
	// Authenticate returns the principal that sends r; nil is a caller without any rights. The hub
	// answers a *fanfare.Error with its own code, and any other error with 401.
	Authenticate(r *http.Request) (*fanfare.Principal, error)
}

// AuthFunc is the Authenticator of a program with a login of its own. For a caller that may do
// everything it returns &fanfare.Principal{Subject: name, Unlimited: true}; idempotency keys belong
// to the name.
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
