package hub

import (
	"time"

	"github.com/fanfare-hub/fanfare"
)

// From says how a subscriber chooses its start.
type From int

// The ways to start.
const (
	FromNewest    From = iota // hear what comes
	FromAll                   // everything retained first
	FromLast                  // the last Start.Last events first
	FromSince                 // the events of Start.Since and later first
	FromAfter                 // resume after Start.After
	FromUnknown               // resume after something that is not a position: everything retained, and a gap
	FromLatest                // the newest event of each channel first
	FromForgotten             // resume after a position that nobody knows any more: as FromUnknown
)

// Start is where a subscriber asks to start.
type Start struct {
	From      From
	After     fanfare.Position // with FromAfter
	Last      int              // with FromLast
	Since     time.Time        // with FromSince
	Age       time.Duration    // with FromSince, instead of Since: the events that were stored at most so long ago
	Requested string           // with FromUnknown and FromForgotten: what was asked for
	Owner     string           // whose turn it is when many catch up; see Hub.Replay
	Conflate  bool             // where it lags it wants only the newest event of each channel
	GapReplay time.Duration    // after a gap replay only events younger than this; 0: all
}

// Subscribe adds a subscriber to patterns, each of which is there once, and whose waker is told
// from now on. It does not block, and does not read the log: where that is needed to find the
// start, the subscriber's first turns do it. Errors: CodeOverloaded when there is no room,
// CodeUnavailable while draining.
func (h *Hub) Subscribe(patterns []fanfare.Pattern, start Start, w Waker) (*Subscriber, error) {
	if err := h.admit(); err != nil {
		return nil, err
	}
	if start.From == FromLatest && !h.states.grow(0) {
		h.release()
		return nil, h.states.full()
	}
	s := &Subscriber{hub: h, waker: w, owner: start.Owner, conflate: start.Conflate}
	s.start(patterns, start)
	h.mu.Lock()
	defer h.mu.Unlock()
	s.refs = make([]ref, 0, len(patterns))
	for _, p := range patterns {
		s.refs = append(s.refs, h.joinLocked(p, s))
	}
	s.joined = h.appended
	s.index = len(h.subs)
	h.subs = append(h.subs, s)
	s.ending.Store(h.draining) // Drain may have looked before this one was there
	return s, nil
}

// start sets the cursor, and says what has to be found out.
func (s *Subscriber) start(patterns []fanfare.Pattern, start Start) {
	if start.From == FromNewest {
		s.cursor.set(s.hub.log.Status().Durable)
		s.opened.Store(true)
		return
	}
	s.opening = &opening{patterns: patterns, start: start, left: start.Last, since: start.Since, age: start.Age}
	switch start.From {
	case FromAfter:
		s.opening.known = true
		s.asked = start.After
		s.cursor.set(start.After)
	case FromUnknown:
		s.opening.known = true
	}
}

// Begins is the position that a client is to be told first, so that one that hears nothing else
// loses nothing; false while it has to be looked for: then the first turn that has something to
// send says it.
func (s *Subscriber) Begins() (fanfare.Position, bool) {
	switch {
	case s.pending != nil:
		return s.pending.position, true
	case s.opening != nil && !s.opening.known:
		return 0, false
	}
	return s.cursor.get(), true
}

// Opened tells whether the subscriber has found its start, and said so in a turn that was sent.
// Before that, its position says nothing that a client may be told. It may be called from any
// goroutine.
func (s *Subscriber) Opened() bool { return s.opened.Load() }
