package hub

import (
	"sync"

	"github.com/fanfare-hub/fanfare"
)

// filter is an exact channel or a pattern that somebody listens to, shared by all who do. It goes
// with the last of them.
type filter struct {
	pattern fanfare.Pattern // fixed
	group   uint64          // owned by Committed: the last group that woke this filter
	gone    bool            // guarded by memory.mu: nobody listens any more

	mu      sync.Mutex // guards the fields below
	subs    []*Subscriber
	start   fanfare.Position // where the open stretch begins, also when there is none yet: what follows is in memory
	open    *stretch         // nil while nothing has come since start
	closed  []*stretch       // older ones, by position; with holes between them
	flights []*flight        // reads of the log that are under way
}

// joinLocked makes the hub's filter for a pattern, or finds it, and adds the subscriber.
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

// leaveLocked takes the subscriber out of one of its filters, and the filter out of the hub when it
// was the last.
func (h *Hub) leaveLocked(r ref) {
	f := r.f
	f.mu.Lock()
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
	f.mu.Unlock()
	if last > 0 {
		return
	}
	h.memory.clear(f, 0, true)
	if c, exact := f.pattern.Channel(); exact {
		delete(h.exact, c)
	} else {
		h.patterns.remove(f)
	}
}
