package poll

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// Ring shares sockets out, by turns, among members that have a Loop each: one for each processor,
// but 16 at most. Its methods may be called from any goroutine.
type Ring[M any] struct {
	next atomic.Uint32 // of list

	mu     sync.RWMutex // guards the fields below
	list   []M
	begun  bool
	closed bool
}

// Begin makes the members with one, unless that was done, or the ring is closed. An error is one's:
// the members that were made before it are used. Only the call that makes them returns it.
func (r *Ring[M]) Begin(one func() (M, error)) error {
	r.mu.RLock()
	done := r.begun || r.closed
	r.mu.RUnlock()
	if done {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.begun || r.closed {
		return nil
	}
	r.begun = true
	for range min(runtime.GOMAXPROCS(0), 16) {
		m, err := one()
		if err != nil {
			return err
		}
		r.list = append(r.list, m)
	}
	return nil
}

// Use calls use with the member whose turn it is, and returns its answer, or false if there is no
// member or the ring is closed. Close waits for calls under way, so that members hold all that use
// has given them when Close returns.
func (r *Ring[M]) Use(use func(M) bool) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.closed || len(r.list) == 0 {
		return false
	}
	return use(r.list[int(r.next.Add(1))%len(r.list)])
}

// All returns the members, also when the ring is closed. The slice must not be changed.
func (r *Ring[M]) All() []M {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.list
}

// Close has Use be false from now on, and returns the members, for the caller to end; none when the
// ring was closed before.
func (r *Ring[M]) Close() []M {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	return r.list
}
