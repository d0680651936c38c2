package http1

import (
	"log/slog"
	"net/http"
)

// Options set up Conns.
type Options struct {
	// Takes says whether a POST is answered here, by its path and header: one whose handler wants the body as a whole, and answers it
	// once. It must not read the body, nor block. Required.
	Takes func(*http.Request) bool

	Logger *slog.Logger // default: discard
}
