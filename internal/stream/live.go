package stream

import (
	"sync"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/hub"
)

// Live tells how far a stream's peer has certainly come. Its methods may be called from any goroutine. Streams that nobody
// watches have none: they do without what it costs.
type Live struct {
	wire wire
	done chan struct{} // closed when the stream has ended and its last position is known

	mu    sync.Mutex // guards the fields below
	base  fanfare.Position
	marks []mark // not yet known to be acknowledged, oldest first
	ended time.Time
}

// mark says that a peer which has got so many bytes is complete up to the position.
type mark struct {
	bytes int64
	pos   fanfare.Position
}

func newLive(start fanfare.Position, w wire) *Live {
	return &Live{wire: w, base: start, done: make(chan struct{})}
}

// sending notes what is about to be written: a peer may have a frame, and be gone, before the write returns.
func (l *Live) sending(frames []hub.Frame) {
	if l == nil {
		return
	}
	sent, known := l.wire.sentBytes()
	if !known {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range frames {
		sent += int64(l.wire.frameBytes(frames[i]))
		l.marks = append(l.marks, mark{sent, frames[i].Position})
	}
	l.boundLocked()
}

// complete notes that everything up to pos has been written.
func (l *Live) complete(pos fanfare.Position) {
	if l == nil {
		return
	}
	sent, known := l.wire.sentBytes()
	if !known {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch n := len(l.marks); {
	case n > 0 && l.marks[n-1].pos == pos, n == 0 && l.base == pos:
	case n > 0 && l.marks[n-1].bytes == sent:
		l.marks[n-1].pos = pos
	default:
		l.marks = append(l.marks, mark{sent, pos})
	}
	l.boundLocked()
}

// boundLocked bounds the marks of a peer that is far behind: it is remembered less exactly, and never too far.
func (l *Live) boundLocked() {
	if len(l.marks) >= 128 {
		l.settleLocked()
	}
	if n := len(l.marks); n >= 1024 {
		kept := l.marks[:0]
		for i, m := range l.marks {
			if i%2 == 1 || i == n-1 {
				kept = append(kept, m)
			}
		}
		l.marks = kept
	}
}

// settleLocked moves base past what the peer's TCP has acknowledged, and reports whether that is everything.
func (l *Live) settleLocked() bool {
	if len(l.marks) == 0 {
		return true
	}
	_, acked, known := l.wire.progress()
	if !known {
		return false
	}
	n := 0
	for n < len(l.marks) && l.marks[n].bytes <= acked {
		l.base = l.marks[n].pos
		n++
	}
	l.marks = append(l.marks[:0], l.marks[n:]...)
	return len(l.marks) == 0
}

// Position returns the position up to which the peer is known to have everything, and when the stream ended, zero when
// it is open.
func (l *Live) Position() (fanfare.Position, time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended.IsZero() {
		l.settleLocked()
	}
	return l.base, l.ended
}

// Settle is Position, but gives a peer that is there a moment to acknowledge what is under way: TCP may delay that by
// some 40 ms. It blocks for at most a quarter of a second, or, when the stream is ending, until it has ended.
func (l *Live) Settle() (fanfare.Position, time.Time) {
	for range 25 {
		l.mu.Lock()
		settled := !l.ended.IsZero() || l.settleLocked()
		l.mu.Unlock()
		if settled {
			break
		}
		timer := time.NewTimer(10 * time.Millisecond)
		select {
		case <-timer.C:
		case <-l.done:
			timer.Stop()
		}
	}
	return l.Position()
}

// cleanWait is how long the end of a stream waits to learn that the peer has got it.
const cleanWait = 2 * time.Second

// end fixes the last position: after a clean end that the peer has acknowledged it is exactly pos, after a break what the
// peer is known to have. It may block for cleanWait.
func (l *Live) end(pos fanfare.Position, clean bool) {
	if l == nil {
		return
	}
	if clean {
		l.complete(pos)
		for deadline := time.Now().Add(cleanWait); ; {
			l.mu.Lock()
			settled := l.settleLocked()
			l.mu.Unlock()
			if _, _, known := l.wire.progress(); !known {
				l.mu.Lock()
				l.base = pos // nothing better is known than that all of it was written
				l.mu.Unlock()
				break
			}
			if settled || time.Now().After(deadline) {
				break
			}
			select {
			case <-l.wire.gone():
				deadline = time.Time{} // one more look, and no more
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	l.mu.Lock()
	l.settleLocked()
	l.marks = nil
	l.ended = time.Now()
	l.mu.Unlock()
	close(l.done)
}
