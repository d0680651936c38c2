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
	stepMissed step = iota // which trim marks there are, and, of a resume, whether events are missing
	stepLast               // where the last events begin
	stepState              // which events are the state
	stepFirst              // which event is the first to follow
)

// starting holds the fields that a subscriber needs until it follows new events: until its start is
// found and told, and the events that it starts with are sent. A subscriber that starts with new
// events has none, unless it has joined in the middle of a commit.
type starting struct {
	// Fixed after Subscribe.
	asked  fanfare.Position // the position that the client resumes after; 0: none
	joined fanfare.Position // the log was durable up to here when the filters were joined

	// Owned as Subscriber.starting is.
	opening      *opening         // the search; nil when the start is found
	pending      *beginning       // the start that was found; nil before, and when the client has been told it
	state        *state           // the events that are sent before all others; nil for most subscribers
	since        Stamp            // events with a time before this are not replayed
	sinceThrough fanfare.Position // later positions are no replay: their events are sent whatever their times
}

// searches tells whether the start has to be looked for.
func (b *starting) searches() bool { return b != nil && b.opening != nil }

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

// opening is the search of a subscriber that has not found its start.
type opening struct {
	patterns []fanfare.Pattern
	start    Start
	known    bool // the position to begin with is the one asked for

	step    step
	durable fanfare.Position // when the search began: what follows is no replay
	token   string           // with stepMissed
	at      fanfare.Position // how far the search has come, down or up
	left    int              // with stepLast: how many are to be found
	first   fanfare.Position // with stepLast: the oldest that was found
	since   time.Time        // with stepFirst: events with an earlier time are passed over
	age     time.Duration    // with stepFirst: those that were stored longer ago are
	gap     *fanfare.Gap     // to be told
}

// search does the next piece of the search, or several short ones; true when the start is found.
func (s *Subscriber) search(ctx context.Context) (found bool, err error) {
	for s.starting.searches() {
		before := s.starting.opening.step
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
		if err != nil || (s.starting.searches() && s.starting.opening.step == before) {
			return false, err
		}
	}
	return true, nil
}

// askMissed asks for the trim marks that there are: a replay tells no gap because of those. Whoever
// resumes asks for more.
func (s *Subscriber) askMissed(ctx context.Context) error {
	o := s.starting.opening
	a := fanfare.Absence{Patterns: o.patterns, Token: o.token, Newest: s.conflate}
	if o.start.From == FromAfter {
		a.After = o.start.After
	}
	loss, err := s.hub.log.Missed(ctx, a)
	if err != nil {
		return err
	}
	if o.token == "" {
		o.durable, s.told = loss.Durable, loss.Trimmed
	}
	if o.token = loss.Token; o.token != "" {
		return nil
	}
	switch o.start.From {
	case FromAfter:
		s.resume(loss.Reason, o.start.After.String())
	case FromUnknown:
		s.resume(fanfare.GapUnknown, o.start.Requested)
	case FromForgotten:
		s.resume(fanfare.GapForgotten, o.start.Requested)
	case FromLast:
		o.step, o.at = stepLast, o.durable
	case FromLatest:
		o.step = stepState
	default:
		o.step = stepFirst
		if !o.since.IsZero() {
			s.starting.since = StampOf(o.since.Add(time.Microsecond - 1)) // not before it
			// where the clock went back, older ones may follow the first
			s.starting.sinceThrough = o.durable
		}
	}
	return nil
}

// resume goes on after the position asked for, or, with a gap, at the first event that there is.
func (s *Subscriber) resume(reason fanfare.GapReason, requested string) {
	o := s.starting.opening
	if reason == "" {
		s.told = 0 // no mark is above the position; those that come there are news
		s.found(o.start.After)
		return
	}
	o.gap = &fanfare.Gap{Requested: requested, Reason: reason}
	o.step, o.at = stepFirst, o.start.After
	if reason == fanfare.GapFuture {
		o.at = 0
	}
	o.age = o.start.GapReplay // by the log's clock: the times of events are no measure of their age
}

func (s *Subscriber) askLast(ctx context.Context) error {
	o := s.starting.opening
	past, err := s.hub.log.Last(ctx, fanfare.Recent{Patterns: o.patterns, Count: o.left, Through: o.at})
	if err != nil {
		return err
	}
	if past.Count > 0 {
		o.first = past.First
		o.left -= past.Count
	}
	switch o.at = past.From; {
	case o.left > 0 && o.at > 0:
	case o.first > 0:
		s.found(o.first - 1)
	default:
		s.found(o.durable)
	}
	return nil
}

func (s *Subscriber) askFirst(ctx context.Context) error {
	o := s.starting.opening
	if o.at >= o.durable {
		s.found(o.durable)
		return nil
	}
	q := fanfare.Query{Patterns: o.patterns, After: o.at, Through: o.durable, Since: o.since, Age: o.age, Limit: 1,
		Bytes: 1}
	page, err := s.hub.log.Read(ctx, q)
	if err != nil {
		return err
	}
	o.at = page.Through
	if len(page.Events) > 0 {
		s.found(page.Events[0].Position - 1)
	} else if o.at >= o.durable {
		s.found(o.durable)
	}
	return nil
}

// found ends the search: the subscriber goes on after a position.
func (s *Subscriber) found(at fanfare.Position) {
	o := s.starting.opening
	begins := at
	if o.known {
		begins = o.start.After
	}
	if o.gap != nil {
		o.gap.Oldest = at + 1
	}
	s.cursor.set(at)
	s.starting.opening, s.starting.pending = nil, &beginning{begins, o.gap}
}

// beginning is what the first turn tells of: the position that the client is told first, and a gap,
// or nil.
type beginning struct {
	position fanfare.Position
	gap      *fanfare.Gap
}
