package hub

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

// drain says when a drain's window is over, and how long it is.
type drain struct {
	over   time.Time
	window time.Duration
}

// DrainLeft returns how long the drain's window goes on, and the window: whoever comes back before
// it is over meets this hub again. Both are zero when the hub does not drain.
func (h *Hub) DrainLeft() (left, window time.Duration) {
	d := h.drain.Load()
	if d == nil {
		return 0, 0
	}
	return max(time.Until(d.over), 0), d.window
}

// Drain refuses new subscribers, tells the ones there are to end at random moments spread over the
// window, so that their clients do not come back all at once, and waits until they have ended or
// ctx does.
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
	began := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i, s := range subs {
		timer.Reset(time.Until(began.Add(at[i])))
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

// endLate ends those that were being admitted when Drain looked.
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
