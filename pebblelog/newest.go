package pebblelog

import (
	"cmp"
	"context"
	"slices"

	"github.com/fanfare-hub/fanfare"
)

// readNewest reads the newest events of channels above a position.
func (rd *readers) readNewest(
	ctx context.Context, q fanfare.Query, channels []fanfare.Channel,
) (page fanfare.Page, err error) {
	v, err := rd.newView(q.Through)
	if err != nil {
		return page, err
	}
	defer v.close()
	page.Trimmed = rd.floors(q.Patterns)
	var found []newestEvent
	for _, c := range channels {
		e, err := v.newest(c, q)
		if err != nil {
			return page, err
		}
		switch {
		case e.pos == 0: // the channel has no visible event after q.After
			page.Trimmed = max(page.Trimmed, e.mark)
		case e.ms >= sinceOf(q.Since):
			found = append(found, newestEvent{e.pos, e.expires, c})
			page.Replaced += e.replaced
		}
	}
	slices.SortFunc(found, func(a, b newestEvent) int { return cmp.Compare(a.pos, b.pos) })
	bytes := 0
	for i, f := range found {
		if i%256 == 0 && ctx.Err() != nil {
			return page, ctx.Err()
		}
		if len(page.Events) >= q.Limit || bytes >= q.Bytes {
			return page, nil
		}
		page.Through = f.pos
		if !v.events.SeekGE(keyOf(keyEvent, uint64(f.pos))) || lastNumber(v.events.Key()) != uint64(f.pos) {
			if err := v.events.Error(); err != nil {
				return page, err
			}
			if f.expires == 0 {
				page.Trimmed = max(page.Trimmed, f.pos) // the event was deleted after the index was read
			}
			continue
		}
		rd.log.stats.eventsRead.Add(1)
		e, err := readEvent(f.pos, f.channel, v.events.Value())
		if err != nil {
			return page, err
		}
		page.Events = append(page.Events, e)
		bytes += len(e.Data)
	}
	page.Through = q.Through
	return page, nil
}

// newestEvent is the place of a channel's newest event.
type newestEvent struct {
	pos     fanfare.Position
	expires int64
	channel fanfare.Channel
}

// lastEntry is a channel's newest visible event, or none.
type lastEntry struct {
	entry
	mark     fanfare.Position // the channel's trim mark
	replaced uint64           // events before it, and after the query's position
}

// newest finds a channel's newest visible event in a query's range.
func (v *view) newest(c fanfare.Channel, q fanfare.Query) (last lastEntry, err error) {
	st, err := v.channel(c)
	if err != nil {
		return last, err
	}
	if st == nil {
		return lastEntry{mark: v.floorOf(c)}, nil
	}
	if last.mark, err = v.trimMark(st); err != nil {
		return last, err
	}
	num := st.num.Load()
	e, ok, err := v.entryUpTo(num, q.Through)
	if err == nil && ok {
		e, ok, err = v.living(num, e)
	}
	if err != nil || !ok || e.pos <= last.mark || e.pos <= q.After {
		return last, err
	}
	last.entry = e
	before, ok, err := v.entryUpTo(num, q.After)
	if err == nil && ok {
		last.replaced = e.seq - before.seq - 1
	} else if err == nil {
		st.mu.Lock()
		last.replaced = e.seq - min(st.mark.seq, e.seq-1) - 1
		st.mu.Unlock()
	}
	return last, err
}
