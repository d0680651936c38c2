package stream

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/internal/poll"
	"github.com/fanfare-hub/fanfare/sse"
)

// machine decides what one client gets next. It does no I/O, starts no goroutine, has no lock, and
// decides by no clock: the goroutine that runs the stream tells it the time. A round goes like
// this:
//
//  1. next makes the pieces that the client gets now, out of the subscriber's turn from memory, or
//     out of a turn that was read from the log, and says how the stream goes on.
//  2. The runner writes the pieces, as far as the socket takes them.
//  3. advance tells the machine how much is certain to go out, and moves the cursor by that. Frames
//     that were not begun are in the next turn again.
//
// A heartbeat is decided in wantsSign, the end in mustEnd; next tells of a gap that the hub has
// found; machine_text.go writes them down. While a read of the log is under way, the runner writes
// the sign of life. A runner with a goroutine has a timer for the end of the caller's rights
// besides.
type machine struct {
	// Fixed before it runs.
	sub     *hub.Subscriber
	manner  Manner                     // its heartbeat is set
	may     func(fanfare.Channel) bool // see Request.May
	ends    poll.Instant               // the end of its lifetime, or never
	expires poll.Instant               // when the caller's rights end, or never

	// Told by any goroutine.
	probed atomic.Bool // a sign of life is wanted now
	cut    cause       // nothing more may be sent

	// Owned by the goroutine that runs the stream.
	standing
}

// standing is the state that a machine keeps of its client: what was sent, and what it waits for.
type standing struct {
	chunked bool         // pieces go out as chunks of HTTP/1.1; fixed before it runs
	opened  bool         // Manner.First has told the start position
	retry   bool         // `retry:` has not been sent yet
	leaving bool         // the last turn has been taken
	failed  bool         // its start could not be found
	reading bool         // a turn is being read from the log
	unread  poll.Instant // the log could not be read: it is not asked again before
	wrote   poll.Instant
	firstID fanfare.Position
	lastID  fanfare.Position
}

// house is the state that all machines of a Streams share.
type house struct {
	timeOfDay func() time.Time     // for texts
	comeBack  func() time.Duration // when a client that is sent away is to come back
}

// verdict says how a stream goes on when the pieces that next has made have been sent.
type verdict int

const (
	waits verdict = iota // until it is woken, or due
	again                // with another turn, at once
	reads                // no pieces were made: the next events must be read from the log
	ends                 // it has ended, for work.reason
)

// work holds the pieces that next makes for a stream. A goroutine has one for all of its streams.
type work struct {
	house    *house
	turn     hub.Turn // not of a read
	prefix   []byte   // leaves before the frames, as it is on the wire
	text     []byte   // scratch
	withheld int      // replayed events that the caller may not hear
	reason   EndReason
}

// say adds a text that leaves before the frames.
func (w *work) say(m *machine, text []byte) {
	w.text = text[:0]
	if m.chunked {
		w.prefix = sse.AppendChunk(w.prefix, text)
	} else {
		w.prefix = append(w.prefix, text...)
	}
}

// next makes the stream's next pieces: w.prefix, then the frames of t. t is &w.turn, which it fills
// from memory, or, with fetched, a turn that was read from the log. It moves no cursor: advance
// does.
func (m *machine) next(w *work, t *hub.Turn, fetched bool, now poll.Instant) verdict {
	w.prefix, w.withheld = w.prefix[:0], 0
	reason := m.mustEnd(now)
	if m.cut.get() != goesOn {
		// Also when rights have ended while the turn was fetched (P8).
		nothing(t, m.sub.Position())
		return m.cutShort(w, reason)
	}
	if reason != goesOn && m.leaving {
		nothing(t, m.sub.Position())
		return m.goodbye(w, t, reason)
	}
	if !fetched && !m.sub.Next(t) {
		if reason == goesOn {
			return reads
		}
		nothing(t, m.sub.Position()) // it ends with the events that it has been sent
	}
	w.withheld = m.withhold(t)
	if t.Opens {
		m.opens(w, t.Begins)
	}
	if t.Gap != nil {
		w.say(m, m.appendGap(w.text[:0], t.Gap))
	}
	switch {
	case len(t.Frames) > 0:
		if m.retry {
			m.retry = false
			w.say(m, appendRetry(w.text[:0], retryTime()))
		}
		if m.manner.Envelope {
			envelop(t.Frames)
		}
	case len(w.prefix) > 0:
	case reason != goesOn:
		return m.goodbye(w, t, reason)
	case m.wantsSign(now):
		m.signOfLife(w, t.Through)
	}
	m.leaving = reason != goesOn
	if t.More || m.leaving {
		return again
	}
	return waits
}

