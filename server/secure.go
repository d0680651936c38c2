package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/auth"
	"github.com/fanfare-hub/fanfare/internal/audit"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/forwarded"
	"github.com/fanfare-hub/fanfare/internal/httpapi"
	"github.com/fanfare-hub/fanfare/internal/problem"
	"github.com/fanfare-hub/fanfare/internal/publish"
	"github.com/fanfare-hub/fanfare/internal/query"
	"github.com/fanfare-hub/fanfare/internal/stream"
)

// everything is the principal of all requests to a hub without authentication.
var everything = &fanfare.Principal{Unlimited: true}

// nothing is the principal of a request without an identified caller.
var nothing = &fanfare.Principal{}

// secure sets up authentication: tickets, revocations, trusted proxies and the audit trail.
func (s *Server) secure(o Options) (err error) {
	s.auth = o.Access.Auth
	if tokens, ok := s.auth.(*auth.Authenticator); ok {
		if s.tokens = tokens; tokens == nil {
			s.auth = nil
		}
	}
	s.guard.asks = s.auth != nil // a page that rebinds a name brings no credentials
	if s.origin, err = forwarded.New(o.Access.TrustedProxies, o.Access.ProxyHeader); err != nil {
		return err
	}
	revocations := auth.RevocationOptions{Most: o.Access.MaxRevocations}
	if s.tokens != nil {
		revocations.Leeway = s.tokens.Leeway()
	}
	if s.tickets, err = auth.NewTickets(o.Access.TicketKey, o.Log); err != nil {
		return err
	}
	if s.revocations, err = auth.NewRevocations(context.Background(), o.Log, revocations); err != nil {
		return err
	}
	if o.AuditRate > 0 {
		s.trail = audit.New(o.Logger, o.AuditRate)
		s.problems.OnRefused = s.refused
	}
	return nil
}

func (s *Server) jwksFailures() uint64 {
	if s.tokens == nil {
		return 0
	}
	return s.tokens.JWKSFailures()
}

// refused writes a refusal to the audit trail, without the query, which may hold a token.
func (s *Server) refused(r *http.Request, err error) {
	by := s.nobody(r)
	if e, ok := errors.AsType[*caller.Refused](err); ok {
		by = e.Caller
	}
	s.trail.Record(audit.Refused, by, slog.String("method", r.Method), slog.String("path", clip(r.URL.EscapedPath())),
		slog.String("code", string(fanfare.CodeOf(err))), problem.Reason(err))
}

// nobody returns the caller of a request before the caller is identified: its address alone.
func (s *Server) nobody(r *http.Request) caller.Caller {
	address, limited := s.origin.Client(r)
	peer, _ := netip.ParseAddrPort(r.RemoteAddr) // not valid for a Unix socket
	by := caller.Caller{Who: nothing, From: peer, Limited: limited}
	switch {
	case peer.Addr().Unmap().WithZone("") == address:
		by.Direct = limited
	case address.IsValid():
		by.From = netip.AddrPortFrom(address, 0) // as a trusted proxy says
	}
	return by
}

// caller adds the principal to by, the caller that nobody returned, or returns the reason to refuse
// the request.
func (s *Server) caller(r *http.Request, by caller.Caller) (caller.Caller, error) {
	who, err := s.principal(r)
	if err != nil {
		return by, err
	}
	by.Who = who
	return by, by.Refuse(s.revocations.Check(who))
}

func (s *Server) principal(r *http.Request) (*fanfare.Principal, error) {
	switch {
	case s.auth == nil:
		return everything, nil
	case s.bringsTicket(r):
		return s.byTicket(r)
	case s.tokens == nil:
		who, err := s.auth.Authenticate(r)
		if err != nil {
			return nil, public(err)
		}
		if who == nil {
			who = nothing
		}
		return who, nil
	}
	token, source, err := auth.Token(r, s.o.Access.QueryToken)
	if err != nil {
		return nil, err
	}
	if source != auth.FromCookie {
		return s.tokens.Verify(r.Context(), token)
	}
	if err := s.sameOrigin(r); err != nil {
		return nil, err
	}
	who, err := s.tokens.Verify(r.Context(), token)
	if err != nil {
		return nil, err
	}
	login := *who // which others share
	login.Session = sessionOf(token)
	return &login, nil
}

