package server

import (
	"net/http"

	"github.com/fanfare-hub/fanfare"
)

// Admin returns a handler for a listener of the operator's own. It serves /metrics, /livez and
// /readyz without authentication, so only operators may reach that listener.
func (s *Server) Admin() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["X-Content-Type-Options"] = nosniff
		answers := map[string]http.HandlerFunc{"/metrics": s.metrics.ServeHTTP, "/livez": s.livez, "/readyz": s.readyz}
		answer, ok := answers[r.URL.Path]
		if !ok {
			s.problems.Write(w, r, fanfare.Errorf(fanfare.CodeNotFound,
				"there is nothing at this path: /metrics, /livez and /readyz are here"))
			return
		}
		s.dispatch(w, r, endpoint{get: plain(answer), open: true})
	})
}
