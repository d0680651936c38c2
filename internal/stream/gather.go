package stream

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/hub"
	"github.com/fanfare-hub/fanfare/sse"
)

// verdict says how a stream goes on when what was gathered has been sent.
type verdict int

const (
	waits verdict = iota // until it is woken, or due
	again                // with another turn, at once
	reads                // nothing was gathered: the log must be read for what comes next
	over                 // it has ended, for work.reason
)

// work is what a goroutine gathers a stream's next pieces in. One does for many streams, one after the other.
type work struct {
	turn   hub.Turn // not of a read
	prefix []byte   // goes out before the frames, as it is on the wire
	text   []byte   // scratch
	reason EndReason
}

// say adds a text to what goes out before the frames.
func (w *work) say(st *Stream, text []byte) {
	w.text = text[:0]
	if st.chunked {
		w.prefix = sse.AppendChunk(w.prefix, text)
	} else {
		w.prefix = append(w.prefix, text...)
	}
}

// gather makes the stream's next pieces: w.prefix, then the frames of t. t is &w.turn, which it fills from memory, or, with
// fetched, a turn that was read from the log. What goes out is counted by sent.
func (st *Stream) gather(w *work, t *hub.Turn, fetched bool, now int64) verdict {
	w.prefix = w.prefix[:0]
	reason := st.mustEnd(now)
	if st.cut.Load() != nil {
		// Also when rights have ended while the turn was fetched (P8).
		nothing(t, st.sub.Position())
		return st.cutShort(w, reason)
	}
	if reason != "" && st.leaving {
		nothing(t, st.sub.Position())
		return st.goodbye(w, t, reason)
	}
	if !fetched && !st.sub.Next(t) {
		if reason == "" {
			return reads
		}
		nothing(t, st.sub.Position()) // it goes with what it has been sent
	}
	st.withhold(t)
	if t.Opens {
		st.opens(w, t.Begins)
	}
	if t.Gap != nil {
		w.say(st, st.appendGap(w.text[:0], t.Gap))
	}
	switch {
	case len(t.Frames) > 0:
		if st.retry {
			st.retry = false
			w.say(st, sse.AppendRetry(w.text[:0], retryTime()))
		}
		if st.envelope {
			envelop(t.Frames)
		}
	case len(w.prefix) > 0:
	case reason != "":
		return st.goodbye(w, t, reason)
	case st.wantsSign(now):
		st.signOfLife(w, t.Through)
	}
	st.leaving = reason != ""
	if t.More || reason != "" {
		return again
	}
	return waits
}

func nothing(t *hub.Turn, at fanfare.Position) {
	clear(t.Frames)
	t.Opens, t.Gap, t.Frames, t.After, t.Through, t.More = false, nil, t.Frames[:0], at, at, false
}

// sent counts what was gathered and is certain to go out: all of it, or the first so many frames. A peer may have a frame, and be
// gone, before the write returns, so live has been told before, by sending.
func (st *Stream) sent(w *work, t *hub.Turn, frames int, now time.Time) {
	if len(w.prefix) > 0 || frames > 0 {
		st.wrote = st.streams.at(now)
	}
	at, more := t.Through, t.More
	if frames < len(t.Frames) {
		at, more = t.After, true
		if frames > 0 {
			at = t.Frames[frames-1].Position
		}
		st.live.unsent(st, t.Frames[frames:])
	}
	if frames > 0 {
		st.lastID = t.Frames[frames-1].Position
		st.count(t.Frames[:frames], now)
	}
	st.sub.Advance(at, more)
	if frames > 0 && st.watch != nil {
		st.watch.Changed()
	}
}

// begin makes the first bytes of the body, which go out with the head: the event that carries the start position, or a comment
// where there is none, or where the position has to be looked for.
func (st *Stream) begin() []byte {
	w := work{}
	st.retry = st.first == nil
	if at, known := st.sub.Begins(); known {
		st.opens(&w, at)
	}
	if len(w.prefix) == 0 {
		w.say(st, []byte(sse.Comment))
	}
	return w.prefix
}

// opens tells the start position, unless that was done at once.
func (st *Stream) opens(w *work, at fanfare.Position) {
	st.lastID = at
	if st.byTicket != nil {
		st.byTicket.first = at
	}
	if st.first == nil {
		return
	}
	w.say(st, st.first(sse.AppendRetry(w.text[:0], retryTime()), at.String()))
	st.first = nil
}

