package stream

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/hub"
	"github.com/fanfare-hub/fanfare/sse"
)

// wire is where a stream writes. One goroutine writes; the channels may be received from by it alone too.
type wire interface {
	begin(header http.Header, first ...[]byte) error // the head and the first pieces of the body, each a chunk
	frameBytes(hub.Frame) int                        // what a frame takes on the connection
	frames([]hub.Frame) error                        // blocks while the peer takes nothing, up to the stall limit
	bytes([]byte) error                              // a piece of body
	end() error                                      // the end of the body
	abort()                                          // has a write that waits fail; any goroutine may call it before close
	close()                                          // lets the connection go; end may have come before
	gone() <-chan struct{}                           // closed when the peer is known to be gone
	goneWhy() error                                  // why gone is closed; after close, or when gone is closed
	halfClosed() <-chan struct{}                     // closed when the peer has closed its sending half
	sentBytes() (sent int64, known bool)             // of head and body; known when progress may be
	progress() (sent, acked int64, known bool)       // asks the kernel; any goroutine may call it before close
}

var (
	errStalled = errors.New("the peer takes nothing")
	errGone    = errors.New("the peer is gone")
)

// Stream is one response on its way. All fields are owned by its goroutine, but for those that say otherwise.
type Stream struct {
	// Fixed when it is registered.
	streams *Streams
	req     Request
	wakes   chan struct{} // one token
	sub     *hub.Subscriber
	id      uint64
	began   time.Time
	expiry  *time.Timer // nil: the caller's rights have no end

	events, bytes atomic.Uint64 // sent

	cut    atomic.Pointer[EndReason] // set by endNow: nothing more may be sent
	mu     sync.Mutex                // guards the field below
	onWire wire                      // what endNow may abort; nil before and after

	wire wire
	live *Live // nil when nobody watches
	turn hub.Turn

	heartbeat time.Duration
	ends      time.Time // zero: never
	wrote     time.Time // when something was last written
	lastID    fanfare.Position
	retry     bool // `retry:` has not been sent yet
	scratch   []byte
}

func newStream(s *Streams, req Request) *Stream {
	st := &Stream{streams: s, req: req, wakes: make(chan struct{}, 1), heartbeat: s.o.Heartbeat}
	if req.Heartbeat > 0 {
		st.heartbeat = req.Heartbeat
	}
	return st
}

// Wake implements hub.Waker.
func (st *Stream) Wake() {
	select {
	case st.wakes <- struct{}{}:
	default:
	}
}

// cutGrace is how long a stream that must end has to do so by itself.
const cutGrace = 600 * time.Millisecond

// endNow has the stream end before its next event; the first reason counts. A peer that takes nothing is cut soon after. It may
// be called from any goroutine, and does not block.
func (st *Stream) endNow(reason EndReason) {
	if !st.cut.CompareAndSwap(nil, &reason) {
		return
	}
	st.Wake()
	time.AfterFunc(cutGrace, func() {
		st.mu.Lock()
		defer st.mu.Unlock()
		if st.onWire != nil {
			st.onWire.abort()
		}
	})
}

func (st *Stream) setWire(w wire) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.onWire = w
}

func (st *Stream) serve(w http.ResponseWriter, r *http.Request, sub *hub.Subscriber, opening hub.Opening) (reason EndReason) {
	if lifetime := st.req.Lifetime; lifetime > 0 {
		st.ends = time.Now().Add(lifetime - time.Duration(rand.Float64()*0.1*float64(lifetime)))
	}
	st.streams.setHeader(w.Header())
	wire, err := newWire(w, r, st.streams.o.StallLimit)
	if err != nil {
		return EndFailed
	}
	st.wire = wire
	st.setWire(wire)
	defer func() {
		st.setWire(nil)
		wire.close()
		if cut := st.cut.Load(); cut != nil {
			reason = *cut
			return
		}
		// The system tells of a failed connection once, and it may have told the reader.
		if reason == EndGone && errors.Is(wire.goneWhy(), errStalled) {
			reason = EndStalled
		}
	}()
	if st.req.Watch != nil {
		st.live = newLive(opening.Position, wire)
		st.req.Watch.Opened(st.live)
		defer st.req.Watch.Changed() // when the end has been told to live
	}
	clean := false
	defer func() { st.live.end(sub.Position(), clean) }() // before the wire closes, which it asks how far the peer has come
	if err := wire.begin(w.Header(), st.first(opening)...); err != nil {
		return endReason(err)
	}
	st.wrote = time.Now()
	reason, err = st.loop()
	if err == nil {
		clean = st.end(reason) == nil && st.cut.Load() == nil
		return reason
	}
	return endReason(err)
}

