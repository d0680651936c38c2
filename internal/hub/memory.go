package hub

import (
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/fanfare-hub/fanfare"
)

// A stretch is all events of one filter between two positions, as frames. A filter's newest stretch
// is open: what is committed goes into it, until it is full. Others were full, or were read from
// the log for somebody who resumed, so that the next who resumes the same filter need not read it
// again.
type stretch struct {
	// Guarded by the filter's mutex. bytes may be read by who drops the stretch.
	from, through fanfare.Position // every event in (from, through]; the open one's through means nothing
	frames        []Frame
	bytes         int

	used atomic.Bool // somebody has been served from it since the hand last came by

	// Guarded by memory.mu.
	f          *filter // nil when it has been dropped
	prev, next *stretch
	counted    int
}

const (
	frameOverhead   = 136 // what a frame in memory costs besides its bytes
	stretchOverhead = 160
)

func frameCost(f *Frame) int { return len(f.Chunk) + frameOverhead }

// memory is all stretches of a hub within one budget. What was needed least recently goes first,
// found by a hand that goes round, and spares once what was used since it came by (the clock, or
// second-chance, algorithm): a turn that is served then costs no more than setting a bit.
type memory struct {
	budget int
	most   int // bytes of a stretch: a part of the budget, so that dropping one is no great loss

	mu   sync.Mutex // guards the fields below; taken before a filter's
	hand stretch    // the ring's fixed point: next is the oldest
	held int

	total atomic.Int64 // of held, for who only wants to know
}

func (m *memory) init(budget int) {
	m.budget = budget
	m.most = min(max(budget/256, 1), 32<<10)
	m.hand.prev, m.hand.next = &m.hand, &m.hand
}

// add counts a stretch of a filter, or what an earlier one has grown by, and drops others as long
// as the budget is exceeded.
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
	// Twice round at most: the second time nobody is spared.
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

// clear forgets all stretches of a filter, which begins anew after start; gone says that it never
// will.
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

// append adds what was committed to the open stretch, and returns it, and what it has grown by.
func (f *filter) append(frame *Frame, most int) (*stretch, int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	cost := frameCost(frame)
	if f.open != nil && f.open.bytes+cost > most {
		f.open.through = f.open.frames[len(f.open.frames)-1].Position
		f.closed = append(f.closed, f.open)
		f.start, f.open = f.open.through, nil
	}
	if f.open == nil {
		f.open = &stretch{from: f.start}
	}
	f.open.frames = append(f.open.frames, *frame)
	f.open.bytes += cost
	return f.open, cost
}

// drop lets a stretch go: what it held is read from the log again.
func (f *filter) drop(s *stretch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s == f.open {
		f.start, f.open = s.frames[len(s.frames)-1].Position, nil
		return
	}
	if i := slices.Index(f.closed, s); i >= 0 {
		f.closed = slices.Delete(f.closed, i, i+1)
	}
	if len(f.closed) == 0 {
		f.closed = nil
	}
}

func (f *filter) clear(start fanfare.Position) (dropped []*stretch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	dropped = f.closed
	if f.open != nil {
		dropped = append(dropped, f.open)
	}
	f.start, f.open, f.closed = start, nil, nil
	return dropped
}

// closedAt is the index of the first closed stretch that ends after pos.
func (f *filter) closedAt(pos fanfare.Position) int {
	return sort.Search(len(f.closed), func(i int) bool { return f.closed[i].through > pos })
}

// collect appends to dst the frames above after and up to through that are in memory without a
// hole, at most so many and, but for the first, at most so many bytes. It returns up to where that
// is complete: after, when what follows it is not there.
func (f *filter) collect(dst []Frame, after, through fanfare.Position, most, bytes int) ([]Frame, fanfare.Position) {
	f.mu.Lock()
	defer f.mu.Unlock()
	begun, at := len(dst), after
	for i := f.closedAt(after); at < through; i++ {
		var frames []Frame
		end := through
		switch {
		case at >= f.start:
			if f.open == nil {
				return dst, through
			}
			f.open.touch()
			frames = f.open.frames
		case i < len(f.closed) && f.closed[i].from <= at:
			f.closed[i].touch()
			frames, end = f.closed[i].frames, min(f.closed[i].through, through)
		default:
			return dst, at
		}
		j := 0
		if at == after {
			j = sort.Search(len(frames), func(j int) bool { return frames[j].Position > at })
		}
		for ; j < len(frames) && frames[j].Position <= end; j++ {
			size := len(frames[j].Chunk)
			if n := len(dst) - begun; n >= most || (n > 0 && bytes < size) {
				return dst, dst[len(dst)-1].Position
			}
			bytes -= size
			dst = append(dst, frames[j])
		}
		at = end
	}
	return dst, at
}

func (s *stretch) touch() {
	if !s.used.Load() {
		s.used.Store(true)
	}
}

// missing is the range above after that has to be read from the log, and false when there is none
// up to through.
func (f *filter) missing(after, through fanfare.Position) (from, to fanfare.Position, some bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if after >= through || after >= f.start {
		return 0, 0, false
	}
	to = min(through, f.start)
	if i := f.closedAt(after); i < len(f.closed) {
		if f.closed[i].from <= after {
			return 0, 0, false
		}
		to = min(to, f.closed[i].from)
	}
	return after, to, true
}

// insert keeps what was read from the log, but for what is there by now; nil when that is all.
func (f *filter) insert(from, through fanfare.Position, frames []Frame) (*stretch, int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.closedAt(from)
	if i < len(f.closed) && f.closed[i].from <= from {
		from = f.closed[i].through
		i++
	}
	through = min(through, f.start)
	if i < len(f.closed) {
		through = min(through, f.closed[i].from)
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
	if i < len(f.closed) && f.closed[i].from == through && len(frames)+len(f.closed[i].frames) <= turnFrames {
		// Many who resume a quiet filter from different places would leave a stretch each.
		next := f.closed[i]
		next.frames = append(slices.Clone(frames), next.frames...)
		next.from = from
		next.bytes += bytes
		return next, bytes
	}
	s := &stretch{from: from, through: through, frames: slices.Clone(frames), bytes: bytes}
	f.closed = slices.Insert(f.closed, i, s)
	return s, bytes
}
