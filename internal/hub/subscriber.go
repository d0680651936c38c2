package hub

import (
	"slices"
	"sync/atomic"

	"github.com/fanfare-hub/fanfare"
)

// Waker is the side of a stream that the hub sees.
type Waker interface {
	// Wake says that there may be something to do. It is called from any goroutine, must not block,
	// and must not call the hub.
	Wake()

	// Owner names the owner that the stream's reads of the log are counted for; see Hub.Replay.
	// Only Read and ReadLater call it. It is a method because most streams never read the log: they
	// need hold no name.
	Owner() string
}

// The limits of a turn. A subscriber that is far behind must not keep a worker, or memory, for
// long.
const (
	turnFrames = 256
	turnBytes  = 256 << 10
)

// Subscriber is a cursor in the log and a wake-up. Its methods are for one goroutine at a time, the
// stream's, unless they say otherwise. It has many, because all phases of a stream share it: the
// search for its start (search.go), the state (state.go), turns from memory (here) and from the
// log (read.go), and its end (drain.go). There is one for each idle stream, so the fields of a
// single phase are behind a pointer, which is nil in the other phases.
type Subscriber struct {
	// Fixed after Subscribe.
	hub   *Hub
	waker Waker

	refs  []ref // guarded by Hub.mu
	index int   // in Hub.subs; guarded by Hub.mu

	// Owned by the stream, and by its read of the log while one is under way. The read leaves the
	// two pointers as they are, because the stream may ask for its Position meanwhile.
	starting *starting        // nil when the subscriber follows new events
	fetch    *fetch           // the read of the log for the present turn; nil when memory has the turn
	told     fanfare.Position // the highest trim mark that the client has been told of

	cursor   cursor // moved by the stream
	opened   atomic.Bool
	awake    atomic.Bool
	ending   atomic.Bool
	conflate bool // see Start.Conflate; fixed after Subscribe
}

// cursor is a position that its owner moves, and that any goroutine may read.
type cursor struct{ v atomic.Uint64 }

func (c *cursor) get() fanfare.Position  { return fanfare.Position(c.v.Load()) }
func (c *cursor) set(p fanfare.Position) { c.v.Store(uint64(p)) }

// ref is a subscriber's place in one of its filters.
type ref struct {
	f     *filter
	index int // in f.subs
}

// Turn is what a subscriber has to send next. It is reused from turn to turn.
type Turn struct {
	Opens   bool             // the start is found, and the client is told it before anything else
	Begins  fanfare.Position // with Opens: see Subscriber.Begins
	After   fanfare.Position // the cursor: the frames are those after it
	Gap     *fanfare.Gap     // the client is told of this gap before the frames; nil for none
	Frames  []Frame          // by position
	Through fanfare.Position // the frames are complete up to here
	More    bool             // there is more to send, for another turn at once

	release func()
}

// Release gives back a turn of ReadLater, and the permit of its read. A second call does nothing.
func (t *Turn) Release() {
	if t.release != nil {
		t.release()
	}
}

// Swap exchanges the contents of two turns. The one that had to be released still has to be.
func (t *Turn) Swap(other *Turn) {
	*t, *other = *other, *t
	t.release, other.release = other.release, t.release
}

// wake wakes the stream unless it is awake already. It may be called from any goroutine.
func (s *Subscriber) wake() {
	if !s.awake.Load() && s.awake.CompareAndSwap(false, true) {
		s.waker.Wake()
	}
}

// Patterns returns the patterns that the subscriber listens to, each once; none after Close. It may
// be called from any goroutine.
func (s *Subscriber) Patterns() []fanfare.Pattern {
	s.hub.mu.RLock()
	defer s.hub.mu.RUnlock()
	list := make([]fanfare.Pattern, len(s.refs))
	for i := range s.refs {
		list[i] = s.refs[i].f.pattern
	}
	return list
}

// Position returns the position up to which the stream has been given all events. Before the client
// has been told the start, it returns the position that the client asked for, because a gap may
// have to be told first (P4); 0 when the client asked for none.
func (s *Subscriber) Position() fanfare.Position {
	if !s.opened.Load() {
		return s.starting.asked
	}
	return s.cursor.get()
}

