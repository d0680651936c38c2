package http1

import (
	"log/slog"
	"net/http"

	"github.com/fanfare-hub/fanfare/internal/limit"
)

// Options set up Conns.
type Options struct {
	// Takes says, by path and header, whether a POST is answered here. Its handler must want the
	// whole body, and answer once. It must not read the body, nor block. Required.
	Takes func(*http.Request) bool

	// Budget holds the bytes of requests that are larger than one read, while they come and are
	// answered; their owner is the peer's address. A request that the Budget refuses goes to
	// net/http, which refuses it. Default: no limit.
	Budget *limit.Budget

	Logger *slog.Logger // default: discard
}
