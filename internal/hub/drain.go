package hub

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

// drain is the time at which a drain's window ends, and the window's length.
type drain struct {
	ends   time.Time
	window time.Duration
}

// DrainLeft returns how much of the drain's window is left, and the window's length. A client that
// comes back before the window ends may reach this hub again. Both are zero when the hub does not
// drain. It may be called from any goroutine.
func (h *Hub) DrainLeft() (left, window time.Duration) {
	d := h.drain.Load()
	if d == nil {
		return 0, 0
	}
	return max(time.Until(d.ends), 0), d.window
}

// Drain refuses new subscribers, and tells each subscriber to end at a random moment within the
// window, so that their clients do not all come back at once. It waits until all have ended, and
// then returns nil; or it returns ctx's error when ctx ends first.
func (h *Hub) Drain(ctx context.Context, window time.Duration) error {
	h.drain.Store(&drain{time.Now().Add(window), window})
	h.mu.Lock()
	h.draining = true
	subs := append([]*Subscriber(nil), h.subs...)
	empty := h.empty
	if empty == nil {
		empty = make(chan struct{})
		if h.admitted == 0 {
			close(empty)
		} else {
			h.empty = empty
		}
	}
	h.mu.Unlock()

	rand.Shuffle(len(subs), func(i, j int) { subs[i], subs[j] = subs[j], subs[i] })
	at := make([]time.Duration, len(subs))
	for i := range at {
		at[i] = time.Duration(rand.Int64N(int64(max(window, 1))))
	}
	slices.Sort(at)
	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i, s := range subs {
		timer.Reset(time.Until(start.Add(at[i])))
		select {
		case <-timer.C:
		case <-empty:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
		s.End()
	}
	h.endLate()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// endLate ends the subscribers that joined after Drain had copied the list.
func (h *Hub) endLate() {
	h.mu.RLock()
	subs := append([]*Subscriber(nil), h.subs...)
	h.mu.RUnlock()
	for _, s := range subs {
		s.End()
	}
}

// End tells the stream to end. It may be called from any goroutine.
func (s *Subscriber) End() {
	if !s.ending.Swap(true) {
		s.awake.Store(true)
		s.waker.Wake()
	}
}
