package pebblelog

import (
	"context"
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
			return nil
		}
		if ok = err == nil; ok {
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
		s, err := rd.loadScheduled(id)
		if isNotFound(err) {
			continue // published or canceled meanwhile
		}
		if err != nil {
			return page, err
		}
		if matchesAny(q.Patterns, s.event.Channel) {
			page.Events = append(page.Events, s.public(id))
			bytes += len(s.event.Data)
		}
	}
	return page, it.Error()
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
