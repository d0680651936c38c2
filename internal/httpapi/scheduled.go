package httpapi

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/publish"
	"github.com/fanfare-hub/fanfare/internal/query"
)

// The limits of a list of scheduled events.
const (
	MaxScheduled     = 1000
	DefaultScheduled = 100

	maxScheduledReads = 64 // of the log for one page
)

// Scheduled is GET /v1/scheduled: the events of patterns that are to be published later, in the
// order of their times, a page at a time. `next` leads on; a page of a pattern that few of them
// match may be empty and have a `next`. It takes the right to publish to all that the patterns
// match.
func (a *API) Scheduled(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	hold := a.o.Publisher.Bodies.Hold(by)
	defer hold.Free()
	out, err := a.scheduled(r, by, &hold)
	if err != nil {
		a.o.Problems.Write(w, r, by.Refuse(err))
		return
	}
	publish.WriteJSON(w, r, http.StatusOK, out)
}

func (a *API) scheduled(r *http.Request, by caller.Caller, hold *publish.Hold) (out []byte, err error) {
	v, err := query.Parse(r, "channel", "after", "limit")
	if err != nil {
		return nil, err
	}
	q := fanfare.ScheduledQuery{Bytes: stepBytes}
	if q.Patterns, err = query.Patterns(v); err != nil {
		return nil, err
	}
	if err := by.MayPublishAll(q.Patterns...); err != nil {
		return nil, err
	}
	limit, err := query.Limit(v, DefaultScheduled, MaxScheduled)
	if err != nil {
		return nil, err
	}
	if text := v.Get("after"); text != "" {
		if q.After, err = parseCursor(text); err != nil {
			return nil, err
		}
	}
	out = append(out, `{"scheduled":[`...)
	count, page := 0, fanfare.ScheduledPage{More: true}
	for reads := 0; page.More && count < limit && len(out) < MaxHistoryBytes && reads < maxScheduledReads; reads++ {
		q.Limit = min(limit-count, stepEvents)
		if err := a.o.Replay(r.Context(), by.Owner(), func() (err error) {
			page, err = a.o.Scheduler.Scheduled(r.Context(), q)
			return err
		}); err != nil {
			return nil, err
		}
		q.After = page.Next
		for i := range page.Events {
			if count++; count > 1 {
				out = append(out, ',')
			}
			out = appendScheduled(out, &page.Events[i])
		}
		if more := len(out) - publish.FreeBytes - hold.Bytes(); more > 0 {
			if err := hold.Grow(more); err != nil {
				return nil, err
			}
		}
	}
	if out = append(out, ']'); page.More {
		out = append(append(append(out, `,"next":"`...), cursorText(page.Next)...), '"')
	}
	return append(out, '}'), nil
}

// cursorText is a cursor as `next` has it: the time and the id.
func cursorText(c fanfare.ScheduledCursor) string {
	return fanfare.Position(c.At.UnixMilli()).String() + c.ID.String()
}

func parseCursor(text string) (c fanfare.ScheduledCursor, err error) {
	bad := fanfare.Invalid("after: %.64q is not the `next` of a page", text)
	if len(text) != 2*fanfare.PositionTextBytes {
		return c, bad
	}
	at, err := fanfare.ParsePosition(text[:fanfare.PositionTextBytes])
	if err != nil || at >= 1<<50 {
		return c, bad
	}
	c.At = time.UnixMilli(int64(at))
	if c.ID, err = fanfare.ParseScheduledID(text[fanfare.PositionTextBytes:]); err != nil || c.ID == 0 {
		return c, bad
	}
	return c, nil
}

// appendScheduled appends a scheduled event.
func appendScheduled(b []byte, e *fanfare.ScheduledEvent) []byte {
	b = append(append(append(b, `{"scheduled":"`...), e.ID.String()...), `","channel":"`...)
	b = append(appendText(b, e.Event.Channel.String()), `","event":"`...)
	b = append(appendText(b, e.Event.Type.String()), `","data":"`...)
	b = append(appendText(b, e.Event.Data), `","deliverAt":"`...)
	b = append(e.DeliverAt.UTC().AppendFormat(b, time.RFC3339Nano), '"')
	if e.TTL > 0 {
		b = append(append(append(b, `,"ttl":"`...), e.TTL.String()...), '"')
	}
	return append(b, '}')
}

// ScheduledEvent is GET /v1/scheduled/{id}. It takes the right to publish to the event's channel.
func (a *API) ScheduledEvent(w http.ResponseWriter, r *http.Request, by caller.Caller, id string) {
	e, err := a.findScheduled(r, by, id)
	if err != nil {
		a.o.Problems.Write(w, r, by.Refuse(err))
		return
	}
	publish.WriteJSON(w, r, http.StatusOK, appendScheduled(nil, &e))
}

// Cancel is DELETE /v1/scheduled/{id}. It takes the right to publish to the event's channel. Of a
// call that races with the event's being published, one wins: after 204 the event is not published.
func (a *API) Cancel(w http.ResponseWriter, r *http.Request, by caller.Caller, id string) {
	e, err := a.findScheduled(r, by, id)
	var ok bool
	if err == nil && e.Event.Channel.Reserved() {
		err = fanfare.Errorf(fanfare.CodeForbidden,
			"event %v is the hub's own, such as the expiry of a command: cancel the command", e.ID)
	}
	if err == nil {
		if ok, err = a.o.Scheduler.Cancel(context.WithoutCancel(r.Context()), e.ID); err == nil && !ok {
			err = notScheduled(id)
		}
	}
	if err != nil {
		a.o.Problems.Write(w, r, by.Refuse(err))
		return
	}
	a.o.Publisher.Canceled(by, e)
	w.Header()["Cache-Control"] = []string{"no-store"}
	w.WriteHeader(http.StatusNoContent)
}

func notScheduled(id string) error {
	return fanfare.Errorf(fanfare.CodeNotFound,
		"no event %.64q is scheduled: it was published or canceled, or never was", id)
}

func (a *API) findScheduled(r *http.Request, by caller.Caller, text string) (e fanfare.ScheduledEvent, err error) {
	if err := by.MayPublishAnything(); err != nil {
		return e, err
	}
	if _, err := query.Parse(r); err != nil {
		return e, err
	}
	id, err := fanfare.ParseScheduledID(strings.TrimSpace(text))
	if err != nil {
		return e, notScheduled(text)
	}
	e, ok, err := a.o.Scheduler.ScheduledAt(r.Context(), id)
	if err == nil && !ok {
		err = notScheduled(text)
	}
	if err == nil && by.MayPublish(e.Event.Channel) != nil {
		err = by.MayNot("to publish to the channel of this event") // which the caller may not know (P8)
	}
	return e, err
}
