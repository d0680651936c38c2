package pebblelog

import (
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// The limits of a group, so that one commit does not hold up later requests.
const (
	maxGroupBytes    = 4 << 20
	maxGroupRequests = 8192
)

// request is one Append, or one command of the log's own, until it is answered.
type request struct {
	batch   *fanfare.Batch
	command command // instead of batch
	done    func(fanfare.Receipt, error)
	bytes   int
	receipt fanfare.Receipt
	err     error
	one     [1]fanfare.Position // room for the commonest receipt
}

// command is a change that has its place between other requests, and so is part of a group. It is a
// value: its effect follows from it, from the group's terms, and from the groups before it.
type command interface{ apply(*groupWriter) error }

// barrier does nothing. When it is answered, all requests that were proposed before it have been
// applied.
type barrier struct{}

func (barrier) apply(*groupWriter) error { return nil }

// batchBytes estimates the bytes that a batch takes in the queue.
func batchBytes(b *fanfare.Batch) int {
	n := 64
	for i := range b.Events {
		n += len(b.Events[i].Data) + len(b.Events[i].Channel.String()) + 96
	}
	for i := range b.Keep {
		n += 64 + len(b.Keep[i].Value)
	}
	return n
}

func (r *request) setPositions(first fanfare.Position, n int) {
	positions := r.one[:0]
	if n > 1 {
		positions = make([]fanfare.Position, 0, n)
	}
	for i := range n {
		positions = append(positions, first+fanfare.Position(i))
	}
	r.receipt.Positions = positions
}

// terms are all that a group is decided by, besides its requests and the groups before it. The
// order sets them, so that apply decides by no clock and no setting of its own.
type terms struct {
	at        moment        // the group's time: not before that of the group before
	phases    bool          // the phases in at are not those of the group before, and must be stored
	keyMemory time.Duration // the time for which idempotency keys are remembered

	mostWaiting uint64 // bytes of scheduled events
}

// group is some requests that one fsync makes durable, and their results.
type group struct {
	// Set by the order.
	requests []*request
	terms    terms
	bytes    int
	taken    time.Time // from the queue

	// Set by apply.
	events []fanfare.Event
	states []*channelState // of each event
	batch  *pebble.Batch   // nil when there is nothing to write
	handed time.Time       // to the WAL
	last   fanfare.Position
	ids    fanfare.ScheduledID   // the highest that has been given
	left   []fanfare.ScheduledID // scheduled events that the group has removed

	answered bool // guarded by proposals.mu: the requests have been answered
}
