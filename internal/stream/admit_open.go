package stream

import (
	"cmp"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
)

// registry knows the streams that are open. Its methods may be called from any goroutine.
type registry struct {
	mu       sync.Mutex // guards the fields below
	open     []*Stream  // in no order; Stream.place is the index
	adapters map[string]*adapter
	lastID   uint64
}

// adapter counts the streams of one adapter. Its counts are guarded by registry.mu.
type adapter struct {
	name   string // fixed
	open   int
	opened uint64
}

func newRegistry(adapters []string) *registry {
	r := &registry{adapters: map[string]*adapter{}}
	for _, name := range adapters {
		r.adapters[name] = &adapter{name: name}
	}
	return r
}

// enter has a stream of an adapter be found from now on.
func (r *registry) enter(st *Stream, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.adapters[name]
	if a == nil {
		a = &adapter{name: name}
		r.adapters[name] = a
	}
	a.open++
	a.opened++
	r.lastID++
	st.id, st.adapter = r.lastID, a
	r.open = append(r.open, st)
	st.place = uint32(len(r.open))
}

// leave has a stream no longer be found. A second call does nothing.
func (r *registry) leave(st *Stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if st.place == 0 {
		return
	}
	last := len(r.open) - 1
	moved := r.open[last]
	r.open[st.place-1], r.open[last] = moved, nil
	r.open = r.open[:last]
	moved.place, st.place = st.place, 0
	st.adapter.open--
}

func (r *registry) all() []*Stream {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.open)
}

// counts returns how many streams are open now, and how many have been opened, by adapter.
func (r *registry) counts() (open map[string]int, opened map[string]uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	open, opened = map[string]int{}, map[string]uint64{}
	for name, a := range r.adapters {
		open[name], opened[name] = a.open, a.opened
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
			if owned := int(st.owned); owned > 0 && owned < len(h.Patterns) {
				h.Administered = h.Patterns[:owned]
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
			ID: st.id, Adapter: st.adapter.name, Remote: st.caller.Remote(), Subject: subject(st.caller),
			TokenID: tokenID(st.caller), Channels: st.channels(), Began: s.clock.Time(st.began), Lag: one.lag,
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
