package hub

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// Waker is the side of a stream that the hub sees: it is told that there may be something to do. Wake is called from any
// goroutine, must not block, and must not call the hub.
type Waker interface{ Wake() }

// A turn is bounded, so that nobody who is far behind keeps a worker, or memory, for long.
const (
	turnFrames = 64
	turnBytes  = 128 << 10
)

// Subscriber is a cursor in the log and a wake-up. All of its methods but those that say otherwise are for one goroutine at
// a time, the stream's.
type Subscriber struct {
	// Fixed after Subscribe.
	hub          *Hub
	patterns     []fanfare.Pattern
	since        time.Time        // events older than this are not replayed
	sinceThrough fanfare.Position // what comes after is no replay, whatever the clock said when it was stored
	waker        Waker
	owner        string           // who waits together when many catch up
	joined       fanfare.Position // the log was durable up to here when the filters were joined

	refs  []ref // guarded by Hub.mu
	index int   // in Hub.subs; guarded by Hub.mu

	// Owned by the stream.
	told fanfare.Position // the trim mark up to which the stream knows that events are gone

	cursor cursor // moved by the stream
	awake  atomic.Bool
	ending atomic.Bool
}

// cursor is a position that others may look at.
type cursor struct{ v atomic.Uint64 }

func (c *cursor) get() fanfare.Position  { return fanfare.Position(c.v.Load()) }
func (c *cursor) set(p fanfare.Position) { c.v.Store(uint64(p)) }

type ref struct {
	f     *filter
	index int // in f.subs
}

// Turn is what a subscriber has to send next. It is reused from turn to turn.
type Turn struct {
	Gap    *Gap    // to be told before the frames; nil for none
	Frames []Frame // by position
	More   bool    // another turn has something to do at once
}

// wake wakes the stream unless it is awake already. It may be called from any goroutine.
func (s *Subscriber) wake() {
	if s.awake.CompareAndSwap(false, true) {
		s.waker.Wake()
	}
}

// Position is up to where the stream is complete: it has been given everything up to here.
func (s *Subscriber) Position() fanfare.Position { return s.cursor.get() }

// Lag is how many positions lie between the subscriber's and the newest, when there is something for it that it has not
// been given yet; 0 otherwise. It may be called from any goroutine.
func (s *Subscriber) Lag() uint64 {
	durable, at := s.hub.Durable(), s.cursor.get()
	if !s.awake.Load() || at >= durable {
		return 0
	}
	return uint64(durable - at)
}

// Ending tells whether the hub wants the stream to end, which it does between two events. It may be called from any
// goroutine.
func (s *Subscriber) Ending() bool { return s.ending.Load() }

// Next fills t with the frames after the cursor, and moves the cursor past them, or, when there is nothing more, to the
// durable position. It may read the log, and so wait for the disk. After an error (CodeUnavailable: the log cannot be read
// at present) the cursor stands where it stood.
func (s *Subscriber) Next(ctx context.Context, t *Turn) error {
	s.awake.Store(false) // before durable is read: a commit after this wakes again
	t.Gap, t.Frames, t.More = nil, t.Frames[:0], false
	durable := s.hub.Durable()
	// Who joined in the middle of a commit is not woken for it, and the tails may not hold it yet; the log does.
	joining := s.joined > durable
	durable = max(durable, s.joined)
	if s.cursor.get() >= durable {
		return nil
	}
	if !joining && s.fromTails(t, durable) {
		s.hub.stats.tailHits.Add(1)
	} else if err := s.fromLog(ctx, t, durable); err != nil {
		return err
	}
	s.hub.stats.delivered.Add(uint64(len(t.Frames)))
	return nil
}

// fromTails serves a turn from memory; false when the cursor stands below a tail.
func (s *Subscriber) fromTails(t *Turn, durable fanfare.Position) bool {
	through := durable
	for i := range s.refs {
		frames, whole, covered := s.refs[i].f.tail(t.Frames, s.cursor.get(), through, turnFrames, turnBytes)
		if !covered {
			t.Frames = t.Frames[:0]
			return false
		}
		t.Frames = frames
		if !whole {
			// There is more in this tail: the turn ends with the last frame taken, for the other filters too.
			through = frames[len(frames)-1].Position
		}
	}
	if len(s.refs) > 1 {
		t.Frames = mergeFrames(t.Frames, through)
	}
	s.cursor.set(through)
	t.More = through < durable
	return true
}

// mergeFrames brings the frames of several tails into order, each once, and none beyond through.
func mergeFrames(frames []Frame, through fanfare.Position) []Frame {
	slices.SortFunc(frames, func(a, b Frame) int {
		switch {
		case a.Position < b.Position:
			return -1
		case a.Position > b.Position:
			return 1
		}
		return 0
	})
	frames = slices.CompactFunc(frames, func(a, b Frame) bool { return a.Position == b.Position })
	end := len(frames)
	for end > 0 && frames[end-1].Position > through {
		end--
	}
	clear(frames[end:])
	return frames[:end]
}

// read reads the log when it is the owner's turn.
func (s *Subscriber) read(ctx context.Context, q fanfare.Query) (fanfare.Page, error) {
	if err := s.hub.replays.enter(ctx, s.owner); err != nil {
		return fanfare.Page{}, err
	}
	defer s.hub.replays.leave() // also when an engine panics, which ends the stream alone
	return s.hub.log.Read(ctx, q)
}

func (s *Subscriber) fromLog(ctx context.Context, t *Turn, durable fanfare.Position) error {
	s.hub.stats.tailMisses.Add(1)
	q := fanfare.Query{Patterns: s.patterns, After: s.cursor.get(), Through: durable, Limit: turnFrames, Bytes: turnBytes}
	if s.cursor.get() < s.sinceThrough {
		q.Since, q.Through = s.since, min(durable, s.sinceThrough)
	}
	page, err := s.read(ctx, q)
	if err != nil {
		return err
	}
	if page.Trimmed > s.cursor.get() && page.Trimmed > s.told {
		// Retention has overtaken a subscriber that lags: it is told, as at a resume (P4).
		s.told = page.Trimmed
		oldest := page.Through + 1
		if len(page.Events) > 0 {
			oldest = page.Events[0].Position
		}
		t.Gap = &Gap{Requested: s.cursor.get().String(), Oldest: oldest, Reason: fanfare.GapTrimmed}
	}
	for _, e := range page.Events {
		t.Frames = append(t.Frames, s.hub.encode(e).of(&e))
	}
	s.hub.stats.replayed.Add(uint64(len(page.Events)))
	s.cursor.set(page.Through)
	t.More = s.cursor.get() < durable
	return nil
}

// Close takes the subscriber out of the hub. A second call does nothing. It may be called from any goroutine, but not
// while Next runs.
func (s *Subscriber) Close() {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.refs == nil {
		return
	}
	for _, r := range s.refs {
		h.leaveLocked(r)
	}
	s.refs = nil
	last := len(h.subs) - 1
	h.subs[s.index] = h.subs[last]
	h.subs[s.index].index = s.index
	h.subs[last] = nil
	h.subs = h.subs[:last]
	h.releaseLocked()
}
