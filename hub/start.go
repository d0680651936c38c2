package hub

import (
	"context"
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
	FromForgotten             // resume after a position that nobody knows any more: as FromUnknown
)

// Start is where a subscriber asks to start.
type Start struct {
	From      From
	After     fanfare.Position // with FromAfter
	Last      int              // with FromLast
	Since     time.Time        // with FromSince
	Age       time.Duration    // with FromSince, instead of Since: the events that were stored at most so long ago
	Requested string           // with FromUnknown: what was asked for
	Owner     string           // whose turn it is when many catch up; see Hub.Replay
	GapReplay time.Duration    // after a gap replay only events younger than this; 0: all
}

// Opening is where a subscriber really starts.
type Opening struct {
	Position fanfare.Position // to be told the client first, so that one that hears nothing else loses nothing
	Gap      *Gap             // to be told next; nil for none
}

// Complete is the position up to which a subscriber who hears nothing has everything; 0 when nobody knows one.
func (o Opening) Complete() fanfare.Position {
	if o.Gap != nil && o.Gap.Reason == fanfare.GapForgotten {
		return 0 // not Position: who has not heard of the gap must be told again (P4)
	}
	return o.Position
}

// Gap tells a subscriber that events may be missing (P4).
type Gap struct {
	Requested string           // the position asked for
	Oldest    fanfare.Position // the first event that follows, or the position that the next event will get
	Reason    fanfare.GapReason
}

// Subscribe adds a subscriber, whose waker is told from now on. It may read the log. Errors: CodeOverloaded when there is
// no room, CodeUnavailable while draining or when the log cannot be read.
func (h *Hub) Subscribe(ctx context.Context, patterns []fanfare.Pattern, start Start, w Waker) (*Subscriber, Opening, error) {
	if err := h.admit(); err != nil {
		return nil, Opening{}, err
	}
	s := &Subscriber{hub: h, waker: w, owner: start.Owner}
	opening, err := s.open(ctx, patterns, start)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.releaseLocked()
		return nil, Opening{}, err
	}
	s.refs = make([]ref, 0, len(patterns))
	for i, p := range patterns {
		if !known(patterns[:i], p) {
			s.refs = append(s.refs, h.joinLocked(p, s))
		}
	}
	s.joined = h.appended
	s.index = len(h.subs)
	h.subs = append(h.subs, s)
	s.ending.Store(h.draining) // Drain may have looked before this one was there
	return s, opening, nil
}

func known(patterns []fanfare.Pattern, p fanfare.Pattern) bool {
	for _, other := range patterns {
		if other == p {
			return true
		}
	}
	return false
}

// open sets the cursor. A new stream that asks for no replay does not touch the log, so that it can start while the log
// has failed.
func (s *Subscriber) open(ctx context.Context, patterns []fanfare.Pattern, start Start) (Opening, error) {
	if start.From == FromNewest {
		s.cursor.set(s.hub.log.Status().Durable)
		return Opening{Position: s.cursor.get()}, nil
	}
	if err := s.hub.replays.enter(ctx, s.owner); err != nil {
		return Opening{}, err
	}
	defer s.hub.replays.leave()
	place := fanfare.Place{Patterns: patterns}
	switch start.From {
	case FromLast:
		place.Last = start.Last
	case FromSince:
		place.Since, place.Age = start.Since, start.Age
	case FromAfter:
		place.After = start.After
	}
	loc, err := s.hub.log.Locate(ctx, place)
	if err != nil {
		return Opening{}, err
	}
	s.told = loc.Trimmed
	s.cursor.set(loc.First - 1)
	switch start.From {
	case FromAll, FromLast, FromSince:
		if loc.Disordered {
			s.since, s.sinceThrough = start.Since.UnixNano(), loc.Durable
		}
		return Opening{Position: s.cursor.get()}, nil
	case FromUnknown:
		loc.Reason = fanfare.GapUnknown
	case FromForgotten:
		loc.Reason = fanfare.GapForgotten
	default:
		start.Requested = start.After.String()
	}
	opening := Opening{Position: place.After}
	if loc.Reason == "" {
		s.cursor.set(place.After) // not First-1: a position is complete up to where the client says
		return opening, nil
	}
	if start.GapReplay > 0 {
		place.Age = start.GapReplay // by the log's clock: the times of events are no measure of their age
		if loc.Reason == fanfare.GapFuture {
			place.After = 0
		}
		young, err := s.hub.log.Locate(ctx, place)
		if err != nil {
			return Opening{}, err
		}
		loc.First = young.First
		s.cursor.set(loc.First - 1)
	}
	if loc.Reason == fanfare.GapForgotten {
		opening.Position = loc.First - 1 // there is no position that was asked for
	}
	opening.Gap = &Gap{Requested: start.Requested, Oldest: loc.First, Reason: loc.Reason}
	return opening, nil
}
