package pebblelog

import (
	"github.com/fanfare-hub/fanfare"
)

// order decides in which order requests are stored, in which groups, and at which time. The
// contents of a log follow from the groups in their order. The order of a log that stands alone is
// that of its queue. Another order may come from outside; then all logs that are fed with it hold
// the same.
type order interface {
	// propose hands in a request, which is answered when its group is durable. It does not block; a
	// refusal is answered before it returns.
	propose(r *request)

	// next waits for the next group of a session. It returns nil when the log closes or the session
	// fails.
	next(s *session) *group

	// now returns the time of the log. No event is hidden or deleted by a later time.
	now() moment
}

// queueOrder is the order of a log that stands alone: its queue, and its own clock.
type queueOrder struct{ *Log }

func (o queueOrder) propose(r *request) { o.proposals.add(r) }
func (o queueOrder) now() moment        { return o.clock.look() }

// next makes a group of the queued requests. It refuses a group for which the disk has no room.
func (o queueOrder) next(s *session) *group {
	for {
		o.upkeep.awaitRoom(s)
		g := o.proposals.take(s.dead)
		if g == nil {
			return nil
		}
		if err := o.upkeep.checkFree(); err != nil {
			o.proposals.refuse(g, err)
			continue
		}
		o.proposals.board(g)
		g.terms.at, g.terms.phases = o.clock.group(s.committer.applier.next)
		g.terms.keyMemory, g.terms.mostWaiting = o.opts.KeyMemory, uint64(o.opts.MaxScheduledBytes)
		return g
	}
}

// command proposes a command, and waits until its group is durable. It may be refused, as an Append
// may.
func (l *Log) command(c command) error {
	done := make(chan error, 1)
	l.order.propose(&request{batch: &fanfare.Batch{}, command: c, bytes: 64,
		done: func(_ fanfare.Receipt, err error) { done <- err }})
	return <-done
}
