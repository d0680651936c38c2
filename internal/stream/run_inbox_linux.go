package stream

import (
	"sync"
	"sync/atomic"

	"github.com/fanfare-hub/fanfare/internal/poll"
)

// inbox holds what other goroutines leave for a shard's worker: streams that were woken, and events
// of their sockets. The worker alone calls woken, heard, sleeps and close.
type inbox struct {
	stack    atomic.Pointer[Stream] // streams that were woken, the last one first
	sleeping atomic.Bool
	token    chan struct{} // ends the worker's sleep

	mu     sync.Mutex // guards the fields below
	events []poll.Ready[*Stream]
	closed bool      // the worker takes no more
	room   sync.Cond // events were taken, or closed is set

	taken []poll.Ready[*Stream] // of events; owned by the worker
}

func (b *inbox) init() {
	b.token = make(chan struct{}, 1)
	b.room.L = &b.mu
}

// push leaves a stream whose field queued the caller has set. It does not block.
func (b *inbox) push(st *Stream) {
	for {
		st.link = b.stack.Load()
		if b.stack.CompareAndSwap(st.link, st) {
			break
		}
	}
	b.rouse()
}

// hear leaves the kernel's events. It waits while the worker is far behind.
func (b *inbox) hear(list []poll.Ready[*Stream]) {
	const most = 4096 // events that the worker has not taken
	b.mu.Lock()
	for len(b.events) > most && !b.closed {
		b.room.Wait()
	}
	b.events = append(b.events, list...)
	b.mu.Unlock()
	b.rouse()
}

func (b *inbox) rouse() {
	if b.sleeping.Load() && b.sleeping.CompareAndSwap(true, false) {
		select {
		case b.token <- struct{}{}:
		default:
		}
	}
}

// woken is an iterator: it takes the streams that were woken, and yields them, the first one first.
func (b *inbox) woken(yield func(*Stream) bool) {
	var list *Stream
	for st := b.stack.Swap(nil); st != nil; {
		next := st.link
		st.link, list = list, st
		st = next
	}
	for more := true; list != nil && more; {
		st := list
		list, st.link = st.link, nil
		more = yield(st)
	}
}

// heard is an iterator: it takes the events, and yields them.
func (b *inbox) heard(yield func(poll.Ready[*Stream]) bool) {
	b.mu.Lock()
	b.taken, b.events = b.events, b.taken[:0]
	b.room.Broadcast()
	b.mu.Unlock()
	defer clear(b.taken) // else they would keep streams in memory
	for _, r := range b.taken {
		if !yield(r) {
			return
		}
	}
}

// sleeps says that the worker is about to wait for token, and is false when something has been left
// meanwhile.
func (b *inbox) sleeps() bool {
	b.sleeping.Store(true)
	b.mu.Lock()
	events := len(b.events)
	b.mu.Unlock()
	if b.stack.Load() != nil || events > 0 {
		b.sleeping.Store(false)
		return false
	}
	return true
}

// close makes hear wait no longer: no worker takes what it leaves any more.
func (b *inbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.room.Broadcast()
}

// queue is first in, first out.
type queue struct {
	list []*Stream
	head int
}

func (q *queue) push(st *Stream) { q.list = append(q.list, st) }

func (q *queue) pop() (st *Stream) {
	if q.head == len(q.list) {
		return nil
	}
	st, q.list[q.head] = q.list[q.head], nil
	if q.head++; q.head == len(q.list) {
		q.list, q.head = q.list[:0], 0
	}
	return st
}
