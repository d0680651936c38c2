package server

import (
	"net/http"
	"strings"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/publish"
)

// endpoint is what one path answers to.
type endpoint struct {
	get  http.HandlerFunc // HEAD too
	post http.HandlerFunc
}

func (e endpoint) allow() string {
	methods := []string{}
	if e.get != nil {
		methods = append(methods, http.MethodGet, http.MethodHead)
	}
	if e.post != nil {
		methods = append(methods, http.MethodPost)
	}
	return strings.Join(append(methods, http.MethodOptions), ", ")
}

// route finds the endpoint by the path as it stands. http.ServeMux would clean it, and redirect "//" and ".." to another
// channel.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	e, ok := s.find(r.URL.EscapedPath())
	if !ok {
		s.problems.Write(w, r, fanfare.Errorf(fanfare.CodeNotFound, "there is nothing at this path"))
		return
	}
	switch {
	case e.get != nil && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		e.get(w, r)
	case e.post != nil && r.Method == http.MethodPost:
		e.post(w, r)
	case r.Method == http.MethodOptions:
		w.Header().Set("Allow", e.allow())
		s.guard.preflight(w, r, e.allow())
		w.WriteHeader(http.StatusNoContent)
	default:
		w.Header().Set("Allow", e.allow())
		s.problems.Write(w, r, fanfare.Errorf(fanfare.CodeMethodNotAllowed, "this path answers to %s", e.allow()))
	}
}

func (s *Server) find(path string) (endpoint, bool) {
	switch path {
	case "/v1/events":
		return endpoint{get: s.native.Stream, post: s.native.Publish}, true
	case "/v1/history":
		return endpoint{get: s.native.History}, true
	case "/v1/health":
		return endpoint{get: s.stores.Health}, true
	case "/v1/stores/event-sources":
		return endpoint{get: s.stores.Stream}, true
	case "/v1/stores/events":
		return endpoint{post: s.stores.SendToAll}, true
	case "/v1/stats":
		return endpoint{get: s.figures.ServeHTTP}, true
	case "/v1/admin/retention":
		return endpoint{get: s.admin.Retention}, true
	case "/v1/admin/backup":
		return endpoint{post: s.admin.Backup}, true
	case "/v1/admin/log-level":
		return endpoint{get: s.admin.LogLevel, post: s.admin.SetLogLevel}, true
	case "/livez":
		return endpoint{get: s.livez}, true
	case "/readyz":
		return endpoint{get: s.readyz}, true
	case "/metrics":
		return endpoint{get: s.metrics.ServeHTTP}, true
	}
	if page, ok := s.findPage(path); ok {
		return endpoint{get: page}, true
	}
	if channel, ok := strings.CutPrefix(path, "/v1/channels/"); ok {
		return endpoint{post: func(w http.ResponseWriter, r *http.Request) { s.native.PublishTo(w, r, channel) }}, true
	}
	if rest, ok := strings.CutPrefix(path, "/v1/stores/"); ok {
		return s.findStore(strings.Split(rest, "/"))
	}
	return endpoint{}, false
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
		return endpoint{post: func(w http.ResponseWriter, r *http.Request) { s.stores.SendToStore(w, r, segments[0]) }}, true
	case len(segments) == 4 && segments[1] == "pcs" && segments[3] == "events":
		return endpoint{post: func(w http.ResponseWriter, r *http.Request) { s.stores.SendToPC(w, r, segments[0], segments[2]) }}, true
	}
	return endpoint{}, false
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