// sessionOf names the login of a cookie by a hash of the token in it.
func sessionOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:16])
}

// public turns an error of a program's Authenticator into one that clients may see.
func public(err error) error {
	if _, ok := errors.AsType[*fanfare.Error](err); ok {
		return err
	}
	return &fanfare.Error{Code: fanfare.CodeUnauthenticated, Reason: fanfare.ReasonBadToken,
		Detail: "the request is not authenticated", Err: err}
}

// sameOrigin refuses requests with the hub's cookie that a page of another site makes a browser
// send. Browsers send Origin with each request that changes something, and may leave it out when
// they read.
func (s *Server) sameOrigin(r *http.Request) error {
	origin := r.Header.Get("Origin")
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	if origin == "" && reads {
		return nil
	}
	if u, err := url.Parse(origin); origin != "" && err == nil {
		ours := strings.EqualFold(u.Host, r.Host) && (r.TLS == nil || u.Scheme == "https")
		if ours || s.guard.listed(origin) {
			return nil
		}
	}
	return &fanfare.Error{
		Code: fanfare.CodeForbidden, Reason: fanfare.ReasonForeignOrigin,
		Detail:  "a request with the cookie must come from a page of this host, or of a listed origin",
		Setting: fanfare.SettingCORSOrigin,
	}
}

// bringsTicket tells whether a request opens a stream by ticket. The header Authorization wins.
func (s *Server) bringsTicket(r *http.Request) bool {
	return r.URL.Path == "/v1/events" && (r.Method == http.MethodGet || r.Method == http.MethodHead) &&
		len(r.Header["Authorization"]) == 0 && strings.Contains(r.URL.RawQuery, "ticket=") &&
		r.URL.Query().Get("ticket") != ""
}

func (s *Server) byTicket(r *http.Request) (*fanfare.Principal, error) {
	q, err := httpapi.StreamQuery(r)
	if err != nil {
		return nil, err
	}
	patterns, err := query.Patterns(q)
	if err != nil {
		return nil, err
	}
	who, err := s.tickets.Verify(r.Context(), q.Get("ticket"), patterns)
	if err != nil {
		return nil, err
	}
	if s.tokens != nil {
		return who, s.tokens.StillMay(who)
	}
	return who, nil
}

// stillMay checks again the rights of a principal that was checked before (P8).
func (s *Server) stillMay(who *fanfare.Principal) error {
	if end := who.StreamsEnd(); !end.IsZero() && !time.Now().Before(end) {
		return &fanfare.Error{Code: fanfare.CodeUnauthenticated, Reason: fanfare.ReasonExpiredToken,
			Detail: "the token has expired"}
	}
	if err := s.revocations.Check(who); err != nil {
		return err
	}
	if s.tokens != nil {
		return s.tokens.StillMay(who)
	}
	return nil
}

// ticketBodyBytes is enough for a hundred channels.
const ticketBodyBytes = 128 << 10

// makeTicket is POST /v1/tickets {"channels":[…]}: a ticket for an EventSource.
func (s *Server) makeTicket(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	body, err := s.ticket(w, r, by)
	if err != nil {
		s.problems.Write(w, r, err)
		return
	}
	publish.WriteJSON(w, r, http.StatusCreated, body)
}

func (s *Server) ticket(w http.ResponseWriter, r *http.Request, by caller.Caller) ([]byte, error) {
	if err := query.InBody(r, "channels"); err != nil {
		return nil, err
	}
	body, err := s.bodies.Read(w, r, by, ticketBodyBytes, "128 KiB")
	if err != nil {
		return nil, err
	}
	defer body.Free()
	o, err := publish.ParseObjectOf(body.Bytes, "the body", `{"channels":["greetings"]}`)
	if err != nil {
		return nil, err
	}
	if err := o.Only("channels"); err != nil {
		return nil, err
	}
	var channels []string
	if err := json.Unmarshal(o.Raw("channels"), &channels); err != nil || len(channels) == 0 {
		return nil, fanfare.Invalid("channels must be a list of 1 to %d channels or patterns", query.MaxChannels)
	}
	patterns, err := query.ParsePatterns(channels)
	if err == nil {
		err = by.MaySubscribe(patterns...)
	}
	if err != nil {
		return nil, err
	}
	text, expires, err := s.tickets.Make(by.Who, patterns)
	if err != nil {
		return nil, err
	}
	s.trail.Record(audit.TicketMade, by, slog.Any("channels", channels), slog.Time("expires", expires))
	q := url.Values{"channel": channels, "ticket": {text}}
	// Nothing in these needs escaping in JSON, and an escaped "&" would be in the way of shells.
	return []byte(`{"ticket":"` + text + `","expires":"` + expires.UTC().Format(time.RFC3339) + `","url":"` +
		s.origin.Prefix(r) + `/v1/events?` + q.Encode() + `"}`), nil
}

