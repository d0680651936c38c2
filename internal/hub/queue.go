package hub

import (
	"context"
	"slices"
	"sync"
)

// turnstile lets only so many read the log at once. Those who wait queue per owner, and the owners
// take turns, so that a herd of one owner's streams holds up that owner alone.
//
// An owner takes another turn only while it has fewer than are free. So one that is alone has half
// of them at most, two have a third each, and there is always a free one for the next owner, until
// there are as many owners as turns. A turn is short, because whoever has much to read reads a
// piece, gives the turn back and queues again.
type turnstile struct {
	mu     sync.Mutex // guards the fields below
	free   int
	owners map[string]*owner // those with a turn, or somebody waiting
	ring   []*owner          // those with somebody waiting; the first that may take a turn is next
	waits  uint64
}

type owner struct {
	name  string
	held  int // turns
	queue []waiter
}

// waiter is a goroutine that waits, or a subscriber whose read takes one when it is its turn.
type waiter struct {
	turn chan struct{} // closed when it is its turn
	sub  *Subscriber
}

func newTurnstile(most int) *turnstile {
	return &turnstile{free: most, owners: map[string]*owner{}}
}

// enter waits for a turn; leave must follow it unless there is an error, which is ctx's.
func (t *turnstile) enter(ctx context.Context, name string) error {
	w := waiter{turn: make(chan struct{})}
	if t.take(name, w) {
		return nil
	}
	select {
	case <-w.turn:
		return nil
	case <-ctx.Done():
	}
	if !t.remove(name, w) {
		t.leave(name) // the turn had come already
	}
	return ctx.Err()
}

// queue has the subscriber read when it is its turn; leave must follow.
func (t *turnstile) queue(name string, s *Subscriber) {
	if t.take(name, waiter{sub: s}) {
		go s.readNow()
	}
}

// cancel takes back a queue; false when the turn has come.
func (t *turnstile) cancel(name string, s *Subscriber) bool { return t.remove(name, waiter{sub: s}) }

// take is true when there is a turn at once; otherwise w waits.
func (t *turnstile) take(name string, w waiter) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.owners[name]
	if o == nil {
		o = &owner{name: name}
		t.owners[name] = o
	}
	if len(o.queue) == 0 && o.held < t.free {
		t.free--
		o.held++
		return true
	}
	t.waits++
	if o.queue = append(o.queue, w); len(o.queue) == 1 {
		t.ring = append(t.ring, o)
	}
	return false
}

// remove takes w out of the queue; false when it is not in it any more.
func (t *turnstile) remove(name string, w waiter) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.owners[name]
	if o == nil {
		return false
	}
	i := slices.Index(o.queue, w)
	if i < 0 {
		return false
	}
	if o.queue = slices.Delete(o.queue, i, i+1); len(o.queue) == 0 {
		i := slices.Index(t.ring, o)
		t.ring = slices.Delete(t.ring, i, i+1)
	}
	t.forgetLocked(o)
	return true
}

func (t *turnstile) forgetLocked(o *owner) {
	if o.held == 0 && len(o.queue) == 0 {
		delete(t.owners, o.name)
	}
}

// leave gives a turn back, and lets those have one who may.
func (t *turnstile) leave(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.free++
	o := t.owners[name]
	o.held--
	t.forgetLocked(o)
	for t.free > 0 {
		i := slices.IndexFunc(t.ring, func(o *owner) bool { return o.held < t.free })
		if i < 0 {
			return
		}
		t.giveLocked(i)
	}
}

// giveLocked gives a turn to the first who waits of an owner in the ring, which goes to its back.
func (t *turnstile) giveLocked(i int) {
	o := t.ring[i]
	next := o.queue[0]
	o.queue[0] = waiter{}
	o.queue = o.queue[1:]
	t.free--
	o.held++
	t.ring = slices.Delete(t.ring, i, i+1)
	if len(o.queue) > 0 {
		t.ring = append(t.ring, o)
	}
	if next.turn != nil {
		close(next.turn)
	} else {
		go next.sub.readNow()
	}
}

// stats is how many wait now, and how many have had to.
func (t *turnstile) stats() (waiting int, waits uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, o := range t.ring {
		waiting += len(o.queue)
	}
	return waiting, t.waits
}

// Replay calls read when it is the owner's turn to read the log, as streams do that catch up.
// Others who read much should use it too. It returns read's error, or ctx's.
func (h *Hub) Replay(ctx context.Context, owner string, read func() error) error {
	if err := h.replays.enter(ctx, owner); err != nil {
		return err
	}
	defer h.replays.leave(owner)
	return read()
}
