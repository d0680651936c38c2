package http1

import (
	"log/slog"
	"net/http"

	"github.com/fanfare-hub/fanfare/internal/limit"
)

// Options set up Conns.
type Options struct {
	// Takes says whether a POST is answered here, by its path and header: one whose handler wants
	// the body as a whole, and answers it once. It must not read the body, nor block. Required.
	Takes func(*http.Request) bool

	// Budget is what requests that are larger than one read come out of, while they come and are
	// answered; they are the peer's address's. A request that it refuses is net/http's, and with it
	// the refusal. Default: no limit.
	Budget *limit.Budget

	Logger *slog.Logger // default: discard
}
