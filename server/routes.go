package server

import (
	"net/http"
	"strings"

	"github.com/fanfare-hub/fanfare/internal/caller"
)

// route is a path of the API, and the methods that it answers to.
type route struct {
	// path is as the OpenAPI description has it: {channel} is the rest of the path, slashes
	// included; any other parameter is one segment.
	path string
	endpoint
}

// routes is the table of all paths but those of pages. The router, the check of the OpenAPI
// description and tests read it.
func (s *Server) routes() []route {
	return []route{
		{path: "/v1/events", endpoint: endpoint{
			get: s.native.Stream, post: s.native.Publish, streams: "native", publishes: true,
		}},
		{path: "/v1/channels/{channel}", endpoint: endpoint{postTo: s.publishTo, publishes: true}},
		{path: "/v1/history", endpoint: endpoint{get: s.native.History}},
		{path: "/v1/latest", endpoint: endpoint{get: s.native.Latest}},
		{path: "/v1/channels", endpoint: endpoint{get: s.native.Channels}},
		{path: "/v1/scheduled", endpoint: endpoint{get: s.native.Scheduled}},
		{path: "/v1/scheduled/{id}", endpoint: endpoint{getOf: s.scheduledEvent, delOf: s.cancel}},
		{path: "/v1/tickets", endpoint: endpoint{post: s.makeTicket}},
		{path: "/v1/session", endpoint: endpoint{post: s.beginSession, del: s.endSession, delOpen: true}},

		{path: "/v1/stores/event-sources", endpoint: endpoint{get: s.stores.Stream, streams: "store"}},
		{path: "/v1/stores/events", endpoint: endpoint{post: s.stores.SendToAll, publishes: true}},
		{path: "/v1/stores/{store}/events", endpoint: endpoint{postTo: s.sendToStore, publishes: true}},
		{path: "/v1/stores/{store}/pcs/{pc}/events", endpoint: endpoint{postTo: s.sendToPC, publishes: true}},
		{path: "/v1/stores/commands", endpoint: endpoint{post: s.stores.AskAll}},
		{path: "/v1/stores/{store}/commands", endpoint: endpoint{postTo: s.askStore}},
		{path: "/v1/stores/commands/{reference}", endpoint: endpoint{getOf: s.allCommand, delOf: s.cancelAll}},
		{path: "/v1/stores/{store}/commands/{reference}", endpoint: endpoint{
			getOf: s.storeCommand, delOf: s.cancelStore,
		}},
		{path: "/v1/stores/{store}/pcs/{pc}/commands", endpoint: endpoint{getOf: s.listCommands, postTo: s.askPC}},
		{path: "/v1/stores/{store}/pcs/{pc}/commands/{reference}", endpoint: endpoint{
			getOf: s.command, delOf: s.cancelCommand,
		}},
		{path: "/v1/stores/{store}/pcs/{pc}/commands/{reference}/ack", endpoint: endpoint{postTo: s.answerCommand}},
		{path: "/v1/health", endpoint: endpoint{get: s.stores.Health}},

		{path: "/v1/stats", endpoint: endpoint{get: s.figures.Serve, operator: true}},
		{path: "/v1/admin/retention", endpoint: endpoint{get: plain(s.admin.Retention), operator: true}},
		{path: "/v1/admin/backup", endpoint: endpoint{post: s.admin.Backup, operator: true}},
		{path: "/v1/admin/log-level", endpoint: endpoint{
			get: plain(s.admin.LogLevel), post: s.admin.SetLogLevel, operator: true,
		}},
		{path: "/v1/admin/disconnect", endpoint: endpoint{post: s.admin.Disconnect}},
		{path: "/v1/admin/revoke", endpoint: endpoint{post: s.admin.Revoke}},
		{path: "/metrics", endpoint: endpoint{get: plain(s.metrics.ServeHTTP), operator: true}},
		{path: "/livez", endpoint: endpoint{get: plain(s.livez), open: true}},
		{path: "/readyz", endpoint: endpoint{get: plain(s.readyz), open: true}},
		{path: "/openapi.yaml", endpoint: endpoint{get: plain(openapi), open: true}},
	}
}

func (s *Server) publishTo(w http.ResponseWriter, r *http.Request, by caller.Caller, p []string) {
	s.native.PublishTo(w, r, by, p[0])
}

func (s *Server) scheduledEvent(w http.ResponseWriter, r *http.Request, by caller.Caller, p []string) {
	s.native.ScheduledEvent(w, r, by, p[0])
}

func (s *Server) cancel(w http.ResponseWriter, r *http.Request, by caller.Caller, p []string) {
	s.native.Cancel(w, r, by, p[0])
}

func (s *Server) sendToStore(w http.ResponseWriter, r *http.Request, by caller.Caller, p []string) {
	s.stores.SendToStore(w, r, by, p[0])
}

