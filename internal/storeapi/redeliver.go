package storeapi

import (
	"context"
	"slices"
	"strings"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/commands"
	"github.com/fanfare-hub/fanfare/internal/fleet"
	"github.com/fanfare-hub/fanfare/internal/stream"
	"github.com/fanfare-hub/fanfare/sse"
)

// A PC whose program may die between hearing a command and doing it asks for redeliver=pending:
// after CONNECTED come the commands at or below the start position that it has not finished, oldest
// first, each with the start position as its id, so that the PC's cursor does not move back.

// The most that is redelivered to a stream; what is left comes when the first ones are answered.
const (
	maxRedelivered      = 1000
	maxRedeliveredBytes = 1 << 20
)

// redeliver has a stream that asks for it begin with the PC's commands that are not final. Its
// First is nil until then.
func (a *API) redeliver(ctx context.Context, req *stream.Request, d fleet.Device) error {
	if req.First != nil {
		return nil
	}
	events, err := a.unfinished(ctx, req.Patterns, d)
	req.First = func(dst []byte, id string) []byte {
		dst = connected(dst, id)
		start, _ := fanfare.ParsePosition(id)
		for i := range events {
			if e := &events[i]; e.Position <= start {
				dst = sse.AppendEvent(dst, id, e.Type.String(), e.Data)
			}
		}
		events = nil // the stream lives on
		return dst
	}
	return err
}

// unfinished returns the commands that a PC has heard, or could have, and that are not final.
func (a *API) unfinished(
	ctx context.Context, patterns []fanfare.Pattern, d fleet.Device,
) (events []fanfare.Event, err error) {
	q := fanfare.ScheduledQuery{ByChannel: true, Limit: maxRedelivered}
	for _, name := range d.Channels() {
		p, err := fanfare.ParsePattern("$acks/" + name + "/*")
		if err != nil {
			return nil, err
		}
		q.Patterns = append(q.Patterns, p)
	}
	waits, err := a.o.Commands.Scheduler.Scheduled(ctx, q)
	if err != nil {
		return nil, err
	}
	var at []fanfare.Position
	for i := range waits.Events {
		e := &waits.Events[i]
		sent, err := a.sentAt(ctx, e)
		if err != nil {
			return nil, err
		}
		if sent == 0 {
			continue
		}
		if !q.Patterns[0].Match(e.Event.Channel) { // a broadcast, which this PC may have answered
			c, err := a.findFor(ctx, d, e.ID.String())
			if fanfare.CodeOf(err) == fanfare.CodeNotFound || (err == nil && c.Now.State.Final()) {
				continue
			}
			if err != nil {
				return nil, err
			}
		}
		at = append(at, sent)
	}
	slices.Sort(at)
	return a.readAt(ctx, patterns, at)
}

// maxAfterSent is how many events are looked at to find a command that was scheduled: it is among
// the first ones of its channel since its time.
const maxAfterSent = 256

// sentAt returns the position of a command whose expiry waits; 0 when it was not sent yet. Nobody
// knows the position beforehand of a command that was scheduled.
func (a *API) sentAt(ctx context.Context, waits *fanfare.ScheduledEvent) (fanfare.Position, error) {
	since := commands.SentAt(waits)
	if waits.With != 0 || since.IsZero() || a.o.Log.Now().Before(since) {
		return waits.With, nil
	}
	reference := waits.ID.String()
	name := strings.TrimSuffix(strings.TrimPrefix(waits.Event.Channel.String(), "$acks/"), "/"+reference)
	channel, err := fanfare.ParseChannel(name)
	if err != nil {
		return 0, err
	}
	page, err := a.o.Log.Read(ctx, fanfare.Query{Patterns: []fanfare.Pattern{fanfare.ExactPattern(channel)},
		Since: since, Limit: maxAfterSent, Bytes: maxRedeliveredBytes})
	if err != nil {
		return 0, err
	}
	for i := range page.Events {
		if strings.Contains(page.Events[i].Data, `"referenceId":"`+reference+`"`) {
			return page.Events[i].Position, nil
		}
	}
	return 0, nil
}

// readAt reads the events at positions, as far as they are retained and fit.
func (a *API) readAt(
	ctx context.Context, patterns []fanfare.Pattern, at []fanfare.Position,
) (events []fanfare.Event, err error) {
	if len(at) == 0 {
		return nil, nil
	}
	read := fanfare.Query{Patterns: patterns, At: at, After: at[0] - 1, Through: at[len(at)-1], Limit: len(at)}
	for bytes := 0; read.After < read.Through; {
		page, err := a.o.Log.Read(ctx, read)
		if err != nil {
			return nil, err
		}
		for i := range page.Events {
			if bytes += len(page.Events[i].Data); bytes > maxRedeliveredBytes {
				return events, nil
			}
			events = append(events, page.Events[i])
		}
		read.After = page.Through
	}
	return events, nil
}
