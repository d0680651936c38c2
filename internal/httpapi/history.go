package httpapi

import (
	"net/http"
	"strconv"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/publish"
	"github.com/fanfare-hub/fanfare/internal/query"
)

// The limits of a page of history.
const (
	MaxHistory     = 1000
	DefaultHistory = 100
)

// History is GET /v1/history: one channel's retained events, a page at a time.
func (a *API) History(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	body, err := a.history(r, by)
	if err != nil {
		a.o.Problems.Write(w, r, err)
		return
	}
	publish.WriteJSON(w, r, http.StatusOK, body)
}

func (a *API) history(r *http.Request, by caller.Caller) ([]byte, error) {
	q, err := query.Parse(r, "channel", "after", "limit")
	if err != nil {
		return nil, err
	}
	names := q["channel"]
	if len(names) != 1 {
		return nil, fanfare.Invalid("channel must be given once, it is given %d times", len(names))
	}
	c, err := fanfare.ParseChannel(names[0])
	if err != nil {
		return nil, err
	}
	limit := DefaultHistory
	if q.Has("limit") {
		if limit, err = strconv.Atoi(q.Get("limit")); err != nil || limit < 1 || limit > MaxHistory {
			return nil, fanfare.Invalid("limit must be a number from 1 to %d", MaxHistory)
		}
	}
	patterns := []fanfare.Pattern{fanfare.ExactPattern(c)}
	if err := by.MaySubscribe(patterns...); err != nil {
		return nil, err
	}
	var from historyStart
	body := []byte(`{"events":[`)
	var gap []byte
	if text := q.Get("after"); text != "" {
		if from, err = readAfter(text); err != nil {
			return nil, err
		}
		if from.since.IsZero() && from.ago == 0 {
			if gap, err = a.historyGap(r, patterns, from.after); err != nil {
				return nil, err
			}
		}
	}
	var events []fanfare.Event
	var more bool
	err = a.o.Replay(r.Context(), by.Owner(), func() (err error) {
		if from.ago > 0 {
			loc, err := a.o.Log.Locate(r.Context(), fanfare.Place{Patterns: patterns, Age: from.ago})
			if err != nil {
				return err
			}
			from.after = loc.First - 1
		}
		events, more, err = a.page(r, fanfare.Query{Patterns: patterns, After: from.after, Since: from.since}, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	for i := range events {
		if i > 0 {
			body = append(body, ',')
		}
		body = appendEvent(body, &events[i])
	}
	body = append(body, ']')
	if more {
		body = append(body, `,"next":"`...)
		body = append(events[len(events)-1].Position.Append(body), '"')
	}
	return append(append(body, gap...), '}'), nil
}

// historyStart is where a page of history begins: after a position, at a time, or so long ago.
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
		return from, fanfare.Invalid("after: %s, nor a time such as 2026-11-22T10:00:00Z, or 10m for ten minutes ago", detail)
	}
	return from, nil
}

// page reads up to limit events, and tells whether there are more.
func (a *API) page(r *http.Request, q fanfare.Query, limit int) (events []fanfare.Event, more bool, err error) {
	durable := a.o.Log.Status().Durable
	q.Through, q.Bytes = durable, 16<<20
	for q.After < durable {
		q.Limit = limit + 1 - len(events)
		page, err := a.o.Log.Read(r.Context(), q)
		if err != nil {
			return nil, false, err
		}
		events = append(events, page.Events...)
		if len(events) > limit {
			return events[:limit], true, nil
		}
		if len(page.Events) > 0 && page.Through < durable && len(events) < limit {
			// The page was cut by its bytes: enough for one answer.
			return events, true, nil
		}
		q.After = page.Through
	}
	return events, false, nil
}

// historyGap tells of events after a position that are gone. A position below a log's first run is no gap here: reading from
// the beginning is what history is for.
func (a *API) historyGap(r *http.Request, patterns []fanfare.Pattern, after fanfare.Position) ([]byte, error) {
	loc, err := a.o.Log.Locate(r.Context(), fanfare.Place{Patterns: patterns, After: after})
	if err != nil || loc.Reason == "" || (loc.Reason == fanfare.GapTrimmed && after >= loc.Trimmed) {
		return nil, err
	}
	oldest := loc.First
	if loc.Reason == fanfare.GapFuture {
		oldest = loc.Durable + 1 // nothing is read after such a position
	}
	gap := append([]byte(`,"gap":{"requested":"`), after.String()...)
	gap = append(append(gap, `","oldest":"`...), oldest.String()...)
	gap = append(append(gap, `","reason":"`...), loc.Reason...)
	return append(gap, `"}`...), nil
}

func appendEvent(b []byte, e *fanfare.Event) []byte {
	b = append(e.Position.Append(append(b, `{"id":"`...)), `","channel":`...)
	b = append(append(b, jsonText(e.Channel.String())...), `,"event":`...)
	b = append(append(b, jsonText(e.Type.String())...), `,"data":`...)
	b = append(append(b, jsonText(e.Data)...), `,"time":"`...)
	b = e.Time.UTC().AppendFormat(b, time.RFC3339Nano)
	if e.Trace != "" {
		b = append(append(b, `","traceparent":"`...), e.Trace...)
	}
	return append(b, `"}`...)
}
