package pebblelog

import (
	"fmt"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// commitLoop is the committer.
func (s *session) commitLoop() {
	defer close(s.written)
	for {
		select {
		case s.slots <- struct{}{}:
		case <-s.dead:
			return
		}
		g := s.log.order.next(s)
		if g == nil {
			return
		}
		err := s.guard(func() error {
			if err := s.records.sweep(g.terms); err != nil {
				return err
			}
			return s.applier.apply(g)
		})
		if err != nil {
			s.fail(fmt.Errorf("commit: %w", err)) // which answers the group
			return
		}
		s.written <- g // has room: there are as many slots
	}
}

// publishLoop waits for each group's fsync, then makes it visible and answers: P1, in this order.
func (s *session) publishLoop() {
	for g := range s.written {
		if g.batch != nil {
			err := s.guard(g.batch.SyncWait)
			if err != nil {
				s.fail(fmt.Errorf("sync the log: %w", err))
				return
			}
			s.log.fsync.Observe(time.Since(g.handed))
			_ = g.batch.Close()
		}
		if !s.isDead() {
			s.tip.reach(g.last)
		}
		if !s.makeVisible(g) {
			return
		}
		select {
		case s.turned <- struct{}{}:
		default:
		}
		s.answer(g)
		<-s.slots
	}
}

// makeVisible moves the durable position and tells the watchers; not when the session has failed meanwhile, because its
// successor will tell.
func (s *session) makeVisible(g *group) bool {
	l := s.log
	l.tell.Lock()
	defer l.tell.Unlock()
	if s.isDead() {
		return false
	}
	data := uint64(0)
	for i, st := range g.states {
		data += uint64(len(g.events[i].Data))
		st.lastBytes.Add(uint64(len(g.events[i].Data)))
		st.lastSeq.Add(1)
	}
	l.durable.Store(uint64(g.last))
	for _, st := range g.states {
		st.inFlight.Add(-1) // only now may the state be let go, and loaded again up to the durable position
	}
	l.stats.groups.Add(1)
	l.stats.events.Add(uint64(len(g.events)))
	l.stats.bytes.Add(data)
	if len(g.events) > 0 {
		for _, w := range l.watchers {
			w.w.Committed(g.events, g.last)
		}
	}
	return true
}

// answer calls the group's callbacks, unless somebody has answered for it.
func (s *session) answer(g *group) {
	l := s.log
	l.mu.Lock()
	for i, other := range l.inflight {
		if other == g {
			l.inflight = append(l.inflight[:i], l.inflight[i+1:]...)
			break
		}
	}
	answered := g.answered
	g.answered = true
	l.mu.Unlock()
	if answered {
		return
	}
	for _, r := range g.requests {
		if r.err != nil {
			r.done(fanfare.Receipt{}, r.err)
		} else {
			r.done(r.receipt, nil)
		}
	}
}
