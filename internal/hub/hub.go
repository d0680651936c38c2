package hub

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// Frame is one event as finished bytes, shared by all who receive it. Nobody may change them.
type Frame struct {
	Position fanfare.Position
	Channel  fanfare.Channel
	Time     Stamp  // the event's
	Body     []byte // the event as the protocol writes it
	Chunk    []byte // Body as one chunk of HTTP/1.1; the same array
	Folded   bool   // Body does not tell LF, CR and CRLF of the data apart
	Trace    *Trace // set when the publish was traced and the event is live
	Heard    Stamp  // when the hub heard of the event; 0 when it was read from the log
}

// Stamp is a wall-clock time in microseconds since 1970; 0 is none. It takes a third of the room of
// a time.Time, and frames are many.
type Stamp int64

// StampOf returns the stamp of a time, rounded down.
func StampOf(t time.Time) Stamp { return Stamp(t.UnixMicro()) }

// Time returns the stamp as a time in UTC.
func (s Stamp) Time() time.Time { return time.UnixMicro(int64(s)).UTC() }

// of fills in what the hub knows of the frame's event.
func (f Frame) of(e *fanfare.Event) Frame {
	f.Position, f.Channel, f.Time = e.Position, e.Channel, StampOf(e.Time)
	return f
}

// Trace is shared by all frames of one event.
type Trace struct {
	Parent string      // the event's fanfare.Event.Trace
	First  atomic.Bool // set by the stream that delivers the event first
}

// Options set up a Hub.
type Options struct {
	Log            fanfare.Log               // required
	Encode         func(fanfare.Event) Frame // required; called from many goroutines; sets Body, Chunk and Folded
	MaxSubscribers int                       // more are refused with CodeOverloaded; 0: no limit
	// memory for frames of all filters; what was needed least recently goes first; default 64 MiB
	TailBytes  int
	StateBytes int // memory for what is to be sent of the states that subscribers start with; default 64 MiB
	MaxReplays int // turns to read the log at once: who catches up waits for one; default 16
}

// Hub fans out. Make it with New, end it with Close. Its methods may be called from any goroutine.
// Its fields are in three parts, by who may touch them; they have one owner each.
type Hub struct {
	// Fixed after New.
	log     fanfare.Log
	encode  func(fanfare.Event) Frame
	most    int
	unwatch func()
	replays *turnstile
	memory  memory
	states  states
	turns   sync.Pool // *Turn; for ReadLater

	drain   atomic.Pointer[drain] // set by Drain
	durable atomic.Uint64         // events up to here are in the tails, or were never
	stats   counters

	mu       sync.RWMutex // guards the fields below; taken before a filter's
	exact    map[fanfare.Channel]*filter
	patterns trie
	appended fanfare.Position // a filter made now has a tail that begins here
	subs     []*Subscriber
	admitted int // subscribers, and those that are about to be
	draining bool
	empty    chan struct{} // made by Drain; closed when draining and nobody is admitted

	// Owned by the log's goroutine that calls Committed and Reopened.
	hits  []hit
	wakes []*Subscriber
	group uint64
}

var _ fanfare.Watcher = (*Hub)(nil)

// hit is one event for one filter.
type hit struct {
	f     *filter
	event int
}

// New makes a hub and has it watch the log.
func New(o Options) *Hub {
	h := &Hub{log: o.Log, encode: o.Encode, most: o.MaxSubscribers, exact: map[fanfare.Channel]*filter{}}
	if o.TailBytes == 0 {
		o.TailBytes = 64 << 20
	}
	h.memory.init(o.TailBytes)
	if h.states.most = int64(o.StateBytes); o.StateBytes == 0 {
		h.states.most = 64 << 20
	}
	h.turns.New = func() any { return new(Turn) }
	if o.MaxReplays == 0 {
		o.MaxReplays = 16
	}
	h.replays = newTurnstile(o.MaxReplays)
	// Nobody can subscribe yet, so nobody misses what is committed between the call and its answer.
	durable, unwatch := o.Log.Watch(h)
	h.unwatch = unwatch
	h.mu.Lock()
	h.appended = max(h.appended, durable)
	h.mu.Unlock()
	h.raise(durable)
	return h
}

// Close stops watching the log. Subscribers get nothing more; Drain ends them first.
func (h *Hub) Close() { h.unwatch() }

