package pebblelog

import (
	"github.com/fanfare-hub/fanfare"
)

// order decides which requests come one after the other, in which groups, and at which time. All
// that a log holds follows from the groups in their order. The log's own order is its queue;
// another may come from outside, and then each log that is fed with it holds the same.
type order interface {
	// propose hands in a request, which is answered when its group is durable. It does not block; a
	// refusal is answered before it returns.
	propose(r *request)

	// next waits for the next group of a session. It is nil when the log closes or the session
	// fails.
	next(s *session) *group

	// now is the time of the log. Nothing is hidden or deleted by a later one.
	now() moment
}

// queueOrder is the order of a log that stands alone: its queue, and its own clock.
type queueOrder struct{ *Log }

func (o queueOrder) propose(r *request) { o.proposals.add(r) }
func (o queueOrder) now() moment        { return o.clock.look() }

// next takes what waits as a group. A group that the disk has no room for is refused.
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

// command has a command applied, and waits until that is durable. It is refused as an Append is.
func (l *Log) command(c command) error {
	done := make(chan error, 1)
	l.order.propose(&request{batch: &fanfare.Batch{}, command: c, bytes: 64,
		done: func(_ fanfare.Receipt, err error) { done <- err }})
	return <-done
}
