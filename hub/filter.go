package hub

import (
	"sort"
	"sync"

	"github.com/fanfare-hub/fanfare"
)

// filter is an exact channel or a pattern that somebody listens to, shared by all who do. It goes with the last of them.
type filter struct {
	pattern fanfare.Pattern // fixed
	group   uint64          // owned by Committed: the last group that woke this filter

	mu     sync.Mutex // guards the fields below
	subs   []*Subscriber
	start  fanfare.Position // the tail holds every event above it
	frames []Frame          // the tail, by position
	head   int              // of frames
}

func (f *filter) append(frame Frame) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.head > 0 && len(f.frames) == cap(f.frames) {
		n := copy(f.frames, f.frames[f.head:])
		clear(f.frames[n:])
		f.frames, f.head = f.frames[:n], 0
	}
	f.frames = append(f.frames, frame)
}

// dropOldest makes the tail one frame shorter at its beginning.
func (f *filter) dropOldest() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.head == len(f.frames) {
		return
	}
	f.start = f.frames[f.head].Position
	f.frames[f.head] = Frame{}
	f.head++
	if f.head == len(f.frames) {
		f.frames, f.head = nil, 0
	}
}

func (f *filter) reset(start fanfare.Position) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.start, f.frames, f.head = start, nil, 0
}

// tail appends to dst the frames above after and up to through, at most so many and, but for the first, at most so many
// bytes. whole is false when it stopped early; covered is false, and nothing appended, when the tail begins later.
func (f *filter) tail(dst []Frame, after, through fanfare.Position, most, bytes int) (_ []Frame, whole, covered bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if after < f.start {
		return dst, false, false
	}
	frames := f.frames[f.head:]
	i := sort.Search(len(frames), func(i int) bool { return frames[i].Position > after })
	for n := 0; i < len(frames) && frames[i].Position <= through; i++ {
		if n >= most || (n > 0 && bytes < len(frames[i].Chunk)) {
			return dst, false, true
		}
		bytes -= len(frames[i].Chunk)
		dst = append(dst, frames[i])
		n++
	}
	return dst, true, true
}

// join makes the hub's filter for a pattern, or finds it, and adds the subscriber.
func (h *Hub) joinLocked(p fanfare.Pattern, s *Subscriber) ref {
	c, exact := p.Channel()
	var f *filter
	if exact {
		f = h.exact[c]
	} else {
		f = h.patterns.find(p)
	}
	if f == nil {
		f = &filter{pattern: p, start: h.appended}
		if exact {
			h.exact[c] = f
		} else {
			h.patterns.insert(f)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subs = append(f.subs, s)
	return ref{f, len(f.subs) - 1}
}

// leaveLocked takes the subscriber out of one of its filters, and the filter out of the hub when it was the last.
func (h *Hub) leaveLocked(r ref) {
	f := r.f
	f.mu.Lock()
	defer f.mu.Unlock()
	last := len(f.subs) - 1
	if moved := f.subs[last]; r.index != last {
		f.subs[r.index] = moved
		for i := range moved.refs {
			if moved.refs[i].f == f {
				moved.refs[i].index = r.index
			}
		}
	}
	f.subs[last] = nil
	f.subs = f.subs[:last]
	if last > 0 {
		return
	}
	f.frames, f.head = nil, 0
	if c, exact := f.pattern.Channel(); exact {
		delete(h.exact, c)
	} else {
		h.patterns.remove(f)
	}
}
