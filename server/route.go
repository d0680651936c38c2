package server

import (
	"net/http"
	"strings"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/publish"
	"github.com/fanfare-hub/fanfare/internal/stream"
)

// handler answers a request of a caller.
type handler func(w http.ResponseWriter, r *http.Request, by caller.Caller)

// endpoint is what one path answers to.
type endpoint struct {
	get  handler // HEAD too
	post handler
	del  handler

	open     bool // callers need not be identified
	delOpen  bool // del identifies the caller itself
	operator bool // takes `admin` on `**`

	streams string // the adapter whose streams get serves; "" is none
}

// plain makes a handler of one that needs no caller.
func plain(h http.HandlerFunc) handler {
	return func(w http.ResponseWriter, r *http.Request, _ caller.Caller) { h(w, r) }
}

func (e endpoint) allow() string {
	methods := []string{}
	if e.get != nil {
		methods = append(methods, http.MethodGet, http.MethodHead)
	}
	if e.post != nil {
		methods = append(methods, http.MethodPost)
	}
	if e.del != nil {
		methods = append(methods, http.MethodDelete)
	}
	return strings.Join(append(methods, http.MethodOptions), ", ")
}

// route finds the endpoint by the path as it stands. http.ServeMux would clean it, and redirect
// "//" and ".." to another channel.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	e, ok := s.find(r)
	if !ok {
		s.problems.Write(w, r, fanfare.Errorf(fanfare.CodeNotFound, "there is nothing at this path"))
		return
	}
	s.dispatch(w, r, e)
}

// dispatch calls the endpoint's handler for the request's method.
func (s *Server) dispatch(w http.ResponseWriter, r *http.Request, e endpoint) {
	switch {
	case e.get != nil && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		s.serve(w, r, e, e.get)
	case e.post != nil && r.Method == http.MethodPost:
		s.serve(w, r, e, e.post)
	case e.del != nil && r.Method == http.MethodDelete:
		e.open = e.open || e.delOpen
		s.serve(w, r, e, e.del)
	case r.Method == http.MethodOptions:
		w.Header().Set("Allow", e.allow())
		s.guard.preflight(w, r, e.allow())
		w.WriteHeader(http.StatusNoContent)
	default:
		w.Header().Set("Allow", e.allow())
		s.problems.Write(w, r, fanfare.Errorf(fanfare.CodeMethodNotAllowed, "this path answers to %s", e.allow()))
	}
}

// serve identifies the caller, unless the endpoint is open, and calls answer.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, e endpoint, answer handler) {
	if strings.Contains(r.URL.RawQuery, "ticket=") || strings.Contains(r.URL.RawQuery, "access_token=") {
		w.Header().Set("Referrer-Policy", "no-referrer") // a browser window with this URL tells it to no other site
	}
	by := s.nobody(r)
	if r.ProtoMajor == 1 && len(r.TransferEncoding) > 0 && !by.Direct {
		// RFC 9112, section 6.1: the connection must end after a chunked request that has a
		// Content-Length too. net/http does not end it, and hides the Content-Length. A proxy's
		// connection carries the requests of many clients, so one of them might smuggle a request
		// in behind a chunked body.
		w.Header().Set("Connection", "close")
	}
	if !e.open {
		var err error
		if by, err = s.caller(r, by); err == nil && e.operator {
			err = by.Operator()
		}
		if err != nil {
			s.refuse(w, r, e, by, err)
			return
		}
	}
	if r.Method == http.MethodPost {
		if err := refuseEncoded(w, r); err != nil {
			s.problems.Write(w, r, by.Refuse(err))
			return
		}
	}
	answer(w, r, by)
}

// refuseEncoded refuses a body with a content coding: the hub decodes none, since a small
// compressed body may need much memory. Accept-Encoding names the coding that is accepted (RFC
// 9110, section 15.5.16).
func refuseEncoded(w http.ResponseWriter, r *http.Request) error {
	for _, value := range r.Header["Content-Encoding"] {
		for coding := range strings.SplitSeq(value, ",") {
			if coding = strings.TrimSpace(coding); coding != "" && !strings.EqualFold(coding, "identity") {
				w.Header().Set("Accept-Encoding", "identity")
				return fanfare.Errorf(fanfare.CodeUnsupported,
					"Content-Encoding: %.64q is not taken: send the body as it is", coding)
			}
		}
	}
	return nil
}

// maxHeaderNames is how many headers a request may have that differ in name. net/http keeps some
// eighty bytes for each, however short it is: 60,000 of them, in 240 KB, are 4.6 MB for as long as
// the request lasts. Browsers and proxies send thirty.
const maxHeaderNames = 256

func refuseManyHeaders(w http.ResponseWriter, r *http.Request) error {
	if len(r.Header) <= maxHeaderNames {
		return nil
	}
	w.Header().Set("Connection", "close") // its body is not waited for
	return fanfare.Invalid("the request has more than %d headers", maxHeaderNames)
}

// refuse answers a request that no handler gets. Refusals of streams have a form of their own.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, e endpoint, by caller.Caller, err error) {
	if e.streams == "" {
		s.problems.Write(w, r, err)
		return
	}
	s.streams.Refuse(w, r, stream.Request{Adapter: e.streams, Caller: by, Pause: e.streams == "store"}, err)
}

