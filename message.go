package fanfare

import (
	"context"
	"time"
)

// Message is an event that a Go program wants to publish.
type Message struct {
	Channel string // its name; see ParseChannel
	Type    string // the event's type; empty is `message`; see ParseEventType
	Data    string // UTF-8 text

	// Key is an idempotency key: 1 to 128 characters of printable ASCII; empty is none. A second
	// message to the channel under the same key is not stored, and gets the first one's position.
	// Keys are remembered for ten minutes, across restarts.
	Key string

	// If says which event must be the newest of the channel; the zero Condition is none. When it is
	// not met, no message of the call is stored, and the error has CodePreconditionFailed. A call
	// has at most one condition for each channel, and all are decided before its messages are
	// stored. A message that was stored before under its Key is answered as that, whatever its
	// condition says now.
	If Condition

	// TTL is how long the event lives, from MinTTL to MaxTTL: once it has passed, the event is
	// neither delivered nor read any more, and that is no gap. Zero is for ever, or as long as
	// retention keeps it.
	TTL time.Duration

	// DeliverAt, or DeliverIn, has the message stored now, durably, and published then: at a time,
	// or so long after it was stored, at most MaxDeferral ahead. Its TTL counts from then. It is
	// the only message of its call, and has no condition. The receipt has a ScheduledID by which it
	// can be canceled.
	DeliverAt time.Time
	DeliverIn time.Duration
}

// Subscription says which patterns a Go program listens to, and where it starts. At most one of
// All, Latest, Last, Since and After is set; with none of them the subscription starts at the
// newest event.
type Subscription struct {
	Patterns []string // channels, or patterns with wildcards; at least one; see ParsePattern

	// Conflate says that a loop that lags wants only the newest event of each channel, as a board
	// does that shows how things are. Positions go on rising, and a loop that never lags gets every
	// event.
	Conflate bool

	All    bool      // first, everything that is retained
	Latest bool      // first, the newest event of each channel
	Last   int       // start with this many of the newest events
	Since  time.Time // first, the events of this time and later
	After  Position  // start after this position; a gap tells of events that are missing there
}

// Delivery is an event, or a gap.
type Delivery struct {
	Event Event // the zero Event with a gap
	Gap   *Gap  // events may be missing before the next one; nil with an event
}

// Position is the position to carry on from: a Subscription with it as After gets the events that
// follow this delivery.
func (d Delivery) Position() Position {
	if d.Gap != nil {
		return d.Gap.Oldest - 1
	}
	return d.Event.Position
}

// Gap tells a subscriber that events may be missing (P4).
type Gap struct {
	Requested string   // the position that was asked for, as a text; with GapUnknown any text
	Oldest    Position // the first event that follows, or the position that the next event will get
	Reason    GapReason
}

// Appender is the part of a Log that Append needs.
type Appender interface {
	Append(b *Batch, done func(Receipt, error))
}

// Append stores b and waits for the answer, or until ctx is done: then b may have been stored all
// the same. It is Log.Append for a caller whose goroutine can wait; errors and ownership are as
// there.
func Append(ctx context.Context, l Appender, b *Batch) (Receipt, error) {
	type answer struct {
		receipt Receipt
		err     error
	}
	answered := make(chan answer, 1)
	l.Append(b, func(r Receipt, err error) { answered <- answer{r, err} })
	select {
	case a := <-answered:
		return a.receipt, a.err
	case <-ctx.Done():
		return Receipt{}, ctx.Err()
	}
}
