package stream

import (
	"cmp"
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/histogram"
	"github.com/fanfare-hub/fanfare/internal/audit"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/internal/poll"
	"github.com/fanfare-hub/fanfare/internal/problem"
)

// Options set up Streams. All fields but those with a default are required.
type Options struct {
	Hub        *hub.Hub
	Problems   *problem.Writer
	Logger     *slog.Logger
	Limits     Limits
	Heartbeat  time.Duration   // a stream that is idle for this long sends a sign of life
	Adapters   []string        // adapters that will use it: labels that are there from the beginning
	BareType   bool            // send the content type without charset
	StallLimit time.Duration   // end a stream whose peer takes no bytes for this long; default 30 s
	Attached   bool            // serve each stream in a goroutine of its own, also if it could be detached
	Stopping   <-chan struct{} // closed when requests must end

	Audit *audit.Trail // may be nil

	// TicketOpened notes that a stream was opened by ticket. StillMay is asked again once a
	// revocation can find the stream. Step is told of the first delivery of a traced event. Each
	// may be nil.
	TicketOpened func(context.Context, *fanfare.Principal) error
	StillMay     func(*fanfare.Principal) error
	Step         func(traceparent, name string, began, ended time.Time)
}

// Streams serves streams. Its methods may be called from any goroutine.
type Streams struct {
	o Options

	counts  counts
	clock   poll.Clock
	house   house
	shards  shards
	places  *places
	open    *registry
	tickets *tickets
	pacer   *pacer
	holds   holds
	warned  atomic.Int64 // when warnOfCuts last did, in seconds since 1970
}

// New returns Streams.
func New(o Options) *Streams {
	if o.StallLimit == 0 {
		o.StallLimit = 30 * time.Second
	}
	s := &Streams{
		o: o, clock: poll.NewClock(), places: newPlaces(o.Limits), open: newRegistry(o.Adapters), tickets: newTickets(),
		pacer: newPacer(cmp.Or(o.Limits.RefusalsHeld, 1000), cmp.Or(o.Limits.RefusalsHeldPerAddress, 32)),
	}
	s.house = house{time.Now, s.comeBack}
	return s
}

// counts are the counters behind Stats.
type counts struct {
	refused, withheld             atomic.Uint64
	delivered, replayed           atomic.Uint64
	deliveredBytes, replayedBytes atomic.Uint64
	ended                         [len(endReasons)]atomic.Uint64 // by EndReason
	delivery                      histogram.Histogram
}

// noteWithheld counts events that a stream may not hear though it was admitted.
func (s *Streams) noteWithheld(n int) {
	if s.counts.withheld.Add(uint64(n)) == uint64(n) {
		s.o.Logger.Error("an event was withheld from a stream that may not hear it: this is a fault of the hub")
	}
}

func (s *Streams) panicked(p any, stack []byte) {
	s.o.Logger.Error("a stream panicked", slog.Any("panic", p), slog.String("stack", string(stack)))
}

// Stats are counts since New.
type Stats struct {
	Open           map[string]int    // now, by adapter
	Opened         map[string]uint64 // by adapter
	Refused        uint64            // no room, draining, or the log could not be read
	RefusalsPaced  uint64            // refusals of streams, for any reason, whose answer waited
	RefusalsHeld   int               // refusals that wait now
	RefusalsCut    uint64            // connections closed unanswered, because too many waited
	Stopped        uint64            // answered 204: another client uses the ticket
	Ended          map[string]uint64 // by reason
	Delivered      uint64            // events handed to the kernel, the last one of a stream perhaps in part
	Replayed       uint64            // of these, the ones read from the log
	DeliveredBytes uint64            // of events, as they are on the wire
	ReplayedBytes  uint64            // of these, of events read from the log
	Withheld       uint64            // replayed events that the caller may not hear

	// Delivery is from the hub's hearing of an event until it was handed to the kernel, replays
	// left out.
	Delivery histogram.Counts
}

// Stats returns the counts.
func (s *Streams) Stats() Stats {
	c := &s.counts
	st := Stats{
		Refused: c.refused.Load(), Stopped: s.tickets.stopped.Load(),
		RefusalsPaced: s.pacer.paced.Load(), RefusalsHeld: s.pacer.waiting(), RefusalsCut: s.pacer.cut.Load(),
		Ended: map[string]uint64{}, Withheld: c.withheld.Load(), Delivery: c.delivery.Counts(),
		Delivered: c.delivered.Load(), DeliveredBytes: c.deliveredBytes.Load(),
		Replayed: c.replayed.Load(), ReplayedBytes: c.replayedBytes.Load(),
	}
	st.Open, st.Opened = s.open.counts()
	for reason := goesOn + 1; int(reason) < len(endReasons); reason++ {
		st.Ended[reason.String()] = c.ended[reason].Load()
	}
	return st
}

// end counts the end of a stream and writes it to the audit trail. The stream can no longer be
// found.
func (s *Streams) end(st *Stream, reason EndReason) {
	s.leave(st)
	s.counts.ended[reason].Add(1)
	if s.o.Audit != nil {
		s.o.Audit.Record(
			audit.StreamEnded,
			st.caller,
			slog.Uint64("stream", st.id),
			slog.String("reason", reason.String()),
			slog.Uint64("events", st.events.Load()),
			slog.Duration("after", s.clock.Now().Sub(st.began)),
		)
	}
	s.o.Logger.Debug("stream ended", slog.Any("reason", reason), slog.String("remote", st.caller.Remote()))
}

// discard gives back the places that a stream has taken. It has ended, or has never run.
func (s *Streams) discard(st *Stream) {
	s.places.giveBack(st.caller, st.sub.Patterns())
	st.sub.Close()
}

// Close ends the streams that have not ended by themselves, and the waiting refusals, and waits
// until they have ended. Streams with a goroutine of their own end with their requests.
func (s *Streams) Close() {
	s.holds.close()
	s.shards.close()
}
