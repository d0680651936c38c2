package stream

import (
	"sync"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/hub"
)

// Live tells up to which position a stream's peer has certainly received all events. Its methods
// may be called from any goroutine. Streams without a watcher have no Live, and do not pay for it.
type Live struct {
	watch Watcher // fixed
	acker acker   // nil: the peer's acknowledgements are not known; fixed when the watcher hears of it

	mu    sync.Mutex // guards the fields below
	base  fanfare.Position
	marks []mark        // not yet known to be acknowledged, oldest first
	bytes int64         // that have been written, or are certain to be, or are being
	acked int64         // of these, the ones that the peer is known to have acknowledged
	done  chan struct{} // closed when the stream has ended; made then, or for a caller that waits
}

// mark says that a peer which has received this many bytes is complete up to the position.
type mark struct {
	bytes int64
	pos   fanfare.Position
}

// begin is called by the stream's runner before it tells the watcher.
func (l *Live) begin(start fanfare.Position, a acker) { l.acker, l.base = a, start }

// changed tells the watcher that events were sent, or that the stream has ended.
func (l *Live) changed() {
	if l != nil {
		l.watch.Changed()
	}
}

// sending notes the next write, bytes and then frames, with which the peer is complete up to
// through. The peer may have all of it, and be gone or ask for more, before the write returns.
func (l *Live) sending(st *Stream, before int, frames []hub.Frame, through fanfare.Position) {
	if l == nil || l.acker == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bytes += int64(before)
	for i := range frames {
		l.bytes += int64(len(st.piece(&frames[i])))
		l.marks = append(l.marks, mark{l.bytes, frames[i].Position})
	}
	l.completeLocked(through)
	l.boundLocked()
}

// handed notes that a write of n bytes has returned.
func (l *Live) handed(n int) {
	if l != nil && l.acker != nil && n > 0 {
		l.acker.handed(n)
	}
}

// unsent takes back the last frames, which were not written after all.
func (l *Live) unsent(st *Stream, frames []hub.Frame) {
	if l == nil || l.acker == nil || len(frames) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range frames {
		l.bytes -= int64(len(st.piece(&frames[i])))
	}
	n := len(l.marks)
	for n > 0 && l.marks[n-1].pos >= frames[0].Position {
		n--
	}
	l.marks = l.marks[:n]
}

// completeLocked notes that the bytes written so far, or certain to be, are complete up to pos.
func (l *Live) completeLocked(pos fanfare.Position) {
	switch n := len(l.marks); {
	case n > 0 && l.marks[n-1].pos == pos, n == 0 && l.base == pos:
	case n > 0 && l.marks[n-1].bytes == l.bytes:
		l.marks[n-1].pos = pos
	default:
		l.marks = append(l.marks, mark{l.bytes, pos})
	}
}

// boundLocked bounds the marks of a peer that is far behind: it is remembered less exactly, and
// never too far.
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

func (l *Live) endedLocked() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// askLocked asks how many bytes the peer has acknowledged.
func (l *Live) askLocked() (acked int64, known bool) {
	if l.acker == nil || l.endedLocked() {
		return l.acked, l.acker != nil
	}
	acked, known = l.acker.acked()
	if known {
		l.acked = max(l.acked, min(acked, l.bytes)) // the kernel counts the end of the connection as a byte
	}
	return acked, known
}

// settleLocked moves base past the bytes that the peer's TCP has acknowledged, and reports whether
// these are all.
func (l *Live) settleLocked() bool {
	if len(l.marks) == 0 {
		return true
	}
	acked, known := l.askLocked()
	if !known {
		return false
	}
	n := 0
	for n < len(l.marks) && l.marks[n].bytes <= acked {
		l.base = l.marks[n].pos
		n++
	}
	if n == len(l.marks) {
		l.marks = nil // most streams are idle most of the time
		return true
	}
	l.marks = append(l.marks[:0], l.marks[n:]...)
	return false
}

// settled reports whether the peer is known to have everything.
func (l *Live) settled() bool {
	if l == nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acker == nil || l.endedLocked() || l.settleLocked()
}

// Moment is a point in the bytes that are written to a stream; see AckedSince.
type Moment int64

// Now returns the present moment.
func (l *Live) Now() Moment {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Moment(l.bytes)
}

// AckedSince reports whether the peer has acknowledged a byte that was written after a moment: the
// peer was then there after it. Bytes that were under way at that moment do not count. False may
// mean that the peer's acknowledgements are not known.
func (l *Live) AckedSince(m Moment) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bytes <= int64(m) {
		return false
	}
	if l.acked <= int64(m) {
		l.askLocked()
	}
	return l.acked > int64(m)
}

// Position returns the position up to which the peer is known to have everything, and whether the
// stream has ended.
func (l *Live) Position() (pos fanfare.Position, ended bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.endedLocked() {
		l.settleLocked()
	}
	return l.base, l.endedLocked()
}

// Known is Position for a stream that may go on: all says that the peer is known to have all that
// was written.
func (l *Live) Known() (pos fanfare.Position, all bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all = l.acker == nil || l.endedLocked() || l.settleLocked()
	return l.base, all
}

// Last returns the last answer of Position, and whether the stream has ended. It does not ask the
// kernel.
func (l *Live) Last() (pos fanfare.Position, ended bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.base, l.endedLocked()
}

// Settle is Position, but gives a peer that is there a moment to acknowledge the bytes under way:
// TCP may delay that by some 40 ms. It blocks for at most a quarter of a second, or until the
// stream has ended.
func (l *Live) Settle() (pos fanfare.Position, ended bool) {
	for range 25 {
		l.mu.Lock()
		settled := l.endedLocked() || l.settleLocked()
		if l.done == nil {
			l.done = make(chan struct{})
		}
		done := l.done
		l.mu.Unlock()
		if settled {
			break
		}
		timer := time.NewTimer(10 * time.Millisecond)
		select {
		case <-timer.C:
		case <-done:
			timer.Stop()
		}
	}
	return l.Position()
}

// cleanWait is how long the end of a stream waits to learn that the peer has got it.
const cleanWait = 2 * time.Second

// end fixes the last position that the peer is known to have. The connection must not be closed
// yet, because it is asked once more. If it does not tell, clean says that the peer has the end,
// and so all events up to pos.
func (l *Live) end(pos fanfare.Position, clean bool) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.acker != nil:
		l.settleLocked()
		l.askLocked() // for AckedSince
	case clean:
		l.base = pos
	}
	l.marks = nil
	if l.done == nil {
		l.done = make(chan struct{})
	}
	close(l.done)
}
