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

// EndReason says why a stream ended; it is a metric's label.
type EndReason string

// The reasons.
const (
	EndLifetime EndReason = "lifetime" // its time was over
	EndDrain    EndReason = "drain"    // the hub shuts down
	EndGone     EndReason = "gone"     // the peer closed the connection, or vanished
	EndStalled  EndReason = "stalled"  // the peer took nothing for StallLimit
	EndFlood    EndReason = "flood"    // the peer kept sending bytes after its request
	EndFailed   EndReason = "failed"   // the stream could not be begun

	EndExpired      EndReason = "expired"      // the token's time was over (P8)
	EndRevoked      EndReason = "revoked"      // the token, key or subject was revoked
	EndDisconnected EndReason = "disconnected" // an operator wanted it
	EndReplaced     EndReason = "replaced"     // a newer stream was opened with the same ticket
)

// EndReasons lists them.
var EndReasons = []EndReason{
	EndLifetime,
	EndDrain,
	EndGone,
	EndStalled,
	EndFlood,
	EndFailed,
	EndExpired,
	EndRevoked,
	EndDisconnected,
	EndReplaced,
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
	s.counts.ended = map[EndReason]*atomic.Uint64{}
	for _, reason := range EndReasons {
		s.counts.ended[reason] = new(atomic.Uint64)
	}
	return s
}

// counts are the counters behind Stats.
type counts struct {
	refused, withheld             atomic.Uint64
	delivered, replayed           atomic.Uint64
	deliveredBytes, replayedBytes atomic.Uint64
	ended                         map[EndReason]*atomic.Uint64 // fixed keys
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
	Ended          map[EndReason]uint64
	Delivered      uint64 // events handed to the kernel, the last one of a stream perhaps in part
	Replayed       uint64 // of these, the ones read from the log
	DeliveredBytes uint64 // of events, as they are on the wire
	ReplayedBytes  uint64 // of these, of events read from the log
	Withheld       uint64 // replayed events that the caller may not hear

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
		Ended: map[EndReason]uint64{}, Withheld: c.withheld.Load(), Delivery: c.delivery.Counts(),
		Delivered: c.delivered.Load(), DeliveredBytes: c.deliveredBytes.Load(),
		Replayed: c.replayed.Load(), ReplayedBytes: c.replayedBytes.Load(),
	}
	st.Open, st.Opened = s.open.counts()
	for reason, n := range c.ended {
		st.Ended[reason] = n.Load()
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
			slog.String("reason", string(reason)),
			slog.Uint64("events", st.events.Load()),
			slog.Duration("after", time.Since(st.began)),
		)
	}
	s.o.Logger.Debug("stream ended", slog.String("reason", string(reason)), slog.String("remote", st.caller.Remote))
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
