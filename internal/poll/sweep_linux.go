package poll

import (
	"iter"
	"time"
)

// Sweep goes round the slots of a loop, and visits each owner once in a period. It does so in
// steps: of ten thousand streams that were all written to in one moment, not all are looked at in
// one moment, and none costs a timer. It is for one goroutine at a time.
type Sweep[T any] struct {
	loop   *Loop[T]
	period time.Duration // 0: the loop was empty
	at     Instant       // when the next step is due
	next   int           // slot
	batch  []T
}

// sweepSteps is how many steps a round has.
const sweepSteps = 16

// NewSweep makes a sweep of a loop. It stands still until the first Hasten.
func NewSweep[T any](l *Loop[T]) Sweep[T] { return Sweep[T]{loop: l} }

// Hasten has a round take period at most, for an owner that has just entered.
func (s *Sweep[T]) Hasten(now Instant, period time.Duration) {
	if s.period == 0 || period < s.period {
		s.period = period
		s.at = now.Add(period / sweepSteps)
	}
}

// Next is the time at which Due has an owner to visit; never while the loop is empty.
func (s *Sweep[T]) Next() Instant {
	if s.period == 0 {
		return 0
	}
	return s.at
}

// Due yields the owners whose turn has come by now. When it finds the loop empty it stands still.
func (s *Sweep[T]) Due(now Instant) iter.Seq[T] {
	return func(yield func(T) bool) {
		for s.period > 0 && now >= s.at {
			steps := s.step()
			if steps == 0 {
				s.period = 0
				return
			}
			for _, owner := range s.batch {
				if !yield(owner) {
					return
				}
			}
			clear(s.batch)
			if s.at = s.at.Add(s.period / time.Duration(steps)); s.at < now.Add(-s.period) {
				s.at = now // it was held up for more than a round
			}
		}
	}
}

// step puts the owners of the next slots into batch, and returns how many steps the round has; 0
// when the loop is empty.
func (s *Sweep[T]) step() (steps int) {
	l := s.loop
	l.mu.Lock()
	defer l.mu.Unlock()
	s.batch = s.batch[:0]
	if len(l.free) == len(l.slots) {
		return 0
	}
	steps = min(sweepSteps, len(l.slots))
	for range (len(l.slots) + steps - 1) / steps {
		if s.next >= len(l.slots) {
			s.next = 0
		}
		if p := &l.slots[s.next]; p.taken {
			s.batch = append(s.batch, p.owner)
		}
		s.next++
	}
	return steps
}
