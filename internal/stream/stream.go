package stream

import (
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/internal/poll"
)

// Stream is one response on its way, from admission to its end. It is one allocation for the three
// rooms of the package: the fields of admission, its machine, and the fields of its runner.
type Stream struct {
	// Fixed before it runs.
	streams *Streams
	adapter *adapter
	caller  caller.Caller
	id      uint64
	began   poll.Instant
	owned   uint32 // see Request.Owned

	place uint32 // in registry.open, from 1 on; 0: not there; guarded by registry.mu

	runner        atomic.Pointer[runner] // nil before it runs
	events, bytes atomic.Uint64          // handed to the kernel, the last one perhaps in part

	live *Live // nil without a watcher

	machine
	detached
}

// A runner asks the machine and sends its pieces: a goroutine of the stream's own, or a shard,
// which serves many.
type runner interface {
	wake(*Stream) // there may be something to do; from any goroutine
	stop(*Stream) // it must end soon, also when its peer takes nothing; from any goroutine
}

// Wake implements hub.Waker. A stream that does not run yet needs no wake-up: it begins with a
// turn.
func (st *Stream) Wake() {
	if r := st.runner.Load(); r != nil {
		(*r).wake(st)
	}
}

// Owner implements hub.Waker.
func (st *Stream) Owner() string { return st.caller.Owner() }

// endNow has the stream end before its next event; the first reason counts, and false says that
// there was one. A peer that takes nothing is cut soon after. It may be called from any goroutine,
// and does not block.
func (st *Stream) endNow(reason EndReason) bool {
	if !st.end(reason) {
		return false
	}
	if r := st.runner.Load(); r != nil {
		(*r).stop(st)
	}
	return true
}

// gather asks the machine for the next pieces (machine.next), and notes them with Live before they
// leave. Runners call it.
func (st *Stream) gather(w *work, t *hub.Turn, fetched bool, now poll.Instant) verdict {
	v := st.next(w, t, fetched, now)
	if w.withheld > 0 {
		st.streams.noteWithheld(w.withheld)
	}
	if v == ends {
		if w.reason == EndReplaced {
			st.streams.tickets.pushedOut(st)
		}
		st.live.settled()
	}
	return v
}

// sent says that gathered frames are certain to leave: all of them, or the first ones. A peer may
// have a frame, and be gone, before the write returns, so Live was told before, by sending.
func (st *Stream) sent(w *work, t *hub.Turn, frames int, now time.Time) {
	if frames < len(t.Frames) {
		st.live.unsent(st, t.Frames[frames:])
	}
	st.count(t.Frames[:frames], now)
	st.advance(w, t, frames, st.streams.clock.At(now))
	if frames > 0 {
		st.live.changed()
	}
}

// count counts the frames that were sent. The delay is that of a turn's first live event: one
// observation a turn is enough.
func (st *Stream) count(frames []hub.Frame, now time.Time) {
	if len(frames) == 0 {
		return
	}
	bytes, replayed, live := 0, 0, uint64(0)
	var heard hub.Stamp
	for i := range frames {
		f := &frames[i]
		n := len(st.piece(f))
		bytes += n
		if f.Heard == 0 {
			replayed += n
			continue
		}
		if f.Trace != nil && st.streams.o.Step != nil && f.Trace.First.CompareAndSwap(false, true) {
			st.streams.o.Step(f.Trace.Parent, "first delivery", f.Heard.Time(), now)
		}
		if live++; heard == 0 {
			heard = f.Heard
		}
	}
	st.events.Add(uint64(len(frames)))
	st.bytes.Add(uint64(bytes))
	counts := &st.streams.counts
	counts.delivered.Add(uint64(len(frames)))
	counts.deliveredBytes.Add(uint64(bytes))
	if replayed > 0 {
		counts.replayed.Add(uint64(len(frames)) - live)
		counts.replayedBytes.Add(uint64(replayed))
	}
	if live > 0 {
		counts.delivery.ObserveN(now.Sub(heard.Time()), live)
	}
}

// noteReadFailed is machine.readFailed, and says in the log that the stream ends.
func (st *Stream) noteReadFailed(err error, now poll.Instant) {
	if st.readFailed(err, now) {
		st.streams.o.Logger.Warn("a stream ends, because the log cannot be read to find where it starts",
			slog.String("remote", st.caller.Remote()), slog.Any("err", err))
	}
}

// fetched is a turn that was read from the log. It has to be released.
type fetched struct {
	turn *hub.Turn
	err  error
}

func (st *Stream) channels() (texts []string) {
	for _, p := range st.sub.Patterns() {
		texts = append(texts, p.String())
	}
	return texts
}
