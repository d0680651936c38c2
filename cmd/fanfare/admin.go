package main

import (
	"net"
	"net/http"
	"net/http/pprof"
	"strings"

	"github.com/fanfare-hub/fanfare/server"
)

// adminHandler answers on --admin-addr: metrics and readiness to every client that reaches it,
// profiles to this machine.
func adminHandler(s *server.Server) http.Handler {
	profiles := http.NewServeMux()
	profiles.HandleFunc("/debug/pprof/", pprof.Index)
	profiles.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	profiles.HandleFunc("/debug/pprof/profile", pprof.Profile)
	profiles.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	profiles.HandleFunc("/debug/pprof/trace", pprof.Trace)
	admin := s.Admin()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/debug/pprof") {
			admin.ServeHTTP(w, r)
			return
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if !isLoopback(r.RemoteAddr) || !isLoopback(r.Host) {
			http.Error(w, "profiles are for this machine only", http.StatusForbidden)
			return
		}
		profiles.ServeHTTP(w, r)
	})
}

func isLoopback(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || (ip != nil && ip.IsLoopback())
}
