package hub

import (
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/fanfare-hub/fanfare"
)

// A stretch is all events of one filter between two positions, as frames. A filter's newest stretch
// grows: committed events are added to it, until it is full. Older stretches were full once, or
// were read from the log for a subscriber that resumed, so that the next one that resumes the same
// filter need not read the log again.
type stretch struct {
	// Guarded by the filter's mutex.
	from, through fanfare.Position // every event in (from, through]; the growing one's through means nothing
	frames        []Frame
	bytes         int

	used atomic.Bool // a turn was served from it since the hand last passed

	// Guarded by memory.mu.
	f          *filter // nil before it is added, and when it has been dropped
	prev, next *stretch
	counted    int // bytes of memory.held
}

const (
	frameOverhead   = 144 // bytes of a frame in memory besides its chunk
	stretchOverhead = 160
)

func frameCost(f *Frame) int { return len(f.Chunk) + frameOverhead }

// memory is all stretches of a hub within one budget. When the budget is exceeded, a hand goes
// round the ring of stretches and drops each one that was not used since the hand last passed (the
// clock, or second-chance, algorithm). So a turn that is served from memory only has to set a bit.
type memory struct {
	budget int
	most   int // bytes of a stretch: a part of the budget, so that dropping one is no great loss

	mu   sync.Mutex // guards the fields below; taken before a filter's
	hand stretch    // the ring's fixed point: next is the oldest
	held int        // bytes of all stretches

	total atomic.Int64 // a copy of held that can be read without the lock
}

func (m *memory) init(budget int) {
	m.budget = budget
	m.most = min(max(budget/256, 1), 32<<10)
	m.hand.prev, m.hand.next = &m.hand, &m.hand
}

// add counts the bytes that a filter's stretch has grown by, and adds the stretch to the ring if it
// is new. It drops stretches until the budget is met.
func (m *memory) add(f *filter, s *stretch, bytes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.prev == nil {
		if f.gone {
			return
		}
		s.f = f
		bytes += stretchOverhead
		m.linkLocked(s)
	} else if s.f == nil {
		return // dropped meanwhile
	}
	s.counted += bytes
	m.held += bytes
	// Two rounds suffice: the first one clears used.
	for range 2 {
		for c := m.hand.next; c != &m.hand && m.held > m.budget; {
			next := c.next
			if c.used.CompareAndSwap(true, false) {
				m.unlinkLocked(c)
				m.linkLocked(c)
			} else {
				c.f.drop(c)
				m.forgetLocked(c)
			}
			c = next
		}
	}
	m.total.Store(int64(m.held))
}

func (m *memory) linkLocked(s *stretch) {
	s.prev, s.next = m.hand.prev, &m.hand
	s.prev.next, m.hand.prev = s, s
}

func (m *memory) unlinkLocked(s *stretch) {
	s.prev.next, s.next.prev = s.next, s.prev
}

func (m *memory) forgetLocked(s *stretch) {
	m.unlinkLocked(s)
	m.held -= s.counted
	s.f = nil
}

// clear drops all stretches of a filter. The next event after start starts a new one; with gone,
// none does.
func (m *memory) clear(f *filter, start fanfare.Position, gone bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f.gone = f.gone || gone
	for _, s := range f.clear(start) {
		if s.f != nil {
			m.forgetLocked(s)
		}
	}
	m.total.Store(int64(m.held))
}

// append adds a committed event to the growing stretch. It returns the stretch, and the bytes that
// it has grown by. A stretch that would have more than most bytes is full, and a new one starts.
func (f *filter) append(frame *Frame, most int) (*stretch, int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	cost := frameCost(frame)
	if f.growing != nil && f.growing.bytes+cost > most {
		f.growing.through = f.growing.frames[len(f.growing.frames)-1].Position
		f.setOlder(append(f.older(), f.growing))
		f.start, f.growing = f.growing.through, nil
	}
	if f.growing == nil {
		f.growing = &stretch{from: f.start}
	}
	f.growing.frames = append(f.growing.frames, *frame)
	f.growing.bytes += cost
	return f.growing, cost
}

// drop takes a stretch out of the filter. Its events are read from the log when they are needed.
func (f *filter) drop(s *stretch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s == f.growing {
		f.start, f.growing = s.frames[len(s.frames)-1].Position, nil
		return
	}
	older := f.older()
	if i := slices.Index(older, s); i >= 0 {
		f.setOlder(slices.Delete(older, i, i+1))
	}
}

