package hub

import (
	"context"
	"slices"
	"sync"
)

// permits limits the reads of the log at one time. A read needs a permit. Readers that wait for one
// queue per owner, and the owners are served in rotation, so that one owner with very many streams
// holds up that owner alone.
//
// An owner gets a permit only while it has fewer than are free. So an owner that is alone has at
// most half of them, two owners soon have a third each, and there is always a free permit for the
// next owner, until there are as many owners as permits. A permit is held for a short time, because
// a subscriber with much to read reads a piece, gives the permit back and queues again.
type permits struct {
	mu     sync.Mutex // guards the fields below
	free   int
	owners map[string]*owner // owners with a permit, or with a waiter
	ring   []*owner          // owners with a waiter; the first one that may have a permit is next
	waits  uint64            // waiters that there have been
}

type owner struct {
	name  string
	held  int // permits
	queue []waiter
}

// waiter is a goroutine that waits for a permit, or a subscriber whose read starts in a goroutine
// of its own when it gets one.
type waiter struct {
	granted chan struct{} // closed when the goroutine gets its permit; nil for a subscriber
	sub     *Subscriber
}

func newPermits(most int) *permits {
	return &permits{free: most, owners: map[string]*owner{}}
}

// enter waits for a permit, which leave gives back. An error is ctx's; then there is no permit.
func (p *permits) enter(ctx context.Context, name string) error {
	w := waiter{granted: make(chan struct{})}
	if p.take(name, w) {
		return nil
	}
	select {
	case <-w.granted:
		return nil
	case <-ctx.Done():
	}
	if !p.remove(name, w) {
		p.leave(name) // the permit was granted meanwhile
	}
	return ctx.Err()
}

// queue has the subscriber read as soon as it gets a permit, which leave gives back.
func (p *permits) queue(name string, s *Subscriber) {
	if p.take(name, waiter{sub: s}) {
		go s.readNow()
	}
}

// cancel takes back a call of queue; false when the subscriber has its permit already.
func (p *permits) cancel(name string, s *Subscriber) bool { return p.remove(name, waiter{sub: s}) }

// take takes a permit; false when there is none for this owner, and w waits for it.
func (p *permits) take(name string, w waiter) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.owners[name]
	if o == nil {
		o = &owner{name: name}
		p.owners[name] = o
	}
	if len(o.queue) == 0 && o.held < p.free {
		p.free--
		o.held++
		return true
	}
	p.waits++
	if o.queue = append(o.queue, w); len(o.queue) == 1 {
		p.ring = append(p.ring, o)
	}
	return false
}

// remove takes w out of the queue; false when w is no longer in it.
func (p *permits) remove(name string, w waiter) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.owners[name]
	if o == nil {
		return false
	}
	i := slices.Index(o.queue, w)
	if i < 0 {
		return false
	}
	if o.queue = slices.Delete(o.queue, i, i+1); len(o.queue) == 0 {
		i := slices.Index(p.ring, o)
		p.ring = slices.Delete(p.ring, i, i+1)
	}
	p.forgetLocked(o)
	return true
}

// forgetLocked removes an owner that has neither a permit nor a waiter.
func (p *permits) forgetLocked(o *owner) {
	if o.held == 0 && len(o.queue) == 0 {
		delete(p.owners, o.name)
	}
}

// leave gives a permit back, and grants the free permits to waiters.
func (p *permits) leave(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free++
	o := p.owners[name]
	o.held--
	p.forgetLocked(o)
	for p.free > 0 {
		i := slices.IndexFunc(p.ring, func(o *owner) bool { return o.held < p.free })
		if i < 0 {
			return
		}
		p.grantLocked(i)
	}
}

// grantLocked grants a permit to the first waiter of an owner in the ring, and moves the owner to
// the ring's back.
func (p *permits) grantLocked(i int) {
	o := p.ring[i]
	next := o.queue[0]
	o.queue[0] = waiter{}
	o.queue = o.queue[1:]
	p.free--
	o.held++
	p.ring = slices.Delete(p.ring, i, i+1)
	if len(o.queue) > 0 {
		p.ring = append(p.ring, o)
	}
	if next.granted != nil {
		close(next.granted)
	} else {
		go next.sub.readNow()
	}
}

// stats returns the number of waiters now, and the number of all waiters so far.
func (p *permits) stats() (waiting int, waits uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.ring {
		waiting += len(o.queue)
	}
	return waiting, p.waits
}

// Replay waits for a permit of the owner to read the log, and then calls read. Streams that catch
// up need such a permit too; code that reads much of the log should read by Replay, so that it
// waits among them. It returns read's error, or ctx's. It may be called from any goroutine.
func (h *Hub) Replay(ctx context.Context, owner string, read func() error) error {
	if err := h.replays.enter(ctx, owner); err != nil {
		return err
	}
	defer h.replays.leave(owner)
	return read()
}
