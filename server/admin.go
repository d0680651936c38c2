package server

import (
	"net/http"

	"github.com/fanfare-hub/fanfare"
)

// Admin returns a handler for a listener of the operator's own: /metrics, /livez and /readyz, which need nothing there.
func (s *Server) Admin() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/metrics", "/livez", "/readyz":
			s.route(w, r)
		default:
			s.problems.Write(w, r, fanfare.Errorf(fanfare.CodeNotFound, "there is nothing at this path: /metrics, /livez and /readyz are here"))
		}
	})
}
