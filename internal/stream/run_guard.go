package stream

import (
	"sync"
	"time"
)

// guard watches the writes of a wire: a write during which the peer takes no bytes for the stall
// limit fails. The guard asks for the taken bytes only when a write has waited for a while, so that
// a write which does not wait costs a timer that is set and stopped. (A deadline of the write would
// not do: over TLS one that has passed ends the connection, and over HTTP/2 the stream, however
// slowly the peer was reading.)
type guard struct {
	stall time.Duration
	taken func() int64 // rises as the peer takes something; nil: not known, and a write must end within the limit
	abort func()       // has the write fail; it does not block

	mu      sync.Mutex // guards the fields below
	timer   *time.Timer
	writing bool
	asked   bool
	last    int64     // the last answer of taken
	since   time.Time // when the peer was last seen to take something, or the write began
	stalled bool
}

// looks is how often in the stall limit the guard looks.
const looks = 10

// begin comes before a write.
func (g *guard) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.writing, g.asked, g.since = true, false, time.Now()
	if g.timer == nil {
		g.timer = time.AfterFunc(g.stall/looks, g.look)
		return
	}
	g.timer.Reset(g.stall / looks)
}

// end comes after a write. It is true when the guard has had it fail. No look is under way any
// more.
func (g *guard) end() (stalled bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.writing = false
	if g.timer != nil {
		g.timer.Stop()
	}
	return g.stalled
}

// look runs in a goroutine of the timer's.
func (g *guard) look() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.writing || g.stalled {
		return
	}
	if g.taken != nil {
		if now := g.taken(); !g.asked || now > g.last {
			g.asked, g.last, g.since = true, now, time.Now()
		}
	}
	if time.Since(g.since) >= g.stall {
		g.stalled = true
		g.abort()
		return
	}
	g.timer.Reset(g.stall / looks)
}
