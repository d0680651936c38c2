package stream

import (
	"sync/atomic"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/hub"
	"github.com/fanfare-hub/fanfare/internal/caller"
)

// Stream is one response on its way. Times are in nanoseconds on Streams' clock.
type Stream struct {
	// Fixed before it runs.
	streams   *Streams
	sub       *hub.Subscriber
	adapter   string
	caller    caller.Caller
	owned     int                        // see Request.Owned
	may       func(fanfare.Channel) bool // see Request.May
	watch     Watcher                    // nil: none
	byTicket  *byTicket                  // nil: opened otherwise
	id        uint64
	began     int64 // in nanoseconds since 1970
	heartbeat int64
	ends      int64 // 0: never
	expires   int64 // when the caller's rights end; 0: never
	idle      Idle
	envelope  bool
	farewell  Farewell

	runner        atomic.Pointer[runner]    // nil before it runs
	cut           atomic.Pointer[EndReason] // set by endNow: nothing more may be sent
	events, bytes atomic.Uint64             // handed to the kernel, the last one perhaps in part

	// Owned by the goroutine that runs it.
	chunked bool                               // frames and texts go out as chunks of HTTP/1.1
	first   func(dst []byte, id string) []byte // appends the first event, which has not been told yet; nil: none
	retry   bool                               // `retry:` has not been sent yet
	leaving bool                               // the last turn has been taken
	failed  bool                               // its start could not be found
	reading bool                               // a turn is being read from the log
	unread  int64                              // the log could not be read: it is not asked again before
	wrote   int64
	lastID  fanfare.Position
	live    *Live // nil when nobody watches

	detached
}

// A runner calls gather and sends what comes of it: a goroutine of the stream's own, or a shard, which serves many.
type runner interface {
	wake(*Stream) // there may be something to do; from any goroutine
	stop(*Stream) // it must end soon, also when its peer takes nothing; from any goroutine
}

// Wake implements hub.Waker. A stream that does not run yet needs no wake-up: it begins with a turn.
func (st *Stream) Wake() {
	if r := st.runner.Load(); r != nil {
		(*r).wake(st)
	}
}

// endNow has the stream end before its next event; the first reason counts, and false says that there was one. A peer that takes
// nothing is cut soon after. It may be called from any goroutine, and does not block.
func (st *Stream) endNow(reason EndReason) bool {
	if !st.cut.CompareAndSwap(nil, &reason) {
		return false
	}
	if r := st.runner.Load(); r != nil {
		(*r).stop(st)
	}
	return true
}

// mustEnd says why the stream has to end; "" when it has not.
func (st *Stream) mustEnd(now int64) EndReason {
	if st.expires > 0 && now >= st.expires {
		reason := EndExpired
		st.cut.CompareAndSwap(nil, &reason)
	}
	switch cut := st.cut.Load(); {
	case cut != nil:
		return *cut
	case st.failed:
		return EndFailed
	case st.sub.Ending():
		return EndDrain
	case st.ends > 0 && now >= st.ends:
		return EndLifetime
	}
	return ""
}

// due is when the stream has something to do though nothing wakes it.
func (st *Stream) due() int64 {
	due := st.wrote + st.heartbeat
	if st.ends > 0 {
		due = min(due, st.ends)
	}
	if st.expires > 0 {
		due = min(due, st.expires)
	}
	return due
}

func (st *Stream) channels() (texts []string) {
	for _, p := range st.sub.Patterns() {
		texts = append(texts, p.String())
	}
	return texts
}

// frameBytes is what a frame takes on the connection.
func (st *Stream) frameBytes(f *hub.Frame) int { return len(st.piece(f)) }

func (st *Stream) piece(f *hub.Frame) []byte {
	if st.chunked {
		return f.Chunk
	}
	return f.Body
}