func endReason(err error) EndReason {
	switch {
	case errors.Is(err, errStalled):
		return EndStalled
	case errors.Is(err, errFlood):
		return EndFlood
	}
	return EndGone
}

// first makes the first pieces of the body: the event that carries the start position, and the gap if there is one.
func (st *Stream) first(opening hub.Opening) [][]byte {
	var b []byte
	st.lastID = opening.Position
	if st.req.First == nil {
		st.retry = true
		b = append(b, sse.Comment...)
	} else {
		b = sse.AppendRetry(b, retryTime())
		b = st.req.First(b, opening.Position.String())
	}
	if opening.Gap == nil {
		return [][]byte{b}
	}
	return [][]byte{b, st.appendGap(nil, opening.Gap)}
}

func (st *Stream) appendGap(b []byte, g *hub.Gap) []byte {
	if st.retry {
		st.retry = false
		b = sse.AppendRetry(b, retryTime())
	}
	st.lastID = g.Oldest - 1
	data, _ := json.Marshal(struct {
		Requested string            `json:"requested"`
		Oldest    string            `json:"oldest"`
		Reason    fanfare.GapReason `json:"reason"`
	}{cut(g.Requested), g.Oldest.String(), g.Reason})
	return sse.AppendEvent(b, st.lastID.String(), "gap", string(data))
}

// cut brings what a client sent to at most 128 bytes of UTF-8.
func cut(s string) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	if len(s) > 128 {
		s = strings.ToValidUTF8(s[:128], "")
	}
	return s
}

// AppendHeartbeat appends a heartbeat event, which carries a position.
func AppendHeartbeat(dst []byte, id string) []byte {
	dst = append(dst, "id: "...)
	dst = append(dst, id...)
	dst = append(dst, "\nevent: heartbeat\ndata: {\"time\":\""...)
	dst = time.Now().UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z07:00")
	return append(dst, "\"}\n\n"...)
}

// readAgain is how long a stream waits before it asks a log again that could not be read.
const readAgain = time.Second

// loop takes turns until the stream has to end. An error is the wire's; without one the peer is owed an end.
func (st *Stream) loop() (EndReason, error) {
	timer := time.NewTimer(st.heartbeat)
	defer timer.Stop()
	half := st.wire.halfClosed()
	probes := 0
	for {
		if cut := st.cut.Load(); cut != nil {
			return *cut, nil
		}
		if st.sub.Ending() {
			return EndDrain, nil
		}
		if !st.ends.IsZero() && !time.Now().Before(st.ends) {
			return EndLifetime, nil
		}
		unread, err := st.takeTurn()
		if err != nil {
			return "", err
		}
		if st.turn.More && unread == nil {
			select {
			case <-st.wire.gone():
				return "", st.wire.goneWhy()
			default:
			}
			continue
		}
		wait := time.Until(st.wrote.Add(st.heartbeat))
		if wait <= 0 {
			if err := st.signOfLife(); err != nil {
				return "", err
			}
			wait = st.heartbeat
		}
		if !st.ends.IsZero() {
			wait = min(wait, time.Until(st.ends))
		}
		if unread != nil {
			wait = min(wait, readAgain)
		}
		if probes > 0 {
			wait = min(wait, 200*time.Millisecond)
		}
		timer.Reset(max(wait, 0))
		select {
		case <-st.wakes:
		case <-timer.C:
			if probes > 0 {
				// A peer that closed for good has answered the first probe with a reset by now.
				probes--
				if err := st.write([]byte(sse.Comment)); err != nil {
					return "", err
				}
			}
		case <-st.wire.gone():
			return "", st.wire.goneWhy()
		case <-half:
			half, probes = nil, 2
			if err := st.write([]byte(sse.Comment)); err != nil {
				return "", err
			}
		}
	}
}