func (st *Stream) appendGap(b []byte, g *fanfare.Gap) []byte {
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

// withhold takes out of the turn what was read from the log and the caller may not hear (P8). A stream's patterns were checked
// when it opened, so this finds nothing unless something is wrong; it is the last look before the wire.
func (st *Stream) withhold(t *hub.Turn) {
	if st.may == nil {
		return
	}
	kept := t.Frames[:0]
	for _, f := range t.Frames {
		if f.Heard == 0 && !st.may(f.Channel) {
			if st.streams.withheld.Add(1) == 1 {
				st.streams.o.Logger.Error("an event was withheld from a stream that may not hear it: this is a fault of the hub")
			}
			continue
		}
		kept = append(kept, f)
	}
	clear(t.Frames[len(kept):])
	t.Frames = kept
}

// count counts what was sent. The delay is that of a turn's first live event: one observation a turn is enough.
func (st *Stream) count(frames []hub.Frame, now time.Time) {
	bytes, replayed, live := 0, 0, uint64(0)
	var heard int64
	for i := range frames {
		f := &frames[i]
		n := st.frameBytes(f)
		bytes += n
		if f.Heard == 0 {
			replayed += n
			continue
		}
		if f.Trace != nil && st.streams.o.Step != nil && f.Trace.First.CompareAndSwap(false, true) {
			st.streams.o.Step(f.Trace.Parent, "first delivery", time.Unix(0, f.Heard), now)
		}
		if live++; heard == 0 {
			heard = f.Heard
		}
	}
	st.events.Add(uint64(len(frames)))
	st.bytes.Add(uint64(bytes))
	st.streams.delivered.Add(uint64(len(frames)))
	st.streams.deliveredBytes.Add(uint64(bytes))
	if replayed > 0 {
		st.streams.replayed.Add(uint64(len(frames)) - live)
		st.streams.replayedBytes.Add(uint64(replayed))
	}
	if live > 0 {
		st.streams.delivery.ObserveN(time.Duration(now.UnixNano()-heard), live)
	}
}

// wantsSign tells whether a stream that has nothing to send owes its client a sign of life, or somebody waits to see whether its peer
// is there.
func (st *Stream) wantsSign(now int64) bool {
	return now-st.wrote >= st.heartbeat || st.byTicket.wantsSign()
}

// signOfLife is for an idle stream, which is complete up to at.
func (st *Stream) signOfLife(w *work, at fanfare.Position) {
	if st.idle == IdleComment || !st.sub.Opened() {
		w.say(st, append(w.text[:0], sse.Comment...))
		return
	}
	b := w.text[:0]
	if st.retry {
		st.retry = false
		b = sse.AppendRetry(b, retryTime())
	}
	st.lastID = at
	w.say(st, AppendHeartbeat(b, at.String()))
}

// goodbye ends the body: the position up to which the stream is complete, when the client has not heard it, and, when the hub
// shuts down, when to come back.
func (st *Stream) goodbye(w *work, t *hub.Turn, reason EndReason) verdict {
	b := w.text[:0]
	switch {
	case reason == EndDrain, reason == EndFailed:
		b = st.comeBack(b, t.Through)
	case st.farewell == FarewellPosition && st.sub.Opened() && t.Through > st.lastID:
		b = AppendHeartbeat(b, t.Through.String())
	}
	return st.last(w, b, reason)
}

// cutShort ends the body of a stream that may not send any events more.
func (st *Stream) cutShort(w *work, reason EndReason) verdict {
	b := w.text[:0]
	switch reason {
	case EndDisconnected:
		b = st.comeBack(b, st.sub.Position())
	case EndReplaced:
		st.streams.tickets.pushedOut(st)
	}
	return st.last(w, b, reason)
}

// comeBack appends when to come back, in a heartbeat event with the position up to which the stream is complete: some clients take a
// `retry:` that stands alone for an event without data. A client that wants no heartbeat events has heard a `retry:` with its first
// event. One whose start has not been found has no position to be told, and comes back as it came.
func (st *Stream) comeBack(b []byte, at fanfare.Position) []byte {
	known := true
	if !st.sub.Opened() {
		at, known = st.sub.Begins()
	}
	if st.farewell == FarewellNone || !known {
		return b
	}
	return AppendHeartbeat(sse.AppendRetry(b, st.streams.comeBack()), at.String())
}

func (st *Stream) last(w *work, text []byte, reason EndReason) verdict {
	w.say(st, text)
	if st.chunked {
		w.prefix = append(w.prefix, sse.LastChunk...)
	}
	w.reason = reason
	return over
}
