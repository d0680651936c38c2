package hub

import (
	"sync"

	"github.com/fanfare-hub/fanfare"
)

// filter is an exact channel or a pattern with at least one subscriber. All subscribers of the same
// channel or pattern share it; the hub forgets it when the last of them leaves.
type filter struct {
	pattern fanfare.Pattern // fixed
	group   uint64          // owned by Committed: the last group that woke this filter
	gone    bool            // guarded by memory.mu: the last subscriber has left

	mu      sync.Mutex // guards the fields below
	subs    []*Subscriber
	start   fanfare.Position // all events after this are in the growing stretch
	growing *stretch         // the newest stretch; nil while no event has come since start
	older   []*stretch       // stretches up to start, by position; with holes between them
	reads   []*sharedRead    // reads of the log that are under way
}

// joinLocked finds the hub's filter for a pattern, or makes it, and adds the subscriber.
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

// leaveLocked takes the subscriber out of one of its filters. When it was the filter's last one,
// the filter leaves the hub.
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
