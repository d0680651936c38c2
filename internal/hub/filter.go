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
	past    *past            // nil unless memory has events before start, or a read of them is under way
}

// past is the part of a filter for subscribers that lag or resume. Most filters have none. The
// filter's mutex guards it.
type past struct {
	older []*stretch    // stretches up to the filter's start, by position; with holes between them
	reads []*sharedRead // reads of the log that are under way
}

// older returns the older stretches.
func (f *filter) older() []*stretch {
	if f.past == nil {
		return nil
	}
	return f.past.older
}

// setOlder replaces the older stretches.
func (f *filter) setOlder(list []*stretch) {
	f.makePast().older = list
	f.trimPast()
}

// makePast returns the filter's past, which it makes if there is none. trimPast follows it.
func (f *filter) makePast() *past {
	if f.past == nil {
		f.past = new(past)
	}
	return f.past
}

// trimPast drops a past that is empty.
func (f *filter) trimPast() {
	if len(f.past.older) == 0 && len(f.past.reads) == 0 {
		f.past = nil
	}
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
