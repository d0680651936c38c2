// Package server is the front door: New puts a hub and the HTTP adapters around a log, and returns
// an http.Handler to serve, or to mount in another program.
//
//	log, err := pebblelog.Open(pebblelog.Options{Dir: "data"})
//	…
//	s, err := server.New(server.Options{Log: log})
//	…
//	http.Serve(listener, s)
//
// A program that shuts down calls Drain, then closes its listener, then Close, and last the log's
// Close.
package server
