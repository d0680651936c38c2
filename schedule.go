package fanfare

import (
	"context"
	"time"
)

// Scheduler is the part of an engine that publishes events later (Batch.DeliverAt); an engine that
// implements Log implements it too. A scheduled event is durable, survives restarts and backups,
// and is no event of its channel until it is due: then it gets a position, as if it had been
// published at that moment. Events are published in the order of their times. Events that were due
// while the log was closed are published when it is opened, except those that have expired by then.
type Scheduler interface {
	// ScheduledAt returns the scheduled event with an id; false when there is none, because it was
	// published or canceled, or never was. It may touch the disk.
	ScheduledAt(ctx context.Context, id ScheduledID) (ScheduledEvent, bool, error)

	// Scheduled returns the scheduled events of patterns, in the order of their times. It may touch
	// the disk. It does a bounded amount of work: a page may be empty and still have a Next.
	Scheduled(ctx context.Context, q ScheduledQuery) (ScheduledPage, error)

	// Cancel deletes a scheduled event, and returns when that is as durable as the log's setting
	// says. It returns false when there is none. Errors are those of Log.Append.
	Cancel(ctx context.Context, id ScheduledID) (bool, error)
}

// ScheduledID names a scheduled event. Ids rise, and none is given twice. Zero is none.
type ScheduledID uint64

// String returns the fixed-width text, which is like a position's.
func (id ScheduledID) String() string { return Position(id).String() }

// ParseScheduledID reads what String wrote, and nothing else. Any other text is CodeInvalid.
func ParseScheduledID(text string) (ScheduledID, error) {
	p, err := ParsePosition(text)
	if err != nil {
		return 0, Invalid("%q is not the id of a scheduled event", clip(text))
	}
	return ScheduledID(p), nil
}

// ScheduledEvent is an event that is to be published later.
type ScheduledEvent struct {
	ID        ScheduledID
	DeliverAt time.Time
	TTL       time.Duration // counted from DeliverAt; zero: it never expires
	With      Position      // the first event of the batch that it was stored with; zero: it was stored alone
	Event     Event         // without Position, Time and Expires
}

// Later is an event of Batch.Later.
type Later struct {
	ID    ScheduledID // chosen by the publisher, who makes sure that it is new
	At    time.Time   // when it is published
	Event Event
}

// ScheduledQuery asks for scheduled events.
type ScheduledQuery struct {
	Patterns []Pattern
	After    ScheduledCursor // those that follow it
	// ByChannel asks for the events of one exact channel, or of a pattern that ends with a segment
	// `*`, by the names of their channels. It reads no others. After counts for one exact channel
	// only, and by the id; the answer for more than that ends at Limit and Bytes.
	ByChannel bool
	Limit     int // most events to return; zero is 256
	Bytes     int // stop after this many bytes of data; zero is 256 KiB
}

// ScheduledCursor is a place among the scheduled events. The zero value stands before the first.
type ScheduledCursor struct {
	At time.Time // to the millisecond
	ID ScheduledID
}

// ScheduledPage is an answer to a ScheduledQuery.
type ScheduledPage struct {
	Events []ScheduledEvent
	Next   ScheduledCursor // where the next page begins, when More
	More   bool
}

// The limits of times that publishers give.
const (
	MinTTL      = time.Second
	MaxTTL      = 365 * 24 * time.Hour
	MaxDeferral = 365 * 24 * time.Hour // the furthest that DeliverAt may lie ahead
)

// CheckTTL refuses with CodeInvalid how long an event is not to live: less than MinTTL, or more
// than MaxTTL. Zero is no limit.
func CheckTTL(ttl time.Duration) error {
	if ttl != 0 && (ttl < MinTTL || ttl > MaxTTL) {
		return Invalid("ttl is %v, it is from 1s to 365d", ttl)
	}
	return nil
}

// CheckDeliverAt refuses with CodeInvalid a time that is not after now, or further ahead than
// MaxDeferral.
func CheckDeliverAt(at, now time.Time) error {
	switch ahead := at.Sub(now); {
	case ahead <= 0:
		return Invalid("deliverAt is %s, which is past: it is %s", at.UTC().Format(time.RFC3339Nano),
			now.UTC().Format(time.RFC3339Nano))
	case ahead > MaxDeferral:
		return Invalid("deliverAt is %s, which is more than 365d ahead", at.UTC().Format(time.RFC3339Nano))
	}
	return nil
}
