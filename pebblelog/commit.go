package pebblelog

import (
	"fmt"
	"time"
)

// committer has groups applied, one after the other, and makes them durable and visible. It is two
// goroutines, with at most two groups between them.
type committer struct {
	// Fixed after openSession.
	session *session
	slots   chan struct{} // one for each group in flight
	written chan *group   // from commitLoop to publishLoop
	turned  chan struct{} // one token: a group has become visible

	applier applier // owned by commitLoop
}

func newCommitter(s *session) *committer {
	turned := make(chan struct{}, 1)
	return &committer{
		session: s, slots: make(chan struct{}, 2), written: make(chan *group, 2), turned: turned,
		applier: applier{catalog: s.catalog, retention: s.retention, turned: turned,
			dueChanged: make(chan struct{}, 1)},
	}
}

// commitLoop takes groups from the order, and has each applied and handed to the WAL.
func (c *committer) commitLoop() {
	s := c.session
	defer close(c.written)
	for {
		select {
		case c.slots <- struct{}{}:
		case <-s.dead:
			return
		}
		g := s.log.order.next(s)
		if g == nil {
			return
		}
		err := s.guard(func() error {
			if err := s.retention.records.sweep(g.terms); err != nil {
				return err
			}
			return c.applier.apply(g)
		})
		if err != nil {
			s.fail(fmt.Errorf("commit: %w", err)) // fail has the group answered
			return
		}
		c.written <- g // has room: there are as many slots
	}
}

// publishLoop waits for each group's fsync, then makes it visible and answers: P1, in this order.
func (c *committer) publishLoop() {
	s := c.session
	for g := range c.written {
		if g.batch != nil {
			err := s.guard(g.batch.SyncWait)
			if err != nil {
				s.fail(fmt.Errorf("sync the log: %w", err))
				return
			}
			s.log.stats.fsync.Observe(time.Since(g.handed))
			_ = g.batch.Close()
		}
		if !s.isDead() {
			s.tip.reach(g.last)
		}
		if !c.makeVisible(g) {
			return
		}
		select {
		case c.turned <- struct{}{}:
		default:
		}
		s.log.proposals.answer(g)
		<-c.slots
	}
}

// makeVisible moves the durable position, and tells the watchers. It returns false, and does
// nothing, when the session has failed meanwhile, because its successor will tell them.
func (c *committer) makeVisible(g *group) bool {
	l := c.session.log
	l.watchers.Lock()
	defer l.watchers.Unlock()
	if c.session.isDead() {
		return false
	}
	data := uint64(0)
	for i, st := range g.states {
		data += uint64(len(g.events[i].Data))
		st.lastBytes.Add(uint64(len(g.events[i].Data)))
		st.lastSeq.Add(1)
	}
	l.durable.Store(uint64(g.last))
	l.ids.Store(uint64(g.ids))
	c.session.catalog.parting.gone(g.left)
	for _, st := range g.states {
		st.inFlight.Add(-1) // only now may the state be dropped, because it is loaded up to the durable position
	}
	l.stats.groups.Add(1)
	l.stats.events.Add(uint64(len(g.events)))
	l.stats.bytes.Add(data)
	if len(g.events) > 0 {
		for _, w := range l.watchers.list {
			w.w.Committed(g.events, g.last)
		}
	}
	return true
}