// takeTurn sends what there is. unread is set when the log could not be read; the stream goes on and asks again.
func (st *Stream) takeTurn() (unread, err error) {
	if unread = st.sub.Next(context.Background(), &st.turn); unread != nil {
		return unread, nil
	}
	if st.cut.Load() != nil {
		// Rights have ended while the turn was fetched. The cursor has moved past what is not sent: it is asked no more.
		clear(st.turn.Frames)
		return nil, nil
	}
	st.withhold()
	if st.turn.Gap != nil {
		if err := st.write(st.appendGap(st.scratch[:0], st.turn.Gap)); err != nil {
			return nil, err
		}
	}
	if n := len(st.turn.Frames); n > 0 {
		if st.retry {
			st.retry = false
			if err := st.write(sse.AppendRetry(st.scratch[:0], retryTime())); err != nil {
				return nil, err
			}
		}
		if st.req.Envelope {
			envelop(st.turn.Frames)
		}
		st.live.sending(st.turn.Frames)
		if err := st.wire.frames(st.turn.Frames); err != nil {
			return nil, err
		}
		st.wrote = time.Now()
		st.count(st.turn.Frames)
		st.lastID = st.turn.Frames[n-1].Position
		clear(st.turn.Frames)
		if st.req.Watch != nil {
			st.req.Watch.Changed()
		}
	}
	st.live.complete(st.sub.Position())
	return nil, nil
}

// withhold takes out of the turn what was read from the log and the caller may not hear (P8). A stream's patterns were checked
// when it opened, so this finds nothing unless something is wrong; it is the last look before the wire.
func (st *Stream) withhold() {
	if st.req.May == nil {
		return
	}
	kept := st.turn.Frames[:0]
	for _, f := range st.turn.Frames {
		if f.Heard == 0 && !st.req.May(f.Channel) {
			if st.streams.withheld.Add(1) == 1 {
				st.streams.o.Logger.Error("an event was withheld from a stream that may not hear it: this is a fault of the hub")
			}
			continue
		}
		kept = append(kept, f)
	}
	st.turn.Frames = kept
}

// count counts what was sent. The delay is that of a turn's first live event: one observation a turn is enough.
func (st *Stream) count(frames []hub.Frame) {
	bytes, replayed, live := 0, 0, uint64(0)
	var heard int64
	for i := range frames {
		n := st.wire.frameBytes(frames[i])
		bytes += n
		if frames[i].Heard == 0 {
			replayed += n
		}
		if t := frames[i].Trace; t != nil && st.streams.o.Step != nil && t.First.CompareAndSwap(false, true) {
			st.streams.o.Step(t.Parent, "first delivery", time.Unix(0, frames[i].Heard), st.wrote)
		}
		if frames[i].Heard > 0 {
			if live++; heard == 0 {
				heard = frames[i].Heard
			}
		}
	}
	st.events.Add(uint64(len(frames)))
	st.bytes.Add(uint64(bytes))
	st.streams.deliveredBytes.Add(uint64(bytes))
	if replayed > 0 {
		st.streams.replayedBytes.Add(uint64(replayed))
	}
	if live > 0 {
		st.streams.delivery.ObserveN(time.Duration(st.wrote.UnixNano()-heard), live)
	}
}

func (st *Stream) channels() (texts []string) {
	for _, p := range st.req.Patterns {
		texts = append(texts, p.String())
	}
	return texts
}

func (st *Stream) write(b []byte) error {
	st.scratch = b[:0]
	st.wrote = time.Now()
	return st.wire.bytes(b)
}

func (st *Stream) signOfLife() error {
	if st.req.Idle == IdleComment {
		return st.write(append(st.scratch[:0], sse.Comment...))
	}
	b := st.scratch[:0]
	if st.retry {
		st.retry = false
		b = sse.AppendRetry(b, retryTime())
	}
	st.lastID = st.sub.Position()
	return st.write(AppendHeartbeat(b, st.lastID.String()))
}

// end says good-bye: the position up to which the stream is complete, when the client has not heard it, and, when the hub
// shuts down, when to come back. No parser dispatches a `retry:` without a blank line.
func (st *Stream) end(reason EndReason) error {
	if st.cut.Load() != nil {
		if reason == EndDisconnected {
			if err := st.write(sse.AppendRetry(st.scratch[:0], retryTime())); err != nil {
				return err
			}
		}
		return st.wire.end()
	}
	if _, err := st.takeTurn(); err != nil { // an idle stream's position moves on with the log's
		return err
	}
	b := st.scratch[:0]
	if st.req.Farewell && st.sub.Position() > st.lastID {
		b = AppendHeartbeat(b, st.sub.Position().String())
	}
	if reason == EndDrain {
		b = sse.AppendRetry(b, retryTime())
	}
	if len(b) > 0 {
		if err := st.write(b); err != nil {
			return err
		}
	}
	return st.wire.end()
}
