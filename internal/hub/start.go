package hub

import (
	"time"

	"github.com/fanfare-hub/fanfare"
)

// From says how a subscriber chooses its start.
type From int

// The ways to start.
const (
	FromNewest    From = iota // only events that come after the start
	FromAll                   // all retained events first
	FromLast                  // the last Start.Last events first
	FromSince                 // the events of Start.Since and later first
	FromAfter                 // resume after Start.After
	FromUnknown               // resume after a text that is not a position: a gap, and all retained events
	FromLatest                // the newest event of each channel first
	FromForgotten             // resume after a kept position that was forgotten: a gap, and all retained events
)

// Start is where a subscriber asks to start.
type Start struct {
	From      From
	After     fanfare.Position // with FromAfter
	Last      int              // with FromLast
	Since     time.Time        // with FromSince
	Age       time.Duration    // with FromSince, instead of Since: events stored no longer ago than this
	Requested string           // with FromUnknown and FromForgotten: the text that the client asked for
	Conflate  bool             // where the subscriber lags, it wants only the newest event of each channel
	GapReplay time.Duration    // after a gap, replay only events younger than this; 0: all
}

// Subscribe adds a subscriber to patterns, in which none may occur twice. The hub wakes w from now
// on. Subscribe does not block, and does not read the log: if the search for the start has to, the
// subscriber's first turns do it. Errors: CodeOverloaded when there is no room, CodeUnavailable
// while the hub drains. The caller must close the subscriber.
func (h *Hub) Subscribe(patterns []fanfare.Pattern, start Start, w Waker) (*Subscriber, error) {
	if err := h.admit(); err != nil {
		return nil, err
	}
	if start.From == FromLatest && !h.states.room() {
		h.release()
		return nil, h.states.full()
	}
	s := &Subscriber{hub: h, waker: w, conflate: start.Conflate}
	s.start(patterns, start)
	h.mu.Lock()
	defer h.mu.Unlock()
	s.refs = make([]ref, 0, len(patterns))
	for _, p := range patterns {
		s.refs = append(s.refs, h.joinLocked(p, s))
	}
	s.join(h.appended)
	s.index = len(h.subs)
	h.subs = append(h.subs, s)
	s.ending.Store(h.draining) // Drain may have copied h.subs already
	return s, nil
}

// start sets the cursor if the start is known; otherwise it prepares the search for it.
func (s *Subscriber) start(patterns []fanfare.Pattern, start Start) {
	if start.From == FromNewest {
		s.cursor.set(s.hub.log.Status().Durable)
		s.opened.Store(true)
		return
	}
	search := &startSearch{patterns: patterns, start: start, left: start.Last, since: start.Since, age: start.Age}
	s.starting = &starting{search: search}
	switch start.From {
	case FromAfter:
		search.known = true
		s.starting.asked = start.After
		s.cursor.set(start.After)
	case FromUnknown:
		search.known = true
	}
}

// join notes the log's durable position when the filters were joined. The subscriber needs it only
// until the hub has moved its own durable position there.
func (s *Subscriber) join(appended fanfare.Position) {
	if appended <= s.hub.Durable() {
		return
	}
	if s.starting == nil {
		s.starting = new(starting)
	}
	s.starting.joined = appended
}

// Begins returns the position that the client is told before anything else, so that a client that
// hears nothing else can still resume. It returns false while the search for the start has not
// found it; then the first turn with something to send has it (Turn.Begins).
func (s *Subscriber) Begins() (fanfare.Position, bool) {
	switch b := s.starting; {
	case b == nil:
	case b.pending != nil:
		return b.pending.position, true
	case b.search != nil && !b.search.known:
		return 0, false
	}
	return s.cursor.get(), true
}

// Opened tells whether the subscriber has found its start, and the turn that tells of it was sent.
// Before that, the client must not be told the subscriber's position. It may be called from any
// goroutine.
func (s *Subscriber) Opened() bool { return s.opened.Load() }
