package pebblelog

import (
	"time"

	"github.com/fanfare-hub/fanfare"
)

// order decides which requests come one after the other, in which groups, and at which time. All
// that a log holds follows from the groups in their order. The log's own order is its queue; another
// may come from outside, and then each log that is fed with it holds the same.
type order interface {
	// propose hands in a request, which is answered when its group is durable. It does not block; a
	// refusal is answered before it returns.
	propose(r *request)

	// next waits for the next group of a session. It is nil when the log closes or the session fails.
	next(s *session) *group

	// now is the time of the log. Nothing is hidden or deleted by a later one.
	now() moment
}

// queueOrder is the order of a log that stands alone: its queue, and its own clock.
type queueOrder struct{ *Log }

func (o queueOrder) propose(r *request) { o.enqueue(r) }
func (o queueOrder) now() moment        { return o.clock.look() }

// next takes what waits as a group. A group that the disk has no room for is refused.
func (o queueOrder) next(s *session) *group {
	for {
		s.awaitRoom()
		g := s.take()
		if g == nil {
			return nil
		}
		if err := o.checkFree(); err != nil {
			s.refuse(g, err)
			continue
		}
		o.board(g)
		g.terms.at, g.terms.phases = o.clock.group(s.committer.applier.next)
		g.terms.keyMemory = o.opts.KeyMemory
		return g
	}
}

// take waits for something in the queue and takes it as a group. It returns nil when the log closes or the session fails.
func (s *session) take() *group {
	l := s.log
	for {
		l.mu.Lock()
		if len(l.queue) > 0 && !s.isDead() {
			g := &group{began: time.Now()}
			n := 0
			for n < len(l.queue) && n < maxGroupRequests && (n == 0 || g.bytes+l.queue[n].bytes <= maxGroupBytes) {
				g.bytes += l.queue[n].bytes
				n++
			}
			g.requests = l.queue[:n:n]
			l.queue = l.queue[n:]
			if len(l.queue) == 0 {
				l.queue = nil
			}
			l.queueBytes -= g.bytes
			l.inflight = append(l.inflight, g)
			l.mu.Unlock()
			return g
		}
		closing := l.closing
		l.mu.Unlock()
		if closing {
			return nil
		}
		select {
		case <-l.wake:
		case <-s.dead:
			return nil
		case <-l.stop:
		}
	}
}

// refuse answers a group that is not stored.
func (s *session) refuse(g *group, err error) {
	for _, r := range g.requests {
		r.err = err
	}
	s.log.stats.refused.Add(uint64(len(g.requests)))
	s.answer(g)
}

// command has a command applied, and waits until that is durable. It is refused as an Append is.
func (l *Log) command(c command) error {
	done := make(chan error, 1)
	l.order.propose(&request{batch: &fanfare.Batch{}, command: c, bytes: 64, done: func(_ fanfare.Receipt, err error) { done <- err }})
	return <-done
}
