package stream

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/internal/poll"
	"github.com/fanfare-hub/fanfare/sse"
)

// wire is the connection that a stream with a goroutine of its own writes to. That goroutine calls
// it, and receives from its channels.
type wire interface {
	begin(header http.Header, first []byte) (int, error) // the head and the beginning of the body
	write(prefix []byte, frames []hub.Frame) error       // blocks while the peer takes nothing, up to the stall limit
	end() error                                          // the body has been written
	// has a write that waits fail; from any goroutine, before close
	abort()
	close()                      // lets the connection go; end may have come before
	gone() <-chan struct{}       // closed when the peer is known to be gone
	goneWhy() error              // why gone is closed; after close, or when gone is closed
	halfClosed() <-chan struct{} // closed when the peer has closed its sending half
	acker() acker                // nil when the peer's acknowledgements are not known
}

var (
	errStalled = errors.New("the peer takes nothing")
	errGone    = errors.New("the peer is gone")
)

func endReason(err error) EndReason {
	switch {
	case errors.Is(err, errStalled):
		return EndStalled
	case errors.Is(err, errFlood):
		return EndFlood
	}
	return EndGone
}

// attached runs one stream in the goroutine of its request: over HTTP/2, and where streams cannot
// be detached.
type attached struct {
	st    *Stream
	wire  wire
	wakes chan struct{} // one token
	reads chan fetched  // has room for the one read that may be under way
	work  work

	mu   sync.Mutex // guards the field below
	open bool       // wire may be aborted

	half bool // owned by serve: the peer had closed its sending half before the stream's end
}

func newAttached(st *Stream, w wire) *attached {
	return &attached{
		st: st, wire: w, work: work{house: &st.streams.house},
		wakes: make(chan struct{}, 1), reads: make(chan fetched, 1),
	}
}

// HaveRead implements hub.Reader.
func (a *attached) HaveRead(t *hub.Turn, err error) { a.reads <- fetched{t, err} }

func (a *attached) wake(*Stream) {
	select {
	case a.wakes <- struct{}{}:
	default:
	}
}

// cutGrace is how long a stream that must end has to do so by itself.
const cutGrace = 600 * time.Millisecond

func (a *attached) stop(st *Stream) {
	a.wake(st)
	time.AfterFunc(cutGrace, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.open {
			a.wire.abort()
		}
	})
}

// serve runs the stream to its end. first holds the first bytes of the body.
func (a *attached) serve(header http.Header, first []byte) (reason EndReason) {
	st := a.st
	a.open = true
	var run runner = a
	st.runner.Store(&run)
	if st.expires > 0 { // a write may wait just then (P8)
		expiry := time.AfterFunc(st.expires.Sub(st.streams.clock.Now()), func() { st.endNow(EndExpired) })
		defer expiry.Stop()
	}
	defer func() {
		a.mu.Lock()
		a.open = false
		a.mu.Unlock()
		a.wire.close()
		if cut := st.cut.get(); cut != goesOn {
			reason = cut
			return
		}
		// The system tells of a failed connection once, and it may have told the reader.
		if reason == EndGone && errors.Is(a.wire.goneWhy(), errStalled) {
			reason = EndStalled
		}
	}()
	if l := st.live; l != nil {
		l.begin(st.sub.Position(), a.wire.acker())
		l.watch.Opened(l)
		defer l.changed() // when the end has been told to live
	}
	defer a.stopReading()
	clean := false
	defer func() { a.finish(clean) }() // before the wire closes, which it asks how far the peer has come
	n, err := a.wire.begin(header, first)
	if err != nil {
		return endReason(err)
	}
	st.live.sending(st, n, nil, st.sub.Position())
	st.wrote = st.streams.clock.Now()
	if err := a.loop(); err != nil {
		return endReason(err)
	}
	select {
	case <-a.wire.halfClosed():
		a.half = true
	default:
	}
	clean = a.wire.end() == nil && st.cut.get() == goesOn
	return a.work.reason
}