func nothing(t *hub.Turn, at fanfare.Position) {
	clear(t.Frames)
	t.Opens, t.Gap, t.Frames, t.After, t.Through, t.More = false, nil, t.Frames[:0], at, at, false
}

// withhold removes from the turn the events, read from the log, that the caller may not hear (P8),
// and returns how many there were. A stream's patterns were checked when it opened, so withhold
// finds such an event only if the hub has a fault; it is the last check before the wire.
func (m *machine) withhold(t *hub.Turn) (withheld int) {
	if m.may == nil {
		return 0
	}
	kept := t.Frames[:0]
	for _, f := range t.Frames {
		if f.Heard == 0 && !m.may(f.Channel) {
			withheld++
			continue
		}
		kept = append(kept, f)
	}
	clear(t.Frames[len(kept):])
	t.Frames = kept
	return withheld
}

// advance says that the prefix and the first frames of a turn are certain to go out. It moves the
// cursor.
func (m *machine) advance(w *work, t *hub.Turn, frames int, now poll.Instant) {
	if len(w.prefix) > 0 || frames > 0 {
		m.wrote = now
	}
	at, more := t.Through, t.More
	if frames < len(t.Frames) {
		at, more = t.After, true
	}
	if frames > 0 {
		m.lastID = t.Frames[frames-1].Position
		if frames < len(t.Frames) {
			at = m.lastID
		}
	}
	m.sub.Advance(at, more)
}

// end has the stream end before its next event; the first reason counts, and false says that there
// was one. Any goroutine may call it.
func (m *machine) end(reason EndReason) bool { return m.cut.set(reason) }

// mustEnd says why the stream has to end, or that it goes on. It notes that the caller's rights
// have ended, when they have.
func (m *machine) mustEnd(now poll.Instant) EndReason {
	if m.expires.Reached(now) {
		m.end(EndExpired)
	}
	switch cut := m.cut.get(); {
	case cut != goesOn:
		return cut
	case m.failed:
		return EndFailed
	case m.sub.Ending():
		return EndDrain
	case m.ends.Reached(now):
		return EndLifetime
	}
	return goesOn
}

// due is when the stream has something to do though nothing wakes it.
func (m *machine) due() poll.Instant {
	return m.wrote.Add(m.manner.Heartbeat).Earlier(m.ends).Earlier(m.expires)
}

// wantsSign tells whether a stream without events to send owes its client a sign of life, or
// whether a newcomer with the same ticket waits to see if its peer is there.
func (m *machine) wantsSign(now poll.Instant) bool {
	return now.Sub(m.wrote) >= m.manner.Heartbeat || (m.probed.Load() && m.probed.Swap(false))
}

// readAgain is how long a stream waits before it asks a log again that could not be read.
const readAgain = time.Second

// awaitsRead tells whether the stream can do nothing but give signs of life: a read is under way,
// or the log could not be read a moment ago. A stream that must end waits for neither: its read is
// cancelled. read says that a read has just come.
func (m *machine) awaitsRead(read bool, now poll.Instant) bool {
	reason := m.mustEnd(now)
	if m.reading && reason != goesOn && m.sub.CancelRead() {
		m.reading = false
	}
	return m.reading || (!read && m.unread > now && reason == goesOn)
}

// readFailed notes that the log could not be read. A stream that has begun asks again, and loses
// nothing. One that is still looking for its start ends, and its client comes back, perhaps to
// another hub: then it returns true.
func (m *machine) readFailed(err error, now poll.Instant) (ends bool) {
	switch {
	case errors.Is(err, context.Canceled): // it was taken back
	case m.sub.Opened():
		m.unread = now.Add(readAgain)
	default:
		m.failed = true
	}
	return m.failed
}

// piece is a frame as it goes out on the connection.
func (m *machine) piece(f *hub.Frame) []byte {
	if m.chunked {
		return f.Chunk
	}
	return f.Body
}
