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

// paramHandler answers a request of a caller, to a path with parameters.
type paramHandler func(w http.ResponseWriter, r *http.Request, by caller.Caller, params []string)

// with is the handler for the values of a path's parameters; nil for none.
func (h paramHandler) with(params []string) handler {
	if h == nil {
		return nil
	}
	return func(w http.ResponseWriter, r *http.Request, by caller.Caller) { h(w, r, by, params) }
}

// endpoint holds the methods that one path answers to.
type endpoint struct {
	get  handler // HEAD too
	post handler
	// postTo is the post of a path with parameters, whose values are params.
	postTo paramHandler
	getOf  paramHandler // likewise
	delOf  paramHandler
	params []string
	del    handler

	open     bool // callers need not be identified
	delOpen  bool // del identifies the caller itself
	operator bool // takes `admin` on `**`

	streams   string // the adapter whose streams get serves; "" if there are none
	publishes bool   // post reads the body as a whole, and answers once, unless the body is NDJSON
}

// plain makes a handler of one that needs no caller.
func plain(h http.HandlerFunc) handler {
	return func(w http.ResponseWriter, r *http.Request, _ caller.Caller) { h(w, r) }
}

func (e endpoint) takesPosts() bool { return e.post != nil || e.postTo != nil }

func (e endpoint) allow() string {
	methods := []string{}
	if e.get != nil {
		methods = append(methods, http.MethodGet, http.MethodHead)
	}
	if e.takesPosts() {
		methods = append(methods, http.MethodPost)
	}
	if e.del != nil {
		methods = append(methods, http.MethodDelete)
	}
	return strings.Join(append(methods, http.MethodOptions), ", ")
}

// dispatch calls the endpoint's handler for the request's method.
func (s *Server) dispatch(w http.ResponseWriter, r *http.Request, e endpoint) {
	switch {
	case e.get != nil && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		s.serve(w, r, e, e.get)
	case e.takesPosts() && r.Method == http.MethodPost:
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
	if answer == nil {
		e.postTo(w, r, by, e.params)
		return
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
					"Content-Encoding: %.64q is not accepted: send the body without an encoding", coding)
			}
		}
	}
	return nil
}

// maxHeaderNames is how many headers with different names a request may have. net/http keeps some
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

// findPage finds the page at /, and the examples.
func (s *Server) findPage(path string) (http.HandlerFunc, bool) {
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
