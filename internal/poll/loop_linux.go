package poll

import (
	"sync"
)

// A Loop watches many sockets with one goroutine. These rules say who owns a socket's slot, and
// when:
//
//   - Each socket has an owner, a T: the struct of a stream, or of a connection. Enter puts the
//     owner into a slot, under the loop's lock, and then the socket into the kernel's set. The
//     first event may be heard before Enter returns.
//   - The kernel tells of a socket by the slot and its generation. The loop's goroutine resolves
//     them to the owner under the lock. Leave takes the socket out of the set, empties the slot,
//     and raises the generation, under the same lock. So the loop drops an event that was queued
//     for a socket that has left, and the event never reaches the next owner of the slot.
//   - An event that was resolved before Leave may be handed on after it. The loop cannot take it
//     back, so the owner has a state of its own which says that it has left. An owner is never used
//     a second time.
//   - The socket belongs to the owner. The loop neither reads, nor writes, nor closes it. Before
//     the owner closes it, it calls Leave: otherwise the kernel could give the number to another
//     connection, which the set would then watch.
//   - Exactly one goroutine at a time acts for an owner, and only that one may call Leave. The loop
//     does not enforce this. A shard has one worker that acts for all its streams; http1 has one
//     atomic word in each connection.
//
// Sweep visits the owners by time; Drain waits until all have left; Close ends the goroutine. Ring
// distributes sockets over loops.
type Loop[T any] struct {
	// Fixed after NewLoop.
	set     *Set
	hear    func([]Ready[T])
	running sync.WaitGroup

	mu    sync.Mutex // guards the fields below
	slots []place[T]
	free  []Slot
	empty sync.Cond // no owner is in
}

// Ready is an event of a socket.
type Ready[T any] struct {
	Owner  T
	Events uint32 // EPOLLIN and its like
}

// Slot is the place of a socket in its loop.
type Slot uint32

// place is a slot. Its generation tells events of a former socket from those of the present one.
type place[T any] struct {
	owner      T
	generation int32
	taken      bool
}

// NewLoop makes a loop, and starts its goroutine, which calls hear with the events that have come,
// several at once. The slice is only valid during the call. While hear blocks the kernel keeps
// further events.
func NewLoop[T any](hear func([]Ready[T])) (*Loop[T], error) {
	set, err := NewSet()
	if err != nil {
		return nil, err
	}
	l := &Loop[T]{set: set, hear: hear}
	l.empty.L = &l.mu
	l.running.Go(l.run)
	return l, nil
}

// Enter has the loop watch a socket. It sets *at, which Leave needs, before the first event can be
// heard. After an error no event comes, but the owner is in the loop, and leaves it as others do.
func (l *Loop[T]) Enter(fd int, owner T, at *Slot) error {
	l.mu.Lock()
	if last := len(l.free); last > 0 {
		*at, l.free = l.free[last-1], l.free[:last-1]
	} else {
		*at = Slot(len(l.slots))
		l.slots = append(l.slots, place[T]{})
	}
	slot := *at
	p := &l.slots[slot]
	p.owner, p.taken = owner, true
	generation := p.generation
	l.mu.Unlock()
	return l.set.Add(fd, uint32(slot), generation)
}

// Leave ends what Enter began. The caller closes the socket afterwards, or goes on with it.
func (l *Loop[T]) Leave(fd int, at Slot) {
	l.set.Remove(fd)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slots[at] = place[T]{generation: l.slots[at].generation + 1}
	if l.free = append(l.free, at); len(l.free) == len(l.slots) {
		l.empty.Broadcast()
	}
}

// Len is how many sockets are in the loop.
func (l *Loop[T]) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.slots) - len(l.free)
}

// Owners returns the owners that are in the loop. Some may have left by the time that the caller
// looks at them.
func (l *Loop[T]) Owners() []T {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]T, 0, len(l.slots)-len(l.free))
	for i := range l.slots {
		if l.slots[i].taken {
			list = append(list, l.slots[i].owner)
		}
	}
	return list
}

// Drain waits until all have left.
func (l *Loop[T]) Drain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.free) < len(l.slots) {
		l.empty.Wait()
	}
}

// Close ends the loop's goroutine, and waits for it and so for hear. Sockets that are still in the
// loop stay open. It must not be called by hear.
func (l *Loop[T]) Close() {
	l.set.Close()
	l.running.Wait()
}

// run hands the kernel's events to hear.
func (l *Loop[T]) run() {
	var events [256]Event
	var ready [len(events)]Ready[T]
	for {
		n, err := l.set.Wait(events[:])
		if err != nil {
			return // the set has been closed
		}
		list := l.resolve(ready[:0], events[:n])
		l.hear(list)
		clear(list)
	}
}

// resolve appends the events of those that are in the loop now.
func (l *Loop[T]) resolve(list []Ready[T], events []Event) []Ready[T] {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range events {
		if p := &l.slots[e.Fd]; p.taken && p.generation == e.Pad {
			list = append(list, Ready[T]{p.owner, e.Events})
		}
	}
	return list
}