// beginSession is POST /v1/session. It puts the header's token into a cookie for pages of this
// host, which no script can read.
func (s *Server) beginSession(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	const most = 4000 // browsers drop larger ones
	token, source, err := auth.Token(r, false)
	switch {
	case s.tokens == nil:
		err = fanfare.Errorf(fanfare.CodeNotFound,
			"the hub keeps no sessions: no authentication of its own is configured")
	case err != nil:
	case source != auth.FromHeader:
		err = &fanfare.Error{Code: fanfare.CodeUnauthenticated, Reason: fanfare.ReasonNoCredentials,
			Detail: "want the token in the header Authorization"}
	case len(token) > most:
		err = fanfare.Errorf(fanfare.CodeTooLarge, "the token has %d bytes, a cookie takes %d", len(token), most)
	}
	if err != nil {
		s.problems.Write(w, r, err)
		return
	}
	c := &http.Cookie{Name: auth.Cookie, Value: token, Path: "/", Secure: true, HttpOnly: true,
		SameSite: http.SameSiteStrictMode}
	if !by.Who.Expires.IsZero() {
		c.MaxAge = max(int(time.Until(by.Who.Expires).Seconds()), 1)
	}
	http.SetCookie(w, c)
	s.trail.Record(audit.Session, by, slog.Bool("begun", true))
	w.WriteHeader(http.StatusNoContent)
}

// endSession is DELETE /v1/session. It removes the cookie, and ends the streams that were opened
// with it or with a ticket that it made. The token in the cookie stays good until it expires or is
// revoked. A cookie whose token is no longer good is removed too, because the browser would keep it
// for ever.
func (s *Server) endSession(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	by, err := s.caller(r, by)
	_, source, _ := auth.Token(r, s.o.Access.QueryToken)
	stale := source == auth.FromCookie && fanfare.CodeOf(err) == fanfare.CodeUnauthenticated
	if err != nil && !stale {
		s.problems.Write(w, r, err)
		return
	}
	http.SetCookie(w, &http.Cookie{Name: auth.Cookie, Path: "/", Secure: true, HttpOnly: true,
		SameSite: http.SameSiteStrictMode, MaxAge: -1})
	if c, err := r.Cookie(auth.Cookie); err == nil && c.Value != "" {
		session := sessionOf(c.Value)
		if !stale { // a stale cookie's tickets are refused already, and strangers must not fill the list
			err = s.revocations.EndSession(context.WithoutCancel(r.Context()), session)
		}
		s.endStreamsOf(session) // after the tickets are refused, since clients reconnect
		if err != nil {
			s.problems.Write(w, r, s.signedOutWith(err))
			return
		}
	}
	s.trail.Record(audit.Session, by, slog.Bool("begun", false))
	w.WriteHeader(http.StatusNoContent)
}

// signedOutWith adds to the error of a sign-out the effects that it has had all the same.
func (s *Server) signedOutWith(err error) error {
	public, ok := errors.AsType[*fanfare.Error](err)
	if !ok {
		return err
	}
	said := *public
	said.Detail, said.Setting = s.problems.Public(public), ""
	said.Detail += ": the cookie is taken away, and its streams have ended; tickets that it made may open streams again"
	if public.Reason != fanfare.ReasonMaxRevocations {
		said.Detail += " after the hub's next start" // until then the hub remembers
	}
	return &said
}

// endStreamsOf ends the streams of a login by cookie.
func (s *Server) endStreamsOf(session string) {
	for h := range s.streams.Each() {
		if h.Caller.Who.Session == session {
			h.End(stream.EndRevoked)
		}
	}
}
