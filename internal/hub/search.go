package hub

import (
	"context"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// A subscriber that asks for more than new events has to search the log for its start. It does so
// in pieces, and needs a permit for each, which other owners may get before it has the next one. So
// the head of its stream leaves before the search, the search ends when its stream does, and a
// search through a million events holds up no other owner. A search has two or three of these
// steps, in this order.
type step int

const (
	stepMissed step = iota // ask for the trim marks and, of a resume, for missed events
	stepLast               // find the first of the last events
	stepState              // find the events of the state
	stepFirst              // find the first event that follows
)

// starting holds the fields that a subscriber needs until it follows new events: until its start is
// found and told, and the events that it starts with are sent. A subscriber that starts with new
// events has none, unless it has joined in the middle of a commit.
type starting struct {
	// Fixed after Subscribe.
	asked  fanfare.Position // the position that the client resumes after; 0: none
	joined fanfare.Position // the log was durable up to here when the filters were joined

	// Owned as Subscriber.starting is.
	search       *startSearch     // nil when the start is found
	pending      *foundStart      // the start that was found; nil before, and when the client has been told it
	state        *state           // the events that are sent before all others; nil for most subscribers
	since        Stamp            // events with a time before this are not replayed
	sinceThrough fanfare.Position // later positions are no replay: their events are sent whatever their times
}

// searches tells whether the start has to be looked for.
func (b *starting) searches() bool { return b != nil && b.search != nil }

// dated tells whether the times of the next events decide if they are sent. Only the log knows
// times.
func (s *Subscriber) dated() bool {
	return s.starting != nil && s.cursor.get() < s.starting.sinceThrough
}

// advanceStart is the part of Advance for a subscriber that does not follow new events yet.
func (s *Subscriber) advanceStart() {
	b := s.starting
	if b.state != nil && !s.inState() {
		s.endState()
	}
	if b.pending != nil {
		b.pending = nil
		s.opened.Store(true)
	}
	if s.opened.Load() && b.state == nil && s.cursor.get() >= max(b.joined, b.sinceThrough) {
		s.starting = nil
	}
}

// startSearch is the search of a subscriber for its start.
type startSearch struct {
	patterns []fanfare.Pattern
	start    Start
	known    bool // the client is told start.After first, whatever the search finds

	step    step
	durable fanfare.Position // the durable position when the search started; later events are no replay
	token   string           // with stepMissed: where the next piece goes on
	at      fanfare.Position // the position that the search has reached, going down or up
	left    int              // with stepLast: the number of events that are still to be found
	first   fanfare.Position // with stepLast: the oldest event that was found
	since   time.Time        // with stepFirst: events with an earlier time are skipped
	age     time.Duration    // with stepFirst: events stored longer ago are skipped
	gap     *fanfare.Gap     // the gap that the client is to be told of; nil for none
}

// search does the next piece of the search, or several short ones. It returns true when the start
// is found.
func (s *Subscriber) search(ctx context.Context) (found bool, err error) {
	for s.starting.searches() {
		before := s.starting.search.step
		switch before {
		case stepMissed:
			err = s.askMissed(ctx)
		case stepLast:
			err = s.askLast(ctx)
		case stepState:
			err = s.askState(ctx)
		case stepFirst:
			err = s.askFirst(ctx)
		}
		if err != nil || (s.starting.searches() && s.starting.search.step == before) {
			return false, err
		}
	}
	return true, nil
}

// askMissed asks the log for the trim marks: a replay tells no gap because of marks that are there
// when it starts. A subscriber that resumes also asks whether it has missed events.
func (s *Subscriber) askMissed(ctx context.Context) error {
	search := s.starting.search
	a := fanfare.Absence{Patterns: search.patterns, Token: search.token, Newest: s.conflate}
	if search.start.From == FromAfter {
		a.After = search.start.After
	}
	loss, err := s.hub.log.Missed(ctx, a)
	if err != nil {
		return err
	}
	if search.token == "" {
		search.durable, s.told = loss.Durable, loss.Trimmed
	}
	if search.token = loss.Token; search.token != "" {
		return nil
	}
	switch search.start.From {
	case FromAfter:
		s.resume(loss.Reason, search.start.After.String())
	case FromUnknown:
		s.resume(fanfare.GapUnknown, search.start.Requested)
	case FromForgotten:
		s.resume(fanfare.GapForgotten, search.start.Requested)
	case FromLast:
		search.step, search.at = stepLast, search.durable
	case FromLatest:
		search.step = stepState
	default:
		search.step = stepFirst
		if !search.since.IsZero() {
			s.starting.since = StampOf(search.since.Add(time.Microsecond - 1)) // rounded up
			// Where the clock went back, events with an earlier time may follow the first one.
			s.starting.sinceThrough = search.durable
		}
	}
	return nil
}

// resume goes on after the position that the client has asked for. If events may be missing
// (reason), it goes on with a gap, at the first event that there is.
func (s *Subscriber) resume(reason fanfare.GapReason, requested string) {
	search := s.starting.search
	if reason == "" {
		s.told = 0 // no trim mark is above the position, so the client must be told of one that comes there
		s.found(search.start.After)
		return
	}
	search.gap = &fanfare.Gap{Requested: requested, Reason: reason}
	search.step, search.at = stepFirst, search.start.After
	if reason == fanfare.GapFuture {
		search.at = 0
	}
	search.age = search.start.GapReplay // by the log's clock, because the times of events do not tell their age
}

// askLast looks for the start of the last events, from the newest down.
func (s *Subscriber) askLast(ctx context.Context) error {
	search := s.starting.search
	past, err := s.hub.log.Last(ctx, fanfare.Recent{Patterns: search.patterns, Count: search.left, Through: search.at})
	if err != nil {
		return err
	}
	if past.Count > 0 {
		search.first = past.First
		search.left -= past.Count
	}
	switch search.at = past.From; {
	case search.left > 0 && search.at > 0:
	case search.first > 0:
		s.found(search.first - 1)
	default:
		s.found(search.durable)
	}
	return nil
}

// askFirst looks for the first event that the subscriber is to be sent.
func (s *Subscriber) askFirst(ctx context.Context) error {
	search := s.starting.search
	if search.at >= search.durable {
		s.found(search.durable)
		return nil
	}
	q := fanfare.Query{Patterns: search.patterns, After: search.at, Through: search.durable,
		Since: search.since, Age: search.age, Limit: 1, Bytes: 1}
	page, err := s.hub.log.Read(ctx, q)
	if err != nil {
		return err
	}
	search.at = page.Through
	if len(page.Events) > 0 {
		s.found(page.Events[0].Position - 1)
	} else if search.at >= search.durable {
		s.found(search.durable)
	}
	return nil
}

// found ends the search: the subscriber starts after a position.
func (s *Subscriber) found(at fanfare.Position) {
	search := s.starting.search
	tell := at
	if search.known {
		tell = search.start.After
	}
	if search.gap != nil {
		search.gap.Oldest = at + 1
	}
	s.cursor.set(at)
	s.starting.search, s.starting.pending = nil, &foundStart{tell, search.gap}
}

// foundStart is the start that the first turn tells the client: a position, and a gap or nil.
type foundStart struct {
	position fanfare.Position
	gap      *fanfare.Gap
}