// Lag returns the number of positions between the subscriber's and the newest, if the subscriber
// may have something to send; otherwise 0. It may be called from any goroutine.
func (s *Subscriber) Lag() uint64 {
	durable, at := s.hub.Durable(), s.cursor.get()
	if !s.opened.Load() || !s.awake.Load() || at >= durable {
		return 0
	}
	return uint64(durable - at)
}

// Ending tells whether the hub wants the stream to end, between two events. It may be called from
// any goroutine.
func (s *Subscriber) Ending() bool { return s.ending.Load() }

// Next fills t with the frames after the cursor that are in memory. It returns false when memory
// lacks the next events; then the caller must read them by Read or ReadLater. It does not block,
// and does not allocate once t has room. When all or a part of t has been sent, Advance moves the
// cursor.
func (s *Subscriber) Next(t *Turn) bool {
	s.fetch = nil
	if s.starting.searches() {
		s.awake.Store(true) // no wake-up is needed: another turn follows the read
		return false
	}
	s.awake.Store(false) // before durable is read, so that a later commit wakes the stream again
	durable, joining := s.prepare(t)
	if s.cursor.get() >= durable {
		return true
	}
	if joining || s.inState() || s.dated() || !s.fromMemory(t, durable) {
		s.awake.Store(true)
		return false
	}
	s.hub.stats.tailHits.Add(1)
	return true
}

// prepare empties t, and returns the position up to which there may be events to send. joining says
// that the subscriber has joined in the middle of a commit: the hub does not wake it for that
// commit, and memory may not have the commit's events yet, but the log has.
func (s *Subscriber) prepare(t *Turn) (durable fanfare.Position, joining bool) {
	durable = s.hub.Durable()
	b := s.starting
	if b != nil {
		joining = b.joined > durable
		durable = max(durable, b.joined)
	}
	*t = Turn{Frames: t.Frames[:0], After: s.cursor.get(), Through: max(durable, s.cursor.get()), release: t.release}
	if b != nil && b.pending != nil {
		t.Opens, t.Begins, t.Gap = true, b.pending.position, b.pending.gap
	}
	return durable, joining
}

// Advance moves the cursor: all events up to a position have been sent, or are certain to be. more
// says that the stream takes another turn in any case, and need not be woken for it.
func (s *Subscriber) Advance(through fanfare.Position, more bool) {
	s.cursor.set(through)
	if s.fetch != nil { // only now, because the next turn must tell the gap of a turn that was thrown away (P4)
		s.told = max(s.told, s.fetch.trimmed)
		s.fetch = nil
	}
	if s.starting != nil {
		s.advanceStart()
	}
	if more {
		s.awake.Store(true)
	}
}

// fromMemory fills a turn from memory. It returns false, and leaves the turn empty, when memory
// lacks the next events.
func (s *Subscriber) fromMemory(t *Turn, durable fanfare.Position) bool {
	through := durable
	for i := range s.refs {
		var end fanfare.Position
		t.Frames, end = s.refs[i].f.collect(t.Frames, s.cursor.get(), through, turnFrames, turnBytes)
		// This filter may have more events, so the turn ends here for the other filters too.
		through = min(through, end)
	}
	if through == s.cursor.get() {
		clear(t.Frames)
		t.Frames = t.Frames[:0]
		return false
	}
	s.bring(t, through, durable)
	if s.conflate {
		if t.More { // a later turn may have newer events of these channels
			clear(t.Frames)
			t.Frames = t.Frames[:0]
			return false
		}
		t.Frames = s.hub.newest(t.Frames)
	}
	return true
}

// bring completes a turn whose frames were collected filter by filter.
func (s *Subscriber) bring(t *Turn, through, durable fanfare.Position) {
	t.Frames = s.hub.living(t.Frames)
	if len(s.refs) > 1 {
		t.Frames = mergeFrames(t.Frames, through)
	}
	t.Through, t.More = through, through < durable
}

// mergeFrames sorts the frames of several filters by position, and keeps each once, up to through.
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

// Close takes the subscriber out of the hub. A second call does nothing. It may be called from any
// goroutine, but not while Next or Read runs, nor while a ReadLater is under way: before that has
// called HaveRead, or CancelRead has returned true.
func (s *Subscriber) Close() {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.refs == nil {
		return
	}
	s.endState()
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