// finish tells live how far the peer has come; after a clean end it gives it a moment to
// acknowledge that.
func (a *attached) finish(clean bool) {
	live := a.st.live
	if live == nil {
		return
	}
	if live.acker == nil {
		live.end(a.st.sub.Position(), clean && a.answered())
		return
	}
	deadline := time.Now().Add(cleanWait)
	for clean && !live.settled() && time.Now().Before(deadline) {
		select {
		case <-a.wire.gone():
			deadline = time.Time{} // one more look, and no more
		case <-time.After(5 * time.Millisecond):
		}
	}
	live.end(a.st.sub.Position(), clean)
}

// answered is for systems that do not know the acknowledged bytes: a peer that closes the
// connection at the stream's end has the end, and so all bytes. That is not known over HTTP/2, nor
// of a peer that had closed its sending half before.
func (a *attached) answered() bool {
	half := a.wire.halfClosed()
	if half == nil || a.half {
		return false
	}
	timer := time.NewTimer(cleanWait)
	defer timer.Stop()
	select {
	case <-half:
		return true
	case <-a.wire.gone():
	case <-timer.C:
	}
	return false
}

// loop takes turns until the stream has ended. An error is the wire's; without one the body has
// been written to its end.
func (a *attached) loop() error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	half := a.wire.halfClosed()
	probes := 0
	var read *fetched
	for {
		v, err := a.turn(read)
		if err != nil || v == ends {
			return err
		}
		read = nil
		if v == again {
			select {
			case <-a.wire.gone():
				return a.wire.goneWhy()
			default:
			}
			continue
		}
		wait := a.st.due().Sub(a.st.streams.clock.Now())
		if a.st.unread > 0 {
			wait = min(wait, readAgain)
		}
		if probes > 0 {
			wait = min(wait, 200*time.Millisecond)
		}
		timer.Reset(max(wait, 0))
		select {
		case <-a.wakes:
		case f := <-a.reads:
			read = &f
		case <-timer.C:
			if probes > 0 {
				// A peer that closed for good has answered the first probe with a reset by now.
				probes--
				err = a.comment()
			}
		case <-a.wire.gone():
			return a.wire.goneWhy()
		case <-half:
			half, probes = nil, 2
			err = a.comment()
		}
		if err != nil {
			return err
		}
	}
}

// turn sends the events that there are; read is the turn that has just come from the log, or nil.
func (a *attached) turn(read *fetched) (verdict, error) {
	st, w, now := a.st, &a.work, a.st.streams.clock.Now()
	t := &w.turn
	if read != nil {
		t.Swap(read.turn)
		read.turn.Release() // before the write, which may wait
		st.reading, st.unread = false, 0
		if p, ok := errors.AsType[*hub.PanicError](read.err); ok {
			st.streams.panicked(p.Value, p.Stack)
			panic(http.ErrAbortHandler)
		}
		if read.err != nil {
			st.noteReadFailed(read.err, now)
			read = nil
		}
	}
	if st.awaitsRead(read != nil, now) {
		return waits, a.commentWhenDue(now)
	}
	v := st.gather(w, t, read != nil, now)
	if v == reads {
		st.reading = true
		st.sub.ReadLater(a)
		return waits, a.commentWhenDue(now)
	}
	st.live.sending(st, len(w.prefix), t.Frames, t.Through)
	if len(w.prefix) > 0 || len(t.Frames) > 0 {
		if err := a.wire.write(w.prefix, t.Frames); err != nil {
			return v, err
		}
	}
	st.sent(w, t, len(t.Frames), time.Now())
	clear(t.Frames)
	return v, nil
}

// stopReading has the read end that is under way, and waits for it.
func (a *attached) stopReading() {
	if a.st.reading && !a.st.sub.CancelRead() {
		f := <-a.reads
		f.turn.Release()
	}
	a.st.reading = false
}

func (a *attached) commentWhenDue(now poll.Instant) error {
	if !a.st.wantsSign(now) {
		return nil
	}
	return a.comment()
}

// comment writes a sign of life that says nothing.
func (a *attached) comment() error {
	w := &a.work
	w.prefix = w.prefix[:0]
	w.say(&a.st.machine, append(w.text[:0], sse.Comment...))
	a.st.live.sending(a.st, len(w.prefix), nil, a.st.sub.Position())
	a.st.wrote = a.st.streams.clock.Now()
	return a.wire.write(w.prefix, nil)
}
