package pebblelog

import (
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// A group is bounded, so that one commit does not hold up what comes after it.
const (
	maxGroupBytes    = 4 << 20
	maxGroupRequests = 8192
)

// request is one Append on its way, or a command of the log's own.
type request struct {
	batch   *fanfare.Batch
	command command // instead of batch
	done    func(fanfare.Receipt, error)
	bytes   int
	receipt fanfare.Receipt
	err     error
	one     [1]fanfare.Position // room for the commonest receipt
}

// command is a change that only a group can make, because it has to happen between two others. It
// is a value: what it does follows from it, from the group's terms, and from the groups before it.
type command interface{ apply(*groupWriter) error }

// barrier does nothing. When it has been answered, what was proposed before it has been applied.
type barrier struct{}

func (barrier) apply(*groupWriter) error { return nil }

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

// terms are what a group is decided by, beside its requests and the groups before it. Whoever
// orders groups sets them, and apply decides by no clock and no setting of its own.
type terms struct {
	at        moment        // the group's time: not before that of the group before
	phases    bool          // the phases in at are not those of the group before: they are stored
	keyMemory time.Duration // how long idempotency keys are remembered

	mostWaiting uint64 // bytes of scheduled events
}

// group is what one fsync makes durable.
type group struct {
	// Set by the order.
	requests []*request
	terms    terms
	bytes    int
	began    time.Time

	// Set by apply.
	events []fanfare.Event
	states []*channelState // of each event
	batch  *pebble.Batch   // nil when there is nothing to write
	handed time.Time       // when it was handed to the WAL
	last   fanfare.Position
	ids    fanfare.ScheduledID // the highest that was given so far

	answered bool // guarded by proposals.mu: the requests have been answered
}
