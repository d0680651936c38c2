package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/problem"
)

// guard protects a hub without authentication from web pages that are open in a browser on its
// machine. It refuses requests for hosts that it does not know (DNS rebinding), and requests of
// foreign origins that change something.
type guard struct {
	hosts    []string // as requestHost spells them
	origins  []string // as browsers spell them
	any      bool     // "*" is among the origins
	asks     bool     // authentication is configured
	cross    *http.CrossOriginProtection
	logger   *slog.Logger
	problems *problem.Writer

	lastLocal atomic.Pointer[string] // a host that local was true for: most requests name the same
	logged    atomic.Int64           // when it last logged, in seconds since 1970: at most one record a second
}

// CheckHosts checks AccessOptions.Hosts and Origins. It returns an error for the first
// host that no request can name, or origin that no page can have.
func CheckHosts(hosts, origins []string) error {
	logger := slog.New(slog.DiscardHandler)
	_, err := newGuard(hosts, origins, logger, problem.NewWriter(logger))
	return err
}

func newGuard(hosts, origins []string, logger *slog.Logger, problems *problem.Writer) (*guard, error) {
	g := &guard{cross: http.NewCrossOriginProtection(), logger: logger, problems: problems}
	for _, text := range hosts {
		name, err := hostName(text)
		if err != nil {
			return nil, fanfare.Invalid("allowed host %q: %s", shown(text), err)
		}
		g.hosts = append(g.hosts, name)
	}
	for _, text := range origins {
		if text == "*" {
			g.any = true
			continue
		}
		origin, err := originOf(text)
		if err == nil {
			err = g.cross.AddTrustedOrigin(origin)
		}
		if err != nil {
			return nil, fanfare.Invalid("CORS origin %q: %s", shown(text), err)
		}
		g.origins = append(g.origins, origin)
	}
	return g, nil
}

// local tells whether a host is loopback or an allowed one.
func (g *guard) local(hostport string) bool {
	if last := g.lastLocal.Load(); last != nil && *last == hostport {
		return true
	}
	if !g.lookLocal(hostport) {
		return false
	}
	last := strings.Clone(hostport) // of a request's head
	g.lastLocal.Store(&last)
	return true
}

func (g *guard) lookLocal(hostport string) bool {
	host := requestHost(hostport)
	if host == "localhost" || slices.Contains(g.hosts, host) {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// check refuses requests for unknown hosts and of foreign origins, and sets the CORS headers for
// allowed origins.
func (g *guard) check(w http.ResponseWriter, r *http.Request) error {
	// kubelets name an address; these tell nothing
	probe := g.asks && (r.URL.Path == "/livez" || r.URL.Path == "/readyz")
	if (!g.asks || len(g.hosts) > 0) && !probe && !g.local(r.Host) && (r.Host != "" || r.ProtoAtLeast(1, 1)) {
		g.warn("refused a request for an unknown host: list it", slog.String("host", clip(r.Host)),
			g.problems.Settings(fanfare.SettingAllowedHost))
		e := fanfare.Errorf(fanfare.CodeForbidden, "the host %.128q is not served here: list it", r.Host)
		e.Reason, e.Setting = fanfare.ReasonUnknownHost, fanfare.SettingAllowedHost
		return e
	}
	origin := r.Header.Get("Origin")
	h := w.Header()
	if origin != "" {
		h.Add("Vary", "Origin")
	}
	switch {
	case origin != "" && g.listed(origin):
		h.Set("Access-Control-Allow-Origin", origin)
		h.Set("Access-Control-Allow-Credentials", "true")
	case origin != "" && g.any:
		h.Set("Access-Control-Allow-Origin", "*")
	default:
		if g.cross.Check(r) != nil {
			g.warn("refused a request from a foreign page: list its origin",
				slog.String("origin", clip(origin)), g.problems.Settings(fanfare.SettingCORSOrigin))
			e := fanfare.Errorf(fanfare.CodeForbidden,
				"pages of the origin %.128q may not change anything here: list it", origin)
			e.Reason, e.Setting = fanfare.ReasonForeignOrigin, fanfare.SettingCORSOrigin
			return e
		}
		return nil
	}
	h.Set("Access-Control-Expose-Headers",
		"ETag, Retry-After, Idempotent-Replayed, Preference-Applied, RateLimit, RateLimit-Policy, WWW-Authenticate")
	return nil
}

func (g *guard) warn(text string, what ...slog.Attr) {
	now := time.Now().Unix()
	if last := g.logged.Load(); last != now && g.logged.CompareAndSwap(last, now) {
		g.logger.LogAttrs(context.Background(), slog.LevelWarn, text, what...)
	}
}

func clip(s string) string { return s[:min(len(s), 128)] }

// listed tells whether an origin is in the list, or that of a page on a host of ours, on any port.
func (g *guard) listed(origin string) bool {
	if slices.Contains(g.origins, strings.ToLower(origin)) {
		return true
	}
	// Browsers keep the dot at the end of a host, and spell some addresses in another way.
	if name, err := originOf(origin); err == nil && slices.Contains(g.origins, name) {
		return true
	}
	if g.asks {
		return false // any client may have a page on localhost, so it is no sign of trust here
	}
	u, err := url.Parse(origin)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.User == nil && u.Path == "" && g.local(u.Host)
}

// preflight answers the CORS protocol's question before the real request.
func (g *guard) preflight(w http.ResponseWriter, r *http.Request, methods string) {
	h := w.Header()
	if r.Header.Get("Access-Control-Request-Method") == "" || h.Get("Access-Control-Allow-Origin") == "" {
		return
	}
	h.Set("Access-Control-Allow-Methods", methods)
	h.Set("Access-Control-Allow-Headers",
		"Authorization, Cache-Control, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, Prefer, "+
			"Traceparent, Tracestate, Baggage, Sentry-Trace") // what tracing adds to each request of a page
	h.Set("Access-Control-Max-Age", fmt.Sprint(600))
}
