package pebblelog

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// ScheduledAt implements fanfare.Scheduler.
func (l *Log) ScheduledAt(
	ctx context.Context, id fanfare.ScheduledID,
) (e fanfare.ScheduledEvent, ok bool, err error) {
	if uint64(id) > l.ids.Load() {
		return e, false, nil // there is none, or one that a crash can take back
	}
	err = l.read(ctx, func(s *session) error {
		found, err := s.catalog.loadScheduled(id)
		if isNotFound(err) {
			found, err = s.catalog.parting.find(id), nil
		}
		if ok = err == nil && found != nil; ok {
			e = found.public(id)
		}
		return err
	})
	return e, ok, err
}

// Scheduled implements fanfare.Scheduler.
func (l *Log) Scheduled(ctx context.Context, q fanfare.ScheduledQuery) (page fanfare.ScheduledPage, err error) {
	setDefault(&q.Limit, defaultReadLimit)
	setDefault(&q.Bytes, defaultReadBytes)
	highest := l.ids.Load()
	err = l.read(ctx, func(s *session) error {
		page, err = s.readers.scheduled(ctx, q, highest)
		return err
	})
	return page, err
}

// scheduled looks at a piece of the scheduled events, by time.
func (rd *readers) scheduled(
	ctx context.Context, q fanfare.ScheduledQuery, highest uint64,
) (page fanfare.ScheduledPage, err error) {
	if q.ByChannel {
		return rd.scheduledIn(ctx, q, highest)
	}
	from := place{at: rd.log.current().committer.applier.firstWaits.Load()}
	if q.After.ID != 0 {
		from = place{max(q.After.At.UnixMilli(), 0), uint64(q.After.ID) + 1}
	}
	it, err := rd.db.NewIter(between(from.key(), []byte{keyDue + 1}))
	if err != nil {
		return page, err
	}
	defer it.Close()
	looked, bytes := 0, 0
	for ok := it.First(); ok; ok = it.Next() {
		at, err := readPlace(it.Key())
		if err != nil {
			return page, err
		}
		id := fanfare.ScheduledID(at.id)
		if looked++; looked > rd.pieces.events || len(page.Events) == q.Limit || bytes >= q.Bytes {
			page.More = true
			return page, nil
		}
		if looked%256 == 0 && ctx.Err() != nil {
			return page, ctx.Err()
		}
		page.Next = fanfare.ScheduledCursor{At: time.UnixMilli(at.at).UTC(), ID: id}
		if uint64(id) > highest {
			continue
		}
		read, err := rd.addScheduled(&page, q, id)
		if err != nil {
			return page, err
		}
		bytes += read
	}
	return page, it.Error()
}

// scheduledIn looks at the scheduled events of a channel, or of a pattern's channels, by their
// names.
func (rd *readers) scheduledIn(
	ctx context.Context, q fanfare.ScheduledQuery, highest uint64,
) (page fanfare.ScheduledPage, err error) {
	bytes := 0
	for _, p := range q.Patterns {
		lower := textKey(keyWaitsIn, p.LiteralPrefix())
		it, err := rd.db.NewIter(between(lower, append(slices.Clone(lower), 0xff)))
		if err != nil {
			return page, err
		}
		ok := it.First()
		if c, err := fanfare.ParseChannel(p.String()); err == nil && q.After.ID != 0 {
			ok = it.SeekGE(waitsIn(c, uint64(q.After.ID)+1))
		}
		for err == nil && ok {
			if len(page.Events) >= q.Limit || bytes >= q.Bytes {
				page.More = true
				break
			}
			name := string(it.Key()[1 : len(it.Key())-9])
			if c, _ := fanfare.ParseChannel(name); !p.Match(c) {
				to := leap(p.String(), name)
				if ok = to != ""; ok {
					ok = it.SeekGE(textKey(keyWaitsIn, to))
				}
				continue
			}
			page.Next.ID = fanfare.ScheduledID(lastNumber(it.Key()))
			if read := 0; uint64(page.Next.ID) <= highest {
				read, err = rd.addScheduled(&page, q, page.Next.ID)
				bytes += read
			}
			ok = it.Next()
		}
		if err = errors.Join(err, it.Error(), it.Close(), ctx.Err()); err != nil || page.More {
			return page, err
		}
	}
	return page, nil
}

// addScheduled adds an event to a page, if it is there and the patterns match it. It returns the
// bytes of data that it has read, matched or not.
func (rd *readers) addScheduled(
	page *fanfare.ScheduledPage, q fanfare.ScheduledQuery, id fanfare.ScheduledID,
) (read int, err error) {
	s, err := rd.loadScheduled(id)
	if isNotFound(err) {
		return 0, nil // published or canceled meanwhile
	}
	if err != nil {
		return 0, err
	}
	if matchesAny(q.Patterns, s.event.Channel) {
		page.Events = append(page.Events, s.public(id))
	}
	return len(s.event.Data), nil
}

// Cancel implements fanfare.Scheduler.
func (l *Log) Cancel(ctx context.Context, id fanfare.ScheduledID) (bool, error) {
	found, done := false, make(chan error, 1)
	l.order.propose(&request{batch: &fanfare.Batch{}, command: cancelScheduled{id, &found}, bytes: 64,
		done: func(_ fanfare.Receipt, err error) { done <- err }})
	select {
	case err := <-done:
		return found && err == nil, err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}
