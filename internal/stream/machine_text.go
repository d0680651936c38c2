package stream

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/sse"
)

// firstBytes makes the first bytes of the body, which leave with the head: the event that carries
// the start position, or a comment if there is no such event, or if the position must first be
// looked for.
func (m *machine) firstBytes() []byte {
	w := work{}
	m.retry = m.manner.First == nil
	if at, known := m.sub.Begins(); known {
		m.opens(&w, at)
	}
	if len(w.prefix) == 0 {
		w.say(m, []byte(sse.Comment))
	}
	return w.prefix
}

// opens tells the start position, unless that was done at once.
func (m *machine) opens(w *work, at fanfare.Position) {
	m.firstID, m.lastID = at, at
	if m.opened || m.manner.First == nil {
		return
	}
	m.opened = true
	w.say(m, m.manner.First(appendRetry(w.text[:0], retryTime()), at.String()))
}

func (m *machine) appendGap(b []byte, g *fanfare.Gap) []byte {
	if m.retry {
		m.retry = false
		b = appendRetry(b, retryTime())
	}
	m.lastID = g.Oldest - 1
	data, _ := json.Marshal(struct {
		Requested string            `json:"requested"`
		Oldest    string            `json:"oldest"`
		Reason    fanfare.GapReason `json:"reason"`
	}{shorten(g.Requested), g.Oldest.String(), g.Reason})
	return sse.AppendEvent(b, m.lastID.String(), "gap", string(data))
}

// shorten shortens a client's text to at most 128 bytes of UTF-8.
func shorten(s string) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	if len(s) > 128 {
		s = strings.ToValidUTF8(s[:128], "")
	}
	return s
}

// appendHeartbeat appends a heartbeat event, which carries a position.
func appendHeartbeat(dst []byte, id string, timeOfDay time.Time) []byte {
	dst = append(dst, "id: "...)
	dst = append(dst, id...)
	dst = append(dst, "\nevent: heartbeat\ndata: {\"time\":\""...)
	dst = timeOfDay.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z07:00")
	return append(dst, "\"}\n\n"...)
}

func (w *work) appendHeartbeat(dst []byte, at fanfare.Position) []byte {
	return appendHeartbeat(dst, at.String(), w.house.timeOfDay())
}

// appendRetry appends the line that says after how long a client is to come back.
func appendRetry(dst []byte, after time.Duration) []byte {
	return sse.AppendRetry(dst, after.Milliseconds())
}

// retryTime is jittered, so that clients do not come back all at once.
func retryTime() time.Duration {
	return 2*time.Second + time.Duration(rand.Int64N(2001))*time.Millisecond
}

// signOfLife is for an idle stream, which is complete up to at.
func (m *machine) signOfLife(w *work, at fanfare.Position) {
	if m.manner.Idle == IdleComment || !m.sub.Opened() {
		w.say(m, append(w.text[:0], sse.Comment...))
		return
	}
	b := w.text[:0]
	if m.retry {
		m.retry = false
		b = appendRetry(b, retryTime())
	}
	m.lastID = at
	w.say(m, w.appendHeartbeat(b, at))
}

// goodbye ends the body: the position up to which the stream is complete, when the client has not
// heard it, and, when the hub shuts down, when to come back.
func (m *machine) goodbye(w *work, t *hub.Turn, reason EndReason) verdict {
	b := w.text[:0]
	switch {
	case reason == EndDrain, reason == EndFailed:
		b = m.comeBack(w, b, t.Through)
	case m.manner.Farewell == FarewellPosition && m.sub.Opened() && t.Through > m.lastID:
		b = w.appendHeartbeat(b, t.Through)
	}
	return m.last(w, b, reason)
}

// cutShort ends the body of a stream that may not send any events more.
func (m *machine) cutShort(w *work, reason EndReason) verdict {
	b := w.text[:0]
	if reason == EndDisconnected {
		b = m.comeBack(w, b, m.sub.Position())
	}
	return m.last(w, b, reason)
}

// comeBack appends when to come back, in a heartbeat event with the position up to which the stream
// is complete: some clients take a `retry:` that stands alone for an event without data. A client
// that wants no heartbeat events has got a `retry:` with its first event. A client whose start has
// not been found has no position yet, and comes back as it came.
func (m *machine) comeBack(w *work, b []byte, at fanfare.Position) []byte {
	known := true
	if !m.sub.Opened() {
		at, known = m.sub.Begins()
	}
	if m.manner.Farewell == FarewellNone || !known {
		return b
	}
	return w.appendHeartbeat(appendRetry(b, w.house.comeBack()), at)
}

func (m *machine) last(w *work, text []byte, reason EndReason) verdict {
	w.say(m, text)
	if m.chunked {
		w.prefix = append(w.prefix, sse.LastChunk...)
	}
	w.reason = reason
	return ends
}
