package hub

import (
	"context"
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
	queue []chan struct{} // closed when it is somebody's turn
}

func newTurnstile(most int) *turnstile {
	return &turnstile{free: most, waiting: map[string]*owner{}}
}

// enter waits for a turn; leave must follow it unless there is an error, which is ctx's.
func (t *turnstile) enter(ctx context.Context, name string) error {
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return nil
	}
	t.waits++
	o := t.waiting[name]
	if o == nil {
		o = &owner{name: name}
		t.waiting[name] = o
		t.ring = append(t.ring, o)
	}
	turn := make(chan struct{})
	o.queue = append(o.queue, turn)
	t.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	for i, other := range o.queue {
		if other == turn {
			o.queue = append(o.queue[:i], o.queue[i+1:]...)
			t.dropLocked(o)
			t.mu.Unlock()
			return ctx.Err()
		}
	}
	t.mu.Unlock()
	t.leave() // the turn had come already
	return ctx.Err()
}

// dropLocked forgets an owner for whom nobody waits.
func (t *turnstile) dropLocked(o *owner) {
	if len(o.queue) > 0 {
		return
	}
	delete(t.waiting, o.name)
	for i, other := range t.ring {
		if other == o {
			t.ring = append(t.ring[:i], t.ring[i+1:]...)
			return
		}
	}
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
	close(o.queue[0])
	o.queue = o.queue[1:]
	if t.ring = t.ring[1:]; len(o.queue) > 0 {
		t.ring = append(t.ring, o)
	} else {
		delete(t.waiting, o.name)
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
