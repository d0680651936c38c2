package stream

import "sync/atomic"

// EndReason says why a stream ends. It takes a byte, since each stream has two of them.
type EndReason uint8

// The reasons.
const (
	goesOn EndReason = iota // it does not end

	EndLifetime // its lifetime has ended
	EndDrain    // the hub shuts down
	EndGone     // the peer closed the connection, or vanished
	EndStalled  // the peer took nothing for StallLimit
	EndFlood    // the peer kept sending bytes after its request
	EndFailed   // the stream could not start

	EndExpired      // the token has expired (P8)
	EndRevoked      // the token, key or subject was revoked
	EndDisconnected // an operator wanted it
	EndReplaced     // a newer stream was opened with the same ticket
)

var endReasons = [...]string{
	EndLifetime:     "lifetime",
	EndDrain:        "drain",
	EndGone:         "gone",
	EndStalled:      "stalled",
	EndFlood:        "flood",
	EndFailed:       "failed",
	EndExpired:      "expired",
	EndRevoked:      "revoked",
	EndDisconnected: "disconnected",
	EndReplaced:     "replaced",
}

// String returns the reason's name, which is a metric's label.
func (r EndReason) String() string { return endReasons[r] }

// cause is a reason that any goroutine may set. The first one counts.
type cause struct{ reason atomic.Uint32 }

func (c *cause) get() EndReason { return EndReason(c.reason.Load()) }

// set reports whether it was the first.
func (c *cause) set(r EndReason) bool { return c.reason.CompareAndSwap(uint32(goesOn), uint32(r)) }
