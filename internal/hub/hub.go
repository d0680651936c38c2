package hub

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// Frame is one event as finished bytes. All receivers share the bytes, and none may change them.
type Frame struct {
	Position fanfare.Position
	Channel  fanfare.Channel
	Time     Stamp  // the event's time
	Expires  Stamp  // when the event expires; 0: never
	Body     []byte // the event as the protocol writes it
	Chunk    []byte // Body as one chunk of HTTP/1.1; the same array
	Folded   bool   // Body has lost whether a line of the data ended in LF, CR or CRLF
	Trace    *Trace // set when the publish was traced and the event is live
	Heard    Stamp  // when the hub was told of the event; 0 when it was read from the log
}

// Stamp is a wall-clock time in microseconds since 1970; 0 means no time. It takes a third of the
// room of a time.Time, which counts because there are many frames.
type Stamp int64

// StampOf returns the stamp of a time, rounded down.
func StampOf(t time.Time) Stamp { return Stamp(t.UnixMicro()) }

// Time returns the stamp as a time in UTC.
func (s Stamp) Time() time.Time { return time.UnixMicro(int64(s)).UTC() }

// of returns the frame with the position, channel and time of its event.
func (f Frame) of(e *fanfare.Event) Frame {
	f.Position, f.Channel, f.Time = e.Position, e.Channel, StampOf(e.Time)
	if !e.Expires.IsZero() {
		f.Expires = StampOf(e.Expires)
	}
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
	// TailBytes is the memory for the frames of all filters; frames that were used least recently
	// are dropped first. Default 64 MiB.
	TailBytes int
	// StateBytes is the memory for the lists of events that subscribers with FromLatest are still
	// to be sent. Default 64 MiB.
	StateBytes int
	MaxReplays int // reads of the log at once; other reads wait for a permit; default 16
}

// Hub fans out. Make it with New, end it with Close. Its methods may be called from any goroutine.
// Its fields are in groups; the comment above each group says which goroutines may touch it.
type Hub struct {
	// Fixed after New.
	log     fanfare.Log
	encode  func(fanfare.Event) Frame
	most    int
	unwatch func()
	replays *permits
	memory  memory
	states  states
	turns   sync.Pool // *Turn; for ReadLater

	// Atomic.
	drain   atomic.Pointer[drain] // set by Drain
	durable atomic.Uint64         // the newest position that subscribers may see
	stats   counters

	mu       sync.RWMutex // guards the fields below; taken before a filter's
	exact    map[fanfare.Channel]*filter
	patterns trie
	appended fanfare.Position // the start of a filter that is made now
	subs     []*Subscriber
	admitted int // places taken: by subs, and by subscribers that are about to join
	draining bool
	empty    chan struct{} // made by Drain; closed when draining and no place is taken

	// Owned by the log's goroutine that calls Committed and Reopened.
	hits  []hit
	wakes []*Subscriber
	group uint64
}

var _ fanfare.Watcher = (*Hub)(nil)

// hit is one event of a group that one filter hears.
type hit struct {
	f     *filter
	event int // its index in the group
}

// New makes a hub that watches the log. It does not block for long.
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
	h.replays = newPermits(o.MaxReplays)
	// There is no subscriber yet, so none misses an event that is committed before Watch returns.
	durable, unwatch := o.Log.Watch(h)
	h.unwatch = unwatch
	h.mu.Lock()
	h.appended = max(h.appended, durable)
	h.mu.Unlock()
	h.raise(durable)
	return h
}

// Close stops watching the log. Subscribers get no more events; call Drain before it to end them.
func (h *Hub) Close() { h.unwatch() }

// Durable returns the newest position that subscribers may see.
func (h *Hub) Durable() fanfare.Position { return fanfare.Position(h.durable.Load()) }

// raise moves the durable position, but never down.
func (h *Hub) raise(durable fanfare.Position) {
	for {
		old := h.durable.Load()
		if old >= uint64(durable) || h.durable.CompareAndSwap(old, uint64(durable)) {
			return
		}
	}
}

// Committed implements fanfare.Watcher. It encodes each event that has a listener once, appends the
// frame to the memory of its filters, moves the durable position, and wakes the subscribers. It
// allocates one frame for each such event, and nothing for each subscriber.
func (h *Hub) Committed(events []fanfare.Event, durable fanfare.Position) {
	h.hits = h.hits[:0]
	h.mu.Lock()
	for i := range events {
		h.hearLocked(events[i].Channel, i)
	}
	// A filter that is made after this starts behind the group; its subscribers read the group from
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

// hearLocked adds a hit for each filter that hears the channel.
func (h *Hub) hearLocked(c fanfare.Channel, event int) {
	if f := h.exact[c]; f != nil {
		h.hits = append(h.hits, hit{f, event})
	}
	if h.patterns.size > 0 {
		h.hits = h.patterns.match(h.hits, c, event)
	}
}

// wake wakes the filter's subscribers. It copies the list, so that no waker is called under the
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

// Reopened implements fanfare.Watcher. Memory may now lack events that the log has, so the hub
// clears it, and every subscriber reads the log.
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
	TailMisses  uint64 // reads of the log for streams
	Waiting     int    // reads that wait for a permit to read the log
	Waits       uint64 // reads that have had to wait, since New
	Conflated   uint64 // events that were not sent because their channel had a newer one
	StateBytes  int64  // memory for the lists that Options.StateBytes limits
	SlowestLag  uint64 // positions that the slowest subscriber has not been given yet
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
