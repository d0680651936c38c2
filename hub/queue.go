package hub

import (
	"context"
	"slices"
	"sync"
)

// turnstile lets only so many read the log at once. Who has to wait waits among those of the same owner; the owners take turns,
// so that a herd of one owner's streams holds up that owner alone.
type turnstile struct {
	mu      sync.Mutex // guards the fields below
	free    int
	waiting map[string]*owner
	ring    []*owner // those with somebody waiting; the first is next
	waits   uint64
}

type owner struct {
	name  string
	queue []waiter
}

// waiter is a goroutine that waits, or a subscriber whose read takes one when it is its turn.
type waiter struct {
	turn chan struct{} // closed when it is its turn
	sub  *Subscriber
}

func newTurnstile(most int) *turnstile {
	return &turnstile{free: most, waiting: map[string]*owner{}}
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
		t.leave() // the turn had come already
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
	if t.free > 0 {
		t.free--
		return true
	}
	t.waits++
	o := t.waiting[name]
	if o == nil {
		o = &owner{name: name}
		t.waiting[name] = o
		t.ring = append(t.ring, o)
	}
	o.queue = append(o.queue, w)
	return false
}

// remove takes w out of the queue; false when it is not in it any more.
func (t *turnstile) remove(name string, w waiter) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.waiting[name]
	if o == nil {
		return false
	}
	i := slices.Index(o.queue, w)
	if i < 0 {
		return false
	}
	o.queue = slices.Delete(o.queue, i, i+1)
	if len(o.queue) == 0 {
		delete(t.waiting, name)
		i := slices.Index(t.ring, o)
		t.ring = slices.Delete(t.ring, i, i+1)
	}
	return true
}

// leave gives the turn to the next owner's first, if anybody waits.
func (t *turnstile) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.ring) == 0 {
		t.free++
		return
	}
	o := t.ring[0]
	next := o.queue[0]
	o.queue[0] = waiter{}
	o.queue = o.queue[1:]
	if t.ring = t.ring[1:]; len(o.queue) > 0 {
		t.ring = append(t.ring, o)
	} else {
		delete(t.waiting, o.name)
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

// Replay calls read when it is the owner's turn to read the log, as streams do that catch up. Others who read much should use it
// too. It returns read's error, or ctx's.
func (h *Hub) Replay(ctx context.Context, owner string, read func() error) error {
	if err := h.replays.enter(ctx, owner); err != nil {
		return err
	}
	defer h.replays.leave()
	return read()
}
