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

// page is one answer of many events on its way. It belongs to the request's goroutine.
type page struct {
	api   *API
	w     http.ResponseWriter
	r     *http.Request
	owner string
	limit int // most events
	hold  publish.Hold

	// read returns some more of the events. It sets done with the last of them, and more when
	// others are left to the next page.
	read func() ([]fanfare.Event, error)
	// tail appends the members that follow the events.
	tail func([]byte) []byte

	count int           // events in the page
	bytes int           // of their JSON
	last  fanfare.Event // the last of them: its position and channel
	more  bool          // events are left for the next page
	done  bool

	out   []byte         // JSON that has not been written
	begun bool           // the head is out: an answer is promised
	paced *publish.Paced // the writer from then on

	refused bool // the peer takes nothing more
}

// send reads and writes the page. After an error the answer is unfinished, when it was begun.
func (p *page) send() (err error) {
	p.out = append(p.out, `{"events":[`...)
	for !p.done {
		events, err := p.read()
		if err != nil {
			return err
		}
		for i := range events {
			size := eventBytes(&events[i])
			if p.count > 0 && (p.count == p.limit || p.bytes+size > MaxHistoryBytes) {
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
	p.last = fanfare.Event{Position: e.Position, Channel: e.Channel}
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
	p.out = append(p.tail(append(p.out, ']')), '}')
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
