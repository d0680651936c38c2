package stream

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
)

// registry knows the streams that are open. Its methods may be called from any goroutine.
type registry struct {
	mu     sync.Mutex // guards the fields below
	open   map[*Stream]struct{}
	opened map[string]uint64 // by adapter
	lastID uint64
}

func newRegistry(adapters []string) *registry {
	r := &registry{open: map[*Stream]struct{}{}, opened: map[string]uint64{}}
	for _, adapter := range adapters {
		r.opened[adapter] = 0
	}
	return r
}

// enter has a stream be found from now on.
func (r *registry) enter(st *Stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastID++
	st.id, st.began = r.lastID, time.Now()
	r.open[st] = struct{}{}
	r.opened[st.adapter]++
}

func (r *registry) leave(st *Stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, st)
}

func (r *registry) all() []*Stream {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.open))
}

// counts returns how many streams are open now, and how many have been opened, by adapter.
func (r *registry) counts() (open map[string]int, opened map[string]uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	open, opened = map[string]int{}, maps.Clone(r.opened)
	for adapter := range r.opened {
		open[adapter] = 0
	}
	for st := range r.open {
		open[st.adapter]++
	}
	return open, opened
}

// leave removes a stream from the registry and from its ticket, so that no call can find it.
func (s *Streams) leave(st *Stream) {
	s.tickets.leave(st)
	s.open.leave(st)
}

// Held is an open stream, for callers that may want to end it.
type Held struct {
	ID           uint64
	Caller       caller.Caller
	Patterns     []fanfare.Pattern
	Administered []fanfare.Pattern // an administrator of all of these may end it

	stream *Stream
}

// End ends the stream within a second, and reports whether it was the first to do so. It does not
// block.
func (h Held) End(reason EndReason) bool { return h.stream.endNow(reason) }

// Each yields the streams that were open when it was called; some may have ended since.
func (s *Streams) Each() iter.Seq[Held] {
	list := s.open.all()
	return func(yield func(Held) bool) {
		for _, st := range list {
			h := Held{ID: st.id, Caller: st.caller, Patterns: st.sub.Patterns(), stream: st}
			h.Administered = h.Patterns
			if st.owned > 0 && st.owned < len(h.Patterns) {
				h.Administered = h.Patterns[:st.owned]
			}
			if !yield(h) {
				return
			}
		}
	}
}

// Open describes a stream that is open.
type Open struct {
	ID       uint64 // counts the streams of this process
	Adapter  string
	Remote   string // address and port
	Subject  string // "" is a caller without a name
	TokenID  string // of the token or key that it was opened with, to revoke it by; "" is none
	Channels []string
	Began    time.Time
	Lag      uint64 // positions up to the newest, when it has something to get; see hub.Subscriber.Lag
	Events   uint64 // sent
	Bytes    uint64 // of these, as they are on the wire
}

// List describes at most this many streams: those furthest behind first, then the newest.
func (s *Streams) List(most int) []Open {
	type behind struct {
		st  *Stream
		lag uint64
	}
	var all []behind
	for _, st := range s.open.all() {
		all = append(all, behind{st, st.sub.Lag()})
	}
	slices.SortFunc(all, func(a, b behind) int {
		return cmp.Or(cmp.Compare(b.lag, a.lag), cmp.Compare(b.st.id, a.st.id))
	})
	all = all[:min(len(all), most)]
	list := make([]Open, 0, len(all))
	for _, one := range all {
		st := one.st
		list = append(list, Open{
			ID: st.id, Adapter: st.adapter, Remote: st.caller.Remote, Subject: subject(st.caller),
			TokenID: tokenID(st.caller), Channels: st.channels(), Began: st.began, Lag: one.lag,
			Events: st.events.Load(), Bytes: st.bytes.Load(),
		})
	}
	return list
}

func subject(c caller.Caller) string {
	if c.Who == nil {
		return ""
	}
	return c.Who.Subject
}

func tokenID(c caller.Caller) string {
	if c.Who == nil {
		return ""
	}
	return c.Who.TokenID
}