// Durable is the newest position that subscribers may see.
func (h *Hub) Durable() fanfare.Position { return fanfare.Position(h.durable.Load()) }

func (h *Hub) raise(durable fanfare.Position) {
	for {
		old := h.durable.Load()
		if old >= uint64(durable) || h.durable.CompareAndSwap(old, uint64(durable)) {
			return
		}
	}
}

// Committed implements fanfare.Watcher: encode once, append to the tails, move the durable
// position, wake. It allocates one frame for each event that is heard, and nothing for each
// subscriber.
func (h *Hub) Committed(events []fanfare.Event, durable fanfare.Position) {
	h.hits = h.hits[:0]
	h.mu.Lock()
	for i := range events {
		h.hearLocked(events[i].Channel, i)
	}
	// From here on a new filter's tail begins after this group; its subscribers read the group from
	// the log.
	h.appended = durable
	h.mu.Unlock()

	h.group++
	var frame Frame
	heard := StampOf(time.Now())
	encoded := -1
	for _, hit := range h.hits {
		if hit.event != encoded {
			frame = h.encode(events[hit.event])
			frame = frame.of(&events[hit.event])
			frame.Heard = heard
			encoded = hit.event
			if trace := events[hit.event].Trace; trace != "" {
				frame.Trace = &Trace{Parent: trace}
			}
		}
		grown, bytes := hit.f.append(&frame, h.memory.most)
		h.memory.add(hit.f, grown, bytes)
	}
	h.raise(durable)
	for _, hit := range h.hits {
		if hit.f.group != h.group {
			hit.f.group = h.group
			h.wake(hit.f)
		}
	}
}

func (h *Hub) hearLocked(c fanfare.Channel, event int) {
	if f := h.exact[c]; f != nil {
		h.hits = append(h.hits, hit{f, event})
	}
	if h.patterns.size > 0 {
		h.hits = h.patterns.match(h.hits, c, event)
	}
}

// wake wakes the filter's subscribers. The list is copied, so that nobody is called under the
// filter's lock.
func (h *Hub) wake(f *filter) {
	f.mu.Lock()
	h.wakes = append(h.wakes[:0], f.subs...)
	f.mu.Unlock()
	for _, s := range h.wakes {
		s.wake()
	}
	clear(h.wakes)
}

// Reopened implements fanfare.Watcher: what the tails hold is no longer all there is, so everybody
// reads the log.
func (h *Hub) Reopened(durable fanfare.Position) {
	h.mu.Lock()
	h.appended = durable
	for _, f := range h.exact {
		h.memory.clear(f, durable, false)
	}
	h.patterns.each(func(f *filter) { h.memory.clear(f, durable, false) })
	subs := append([]*Subscriber(nil), h.subs...)
	h.mu.Unlock()
	h.raise(durable)
	for _, s := range subs {
		s.wake()
	}
}

type counters struct {
	tailHits, tailMisses atomic.Uint64
	conflated            atomic.Uint64
}

// Stats are the hub's figures.
type Stats struct {
	Subscribers int
	Filters     int
	TailBytes   int64  // memory accounted to frames
	TailHits    uint64 // turns served from memory
	TailMisses  uint64 // readings of the log for streams
	Waiting     int    // who wait for their turn to read the log
	Waits       uint64 // how many have had to
	Conflated   uint64 // events that a newer one of their channel has replaced before they were sent
	StateBytes  int64  // memory for what is to be sent of the states that subscribers start with
	SlowestLag  uint64 // positions that the subscriber furthest behind has not been given yet
}

// Stats returns the figures. It does not block for long.
func (h *Hub) Stats() Stats {
	h.mu.RLock()
	subs, filters := len(h.subs), len(h.exact)+h.patterns.size
	var slowest uint64
	for _, s := range h.subs {
		slowest = max(slowest, s.Lag())
	}
	h.mu.RUnlock()
	waiting, waits := h.replays.stats()
	return Stats{
		Waiting: waiting, Waits: waits, Subscribers: subs, Filters: filters, TailBytes: h.memory.total.Load(),
		TailHits: h.stats.tailHits.Load(), TailMisses: h.stats.tailMisses.Load(),
		SlowestLag: slowest, StateBytes: h.states.bytes.Load(), Conflated: h.stats.conflated.Load(),
	}
}