func (s *Server) sendToPC(w http.ResponseWriter, r *http.Request, by caller.Caller, p []string) {
	s.stores.SendToPC(w, r, by, p[0], p[1])
}

func (s *Server) askStore(w http.ResponseWriter, r *http.Request, by caller.Caller, p []string) {
	s.stores.AskStore(w, r, by, p[0])
}

func (s *Server) askPC(w http.ResponseWriter, r *http.Request, by caller.Caller, p []string) {
	s.stores.AskPC(w, r, by, p[0], p[1])
}

func (s *Server) allCommand(w http.ResponseWriter, r *http.Request, by caller.Caller, p []string) {
	s.stores.AllCommand(w, r, by, p[0])
}

func (s *Server) cancelAll(w http.ResponseWriter, r *http.Request, by caller.Caller, p []string) {
	s.stores.CancelAll(w, r, by, p[0])
}

func (s *Server) storeCommand(w http.ResponseWriter, r *http.Request, by caller.Caller, p []string) {
	s.stores.StoreCommand(w, r, by, p[0], p[1])
}

func (s *Server) cancelStore(w http.ResponseWriter, r *http.Request, by caller.Caller, p []string) {
	s.stores.CancelStore(w, r, by, p[0], p[1])
}

func (s *Server) listCommands(w http.ResponseWriter, r *http.Request, by caller.Caller, p []string) {
	s.stores.List(w, r, by, p[0], p[1])
}

func (s *Server) command(w http.ResponseWriter, r *http.Request, by caller.Caller, p []string) {
	s.stores.Command(w, r, by, p[0], p[1], p[2])
}

func (s *Server) cancelCommand(w http.ResponseWriter, r *http.Request, by caller.Caller, p []string) {
	s.stores.Cancel(w, r, by, p[0], p[1], p[2])
}

func (s *Server) answerCommand(w http.ResponseWriter, r *http.Request, by caller.Caller, p []string) {
	s.stores.Answer(w, r, by, p[0], p[1], p[2])
}

// router finds routes. It is fixed once it is made.
type router struct {
	exact  map[string]route
	others []route // with parameters
}

func newRouter(routes []route) router {
	t := router{exact: map[string]route{}}
	for _, rt := range routes {
		if strings.Contains(rt.path, "{") {
			t.others = append(t.others, rt)
		} else {
			t.exact[rt.path] = rt
		}
	}
	return t
}

// lookup finds the route of an escaped path.
func (t *router) lookup(path string) (rt route, params []string, ok bool) {
	if rt, ok = t.exact[path]; ok {
		return rt, nil, true
	}
	for _, rt := range t.others {
		if params, ok := match(rt.path, path); ok {
			return rt, params, true
		}
	}
	return route{}, nil, false
}

// match returns the parameters of a path of a route.
func match(pattern, path string) (params []string, ok bool) {
	for {
		want, restWant, moreWant := strings.Cut(pattern, "/")
		have, rest, more := strings.Cut(path, "/")
		switch {
		case want == "{channel}":
			return append(params, path), true
		case strings.HasPrefix(want, "{"):
			params = append(params, have)
		case want != have:
			return nil, false
		}
		if more != moreWant {
			return nil, false
		}
		if !more {
			return params, true
		}
		pattern, path = restWant, rest
	}
}

// find finds the endpoint of a request by the path as it stands. http.ServeMux would clean it, and
// redirect "//" and ".." to another channel.
func (s *Server) find(r *http.Request) (endpoint, bool) {
	path := r.URL.EscapedPath()
	if rt, params, ok := s.router.lookup(path); ok {
		e := rt.endpoint
		e.params = params
		if e.getOf != nil {
			e.get, e.del = e.getOf.with(params), e.delOf.with(params)
		}
		if path == "/v1/health" { // without parameters it says no more than /livez
			q := r.URL.Query()
			e.open = !q.Has("storeId") && !q.Has("pcId")
		}
		return e, true
	}
	if path == "" {
		return endpoint{get: plain(s.toFront), open: true}, true
	}
	if page, ok := s.findPage(path); ok {
		return endpoint{get: plain(page), open: true}, true
	}
	return endpoint{}, false
}

// isPublish tells whether a request is a publish whose handler reads the body as a whole, and
// answers once.
func (s *Server) isPublish(r *http.Request) bool {
	if r.Method != http.MethodPost {
		return false
	}
	for _, kind := range r.Header["Content-Type"] {
		if len(kind) >= 20 && strings.Contains(strings.ToLower(kind), "ndjson") {
			return false
		}
	}
	path := r.URL.EscapedPath()
	if rt, ok := s.router.exact[path]; ok {
		return rt.publishes
	}
	return strings.HasPrefix(path, "/v1/channels/") ||
		(strings.HasPrefix(path, "/v1/stores/") && strings.HasSuffix(path, "/events"))
}
