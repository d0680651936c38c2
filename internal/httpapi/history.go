package httpapi

import (
	"net/http"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/query"
)

// The limits of a page of history.
const (
	MaxHistory     = 1000
	DefaultHistory = 100

	// MaxHistoryBytes is how much JSON a page's events may have together; one event always fits.
	MaxHistoryBytes = 1 << 20
)

// History is GET /v1/history: one channel's retained events, a page at a time. A page ends at its
// limit of events, or before the event that would make it larger than MaxHistoryBytes, or where
// retention overtakes the reading; `next` leads on.
//
// The events are read and written by turns, some 64 KiB at a time. So a page costs no more memory
// than that, even if the peer takes it slowly, and it holds no turn to read the log while it waits
// for the peer. A failure before the first byte is a problem document. A later failure ends the
// connection (or the HTTP/2 stream) without the end of the body: no client can take that for a
// whole answer.
func (a *API) History(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	ask, err := readHistoryRequest(r, by)
	if err != nil {
		a.o.Problems.Write(w, r, err)
		return
	}
	h := &history{ask: ask, after: ask.from.after, through: a.o.Log.Status().Durable}
	h.page = page{api: a, w: w, r: r, owner: by.Owner(), limit: ask.limit, read: h.read, tail: h.tail}
	if ask.gaps && r.Method != http.MethodHead {
		if h.gap, err = a.historyGap(r, ask.patterns, ask.from.after); err != nil {
			a.o.Problems.Write(w, r, by.Refuse(err))
			return
		}
	}
	h.done = h.after >= h.through
	a.sendPage(&h.page, by)
}

// sendPage sends a page, and counts one that is cut. HEAD reads no events.
func (a *API) sendPage(p *page, by caller.Caller) {
	if p.r.Method == http.MethodHead {
		historyHead(p.w)
		p.w.WriteHeader(http.StatusOK)
		return
	}
	p.hold = a.o.Publisher.Bodies.Hold(by)
	defer p.hold.Free()
	if err := p.send(); err != nil {
		if !p.begun {
			a.o.Problems.Write(p.w, p.r, by.Refuse(err))
			return
		}
		a.cutShort(p, err)
		panic(http.ErrAbortHandler)
	}
}

func historyHead(w http.ResponseWriter) {
	w.Header()["Content-Type"], w.Header()["Cache-Control"] = []string{"application/json"}, []string{"no-store"}
}

// history is one page of a channel's events.
type history struct {
	page
	ask     historyRequest
	through fanfare.Position // the newest position when the page began: it ends there
	after   fanfare.Position // the events that were read
	gap     []byte           // the member, when there is one
}

// read reads some events in the owner's turn.
func (h *history) read() (events []fanfare.Event, err error) {
	q := fanfare.Query{
		Patterns: h.ask.patterns, After: h.after, Through: h.through, Since: h.ask.from.since, Age: h.ask.from.ago,
		Limit: min(h.limit+1-h.count, stepEvents), Bytes: stepBytes,
	}
	var got fanfare.Page
	if err = h.api.o.Replay(h.r.Context(), h.owner, func() (err error) {
		got, err = h.api.o.Log.Read(h.r.Context(), q)
		return err
	}); err != nil {
		return nil, err
	}
	h.ask.from.ago = 0 // later events are younger
	h.after = got.Through
	h.done = got.Through >= h.through
	if got.Trimmed > q.After {
		// Retention has been here since the last look (P4).
		switch {
		case h.count > 0:
			h.more, h.done = true, true // the next page begins with the gap
			return nil, nil
		case h.ask.gaps && h.gap == nil:
			if h.gap, err = h.api.historyGap(h.r, h.ask.patterns, h.ask.from.after); err != nil {
				return nil, err
			}
		}
	}
	return h.afford(got.Events)
}

func (h *history) tail(b []byte) []byte {
	if h.more {
		b = append(h.last.Position.Append(append(b, `,"next":"`...)), '"')
	}
	return append(b, h.gap...)
}

// historyRequest is a request for a page.
type historyRequest struct {
	patterns []fanfare.Pattern // one, exact
	limit    int
	from     historyStart
	gaps     bool // a position is given: events that are missing after it are a gap
}

func readHistoryRequest(r *http.Request, by caller.Caller) (ask historyRequest, err error) {
	q, err := query.Parse(r, "channel", "after", "limit")
	if err != nil {
		return ask, err
	}
	names := q["channel"]
	if len(names) != 1 {
		return ask, fanfare.Invalid("channel must be given once, it is given %d times", len(names))
	}
	c, err := fanfare.ParseChannel(names[0])
	if err != nil {
		return ask, err
	}
	if ask.limit, err = query.Limit(q, DefaultHistory, MaxHistory); err != nil {
		return ask, err
	}
	ask.patterns = []fanfare.Pattern{fanfare.ExactPattern(c)}
	if err := by.MaySubscribe(ask.patterns...); err != nil {
		return ask, err
	}
	if text := q.Get("after"); text != "" {
		ask.from, err = readAfter(text)
		ask.gaps = ask.from.since.IsZero() && ask.from.ago == 0
	}
	return ask, err
}

// historyStart is the start of a page of history: after a position, at a time, or some time ago.
type historyStart struct {
	after fanfare.Position
	since time.Time
	ago   time.Duration
}

func readAfter(text string) (from historyStart, err error) {
	if from.after, err = fanfare.ParsePosition(text); err == nil {
		return from, nil
	}
	detail := err.(*fanfare.Error).Detail
	if from.since, from.ago, err = query.Time("after", text); err != nil {
		return from, fanfare.Invalid("after: %s, nor a time such as 2026-11-22T10:00:00Z, or 10m for ten minutes ago",
			detail)
	}
	return from, nil
}

// historyGap tells of events after a position that are gone. A position below a log's first run is
// no gap here, because history may be read from the beginning.
func (a *API) historyGap(r *http.Request, patterns []fanfare.Pattern, after fanfare.Position) ([]byte, error) {
	loss, err := a.o.Log.Missed(r.Context(), fanfare.Absence{Patterns: patterns, After: after})
	if err != nil || loss.Reason == "" || (loss.Reason == fanfare.GapTrimmed && after >= loss.Trimmed) {
		return nil, err
	}
	oldest := loss.Durable + 1
	for q := (fanfare.Query{Patterns: patterns, After: after, Through: loss.Durable, Limit: 1,
		Bytes: 1}); q.After < q.Through; {
		page, err := a.o.Log.Read(r.Context(), q)
		if err != nil {
			return nil, err
		}
		if q.After = page.Through; len(page.Events) > 0 {
			oldest = page.Events[0].Position
			break
		}
	}
	gap := append([]byte(`,"gap":{"requested":"`), after.String()...)
	gap = append(append(gap, `","oldest":"`...), oldest.String()...)
	gap = append(append(gap, `","reason":"`...), loss.Reason...)
	return append(gap, `"}`...), nil
}
