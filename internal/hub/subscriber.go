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
// search for its start (opening.go), the state (state.go), turns from memory (here) and from the
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
	Opens   bool             // the subscriber has found its start, which is told before anything else
	Begins  fanfare.Position // with Opens: see Subscriber.Begins
	After   fanfare.Position // what follows this is in the turn
	Gap     *fanfare.Gap     // to be told before the frames; nil for none
	Frames  []Frame          // by position
	Through fanfare.Position // the frames are complete up to here
	More    bool             // another turn has something to do at once

	release func()
}

// Release gives back a turn that ReadLater has handed over.
func (t *Turn) Release() {
	if t.release != nil {
		t.release()
	}
}

// Swap exchanges what two turns hold, but not which of them has to be released.
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

// Patterns are what the subscriber listens to, each once. It may be called from any goroutine;
// after Close there are none.
func (s *Subscriber) Patterns() []fanfare.Pattern {
	s.hub.mu.RLock()
	defer s.hub.mu.RUnlock()
	list := make([]fanfare.Pattern, len(s.refs))
	for i := range s.refs {
		list[i] = s.refs[i].f.pattern
	}
	return list
}

// Position is up to where the stream is complete: it has been given everything up to here. Before
// its start has been told, that is the position that it asked for, since a gap may be to be told
// first (P4); 0 when it asked for none.
func (s *Subscriber) Position() fanfare.Position {
	if !s.opened.Load() {
		return s.starting.asked
	}
	return s.cursor.get()
}

// Lag is how many positions lie between the subscriber's and the newest, when there is something
// for it that it has not been given yet; 0 otherwise. It may be called from any goroutine.
func (s *Subscriber) Lag() uint64 {
	durable, at := s.hub.Durable(), s.cursor.get()
	if !s.opened.Load() || !s.awake.Load() || at >= durable {
		return 0
	}
	return uint64(durable - at)
}

// Ending tells whether the hub wants the stream to end, which it does between two events. It may be
// called from any goroutine.
func (s *Subscriber) Ending() bool { return s.ending.Load() }

// Next fills t with the frames after the cursor that are in memory; false when the log must be read
// for what comes next, with Read or ReadLater. It does not block, and does not allocate once t has
// room. When all or a part of t has been sent, Advance moves the cursor.
func (s *Subscriber) Next(t *Turn) bool {
	s.fetch = nil
	if s.starting.searches() {
		s.awake.Store(true) // the read looks at all that has come, and another turn follows it
		return false
	}
	s.awake.Store(false) // before durable is read: a commit after this wakes again
	durable, joining := s.begin(t)
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

// begin empties t, and says up to where there is something to send. Who joined in the middle of a
// commit is not woken for it, and the tails may not hold it yet; the log does.
func (s *Subscriber) begin(t *Turn) (durable fanfare.Position, joining bool) {
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

// Advance says that everything up to a position has been sent, or is certain to be. more says that
// the stream will take another turn by itself, and need not be woken for that.
func (s *Subscriber) Advance(through fanfare.Position, more bool) {
	s.cursor.set(through)
	if s.fetch != nil { // not before: a turn may be thrown away, and its gap must be told by the next (P4)
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

// fromMemory serves a turn from memory; false when there is nothing of what comes next.
func (s *Subscriber) fromMemory(t *Turn, durable fanfare.Position) bool {
	through := durable
	for i := range s.refs {
		var end fanfare.Position
		t.Frames, end = s.refs[i].f.collect(t.Frames, s.cursor.get(), through, turnFrames, turnBytes)
		// There may be more of this filter: the turn ends here for the others too.
		through = min(through, end)
	}
	if through == s.cursor.get() {
		clear(t.Frames)
		t.Frames = t.Frames[:0]
		return false
	}
	s.bring(t, through, durable)
	if s.conflate {
		if t.More { // memory does not say at once what is newer
			clear(t.Frames)
			t.Frames = t.Frames[:0]
			return false
		}
		t.Frames = s.hub.newest(t.Frames)
	}
	return true
}

// bring makes a turn of the frames that several filters had.
func (s *Subscriber) bring(t *Turn, through, durable fanfare.Position) {
	if len(s.refs) > 1 {
		t.Frames = mergeFrames(t.Frames, through)
	}
	t.Through, t.More = through, through < durable
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

// Close takes the subscriber out of the hub. A second call does nothing. It may be called from any
// goroutine, but not while Next or Read runs, nor before what ReadLater was asked for has come or
// was cancelled.
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