// clear takes all stretches out of the filter, and returns them.
func (f *filter) clear(start fanfare.Position) (dropped []*stretch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	dropped = f.older()
	if f.growing != nil {
		dropped = append(dropped, f.growing)
	}
	f.start, f.growing = start, nil
	if f.past != nil {
		f.setOlder(nil)
	}
	return dropped
}

// olderAt returns the index of the first older stretch that ends after pos.
func (f *filter) olderAt(pos fanfare.Position) int {
	older := f.older()
	return sort.Search(len(older), func(i int) bool { return older[i].through > pos })
}

// collect appends to dst the frames in (after, through] that are in memory, up to the first hole.
// It appends at most `most` frames of together at most `bytes` bytes, but always one frame. It
// returns the position up to which the frames are complete. That is after itself when memory lacks
// the events that follow it.
func (f *filter) collect(dst []Frame, after, through fanfare.Position, most, bytes int) ([]Frame, fanfare.Position) {
	f.mu.Lock()
	defer f.mu.Unlock()
	older := f.older()
	had, at := len(dst), after
	for i := f.olderAt(after); at < through; i++ {
		var frames []Frame
		end := through
		switch {
		case at >= f.start:
			if f.growing == nil {
				return dst, through
			}
			f.growing.touch()
			frames = f.growing.frames
		case i < len(older) && older[i].from <= at:
			older[i].touch()
			frames, end = older[i].frames, min(older[i].through, through)
		default:
			return dst, at
		}
		j := 0
		if at == after {
			j = sort.Search(len(frames), func(j int) bool { return frames[j].Position > at })
		}
		for ; j < len(frames) && frames[j].Position <= end; j++ {
			size := len(frames[j].Chunk)
			if n := len(dst) - had; n >= most || (n > 0 && bytes < size) {
				return dst, dst[len(dst)-1].Position
			}
			bytes -= size
			dst = append(dst, frames[j])
		}
		at = end
	}
	return dst, at
}

// touch marks the stretch as used. It writes only when that changes something, so that streams on
// many processors do not fight for the cache line.
func (s *stretch) touch() {
	if !s.used.Load() {
		s.used.Store(true)
	}
}

// missing returns the range that memory lacks directly behind a position, up to through at most;
// the range must be read from the log. It returns false when memory lacks nothing there.
func (f *filter) missing(after, through fanfare.Position) (from, to fanfare.Position, some bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if after >= through || after >= f.start {
		return 0, 0, false
	}
	to = min(through, f.start)
	older := f.older()
	if i := f.olderAt(after); i < len(older) {
		if older[i].from <= after {
			return 0, 0, false
		}
		to = min(to, older[i].from)
	}
	return after, to, true
}

// insert keeps frames that were read from the log, all those in (from, through], except frames that
// memory has by now. It returns the stretch that holds them, and the bytes that it has grown by;
// nil when memory had all of them.
func (f *filter) insert(from, through fanfare.Position, frames []Frame) (*stretch, int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	older, i := f.older(), f.olderAt(from)
	if i < len(older) && older[i].from <= from {
		from = older[i].through
		i++
	}
	through = min(through, f.start)
	if i < len(older) {
		through = min(through, older[i].from)
	}
	if from >= through {
		return nil, 0
	}
	for len(frames) > 0 && frames[0].Position <= from {
		frames = frames[1:]
	}
	for len(frames) > 0 && frames[len(frames)-1].Position > through {
		frames = frames[:len(frames)-1]
	}
	bytes := 0
	for j := range frames {
		bytes += frameCost(&frames[j])
	}
	if i < len(older) && older[i].from == through && len(frames)+len(older[i].frames) <= turnFrames {
		// Otherwise many subscribers that resume a quiet filter from different positions would
		// leave a stretch each.
		next := older[i]
		next.frames = append(slices.Clone(frames), next.frames...)
		next.from = from
		next.bytes += bytes
		return next, bytes
	}
	s := &stretch{from: from, through: through, frames: slices.Clone(frames), bytes: bytes}
	f.setOlder(slices.Insert(older, i, s))
	return s, bytes
}