func (s *Server) find(r *http.Request) (endpoint, bool) {
	path := r.URL.EscapedPath()
	switch path {
	case "":
		return endpoint{get: plain(s.toFront), open: true}, true
	case "/v1/events":
		return endpoint{get: s.native.Stream, post: s.native.Publish, streams: "native"}, true
	case "/v1/history":
		return endpoint{get: s.native.History}, true
	case "/v1/health":
		// Without parameters it says no more than /livez.
		q := r.URL.Query()
		return endpoint{get: s.stores.Health, open: !q.Has("storeId") && !q.Has("pcId")}, true
	case "/v1/stores/event-sources":
		return endpoint{get: s.stores.Stream, streams: "store"}, true
	case "/v1/stores/events":
		return endpoint{post: s.stores.SendToAll}, true
	case "/v1/stats":
		return endpoint{get: s.figures.Serve, operator: true}, true
	case "/v1/admin/retention":
		return endpoint{get: plain(s.admin.Retention), operator: true}, true
	case "/v1/admin/backup":
		return endpoint{post: s.admin.Backup, operator: true}, true
	case "/v1/admin/log-level":
		return endpoint{get: plain(s.admin.LogLevel), post: s.admin.SetLogLevel, operator: true}, true
	case "/v1/admin/disconnect":
		return endpoint{post: s.admin.Disconnect}, true
	case "/v1/admin/revoke":
		return endpoint{post: s.admin.Revoke}, true
	case "/v1/tickets":
		return endpoint{post: s.makeTicket}, true
	case "/v1/session":
		return endpoint{post: s.beginSession, del: s.endSession, delOpen: true}, true
	case "/livez":
		return endpoint{get: plain(s.livez), open: true}, true
	case "/readyz":
		return endpoint{get: plain(s.readyz), open: true}, true
	case "/metrics":
		return endpoint{get: plain(s.metrics.ServeHTTP), operator: true}, true
	}
	if page, ok := s.findPage(path); ok {
		return endpoint{get: plain(page), open: true}, true
	}
	if channel, ok := strings.CutPrefix(path, "/v1/channels/"); ok {
		return endpoint{post: func(w http.ResponseWriter, r *http.Request,
			by caller.Caller) {
			s.native.PublishTo(w, r, by, channel)
		}}, true
	}
	if rest, ok := strings.CutPrefix(path, "/v1/stores/"); ok {
		return s.findStore(strings.Split(rest, "/"))
	}
	return endpoint{}, false
}

// isPublish tells whether a request is one whose handler reads the body as a whole, and answers
// once: all publishes but NDJSON.
func isPublish(r *http.Request) bool {
	if r.Method != http.MethodPost {
		return false
	}
	for _, kind := range r.Header["Content-Type"] {
		if len(kind) >= 20 && strings.Contains(strings.ToLower(kind), "ndjson") {
			return false
		}
	}
	path := r.URL.EscapedPath()
	return path == "/v1/events" || strings.HasPrefix(path, "/v1/channels/") || strings.HasPrefix(path, "/v1/stores/")
}

// findPage finds the page at /, the examples, and the description of the API.
func (s *Server) findPage(path string) (http.HandlerFunc, bool) {
	if path == "/openapi.yaml" {
		return openapi, true
	}
	if s.o.NoPage {
		return nil, false
	}
	for _, pages := range s.pages {
		if h, ok := pages.Find(path); ok {
			return h, true
		}
	}
	return nil, false
}

// findStore matches {S}/events and {S}/pcs/{P}/events.
func (s *Server) findStore(segments []string) (endpoint, bool) {
	switch {
	case len(segments) == 2 && segments[1] == "events":
		return endpoint{post: func(w http.ResponseWriter, r *http.Request, by caller.Caller) {
			s.stores.SendToStore(w, r, by, segments[0])
		}}, true
	case len(segments) == 4 && segments[1] == "pcs" && segments[3] == "events":
		return endpoint{post: func(w http.ResponseWriter, r *http.Request, by caller.Caller) {
			s.stores.SendToPC(w, r, by, segments[0], segments[2])
		}}, true
	}
	return endpoint{}, false
}

// toFront redirects a prefix without its last slash to the one with it: the page's links are
// relative.
func (s *Server) toFront(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Location", s.origin.Prefix(r)+"/")
	w.WriteHeader(http.StatusPermanentRedirect)
}

func (s *Server) livez(w http.ResponseWriter, r *http.Request) {
	publish.WriteJSON(w, r, http.StatusOK, []byte(`{"status":"ok"}`))
}

// ready is nil, or why the hub should not be sent work.
func (s *Server) ready() error {
	if s.draining.Load() {
		return fanfare.Unavailable("the hub is shutting down", nil)
	}
	return s.o.Log.Status().Err
}

// readyz says whether the hub should be sent work, and why not.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	if err := s.ready(); err != nil {
		s.problems.Write(w, r, err)
		return
	}
	publish.WriteJSON(w, r, http.StatusOK, []byte(`{"status":"ready"}`))
}
