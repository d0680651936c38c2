package pebblelog

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/fanfare-hub/fanfare"
)

// rideMost is the number of positions that may ride with one group. Their bytes, and the time to
// gather them, are a small part of an fsync's.
const rideMost = 1000

// riders are asked for positions that can be stored with a group that is written anyway.
type riders struct {
	any atomic.Bool // there are riders; so a commit without them costs no more than a look at this

	mu   sync.Mutex // guards the field below; held while riders are asked
	list []*rider
}

type rider struct{ fanfare.Rider }

// Ride implements fanfare.Keeper. When stop has returned, r is not asked any more; but done of an
// earlier answer of r may still be called.
func (l *Log) Ride(r fanfare.Rider) (stop func()) {
	entry := &rider{r}
	l.proposals.riders.mu.Lock()
	defer l.proposals.riders.mu.Unlock()
	l.proposals.riders.list = append(l.proposals.riders.list, entry)
	l.proposals.riders.any.Store(true)
	return func() {
		l.proposals.riders.mu.Lock()
		defer l.proposals.riders.mu.Unlock()
		l.proposals.riders.list = slices.DeleteFunc(l.proposals.riders.list,
			func(other *rider) bool { return other == entry })
		l.proposals.riders.any.Store(len(l.proposals.riders.list) > 0)
	}
}

// board adds the riders' positions to a group, as requests of their own, which are answered or
// refused with the others.
func (p *proposals) board(g *group) {
	if !p.riders.any.Load() {
		return
	}
	p.riders.mu.Lock()
	defer p.riders.mu.Unlock()
	room := rideMost
	for _, one := range p.riders.list {
		if room <= 0 {
			return
		}
		keep, done := one.Board(room)
		if len(keep) == 0 {
			continue
		}
		room -= len(keep)
		r := &request{batch: &fanfare.Batch{Keep: keep}, done: func(_ fanfare.Receipt, err error) { done(err) }}
		p.mu.Lock()
		late := g.answered // the group has taken too long, or the log has failed
		if !late {
			g.requests = append(g.requests, r)
		}
		p.mu.Unlock()
		if late {
			done(fanfare.Unavailable("the log cannot store at present", nil))
		}
	}
}
