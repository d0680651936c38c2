package httpapi

import (
	"log/slog"
	"net/http"
	"sync/atomic"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/publish"
)

// stepBytes is how much data is read at once, and how much JSON is gathered before it is written.
const stepBytes = 64 << 10

// stepEvents is how many events are read at once.
const stepEvents = 256

// page is one answer of history on its way. It belongs to the request's goroutine.
type page struct {
	api   *API
	w     http.ResponseWriter
	r     *http.Request
	owner string
	ask   historyRequest
	hold  publish.Hold

	through fanfare.Position // the newest position when the page began: it ends there
	after   fanfare.Position // the events that were read
	count   int              // events in the page
	bytes   int              // of their JSON
	last    fanfare.Position // of the last of them
	gap     []byte           // the member, when there is one
	more    bool             // events are left for the next page
	done    bool

	out   []byte         // JSON that has not been written
	begun bool           // the head is out: an answer is promised
	paced *publish.Paced // the writer from then on

	refused bool // the peer takes nothing more
}

// send reads and writes the page. After an error the answer is unfinished, when it was begun.
func (p *page) send() (err error) {
	p.through, p.after = p.api.o.Log.Status().Durable, p.ask.from.after
	if p.ask.gaps {
		if p.gap, err = p.api.historyGap(p.r, p.ask.patterns, p.ask.from.after); err != nil {
			return err
		}
	}
	p.out = append(p.out, `{"events":[`...)
	p.done = p.after >= p.through
	for !p.done {
		events, err := p.read()
		if err != nil {
			return err
		}
		for i := range events {
			size := eventBytes(&events[i])
			if p.count > 0 && (p.count == p.ask.limit || p.bytes+size > MaxHistoryBytes) {
				p.more, p.done = true, true
				break
			}
			if err := p.add(&events[i], size); err != nil {
				return err
			}
		}
	}
	return p.finish()
}

// read reads some events in the owner's turn.
func (p *page) read() (events []fanfare.Event, err error) {
	q := fanfare.Query{
		Patterns: p.ask.patterns, After: p.after, Through: p.through, Since: p.ask.from.since, Age: p.ask.from.ago,
		Limit: min(p.ask.limit+1-p.count, stepEvents), Bytes: stepBytes,
	}
	var got fanfare.Page
	if err = p.api.o.Replay(p.r.Context(), p.owner, func() (err error) {
		got, err = p.api.o.Log.Read(p.r.Context(), q)
		return err
	}); err != nil {
		return nil, err
	}
	p.ask.from.ago = 0 // later events are younger
	p.after = got.Through
	p.done = got.Through >= p.through
	if got.Trimmed > q.After {
		// Retention has been here since the last look (P4).
		switch {
		case p.count > 0:
			p.more, p.done = true, true // the next page begins with the gap
			return nil, nil
		case p.ask.gaps && p.gap == nil:
			if p.gap, err = p.api.historyGap(p.r, p.ask.patterns, p.ask.from.after); err != nil {
				return nil, err
			}
		}
	}
	return p.afford(got.Events)
}

// afford takes from the budget the bytes that the events need until they are written. If they do
// not fit, the last one, which is the only large one, is left for the next page; if it would be the
// first of the page, the page is refused.
func (p *page) afford(events []fanfare.Event) ([]fanfare.Event, error) {
	p.hold.Free()
	bytes := 0
	for i := range events {
		bytes += len(events[i].Data)
	}
	if bytes <= publish.FreeBytes {
		return events, nil
	}
	err := p.hold.Grow(bytes + stepBytes)
	if err == nil || p.count+len(events) == 1 {
		return events, err
	}
	events = events[:len(events)-1]
	p.more, p.done = true, true
	if len(events) == 0 || p.begun {
		return events, nil // at most a step, which this answer held before
	}
	return events, p.hold.Grow(stepBytes)
}

// add puts an event, whose JSON has size bytes, into the page.
func (p *page) add(e *fanfare.Event, size int) error {
	if p.count > 0 {
		p.out = append(p.out, ',')
	}
	p.count++
	p.bytes += size
	p.last = e.Position
	p.out = appendEventHead(p.out, e)
	for data := e.Data; data != ""; {
		var some string
		some, data = cutText(data, stepBytes/8) // each byte may become six
		p.out = appendText(p.out, some)
		if err := p.write(stepBytes); err != nil {
			return err
		}
	}
	p.out = appendEventTail(p.out, e)
	return nil
}

// write writes the gathered bytes, if they are at least that many.
func (p *page) write(least int) error {
	if len(p.out) < least {
		return nil
	}
	if !p.begun {
		p.begun = true
		historyHead(p.w)
		p.w.WriteHeader(http.StatusOK)
		p.paced = publish.NewPaced(p.w, p.r, p.api.o.StallLimit)
	}
	_, err := p.paced.Write(p.out)
	p.out = p.out[:0]
	p.refused = err != nil
	return err
}

// finish writes the remaining bytes. A page that is small enough says its length.
func (p *page) finish() error {
	p.out = append(p.out, ']')
	if p.more {
		p.out = append(p.out, `,"next":"`...)
		p.out = append(p.last.Append(p.out), '"')
	}
	p.out = append(append(p.out, p.gap...), '}')
	if !p.begun {
		publish.WriteJSON(p.w, p.r, http.StatusOK, p.out)
		return nil
	}
	p.out = append(p.out, '\n')
	err := p.write(1)
	p.paced.End()
	return err
}

// Cut is why answers ended before they were whole, after their head had gone out.
type Cut struct {
	Stalled atomic.Uint64 // the peer took nothing
	Gone    atomic.Uint64 // the peer closed the connection
	Failed  atomic.Uint64 // the log could not be read
}

// Counts returns how often, by reason.
func (c *Cut) Counts() map[string]uint64 {
	return map[string]uint64{"stalled": c.Stalled.Load(), "gone": c.Gone.Load(), "failed": c.Failed.Load()}
}

// cutShort counts an answer that ends in its middle.
func (a *API) cutShort(p *page, err error) {
	switch {
	case p.paced.Stalled:
		a.Cut.Stalled.Add(1)
	case p.refused || p.r.Context().Err() != nil:
		a.Cut.Gone.Add(1)
	default:
		a.Cut.Failed.Add(1)
		a.o.Logger.Error("a page of history was cut: the log could not be read", slog.Any("err", err))
	}
}
